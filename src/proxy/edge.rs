//! The edge of the process: accepts connections and hands whole, strict request heads to Pingora.
//!
//! Pingora's own loop reads heads itself, with a timer that restarts at every byte and a parser that
//! forgives. Here the head of an HTTP/1 request is read first: a waiting connection holds nothing
//! but its socket and a small buffer, a slow head has one deadline from its first byte on, a head in doubt is refused
//! with a real answer, and a connection parked at shutdown is still served when its request comes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::time::timeout;
use pingora_proxy::HttpProxy;
use prometheus::IntGauge;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::answer;
use super::head::{Fault, HeadScan, Scanned};
use super::parked::{Parked, with_place};
use super::proxy_protocol::ProxyProtocol;
use super::refusal::Refusal;
use super::{Gateway, Shared};
use crate::config::{self, ListenerLimits};
use crate::telemetry::Reason;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4); no HTTP/1 method begins so.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First room for a head; an ordinary request fits with its body.
const HEAD_BYTES: usize = 2048;

/// One listener's connections.
pub struct Edge {
    http: Arc<Http>,
    gateway: Gateway,
    connections_max: usize,
    limits: ListenerLimits,
    /// On a listener without TLS; with TLS, Pingora calls it before the handshake.
    proxy_protocol: Option<ProxyProtocol>,
}

/// Pingora's HTTP proxy, with our options for HTTP/2.
struct Http {
    proxy: Arc<HttpProxy<Gateway>>,
    options: HttpServerOptions,
    limits: ListenerLimits,
}

/// What came of waiting for a request.
enum Waited {
    /// A whole head with what has come of its body, and what has come of the next request.
    Head(BytesMut, BytesMut),
    /// The client left, or did nothing for too long.
    Gone,
    /// The head is refused.
    Refused(Refusal),
}

impl Edge {
    /// The edge of the listener at this place in the settings.
    pub fn new(
        shared: Arc<Shared>,
        listener: usize,
        settings: &config::Listener,
        connections_max: usize,
        conf: &Arc<ServerConf>,
    ) -> Self {
        let gateway = || Gateway::new(Arc::clone(&shared), listener);
        let mut proxy = HttpProxy::new(gateway(), Arc::clone(conf));
        proxy.handle_init_modules();
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(settings.limits.idle_timeout);
        let limits = settings.limits.clone();
        let speaks = settings.proxy_protocol == config::ProxyProtocol::V2;
        Self {
            http: Arc::new(Http { proxy: Arc::new(proxy), options, limits: limits.clone() }),
            gateway: gateway(),
            connections_max,
            limits,
            proxy_protocol: (speaks && settings.tls.is_none())
                .then(|| ProxyProtocol::new(&settings.trusted_proxies)),
        }
    }

    /// Serves HTTP/1 requests until the connection ends. `head` is what was read of the first.
    async fn serve_http1(&self, mut stream: Stream, first: BytesMut, shutdown: &ShutdownWatch) {
        let mut left = self.limits.requests_per_connection_max;
        let mut begun = first;
        loop {
            let (head, next) = match self.wait(&mut stream, begun).await {
                Waited::Head(head, next) => (head, next),
                Waited::Gone => return,
                Waited::Refused(refusal) => return self.refuse(stream, &refusal).await,
            };
            begun = next;
            left = left.saturating_sub(1);
            let mut session = ServerSession::new_http1(stream);
            session.set_keepalive(Some(self.limits.idle_timeout.as_secs()));
            // The answer says `Connection: close` when it is the last, so that no client sends
            // another request into a closing connection.
            let is_last = left == 0 || *shutdown.borrow();
            session.set_keepalive_reuses_remaining(is_last.then_some(0));
            session.set_pipelined_prefix(head);
            let request = self.http.proxy.process_new_http(session, shutdown);
            let reused = match with_place(request).await {
                (_, Some(parked)) => Box::pin(self.drive_parked(*parked)).await,
                (reused, None) => reused.map(|reused| reused.consume().0),
            };
            match reused {
                Some(reused) => stream = reused,
                None => return,
            }
        }
    }

    /// Drives a stream that has left Pingora's request; returns the connection if it can be used.
    async fn drive_parked(&self, parked: Parked) -> Option<Stream> {
        let Parked { mut downstream, mut ctx, forward, permit } = parked;
        let driven = self.gateway.drive(&mut downstream, &mut ctx, &forward).await;
        self.gateway.log(downstream.req_header(), &ctx);
        drop(permit);
        driven.ok()?;
        let reusable = downstream.finish().await.ok().flatten()?;
        Some(reusable.into_parts().0)
    }

    /// Serves an HTTP/2 connection without TLS, whose preface has begun to arrive.
    async fn serve_http2(&self, mut stream: Stream, mut read: BytesMut, shutdown: &ShutdownWatch) {
        let preface = async {
            while read.len() < HTTP2_PREFACE.len() {
                if stream.read_buf(&mut read).await? == 0 {
                    break;
                }
            }
            std::io::Result::Ok(())
        };
        let in_time = timeout(self.limits.head_timeout, preface).await;
        if !matches!(in_time, Ok(Ok(()))) || !read.starts_with(HTTP2_PREFACE) {
            return;
        }
        // A listener without TLS hands out this type; Pingora reads the preface from it once more.
        let stream = stream.into_any().downcast::<L4Stream>().ok();
        if let Some(mut stream) = stream {
            stream.rewind(&read);
            self.http.process_new(stream, shutdown).await;
        }
    }

    /// Waits for a request and reads its head: idle for as long as allowed, then quickly.
    async fn wait(&self, stream: &mut Stream, mut head: BytesMut) -> Waited {
        if head.is_empty() {
            let idle = self.limits.idle_timeout;
            match timeout(idle, read_first(stream)).await {
                Ok(Some(first)) => head = first,
                Ok(None) | Err(_) => return Waited::Gone,
            }
        }
        let mut scan = HeadScan::default();
        match scan.scan(&head) {
            Scanned::Complete => return whole(head, &scan),
            Scanned::Partial => {}
            Scanned::Refused(fault) => return Waited::Refused(refusal(fault)),
        }
        let deadline = self.limits.head_timeout;
        match timeout(deadline, self.read_rest(stream, head, scan)).await {
            Ok(waited) => waited,
            Err(_) => Waited::Refused(Reason::HeadTimeout.into()),
        }
    }

    async fn read_rest(
        &self,
        stream: &mut Stream,
        mut head: BytesMut,
        mut scan: HeadScan,
    ) -> Waited {
        loop {
            if head.len() > self.limits.head_bytes_max {
                return Waited::Refused(Reason::HeadTooLarge.into());
            }
            head.reserve(HEAD_BYTES);
            match stream.read_buf(&mut head).await {
                Ok(0) | Err(_) => return Waited::Gone,
                Ok(_) => {}
            }
            match scan.scan(&head) {
                Scanned::Complete => return whole(head, &scan),
                Scanned::Partial => {}
                Scanned::Refused(fault) => return Waited::Refused(refusal(fault)),
            }
        }
    }

    /// Answers what never became a request, and ends the connection.
    async fn refuse(&self, mut stream: Stream, refusal: &Refusal) {
        self.gateway.metrics.refused(refusal.reason);
        tracing::debug!(reason = refusal.reason.as_str(), message = %refusal.message, "refused");
        let bytes = answer::raw(refusal);
        let answer = async {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
            // What the client is still sending is read and dropped for a moment: closing with
            // unread bytes would reset the connection before the client has read its answer.
            let mut rest = vec![0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            std::io::Result::Ok(())
        };
        if timeout(Duration::from_secs(1), answer).await.is_err() {
            tracing::debug!("client did not close after a refusal");
        }
    }
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let open = Open::count(self.gateway.metrics.connections.clone());
        if let Some(protocol) = &self.proxy_protocol {
            match timeout(self.limits.head_timeout, protocol.accept(&mut *stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "PROXY protocol");
                    return None;
                }
                Err(_) => return None,
            }
        }
        if open.count > self.connections_max as i64 {
            self.refuse(stream, &Reason::ConnectionsFull.into()).await;
            return None;
        }
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return self.http.process_new(stream, shutdown).await;
        }
        let idle = self.limits.idle_timeout;
        let Ok(Some(first)) = timeout(idle, read_first(&mut stream)).await else { return None };
        if stream.get_ssl_digest().is_none() && first.starts_with(&HTTP2_PREFACE[..4]) {
            self.serve_http2(stream, first, shutdown).await;
        } else {
            self.serve_http1(stream, first, shutdown).await;
        }
        None
    }

    async fn cleanup(&self) {
        self.http.proxy.http_cleanup().await;
    }
}

#[async_trait]
impl HttpServerApp for Http {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        // Pingora's bounded defaults are the start, or its guards against header bombs are lost.
        let mut options = default_h2_options();
        options.max_concurrent_streams(self.limits.streams_per_connection_max);
        let head_bytes_max = u32::try_from(self.limits.head_bytes_max).unwrap_or(u32::MAX);
        options.max_header_list_size(head_bytes_max);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// One open connection, counted until it is dropped.
struct Open {
    gauge: IntGauge,
    count: i64,
}

impl Open {
    fn count(gauge: IntGauge) -> Self {
        gauge.inc();
        let count = gauge.get();
        Self { gauge, count }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Reads what comes first of a request; `None` when the client left instead.
async fn read_first(stream: &mut Stream) -> Option<BytesMut> {
    let mut first = BytesMut::with_capacity(HEAD_BYTES);
    match stream.read_buf(&mut first).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(first),
    }
}

/// Parts a message from what a client has already sent of the next (RFC 9112 section 9.3.2).
fn whole(mut head: BytesMut, scan: &HeadScan) -> Waited {
    let next = match scan.message_bytes() {
        Some(length) if length < head.len() => head.split_off(length),
        _ => BytesMut::new(),
    };
    Waited::Head(head, next)
}

fn refusal(fault: Fault) -> Refusal {
    match fault {
        Fault::TooManyFields => Reason::HeadTooLarge.into(),
        Fault::Malformed(what) => Refusal {
            message: format!("malformed request head: {what}").into(),
            ..Reason::HeadMalformed.into()
        },
    }
}
