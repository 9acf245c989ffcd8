//! The long life of a stream: it passes events for hours, follows its session to another endpoint,
//! tells of changes, and ends cleanly.
//!
//! What the gateway itself has to say is said between two events only.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::context::Context;
use super::deliver::{Body, Handed, note_use};
use super::exchange::Exchange;
use super::http1::Broken;
use super::plan::Forward;
use super::pump::{Begun, End, Interrupted, while_client_waits};
use super::response_body_filter::BodyWatch;
use super::{Gateway, strict};
use crate::config::OnEndpointLoss;
use crate::identity::{Caller, Credential, Proof};
use crate::mcp::{self, Era};
use crate::upstream::{InFlight, Loss, now_ms};
use bytes::Bytes;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

/// Streams that end because the gateway stops do so within this time, so that their clients do not
/// come back all at once.
pub(super) const SPREAD_MS: u64 = 1_500;
/// And they are asked to wait for as long as this.
const RETRY_MS: std::ops::Range<u32> = 500..2_500;
/// Streams that follow their sessions to another endpoint do so within this time.
pub(super) const LEAVE_MS: u64 = 250;

/// How often it is tried to connect to the endpoint of a broken stream.
const LOOKS: u32 = 2;

/// What came while a stream waited.
enum Heard {
    /// Something of its endpoint, or its end.
    Part(Option<Bytes>),
    /// Something may have changed for the stream.
    Bell,
    /// Nothing for a while.
    Nothing,
}

/// A token whose time is over may hold for a little longer, by the leeway of its issuer.
const LEEWAY_LOOK: Duration = Duration::from_secs(1);

/// When the caller of a stream must be looked at again, if its proof ends at all.
pub(super) struct Term(Option<Instant>);

impl Term {
    pub(super) fn of(caller: Option<&Caller>) -> Self {
        let ends = caller.and_then(Caller::expires_s).and_then(|ends_s| {
            let ends = UNIX_EPOCH.checked_add(Duration::from_secs(ends_s))?;
            let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
            Instant::now().checked_add(left)
        });
        Self(ends)
    }

    pub(super) fn is_due(&self) -> bool {
        self.0.is_some_and(|due| due <= Instant::now())
    }

    /// What is left of a time until then. Once it is due, only the end of an event is waited for.
    pub(super) fn within(&self, time: Duration) -> Duration {
        let left = self.0.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.map(|left| if left.is_zero() { LEEWAY_LOOK } else { left });
        left.map_or(time, |left| left.min(time))
    }

    pub(super) fn postpone(&mut self) {
        self.0 = Some(Instant::now() + LEEWAY_LOOK);
    }
}

/// What a stream does after a look around.
enum Heeded {
    Stay,
    /// It ends, with this as its last words.
    End(Vec<u8>),
    /// It follows its session elsewhere.
    Leave(Loss),
}

impl Gateway {
    /// Gives the client the events of a stream, from wherever its session lives. What is not done
    /// while it idles is boxed, so that an idle stream has no room for it.
    pub(super) async fn pass_on_stream(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
        body: Box<Body>,
        mut in_flight: InFlight,
    ) -> End {
        let Body { held, mut exchange, mut watch, mut filter, .. } = *body;
        let mut part = Some(held).filter(|held| !held.is_empty());
        let (mut bell, mut changes) = (forward.pool.bell(), forward.pool.changes());
        let (mut must_look, mut term) = (true, Term::of(ctx.record.caller.as_deref()));
        // A stream keeps its session in use, also while it has nothing to say.
        let still_used = Duration::from_secs(ctx.snapshot.session_rules.idle_s.into()) / 4;
        let mut silent = Duration::ZERO;
        loop {
            if let Some(part) = part.take() {
                let given = self.hand_on(session, ctx, forward, &mut watch, &mut filter, part);
                match Box::pin(given).await {
                    Handed::On => {}
                    Handed::ClientGone => {
                        return Box::pin(self.client_left(ctx, forward, exchange)).await;
                    }
                    Handed::Faulty(fault) => {
                        return Box::pin(self.end_listing(session, ctx, forward, fault)).await;
                    }
                }
            }
            if (must_look || term.is_due()) && watch.is_between_events() {
                must_look = false;
                match Box::pin(self.heed(session, ctx, forward, &mut changes, &mut term)).await {
                    Heeded::Stay => {}
                    Heeded::End(last) => return Box::pin(last_words(session, ctx, last)).await,
                    Heeded::Leave(loss) => {
                        drop(exchange.take());
                        let followed = Box::pin(self.follow(session, ctx, forward, loss)).await;
                        let Some(begun) = followed else {
                            return Box::pin(last_words(session, ctx, retry_hint())).await;
                        };
                        filter.restart();
                        (exchange, in_flight) = (Some(begun.exchange), begun.in_flight);
                        part = Some(begun.arrived.part).filter(|first| !first.is_empty());
                        continue;
                    }
                }
            }
            let Some(open) = exchange.as_mut() else {
                drop(in_flight);
                return Box::pin(last_words(session, ctx, Vec::new())).await;
            };
            let limit = forward.pool.timeouts().stream_idle.saturating_sub(silent);
            let began = Instant::now();
            let heard = {
                let heard = pin!(hear(open, &mut bell, must_look, term.within(still_used)));
                while_client_waits(session, forward, limit, heard).await
            };
            ctx.record.waited += began.elapsed();
            silent = match heard {
                Ok(Heard::Part(_)) => Duration::ZERO,
                _ => silent + began.elapsed(),
            };
            match heard {
                Ok(Heard::Nothing) => note_use(ctx, forward, b""),
                Ok(Heard::Part(Some(heard))) => part = Some(heard),
                Ok(Heard::Part(None)) => (must_look, exchange) = (true, None),
                Ok(Heard::Bell) => must_look = true,
                Err(fault) => {
                    exchange = None;
                    must_look = self.may_follow(ctx, forward, &watch, &fault).await;
                    if !must_look {
                        let end = self.interrupted(session, ctx, forward, &watch, fault);
                        return Box::pin(end).await;
                    }
                }
            }
        }
    }

    /// Whether a stream whose endpoint broke off has to look where its session goes on.
    async fn may_follow(
        &self,
        ctx: &Context,
        forward: &Forward,
        watch: &BodyWatch,
        interrupted: &Interrupted,
    ) -> bool {
        watch.is_between_events()
            && matches!(interrupted, Interrupted::Broken(_))
            && Box::pin(self.is_dead(ctx, forward)).await
    }

    /// Looks whether the stream must end, tell its client something, or follow its session.
    async fn heed(
        &self,
        session: &mut ServerSession,
        ctx: &Context,
        forward: &mut Forward,
        changes: &mut u32,
        term: &mut Term,
    ) -> Heeded {
        // A reload made another pool of the same server.
        if let Some(pool) = self.lasting.fleet.pool(forward.pool.name()) {
            forward.pool = pool;
        }
        if self.lifecycle.is_draining() {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..SPREAD_MS))).await;
            return Heeded::End(farewell(forward));
        }
        if !self.is_welcome(session.req_header(), ctx) {
            return Heeded::End(farewell(forward));
        }
        if term.is_due() {
            if !self.is_proven(session.req_header(), ctx) {
                tracing::debug!(server = forward.pool.name(), "the token of a stream has ended");
                return Heeded::End(farewell(forward));
            }
            term.postpone();
        }
        let leads_elsewhere = self.leads_elsewhere(ctx, forward);
        let now = forward.pool.changes();
        if now != *changes || leads_elsewhere {
            *changes = now;
            let news = mcp::list_changed(forward.shape.era, &forward.body);
            if session.write_response_body(Bytes::from(events(&news)), false).await.is_err() {
                return Heeded::End(Vec::new());
            }
        }
        if leads_elsewhere {
            return Heeded::End(farewell(forward));
        }
        let moves = forward.pool.settings().on_endpoint_loss == OnEndpointLoss::Move;
        let loss = match (forward.held(), &ctx.record.endpoint) {
            (Some(held), _) => match &held.endpoint {
                Some(endpoint) => forward.pool.must_leave(endpoint, now_ms()),
                None => Some(Loss::Gone),
            },
            (None, Some(endpoint)) => forward.pool.must_leave(endpoint, now_ms()),
            (None, None) => None,
        };
        match loss {
            None => Heeded::Stay,
            Some(loss) if forward.held().is_some() && moves => {
                // All streams of the endpoint leave; not all in the same moment.
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..LEAVE_MS))).await;
                Heeded::Leave(loss)
            }
            // A modern client listens again, a legacy one is told where its session went.
            Some(_) => Heeded::End(farewell(forward)),
        }
    }

    /// Whether the token of a stream, whose time is over, holds still. What would have to be asked
    /// about is not waited for: the client comes back with the token that it has by then.
    pub(super) fn is_proven(&self, head: &RequestHeader, ctx: &Context) -> bool {
        let Some(route) = &ctx.record.route else { return true };
        let authorization = strict::credential(&head.headers);
        let credential = Credential { authorization, certificate: None };
        let snapshot = self.snapshot();
        let now = SystemTime::now();
        let proof = snapshot.identity.authenticate(credential, &route.audience, now);
        matches!(proof, Proof::Known(_))
    }

    /// Whether the stream's route leads to another server in the configuration in force, or nowhere:
    /// then the stream ends, and its client comes back to where the route leads now.
    fn leads_elsewhere(&self, ctx: &Context, forward: &Forward) -> bool {
        let Some(route) = &ctx.record.route else { return false };
        let snapshot = self.snapshot();
        let current = snapshot.routes.find(&route.path);
        current.is_none_or(|current| !current.leads_to(forward.pool.name()))
    }

    /// Follows the session to where it lives now, and listens there.
    async fn follow(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
        loss: Loss,
    ) -> Option<Begun> {
        self.move_session(session, ctx, forward, loss).await.ok()?;
        let begun = self.begin(session, ctx, forward).await.ok()?;
        (begun.head.status == 200 && begun.head.is_event_stream()).then_some(begun)
    }

    /// Whether the endpoint of a broken stream takes no connections any more. If it does, the stream
    /// ends instead: its client resumes by `Last-Event-ID` and misses nothing.
    async fn is_dead(&self, ctx: &Context, forward: &Forward) -> bool {
        let Some(endpoint) = ctx.record.endpoint.as_ref().filter(|_| forward.held().is_some())
        else {
            return false;
        };
        for _ in 0..LOOKS {
            match self.connections.open_fresh(endpoint).await {
                Ok(_) => return false,
                Err(reason) => self.endpoint_refused(&forward.pool, endpoint, reason),
            }
            // Once may be chance.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..LEAVE_MS))).await;
        }
        forward.pool.must_leave(endpoint, now_ms()).is_some()
    }
}

/// Waits for the endpoint, for the bell unless it has rung, and no longer than this.
async fn hear(
    open: &mut Exchange,
    bell: &mut watch::Receiver<u64>,
    has_rung: bool,
    within: Duration,
) -> Result<Heard, Broken> {
    tokio::select! {
        biased;
        part = open.read_body() => part.map(Heard::Part),
        _ = bell.changed(), if !has_rung => Ok(Heard::Bell),
        () = tokio::time::sleep(within) => Ok(Heard::Nothing),
    }
}

/// Ends the stream between two events. Its client may open another one at once.
async fn last_words(session: &mut ServerSession, ctx: &mut Context, last: Vec<u8>) -> End {
    ctx.give_back();
    match session.write_response_body(Bytes::from(last), true).await {
        Ok(()) => End::Complete,
        Err(_) => End::Cut,
    }
}

/// What a stream ends with when the gateway ends it: a legacy client is told when to come back
/// (2025-11-25 transport, `retry`), a modern one that its listening is over (2026-07-28
/// subscriptions, graceful end).
fn farewell(forward: &Forward) -> Vec<u8> {
    let id = forward.reply_id();
    match (forward.shape.era, id) {
        (Era::Modern, Some(id)) => events(&[mcp::listening_over(id.as_id().raw())]),
        _ => retry_hint(),
    }
}

pub(super) fn retry_hint() -> Vec<u8> {
    format!("retry: {}\n\n", fastrand::u32(RETRY_MS)).into_bytes()
}

pub(super) fn events(messages: &[String]) -> Vec<u8> {
    let event = |message: &String| format!("event: message\ndata: {message}\n\n");
    messages.iter().map(event).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{LEEWAY_LOOK, Term};

    #[test]
    fn a_look_at_a_token_is_waited_for_and_never_twice() {
        let hour = Duration::from_secs(3600);
        assert!(!Term::of(None).is_due());
        assert_eq!(Term(None).within(hour), hour);
        let mut term = Term(Some(Instant::now() + hour / 2));
        assert!(!term.is_due() && term.within(hour) <= hour / 2);
        assert_eq!(term.within(Duration::from_secs(1)), Duration::from_secs(1));
        term = Term(Some(Instant::now()));
        assert!(term.is_due());
        assert_eq!(term.within(hour), LEEWAY_LOOK, "an event that is not over is waited for");
        term.postpone();
        assert!(!term.is_due() && term.within(hour) < hour);
    }
}
