//! Moves a legacy session to another endpoint when it cannot stay where it is.
//!
//! A session is opened again with what the client said in `initialize`, which its id carries, and
//! what the client set since is set again. The client's own request has not run anywhere, and is
//! sent to the new endpoint afterwards. Of several requests that find their session homeless at the
//! same time one moves it, and the others wait for that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::time::timeout;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Gateway;
use super::claiming::{self, Claimed, Whose};
use super::context::Context;
use super::identity_headers::{subject, told};
use super::own_request::{OwnRequest, Said, Unsaid, message_head};
use super::plan::{Exchange, Forward, Held, Placement};
use super::reaping::Unclaimed;
use crate::config::OnEndpointLoss;
use crate::identity::Caller;
use crate::mcp::{Answer, MCP_PROTOCOL_VERSION, Revision};
use crate::sessions::{Abandoned, Place, Restore, SessionKey, View};
use crate::telemetry::Reason;
use crate::upstream::{Endpoint, Field, Load, Loss, Otherwise, Pool, Wanted, now_ms};

/// The sessions that move now, each with a turn to wait for.
#[derive(Default)]
pub(super) struct Moves {
    turns: Mutex<HashMap<SessionKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl Moves {
    fn turn(&self, key: SessionKey) -> Turn<'_> {
        let queue = Arc::clone(self.turns.lock().entry(key).or_default());
        Turn { moves: self, key, queue: Some(queue) }
    }
}

/// One request's place in the queue of its session. Dropped, it forgets a queue that is empty.
struct Turn<'m> {
    moves: &'m Moves,
    key: SessionKey,
    queue: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.moves.turns.lock();
        // Given up under the lock, so that the last one to leave sees that it is the last.
        drop(self.queue.take());
        if turns.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            turns.remove(&self.key);
        }
    }
}

/// Whether a session moved for this request.
pub(super) enum Moved {
    Now,
    /// It had moved before, or was nowhere yet.
    Before,
}

/// What opening a session anew takes.
pub(super) struct Opener<'a> {
    pub(super) key: SessionKey,
    pub(super) pool: &'a Pool,
    pub(super) client: &'a RequestHeader,
    pub(super) opening: &'a RawValue,
    pub(super) revision: Option<Revision>,
    pub(super) restore: &'a Restore,
    pub(super) credential: Option<Field>,
    pub(super) told: Option<&'a Caller>,
}

impl Gateway {
    /// Moves the session of this request, or follows it if another request has moved it already.
    pub(super) async fn move_session(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
        loss: Loss,
    ) -> Result<Moved, Reason> {
        // A configuration that came meanwhile may know more endpoints.
        if let Some(pool) = self.lasting.fleet.pool(forward.pool.name()) {
            forward.pool = pool;
        }
        let exchange = forward.shape.exchange;
        let Placement::Held(held) = &mut forward.placement else { return Err(Reason::Internal) };
        if exchange == Exchange::EndsSession {
            // It ends with its endpoint, where it may still be.
            ctx.snapshot.sessions.ended(held.named());
            let left = self.left_behind(ctx, held);
            self.leave(ctx, &forward.pool, left);
            return Err(Reason::SessionUnknown);
        }
        let may_move =
            held.is_late() || forward.pool.settings().on_endpoint_loss == OnEndpointLoss::Move;
        if !may_move {
            return match (loss, &held.endpoint) {
                // Distrust passes; the session would be lost for good.
                (Loss::Ejected, Some(_)) => Err(Reason::EndpointUnreachable),
                _ => Err(Reason::SessionUnknown),
            };
        }
        let turn = self.moves.turn(held.key());
        let pool = &forward.pool;
        let moving = async {
            let _turn = match &turn.queue {
                Some(queue) => Some(queue.lock().await),
                None => None,
            };
            self.move_in_turn(session.req_header(), ctx, pool, held, loss).await
        };
        // A client waits no longer for a move than for an answer.
        let moved = timeout(pool.timeouts().first_byte, moving).await;
        let moved = moved.map_err(|_| Reason::EndpointTimeout)??;
        if let Moved::Now = moved {
            ctx.record.moved = Some(loss);
        }
        drop(turn);
        if let Some(revision) = held.state.revision {
            // A leg that is opened late may speak another one than its client.
            let version = HeaderValue::from_static(revision.as_str());
            let head = session.req_header_mut();
            head.insert_header(MCP_PROTOCOL_VERSION, version).map_err(|_| Reason::Internal)?;
        }
        // Events of the old endpoint mean nothing to the new one.
        session.req_header_mut().remove_header("last-event-id");
        Ok(moved)
    }

    /// Whether the server has really forgotten the session. A server without GET streams may answer
    /// GET with 404 as well, so there a `ping` in the session has to say the same.
    pub(super) async fn has_forgotten(
        &self,
        session: &ServerSession,
        ctx: &Context,
        forward: &Forward,
        endpoint: &Arc<Endpoint>,
    ) -> bool {
        if forward.shape.exchange != Exchange::Stream {
            return true;
        }
        let Some(held) = forward.held() else { return false };
        self.is_unknown_at(session.req_header(), ctx, &forward.pool, (held, endpoint)).await
    }

    /// Whether the server says of a `ping` in the session that it does not know it.
    pub(super) async fn is_unknown_at(
        &self,
        client: &RequestHeader,
        ctx: &Context,
        pool: &Pool,
        (held, endpoint): (&Held, &Arc<Endpoint>),
    ) -> bool {
        let Ok(head) = message_head(client, held.state.revision) else { return false };
        let ping = json!({ "jsonrpc": "2.0", "id": "toolgate-3", "method": "ping" });
        let caller = ctx.record.caller.as_deref();
        let Ok(credential) = pool.credentials().of(subject(client, caller)).await else {
            return false;
        };
        let request = OwnRequest {
            head: &head,
            session: held.upstream_id(),
            request_id: ctx.request_id(),
            client_address: ctx.record.client,
            body: Bytes::from(ping.to_string()),
            credential: credential.as_ref(),
            told: told(pool, caller),
            method: "ping",
            trace: ctx.trace.as_ref(),
        };
        let said = self.ask_endpoint(pool, endpoint, request).await;
        said.is_ok_and(|said| said.head.status == 404)
    }

    /// Moves a leg of a session whose stream is one of several, as [`Self::move_session`] moves the
    /// session of a request.
    pub(super) async fn move_leg(
        &self,
        client: &RequestHeader,
        ctx: &Context,
        pool: &Pool,
        held: &mut Held,
        loss: Loss,
    ) -> Result<Moved, Reason> {
        if pool.settings().on_endpoint_loss != OnEndpointLoss::Move {
            return Err(match (loss, &held.endpoint) {
                (Loss::Ejected, Some(_)) => Reason::EndpointUnreachable,
                _ => Reason::SessionUnknown,
            });
        }
        let turn = self.moves.turn(held.key());
        let moving = async {
            let _turn = match &turn.queue {
                Some(queue) => Some(queue.lock().await),
                None => None,
            };
            self.move_in_turn(client, ctx, pool, held, loss).await
        };
        let moved = timeout(pool.timeouts().first_byte, moving).await;
        moved.map_err(|_| Reason::EndpointTimeout)?
    }

    /// The same for a session whose turn it is, and without a request that would be changed by it.
    pub(super) async fn move_in_turn(
        &self,
        client: &RequestHeader,
        ctx: &Context,
        pool: &Pool,
        held: &mut Held,
        loss: Loss,
    ) -> Result<Moved, Reason> {
        let sessions = Arc::clone(&ctx.snapshot.sessions);
        if sessions.is_over(held.key()) {
            return Err(Reason::SessionUnknown);
        }
        // Only to where the route leads now: a reload may have led it to another server.
        if let Some(place) = sessions.whereabouts(held.key())
            && let Some(endpoint) = pool.by_id(place.endpoint.id())
        {
            let place = Place { endpoint, ..place };
            if !held.lives_at(&place) {
                held.state.revision = sessions.revision(held.key()).or(held.state.revision);
                held.move_to(place);
                return Ok(Moved::Before);
            }
        }
        let claimed = match self.claim(&sessions, ctx, pool, held).await? {
            Whose::Done => return Ok(Moved::Before),
            Whose::Ours(claimed) => claimed,
        };
        let told = claimed.as_ref().and_then(Claimed::restore).cloned();
        let restore = told.unwrap_or_else(|| sessions.restore(held.key()));
        let is_late = held.is_late();
        let opening = self.open_again(client, ctx, pool, (held, &restore), loss);
        let (place, agreed) = claiming::under(claimed.as_ref(), opening).await?;
        let opened = (&place, agreed, &restore);
        if is_late {
            if self.settle(claimed, ctx, pool, held, opened).await? {
                held.move_to(place);
            }
            return Ok(Moved::Before);
        }
        let from = held.endpoint.clone();
        let left = self.left_behind(ctx, held);
        if !self.settle(claimed, ctx, pool, held, opened).await? {
            return Ok(Moved::Before);
        }
        self.lasting.metrics.sessions.moved(pool.name(), loss.as_str());
        tracing::info!(
            server = pool.name(),
            from = from.as_ref().map_or("", |endpoint| endpoint.url()),
            to = place.endpoint.url(),
            reason = loss.as_str(),
            "session moved"
        );
        self.record_move(ctx, pool.name(), &place.endpoint, loss);
        if matches!(loss, Loss::Drained | Loss::Ejected | Loss::Gone) {
            self.leave(ctx, pool, left);
        }
        held.move_to(place);
        Ok(Moved::Now)
    }

    /// Opens the session of this request again, where it can be.
    async fn open_again(
        &self,
        client: &RequestHeader,
        ctx: &Context,
        pool: &Pool,
        (held, restore): (&Held, &Restore),
        loss: Loss,
    ) -> Result<(Place, Option<Revision>), Reason> {
        let opening = match (held.state.opening(), &restore.opening) {
            (b"", Some(beside)) => beside,
            (sealed, _) => sealed,
        };
        let opening: &RawValue =
            serde_json::from_slice(opening).map_err(|_| Reason::SessionUnknown)?;
        // With a server that it has not spoken to yet, the client has agreed on nothing.
        let revision = held.state.revision.filter(|_| !held.is_late());
        let caller = ctx.record.caller.clone();
        let subject = subject(client, caller.as_deref());
        let credential = pool.credentials().of(subject).await.map_err(Reason::from)?;
        let told = told(pool, caller.as_deref());
        let key = held.key();
        let opener = Opener { key, pool, client, opening, revision, restore, credential, told };
        self.open_elsewhere(ctx, held, loss, &opener).await
    }

    /// What a session leaves where it lived.
    fn left_behind(&self, ctx: &Context, held: &Held) -> Option<Abandoned> {
        let endpoint = Arc::clone(held.endpoint.as_ref()?);
        let upstream_id = held.upstream_id().map(<[u8]>::to_vec);
        let place = Place { endpoint, upstream_id };
        let (caller, revision) = (ctx.record.caller.clone(), held.state.revision);
        Some(Abandoned { key: held.key(), caller, place, revision })
    }

    /// The old endpoint may be well, and need not keep what nobody will use. Calls that still run
    /// there get the time they may take; and another gateway may be of another opinion, unless it
    /// follows.
    fn leave(&self, ctx: &Context, pool: &Pool, left: Option<Abandoned>) {
        let Some(left) = left else { return };
        let due = Instant::now() + pool.timeouts().total;
        match ctx.snapshot.session_rules.view {
            View::Whole => self.reaper.add(left, due),
            // Nobody knows here what still runs there for other replicas.
            View::Shared => self.reaper.add_for_all(left, due),
            View::Part => {}
        }
    }

    /// Opens the session on the first endpoint that takes it.
    async fn open_elsewhere(
        &self,
        ctx: &Context,
        held: &Held,
        loss: Loss,
        opener: &Opener<'_>,
    ) -> Result<(Place, Option<Revision>), Reason> {
        let old = held.endpoint.as_ref().filter(|_| loss == Loss::Unreachable);
        let tried: Vec<u64> = old.map(|endpoint| endpoint.id()).into_iter().collect();
        self.open_at_any(ctx, tried, opener).await.map_err(|reason| match loss {
            // The server itself does not want it back.
            Loss::Forgotten => Reason::SessionUnknown,
            _ => reason,
        })
    }

    /// Opens a session on the first endpoint that takes it and was not tried.
    pub(super) async fn open_at_any(
        &self,
        ctx: &Context,
        mut tried: Vec<u64>,
        opener: &Opener<'_>,
    ) -> Result<(Place, Option<Revision>), Reason> {
        let (pool, key) = (opener.pool, opener.key);
        for _ in 0..=pool.settings().retries.attempts {
            let wanted = Wanted {
                key: &key.0,
                random: fastrand::u64(..),
                tried: &tried,
                load: Load::Sessions,
                otherwise: Otherwise::Trust,
                now_ms: now_ms(),
            };
            let Some(endpoint) = pool.choose(&wanted) else { break };
            match self.open_anew(ctx, &endpoint, opener).await {
                Ok((upstream_id, agreed)) => {
                    return Ok((Place { endpoint, upstream_id }, agreed));
                }
                Err(Unsaid::Unreachable) => {
                    self.endpoint_refused(pool, &endpoint, Reason::EndpointUnreachable);
                }
                Err(Unsaid::Broken) => {
                    self.endpoint_failed(pool, &endpoint, Reason::EndpointBroken);
                }
                // It is well; it only does not want this session.
                Err(Unsaid::Refused) => pool.answered(&endpoint, now_ms()),
            }
            tried.push(endpoint.id());
        }
        Err(match tried.is_empty() {
            true => Reason::EndpointNone,
            false => Reason::EndpointUnreachable,
        })
    }

    /// Opens the session on this endpoint, as its client would; gives the server's own id for it.
    async fn open_anew(
        &self,
        ctx: &Context,
        endpoint: &Arc<Endpoint>,
        opener: &Opener<'_>,
    ) -> Result<(Option<Vec<u8>>, Option<Revision>), Unsaid> {
        let Opener { key, pool, client, opening, revision, restore, credential, told } = opener;
        let place = Place { endpoint: Arc::clone(endpoint), upstream_id: None };
        let left =
            Abandoned { key: *key, caller: ctx.record.caller.clone(), place, revision: *revision };
        let mut unclaimed = Unclaimed::new(&self.reaper, left);
        // Whoever opens it may stop waiting, and then nobody knows of it.
        let say = async |unclaimed: &mut Unclaimed<'_>, revision, session, message: Value| {
            let head = message_head(client, revision).map_err(|_| Unsaid::Broken)?;
            let method = message["method"].as_str().unwrap_or_default();
            let request = OwnRequest {
                head: &head,
                session,
                request_id: ctx.request_id(),
                client_address: ctx.record.client,
                body: Bytes::from(message.to_string()),
                credential: credential.as_ref(),
                told: *told,
                method,
                trace: ctx.trace.as_ref(),
            };
            self.ask_for(pool, endpoint, request, unclaimed).await
        };
        let initialize = json!({
            "jsonrpc": "2.0", "id": "toolgate-1", "method": "initialize", "params": opening,
        });
        let Said { head, answer, .. } = say(&mut unclaimed, None, None, initialize).await?;
        if head.status >= 500 {
            return Err(Unsaid::Broken);
        }
        let Some(Answer::Success { revision: agreed }) = answer else {
            return Err(Unsaid::Refused);
        };
        let upstream_id = head.session_id().map(|id| id.as_bytes().to_vec());
        if let Some(left) = &mut unclaimed.session {
            left.revision = agreed;
        }
        if !(200..300).contains(&head.status) || (revision.is_some() && agreed != *revision) {
            // The client goes on in the revision of its session; it cannot be told another one.
            return Err(Unsaid::Refused);
        }
        let mut nothing = Unclaimed::nothing(&self.reaper);
        let (session, revision) = (upstream_id.as_deref(), agreed.or(*revision));
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let Said { head, .. } = say(&mut nothing, revision, session, initialized).await?;
        if !(200..300).contains(&head.status) {
            return Err(Unsaid::Refused);
        }
        let level = restore.level.map(|level| ("logging/setLevel", json!({ "level": level })));
        let subscriptions = restore.subscriptions.iter();
        let subscriptions =
            subscriptions.map(|uri| ("resources/subscribe", json!({ "uri": &**uri })));
        for (method, params) in level.into_iter().chain(subscriptions) {
            let message = json!({
                "jsonrpc": "2.0", "id": "toolgate-2", "method": method, "params": params,
            });
            let said = say(&mut nothing, revision, session, message).await?;
            if !matches!(said.answer, Some(Answer::Success { .. })) {
                tracing::debug!(method, endpoint = endpoint.url(), "not restored");
            }
        }
        unclaimed.claim();
        Ok((upstream_id, agreed))
    }
}
