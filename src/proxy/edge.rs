//! The edge of the process: accepts connections and hands whole, strict request heads to Pingora.
//!
//! Pingora's own loop reads heads itself, with a timer that restarts at every byte and a parser that
//! forgives. Here the head of an HTTP/1 request is read first: a waiting connection holds nothing
//! but its socket and a small buffer, a slow head has one deadline from its first byte on, a head in doubt is refused
//! with a real answer, and a connection parked at shutdown is still served when its request comes.
//!
//! A connection lives in a task of its own: Pingora's has room for a TLS handshake, 10 KiB that an
//! idle stream would hold for hours. The handshake is made here, too, with the certificates that are in
//! force when it begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
use tokio::sync::watch;

use super::answer;
use super::head::{Fault, HeadScan, Scanned};
use super::parked::{Parked, with_place};
use super::proxy_protocol::ProxyProtocol;
use super::refusal::Refusal;
use super::{Gateway, Shared};
use crate::config::{self, ListenerLimits};
use crate::lifecycle::Hold;
use crate::telemetry::Reason;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4); no HTTP/1 method begins so.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First room for a head; an ordinary request fits with its body.
const HEAD_BYTES: usize = 2048;
/// How long a connection is kept for what its client may just be sending, when it must close.
const PARTING: Duration = Duration::from_secs(1);

/// One listener's connections.
pub struct Edge {
    http: Arc<Http>,
    gateway: Gateway,
    connections_max: usize,
    connection_age_max: Duration,
    limits: ListenerLimits,
    /// Stays false: the end of connections is ours to tell, not Pingora's.
    never: ShutdownWatch,
    /// What comes first on a connection, also before TLS.
    proxy_protocol: Option<ProxyProtocol>,
    place: usize,
}

/// Pingora's HTTP proxy, with our options for HTTP/2.
struct Http {
    proxy: Arc<HttpProxy<Gateway>>,
    /// For streams that have left the proxy.
    gateway: Gateway,
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
        runtime: &config::Runtime,
        conf: &Arc<ServerConf>,
    ) -> Self {
        let gateway = || Gateway::new(Arc::clone(&shared), listener);
        let mut proxy = HttpProxy::new(gateway(), Arc::clone(conf));
        proxy.handle_init_modules();
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(settings.limits.idle_timeout);
        let speaks = settings.proxy_protocol == config::ProxyProtocol::V2;
        let (proxy, limits) = (Arc::new(proxy), settings.limits.clone());
        let http = Http { proxy, gateway: gateway(), options, limits: limits.clone() };
        Self {
            http: Arc::new(http),
            gateway: gateway(),
            connections_max: runtime.connections_max,
            connection_age_max: runtime.connection_age_max,
            limits,
            never: watch::Sender::new(false).subscribe(),
            proxy_protocol: speaks.then(|| ProxyProtocol::new(&settings.trusted_proxies)),
            place: listener,
        }
    }

    /// Serves a connection to its end.
    async fn serve(&self, mut stream: Stream, open: &Open) {
        if let Some(protocol) = &self.proxy_protocol
            && !self.accept_proxied(protocol, &mut stream).await
        {
            return;
        }
        let Some(mut stream) = self.secure(stream).await else { return };
        if open.count > self.connections_max as i64 {
            return Box::pin(self.refuse(stream, &Reason::ConnectionsFull.into())).await;
        }
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            return Box::pin(self.serve_http2(stream, open)).await;
        }
        let Some(first) = self.first(&mut stream).await else { return };
        if stream.get_ssl_digest().is_none() && first.starts_with(&HTTP2_PREFACE[..4]) {
            Box::pin(self.serve_http2_after_preface(stream, first, open)).await;
        } else {
            self.serve_http1(stream, first, open).await;
        }
    }

    /// Shakes hands where there is TLS; `None` when that came to nothing.
    async fn secure(&self, stream: Stream) -> Option<Stream> {
        // Nothing else of the snapshot is held: a client may take its time.
        let terminator = self.gateway.snapshot().tls.get(self.place)?.clone();
        let Some(terminator) = terminator else { return Some(stream) };
        // A listener hands out this type, with TLS or without.
        let stream = stream.into_any().downcast::<L4Stream>().ok()?;
        let shaken = async {
            tokio::select! {
                shaken = terminator.accept(*stream) => Some(shaken),
                () = self.parting() => None,
            }
        };
        match timeout(self.limits.head_timeout, Box::pin(shaken)).await.ok().flatten()? {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "TLS handshake");
                None
            }
        }
    }

    /// Reads the PROXY protocol header; false when there is no right one.
    async fn accept_proxied(&self, protocol: &ProxyProtocol, stream: &mut Stream) -> bool {
        let accepted = Box::pin(protocol.accept(&mut **stream));
        match timeout(self.limits.head_timeout, accepted).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "PROXY protocol");
                false
            }
            Err(_) => false,
        }
    }

    /// Serves HTTP/1 requests until the connection ends. `first` is what was read of the first.
    async fn serve_http1(&self, mut stream: Stream, first: BytesMut, open: &Open) {
        let mut left = self.limits.requests_per_connection_max;
        let mut begun = first;
        loop {
            let (head, next) = match self.wait(&mut stream, begun).await {
                Waited::Head(head, next) => (head, next),
                Waited::Gone => return,
                Waited::Refused(refusal) => {
                    return Box::pin(self.refuse(stream, &refusal)).await;
                }
            };
            begun = next;
            // The head of a stream stays in memory as long as the stream: without room to spare.
            let head = if head.starts_with(b"GET ") { BytesMut::from(&head[..]) } else { head };
            left = left.saturating_sub(1);
            let mut session = ServerSession::new_http1(stream);
            session.set_keepalive(Some(self.limits.idle_timeout.as_secs()));
            // The answer says `Connection: close` when it is the last, so that no client sends
            // another request into a closing connection.
            let is_last = left == 0 || self.gateway.lifecycle.is_draining() || open.is_old();
            session.set_keepalive_reuses_remaining(is_last.then_some(0));
            session.set_pipelined_prefix(head);
            let request = self.http.proxy.process_new_http(session, &self.never);
            match self.http.carry(request).await {
                Some(reused) => stream = reused,
                None => return,
            }
        }
    }

    /// Serves an HTTP/2 connection without TLS, whose preface has begun to arrive.
    async fn serve_http2_after_preface(&self, mut stream: Stream, mut read: BytesMut, open: &Open) {
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
            self.serve_http2(stream, open).await;
        }
    }

    /// Serves an HTTP/2 connection until its client leaves, or is told to (GOAWAY) and has its answers.
    async fn serve_http2(&self, stream: Stream, open: &Open) {
        let (end, ending) = watch::channel(false);
        let served = self.http.process_new(stream, &ending);
        let retired = async {
            let lifecycle = &self.gateway.lifecycle;
            if lifecycle.is_draining() {
                // The client came for a request, and may not know yet that it must go elsewhere.
                pingora::time::sleep(PARTING).await;
            }
            tokio::select! {
                () = lifecycle.draining() => {}
                () = open.old() => {}
            }
            end.send_replace(true);
            // The watch must outlive the connection.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = served => {}
            () = retired => {}
        }
    }

    /// Waits for the first bytes of a request; `None` when the connection shall end instead.
    async fn first(&self, stream: &mut Stream) -> Option<BytesMut> {
        let first = async {
            tokio::select! {
                biased; // What has come is answered, whatever else is going on.
                first = read_first(stream) => first,
                () = self.parting() => None,
            }
        };
        timeout(self.limits.idle_timeout, first).await.ok().flatten()
    }

    /// Waits until connections without a request shall close; what a client may be sending after an
    /// answer that did not say so is waited for a moment more.
    async fn parting(&self) {
        match self.gateway.lifecycle.is_closing() {
            true => pingora::time::sleep(PARTING).await,
            false => self.gateway.lifecycle.closing().await,
        }
    }

    /// Waits for a request and reads its head: idle for as long as allowed, then quickly.
    async fn wait(&self, stream: &mut Stream, mut head: BytesMut) -> Waited {
        if head.is_empty() {
            match self.first(stream).await {
                Some(first) => head = first,
                None => return Waited::Gone,
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
        self.gateway.lasting.metrics.refused(refusal.reason);
        let digest = stream.get_socket_digest();
        let peer = digest.as_deref().and_then(|digest| digest.peer_addr()?.as_inet().copied());
        self.gateway.record_refusal(refusal, peer.map(|peer| peer.ip().to_canonical()));
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

impl Http {
    /// Carries a request that Pingora serves to its end; returns its connection if it can be used for
    /// another.
    async fn carry(
        &self,
        request: impl Future<Output = Option<ReusedHttpStream>>,
    ) -> Option<Stream> {
        match with_place(request).await {
            (_, Some(parked)) => self.drive_parked(parked).await,
            (reused, None) => reused.map(|reused| reused.consume().0),
        }
    }

    /// Drives a stream that has left Pingora's request; returns the connection if it can be used.
    async fn drive_parked(&self, mut parked: Box<Parked>) -> Option<Stream> {
        let driven = Box::pin(self.gateway.drive_parked(&mut parked)).await;
        let downstream = self.end_parked(parked, &driven)?;
        let reusable = Box::pin(downstream.finish()).await.ok().flatten()?;
        Some(reusable.into_parts().0)
    }

    /// Puts a stream down that has ended; returns its connection if it ended well.
    fn end_parked(
        &self,
        parked: Box<Parked>,
        driven: &pingora::Result<()>,
    ) -> Option<Box<ServerSession>> {
        let Parked { mut downstream, mut ctx, .. } = *parked;
        self.gateway.log(downstream.req_header(), &mut ctx);
        match (driven, downstream.as_mut()) {
            (Ok(()), _) => Some(downstream),
            (Err(_), ServerSession::H2(stream)) => {
                // The connection goes on with the others.
                stream.shutdown();
                None
            }
            (Err(_), _) => None,
        }
    }
}

#[async_trait]
impl ServerApp for Edge {
    #[expect(
        clippy::disallowed_methods,
        reason = "a connection is waited for by its hold, and leaves Pingora's task so that this ends"
    )]
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        _shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let open = Open::new(self);
        let edge = Arc::clone(self);
        tokio::spawn(async move { edge.serve(stream, &open).await });
        None
    }
}

#[async_trait]
impl HttpServerApp for Http {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // A request may outlive its connection.
        let _hold = self.gateway.lifecycle.hold();
        // Over HTTP/2, which alone comes this way, a connection is not used again but shared.
        let request = self.proxy.process_new_http(session, shutdown);
        self.carry(request).await.map(|stream| ReusedHttpStream::new(stream, None))
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
    /// When it is old, if it may become so.
    old_at: Option<Instant>,
    _hold: Hold,
}

impl Open {
    fn new(edge: &Edge) -> Self {
        let gauge = edge.gateway.lasting.metrics.connections.clone();
        gauge.inc();
        // Clients that came together leave one after the other.
        let age = edge.connection_age_max.mul_f64(0.9 + 0.2 * fastrand::f64());
        Self {
            count: gauge.get(),
            gauge,
            old_at: (!age.is_zero()).then(|| Instant::now() + age),
            _hold: edge.gateway.lifecycle.hold(),
        }
    }

    /// Whether its client should open another one, perhaps at another gateway.
    fn is_old(&self) -> bool {
        self.old_at.is_some_and(|at| Instant::now() >= at)
    }

    /// Waits until it is old.
    async fn old(&self) {
        match self.old_at {
            Some(at) => pingora::time::sleep(at.saturating_duration_since(Instant::now())).await,
            None => std::future::pending().await,
        }
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
