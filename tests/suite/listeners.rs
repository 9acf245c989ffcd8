//! What stands between a client and a route: hosts, origins, proxies in front, TLS, probes.

use crate::support::Stage;
use crate::support::client::{self, Client};
use crate::support::gateway::{Gateway, free_address};
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::tls::Dial;
use crate::support::upstream::Upstream;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A stage whose one listener has these keys besides its address.
async fn listening(keys: &str) -> Stage {
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let yaml = format!("listeners: [{{ address: {address}, {keys} }}]\n{}", upstream.sections());
    let gateway = Gateway::start_at(&yaml, address).await;
    Stage { gateway, upstream }
}

fn call() -> Message {
    Message::call(7, "echo")
}

#[tokio::test]
async fn only_allowed_hosts_are_served() {
    let stage = Stage::mcp().await;
    for (host, status) in [
        ("localhost", 200),
        ("LocalHost:1234", 200),
        ("localhost.", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("evil.example.com", 421),
        ("localhost.evil.example.com", 421),
        ("127.0.0.1.evil.example.com", 421),
        ("10.0.0.1", 421),
    ] {
        let mut http2 = Http2::connect(stage.gateway.address).await;
        let message = call().field("host", host);
        for answer in [stage.ask(&message).await, http2.ask(&message).await.expect("an answer")] {
            assert_eq!(answer.status, status, "{host}");
            if status != 200 {
                assert_eq!((answer.code(), answer.json()["id"].clone()), (421, Value::Null));
            }
        }
        assert_eq!(stage.upstream.take().len(), if status == 200 { 2 } else { 0 }, "{host}");
    }
    let named = listening("allowed_hosts: [mcp.example.com, \"other.example.com:8443\"]").await;
    for (host, status) in [
        ("mcp.example.com:99", 200),
        ("other.example.com:8443", 200),
        ("other.example.com", 421),
        ("localhost", 421),
    ] {
        assert_eq!(named.ask(&call().field("host", host)).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn only_allowed_origins_are_served() {
    let stage = Stage::mcp().await;
    for (origin, status) in [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("https://evil.example.com", 403),
        ("http://localhost.evil.example.com", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
    ] {
        let answer = stage.ask(&call().field("origin", origin)).await;
        assert_eq!(answer.status, status, "{origin}");
        let may_read = answer.field("access-control-allow-origin");
        assert_eq!(may_read, (status == 200).then_some(origin), "{origin}");
        let seen = stage.upstream.take();
        assert_eq!(seen.len(), usize::from(status == 200), "{origin}");
        assert!(seen.iter().all(|request| request.field("origin").is_none()));
    }
    let answer = stage.ask(&call().field("origin", "http://localhost")).await;
    let exposed = answer.field("access-control-expose-headers").unwrap_or_default();
    for name in ["mcp-session-id", "www-authenticate"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    assert_eq!(answer.field("vary"), Some("origin"));
}

#[tokio::test]
async fn preflights_are_answered_here() {
    let stage = Stage::mcp().await;
    let mut preflight = Message::post("")
        .field("origin", "http://localhost:3000")
        .field("access-control-request-method", "POST")
        .field(
            "access-control-request-headers",
            "content-type, mcp-method, mcp-param-region, x-evil",
        );
    preflight.verb = "OPTIONS";
    let answer = stage.ask(&preflight).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.field("access-control-allow-origin"), Some("http://localhost:3000"));
    assert!(answer.field("access-control-allow-methods").is_some_and(|all| all.contains("DELETE")));
    let fields = answer.field("access-control-allow-headers").unwrap_or_default();
    for name in [
        "authorization",
        "mcp-session-id",
        "mcp-method",
        "mcp-name",
        "mcp-param-region",
        "last-event-id",
    ] {
        assert!(fields.contains(name), "{fields}");
    }
    assert!(!fields.contains("x-evil"));
    let evil = stage.ask(&preflight.field("origin", "http://evil.example.com")).await;
    assert_eq!((evil.status, evil.field("access-control-allow-origin")), (403, None));
    stage.is_unharmed("preflights").await;
}

#[tokio::test]
async fn a_refusal_is_readable_for_the_page_that_may_ask() {
    let stage = Stage::mcp().await;
    let answer = stage.ask(&call().field("origin", "http://localhost").without("mcp-name")).await;
    assert_eq!(
        (answer.status, answer.field("access-control-allow-origin")),
        (400, Some("http://localhost"))
    );
}

#[tokio::test]
async fn only_a_trusted_proxy_says_who_the_client_is() {
    let trusting = listening("trusted_proxies: [127.0.0.0/8]").await;
    let other = Stage::mcp().await;
    for (stage, forwarded, client) in [
        (&trusting, "203.0.113.9", "203.0.113.9"),
        (&trusting, "6.6.6.6, 203.0.113.9, 127.0.0.2", "203.0.113.9"),
        (&trusting, "garbage", "127.0.0.1"),
        (&other, "203.0.113.9", "127.0.0.1"),
    ] {
        let message = call()
            .and("x-forwarded-for", forwarded)
            .and("x-forwarded-host", "evil.example.com")
            .and("x-forwarded-proto", "https")
            .and("x-real-ip", "6.6.6.6")
            .and("forwarded", "for=6.6.6.6");
        assert_eq!(stage.ask(&message).await.status, 200);
        let seen = stage.upstream.take();
        assert_eq!(seen[0].field("x-forwarded-for"), Some(client), "{forwarded}");
        for name in ["x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded"] {
            assert_eq!(seen[0].field(name), None, "{name}");
        }
    }
}

/// A header of the PROXY protocol for a client at 203.0.113.9.
fn proxy_header() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend_from_slice(&[203, 0, 113, 9, 127, 0, 0, 1, 0x30, 0x39, 0, 80]);
    header
}

#[tokio::test]
async fn the_proxy_protocol_says_who_the_client_is() {
    let stage = listening("proxy_protocol: v2").await;
    let mut client = stage.connect().await;
    client.send(&[proxy_header(), call().bytes()].concat()).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(&call().bytes()).await;
    assert_eq!(client.answer().await.status, 200);
    // Byte by byte, and over HTTP/2.
    let mut client = stage.connect().await;
    for byte in proxy_header() {
        client.send(&[byte]).await;
    }
    client.send(&call().bytes()).await;
    assert_eq!(client.answer().await.status, 200);
    let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
    tokio::io::AsyncWriteExt::write_all(&mut stream, &proxy_header()).await.expect("sent");
    let mut http2 = Http2::over(stream).await;
    assert_eq!(http2.ask(&call()).await.expect("an answer").status, 200);
    let seen = stage.upstream.take();
    assert!(
        seen.len() == 4
            && seen.iter().all(|request| request.field("x-forwarded-for") == Some("203.0.113.9")),
        "{seen:?}"
    );
    // Whoever speaks without it is not heard.
    for bytes in [
        call().bytes(),
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............".to_vec(),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n".to_vec(),
    ] {
        let mut client = stage.connect().await;
        client.send(&bytes).await;
        assert!(client.try_answer().await.is_none());
    }
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn only_trusted_peers_may_speak_the_proxy_protocol() {
    let stage = listening("proxy_protocol: v2, trusted_proxies: [10.0.0.0/8]").await;
    let mut client = stage.connect().await;
    client.send(&[proxy_header(), call().bytes()].concat()).await;
    assert!(client.try_answer().await.is_none());
    assert!(stage.upstream.bytes().is_empty());
}

/// Connects with TLS, offering these protocols.
async fn tls(address: SocketAddr, offered: &[&str]) -> TlsStream<TcpStream> {
    Dial::localhost(None, offered).connect(address).await.expect("TLS")
}

fn tls_keys() -> String {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");
    format!("tls: {{ certificate: {conf}/localhost.crt, key: {conf}/localhost.key }}")
}

#[tokio::test]
async fn tls_speaks_what_the_client_offers() {
    let stage = listening(&tls_keys()).await;
    for (offered, agreed) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let stream = tls(stage.gateway.address, offered).await;
        let found = stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        assert_eq!(found.as_deref(), agreed);
        let statuses = if agreed == Some("h2") {
            let mut client = Http2::over(stream).await;
            let answers =
                [client.ask(&call()).await, client.ask(&call().without("mcp-name")).await];
            answers.map(|answer| answer.expect("an answer").status)
        } else {
            let mut client = Client::over(stream);
            client.send(&call().bytes()).await;
            let first = client.answer().await.status;
            client.send(&call().without("mcp-name").bytes()).await;
            [first, client.answer().await.status]
        };
        assert_eq!(statuses, [200, 400], "{offered:?}");
    }
    // Plain HTTP at a TLS listener ends without harm.
    let mut client = stage.connect().await;
    client.send(&call().bytes()).await;
    let rest = client.is_closed().await;
    drop(client);
    assert!(rest || stage.upstream.take().len() == 3);
    let mut again = Client::over(tls(stage.gateway.address, &["http/1.1"]).await);
    again.send(&call().bytes()).await;
    assert_eq!(again.answer().await.status, 200);
}

#[tokio::test]
async fn streams_pass_through_tls() {
    use crate::support::upstream::{Step, event, events_end, events_head};
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let upstream = Upstream::start(move |_| {
        vec![
            events_head(""),
            event("1"),
            Step::Wait(Arc::clone(&waiting)),
            event("2"),
            events_end(),
        ]
    })
    .await;
    let address = free_address();
    let yaml =
        format!("listeners: [{{ address: {address}, {} }}]\n{}", tls_keys(), upstream.sections());
    let gateway = Gateway::start_at(&yaml, address).await;
    let mut client = Client::over(tls(gateway.address, &["http/1.1"]).await);
    client.send(&call().bytes()).await;
    client.body_after_head("data: 1").await;
    gate.add_permits(1);
    client.body_with("data: 2").await;
    let mut client = Http2::over(tls(gateway.address, &["h2"]).await).await;
    let mut stream = client.begin(&call()).await.expect("a head");
    assert!(stream.part().await.expect("a part").is_some_and(|part| part.ends_with(b"1\n\n")));
    drop(stream);
    assert!(upstream.left(1).await);
}

#[tokio::test]
async fn the_health_listener_answers_probes_by_address() {
    let stage = Stage::mcp().await;
    for (path, status, text) in [
        ("/live", 200, "live"),
        ("/ready", 200, "ready"),
        ("/metrics", 200, "toolgate_connections_open"),
        ("/", 404, ""),
        ("/mcp", 404, ""),
        ("/v1/servers", 404, ""),
    ] {
        let answer = stage.gateway.probe(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains(text), "{path}");
    }
    let post = Message::post("{}").at("/live").bytes();
    assert_eq!(client::exchange(stage.gateway.health, &post).await.status, 405);
    // The other way round, a route's listener serves no probes.
    let probe = Message { verb: "GET", ..Message::stream("x") }.at("/metrics");
    assert_eq!(stage.ask(&probe).await.status, 404);
}

#[tokio::test]
async fn the_admin_listener_serves_loopback_hosts_only() {
    let admin = free_address();
    let _stage = Stage::with(&format!("admin: {{ listen: {admin} }}\n")).await;
    for (host, status) in [
        ("localhost:9901", 200),
        ("127.0.0.1", 200),
        ("[::1]:9901", 200),
        ("evil.example.com", 421),
        ("10.1.2.3:9900", 421),
    ] {
        let probe = format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(client::exchange(admin, probe.as_bytes()).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_with_an_answer() {
    let stage = Stage::with("runtime: { connections_max: 3 }\n").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = stage.connect().await;
        client.send(&call().bytes()).await;
        // The probe of the start may still be closing, and is counted.
        if client.answer().await.status == 200 {
            open.push(client);
        }
    }
    stage.gateway.metrics_with(&format!("toolgate_connections_open {}", open.len())).await;
    while open.len() < 3 {
        let mut client = stage.connect().await;
        client.send(&call().bytes()).await;
        assert_eq!(client.answer().await.status, 200);
        open.push(client);
    }
    stage.upstream.take();
    let answer = stage.ask(&call()).await;
    assert_eq!((answer.status, answer.code(), answer.field("retry-after")), (503, 503, Some("1")));
    drop(open);
    stage.gateway.metrics_with("toolgate_connections_open 0").await;
    assert_eq!(stage.ask(&call()).await.status, 200);
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_allowed() {
    let stage = listening("limits: { requests_per_connection_max: 3 }").await;
    let mut client = stage.connect().await;
    for nth in 1..4 {
        client.send(&call().bytes()).await;
        let answer = client.answer().await;
        let last = answer.field("connection") == Some("close");
        assert_eq!((answer.status, last), (200, nth == 3));
    }
    assert!(client.is_closed().await);
}
