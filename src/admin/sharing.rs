//! What operators change at one replica takes effect at all of them: registrations, drains, trusted
//! definitions and revoked keys.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::api::Api;
use super::registrations::{KeptEndpoint, Servers};
use super::revocations;
use crate::catalog::Pins;
use crate::config;
use crate::identity::KeyState;
use crate::shared::{Away, Board, Fields, Steps, Store, Topic, slim};
use crate::upstream::{Change, Fleet, Registered, Source, id_of, now_ms};

/// How soon a change here is on its way to the others.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How soon what could not be taken over is tried again: its server may have come meanwhile.
const TRY_AGAIN_LOOKS: u32 = 40;

/// The clock of the store, as far as this replica knows it: microseconds ahead of its own.
#[derive(Clone, Copy, Debug, Default)]
struct StoreClock {
    ahead_us: i128,
}

impl StoreClock {
    fn read(now_us: u64) -> Self {
        Self { ahead_us: i128::from(now_us) - i128::from(now_ms()) * 1000 }
    }

    fn there(self, ms: u64) -> u64 {
        u64::try_from(i128::from(ms) * 1000 + self.ahead_us).unwrap_or(0)
    }

    fn here(self, us: u64) -> u64 {
        u64::try_from((i128::from(us) - self.ahead_us) / 1000).unwrap_or(0)
    }
}

/// What is shared, and how far.
struct Sharing {
    boards: [Board; 4],
    clock: StoreClock,
    /// The version of the pins that are as the store has them: there may be many.
    pins_at: Option<u64>,
    looks: u32,
}

impl Api {
    /// Keeps in step with the other replicas, for as long as the process lives.
    pub(super) async fn share(self: Arc<Self>) {
        let store = Arc::clone(self.reload().shared().store());
        if !store.is_configured() {
            return std::future::pending().await;
        }
        let topics = [Topic::Registrations, Topic::Drains, Topic::Pins, Topic::Revocations];
        let boards = topics.map(Board::new);
        let mut sharing = Sharing { boards, clock: StoreClock::default(), pins_at: None, looks: 0 };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Whatever changes while a successor takes over would be lost.
            if store.is_up() && !self.reload().bequest().is_under_way() {
                // What failed is done the next time.
                sharing.look(&self, &store).await.ok();
            }
        }
    }
}

impl Sharing {
    async fn look(&mut self, api: &Arc<Api>, store: &Store) -> Result<(), Away> {
        self.looks = self.looks.wrapping_add(1);
        for board in &mut self.boards {
            let topic = board.topic();
            if self.looks.is_multiple_of(TRY_AGAIN_LOOKS) {
                board.retry();
                self.pins_at = None;
            }
            let pins_at = (topic == Topic::Pins).then(|| pins(api).version());
            if let Some(now_us) = board.read(store, is_kept).await? {
                self.clock = StoreClock::read(now_us);
                self.pins_at = None;
            }
            if pins_at.is_some() && pins_at == self.pins_at {
                continue;
            }
            let clock = self.clock;
            let local = blocking(api, move |api| local(api, topic, clock)).await;
            let Some(local) = local else { continue };
            let Steps { put, take } = board.compare(&local, clock.there(now_ms()));
            for (field, value) in put {
                let whole = whole(api, topic, &field, &value);
                board.write(store, (field, value, &whole)).await?;
            }
            let mut wanted = Fields::new();
            for (field, value) in take {
                // What was left out when the board was read is wanted now.
                let read = match topic {
                    Topic::Pins if !value.is_null() => board.whole(store, &field).await?,
                    _ => Some(value),
                };
                wanted.extend(read.map(|value| (field, value)));
            }
            self.pins_at = pins_at.or(self.pins_at);
            if wanted.is_empty() {
                continue;
            }
            let took = blocking(api, move |api| take_over(api, topic, clock, wanted)).await;
            for Took { field, value, is_refused } in took.unwrap_or_default() {
                match is_refused {
                    false => board.taken(field, value),
                    true => board.refuse(field, value),
                }
            }
        }
        Ok(())
    }
}

fn pins(api: &Api) -> &Pins {
    api.reload().shared().lasting().catalog.pins()
}

/// Files are written and names looked up, which must not keep others from being heard.
async fn blocking<T: Send + 'static>(
    api: &Arc<Api>,
    work: impl FnOnce(&Api) -> T + Send + 'static,
) -> Option<T> {
    let api = Arc::clone(api);
    tokio::task::spawn_blocking(move || work(&api)).await.ok()
}

/// The texts of definitions are read when they are needed.
fn is_kept(member: &str) -> bool {
    member != "text"
}

/// What this replica has of a topic.
fn local(api: &Api, topic: Topic, clock: StoreClock) -> Fields {
    let shared = api.reload().shared();
    match topic {
        Topic::Registrations => registrations(api, clock),
        Topic::Drains => drains(shared.fleet(), clock),
        Topic::Pins => {
            let trusted = pins(api).trusted();
            let pin =
                |(server, tool, digest)| (format!("{server}/{tool}"), json!({ "digest": digest }));
            trusted.into_iter().map(pin).collect()
        }
        Topic::Revocations => {
            let revoked = shared.lasting().authorities.revoked().all();
            revoked.iter().map(|digest| (revocations::text(digest), json!({}))).collect()
        }
        Topic::Sessions => Fields::new(),
    }
}

/// A value as it is written, with what is not compared.
fn whole(api: &Api, topic: Topic, field: &str, value: &Value) -> Value {
    let mut whole = value.clone();
    let pin = field.split_once('/').filter(|_| topic == Topic::Pins && !value.is_null());
    if let Some((server, tool)) = pin {
        let pins = pins(api).of(server);
        let text = pins.find(tool).and_then(|pin| pin.text());
        whole["text"] = json!(text);
    }
    whole
}

fn registrations(api: &Api, clock: StoreClock) -> Fields {
    let registrations = api.reload().registrations();
    let mut fields = Fields::new();
    for (name, server, routes) in registrations.servers().each() {
        fields.insert(format!("servers/{name}"), json!({ "server": server, "routes": routes }));
    }
    for (server, name, KeptEndpoint { url, weight }) in registrations.endpoints() {
        let value = json!({ "url": url, "weight": weight });
        fields.insert(format!("endpoints/{server}/{name}"), value);
    }
    for (server, Registered { name, endpoint, source }) in api.reload().shared().fleet().leased() {
        let Source::Leased { until_ms } = source else { continue };
        let until_us = clock.there(until_ms);
        let value = json!({ "url": endpoint.url, "weight": endpoint.weight, "until_us": until_us });
        fields.insert(format!("endpoints/{server}/{name}"), value);
    }
    fields
}

fn drains(fleet: &Fleet, clock: StoreClock) -> Fields {
    let mut fields = Fields::new();
    for pool in fleet.pools().iter() {
        for endpoint in pool.members().endpoints() {
            let Some(deadline_ms) = endpoint.standing().drain_deadline_ms() else { continue };
            let field = format!("{}/{:016x}", pool.name(), endpoint.id());
            let deadline_us = clock.there(deadline_ms);
            fields.insert(field, json!({ "url": endpoint.url(), "deadline_us": deadline_us }));
        }
    }
    fields
}

/// What became of a change of another replica.
struct Took {
    field: String,
    value: Value,
    is_refused: bool,
}

/// Takes over what another replica has changed.
fn take_over(api: &Api, topic: Topic, clock: StoreClock, wanted: Fields) -> Vec<Took> {
    let mut took = Vec::new();
    // Servers first: endpoints are theirs.
    let (servers, others): (Fields, Fields) = wanted
        .into_iter()
        .partition(|(field, _)| topic == Topic::Registrations && field.starts_with("servers/"));
    if !servers.is_empty() {
        let is_refused = !take_servers(api, &servers);
        let each = servers.into_iter().map(|(field, value)| Took { field, value, is_refused });
        took.extend(each);
    }
    for (field, value) in others {
        let taken = match topic {
            Topic::Registrations => take_endpoint(api, clock, &field, &value),
            Topic::Drains => take_drain(api, clock, &field, &value),
            Topic::Pins => take_pin(api, &field, &value),
            Topic::Revocations => take_revocation(api, &field, &value),
            Topic::Sessions => None,
        };
        let is_refused = taken.is_none();
        if is_refused {
            tracing::warn!(
                topic = topic.field(),
                field,
                "a change of another replica does not fit here"
            );
        } else {
            let is_removed = value.is_null();
            tracing::info!(topic = topic.field(), field, is_removed, "changed by another replica");
        }
        let value = slim(value, is_kept);
        took.push(Took { field, value, is_refused });
    }
    took
}

fn take_servers(api: &Api, changed: &Fields) -> bool {
    let mut turn = api.reload().turn();
    let before = api.reload().registrations().servers();
    let names = || {
        changed.iter().filter_map(|(field, value)| Some((field.strip_prefix("servers/")?, value)))
    };
    let servers = names().fold(before, |servers: Servers, (name, value)| match value {
        Value::Null => servers.without(name),
        value => {
            let routes = value["routes"].as_array().cloned().unwrap_or_default();
            servers.with(name, value["server"].clone(), routes)
        }
    });
    if let Err(fault) = api.reload().register(&mut turn, servers) {
        tracing::warn!(%fault, "servers that another replica registered are refused here");
        return false;
    }
    for (name, _) in names().filter(|(_, value)| value.is_null()) {
        if let Err(error) = api.reload().registrations().forget_server(name) {
            tracing::warn!(%error, server = name, "the endpoints of a server that is gone stay");
        }
    }
    true
}

fn take_endpoint(api: &Api, clock: StoreClock, field: &str, value: &Value) -> Option<()> {
    let (server, name) = field.strip_prefix("endpoints/")?.split_once('/')?;
    let _turn = api.reload().turn();
    let (registrations, fleet) = (api.reload().registrations(), api.reload().shared().fleet());
    let keep = |kept| registrations.keep(server, name, kept).ok();
    if value.is_null() {
        keep(None)?;
        return match fleet.deregister(server, name, now_ms()) {
            Change::Made | Change::Kept | Change::Unknown => Some(()),
            Change::Foreign => None,
        };
    }
    let weight = u32::try_from(value["weight"].as_u64()?).ok()?;
    let endpoint = config::endpoint(value["url"].as_str()?, weight).ok()?;
    let kept = KeptEndpoint { url: endpoint.url.clone(), weight };
    let source = match value.get("until_us") {
        Some(until) => Source::Leased { until_ms: clock.here(until.as_u64()?) },
        None => Source::Permanent,
    };
    let is_permanent = source == Source::Permanent;
    let registered = Registered { name: name.to_owned(), endpoint, source };
    match fleet.register(server, registered, now_ms()) {
        Change::Made | Change::Kept => keep(is_permanent.then_some(kept)),
        Change::Foreign | Change::Unknown => None,
    }
}

fn take_drain(api: &Api, clock: StoreClock, field: &str, value: &Value) -> Option<()> {
    let (server, id) = field.split_once('/')?;
    let _turn = api.reload().turn();
    let fleet = api.reload().shared().fleet();
    let id = match value["url"].as_str() {
        Some(url) => id_of(url),
        None => u64::from_str_radix(id, 16).ok()?,
    };
    let members = fleet.pool(server)?.members();
    let member = members.list().iter().find(|member| member.endpoint.id() == id)?;
    let change = match value.is_null() {
        true => fleet.undrain(server, &member.name, now_ms()),
        false => {
            let deadline_ms = clock.here(value["deadline_us"].as_u64()?);
            fleet.drain(server, &member.name, deadline_ms)
        }
    };
    matches!(change, Change::Made | Change::Kept).then_some(())
}

fn take_pin(api: &Api, field: &str, value: &Value) -> Option<()> {
    let (server, tool) = field.split_once('/')?;
    let digest = serde_json::from_value(value.get("digest")?.clone()).ok()?;
    let text = value.get("text").and_then(Value::as_str).map(Box::from);
    api.reload().shared().lasting().catalog.adopt(server, tool, digest, text);
    Some(())
}

fn take_revocation(api: &Api, field: &str, value: &Value) -> Option<()> {
    let digest = config::sha256(field).ok()?;
    let state = if value.is_null() { KeyState::Valid } else { KeyState::Revoked };
    let reload = api.reload();
    reload.set_key(&mut reload.turn(), digest, state).ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::StoreClock;
    use crate::upstream::now_ms;

    #[test]
    fn clocks_may_be_minutes_apart() {
        for store_us in [0, 1, 1_800_000_000_000_000] {
            let clock = StoreClock::read(store_us);
            let now = now_ms();
            let there = clock.there(now + 60_000);
            assert!(there.abs_diff(store_us + 60_000_000) < 5_000_000, "{store_us}: {there}");
            assert!(clock.here(there).abs_diff(now + 60_000) <= 1, "{store_us}");
        }
    }
}
