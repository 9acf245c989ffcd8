//! Passes an answer on to the client, part by part as it comes, and ends it as well as it can.

use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use pingora_proxy::Session;

use super::Gateway;
use super::context::Context;
use super::exchange::Exchange;
use super::plan::{Exchange as Purpose, Forward};
use super::pump::{Begun, End, Interrupted, while_client_waits};
use super::response_body_filter::{BodyWatch, Look};
use super::response_filter::{UpstreamHead, response_filter};
use crate::jsonrpc::{ErrorBody, ReplyTo};
use crate::mcp::{Answer, Era, Revision};
use crate::sessions::{Binding, SessionState};
use crate::telemetry::{Outcome, Reason};
use crate::upstream::SessionHabit;

/// The answer to `initialize` is held until it is understood, up to this size.
const HELD_BYTES_MAX: usize = 64 * 1024;

impl Gateway {
    /// Gives the client the answer that has begun.
    pub(super) async fn deliver(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        forward: &Forward,
        begun: Begun,
    ) -> End {
        let Begun { mut exchange, head, in_flight } = begun;
        let mut held = BytesMut::new();
        let mut sealed = None;
        if forward.shape.exchange == Purpose::OpensSession && (200..300).contains(&head.status) {
            let opened = self.open_session(session, ctx, forward, &mut exchange, &head, &mut held);
            match opened.await {
                Ok(token) => sealed = token,
                Err(reason) => return End::Refused(reason.into()),
            }
        }
        ctx.record.status = head.status;
        ctx.record.outcome = Some(match head.status {
            400.. => Outcome::ServerError,
            _ => Outcome::Ok,
        });
        let mut watch = BodyWatch::new(&head, self.look(ctx));
        let written = match response_filter(&head, sealed, session, ctx) {
            Ok(answer) => session.as_mut().write_response_header(answer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::debug!(%error, "client left before its answer");
            return self.client_left(ctx, forward, exchange).await;
        }
        let is_stream = watch_is_stream(&head, forward);
        drop(head);
        let mut next = Some(held.freeze()).filter(|held| !held.is_empty());
        loop {
            let part = match next.take() {
                Some(held) => Some(held),
                None => match self.read_part(session, ctx, forward, &mut exchange, is_stream).await
                {
                    Ok(part) => part,
                    Err(interrupted) => {
                        return self.interrupted(session, ctx, forward, &watch, interrupted).await;
                    }
                },
            };
            let Some(part) = part else { break };
            watch.saw(&part);
            ctx.record.bytes_out += part.len() as u64;
            let began = Instant::now();
            let written = session.as_mut().write_response_body(part, false).await;
            ctx.record.waited += began.elapsed();
            if let Err(error) = written {
                tracing::debug!(%error, "client left during its answer");
                return self.client_left(ctx, forward, exchange).await;
            }
        }
        ctx.record.answered_without_error = watch.answered_without_error();
        self.connections.close(exchange).await;
        drop(in_flight);
        match session.as_mut().write_response_body(Bytes::new(), true).await {
            Ok(()) => End::Complete,
            Err(_) => End::Cut,
        }
    }

    /// Reads the answer to `initialize` and seals the session it opens. What was read to understand
    /// it is left in `held`.
    async fn open_session(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        forward: &Forward,
        exchange: &mut Exchange,
        head: &UpstreamHead,
        held: &mut BytesMut,
    ) -> Result<Option<String>, Reason> {
        let Some(upstream_id) = head.session_id().map(|id| id.as_bytes().to_vec()) else {
            forward.pool.learn_session_habit(SessionHabit::Stateless);
            return Ok(None);
        };
        let revision = loop {
            let answer = match head.is_event_stream() {
                true => Answer::of_events(held),
                false => Answer::of_json(held),
            };
            match answer {
                Some(Answer::Success { revision }) => break revision,
                // Nothing was opened, whatever the head says.
                Some(Answer::Error) => return Ok(None),
                None if held.len() > HELD_BYTES_MAX => break None,
                None => {}
            }
            match self.read_part(session, ctx, forward, exchange, IsStream::No).await {
                Ok(Some(part)) => held.extend_from_slice(&part),
                Ok(None) => break None,
                Err(interrupted) => {
                    return Err(interrupted.reason().unwrap_or(Reason::EndpointBroken));
                }
            }
        };
        forward.pool.learn_session_habit(SessionHabit::Mints);
        self.seal(ctx, upstream_id, revision).map(Some)
    }

    fn seal(
        &self,
        ctx: &Context,
        upstream_id: Vec<u8>,
        revision: Option<Revision>,
    ) -> Result<String, Reason> {
        let record = &ctx.record;
        let (Some(route), Some(caller), Some(endpoint)) =
            (&record.route, &record.caller, &record.endpoint)
        else {
            return Err(Reason::Internal);
        };
        self.metrics.sessions_opened.inc();
        let binding = Binding { route: &route.digest, caller: caller.digest() };
        let state = SessionState { endpoint: endpoint.id(), revision, upstream_id };
        let sealed = ctx.snapshot.seal.seal(binding, &state, SystemTime::now());
        // Only an id of unheard-of length leaves no room for itself in ours.
        sealed.ok_or(Reason::EndpointBroken)
    }

    /// Waits for the next part of the body.
    async fn read_part(
        &self,
        session: &mut Session,
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
        let part = while_client_waits(session, forward, limit, exchange.read_body()).await;
        ctx.record.waited += began.elapsed();
        part
    }

    /// The client is gone. A legacy request goes on without it: the server may still be working,
    /// and a legacy disconnect is not a cancel (2025-11-25 transport).
    async fn client_left(&self, ctx: &mut Context, forward: &Forward, exchange: Exchange) -> End {
        ctx.record.outcome = Some(Outcome::Cancelled);
        if !forward.shape.ends_with_client() {
            let mut exchange = exchange;
            let left = forward.pool.timeouts().total.saturating_sub(ctx.started.elapsed());
            let to_its_end = async { while let Ok(Some(_)) = exchange.read_body().await {} };
            if pingora::time::timeout(left, to_its_end).await.is_ok() {
                self.connections.close(exchange).await;
            }
        }
        End::Cut
    }

    /// The server's side failed in the middle of an answer.
    async fn interrupted(
        &self,
        session: &mut Session,
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
            self.metrics.upstream_failed(forward.pool.name(), endpoint.url(), reason);
        }
        if !watch.is_between_events() {
            return End::Cut;
        }
        // Between two events a stream can end cleanly. A modern client learns that its request is
        // lost; a legacy one comes back with `Last-Event-ID` and may still get its answer.
        let mut last = Vec::new();
        if let (Era::Modern, Some(id)) = (forward.shape.era, forward.reply_id()) {
            let refusal = super::refusal::Refusal::from(reason);
            last.extend_from_slice(b"event: message\ndata: ");
            ErrorBody {
                reply_to: ReplyTo::Id(id.as_id()),
                code: refusal.code,
                message: &refusal.message,
                detail_json: None,
            }
            .write(&mut last);
            last.extend_from_slice(b"\n\n");
        }
        match session.as_mut().write_response_body(Bytes::from(last), true).await {
            Ok(()) => End::Complete,
            Err(_) => End::Cut,
        }
    }

    /// Whether the answer must be read to learn whether the server knows the tool or method.
    fn look(&self, ctx: &Context) -> Look {
        match ctx.record.labels() {
            Some(labels) if ctx.record.has_claimed_name() && !self.metrics.is_known(labels) => {
                Look::Closely
            }
            _ => Look::Pass,
        }
    }
}

/// Whether an answer may idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsStream {
    Yes,
    No,
}

fn watch_is_stream(head: &UpstreamHead, forward: &Forward) -> IsStream {
    match head.is_event_stream() || forward.shape.exchange == Purpose::Stream {
        true => IsStream::Yes,
        false => IsStream::No,
    }
}
