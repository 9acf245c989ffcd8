//! What servers get instead of the client's credentials: from every source, and never the client's own.

mod clouds;
mod exchange;

use crate::support::client::{self, Answer, Client};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::http2::{Http2Upstream, Reaction};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::{
    Request, Step, Upstream, event, events_end, events_head, json_answer, mcp, plain, result,
    sections,
};
use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What must never be seen anywhere but where it belongs.
const CANARY: &str = "canary-of-the-server";
const KEY: &str = "canary-of-the-client";
/// The gateway asks the server nothing by itself, so that what it sees is of calls.
const UNLISTED: &str = "catalog: { listing: off }";

fn identity() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, KEY.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "identity: {{ anonymous: allow, api_keys: [{{ caller: \"ann ä\", tenant: t, scopes: [r, w], sha256: {digest} }}] }}\n"
    )
}

async fn gateway(urls: &[String], credentials: &str) -> Gateway {
    let server = format!(", credentials: {{ {credentials} }}, identity_headers: on, {UNLISTED}");
    Gateway::start(&format!("{}{}", sections(urls, &server), identity())).await
}

/// A message of a client that tries to say who it is, also in the server's own ways.
fn by_ann(message: Message) -> Message {
    message
        .and("authorization", &format!("Bearer {KEY}"))
        .and("x-api-key", "canary-of-the-client too")
        .and("x-toolgate-caller", "root")
        .and("x-toolgate-scopes", "all")
}

async fn ask(gateway: &Gateway, message: Message) -> Answer {
    client::exchange(gateway.address, &message.bytes()).await
}

async fn call(gateway: &Gateway) -> Answer {
    ask(gateway, by_ann(Message::call(7, "echo"))).await
}

/// The value that a server gets with a call now.
async fn sent(gateway: &Gateway, server: &Upstream, field: &str) -> Option<String> {
    server.take();
    let answer = call(gateway).await;
    assert_eq!(answer.status, 200, "{} {}", answer.text(), gateway.diagnostics());
    server.take().first().and_then(|request| request.field(field)).map(str::to_owned)
}

async fn is_sent(gateway: &Gateway, server: &Upstream, value: &str) {
    let began = Instant::now();
    while sent(gateway, server, "authorization").await.as_deref() != Some(value) {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A call is refused, and nothing of it reaches the server.
async fn fails_closed(gateway: &Gateway, server: &Upstream, status: u16, reason: &str) {
    server.take();
    let answer = call(gateway).await;
    let found = (answer.status, answer.code(), answer.json()["id"].clone());
    assert_eq!(found, (status, i64::from(status), json!(7)), "{}", answer.text());
    assert!(server.take().is_empty(), "nothing goes out without its credential");
    gateway.metrics_with(&format!("reason=\"{reason}\"")).await;
}

/// Whatever the gateway writes, no secret is in it.
async fn tells_nothing(gateway: &Gateway, lines: usize, secrets: &[&str]) {
    let told =
        [gateway.diagnostics(), gateway.log(lines).await.join("\n"), gateway.metrics().await];
    for secret in secrets {
        assert!(told.iter().all(|text| !text.contains(secret)), "{secret} in {told:#?}");
    }
}

fn form(request: &Request) -> HashMap<String, String> {
    let decoded = |text: &str| {
        let mut bytes = Vec::new();
        let text = text.replace('+', " ");
        let mut rest = text.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            (bytes, rest) = match (*byte, after) {
                (b'%', [high, low, after @ ..]) => {
                    let digits = [*high, *low];
                    let digits = std::str::from_utf8(&digits).expect("digits");
                    bytes.push(u8::from_str_radix(digits, 16).expect("a byte"));
                    (bytes, after)
                }
                (byte, after) => {
                    bytes.push(byte);
                    (bytes, after)
                }
            };
        }
        String::from_utf8(bytes).expect("text")
    };
    let body = std::str::from_utf8(&request.body).expect("a form").to_owned();
    let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// An issuer whose tokens are numbered: token-1, token-2. It fails while `is_down` is not zero.
struct Issuer {
    upstream: Upstream,
    is_down: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(lifetime: u64) -> Self {
        let is_down = Arc::new(AtomicUsize::new(0));
        let (down, issued) = (Arc::clone(&is_down), AtomicUsize::new(0));
        let script = move |_: &Request| {
            if down.load(Ordering::SeqCst) > 0 {
                return json_answer(500, "", &json!({ "error": "server_error", "hint": CANARY }));
            }
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            json_answer(
                200,
                "metadata-flavor: Google\r\n",
                &json!({ "access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": lifetime }),
            )
        };
        Self { upstream: Upstream::start(script).await, is_down }
    }

    fn url(&self) -> String {
        format!("http://{}/token", self.upstream.address)
    }

    fn oauth_client(&self, more: &str) -> String {
        let url = self.url();
        format!(
            "oauth_client: {{ token_url: \"{url}\", client_id: \"tool:gate\", client_secret: \"{CANARY}\" {more} }}"
        )
    }
}

#[tokio::test]
async fn no_request_carries_what_the_client_sent_and_all_carry_the_servers_own() {
    let script = |name: &'static str| {
        move |request: &Request| match request.json()["params"]["name"].as_str() {
            Some("stream") => {
                let answer = result(&request.json()["id"], name).to_string();
                vec![events_head(""), event(&answer), events_end()]
            }
            _ => mcp(name, request),
        }
    };
    let (a, b) = (Upstream::start(script("a")).await, Upstream::start(script("b")).await);
    let credentials = format!("header: X-Api-Key, value: {CANARY}");
    let gateway = gateway(&[a.url(), b.url()], &credentials).await;
    let opened = ask(&gateway, by_ann(Message::initialize())).await;
    let session = opened.session();
    let (home, other) = if a.connections() == 0 { (b, a) } else { (a, b) };
    let held = |message: Message| by_ann(message.field("mcp-session-id", &session));
    assert_eq!(ask(&gateway, held(Message::legacy_call(2, "echo", &session))).await.status, 200);
    assert_eq!(ask(&gateway, held(Message::legacy_call(3, "stream", &session))).await.status, 200);
    assert_eq!(call(&gateway).await.status, 200);
    let mut stream = Client::connect(gateway.address).await;
    stream.send(&held(Message::stream(&session)).bytes()).await;
    assert_eq!(stream.head().await.status, 200);
    let mut bytes = [home.bytes(), other.bytes()].concat();
    let mut seen = [home.take(), other.take()].concat();
    drop((stream, home));
    tokio::time::sleep(Duration::from_millis(100)).await;
    // It moves, by requests of the gateway's own, and ends.
    assert_eq!(ask(&gateway, held(Message::legacy_call(4, "echo", &session))).await.status, 200);
    assert_eq!(ask(&gateway, held(Message::end(&session))).await.status, 204);
    bytes.extend(other.bytes());
    seen.extend(other.take());
    let verbs: Vec<_> = seen.iter().map(|request| request.verb.as_str()).collect();
    assert!(verbs.contains(&"GET") && verbs.contains(&"DELETE"), "{verbs:?}");
    let opened = seen.iter().filter(|request| request.method() == "initialize").count();
    assert_eq!(opened, 2, "the session moved");
    for request in &seen {
        assert_eq!(request.field("x-api-key"), Some(CANARY), "{request:?}");
        assert_eq!(request.field("authorization"), None, "{request:?}");
        assert_eq!(request.field("x-toolgate-caller"), Some("ann%20%C3%A4"), "{request:?}");
        assert_eq!(request.field("x-toolgate-tenant"), Some("t"));
        assert_eq!(request.field("x-toolgate-scopes"), Some("r w"));
        assert_eq!(request.field("x-toolgate-method"), Some("api_key"));
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(!text.contains(KEY) && !text.contains("root"), "{text}");
    tells_nothing(&gateway, 7, &[CANARY, KEY]).await;
}

#[tokio::test]
async fn a_server_of_http2_gets_them_too_and_an_operator_sees_none() {
    let server = Http2Upstream::start(|request| Reaction::Answer {
        status: 200,
        fields: vec![("content-type", "application/json".to_owned())],
        body: result(&request.json()["id"], "echo").to_string().into_bytes(),
    })
    .await;
    let admin = free_address();
    let more = format!(
        ", protocol: http2, identity_headers: on, {UNLISTED}, credentials: {{ value: \"Token {CANARY}\" }}"
    );
    let yaml =
        format!("{}{}{}", sections(&[server.url()], &more), identity(), operator::section(admin));
    let gateway = Gateway::start(&yaml).await;
    assert_eq!(call(&gateway).await.status, 200);
    let seen = server.take();
    assert_eq!(seen[0].field("authorization"), Some(format!("Token {CANARY}").as_str()));
    assert_eq!(seen[0].field("x-toolgate-caller"), Some("ann%20%C3%A4"));
    let operator = Operator::new(admin);
    for path in ["/v1/servers", "/v1/servers/one", "/v1/config"] {
        let shown = operator.ask("GET", path, &serde_json::Value::Null).await.text();
        assert!(!shown.contains(CANARY), "{path}: {shown}");
    }
    let stolen = json!({ "endpoints": ["http://127.0.0.1:1/"], "credentials": { "token_file": "/etc/passwd" } });
    let answer = operator.ask("PUT", "/v1/servers/new", &stolen).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    tells_nothing(&gateway, 1, &[CANARY, KEY]).await;
}

#[tokio::test]
async fn nothing_is_told_and_nothing_sent_unless_the_configuration_says_so() {
    let server = Upstream::mcp("a").await;
    let gateway = Gateway::start(&format!(
        "{}{}",
        sections(&[server.url()], &format!(", {UNLISTED}")),
        identity()
    ))
    .await;
    assert_eq!(call(&gateway).await.status, 200);
    let seen = server.take();
    let told = |name: &&String| name.starts_with("x-toolgate-") || *name == "authorization";
    assert_eq!(seen[0].fields.keys().find(told), None);
}

#[tokio::test]
async fn a_token_for_the_gateway_is_asked_for_as_oauth_says() {
    let server = Upstream::mcp("a").await;
    for auth in ["basic", "post"] {
        let issuer = Issuer::start(3600).await;
        let more = format!(
            ", auth: {auth}, scopes: [read, write], audience: files, resource: \"https://files.example.com/mcp\""
        );
        let gateway = gateway(&[server.url()], &issuer.oauth_client(&more)).await;
        assert_eq!(
            sent(&gateway, &server, "authorization").await.as_deref(),
            Some("Bearer token-1")
        );
        let asked = issuer.upstream.take();
        assert_eq!(asked.len(), 1, "the token is kept");
        assert_eq!((asked[0].verb.as_str(), asked[0].path.as_str()), ("POST", "/token"));
        let form = form(&asked[0]);
        let field = |name: &str| form.get(name).map(String::as_str);
        assert_eq!(field("grant_type"), Some("client_credentials"));
        assert_eq!(field("scope"), Some("read write"));
        assert_eq!(field("audience"), Some("files"));
        assert_eq!(field("resource"), Some("https://files.example.com/mcp"));
        let basic =
            base64::engine::general_purpose::STANDARD.encode(format!("tool%3Agate:{CANARY}"));
        match auth {
            "basic" => {
                assert_eq!(
                    asked[0].field("authorization"),
                    Some(format!("Basic {basic}").as_str())
                );
                assert_eq!(field("client_secret"), None);
            }
            _ => {
                assert_eq!(asked[0].field("authorization"), None);
                let client = (field("client_id"), field("client_secret"));
                assert_eq!(client, (Some("tool:gate"), Some(CANARY)));
            }
        }
        tells_nothing(&gateway, 1, &[CANARY, KEY, "token-1"]).await;
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_outlives_its_issuer() {
    let (server, issuer) = (Upstream::mcp("a").await, Issuer::start(8).await);
    let gateway = gateway(&[server.url()], &issuer.oauth_client("")).await;
    assert_eq!(sent(&gateway, &server, "authorization").await.as_deref(), Some("Bearer token-1"));
    // Nobody calls meanwhile.
    assert!(issuer.upstream.reached(2).await, "{}", gateway.diagnostics());
    is_sent(&gateway, &server, "Bearer token-2").await;
    issuer.is_down.store(1, Ordering::SeqCst);
    assert!(issuer.upstream.reached(3).await, "{}", gateway.diagnostics());
    is_sent(&gateway, &server, "Bearer token-2").await;
    // And then it is over.
    let began = Instant::now();
    while call(&gateway).await.status == 200 {
        assert!(began.elapsed() < Duration::from_secs(15));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fails_closed(&gateway, &server, 503, "credentials_unavailable").await;
    issuer.is_down.store(0, Ordering::SeqCst);
    let began = Instant::now();
    while call(&gateway).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    gateway
        .metrics_with(r#"toolgate_credential_requests_total{outcome="denied",server="one"}"#)
        .await;
    tells_nothing(&gateway, 1, &[CANARY, KEY, "token-1", "token-2"]).await;
}

#[tokio::test]
async fn a_hundred_calls_wait_for_one_token_and_none_goes_out_without() {
    let slow = |_: &Request| {
        let token = json!({ "access_token": "slow", "token_type": "Bearer", "expires_in": 3600 });
        let mut steps = vec![Step::Pause(Duration::from_millis(500))];
        steps.extend(json_answer(200, "", &token));
        steps
    };
    let (server, issuer) = (Upstream::mcp("a").await, Upstream::start(slow).await);
    let credentials = format!(
        "oauth_client: {{ token_url: \"http://{}/\", client_id: a, client_secret: b }}",
        issuer.address
    );
    let gateway = Arc::new(gateway(&[server.url()], &credentials).await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let gateway = Arc::clone(&gateway);
        calls.spawn(async move { call(&gateway).await.status });
    }
    assert_eq!(calls.join_all().await, vec![200; 100]);
    assert_eq!(issuer.take().len(), 1);
    let seen = server.take();
    assert!(seen.iter().all(|request| request.field("authorization") == Some("Bearer slow")));
}

#[tokio::test]
async fn bad_issuers_are_no_reason_to_let_a_call_go() {
    let answers: [(&str, Vec<Step>); 6] = [
        ("no json", vec![plain(200, "content-type: application/json\r\n", b"<html>")]),
        ("no token", json_answer(200, "", &json!({ "token_type": "Bearer" }))),
        (
            "another kind",
            json_answer(200, "", &json!({ "access_token": "a", "token_type": "DPoP" })),
        ),
        (
            "a field",
            json_answer(200, "", &json!({ "access_token": "a\r\nx: y", "token_type": "Bearer" })),
        ),
        ("huge", vec![plain(200, "", &vec![b' '; 1 << 20])]),
        ("elsewhere", vec![plain(307, "location: http://127.0.0.1:1/\r\n", b"")]),
    ];
    let server = Upstream::mcp("a").await;
    for (what, steps) in answers {
        let steps = Mutex::new(vec![steps]);
        let script = move |_: &Request| steps.lock().pop().unwrap_or_else(|| vec![Step::Close]);
        let issuer = Upstream::start(script).await;
        let credentials = format!(
            "oauth_client: {{ token_url: \"http://{}/\", client_id: a, client_secret: {CANARY} }}",
            issuer.address
        );
        let gateway = gateway(&[server.url()], &credentials).await;
        assert!(issuer.reached(1).await, "{what}");
        fails_closed(&gateway, &server, 503, "credentials_unavailable").await;
        tells_nothing(&gateway, 1, &[CANARY, KEY]).await;
    }
}

#[tokio::test]
async fn a_file_is_read_again_when_it_is_replaced() {
    let server = Upstream::mcp("a").await;
    let folder = Folder::new();
    // As Kubernetes mounts secrets: the file is a link into a folder that is a link.
    for (version, token) in [("v1", "canary-one"), ("v2", "canary-two")] {
        fs::create_dir(folder.path().join(version)).expect("a folder");
        fs::write(folder.path().join(version).join("token"), format!("{token}\n"))
            .expect("written");
    }
    symlink("v1", folder.path().join("data")).expect("a link");
    symlink("data/token", folder.path().join("token")).expect("a link");
    let path = folder.path().join("token");
    let gateway = gateway(&[server.url()], &format!("token_file: {}", path.display())).await;
    is_sent(&gateway, &server, "Bearer canary-one").await;
    symlink("v2", folder.path().join("data.new")).expect("a link");
    fs::rename(folder.path().join("data.new"), folder.path().join("data")).expect("renamed");
    is_sent(&gateway, &server, "Bearer canary-two").await;
    fs::write(folder.path().join("v2/token"), "canary-three").expect("written");
    is_sent(&gateway, &server, "Bearer canary-three").await;
    // What it held lasts while there is nothing better.
    fs::write(folder.path().join("v2/token"), "").expect("written");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    is_sent(&gateway, &server, "Bearer canary-three").await;
    fs::remove_file(folder.path().join("data")).expect("removed");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    is_sent(&gateway, &server, "Bearer canary-three").await;
    assert!(gateway.diagnostics().contains("no credential in the file"));
    tells_nothing(&gateway, 1, &["canary-one", "canary-two", "canary-three", KEY]).await;
}

#[tokio::test]
async fn a_caller_without_token_has_nothing_to_exchange() {
    let (server, issuer) = (Upstream::mcp("a").await, Issuer::start(3600).await);
    let exchange = |otherwise: &str| {
        format!(
            "token_exchange: {{ token_url: \"{}\", client_id: a, client_secret: b, otherwise: {otherwise} }}",
            issuer.url()
        )
    };
    let closed = gateway(&[server.url()], &exchange("refuse")).await;
    fails_closed(&closed, &server, 403, "exchange_refused").await;
    assert!(issuer.upstream.take().is_empty(), "a key is not a token");
    let open = gateway(&[server.url()], &exchange("client_credentials")).await;
    is_sent(&open, &server, "Bearer token-1").await;
    let asked = issuer.upstream.take();
    assert_eq!(form(&asked[0]).get("grant_type").map(String::as_str), Some("client_credentials"));
    assert!(!String::from_utf8_lossy(&issuer.upstream.bytes()).contains(KEY));
}

#[tokio::test]
async fn a_reload_keeps_a_token_whose_settings_stay() {
    let (server, issuer) = (Upstream::mcp("a").await, Issuer::start(3600).await);
    let gateway = gateway(&[server.url()], &issuer.oauth_client("")).await;
    is_sent(&gateway, &server, "Bearer token-1").await;
    let config = gateway.folder().join("toolgate.yaml");
    let text = gateway.config();
    let other = text.replace("identity_headers: on", "identity_headers: off");
    fs::write(&config, &other).expect("written");
    gateway.signal("HUP");
    let began = Instant::now();
    while sent(&gateway, &server, "x-toolgate-caller").await.is_some() {
        assert!(began.elapsed() < Duration::from_secs(15), "{}", gateway.diagnostics());
    }
    is_sent(&gateway, &server, "Bearer token-1").await;
    fs::write(&config, other.replace("tool:gate", "other")).expect("written");
    gateway.signal("HUP");
    is_sent(&gateway, &server, "Bearer token-2").await;
}

#[tokio::test]
async fn probes_are_let_in_and_blame_no_server_for_its_issuer() {
    let guarded = |request: &Request| match request.field("authorization") {
        Some(value) if value.starts_with("Bearer token-") => mcp("a", request),
        _ => vec![plain(401, "", b"")],
    };
    let (server, issuer) = (Upstream::start(guarded).await, Issuer::start(3600).await);
    issuer.is_down.store(1, Ordering::SeqCst);
    let more = format!(
        ", {UNLISTED}, health: {{ probe: mcp, interval: 100ms, unhealthy_after: 1 }}, credentials: {{ {} }}",
        issuer.oauth_client("")
    );
    let gateway =
        Gateway::start(&format!("{}{}", sections(&[server.url()], &more), identity())).await;
    assert!(issuer.upstream.reached(1).await);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(server.take().is_empty(), "no probe without the credential");
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains(r#"health="unhealthy""#), "{metrics}");
    issuer.is_down.store(0, Ordering::SeqCst);
    assert!(server.reached(1).await, "{}", gateway.diagnostics());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let seen = server.take();
    assert!(seen.iter().all(|request| request.field("authorization").is_some()));
    assert_eq!(call(&gateway).await.status, 200);
}
