//! A server as the admin API shows it, and the tag of what somebody wants of it.

use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::difference::placeless;
use super::sightings::Sightings;
use crate::catalog::{Kind, Offer, State};
use crate::config::{Listing, OnEndpointLoss, Settings};
use crate::routes::Route;
use crate::telemetry::rfc3339;
use crate::upstream::{Member, Pool, Source, now_ms};

/// Who says that a server is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Configured,
    Registered,
    Discovered,
}

/// A server in JSON, and its entity tag: that of its members, weights, sources, drains and settings,
/// and of no counter, so that it changes only when somebody changes something.
pub(super) fn server(
    pool: &Pool,
    settings: &Settings,
    offer: &Offer,
    origin: Origin,
    sightings: &Sightings,
    now: SystemTime,
) -> (Value, String) {
    let members = pool.members();
    let now_ms = now_ms();
    let routes: Vec<&str> = settings
        .routes
        .iter()
        .filter(|route| {
            let of = |server: usize| settings.servers.get(server);
            route.servers().into_iter().filter_map(of).any(|server| server.name == pool.name())
        })
        .map(|route| route.path.as_str())
        .collect();
    let wanted: Vec<Value> = members.list().iter().map(wanted).collect();
    let of = placeless(pool.settings());
    let tag = digest(&SHA256, format!("{origin:?} {routes:?} {wanted:?} {of:?}").as_bytes());
    let tag = tag.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let tag = format!("\"{tag}\"");

    let states: Vec<_> = members
        .endpoints()
        .iter()
        .map(|endpoint| (endpoint.id(), pool.state(endpoint, now_ms)))
        .collect();
    let since = sightings.see(pool.name(), &tag, &states, now);
    let rows = members.list().iter().zip(&states).zip(&since.endpoints);
    let endpoints: Vec<Value> = rows
        .map(|((member, (_, state)), since)| {
            endpoint(member, state.as_str(), *since, &Clock { now, now_ms })
        })
        .collect();
    let sum = |key: &str| endpoints.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
    let server = json!({
        "name": pool.name(),
        "owner": of.owner,
        "description": of.description,
        "source": match origin {
            Origin::Configured => "configured",
            Origin::Registered => "registered",
            Origin::Discovered => "discovered",
        },
        "routes": routes,
        "on_endpoint_loss": match of.on_endpoint_loss {
            OnEndpointLoss::Move => "move",
            OnEndpointLoss::NotFound => "not_found",
        },
        "sessions": sum("sessions"),
        "in_flight": sum("in_flight"),
        "streams": sum("streams"),
        "last_change": rfc3339(since.changed),
        "endpoints": endpoints,
        "catalog": catalog(of.catalog.listing, offer),
    });
    (server, tag)
}

/// A route in JSON: its servers, and what is not shown as they would have it.
pub(super) fn route(route: &Route) -> Value {
    let Some(federation) = route.federation() else {
        let server = route.server(None).map_or("", |server| server.pool.name());
        return json!({ "path": route.path, "servers": [server] });
    };
    let names: Vec<&str> = federation.members().iter().map(|member| &*member.name).collect();
    let reports: Vec<Value> = federation
        .reports()
        .iter()
        .map(|report| {
            json!({
                "server": report.server,
                "kind": report.about.as_ref().map(|(kind, _)| kind.as_str()),
                "name": report.about.as_ref().map(|(_, name)| name),
                "trouble": report.trouble.as_str(),
                "hidden": report.trouble.hides(),
                "detail": report.to_string(),
            })
        })
        .collect();
    json!({ "path": route.path, "servers": names, "reports": reports })
}

/// What is known of what a server offers, in numbers.
fn catalog(listing: Listing, offer: &Offer) -> Value {
    let count = |kind| offer.list(kind).all().len();
    let (state, fault) = match &offer.state {
        State::Unknown if listing == Listing::Off => ("off", None),
        State::Unknown => ("unknown", None),
        State::Known => ("known", None),
        State::Stale(fault) => ("stale", Some(&**fault)),
    };
    json!({
        "state": state,
        "fault": fault,
        "listed": offer.listed_at.map(rfc3339),
        "last_change": offer.changed_at.map(rfc3339),
        "tools": count(Kind::Tools),
        "prompts": count(Kind::Prompts),
        "resources": count(Kind::Resources),
        "templates": count(Kind::Templates),
    })
}

/// Both clocks at one moment.
struct Clock {
    now: SystemTime,
    now_ms: u64,
}

impl Clock {
    /// The time of day of a moment to come.
    fn at(&self, ms: u64) -> SystemTime {
        self.now + Duration::from_millis(ms.saturating_sub(self.now_ms))
    }
}

fn wanted(member: &Member) -> Value {
    json!([
        member.name,
        member.endpoint.url(),
        member.endpoint.weight(),
        member.source.as_str(),
        member.source == Source::Permanent,
        member.endpoint.standing().drain_deadline_ms(),
    ])
}

fn endpoint(member: &Member, state: &str, since: SystemTime, clock: &Clock) -> Value {
    let Member { name, endpoint, source } = member;
    let lease = match source {
        Source::Leased { until_ms } => Some(until_ms.saturating_sub(clock.now_ms).div_ceil(1000)),
        _ => None,
    };
    let deadline = endpoint.standing().drain_deadline_ms();
    json!({
        "id": name,
        "url": endpoint.url(),
        "weight": endpoint.weight(),
        "source": source.as_str(),
        "state": state,
        "since": rfc3339(since),
        "sessions": endpoint.standing().sessions_kept(clock.now_ms),
        "in_flight": endpoint.in_flight(),
        "streams": endpoint.streams(),
        "lease_seconds_left": lease,
        "drain_deadline": deadline.map(|ms| rfc3339(clock.at(ms))),
        "permanent": *source == Source::Permanent,
    })
}
