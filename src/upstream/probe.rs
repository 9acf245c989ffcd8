//! One request of the gateway's own to an endpoint, and as much of the answer as tells how it is.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, header};
use pingora::connectors::TransportConnector;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::{HttpPeer, Peer as _};

use super::{Endpoint, Field};
use crate::mcp::{Answer, MCP_SESSION_ID};

/// More of an answer is not read: what a probe asks for is small.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Who asks.
const USER_AGENT: &str = concat!("toolgate/", env!("CARGO_PKG_VERSION"), " (probe)");

/// The connections that probes and listings are made over: their own, each time a new one where HTTP/1 is
/// spoken, because a firewall that lets nobody in does not cut what is connected already.
pub struct Connectors {
    transport: TransportConnector,
    http: Connector,
}

/// Who is asked, and what lets the gateway in.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// How.
    pub connectors: &'a Connectors,
    /// Whom.
    pub endpoint: &'a Endpoint,
    /// The gateway's own credential there, if it has one.
    pub credential: Option<&'a Field>,
}

/// What is asked.
pub struct Question<'a> {
    /// The HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// What the head says beside what every head says.
    pub fields: Vec<(&'static str, &'a str)>,
    /// The body; none if it is empty.
    pub body: Bytes,
}

/// An answer of which the head is read.
pub struct Opened {
    exchange: HttpSession,
    peer: Arc<HttpPeer>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// The session id in its head.
    pub(super) session: Option<String>,
    /// The JSON-RPC answer in its body, if there is one.
    pub(super) answer: Option<Answer>,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl From<pingora::BError> for Fault {
    fn from(error: pingora::BError) -> Self {
        Self(error.to_string())
    }
}

impl Opened {
    /// Its status.
    pub fn status(&self) -> u16 {
        self.exchange.response_header().map_or(0, |head| head.status.as_u16())
    }

    /// A field of its head, if it is there and is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.exchange.response_header()?.headers.get(name)?.to_str().ok()
    }

    /// The next part of its body; `None` at the end.
    pub async fn part(&mut self) -> Result<Option<Bytes>, Fault> {
        Ok(self.exchange.read_response_body().await?)
    }
}

impl Default for Connectors {
    fn default() -> Self {
        Self::new()
    }
}

impl Connectors {
    /// Without a connection.
    pub fn new() -> Self {
        Self { transport: TransportConnector::new(None), http: Connector::new(None) }
    }

    /// Connects and leaves.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        let peer = endpoint.peer().ok_or_else(no_address)?;
        self.transport.new_stream(&*peer).await?;
        Ok(())
    }
}

impl Asked<'_> {
    /// Sends a request and reads its answer. May be dropped at any time.
    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Reply, Fault> {
        let mut opened = self.open(question).await?;
        let reply = read(&mut opened.exchange, &question.method).await?;
        self.close(opened).await;
        Ok(reply)
    }

    /// Sends a request and reads the head of its answer. May be dropped at any time.
    pub async fn open(&self, question: &Question<'_>) -> Result<Opened, Fault> {
        let Self { connectors, endpoint, credential } = self;
        let peer = endpoint.peer().ok_or_else(no_address)?;
        let (mut exchange, _) = connectors.http.get_http_session(&*peer).await?;
        exchange.write_request_header(Box::new(head(endpoint, *credential, question)?)).await?;
        if !question.body.is_empty() {
            exchange.write_request_body(question.body.clone(), true).await?;
        }
        exchange.finish_request_body().await?;
        exchange.read_response_header().await?;
        Ok(Opened { exchange, peer })
    }

    /// Leaves an answer, read to its end or not.
    pub async fn close(&self, opened: Opened) {
        let Opened { mut exchange, peer } = opened;
        if let HttpSession::H2(_) = exchange {
            // The connection stays for the next request; a stream that goes on is reset.
            if !exchange.response_done() {
                exchange.shutdown().await;
            }
            let idle = peer.idle_timeout();
            self.connectors.http.release_http_session(exchange, &*peer, idle).await;
        }
    }
}

fn no_address() -> Fault {
    Fault("its name has no address".to_owned())
}

fn head(
    endpoint: &Endpoint,
    credential: Option<&Field>,
    question: &Question<'_>,
) -> pingora::Result<RequestHeader> {
    let Question { method, path, fields, body } = question;
    let mut head = RequestHeader::build(method.clone(), path.as_bytes(), Some(8))?;
    head.insert_header(header::HOST, endpoint.authority())?;
    head.insert_header(header::USER_AGENT, USER_AGENT)?;
    if !body.is_empty() {
        head.insert_header(header::CONTENT_TYPE, "application/json")?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    for (name, value) in fields {
        head.insert_header(*name, *value)?;
    }
    if let Some(Field { name, value }) = credential {
        head.insert_header(name.clone(), value.clone())?;
    }
    Ok(head)
}

async fn read(exchange: &mut HttpSession, asked: &Method) -> Result<Reply, Fault> {
    let Some(head) = exchange.response_header() else {
        return Err(Fault("an answer without a head".to_owned()));
    };
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let session = text(MCP_SESSION_ID).map(str::to_owned);
    let status = head.status.as_u16();
    let media = text(header::CONTENT_TYPE.as_str()).unwrap_or_default().to_ascii_lowercase();
    let is_stream = media.starts_with("text/event-stream");
    // What answers a GET or a DELETE says enough with its status.
    if asked != Method::POST
        || status != 200
        || !(is_stream || media.starts_with("application/json"))
    {
        return Ok(Reply { status, session, answer: None });
    }
    let mut body = Vec::new();
    let mut answer = None;
    // A stream may stay open after its answer.
    while answer.is_none() && body.len() < ANSWER_BYTES_MAX {
        let Some(part) = exchange.read_response_body().await? else { break };
        body.extend_from_slice(&part[..part.len().min(ANSWER_BYTES_MAX - body.len())]);
        if is_stream {
            answer = Answer::of_events(&body);
        }
    }
    if !is_stream {
        answer = Answer::of_json(&body);
    }
    Ok(Reply { status, session, answer })
}
