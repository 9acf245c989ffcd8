//! Carries a planned request to an endpoint: connects, sends, and waits for the answer's head.
//!
//! The whole request is known before the first byte leaves, so one direction is done after the
//! other. That keeps an idle stream small, pushes back on a server when the client reads slowly,
//! and leaves no doubt about what was sent when something fails. Every request takes this way, so
//! there is one life of a request and not two; `loadtest/compare` shows that it costs less than
//! Pingora's own pipeline.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use pingora::ErrorType;
use pingora::protocols::http::ServerSession;
use pingora::time::timeout;

use super::Gateway;
use super::context::{Context, Reached};
use super::deliver::Body;
use super::exchange::{Connections, Exchange};
use super::http1::{Arrived, Broken};
use super::identity_headers::{subject, told};
use super::plan::{Exchange as Purpose, Forward, Repeat};
use super::refusal::Refusal;
use super::response_filter::UpstreamHead;
use super::trace::Trace;
use super::upstream_peer::{Connection, Tried};
use super::upstream_request_filter::Outgoing;
use crate::config::OnEndpointLoss;
use crate::jsonrpc;
use crate::mcp::{self, LAST_EVENT_ID};
use crate::telemetry::{Outcome, Reason};
use crate::upstream::{Endpoint, Field, InFlight, Now};

/// How a request that was begun came to its end.
#[must_use]
pub(super) enum End {
    /// The client has a whole answer.
    Complete,
    /// Something failed before the client saw anything.
    Refused(Refusal),
    /// The answer was cut; the client's connection cannot be used again.
    Cut,
}

/// How far a request came at once.
pub(super) enum Pumped {
    Ended(End),
    /// The client has the head of a long stream; the rest comes when it comes.
    Stream(Box<Body>, InFlight),
}

impl From<End> for Pumped {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

/// An answer whose head is here, and of which the client has seen nothing yet.
pub(super) struct Begun {
    pub(super) exchange: Exchange,
    pub(super) head: UpstreamHead,
    /// What came of the body with the head.
    pub(super) arrived: Arrived,
    pub(super) in_flight: InFlight,
}

/// Why waiting for the server ended without it.
pub(super) enum Interrupted {
    /// The client left.
    ClientGone,
    /// Time ran out.
    TimedOut,
    /// The server's side failed.
    Broken(Broken),
}

impl Interrupted {
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Self::ClientGone => None,
            Self::TimedOut => Some(Reason::EndpointTimeout),
            Self::Broken(_) => Some(Reason::EndpointBroken),
        }
    }
}

impl Gateway {
    /// Carries out `forward`: to its end, or until only the events of a long stream are left.
    pub(super) async fn pump(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
    ) -> Pumped {
        match self.begin(session, ctx, forward).await {
            Ok(begun) => self.deliver(session, ctx, forward, begun).await,
            Err(None) => {
                ctx.record.outcome = Some(Outcome::Cancelled);
                End::Cut.into()
            }
            Err(Some(reason)) => End::Refused(reason.into()).into(),
        }
    }

    /// Connects, sends, and waits for the head of the answer. `Err(None)`: the client left.
    pub(super) async fn begin(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
    ) -> Result<Begun, Option<Reason>> {
        forward.pool.count_request();
        let mut tried = Tried::of(&ctx.record.method);
        if let Some(held) = forward.held().filter(|held| held.is_away())
            && ctx.snapshot.sessions.is_silent_since_move(held.key())
        {
            // The client has seen no event of the endpoint where its session lives now.
            session.req_header_mut().remove_header(LAST_EVENT_ID);
        }
        loop {
            let (endpoint, in_flight) =
                self.upstream_peer(session, ctx, forward, &mut tried).await?;
            let credential = credential(session, ctx, forward).await.map_err(Some)?;
            ctx.asks();
            let mut exchange = match open(&self.connections, &endpoint, &tried).await {
                Ok(exchange) => exchange,
                Err(reason) => {
                    self.endpoint_refused(&forward.pool, &endpoint, reason);
                    ctx.asked_in_vain(&endpoint, reason);
                    tried.unreachable(&endpoint);
                    continue;
                }
            };
            let interrupted = match ask(session, ctx, forward, &credential, &mut exchange).await {
                Ok(head) => {
                    let arrived = exchange.arrived().map_err(|_| Some(Reason::EndpointBroken))?;
                    if is_forgotten(&head, &arrived, forward)
                        && Box::pin(self.has_forgotten(session, ctx, forward, &endpoint)).await
                        && tried.forgotten()
                    {
                        ctx.asked_in_vain(&endpoint, Reason::SessionUnknown);
                        if arrived.whole {
                            self.connections.close(exchange).await;
                        }
                        continue;
                    }
                    if !(head.is_event_stream() && forward.shape.exchange == Purpose::Message) {
                        self.endpoint_answered(&forward.pool, &endpoint, head.status);
                    }
                    return Ok(Begun { exchange, head, arrived, in_flight });
                }
                Err(interrupted) => interrupted,
            };
            let Some(reason) = interrupted.reason() else { return Err(None) };
            if let Interrupted::Broken(broken) = &interrupted {
                tracing::debug!(endpoint = endpoint.url(), ?broken, "no answer");
                // A kept connection that the server closed in the same moment says nothing bad of
                // the server. Nobody answered, and nobody can know whether the request was heard:
                // what may run twice is sent again.
                let connection = match exchange.reused && !exchange.heard() {
                    true => Connection::Stale,
                    false => Connection::Sound,
                };
                match connection {
                    Connection::Sound => self.endpoint_failed(&forward.pool, &endpoint, reason),
                    Connection::Stale => {
                        let server = forward.pool.name();
                        self.lasting.metrics.upstream_failed(server, endpoint.url(), reason);
                    }
                }
                if forward.shape.repeat == Repeat::Harmless
                    && tried.broken(&endpoint, forward, connection)
                {
                    ctx.asked_in_vain(&endpoint, reason);
                    continue;
                }
            } else {
                self.endpoint_failed(&forward.pool, &endpoint, reason);
            }
            return Err(Some(reason));
        }
    }
}

/// Connects, or takes a connection that is kept, unless such a one has just failed.
async fn open(
    connections: &Connections,
    endpoint: &Endpoint,
    tried: &Tried,
) -> Result<Exchange, Reason> {
    match tried.avoid_idle {
        false => connections.open(endpoint).await,
        true => connections.open_fresh(endpoint).await,
    }
}

/// Whether the server says that it does not know the session (2025-11-25 transport, "Session
/// Management"): the request has not run, and may move with its session. Where it is the method
/// that it does not know, it says so.
fn is_forgotten(head: &UpstreamHead, arrived: &Arrived, forward: &Forward) -> bool {
    head.status == 404
        && forward.upstream_session().is_some()
        && forward.shape.exchange != Purpose::EndsSession
        && forward.pool.settings().on_endpoint_loss == OnEndpointLoss::Move
        && mcp::error_code(&arrived.part) != Some(jsonrpc::METHOD_NOT_FOUND)
}

/// What the server gets instead of the client's credentials. Nothing is sent where there is none.
async fn credential(
    session: &ServerSession,
    ctx: &mut Context,
    forward: &Forward,
) -> Result<Option<Field>, Reason> {
    let subject = subject(session.req_header(), ctx.record.caller.as_deref());
    let credentials = forward.pool.credentials();
    match credentials.now(subject) {
        Now::Nothing => Ok(None),
        Now::Known(field) => Ok(Some(field)),
        Now::Unknown => {
            let began = Instant::now();
            let credential = Box::pin(credentials.of(subject)).await;
            ctx.record.waited += began.elapsed();
            credential.map_err(Reason::from)
        }
    }
}

/// Sends the request and waits for the head of its answer.
async fn ask(
    session: &mut ServerSession,
    ctx: &mut Context,
    forward: &Forward,
    credential: &Option<Field>,
    exchange: &mut Exchange,
) -> Result<UpstreamHead, Interrupted> {
    let Some(endpoint) = &ctx.record.endpoint else {
        return Err(Interrupted::Broken(Broken::Framing("no endpoint")));
    };
    let outgoing = Outgoing {
        client: session.req_header(),
        endpoint,
        session: forward.upstream_session(),
        request_id: ctx.request_id(),
        client_address: ctx.record.client,
        body_bytes: forward.body.len(),
        credential: credential.as_ref(),
        told: told(&forward.pool, ctx.record.caller.as_deref()),
        trace: ctx.trace.as_ref().map(Trace::onward),
    };
    let head = exchange.prepare(&outgoing).map_err(Interrupted::Broken)?;
    let room = match forward.shape.exchange {
        // The head of a stream stays in memory as long as the stream.
        Purpose::Stream => 1024,
        _ => 4096,
    };
    ctx.record.reached = Reached::Server;
    let answer = pin!(async {
        let sent = exchange.send(head, &forward.body).await;
        match exchange.read_head(room).await {
            Ok(head) => Ok(head),
            // A server may answer without reading all of a request, and close: its answer counts
            // more than our failure to write the rest.
            Err(broken) => Err(sent.err().unwrap_or(broken)),
        }
    });
    let began = Instant::now();
    let limit = forward.pool.timeouts().first_byte;
    let head = while_client_waits(session, forward, limit, answer).await;
    ctx.record.waited += began.elapsed();
    if head.as_ref().is_ok_and(|head| head.status == 401) {
        let subject = subject(session.req_header(), ctx.record.caller.as_deref());
        forward.pool.credentials().rejected(subject);
    }
    head
}

/// Waits for `work`, at most `limit`, and no longer than the client does where that matters. It is
/// handed over by reference, because every future that holds another by value has room for it twice.
pub(super) async fn while_client_waits<T>(
    session: &mut ServerSession,
    forward: &Forward,
    limit: Duration,
    work: Pin<&mut impl Future<Output = Result<T, Broken>>>,
) -> Result<T, Interrupted> {
    let work = timeout(limit, work);
    let done = match forward.shape.ends_with_client() {
        true => while_client_stays(session, work).await,
        false => Some(work.await),
    };
    match done {
        Some(Ok(done)) => done.map_err(Interrupted::Broken),
        Some(Err(_)) => Err(Interrupted::TimedOut),
        None => Err(Interrupted::ClientGone),
    }
}

/// Waits for `work` as long as the client waits for it.
pub(super) async fn while_client_stays<T>(
    session: &mut ServerSession,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased; // What the server has already said comes before the client's leaving.
        done = work => Some(done),
        () = client_leaves(session) => None,
    }
}

/// Whether the client is gone already.
pub(super) async fn has_left(session: &mut ServerSession) -> bool {
    tokio::select! {
        biased;
        () = client_leaves(session) => true,
        () = std::future::ready(()) => false,
    }
}

/// Ends when the client is gone. One that sends its next request early is not: it gets its answer,
/// and sends that request again on another connection, because this one has lost a byte of it.
async fn client_leaves(session: &mut ServerSession) {
    let downstream = session;
    if let Err(error) = downstream.read_body_or_idle(true).await
        && *error.etype() == ErrorType::ConnectError
    {
        downstream.set_keepalive(None);
        std::future::pending().await
    }
}
