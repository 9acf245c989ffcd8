//! Passes an answer on to the client, part by part as it comes, and ends it as well as it can.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use pingora::protocols::http::ServerSession;

use super::Gateway;
use super::context::{Context, Expects, short_digest};
use super::exchange::Exchange;
use super::http1::Arrived;
use super::listing::EventFilter;
use super::plan::{Exchange as Purpose, Forward};
use super::pump::{Begun, End, Interrupted, Pumped, while_client_waits};
use super::refusal::Refusal;
use super::renaming::{self, Broken, Renaming};
use super::response_body_filter::BodyWatch;
use super::response_filter::{UpstreamHead, response_filter};
use crate::jsonrpc::{ErrorBody, ReplyTo};
use crate::mcp::{self, Answer, Era, ListFault, Revision, Unfit};
use crate::sessions::{Binding, NewSession, Opening, Place, Subscription, seconds};
use crate::telemetry::{Outcome, Reason};
use crate::upstream::SessionHabit;

/// The answer to `initialize` is held until it is understood, up to this size.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// For this long a request counts as a use of its session; after that, each part of its answer does.
const NOTED_FOR: Duration = Duration::from_secs(1);

/// The body of an answer on its way.
pub(super) struct Body {
    /// What is here of it.
    pub(super) held: Bytes,
    /// Where the rest comes from, if there is more.
    pub(super) exchange: Option<Exchange>,
    is_stream: IsStream,
    pub(super) watch: BodyWatch,
    pub(super) filter: EventFilter,
    pub(super) renaming: Renaming,
}

/// What came of giving the client a part.
pub(super) enum Handed {
    /// More may follow.
    On,
    ClientGone,
    /// A list that cannot be filtered stands where the part ends.
    Faulty(ListFault),
}

impl Gateway {
    /// Gives the client the answer that has begun; of a long stream its head.
    pub(super) async fn deliver(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
        begun: Begun,
    ) -> Pumped {
        let Begun { mut exchange, mut head, arrived: Arrived { part, whole }, in_flight } = begun;
        if whole {
            // Many a short answer is sent as a stream. Here as a whole, it goes on with its length:
            // one write instead of three.
            head.length = Some(part.len() as u64);
        }
        let mut held = part;
        let mut sealed = None;
        if forward.shape.exchange == Purpose::OpensSession && (200..300).contains(&head.status) {
            let opened = self.open_session(session, ctx, forward, &mut exchange, &head, &mut held);
            match opened.await {
                Ok(token) => sealed = token,
                Err(reason) => return End::Refused(reason.into()).into(),
            }
        }
        let mut exchange = self.unless_finished(exchange).await;
        if ctx.must_hold_list(&head) {
            let open = exchange.take();
            if let Err(end) =
                Box::pin(self.hold_list(session, ctx, forward, &mut head, &mut held, open)).await
            {
                return end.into();
            }
        }
        let renaming = match renaming::first(
            ctx,
            forward.way.as_deref(),
            &mut head,
            &mut held,
            exchange.is_none(),
        ) {
            Ok(renaming) => renaming,
            Err(fault) => return End::Refused(unfit(forward, fault).into()).into(),
        };
        ctx.record.status = head.status;
        ctx.record.outcome = Some(match head.status {
            400.. => Outcome::ServerError,
            _ => Outcome::Ok,
        });
        let is_event_stream = head.is_event_stream();
        let is_long = is_event_stream && forward.shape.exchange == Purpose::Stream;
        let (watch, filter) = (BodyWatch::new(&head), EventFilter::new(ctx, forward, &head));
        if is_long || is_event_stream && filter.is_on() {
            // What is here may be a list, and shrink; a long stream may get words of the gateway,
            // and go on at another endpoint.
            head.length = None;
        }
        let is_stream = is_stream(&head, forward);
        let body = Body { held, exchange, is_stream, watch, filter, renaming };
        self.close_if_draining(session);
        if body.exchange.is_none() && !is_long {
            ctx.give_back();
        }
        // Before the client can know of it, or its next request would find the session as it was.
        if head.status < 300 {
            self.remember(ctx, forward);
        }
        let written = match response_filter(&head, sealed, session, ctx) {
            Ok(answer) => session.write_response_header(answer).await,
            Err(error) => Err(error),
        };
        drop(head);
        if let Err(error) = written {
            tracing::debug!(%error, "client left before its answer");
            return self.client_left(ctx, forward, body.exchange).await.into();
        }
        if is_long {
            return Pumped::Stream(Box::new(body), in_flight);
        }
        let end = self.pass_on(session, ctx, forward, body).await;
        drop(in_flight);
        end.into()
    }

    /// Gives the client the body, beginning with what is held of it.
    async fn pass_on(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        body: Body,
    ) -> End {
        let Body { held, mut exchange, is_stream, mut watch, mut filter, mut renaming } = body;
        let mut held = Some(held).filter(|held| !held.is_empty());
        loop {
            let part = match held.take() {
                Some(held) => held,
                None => {
                    let Some(mut open) = exchange.take() else { break };
                    match self.read_part(session, ctx, forward, &mut open, is_stream).await {
                        Ok(Some(part)) => {
                            exchange = self.unless_finished(open).await;
                            if exchange.is_none() {
                                ctx.give_back();
                            }
                            match renaming.pass(ctx, forward.way.as_deref(), part) {
                                Ok(part) => part,
                                Err(broken) => {
                                    let end = self.cut(session, ctx, forward, broken);
                                    return end.await;
                                }
                            }
                        }
                        Ok(None) => {
                            self.connections.close(open).await;
                            ctx.give_back();
                            break;
                        }
                        Err(interrupted) => {
                            drop(open);
                            let end = self.interrupted(session, ctx, forward, &watch, interrupted);
                            return end.await;
                        }
                    }
                }
            };
            match self.hand_on(session, ctx, forward, &mut watch, &mut filter, part).await {
                Handed::On => {}
                Handed::ClientGone => return self.client_left(ctx, forward, exchange).await,
                Handed::Faulty(fault) => {
                    return self.end_listing(session, ctx, forward, fault).await;
                }
            }
        }
        if let Err(fault) = renaming.finish() {
            unfit(forward, fault);
            ctx.record.outcome = Some(Outcome::Failed);
            return End::Cut;
        }
        let expects = match forward.shape.exchange {
            Purpose::Message | Purpose::OpensSession => ctx.record.expects(),
            Purpose::Stream | Purpose::EndsSession => Expects::Nothing,
        };
        ctx.record.judge(watch.verdict(), expects);
        if let (Some(endpoint), true) = (&ctx.record.endpoint, watch.is_event_stream()) {
            self.endpoint_answered(&forward.pool, endpoint, ctx.record.status);
        }
        match session.write_response_body(Bytes::new(), true).await {
            Ok(()) => End::Complete,
            Err(_) => End::Cut,
        }
    }

    /// Ends an answer of which the rest cannot be passed on.
    pub(super) async fn cut(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        Broken { before, fault }: Broken,
    ) -> End {
        ctx.record.reason = Some(unfit(forward, fault));
        ctx.record.outcome = Some(Outcome::Failed);
        if !before.is_empty() && session.write_response_body(before, false).await.is_err() {
            ctx.record.outcome = Some(Outcome::Cancelled);
        }
        End::Cut
    }

    /// Gives the client a part of the body, or what of it may pass.
    pub(super) async fn hand_on(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        watch: &mut BodyWatch,
        filter: &mut EventFilter,
        part: Bytes,
    ) -> Handed {
        let (part, fault) = filter.pass(ctx, part);
        if !part.is_empty() {
            watch.saw(&part);
            self.heard_of_changes(ctx, forward, watch);
            note_use(ctx, forward, &part);
            ctx.record.bytes_out += part.len() as u64;
            let began = Instant::now();
            let written = session.write_response_body(part, false).await;
            ctx.record.waited += began.elapsed();
            if let Err(error) = written {
                tracing::debug!(%error, "client left during its answer");
                ctx.record.verdict = watch.verdict();
                return Handed::ClientGone;
            }
        }
        fault.map_or(Handed::On, Handed::Faulty)
    }

    /// Gives a connection back as soon as its answer has arrived: the client may ask again the
    /// moment it has its answer, and should find it free.
    pub(super) async fn unless_finished(&self, exchange: Exchange) -> Option<Exchange> {
        match exchange.is_finished() {
            true => {
                self.connections.close(exchange).await;
                None
            }
            false => Some(exchange),
        }
    }

    /// Reads the answer to `initialize` and seals the session it opens. What was read to understand
    /// it is left in `held`.
    async fn open_session(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        exchange: &mut Exchange,
        head: &UpstreamHead,
        held: &mut Bytes,
    ) -> Result<Option<String>, Reason> {
        let read = |held: &Bytes| match head.is_event_stream() {
            true => Answer::of_events(held),
            false => Answer::of_json(held),
        };
        let Some(upstream_id) = head.session_id().map(|id| id.as_bytes().to_vec()) else {
            forward.pool.learn_session_habit(SessionHabit::Stateless);
            // Nothing has to wait for what is only recorded.
            if let Some(Answer::Success { revision: Some(agreed) }) = read(held) {
                ctx.record.revision = Some(agreed);
            }
            return Ok(None);
        };
        let revision = loop {
            match read(held) {
                Some(Answer::Success { revision }) => break revision,
                // Nothing was opened, whatever the head says.
                Some(Answer::Error) => return Ok(None),
                None if held.len() > HELD_BYTES_MAX => break None,
                None => {}
            }
            match self.read_part(session, ctx, forward, exchange, IsStream::No).await {
                Ok(Some(part)) => *held = [&held[..], &part].concat().into(),
                Ok(None) => break None,
                Err(interrupted) => {
                    return Err(interrupted.reason().unwrap_or(Reason::EndpointBroken));
                }
            }
        };
        forward.pool.learn_session_habit(SessionHabit::Mints);
        ctx.record.revision = revision.or(ctx.record.revision);
        self.seal(ctx, forward, &upstream_id, revision).map(Some)
    }

    fn seal(
        &self,
        ctx: &mut Context,
        forward: &Forward,
        upstream_id: &[u8],
        revision: Option<Revision>,
    ) -> Result<String, Reason> {
        let record = &ctx.record;
        let (Some(route), Some(caller), Some(endpoint)) =
            (&record.route, &record.caller, &record.endpoint)
        else {
            return Err(Reason::Internal);
        };
        self.lasting.metrics.sessions.opened.inc();
        let binding = Binding { route: &route.digest, caller: caller.digest() };
        let opening = mcp::params_of(&forward.body).unwrap_or_default();
        let now = SystemTime::now();
        let new = NewSession { endpoint: endpoint.id(), revision, upstream_id, opening };
        // Only an id of unheard-of length leaves no room for itself in ours.
        let sealed = ctx.snapshot.seal.seal(binding, new, now).ok_or(Reason::EndpointBroken)?;
        let place =
            Place { endpoint: Arc::clone(endpoint), upstream_id: Some(upstream_id.to_vec()) };
        let beside = (sealed.opening == Opening::Beside).then(|| opening.into());
        let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
        sessions.came(sealed.key, &place, revision, beside, seconds(now), rules);
        ctx.record.session = Some(short_digest(&sealed.token));
        Ok(sealed.token)
    }

    /// Keeps what a successful answer means for a session: that it ended, or what its client has
    /// set and will want again where it moves to.
    fn remember(&self, ctx: &Context, forward: &Forward) {
        let Some(held) = forward.held() else { return };
        let (sessions, rules, named) =
            (&ctx.snapshot.sessions, ctx.snapshot.session_rules, held.named());
        if forward.shape.exchange == Purpose::EndsSession {
            if let Some(caller) = &ctx.record.caller {
                self.lasting.marks.session_ended(caller.digest(), named.key);
            }
            return sessions.ended(named);
        }
        let subscription = match &*ctx.record.method {
            "logging/setLevel" => {
                if let Some(level) = mcp::log_level(&forward.body) {
                    sessions.note_level(named, &level, rules);
                }
                return;
            }
            "resources/subscribe" => Subscription::Begins,
            "resources/unsubscribe" => Subscription::Ends,
            _ => return,
        };
        let record = &ctx.record;
        if let Some(uri) = record.own_target.as_deref().or(record.target.as_deref()) {
            sessions.note_subscription(named, uri, subscription, rules);
        }
    }

    /// Waits for the next part of the body.
    pub(super) async fn read_part(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        exchange: &mut Exchange,
        is_stream: IsStream,
    ) -> Result<Option<Bytes>, Interrupted> {
        let timeouts = forward.pool.timeouts();
        let limit = match is_stream {
            IsStream::Yes => timeouts.stream_idle,
            IsStream::No => timeouts.total.saturating_sub(ctx.started.elapsed()),
        };
        let began = Instant::now();
        let read = pin!(exchange.read_body());
        let part = while_client_waits(session, forward, limit, read).await;
        ctx.record.waited += began.elapsed();
        part
    }

    /// The client is gone. A legacy request goes on without it: the server may still be working,
    /// and a legacy disconnect is not a cancel (2025-11-25 transport).
    pub(super) async fn client_left(
        &self,
        ctx: &mut Context,
        forward: &Forward,
        exchange: Option<Exchange>,
    ) -> End {
        ctx.record.outcome = Some(Outcome::Cancelled);
        let ends_here = forward.shape.ends_with_client();
        if let Some(mut exchange) = exchange.filter(|_| !ends_here) {
            let left = forward.pool.timeouts().total.saturating_sub(ctx.started.elapsed());
            let to_its_end = async { while let Ok(Some(_)) = exchange.read_body().await {} };
            if pingora::time::timeout(left, to_its_end).await.is_ok() {
                self.connections.close(exchange).await;
            }
        }
        End::Cut
    }

    /// The server's side failed in the middle of an answer.
    pub(super) async fn interrupted(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        watch: &BodyWatch,
        interrupted: Interrupted,
    ) -> End {
        let Some(reason) = interrupted.reason() else {
            ctx.record.outcome = Some(Outcome::Cancelled);
            return End::Cut;
        };
        ctx.record.outcome = Some(Outcome::Failed);
        ctx.record.reason = Some(reason);
        if let Some(endpoint) = &ctx.record.endpoint {
            self.endpoint_failed(&forward.pool, endpoint, reason);
        }
        ctx.record.verdict = watch.verdict();
        if !watch.is_between_events() {
            return End::Cut;
        }
        // Between two events a stream can end cleanly. A modern client learns that its request is
        // lost; a legacy one comes back with `Last-Event-ID` and may still get its answer.
        let last = match forward.shape.era {
            Era::Modern => error_event(forward, reason),
            Era::Legacy => Vec::new(),
        };
        ctx.give_back();
        match session.write_response_body(Bytes::from(last), true).await {
            Ok(()) => End::Complete,
            Err(_) => End::Cut,
        }
    }
}

/// Notes that the session is in use, and that events of the endpoint where it moved to have reached
/// the client: from then on it is them that a `Last-Event-ID` speaks of.
pub(super) fn note_use(ctx: &Context, forward: &Forward, part: &[u8]) {
    let Some(held) = forward.held() else { return };
    // Most answers are one part, and their session was noted when they were asked for.
    if ctx.started.elapsed() > NOTED_FOR {
        ctx.snapshot.sessions.touch(held.key(), seconds(SystemTime::now()));
    }
    let has_id = || part.starts_with(b"id:") || memchr::memmem::find(part, b"\nid:").is_some();
    if held.is_away() && has_id() {
        ctx.snapshot.sessions.spoke(held.key());
    }
}

/// The event by which a client learns that its request has failed; nothing where it made none.
pub(super) fn error_event(forward: &Forward, reason: Reason) -> Vec<u8> {
    let Some(id) = forward.reply_id() else { return Vec::new() };
    let refusal = Refusal::from(reason);
    let mut event = b"event: message\ndata: ".to_vec();
    ErrorBody {
        reply_to: ReplyTo::Id(id.as_id()),
        code: refusal.code,
        message: &refusal.message,
        detail_json: None,
    }
    .write(&mut event);
    event.extend_from_slice(b"\n\n");
    event
}

/// A server said what cannot be passed on.
pub(super) fn unfit(forward: &Forward, fault: Unfit) -> Reason {
    let (server, fault) = (forward.pool.name(), fault.as_str());
    tracing::warn!(server, fault, "an answer of a server is not passed on");
    Reason::EndpointBroken
}

/// Whether an answer may idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsStream {
    Yes,
    No,
}

fn is_stream(head: &UpstreamHead, forward: &Forward) -> IsStream {
    match head.is_event_stream() || forward.shape.exchange == Purpose::Stream {
        true => IsStream::Yes,
        false => IsStream::No,
    }
}
