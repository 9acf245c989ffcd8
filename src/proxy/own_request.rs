//! Requests that the gateway itself makes of a server on behalf of a session: to open it again
//! elsewhere, or to end it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method};
use pingora::http::RequestHeader;
use pingora::time::timeout;

use super::Shared;
use super::exchange::Exchange;
use super::reaping::Unclaimed;
use super::response_filter::UpstreamHead;
use super::trace::{Asked, Trace};
use super::upstream_request_filter::Outgoing;
use crate::identity::Caller;
use crate::mcp::{Answer, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, Revision, data_of_events};
use crate::sessions::Abandoned;
use crate::telemetry::Reason;
use crate::upstream::{Endpoint, Field, Pool};

/// An answer larger than this is not read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// One request of the gateway's own.
pub(super) struct OwnRequest<'a> {
    pub(super) head: &'a RequestHeader,
    pub(super) session: Option<&'a [u8]>,
    pub(super) request_id: &'a str,
    pub(super) client_address: Option<IpAddr>,
    pub(super) body: Bytes,
    /// What the server gets instead of a client's credentials.
    pub(super) credential: Option<&'a Field>,
    /// Who calls, if the server is told.
    pub(super) told: Option<&'a Caller>,
    /// What is asked, and for which request.
    pub(super) method: &'a str,
    pub(super) trace: Option<&'a Trace>,
}

/// What came back.
pub(super) struct Said {
    pub(super) head: UpstreamHead,
    /// The JSON-RPC answer, if there was one.
    pub(super) answer: Option<Answer>,
    body: Bytes,
}

impl Said {
    /// The JSON-RPC answer as it stands on the wire; whatever else came if there was none.
    pub(super) fn text(self) -> Bytes {
        if !self.head.is_event_stream() {
            return self.body;
        }
        let mut events = data_of_events(&self.body).into_iter();
        events.find(|data| Answer::of_json(data).is_some()).unwrap_or_default().into()
    }
}

/// Why nothing came back.
pub(super) enum Unsaid {
    /// The endpoint cannot be connected to.
    Unreachable,
    /// It broke off, or took too long.
    Broken,
    /// It answered, but not with what is needed.
    Refused,
}

/// Why an exchange came to nothing.
enum Silent {
    /// It had been kept, and the server had closed it.
    Closed,
    Broken,
}

impl Shared {
    /// Asks the endpoint, and reads its answer as far as it is needed.
    pub(super) async fn ask_endpoint(
        &self,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        request: OwnRequest<'_>,
    ) -> Result<Said, Unsaid> {
        self.ask_for(pool, endpoint, request, &mut Unclaimed::nothing(&self.reaper)).await
    }

    /// Asks the endpoint for a session, which is `unclaimed` from when it is named.
    pub(super) async fn ask_for(
        &self,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        request: OwnRequest<'_>,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Said, Unsaid> {
        let Ok(exchange) = self.connections.open(endpoint).await else {
            return Err(Unsaid::Unreachable);
        };
        match self.ask_by(exchange, pool, endpoint, &request, unclaimed).await {
            // The server closed the kept connection in this moment; what the gateway asks may be
            // asked twice.
            Err(Silent::Closed) => {
                let fresh = self.connections.open_fresh(endpoint).await;
                let fresh = fresh.map_err(|_| Unsaid::Unreachable)?;
                let said = self.ask_by(fresh, pool, endpoint, &request, unclaimed).await;
                said.map_err(|_| Unsaid::Broken)
            }
            Err(Silent::Broken) => Err(Unsaid::Broken),
            Ok(said) => Ok(said),
        }
    }

    async fn ask_by(
        &self,
        exchange: Exchange,
        pool: &Pool,
        endpoint: &Arc<Endpoint>,
        request: &OwnRequest<'_>,
        unclaimed: &mut Unclaimed<'_>,
    ) -> Result<Said, Silent> {
        // Whoever waits may leave at any moment: the exchange is then still in good hands.
        let exchange = unclaimed.exchange.insert(exchange);
        let span = request.trace.map(Trace::ask_oneself);
        let with = (&**endpoint, exchange);
        let asked = self.converse(with, request, span.as_ref(), &mut unclaimed.session);
        let said = timeout(pool.timeouts().first_byte, asked).await;
        if let (Some(trace), Some(span)) = (request.trace, span) {
            trace.asked_oneself(span, (pool, endpoint), request.method, || match &said {
                Err(_) => Some(Reason::EndpointTimeout.as_str().to_owned()),
                Ok(None) => Some(Reason::EndpointBroken.as_str().to_owned()),
                Ok(Some(said)) => (said.head.status >= 400).then(|| said.head.status.to_string()),
            });
        }
        let Ok(said) = said else { return Err(Silent::Broken) };
        let exchange = unclaimed.exchange.take();
        let Some(said) = said else {
            let was_closed = exchange.is_some_and(|of| of.reused && !of.heard());
            return Err(if was_closed { Silent::Closed } else { Silent::Broken });
        };
        if let Some(exchange) = exchange.filter(Exchange::is_finished) {
            self.connections.close(exchange).await;
        }
        Ok(said)
    }

    async fn converse(
        &self,
        (endpoint, exchange): (&Endpoint, &mut Exchange),
        request: &OwnRequest<'_>,
        span: Option<&Asked>,
        opened: &mut Option<Abandoned>,
    ) -> Option<Said> {
        let outgoing = Outgoing {
            client: request.head,
            endpoint,
            session: request.session,
            request_id: request.request_id,
            client_address: request.client_address,
            body_bytes: request.body.len(),
            credential: request.credential,
            told: request.told,
            trace: request.trace.map(|trace| trace.onward_from(span)),
        };
        let prepared = exchange.prepare(&outgoing).ok()?;
        exchange.send(prepared, &request.body).await.ok()?;
        let head = exchange.read_head(1024).await.ok()?;
        if let Some(opened) = opened {
            opened.place.upstream_id = head.session_id().map(|id| id.as_bytes().to_vec());
        }
        let mut body = BytesMut::from(&exchange.arrived().ok()?.part[..]);
        loop {
            let answer = match head.is_event_stream() {
                true => Answer::of_events(&body),
                false => Answer::of_json(&body),
            };
            // A stream may go on after the answer; nothing in it is for anybody.
            let is_whole = exchange.is_finished();
            if is_whole || (head.is_event_stream() && answer.is_some()) {
                return Some(Said { head, answer, body: body.freeze() });
            }
            if body.len() > ANSWER_BYTES_MAX {
                return None;
            }
            match exchange.read_body().await.ok()? {
                Some(part) => body.extend_from_slice(&part),
                None => return Some(Said { head, answer, body: body.freeze() }),
            }
        }
    }
}

/// The head of a message of the gateway's own in a session: what the client sends along with all of
/// its requests, and what every message has.
pub(super) fn message_head(
    client: &RequestHeader,
    revision: Option<Revision>,
) -> pingora::Result<RequestHeader> {
    let mut head = RequestHeader::build_no_case(Method::POST, b"/", Some(16))?;
    for (name, value) in &client.headers {
        let of_this_request = [MCP_PROTOCOL_VERSION, MCP_METHOD, MCP_NAME, "last-event-id"];
        if !of_this_request.contains(&name.as_str()) {
            head.append_header(name.clone(), value.clone())?;
        }
    }
    head.insert_header(ACCEPT, "application/json, text/event-stream")?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    if let Some(revision) = revision {
        head.insert_header(MCP_PROTOCOL_VERSION, HeaderValue::from_static(revision.as_str()))?;
    }
    Ok(head)
}
