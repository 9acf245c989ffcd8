//! Finds the endpoint for a planned request, and another one when the first cannot take it.

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::context::Context;
use super::moving::Moved;
use super::plan::{Exchange, Forward, Placement};
use crate::telemetry::Reason;
use crate::upstream::{Busy, Endpoint, InFlight, Load, Loss, Otherwise, Wanted, now_ms};

/// How often one request may make its session move.
const MOVES_MAX: u32 = 3;

/// What one request has met so far.
#[derive(Default)]
pub(super) struct Tried {
    /// Endpoints that cannot take it, and the last one's reason.
    in_vain: Vec<u64>,
    last: Option<Reason>,
    /// Endpoints whose breaker is closed to it; waiting helps.
    busy: Vec<Arc<Endpoint>>,
    /// Why its session cannot stay where it is.
    lost: Option<Loss>,
    moves: u32,
    /// How many endpoints in vain a retry was paid for.
    paid: usize,
    /// Whether the session stays although it should leave: there was nowhere to go.
    stays: bool,
    forgotten: bool,
    repeats: u32,
    /// Whether the next connection must be a new one.
    pub(super) avoid_idle: bool,
}

/// Where a request goes next.
pub(super) enum Next {
    /// To this endpoint.
    At(Arc<Endpoint>),
    /// To this endpoint, once it has room: all have as much to do as they may.
    InTurn(Arc<Endpoint>),
    /// Where its session moves to.
    Move(Loss),
}

/// What is thought of a connection that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// It was new, or had begun to answer.
    Sound,
    /// It was kept, and the server closed it in the same moment.
    Stale,
}

impl Tried {
    /// A new request. What ends the opening of a session belongs to where it was opened: another
    /// gateway may think better of that endpoint, and use the session there.
    pub(super) fn of(method: &str) -> Self {
        Self { stays: method == "notifications/initialized", ..Self::default() }
    }

    /// Where the request goes next.
    pub(super) fn next(&mut self, forward: &Forward) -> Result<Next, Reason> {
        let now_ms = now_ms();
        match &forward.placement {
            Placement::Held(held) => {
                let lost = self.lost.take().or_else(|| match &held.endpoint {
                    None => Some(Loss::Gone),
                    Some(_) if self.stays => None,
                    Some(endpoint) => forward.pool.must_leave(endpoint, now_ms),
                });
                match (lost, &held.endpoint) {
                    (None, Some(endpoint)) => Ok(Next::At(Arc::clone(endpoint))),
                    _ if self.moves >= MOVES_MAX => Err(Reason::EndpointUnreachable),
                    (lost, _) => {
                        self.moves += 1;
                        Ok(Next::Move(lost.unwrap_or(Loss::Gone)))
                    }
                }
            }
            Placement::Any { key, random } => {
                let attempts = forward.pool.settings().retries.attempts as usize;
                if let Some(reason) = self.last
                    && self.in_vain.len() > self.paid
                {
                    self.paid = self.in_vain.len();
                    if self.in_vain.len() > attempts || !forward.pool.may_retry(now_ms) {
                        return Err(reason);
                    }
                }
                let busy = self.busy.iter().map(|endpoint| endpoint.id());
                let tried: Vec<u64> = self.in_vain.iter().copied().chain(busy).collect();
                let load = match forward.shape.exchange {
                    Exchange::OpensSession => Load::Sessions,
                    _ => Load::Calls,
                };
                let otherwise = match self.busy.is_empty() {
                    true => Otherwise::Trust,
                    false => Otherwise::Nothing,
                };
                let (key, random) = (key.as_bytes(), *random);
                let wanted = Wanted { key, random, tried: &tried, load, otherwise, now_ms };
                match forward.pool.choose(&wanted) {
                    Some(endpoint) => Ok(Next::At(endpoint)),
                    // All that is left is busy: the first choice is worth waiting for.
                    None => match self.busy.first() {
                        Some(endpoint) => Ok(Next::InTurn(Arc::clone(endpoint))),
                        None => Err(self.last.unwrap_or(Reason::EndpointNone)),
                    },
                }
            }
        }
    }

    /// Remembers an endpoint that could not be connected to: nothing was sent, so the request may
    /// go elsewhere whatever it is.
    pub(super) fn unreachable(&mut self, endpoint: &Endpoint) {
        self.lost = Some(Loss::Unreachable);
        self.in_vain(endpoint, Reason::EndpointUnreachable);
    }

    /// Remembers an endpoint that broke off while it had a request that may run twice. Tells
    /// whether it may be sent again.
    pub(super) fn broken(
        &mut self,
        endpoint: &Endpoint,
        forward: &Forward,
        connection: Connection,
    ) -> bool {
        if self.repeats >= forward.pool.settings().retries.attempts {
            return false;
        }
        self.repeats += 1;
        self.avoid_idle = true;
        match (&forward.placement, connection) {
            (Placement::Any { .. }, Connection::Sound) => {
                self.in_vain(endpoint, Reason::EndpointBroken);
                true
            }
            // A session has nowhere else to go, and a stale connection says nothing bad.
            _ => forward.pool.may_retry(now_ms()),
        }
    }

    /// The endpoint does not know the session any more. Tells whether it may move: a server that
    /// does not know a session it has just opened knows none.
    pub(super) fn forgotten(&mut self) -> bool {
        self.lost = Some(Loss::Forgotten);
        !std::mem::replace(&mut self.forgotten, true)
    }

    /// The session lives elsewhere now. Where another request or replica has moved it, it may be
    /// forgotten too by now.
    fn moved(&mut self, moved: &Moved) {
        self.forgotten &= matches!(moved, Moved::Now);
    }

    /// The session cannot leave. Tells whether it may stay where it is.
    fn stays(&mut self, loss: Loss) -> bool {
        self.stays = matches!(loss, Loss::Drained | Loss::Ejected);
        self.stays
    }

    fn in_vain(&mut self, endpoint: &Endpoint, reason: Reason) {
        self.in_vain.push(endpoint.id());
        self.last = Some(reason);
    }
}

impl Gateway {
    /// Finds the endpoint, moves the session there if it must, and enters by the breaker.
    pub(super) async fn upstream_peer(
        &self,
        session: &mut pingora::protocols::http::ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
        tried: &mut Tried,
    ) -> Result<(Arc<Endpoint>, InFlight), Reason> {
        loop {
            let endpoint = match tried.next(forward)? {
                Next::At(endpoint) => endpoint,
                Next::InTurn(endpoint) => return enter_in_turn(endpoint, ctx, forward).await,
                Next::Move(loss) => {
                    let began = Instant::now();
                    // Boxed: moving is rare and has many states.
                    let moved = Box::pin(self.move_session(session, ctx, forward, loss)).await;
                    ctx.record.waited += began.elapsed();
                    match moved {
                        Err(reason) if reason != Reason::SessionUnknown && tried.stays(loss) => {
                            tracing::debug!(loss = loss.as_str(), "nowhere to move to");
                        }
                        moved => tried.moved(&moved?),
                    }
                    continue;
                }
            };
            if forward.shape.exchange == Exchange::Stream {
                ctx.record.endpoint = Some(Arc::clone(&endpoint));
                let in_flight = endpoint.enter_stream();
                return Ok((endpoint, in_flight));
            }
            if let Some(in_flight) = endpoint.try_enter(&forward.pool.settings().breaker) {
                ctx.record.endpoint = Some(Arc::clone(&endpoint));
                return Ok((endpoint, in_flight));
            }
            match forward.placement {
                Placement::Held(_) => return enter_in_turn(endpoint, ctx, forward).await,
                Placement::Any { .. } => tried.busy.push(endpoint),
            }
        }
    }
}

/// Waits until the endpoint has room, for as long as the server may take to answer.
async fn enter_in_turn(
    endpoint: Arc<Endpoint>,
    ctx: &mut Context,
    forward: &Forward,
) -> Result<(Arc<Endpoint>, InFlight), Reason> {
    ctx.record.endpoint = Some(Arc::clone(&endpoint));
    let breaker = &forward.pool.settings().breaker;
    let wait_max = forward.pool.timeouts().first_byte;
    match Box::pin(endpoint.enter_in_turn(breaker, wait_max)).await {
        Ok(in_flight) => Ok((endpoint, in_flight)),
        Err(Busy) => Err(Reason::EndpointBusy),
    }
}
