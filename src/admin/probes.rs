//! `/live`, `/ready` and `/metrics`, and nothing else.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::lifecycle::Lifecycle;
use crate::shared::{Standing, Store};
use crate::telemetry::Metrics;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Anybody who reaches the listener: probes come by address, with any `Host`.
    None,
    /// Only requests for a loopback host: a web page that was rebound to this address names its own.
    LoopbackHost,
}

/// The answers for probes.
pub struct Probes {
    metrics: Arc<Metrics>,
    lifecycle: Arc<Lifecycle>,
    store: Arc<Store>,
    guard: Guard,
}

impl Probes {
    /// Probes of this process.
    pub fn new(
        metrics: Arc<Metrics>,
        lifecycle: Arc<Lifecycle>,
        store: Arc<Store>,
        guard: Guard,
    ) -> Self {
        Self { metrics, lifecycle, store, guard }
    }

    /// Whether this is a listener for the host that is asked for.
    pub(super) fn serves_host(&self, headers: &HeaderMap) -> bool {
        self.guard == Guard::None || is_loopback(host_of(headers))
    }

    fn answer(&self, method: &Method, path: &str, host: &str) -> (StatusCode, Vec<u8>) {
        if self.guard == Guard::LoopbackHost && !is_loopback(host) {
            return (StatusCode::MISDIRECTED_REQUEST, b"no such host here\n".to_vec());
        }
        if method != Method::GET && method != Method::HEAD {
            return (StatusCode::METHOD_NOT_ALLOWED, b"method not allowed\n".to_vec());
        }
        match path {
            "/live" => (StatusCode::OK, b"live\n".to_vec()),
            "/ready" if !self.lifecycle.is_ready() => {
                (StatusCode::SERVICE_UNAVAILABLE, b"stopping\n".to_vec())
            }
            "/ready" => self.ready(),
            "/metrics" => (StatusCode::OK, self.metrics.render()),
            _ => (StatusCode::NOT_FOUND, b"not found\n".to_vec()),
        }
    }

    /// A gateway serves without its store too, but not before it knows whether it has one.
    fn ready(&self) -> (StatusCode, Vec<u8>) {
        match self.store.standing() {
            Standing::Alone => (StatusCode::OK, b"ready\n".to_vec()),
            Standing::Starting => (StatusCode::SERVICE_UNAVAILABLE, b"starting\n".to_vec()),
            standing => (StatusCode::OK, format!("ready\nshared store: {standing}\n").into_bytes()),
        }
    }
}

#[async_trait]
impl ServeHttp for Probes {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let host = host_of(&head.headers);
        let (status, body) = self.answer(&head.method, head.uri.path(), host);
        let length = body.len();
        let body = if head.method == Method::HEAD { Vec::new() } else { body };
        let answer = Response::builder()
            .status(status)
            .header(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
            .header(CACHE_CONTROL, "no-store")
            .header(CONTENT_LENGTH, length);
        let answer = match status {
            StatusCode::METHOD_NOT_ALLOWED => answer.header(ALLOW, "GET, HEAD"),
            _ => answer,
        };
        answer.body(body).unwrap_or_default()
    }
}

fn host_of(headers: &HeaderMap) -> &str {
    headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{Guard, Lifecycle, Metrics, Probes, Store};
    use crate::lifecycle::Cause;
    use http::Method;
    use std::sync::Arc;
    use std::time::Duration;

    fn check(probes: &Probes, path: &str, host: &str, status: u16, text: &str) {
        let (found, body) = probes.answer(&Method::GET, path, host);
        assert_eq!(found.as_u16(), status, "{path} for {host}");
        assert!(String::from_utf8_lossy(&body).contains(text), "{path}");
    }

    fn probes_of(metrics: &Arc<Metrics>, lifecycle: &Arc<Lifecycle>, guard: Guard) -> Probes {
        let store = Arc::new(Store::alone());
        Probes::new(Arc::clone(metrics), Arc::clone(lifecycle), store, guard)
    }

    #[tokio::test]
    async fn probes_say_live_ready_and_metrics() {
        let lifecycle = Lifecycle::new();
        let metrics = Arc::new(Metrics::new(1, 1));
        let probes = probes_of(&metrics, &lifecycle, Guard::None);
        check(&probes, "/live", "10.0.0.1:9900", 200, "live");
        check(&probes, "/ready", "", 200, "ready");
        check(&probes, "/metrics", "", 200, "toolgate_connections_open 0");
        check(&probes, "/v1/servers", "", 404, "not found");
        lifecycle.drain(Cause::Told, Duration::from_secs(1)).await;
        check(&probes, "/ready", "", 503, "stopping");
        check(&probes, "/live", "", 200, "live");
        assert_eq!(probes.answer(&Method::POST, "/live", "").0.as_u16(), 405);
    }

    #[test]
    fn the_admin_listener_serves_only_loopback_hosts() {
        let metrics = Arc::new(Metrics::new(1, 1));
        let probes = probes_of(&metrics, &Lifecycle::new(), Guard::LoopbackHost);
        for host in ["localhost:9901", "127.0.0.1:9901", "[::1]:9901", "127.0.0.1"] {
            check(&probes, "/live", host, 200, "live");
        }
        for host in ["evil.example.com:9901", "", "127.0.0.1.evil.example.com"] {
            check(&probes, "/live", host, 421, "no such host");
        }
    }
}
