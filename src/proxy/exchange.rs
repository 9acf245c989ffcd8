//! One exchange with an endpoint, whichever version of HTTP it speaks.

use std::sync::Arc;

use bytes::Bytes;
use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::{HttpPeer, Peer as _};

use super::http1::{Arrived, Broken, Http1};
use super::idle::Idle;
use super::response_filter::UpstreamHead;
use super::upstream_request_filter::Outgoing;
use crate::config::Protocol;
use crate::telemetry::Reason;
use crate::upstream::Endpoint;

/// The connections to all servers, shared by every listener.
pub(super) struct Connections {
    connector: TransportConnector,
    idle: Idle,
    http2: Connector,
}

/// An exchange under way. Dropping it before its end closes the connection or resets the stream,
/// which is how a server learns that a modern request was cancelled.
pub(super) struct Exchange {
    wire: Wire,
    endpoint: u64,
    peer: Arc<HttpPeer>,
    /// Whether the connection had served others before.
    pub(super) reused: bool,
}

/// A request's head, ready to be sent by the exchange that prepared it.
pub(super) enum RequestHead {
    /// The bytes.
    Http1(Vec<u8>),
    /// The fields.
    Http2(Box<RequestHeader>),
}

enum Wire {
    Http1(Box<Http1>),
    Http2(Box<Cancelling>),
}

/// An HTTP/2 stream that is reset when it is dropped before its end.
struct Cancelling {
    stream: Option<Http2Session>,
    heard: bool,
}

impl Connections {
    pub(super) fn new(idle_max: usize, workers: usize) -> Self {
        let options = || Some(ConnectorOptions::new(idle_max));
        Self {
            connector: TransportConnector::new(options()),
            idle: Idle::new(idle_max, workers),
            http2: Connector::new(options()),
        }
    }

    /// Takes an idle connection, or connects.
    pub(super) async fn open(&self, endpoint: &Endpoint) -> Result<Exchange, Reason> {
        let peer = endpoint.peer().ok_or(Reason::EndpointNone)?;
        match endpoint.protocol() {
            Protocol::Http1 => match self.idle.take(endpoint.connections_key()) {
                Some(stream) => Ok(Exchange::http1(stream, endpoint, peer, true)),
                None => self.connect(endpoint, peer).await,
            },
            Protocol::Http2 => match Box::pin(self.http2.get_http_session(&*peer)).await {
                Ok((HttpSession::H2(stream), reused)) => {
                    let stream = Cancelling { stream: Some(stream), heard: false };
                    let wire = Wire::Http2(Box::new(stream));
                    Ok(Exchange { wire, endpoint: endpoint.connections_key(), peer, reused })
                }
                Ok(_) => Err(Reason::EndpointBroken),
                Err(error) => Err(unreachable(endpoint, &error)),
            },
        }
    }

    /// Connects, whatever is idle.
    pub(super) async fn open_fresh(&self, endpoint: &Endpoint) -> Result<Exchange, Reason> {
        match endpoint.protocol() {
            Protocol::Http1 => {
                let peer = endpoint.peer().ok_or(Reason::EndpointNone)?;
                self.connect(endpoint, peer).await
            }
            Protocol::Http2 => self.open(endpoint).await,
        }
    }

    /// Takes back the connection of a finished exchange.
    pub(super) async fn close(&self, exchange: Exchange) {
        let Exchange { wire, endpoint, peer, reused: _ } = exchange;
        match wire {
            Wire::Http1(http1) => {
                if let Some(stream) = http1.into_reusable() {
                    self.idle.keep(endpoint, stream);
                }
            }
            Wire::Http2(mut stream) => {
                if let Some(stream) = stream.stream.take() {
                    let session = HttpSession::H2(stream);
                    let idle = peer.idle_timeout();
                    Box::pin(self.http2.release_http_session(session, &*peer, idle)).await;
                }
            }
        }
    }

    /// Closes connections that nobody has used for a while.
    pub(super) fn sweep(&self) {
        self.idle.sweep();
    }

    async fn connect(&self, endpoint: &Endpoint, peer: Arc<HttpPeer>) -> Result<Exchange, Reason> {
        // Boxed: connecting is rare, and its many states would otherwise have room in every request.
        match Box::pin(self.connector.new_stream(&*peer)).await {
            Ok(stream) => Ok(Exchange::http1(stream, endpoint, peer, false)),
            Err(error) => Err(unreachable(endpoint, &error)),
        }
    }
}

fn unreachable(endpoint: &Endpoint, error: &pingora::Error) -> Reason {
    tracing::debug!(endpoint = endpoint.url(), %error, "connect");
    Reason::EndpointUnreachable
}

impl Exchange {
    fn http1(stream: Stream, endpoint: &Endpoint, peer: Arc<HttpPeer>, reused: bool) -> Self {
        let wire = Wire::Http1(Box::new(Http1::new(stream)));
        Self { wire, endpoint: endpoint.connections_key(), peer, reused }
    }

    /// Writes the head in the form that this exchange sends.
    pub(super) fn prepare(&self, head: &Outgoing<'_>) -> Result<RequestHead, Broken> {
        match &self.wire {
            Wire::Http1(_) => Ok(RequestHead::Http1(head.http1())),
            Wire::Http2(_) => match head.http2() {
                Ok(head) => Ok(RequestHead::Http2(head)),
                Err(_) => Err(Broken::Framing("unsendable head")),
            },
        }
    }

    /// Sends a whole request.
    pub(super) async fn send(&mut self, head: RequestHead, body: &Bytes) -> Result<(), Broken> {
        match (&mut self.wire, head) {
            (Wire::Http1(http1), RequestHead::Http1(head)) => http1.send(head, body).await,
            (Wire::Http2(stream), RequestHead::Http2(head)) => {
                let stream = stream.get()?;
                stream.write_request_header(head, body.is_empty()).map_err(broken)?;
                if body.is_empty() {
                    return Ok(());
                }
                stream.write_request_body(body.clone(), true).await.map_err(broken)
            }
            _ => Err(Broken::Framing("head of another exchange")),
        }
    }

    /// Reads the head of the answer, into a buffer of `room` bytes at first.
    pub(super) async fn read_head(&mut self, room: usize) -> Result<UpstreamHead, Broken> {
        match &mut self.wire {
            Wire::Http1(http1) => {
                let super::http1::Head { status, fields, length } = http1.read_head(room).await?;
                Ok(UpstreamHead { status, fields, length })
            }
            Wire::Http2(stream) => {
                let inner = stream.get()?;
                inner.read_response_header().await.map_err(broken)?;
                let head = inner.response_header().ok_or(Broken::Framing("no head"))?;
                let fields = head.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
                let status = head.status.as_u16();
                let fields: Vec<_> = fields.collect();
                let length = fields
                    .iter()
                    .find(|(name, _)| name == http::header::CONTENT_LENGTH)
                    .and_then(|(_, value)| value.to_str().ok()?.parse().ok());
                let length = if inner.response_finished() { Some(0) } else { length };
                stream.heard = true;
                Ok(UpstreamHead { status, fields, length })
            }
        }
    }

    /// What has arrived of the body together with the head.
    pub(super) fn arrived(&mut self) -> Result<Arrived, Broken> {
        match &mut self.wire {
            Wire::Http1(http1) => http1.arrived(),
            Wire::Http2(_) => Ok(Arrived { part: Bytes::new(), whole: false }),
        }
    }

    /// The next part of the body; `None` at its end. May be dropped while it waits.
    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.wire {
            Wire::Http1(http1) => http1.read_body().await,
            Wire::Http2(stream) => stream.get()?.read_response_body().await.map_err(broken),
        }
    }

    /// Whether the whole answer is here, so that the connection is free. HTTP/2 shares its
    /// connections anyway and says so only with the next read.
    pub(super) fn is_finished(&self) -> bool {
        match &self.wire {
            Wire::Http1(http1) => http1.is_finished(),
            Wire::Http2(_) => false,
        }
    }

    /// Whether the endpoint has sent anything yet.
    pub(super) fn heard(&self) -> bool {
        match &self.wire {
            Wire::Http1(http1) => http1.heard(),
            Wire::Http2(stream) => stream.heard,
        }
    }
}

impl Cancelling {
    fn get(&mut self) -> Result<&mut Http2Session, Broken> {
        self.stream.as_mut().ok_or(Broken::Framing("stream already closed"))
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.shutdown();
        }
    }
}

fn broken(error: pingora::BError) -> Broken {
    tracing::debug!(%error, "HTTP/2 exchange");
    Broken::Io(std::io::ErrorKind::ConnectionReset)
}
