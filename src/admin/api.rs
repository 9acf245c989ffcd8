//! The admin API: what each path and method asks for, in which order it is checked, and who did it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::answer::{Answer, Denial};
use super::offers::{Detail, Known};
use super::reload::{Reload, Reloaded, Trigger, Turn};
use super::sightings::Sightings;
use super::tokens::{self, Needs};
use super::view;
use crate::audit::{Event, Record};
use crate::catalog::Kind;
use crate::catalog::Offer;
use crate::config::{Role, Settings};
use crate::identity::KeyState;
use crate::policy::Inquiry;
use crate::upstream::Pool;

/// What operators see and change.
pub struct Api {
    reload: Arc<Reload>,
    sightings: Sightings,
}

/// A request whose sender may make it; its body is not read yet.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) resource: Resource,
    pub(super) mode: Mode,
    pub(super) role: Role,
    /// The address of whoever asks.
    pub(super) from: String,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// How the gateway is doing at this moment.
    Live,
    /// What is configured.
    Config,
    Routes,
    /// The services of Kubernetes that want to be servers.
    Services,
    Servers,
    Server(String),
    Endpoint(String, String),
    Drain(String, String),
    Undrain(String, String),
    /// The definition of a tool that waits.
    Approve(String, String),
    /// All of a server's that wait.
    ApproveAll(String),
    Explain,
    Reload,
    Revocations,
    /// The digest of a key.
    Revocation(String),
}

/// Whether a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Real,
    /// Everything is checked and nothing is changed.
    DryRun,
}

/// A body in which there is nothing to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

impl Resource {
    fn read(path: &str) -> Option<Self> {
        let own = str::to_owned;
        match path.strip_prefix("/v1/")?.split('/').collect::<Vec<_>>()[..] {
            ["live"] => Some(Self::Live),
            ["config"] => Some(Self::Config),
            ["explain"] => Some(Self::Explain),
            ["reload"] => Some(Self::Reload),
            ["revocations"] => Some(Self::Revocations),
            ["revocations", digest] => Some(Self::Revocation(own(digest))),
            ["routes"] => Some(Self::Routes),
            ["services"] => Some(Self::Services),
            ["servers"] => Some(Self::Servers),
            ["servers", name] => Some(Self::Server(own(name))),
            ["servers", name, "endpoints", id] => Some(Self::Endpoint(own(name), own(id))),
            ["servers", name, "endpoints", id, "drain"] => Some(Self::Drain(own(name), own(id))),
            ["servers", name, "endpoints", id, "undrain"] => {
                Some(Self::Undrain(own(name), own(id)))
            }
            ["servers", name, "definitions", "approve"] => Some(Self::ApproveAll(own(name))),
            ["servers", name, "definitions", tool, "approve"] => {
                Some(Self::Approve(own(name), decoded(tool)?))
            }
            _ => None,
        }
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Live | Self::Config => "GET",
            Self::Routes | Self::Servers | Self::Services | Self::Revocations => "GET",
            Self::Revocation(_) => "PUT, DELETE",
            Self::Server(_) => "GET, PUT, DELETE",
            Self::Endpoint(..) => "PUT, DELETE",
            Self::Drain(..) | Self::Undrain(..) | Self::Explain | Self::Reload => "POST",
            Self::Approve(..) | Self::ApproveAll(_) => "POST",
        }
    }

    fn needs(&self, method: &Method) -> Needs<'_> {
        match self {
            _ if method == Method::GET => Needs::Read,
            // It only asks, though its question has a body.
            Self::Explain => Needs::Read,
            Self::Endpoint(server, _) | Self::Drain(server, _) | Self::Undrain(server, _) => {
                Needs::Register(server)
            }
            Self::Live | Self::Config | Self::Routes | Self::Services => Needs::Operate,
            Self::Servers | Self::Server(_) | Self::Reload => Needs::Operate,
            Self::Revocations | Self::Revocation(_) => Needs::Operate,
            // Who registers a server must not say that its changes are good.
            Self::Approve(..) | Self::ApproveAll(_) => Needs::Operate,
        }
    }
}

impl Api {
    /// The API over this configuration.
    pub fn new(reload: Arc<Reload>) -> Self {
        Self { reload, sightings: Sightings::default() }
    }

    /// Reads everything of a request but its body, and whether its sender may make it.
    pub(super) fn admit(
        &self,
        method: &Method,
        (path, query): (&str, Option<&str>),
        headers: &HeaderMap,
        from: String,
    ) -> Result<Asked, Denial> {
        let settings = self.reload.settings();
        let known = settings.admin.as_ref().map(|admin| &*admin.tokens).unwrap_or_default();
        let role = tokens::role_of(headers, known)?;
        let resource =
            Resource::read(path).ok_or_else(|| Denial::not_found("nothing of this path"))?;
        let allow = resource.allow();
        if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
            return Err(Denial::method_not_allowed(allow));
        }
        tokens::permit(&role, resource.needs(method))?;
        let mode = match query {
            None | Some("" | "dry_run=false") => Mode::Real,
            Some("dry_run=true") if method != Method::GET => Mode::DryRun,
            Some(_) => return Err(Denial::bad_request("the only query is ?dry_run=true")),
        };
        let if_match = one(headers, IF_MATCH)?;
        let if_none_match = one(headers, IF_NONE_MATCH)?;
        let method = method.clone();
        Ok(Asked { method, resource, mode, role, from, if_match, if_none_match })
    }

    /// Does what is asked. Blocks.
    pub(super) fn carry_out(&self, asked: &Asked, body: &[u8]) -> Result<Answer, Denial> {
        if matches!(asked.method, Method::GET | Method::DELETE) && !body.is_empty() {
            return Err(Denial::bad_request("this request has no body"));
        }
        match &asked.resource {
            Resource::Live => Ok(self.live(&asked.role)),
            Resource::Config => Ok(self.config()),
            Resource::Routes => {
                let snapshot = self.reload.shared().snapshot();
                let routes: Vec<Value> = snapshot.routes.all().map(view::route).collect();
                Ok(Answer::ok(json!({ "routes": routes })))
            }
            Resource::Services => {
                let services = self.reload.discovered().shown(&self.reload.settings());
                Ok(Answer::ok(json!({ "services": services })))
            }
            Resource::Servers => Ok(Answer::ok(json!({ "servers": self.list() }))),
            Resource::Approve(server, tool) => self.approve(asked, (server, tool), body),
            Resource::ApproveAll(server) => self.approve_all(asked, server, body),
            Resource::Server(name) => match asked.method {
                Method::PUT => self.put_server(asked, name, body),
                Method::DELETE => self.delete_server(asked, name),
                _ => self.show(asked, name),
            },
            Resource::Endpoint(server, id) => match asked.method {
                Method::PUT => self.put_endpoint(asked, (server, id), body),
                _ => self.delete_endpoint(asked, (server, id)),
            },
            Resource::Drain(server, id) => self.drain(asked, (server, id), body),
            Resource::Undrain(server, id) => self.undrain(asked, (server, id), body),
            Resource::Revocations => Ok(self.revocations()),
            Resource::Revocation(digest) => match asked.method {
                Method::PUT => self.revoke(asked, digest, KeyState::Revoked),
                _ => self.revoke(asked, digest, KeyState::Valid),
            },
            Resource::Explain => self.explain(body),
            Resource::Reload => self.reload_now(asked, body),
        }
    }

    /// Whether the configuration in force has tokens: without one there is no API.
    pub(super) fn asks_for_tokens(&self) -> bool {
        self.reload.settings().admin.as_ref().is_some_and(|admin| !admin.tokens.is_empty())
    }

    pub(super) fn reload(&self) -> &Arc<Reload> {
        &self.reload
    }

    /// Waits for the right to change something. What would be changed once a successor has been told
    /// would be lost.
    pub(super) fn turn(&self) -> Result<Turn<'_>, Denial> {
        let turn = self.reload.turn();
        match self.reload.bequest().is_under_way() {
            false => Ok(turn),
            true => Err(Denial::unavailable("a new process is taking over; ask again in a moment")),
        }
    }

    /// Notes how every server is now, so that it is known since when.
    pub(super) fn take_note(&self) {
        let pools = self.reload.shared().fleet().pools();
        pools.iter().for_each(|pool| drop(self.view(pool)));
        let fleet = self.reload.shared().fleet();
        self.sightings.retain(|name| fleet.pool(name).is_some());
    }

    fn list(&self) -> Vec<Value> {
        let pools = self.reload.shared().fleet().pools();
        let whole = |pool: &Arc<Pool>| {
            let mut server = self.view(pool).0;
            self.add_offer(pool, &mut server, Detail::Names);
            server
        };
        pools.iter().map(whole).collect()
    }

    /// A server with everything that it offers.
    pub(super) fn whole(&self, pool: &Pool) -> Value {
        let mut server = self.view(pool).0;
        self.add_offer(pool, &mut server, Detail::Everything);
        server
    }

    fn add_offer(&self, pool: &Pool, server: &mut Value, detail: Detail) {
        let catalog = &self.reload.shared().snapshot().catalog;
        let (offer, name) = (self.offer(pool), pool.name());
        let (pins, alikes) = (catalog.pins().of(name), catalog.alikes(name));
        let on_change = pool.settings().definitions.on_change;
        Known { offer: &offer, pins: &pins, alikes: &alikes, on_change }.add_to(server, detail);
    }

    fn show(&self, asked: &Asked, name: &str) -> Result<Answer, Denial> {
        let pool = self.pool(name)?;
        let (mut server, tag) = self.view(&pool);
        self.add_offer(&pool, &mut server, Detail::Everything);
        let known = asked.if_none_match.as_deref();
        if known.is_some_and(|known| names(known.replace("W/", "").as_str(), &tag)) {
            return Ok(Answer::new(StatusCode::NOT_MODIFIED, Value::Null).tagged(tag));
        }
        Ok(Answer::ok(server).tagged(tag))
    }

    fn reload_now(&self, asked: &Asked, body: &[u8]) -> Result<Answer, Denial> {
        parse::<Nothing>(body)?;
        let mut turn = self.turn()?;
        let before = tag_of(&self.reload.settings());
        check_tag(asked, Some(before.clone()))?;
        if asked.mode == Mode::DryRun {
            let changes = self.reload.differences(&mut turn)?;
            let answer =
                json!({ "changed": !changes.is_empty(), "changes": changes, "dry_run": true });
            return Ok(Answer::ok(answer).tagged(before));
        }
        let changes = match self.reload.reload_in(&mut turn, Trigger::Operator)? {
            Reloaded::Installed(changes) => changes,
            Reloaded::Unchanged => Vec::new(),
        };
        let after = tag_of(&self.reload.settings());
        self.note(asked, "reload", "configuration", &before, &after);
        let answer = json!({ "changed": before != after, "changes": changes });
        Ok(Answer::ok(answer).tagged(after))
    }

    /// The server of this name, which the configuration or a registration knows.
    pub(super) fn pool(&self, name: &str) -> Result<Arc<Pool>, Denial> {
        let pool = self.reload.shared().fleet().pool(name);
        pool.ok_or_else(|| Denial::not_found("there is no server of this name"))
    }

    /// A server as the API shows it, and its entity tag.
    pub(super) fn view(&self, pool: &Pool) -> (Value, String) {
        let settings = self.reload.settings();
        let origin = self.reload.origin(pool.name(), &settings);
        let offer = self.offer(pool);
        let (sightings, now) = (&self.sightings, SystemTime::now());
        view::server(pool, &settings, &offer, origin, sightings, now)
    }

    fn offer(&self, pool: &Pool) -> Arc<Offer> {
        let catalog = &self.reload.shared().snapshot().catalog;
        catalog.offer(pool.name()).unwrap_or_default()
    }

    /// Writes down a change: who, what, and from what to what.
    pub(super) fn note(&self, asked: &Asked, what: &str, of: &str, before: &str, after: &str) {
        let role = tokens::name(&asked.role);
        tracing::info!(role, from = asked.from, what, of, before, after, "admin");
        let Some(audit) = self.reload.shared().audit() else { return };
        let event = match what {
            "register" | "deregister" | "registered servers" => Event::Registration,
            "drain" | "undrain" => Event::Drain,
            _ => Event::AdminChange,
        };
        audit.event(&Record {
            client: address_of(&asked.from),
            subject: of,
            outcome: &format!("{what} by {role}: {before} -> {after}"),
            ..Record::new(event)
        });
    }

    /// Writes down that an endpoint left because nobody renewed its lease.
    pub(super) fn note_expired(&self, server: &str, endpoint: &str) {
        tracing::info!(server, endpoint, "the lease has ended");
        let Some(audit) = self.reload.shared().audit() else { return };
        audit.event(&Record {
            subject: &format!("{server}/{endpoint}"),
            outcome: "deregistered: its lease has ended",
            ..Record::new(Event::Registration)
        });
    }

    /// What the policy in force would say of a call, with what the servers declare of their tools.
    fn explain(&self, body: &[u8]) -> Result<Answer, Denial> {
        let inquiry: Inquiry = parse(body)?;
        let snapshot = self.reload.shared().snapshot();
        let declared = |server: &str, tool: &str| {
            let offer = snapshot.catalog.offer(server)?;
            Some(offer.find(Kind::Tools, tool)?.annotations.clone())
        };
        let settings = self.reload.settings();
        let answer = inquiry.answer(&snapshot.policy, &settings, &declared);
        answer.map(Answer::ok).map_err(Denial::bad_request)
    }

    /// The entity tag of a server, if it is there.
    pub(super) fn tag(&self, name: &str) -> Option<String> {
        let pool = self.pool(name).ok()?;
        Some(self.view(&pool).1)
    }

    /// The answer to a change that was made, or would have been.
    pub(super) fn done(
        &self,
        asked: &Asked,
        server: &str,
        status: StatusCode,
        body: Value,
    ) -> Answer {
        let body = match asked.mode {
            Mode::Real => body,
            Mode::DryRun => json!({ "dry_run": true }),
        };
        let answer = Answer::new(status, body);
        match self.tag(server) {
            Some(tag) => answer.tagged(tag),
            None => answer,
        }
    }
}

/// Refuses a change that was meant for another state.
pub(super) fn check_tag(asked: &Asked, tag: Option<String>) -> Result<(), Denial> {
    let Some(wanted) = &asked.if_match else { return Ok(()) };
    match tag.is_some_and(|tag| names(wanted, &tag)) {
        true => Ok(()),
        false => Err(Denial::new(StatusCode::PRECONDITION_FAILED, "it has changed meanwhile")),
    }
}

/// Reads a body; none says nothing.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Denial> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Denial::bad_request(format!("bad JSON: {error}")))
}

/// The entity tag of the configuration.
pub(super) fn tag_of(settings: &Settings) -> String {
    let digest = settings.sources.digest();
    let digits = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("\"{digits}\"")
}

/// The address of whoever asks, without the port.
fn address_of(from: &str) -> Option<IpAddr> {
    let socket = from.parse::<SocketAddr>().map(|socket| socket.ip());
    socket.or_else(|_| from.parse()).ok()
}

/// A part of a path in which any character may stand as %XX: tools may have any name.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn names(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one == tag)
}

fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<String>, Denial> {
    let mut fields = headers.get_all(&name).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(None),
        (Some(field), None) => {
            let text = field.to_str().map_err(|_| Denial::bad_request(format!("bad {name}")))?;
            Ok(Some(text.to_owned()))
        }
        (Some(_), Some(_)) => Err(Denial::bad_request(format!("{name} is given twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Resource, names};

    #[test]
    fn paths_name_resources_letter_by_letter() {
        let check = |path: &str, expected: Option<Resource>| {
            assert_eq!(Resource::read(path), expected, "{path}");
        };
        let (a, b) = (|| "a".to_owned(), || "b".to_owned());
        check("/v1/servers", Some(Resource::Servers));
        check("/v1/servers/a", Some(Resource::Server(a())));
        check("/v1/servers/a/endpoints/b", Some(Resource::Endpoint(a(), b())));
        check("/v1/servers/a/endpoints/b/drain", Some(Resource::Drain(a(), b())));
        check("/v1/servers/a/endpoints/b/undrain", Some(Resource::Undrain(a(), b())));
        check("/v1/servers/a/definitions/approve", Some(Resource::ApproveAll(a())));
        check("/v1/servers/a/definitions/b/approve", Some(Resource::Approve(a(), b())));
        let odd = Resource::Approve(a(), "x/é\0%".to_owned());
        check("/v1/servers/a/definitions/x%2F%c3%a9%00%25/approve", Some(odd));
        check("/v1/reload", Some(Resource::Reload));
        check("/v1/live", Some(Resource::Live));
        check("/v1/config", Some(Resource::Config));
        for path in
            ["/v1", "/v1/", "/v1/servers/a/endpoints", "/v1/reload/x", "/v2/servers", "/V1/servers"]
        {
            check(path, None);
        }
        for tool in ["%", "%2", "%+1", "%ff", "b/c"] {
            check(&format!("/v1/servers/a/definitions/{tool}/approve"), None);
        }
    }

    #[test]
    fn tags_are_named_in_lists() {
        for (list, expected) in [
            ("\"x\"", true),
            ("\"y\", \"x\"", true),
            ("*", true),
            ("\"y\"", false),
            ("x", false),
            ("W/\"x\"", false),
        ] {
            assert_eq!(names(list, "\"x\""), expected, "{list}");
        }
    }
}
