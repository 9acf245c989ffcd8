//! Client certificates: checked in the handshake, or by a proxy that is believed to say so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::HandshakeKind;

use crate::support::Stage;
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::tls::{Ca, Dial, Holder};
use crate::support::upstream::{Step, Upstream, event, events_head, mcp};

const CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");

/// One call over a TLS connection of its own; `None` where the handshake or the answer fails.
async fn ask(address: SocketAddr, holder: Option<&Holder>, message: &Message) -> Option<Answer> {
    ask_over(connect(address, holder, "http/1.1").await, message).await
}

async fn ask_over(stream: Option<TlsStream<TcpStream>>, message: &Message) -> Option<Answer> {
    let mut client = Client::over(stream?);
    client.send(&message.bytes()).await;
    client.try_answer().await
}

async fn connect(
    address: SocketAddr,
    holder: Option<&Holder>,
    protocol: &str,
) -> Option<TlsStream<TcpStream>> {
    Dial::localhost(holder, &[protocol]).connect(address).await
}

async fn stage(ca: &Ca, clients: &str, identity: &str) -> (Stage, Folder) {
    stage_before(Upstream::mcp("one").await, ca, clients, identity).await
}

async fn stage_before(
    upstream: Upstream,
    ca: &Ca,
    clients: &str,
    identity: &str,
) -> (Stage, Folder) {
    let folder = Folder::new();
    let file = folder.write("ca.pem", &ca.pem);
    let address = free_address();
    let tls = format!("certificate: {CONF}/localhost.crt, key: {CONF}/localhost.key");
    let clients = clients.replace("FOLDER", &folder.path().display().to_string());
    let yaml = format!(
        "listeners: [{{ address: {address}, tls: {{ {tls}, client_ca: {} {clients} }} }}]\n{}identity: {{ {identity} }}\n",
        file.display(),
        upstream.sections()
    );
    // The list of the revoked is there before the gateway is.
    folder.write("crl.pem", &ca.revoking(&[7]));
    let gateway = Gateway::start_at(&yaml, address).await;
    (Stage { gateway, upstream }, folder)
}

#[tokio::test]
async fn a_certificate_of_our_ca_proves_its_holder() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let clients = ", client_crl: FOLDER/crl.pem";
    let (stage, _folder) = stage(&ca, clients, "certificates: { caller: san_uri }").await;
    let (address, call) = (stage.gateway.address, Message::call(7, "echo"));
    let ann = ca.holder(5, Some("spiffe://example.org/ann"));
    let answer = ask(address, Some(&ann), &call).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let stream = connect(address, Some(&ann), "h2").await.expect("TLS");
    let mut http2 = Http2::over(stream).await;
    assert_eq!(http2.ask(&call).await.expect("an answer").status, 200);
    let log = stage.gateway.log(2).await;
    let named = |line: &&String| line.contains(r#""caller":"spiffe://example.org/ann""#);
    assert_eq!(log.iter().filter(named).count(), 2, "{log:?}");
    stage.upstream.take();

    let nobody = ask(address, Some(&ca.holder(6, None)), &call).await.expect("an answer");
    assert_eq!(nobody.status, 401, "a certificate that names nobody");
    let bad = call.clone().and("authorization", "Bearer nobody");
    let excused = ask(address, Some(&ann), &bad).await.expect("an answer");
    assert_eq!(excused.status, 401, "a bad token is not excused by a good certificate");
    // What a client says of itself is not what a proxy says of it.
    let claim = call.clone().and("x-forwarded-client-cert", "URI=spiffe://example.org/bob");
    let nobody = ask(address, Some(&ca.holder(6, None)), &claim).await.expect("an answer");
    assert_eq!(nobody.status, 401);
    let uri = Some("spiffe://example.org/ann");
    assert!(ask(address, None, &call).await.is_none(), "no certificate");
    assert!(ask(address, Some(&foreign.holder(5, uri)), &call).await.is_none(), "of another CA");
    assert!(ask(address, Some(&ca.holder(7, uri)), &call).await.is_none(), "a revoked one");
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn certificates_may_be_optional() {
    let ca = Ca::new();
    let clients = ", client_certificate: optional";
    let (stage, _folder) = stage(&ca, clients, "certificates: { caller: san_dns }").await;
    let (address, call) = (stage.gateway.address, Message::call(7, "echo"));
    let with = ask(address, Some(&ca.holder(7, None)), &call).await.expect("an answer");
    let without = ask(address, None, &call).await.expect("an answer");
    assert_eq!((with.status, without.status), (200, 401));
}

#[tokio::test]
async fn only_a_trusted_proxy_speaks_of_certificates() {
    let identity =
        "identity: { anonymous: allow, certificates: { header: x-client, caller: san_uri } }\n";
    let call = |said: &str| Message::call(7, "echo").and("x-client", said);
    let proxies = [("127.0.0.0/8", "spiffe://o/ann", 401), ("10.0.0.0/8", "anonymous", 200)];
    for (trusted, caller, broken) in proxies {
        let upstream = Upstream::mcp("one").await;
        let address = free_address();
        let yaml = format!(
            "listeners: [{{ address: {address}, trusted_proxies: [{trusted}] }}]\n{}{identity}",
            upstream.sections()
        );
        let stage = Stage { gateway: Gateway::start_at(&yaml, address).await, upstream };
        assert_eq!(stage.ask(&call("Hash=ab;URI=spiffe://o/ann")).await.status, 200);
        let log = stage.gateway.log(1).await;
        assert!(log[0].contains(&format!(r#""caller":"{caller}""#)), "{trusted}: {log:?}");
        assert_eq!(stage.ask(&call("nonsense")).await.status, broken, "{trusted}");
        let twice = call("URI=spiffe://o/ann").and("x-client", "URI=spiffe://o/bob");
        assert_eq!(stage.ask(&twice).await.status, broken, "{trusted}");
        assert_eq!(stage.ask(&Message::call(7, "echo")).await.status, 200);
        let seen = String::from_utf8_lossy(&stage.upstream.bytes()).into_owned();
        assert!(!seen.contains("spiffe://") && !seen.contains("x-client"), "{seen}");
    }
}

/// A server whose GET streams stay open.
async fn streaming() -> Upstream {
    let gate = Arc::new(Semaphore::new(0));
    Upstream::start(move |request| match request.verb.as_str() {
        "GET" => {
            let waits = Step::Wait(Arc::clone(&gate));
            vec![events_head(""), event("{}"), waits]
        }
        _ => mcp("one", request),
    })
    .await
}

#[tokio::test]
async fn who_is_revoked_while_connected_is_not_served_any_more() {
    let ca = Ca::new();
    let clients = ", client_crl: FOLDER/crl.pem";
    let identity = "certificates: { caller: san_uri }";
    let (stage, folder) = stage_before(streaming().await, &ca, clients, identity).await;
    let (address, call) = (stage.gateway.address, Message::call(7, "echo"));
    let ann = ca.holder(5, Some("spiffe://example.org/ann"));
    let eve = ca.holder(8, Some("spiffe://example.org/eve"));
    let dial = Dial::localhost(Some(&eve), &["http/1.1"]);
    let mut kept = Client::over(dial.connect(address).await.expect("TLS"));
    kept.send(&Message::initialize().bytes()).await;
    let session = kept.answer().await.session();
    let mut stream = Client::over(dial.connect(address).await.expect("TLS"));
    stream.send(&Message::stream(&session).bytes()).await;
    stream.body_after_head("data: {}\n\n").await;
    let mut http2 = Http2::over(connect(address, Some(&eve), "h2").await.expect("TLS")).await;
    assert_eq!(http2.ask(&call).await.expect("an answer").status, 200);
    let mut other = Client::over(connect(address, Some(&ann), "http/1.1").await.expect("TLS"));
    other.send(&call.bytes()).await;
    assert_eq!(other.answer().await.status, 200);
    // What was checked once is resumed without being shown again.
    let resumed = dial.connect(address).await.expect("TLS");
    assert_eq!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));

    folder.write("crl.pem", &ca.revoking(&[7, 8]));
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 1"#).await;
    stage.upstream.take();
    // In TLS 1.3 a client learns of it with the first thing it reads.
    let again = ask_over(dial.connect(address).await, &call).await;
    assert!(again.is_none(), "a session of before is not resumed");
    assert!(ask(address, Some(&eve), &call).await.is_none(), "a handshake of its own");
    kept.send(&call.bytes()).await;
    let refused = kept.answer().await;
    assert_eq!((refused.status, refused.code()), (421, 421));
    assert_eq!(refused.field("connection"), Some("close"));
    assert!(kept.is_closed().await);
    assert_eq!(http2.ask(&call).await.expect("an answer").status, 421);
    while stream.part().await.is_some() {}
    assert!(stage.upstream.take().iter().all(|request| request.method() != "tools/call"));

    other.send(&call.bytes()).await;
    assert_eq!(other.answer().await.status, 200, "the others are not disturbed");
    assert_eq!(ask(address, Some(&ann), &call).await.expect("an answer").status, 200);
    let refused = r#"toolgate_refusals_total{reason="certificate_refused"} 2"#;
    stage.gateway.metrics_with(refused).await;

    // A list that cannot be read is refused, and the one before it still counts.
    folder.write("crl.pem", &ca.pem);
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="refused"}"#).await;
    let said = stage.gateway.diagnostics();
    assert!(said.contains("there is no X509 CRL in"), "{said}");
    assert!(ask(address, Some(&eve), &call).await.is_none());
    assert_eq!(ask(address, Some(&ann), &call).await.expect("an answer").status, 200);
    // Other authorities: whoever was signed by the one before needs another certificate.
    let next = Ca::new();
    folder.write("ca.pem", &next.pem);
    folder.write("crl.pem", &next.revoking(&[]));
    let began = Instant::now();
    while ask(address, Some(&next.holder(8, Some("spiffe://o/new"))), &call).await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(15), "{}", stage.gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.send(&call.bytes()).await;
    assert_eq!(other.answer().await.status, 421);
}
