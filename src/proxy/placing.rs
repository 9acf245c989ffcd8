//! Where a request may go: to the endpoint that holds its session, or to where its key leads.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use pingora::http::RequestHeader;

use super::context::{Context, short_digest};
use super::plan::{Held, Key, Placement};
use super::refusal::Refusal;
use super::strict;
use crate::config::HashKey;
use crate::federation::{Member, MemberId};
use crate::identity::{self, Caller};
use crate::mcp::{Call, Class, Era, Kind, MCP_PROTOCOL_VERSION, MCP_SESSION_ID};
use crate::routes::Route;
use crate::sessions::{Account, Alive, Binding, Leg, Place, Seen, SessionState, Spot, seconds};
use crate::telemetry::Reason;
use crate::upstream::{Pool, SessionHabit};

/// A legacy message belongs to the endpoint that holds its session.
pub(super) async fn place_legacy(
    head: &RequestHeader,
    (route, pool): (&Route, &Pool),
    caller: &Caller,
    call: &Call<'_>,
    ctx: &mut Context,
) -> Result<Placement, Refusal> {
    let token = strict::text(&head.headers, MCP_SESSION_ID);
    match token {
        _ if call.kind == Kind::Request(Class::Initialize) => {
            Ok(anywhere(head, pool, caller, call, ctx))
        }
        Some(token) => {
            let version = strict::text(&head.headers, MCP_PROTOCOL_VERSION);
            let state = open(token, version, route, caller, ctx)?;
            Ok(Placement::Held(Box::new(locate(state, pool, ctx).await?)))
        }
        None if pool.session_habit() == SessionHabit::Mints => Err(Reason::SessionMissing.into()),
        None => Ok(anywhere(head, pool, caller, call, ctx)),
    }
}

/// The session of a legacy message on a route with several servers, which always has one.
pub(super) async fn open_session(
    head: &RequestHeader,
    route: &Route,
    caller: &Caller,
    ctx: &mut Context,
) -> Result<SessionState, Refusal> {
    let token = strict::text(&head.headers, MCP_SESSION_ID).ok_or(Reason::SessionMissing)?;
    let version = strict::text(&head.headers, MCP_PROTOCOL_VERSION);
    let state = open(token, version, route, caller, ctx)?;
    match is_over(&state, route, ctx).await {
        true => Err(Reason::SessionUnknown.into()),
        false => Ok(state),
    }
}

/// Whether a session with several servers is over, here or at another replica.
pub(super) async fn is_over(state: &SessionState, route: &Route, ctx: &Context) -> bool {
    let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
    if sessions.ledger().is_none() {
        return sessions.is_over(state.key);
    }
    let now = seconds(SystemTime::now());
    match sessions.used(state.key, state.made_at, now, rules) {
        Seen::Over => return true,
        Seen::AtHome | Seen::Moved(_) => return false,
        Seen::Unknown | Seen::Doubted => {}
    }
    let learnt = Box::pin(sessions.learn(state.key.into(), rules, |_| None)).await;
    let is_over = learnt == Some(Account::Ended);
    // Known here, it costs no more questions, and its end is heard of. It lives at no endpoint.
    let first = route.federation().and_then(|federation| federation.members().first());
    let endpoint = first.and_then(|first| first.pool.members().endpoints().first().cloned());
    if let Some(endpoint) = endpoint {
        let place = Place { endpoint, upstream_id: None };
        match is_over {
            true => sessions.over_elsewhere(state.key.into(), &place, now, rules),
            false => sessions.came_with_legs(state.key, &place, now, rules),
        }
    }
    is_over
}

/// Opens a session id. Unknown, foreign, forged and expired ids are one answer, and so are those of
/// sessions that are over.
pub(super) fn open(
    token: &str,
    version: Option<&str>,
    route: &Route,
    caller: &Caller,
    ctx: &mut Context,
) -> Result<SessionState, Refusal> {
    let binding = Binding { route: &route.digest, caller: caller.digest() };
    let now = SystemTime::now();
    let opened = ctx.snapshot.seal.open(binding, token.as_bytes(), now);
    let state = opened.ok_or(Reason::SessionUnknown)?;
    ctx.record.session = Some(short_digest(token));
    ctx.record.revision = state.revision.or(ctx.record.revision);
    if let (Some(agreed), Some(version)) = (state.revision, version)
        && agreed.as_str() != version
    {
        return Err(Reason::SessionRevision.into());
    }
    Ok(state)
}

/// Finds where a session lives: where its id says, unless it has moved since.
pub(super) async fn locate(
    mut state: SessionState,
    pool: &Pool,
    ctx: &Context,
) -> Result<Held, Refusal> {
    if state.has_legs() {
        // The route had several servers when the session began.
        state = state.into_leg(MemberId::of(pool.name()).0).0;
    }
    let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
    let now = seconds(SystemTime::now());
    let mut seen = sessions.used(state.key, state.made_at, now, rules);
    if let Seen::Unknown | Seen::Doubted = seen {
        match learn(&mut state, pool, ctx).await? {
            Some(place) => {
                let endpoint = pool.by_id(place.endpoint);
                return Ok(Held::moved(state, endpoint, place.upstream_id));
            }
            None => seen = sessions.used_as_known(state.key, state.made_at, now, rules),
        }
    }
    match seen {
        Seen::Over => Err(Reason::SessionUnknown.into()),
        Seen::Moved(place) => {
            // The endpoint that the route leads to now: after a reload it may be another server.
            let endpoint = pool.by_id(place.endpoint.id());
            Ok(Held::moved(state, endpoint, place.upstream_id))
        }
        Seen::AtHome => {
            let endpoint = pool.by_id(state.endpoint);
            Ok(Held::at_home(state, endpoint))
        }
        Seen::Unknown | Seen::Doubted => {
            let endpoint = pool.by_id(state.endpoint);
            if let Some(endpoint) = &endpoint {
                let upstream_id = Some(state.upstream_id().to_vec());
                let place = Place { endpoint: Arc::clone(endpoint), upstream_id };
                sessions.came(state.named(), &place, state.revision, None, now, rules);
            }
            Ok(Held::at_home(state, endpoint))
        }
    }
}

/// What the other replicas know of a session of which this one does not know enough: where it lives
/// instead of where its id says. Nothing if there are none, or they cannot be asked.
async fn learn(
    state: &mut SessionState,
    pool: &Pool,
    ctx: &Context,
) -> Result<Option<Spot>, Refusal> {
    let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
    if sessions.ledger().is_none() {
        return Ok(None);
    }
    let place = |spot: &Spot| place_at(pool, spot);
    // Boxed: it is rare.
    let learnt = Box::pin(sessions.learn(state.named(), rules, place)).await;
    match learnt {
        Some(Account::Ended) => {
            if let Some(endpoint) = pool.by_id(state.endpoint) {
                let place = Place { endpoint, upstream_id: None };
                let now = seconds(SystemTime::now());
                sessions.over_elsewhere(state.named(), &place, now, rules);
            }
            Err(Reason::SessionUnknown.into())
        }
        Some(Account::Alive(Alive { spot: Some(spot), revision, .. })) => {
            state.revision = revision.or(state.revision);
            Ok(Some(spot))
        }
        Some(Account::Alive(_)) | None => Ok(None),
    }
}

/// The place that every replica names so, if its endpoint is one of the server's here.
pub(super) fn place_at(pool: &Pool, spot: &Spot) -> Option<Place> {
    let endpoint = pool.by_id(spot.endpoint)?;
    Some(Place { endpoint, upstream_id: spot.upstream_id.clone() })
}

/// Finds where a session lives at one of several servers. `None` if that server has no sessions.
pub(super) async fn locate_leg(
    state: SessionState,
    member: &Member,
    ctx: &Context,
) -> Result<Option<Held>, Refusal> {
    let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
    let now = seconds(SystemTime::now());
    touch_legs(&state, member, now, ctx);
    let (mut leg, opened) = state.into_leg(member.id.0);
    match opened {
        Leg::Opened => locate(leg, &member.pool, ctx).await.map(Some),
        Leg::Stateless => Ok(None),
        Leg::Late => match sessions.whereabouts(leg.key) {
            Some(place) => {
                match sessions.used(leg.key, leg.made_at, now, rules) {
                    Seen::Over => return Err(Reason::SessionUnknown.into()),
                    Seen::Doubted => {
                        if let Some(spot) = learn(&mut leg, &member.pool, ctx).await? {
                            let endpoint = member.pool.by_id(spot.endpoint);
                            return Ok(Some(Held::moved(leg, endpoint, spot.upstream_id)));
                        }
                    }
                    Seen::Unknown | Seen::AtHome | Seen::Moved(_) => {}
                }
                leg.revision = sessions.revision(leg.key).or(leg.revision);
                let endpoint = member.pool.by_id(place.endpoint.id());
                Ok(Some(Held::moved(leg, endpoint, place.upstream_id)))
            }
            None => match learn(&mut leg, &member.pool, ctx).await? {
                Some(spot) => {
                    let endpoint = member.pool.by_id(spot.endpoint);
                    Ok(Some(Held::moved(leg, endpoint, spot.upstream_id)))
                }
                None => Ok(Some(Held::late(leg))),
            },
        },
    }
}

/// A session that is used at one of its servers is used at all of them: none of its legs is idle. Once
/// in a second is enough.
fn touch_legs(state: &SessionState, used: &Member, now: u32, ctx: &Context) {
    let sessions = &ctx.snapshot.sessions;
    if sessions.was_used_at(state.key.leg(used.id.0), now) {
        return;
    }
    for id in state.leg_ids() {
        sessions.touch(state.key.leg(id), now);
    }
}

/// What has no session goes where its key leads.
pub(super) fn anywhere(
    head: &RequestHeader,
    pool: &Pool,
    caller: &Caller,
    call: &Call<'_>,
    ctx: &Context,
) -> Placement {
    let random = fastrand::u64(..);
    let key = match pool.hash_key() {
        // A new session is placed by chance, which spreads the sessions of one caller too.
        HashKey::Session if call.era == Era::Legacy => Key::Fixed(u128::from(random).to_le_bytes()),
        HashKey::Session | HashKey::Caller => who(caller, ctx),
        HashKey::Tenant => match caller.tenant() {
            Some(tenant) => Key::Text(tenant.into()),
            None => who(caller, ctx),
        },
        HashKey::Tool => {
            let own = ctx.record.own_target.as_deref();
            Key::Text(own.or_else(|| call.target()).unwrap_or_default().into())
        }
        HashKey::Header(name) => match strict::text(&head.headers, name) {
            Some(value) => Key::Text(value.into()),
            None => who(caller, ctx),
        },
    };
    Placement::Any { key, random }
}

/// The caller as a hash key. Anonymous callers are told apart by where they call from.
fn who(caller: &Caller, ctx: &Context) -> Key {
    match (caller.method(), ctx.record.client) {
        (identity::Method::Anonymous, Some(IpAddr::V6(client))) => Key::Fixed(client.octets()),
        (identity::Method::Anonymous, Some(IpAddr::V4(client))) => {
            Key::Fixed(client.to_ipv6_mapped().octets())
        }
        _ => Key::Fixed(*caller.digest()),
    }
}
