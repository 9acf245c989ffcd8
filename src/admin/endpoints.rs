//! Endpoints that come and go while the gateway runs: registered with a lease or for good, drained, deregistered.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, Denial};
use super::api::{Api, Asked, Mode, Nothing, check_tag, parse};
use super::registrations::KeptEndpoint;
use crate::config;
use crate::upstream::{self, Change, Member, Pool, Registered, Source, id_of, now_ms};

/// A pool with more is a loop that registers.
const ENDPOINTS_MAX: usize = 1000;
/// Who lives longer than that without a word registers for good.
const LEASE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long sessions may stay where nothing else is said.
const DRAIN_DEADLINE: &str = "5m";
const NAME_CHARS_MAX: usize = 64;

/// An endpoint as it is registered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointBody {
    url: String,
    weight: Option<u32>,
    /// A duration, or `permanent`.
    lease: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    deadline: Option<String>,
}

/// A server's name and the name of one of its endpoints.
type Named<'n> = (&'n str, &'n str);

impl Api {
    /// Registers an endpoint, or renews its lease.
    pub(super) fn put_endpoint(
        &self,
        asked: &Asked,
        (server, name): (&String, &String),
        body: &[u8],
    ) -> Result<Answer, Denial> {
        check_name(name)?;
        self.pool(server)?;
        let EndpointBody { url, weight, lease } = parse(body)?;
        let endpoint =
            config::endpoint(&url, weight.unwrap_or(1)).map_err(Denial::unprocessable)?;
        let source = source(&lease)?;
        let _turn = self.turn()?;
        let pool = self.pool(server)?;
        check_tag(asked, self.tag(server))?;
        let before = own_member(&pool, name, Some(id_of(&endpoint.url)))?;
        if before.is_none() && pool.members().list().len() >= ENDPOINTS_MAX {
            return Err(Denial::conflict(format!("there are {ENDPOINTS_MAX} endpoints already")));
        }
        let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        if asked.mode == Mode::Real {
            let kept = KeptEndpoint { url: endpoint.url.clone(), weight: endpoint.weight };
            let kept = (source == Source::Permanent).then_some(kept);
            let kept_before = self.reload().registrations().endpoint(server, name);
            self.keep((server, name), kept)?;
            let registered = Registered { name: name.clone(), endpoint, source };
            match self.reload().shared().fleet().register(server, registered, now_ms()) {
                Change::Made | Change::Kept => {}
                Change::Foreign | Change::Unknown => {
                    // A discovery was faster.
                    self.keep((server, name), kept_before)?;
                    return Err(foreign());
                }
            }
            // A name is looked up in the background, with the next ticks; nobody is sent there before.
            let after = member(&pool, name);
            let (before, after) = (described(before.as_ref()), described(after.as_ref()));
            // A heartbeat that changes nothing but the time is no change.
            if before != after {
                self.note(asked, "register", &format!("{server}/{name}"), &before, &after);
            }
        }
        Ok(self.done(asked, server, status, self.shown(&pool, name)))
    }

    /// Takes a registered endpoint out of its pool.
    pub(super) fn delete_endpoint(
        &self,
        asked: &Asked,
        (server, name): (&String, &String),
    ) -> Result<Answer, Denial> {
        let _turn = self.turn()?;
        let pool = self.pool(server)?;
        check_tag(asked, self.tag(server))?;
        let before = own_member(&pool, name, None)?;
        // One that the configuration names by now is hidden behind that, and still registered.
        let is_kept = self.reload().registrations().endpoint(server, name).is_some();
        if before.is_none() && !is_kept {
            return Err(unknown());
        }
        if asked.mode == Mode::Real {
            self.keep((server, name), None)?;
            self.reload().shared().fleet().deregister(server, name, now_ms());
            let of = format!("{server}/{name}");
            self.note(asked, "deregister", &of, &described(before.as_ref()), "");
        }
        Ok(self.done(asked, server, StatusCode::OK, json!({})))
    }

    /// Lets an endpoint take no new sessions; those it has move at the deadline.
    pub(super) fn drain(
        &self,
        asked: &Asked,
        (server, name): (&String, &String),
        body: &[u8],
    ) -> Result<Answer, Denial> {
        let DrainBody { deadline } = parse(body)?;
        let deadline = deadline.as_deref().unwrap_or(DRAIN_DEADLINE);
        let time = config::duration(deadline).map_err(Denial::unprocessable)?;
        let after = format!("draining for {deadline}");
        self.change_standing(asked, (server, name), ("drain", &after), |fleet| {
            fleet.drain(server, name, now_ms().saturating_add(ms(time)))
        })
    }

    /// Lets a drained endpoint take new sessions again.
    pub(super) fn undrain(
        &self,
        asked: &Asked,
        (server, name): (&String, &String),
        body: &[u8],
    ) -> Result<Answer, Denial> {
        parse::<Nothing>(body)?;
        self.change_standing(asked, (server, name), ("undrain", "not draining"), |fleet| {
            fleet.undrain(server, name, now_ms())
        })
    }

    fn change_standing(
        &self,
        asked: &Asked,
        (server, name): Named<'_>,
        (what, after): (&str, &str),
        change: impl FnOnce(&upstream::Fleet) -> Change,
    ) -> Result<Answer, Denial> {
        let _turn = self.turn()?;
        let pool = self.pool(server)?;
        let before = member(&pool, name).ok_or_else(unknown)?;
        check_tag(asked, self.tag(server))?;
        if asked.mode == Mode::Real {
            let before = pool.state(&before.endpoint, now_ms()).as_str();
            match change(self.reload().shared().fleet()) {
                Change::Made | Change::Kept => {}
                Change::Foreign | Change::Unknown => return Err(unknown()),
            }
            self.note(asked, what, &format!("{server}/{name}"), before, after);
        }
        Ok(self.done(asked, server, StatusCode::OK, self.shown(&pool, name)))
    }

    fn keep(&self, (server, name): Named<'_>, kept: Option<KeptEndpoint>) -> Result<(), Denial> {
        let kept = self.reload().registrations().keep(server, name, kept);
        kept.map_err(|error| Denial::internal(&error))
    }

    fn shown(&self, pool: &Pool, name: &str) -> Value {
        let (mut server, _) = self.view(pool);
        let endpoints = server["endpoints"].as_array_mut();
        let found = endpoints.and_then(|all| all.iter_mut().find(|one| one["id"] == name));
        found.map_or(Value::Null, Value::take)
    }
}

fn member(pool: &Pool, name: &str) -> Option<Member> {
    pool.members().list().iter().find(|member| member.name == name).cloned()
}

/// The registered member of this name, if there is one; none but it may have the name or the URL.
fn own_member(pool: &Pool, name: &str, url: Option<u64>) -> Result<Option<Member>, Denial> {
    let is_own = |member: &Member| {
        member.name == name && matches!(member.source, Source::Leased { .. } | Source::Permanent)
    };
    let members = pool.members();
    let clashes = |member: &&Member| {
        !is_own(member) && (member.name == name || Some(member.endpoint.id()) == url)
    };
    if members.list().iter().any(|member| clashes(&member)) {
        return Err(foreign());
    }
    Ok(members.list().iter().find(|member| is_own(member)).cloned())
}

fn described(member: Option<&Member>) -> String {
    let Some(Member { name: _, endpoint, source }) = member else { return String::new() };
    let source = match source {
        Source::Leased { .. } => "leased",
        Source::Permanent => "permanent",
        other => other.as_str(),
    };
    format!("{} weight {} {source}", endpoint.url(), endpoint.weight())
}

fn source(lease: &str) -> Result<Source, Denial> {
    if lease == "permanent" {
        return Ok(Source::Permanent);
    }
    let lease = config::duration(lease).map_err(Denial::unprocessable)?;
    if lease < Duration::from_secs(1) || lease > LEASE_MAX {
        return Err(Denial::unprocessable("a lease is 1s to 24h, or permanent"));
    }
    Ok(Source::Leased { until_ms: now_ms().saturating_add(ms(lease)) })
}

fn check_name(name: &str) -> Result<(), Denial> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_good = (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !matches!(name, "." | "..");
    match is_good {
        true => Ok(()),
        false => Err(Denial::bad_request(
            "an endpoint's name is 1 to 64 letters, digits, `.`, `_` and `-`",
        )),
    }
}

fn foreign() -> Denial {
    Denial::conflict("the configuration, a discovery or another registration has this endpoint")
}

fn unknown() -> Denial {
    Denial::not_found("there is no endpoint of this name")
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Source, check_name, source};

    #[test]
    fn names_and_leases_have_bounds() {
        let long = "n".repeat(65);
        for (name, expected) in [
            ("a", true),
            ("A-1_b.c", true),
            (&long[1..], true),
            ("", false),
            (&long, false),
            ("..", false),
            ("a b", false),
            ("a%2f", false),
            ("ä", false),
        ] {
            assert_eq!(check_name(name).is_ok(), expected, "{name}");
        }
        for (lease, expected) in [
            ("30s", true),
            ("24h", true),
            ("permanent", true),
            ("999ms", false),
            ("25h", false),
            ("0s", false),
            ("forever", false),
            ("", false),
        ] {
            assert_eq!(source(lease).is_ok(), expected, "{lease}");
        }
        assert!(matches!(source("permanent"), Ok(Source::Permanent)));
    }
}
