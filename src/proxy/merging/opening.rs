//! Opens the stream of one of several servers.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use pingora::http::RequestHeader;
use pingora::time::timeout;

use super::source::{Ask, Missed, Scene, Source};
use crate::config::OnEndpointLoss;
use crate::federation::EventsToClient;
use crate::jsonrpc::METHOD_NOT_FOUND;
use crate::mcp::{LAST_EVENT_ID, MCP_PROTOCOL_VERSION, Revision, error_code};
use crate::proxy::errands::held_leg;
use crate::proxy::exchange::Exchange;
use crate::proxy::http1::{Arrived, Broken};
use crate::proxy::identity_headers::{subject, told};
use crate::proxy::renaming::HELD_BYTES_MAX;
use crate::proxy::response_body_filter::BodyWatch;
use crate::proxy::response_filter::UpstreamHead;
use crate::proxy::trace::Trace;
use crate::proxy::upstream_request_filter::Outgoing;
use crate::sessions::Place;
use crate::telemetry::Reason;
use crate::upstream::{Endpoint, InFlight, Load, Loss, Otherwise, Pool, Wanted, now_ms};

/// How often a leg may move before its stream is open.
const MOVES_MAX: u32 = 3;
/// What is read of an answer that is no stream.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An open stream of a server.
pub(super) struct Open {
    pub(super) exchange: Exchange,
    /// What came with its head.
    pub(super) first: Option<Bytes>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) events: EventsToClient,
    pub(super) watch: BodyWatch,
    /// What came of a listen stream before it is known what the server accepts.
    pub(super) prelude: Option<Vec<u8>>,
    /// What followed that.
    pub(super) passed: Option<Bytes>,
    pub(super) missed: Missed,
    /// Whether the server has said its last word.
    pub(super) is_over: bool,
    /// Whether it is to be looked whether its endpoint still is one to stay at.
    pub(super) must_look: bool,
    pub(super) since: Instant,
    _in_flight: InFlight,
}

/// What came of opening it.
pub(super) enum Opening {
    Open(Box<Open>),
    /// The server has no stream.
    Without,
    /// It may have one later.
    Later,
}

/// An answer that has begun.
struct Answered {
    exchange: Exchange,
    head: UpstreamHead,
    arrived: Arrived,
    in_flight: InFlight,
}

/// Why there is none.
enum Unanswered {
    Unreachable,
    Failed,
}

impl Source<'_> {
    /// Opens the stream of a leg, which moves first if it must.
    pub(super) async fn open_leg(&mut self) -> Opening {
        let Scene { gateway, ctx, client, session } = *self.scene;
        let Ask::Leg(held) = &mut self.ask else { return Opening::Without };
        let (pool, mut is_moved, mut stays, mut loss) = (&self.pool, false, false, None);
        if self.continues
            && let Some(session) = session
            && let Some(now) = Box::pin(held_leg(session.clone(), self.server, ctx)).await
        {
            // Another request may have moved it.
            let place = now.endpoint.clone().map(|endpoint| {
                let upstream_id = now.upstream_id().map(<[u8]>::to_vec);
                Place { endpoint, upstream_id }
            });
            is_moved = place.is_none_or(|place| !held.lives_at(&place));
            **held = now;
        }
        for _ in 0..=MOVES_MAX {
            let lost = loss.take().or_else(|| match &held.endpoint {
                None => Some(Loss::Gone),
                Some(_) if stays => None,
                Some(endpoint) => pool.must_leave(endpoint, now_ms()),
            });
            let endpoint = match (lost, &held.endpoint) {
                (None, Some(endpoint)) => Arc::clone(endpoint),
                (lost, _) => {
                    let lost = lost.unwrap_or(Loss::Gone);
                    match gateway.move_leg(client, ctx, pool, held, lost).await {
                        Ok(_) => is_moved = true,
                        Err(_) if matches!(lost, Loss::Drained | Loss::Ejected) => stays = true,
                        Err(Reason::SessionUnknown) => return Opening::Without,
                        Err(_) => return Opening::Later,
                    }
                    continue;
                }
            };
            let is_away = held.is_away() && ctx.snapshot.sessions.is_silent_since_move(held.key());
            if is_moved || is_away {
                // Events of the old endpoint mean nothing to the new one.
                self.resume = None;
            }
            let head = stream_head(client, held.state.revision, self.resume.as_deref());
            let Ok(head) = head else { return Opening::Without };
            let upstream_id = held.upstream_id();
            let asked = self.scene.ask(pool, &endpoint, (&head, upstream_id), &Bytes::new()).await;
            let mut answered = match asked {
                Ok(answered) => answered,
                Err(Unanswered::Unreachable) => {
                    loss = Some(Loss::Unreachable);
                    continue;
                }
                Err(Unanswered::Failed) => return Opening::Later,
            };
            if is_stream(&answered.head) {
                let is_whole = !is_moved && (!self.continues || self.resume.is_some());
                let missed = if is_whole { Missed::Nothing } else { Missed::Something };
                return self.opened(answered, endpoint, missed);
            }
            let may_be_forgotten = answered.head.status == 404
                && upstream_id.is_some()
                && pool.settings().on_endpoint_loss == OnEndpointLoss::Move
                && self.scene.code(pool, &mut answered).await != Some(METHOD_NOT_FOUND);
            if may_be_forgotten && gateway.is_unknown_at(client, ctx, pool, (held, &endpoint)).await
            {
                loss = Some(Loss::Forgotten);
                continue;
            }
            return without_stream(&answered.head);
        }
        Opening::Later
    }

    /// Opens a listen stream at an endpoint that takes it.
    pub(super) async fn open_listening(&mut self) -> Opening {
        let Ask::Listen { key, random, body, .. } = &self.ask else { return Opening::Without };
        let pool = &self.pool;
        let mut tried = Vec::new();
        for _ in 0..=pool.settings().retries.attempts {
            let wanted = Wanted {
                key: key.as_bytes(),
                random: *random,
                tried: &tried,
                load: Load::Calls,
                otherwise: Otherwise::Trust,
                now_ms: now_ms(),
            };
            let Some(endpoint) = pool.choose(&wanted) else { break };
            match self.scene.ask(pool, &endpoint, (self.scene.client, None), body).await {
                Ok(answered) if is_stream(&answered.head) => {
                    let missed = match self.continues {
                        true => Missed::Something,
                        false => Missed::Nothing,
                    };
                    return self.opened(answered, endpoint, missed);
                }
                Ok(answered) => return without_stream(&answered.head),
                Err(Unanswered::Unreachable) => tried.push(endpoint.id()),
                Err(Unanswered::Failed) => return Opening::Later,
            }
        }
        Opening::Later
    }

    fn opened(&self, answered: Answered, endpoint: Arc<Endpoint>, missed: Missed) -> Opening {
        let Answered { exchange, head, arrived, in_flight } = answered;
        let Some(passage) = self.passage() else { return Opening::Without };
        Opening::Open(Box::new(Open {
            exchange,
            first: Some(arrived.part).filter(|part| !part.is_empty()),
            endpoint,
            events: EventsToClient::new(&passage, HELD_BYTES_MAX),
            watch: BodyWatch::new(&head),
            prelude: matches!(self.ask, Ask::Listen { .. }).then(Vec::new),
            passed: None,
            missed,
            is_over: false,
            must_look: false,
            since: Instant::now(),
            _in_flight: in_flight,
        }))
    }
}

impl Scene<'_> {
    /// Sends a request for a stream, and waits for the head of its answer.
    async fn ask(
        &self,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        (head, upstream_id): (&RequestHeader, Option<&[u8]>),
        body: &Bytes,
    ) -> Result<Answered, Unanswered> {
        let (gateway, ctx) = (self.gateway, self.ctx);
        let caller = ctx.record.caller.as_deref();
        let subject = subject(self.client, caller);
        let credential = pool.credentials().of(subject).await.map_err(|_| Unanswered::Failed)?;
        pool.count_request();
        let outgoing = Outgoing {
            client: head,
            endpoint,
            session: upstream_id,
            request_id: ctx.request_id(),
            client_address: ctx.record.client,
            body_bytes: body.len(),
            credential: credential.as_ref(),
            told: told(pool, caller),
            trace: ctx.trace.as_ref().map(Trace::onward),
        };
        let in_flight = endpoint.enter_stream();
        let mut exchange = self.connect(pool, endpoint, Connect::Any).await?;
        let limit = pool.timeouts().first_byte;
        let mut asked = timeout(limit, converse(&mut exchange, &outgoing, body)).await;
        if let (Ok(Err(_)), true, false) = (&asked, exchange.reused, exchange.heard()) {
            // The server closed the kept connection in this moment.
            exchange = self.connect(pool, endpoint, Connect::Fresh).await?;
            asked = timeout(limit, converse(&mut exchange, &outgoing, body)).await;
        }
        let (head, arrived) = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => {
                tracing::debug!(endpoint = endpoint.url(), ?broken, "no stream");
                gateway.endpoint_failed(pool, endpoint, Reason::EndpointBroken);
                return Err(Unanswered::Failed);
            }
            Err(_) => {
                gateway.endpoint_failed(pool, endpoint, Reason::EndpointTimeout);
                return Err(Unanswered::Failed);
            }
        };
        if head.status == 401 {
            pool.credentials().rejected(subject);
        }
        gateway.endpoint_answered(pool, endpoint, head.status);
        Ok(Answered { exchange, head, arrived, in_flight })
    }

    async fn connect(
        &self,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        connect: Connect,
    ) -> Result<Exchange, Unanswered> {
        let connections = &self.gateway.connections;
        let opened = match connect {
            Connect::Any => connections.open(endpoint).await,
            Connect::Fresh => connections.open_fresh(endpoint).await,
        };
        opened.map_err(|reason| {
            self.gateway.endpoint_refused(pool, endpoint, reason);
            Unanswered::Unreachable
        })
    }

    /// The code of the JSON-RPC error that the answer is, if it is one.
    async fn code(&self, pool: &Pool, answered: &mut Answered) -> Option<i32> {
        let Answered { exchange, arrived, .. } = answered;
        let mut body = Vec::from(&arrived.part[..]);
        let rest = async {
            while !exchange.is_finished() && body.len() <= ANSWER_BYTES_MAX {
                match exchange.read_body().await {
                    Ok(Some(part)) => body.extend_from_slice(&part),
                    _ => break,
                }
            }
        };
        // What is not here by then says nothing.
        let _is_late = timeout(pool.timeouts().first_byte, rest).await.is_err();
        error_code(&body)
    }
}

/// Which connection is used.
#[derive(Clone, Copy)]
enum Connect {
    Any,
    Fresh,
}

async fn converse(
    exchange: &mut Exchange,
    outgoing: &Outgoing<'_>,
    body: &Bytes,
) -> Result<(UpstreamHead, Arrived), Broken> {
    let prepared = exchange.prepare(outgoing)?;
    let sent = exchange.send(prepared, body).await;
    // The head of a stream stays in memory as long as the stream. An answer counts more than a failure
    // to write the rest of the request.
    let head = match exchange.read_head(1024).await {
        Ok(head) => head,
        Err(broken) => return Err(sent.err().unwrap_or(broken)),
    };
    let arrived = exchange.arrived()?;
    Ok((head, arrived))
}

fn is_stream(head: &UpstreamHead) -> bool {
    // The gateway asks for no coding, and cannot read one.
    head.status == 200 && head.is_event_stream() && head.field(&CONTENT_ENCODING).is_none()
}

/// Whether it makes sense to ask again.
fn without_stream(head: &UpstreamHead) -> Opening {
    match head.status {
        501 => Opening::Without,
        401 | 408 | 425 | 429 | 500.. => Opening::Later,
        _ => Opening::Without,
    }
}

/// The head of a GET in a leg, which may speak another revision than its client.
fn stream_head(
    client: &RequestHeader,
    revision: Option<Revision>,
    resume: Option<&str>,
) -> pingora::Result<RequestHeader> {
    let mut head = client.clone();
    head.remove_header(LAST_EVENT_ID);
    if let Some(revision) = revision {
        head.insert_header(MCP_PROTOCOL_VERSION, revision.as_str())?;
    }
    if let Some(resume) = resume {
        head.insert_header(LAST_EVENT_ID, resume)?;
    }
    Ok(head)
}
