//! One exchange with an endpoint, whichever version of HTTP it speaks.

use std::sync::Arc;

use bytes::Bytes;
use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::{HttpPeer, Peer as _};

use super::http1::{Broken, Http1};
use super::response_filter::UpstreamHead;
use super::upstream_request_filter::Outgoing;
use crate::config::Protocol;
use crate::telemetry::Reason;
use crate::upstream::Endpoint;

/// The connections to all servers, shared by every listener.
pub(super) struct Connections {
    http1: TransportConnector,
    http2: Connector,
}

/// An exchange under way. Dropping it before its end closes the connection or resets the stream,
/// which is how a server learns that a modern request was cancelled.
pub(super) struct Exchange {
    wire: Wire,
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
    pub(super) fn new(idle_max: usize) -> Self {
        let options = || Some(ConnectorOptions::new(idle_max));
        Self { http1: TransportConnector::new(options()), http2: Connector::new(options()) }
    }

    /// Connects, or takes an idle connection.
    pub(super) async fn open(&self, endpoint: &Endpoint) -> Result<Exchange, Reason> {
        let Some(peer) = endpoint.peer() else { return Err(Reason::EndpointNone) };
        let unreachable = |error: pingora::BError| {
            tracing::debug!(endpoint = endpoint.url(), %error, "connect");
            Reason::EndpointUnreachable
        };
        let (wire, reused) = match endpoint.protocol() {
            Protocol::Http1 => {
                let (stream, reused) = self.http1.get_stream(&*peer).await.map_err(unreachable)?;
                (Wire::Http1(Box::new(Http1::new(stream))), reused)
            }
            Protocol::Http2 => match self.http2.get_http_session(&*peer).await {
                Ok((HttpSession::H2(stream), reused)) => {
                    let stream = Cancelling { stream: Some(stream), heard: false };
                    (Wire::Http2(Box::new(stream)), reused)
                }
                Ok(_) => return Err(Reason::EndpointBroken),
                Err(error) => return Err(unreachable(error)),
            },
        };
        Ok(Exchange { wire, peer, reused })
    }

    /// Connects anew, whatever is idle.
    pub(super) async fn open_fresh(&self, endpoint: &Endpoint) -> Result<Exchange, Reason> {
        match endpoint.protocol() {
            Protocol::Http1 => {
                let peer = endpoint.peer().ok_or(Reason::EndpointNone)?;
                let stream = self.http1.new_stream(&*peer).await;
                let stream = stream.map_err(|_| Reason::EndpointUnreachable)?;
                let wire = Wire::Http1(Box::new(Http1::new(stream)));
                Ok(Exchange { wire, peer, reused: false })
            }
            Protocol::Http2 => self.open(endpoint).await,
        }
    }

    /// Takes back the connection of a finished exchange.
    pub(super) async fn close(&self, exchange: Exchange) {
        let Exchange { wire, peer, reused: _ } = exchange;
        match wire {
            Wire::Http1(http1) => {
                if let Some(stream) = http1.into_reusable() {
                    self.http1.release_stream(stream, peer.reuse_hash(), peer.idle_timeout());
                }
            }
            Wire::Http2(mut stream) => {
                if let Some(stream) = stream.stream.take() {
                    let session = HttpSession::H2(stream);
                    self.http2.release_http_session(session, &*peer, peer.idle_timeout()).await;
                }
            }
        }
    }
}

impl Exchange {
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

    /// Reads the head of the answer.
    pub(super) async fn read_head(&mut self) -> Result<UpstreamHead, Broken> {
        match &mut self.wire {
            Wire::Http1(http1) => {
                let super::http1::Head { status, fields, length } = http1.read_head().await?;
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

    /// The next part of the body; `None` at its end. May be dropped while it waits.
    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.wire {
            Wire::Http1(http1) => http1.read_body().await,
            Wire::Http2(stream) => stream.get()?.read_response_body().await.map_err(broken),
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
