//! Tokens in exchange for the caller's own, and what the gateway asks by itself.

use super::{CANARY, Issuer, UNLISTED, ask, form, identity, tells_nothing};
use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::idp::{Idp, Key, PUBLIC_URL};
use crate::support::message::Message;
use crate::support::upstream::{Request, Step, Upstream, json_answer, sections};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[tokio::test]
async fn each_callers_token_is_exchanged_and_never_reaches_a_server() {
    let key = Key::new("a");
    let (idp, issuer) = (Idp::start(&[&key]).await, Issuer::start(3600).await);
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let credentials = format!(
        ", {UNLISTED}, credentials: {{ token_exchange: {{ token_url: \"{}\", client_id: me, client_secret: {CANARY}, audience: one }} }}",
        issuer.url()
    );
    let route = format!("path: /mcp, public_url: {PUBLIC_URL}");
    let yaml = sections(&[a.url(), b.url()], &credentials).replacen("path: /mcp", &route, 1);
    let gateway = Gateway::start(&format!("{yaml}identity: {{ {} }}\n", idp.jwt(""))).await;
    let (ann, bob) = (key.sign(&idp.claims("ann")), key.sign(&idp.claims("bob")));
    let by =
        |token: &str, message: Message| message.and("authorization", &format!("Bearer {token}"));
    let opened = ask(&gateway, by(&ann, Message::initialize())).await;
    assert_eq!(opened.status, 200, "{} {}", opened.text(), gateway.diagnostics());
    let session = opened.session();
    let at_a = a.take();
    let (home, other) = if at_a.is_empty() { (b, a) } else { (a, b) };
    let held = |message: Message| by(&ann, message.field("mcp-session-id", &session));
    for number in 2..5 {
        let call = held(Message::legacy_call(number, "echo", &session));
        assert_eq!(ask(&gateway, call).await.status, 200);
    }
    let mut stream = Client::connect(gateway.address).await;
    stream.send(&held(Message::stream(&session)).bytes()).await;
    assert_eq!(stream.head().await.status, 200);
    let mut seen = home.take();
    drop((stream, home));
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.take();
    assert_eq!(ask(&gateway, held(Message::legacy_call(5, "echo", &session))).await.status, 200);
    assert_eq!(ask(&gateway, held(Message::end(&session))).await.status, 204);
    let of_bob = ask(&gateway, by(&bob, Message::call(7, "echo"))).await;
    assert_eq!(of_bob.status, 200, "{}", of_bob.text());
    let mut later = other.take();
    let of_bob = later.pop().expect("bob's call");
    assert_eq!(of_bob.field("authorization"), Some("Bearer token-2"));
    seen.extend(later);
    assert!(seen.len() >= 7, "calls, a stream, a move and an end: {seen:?}");
    for request in &seen {
        assert_eq!(request.field("authorization"), Some("Bearer token-1"), "{request:?}");
        let text = format!("{request:?}");
        assert!(!text.contains(&ann[..40]), "{text}");
    }
    let asked = issuer.upstream.take();
    assert_eq!(asked.len(), 2, "one exchange for each caller");
    for (request, token) in asked.iter().zip([&ann, &bob]) {
        let form = form(request);
        assert_eq!(form.get("subject_token"), Some(token));
        assert_eq!(form.get("audience").map(String::as_str), Some("one"));
        let grant = form.get("grant_type").map(String::as_str);
        assert_eq!(grant, Some("urn:ietf:params:oauth:grant-type:token-exchange"));
    }
    tells_nothing(&gateway, 7, &[CANARY, &ann[..40], &bob[..40], "token-1", "token-2"]).await;
}

#[tokio::test]
async fn a_caller_whom_the_issuer_refuses_is_told_and_an_issuer_that_is_away_is_no_excuse() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let is_away = Arc::new(AtomicUsize::new(0));
    let away = Arc::clone(&is_away);
    let issuer = Upstream::start(move |_: &Request| match away.load(Ordering::SeqCst) {
        0 => {
            json_answer(400, "", &json!({ "error": "invalid_grant", "error_description": CANARY }))
        }
        _ => vec![Step::Close],
    })
    .await;
    let server = Upstream::mcp("a").await;
    let credentials = format!(
        ", {UNLISTED}, credentials: {{ token_exchange: {{ token_url: \"http://{}/\", client_id: me, client_secret: b }} }}",
        issuer.address
    );
    let route = format!("path: /mcp, public_url: {PUBLIC_URL}");
    let yaml = sections(&[server.url()], &credentials).replacen("path: /mcp", &route, 1);
    let gateway = Gateway::start(&format!("{yaml}identity: {{ {} }}\n", idp.jwt(""))).await;
    let call =
        |token: &str| Message::call(7, "echo").and("authorization", &format!("Bearer {token}"));
    for (away, status) in [(0, 403), (1, 503)] {
        is_away.store(away, Ordering::SeqCst);
        server.take();
        let caller = format!("caller-{away}");
        let answer = ask(&gateway, call(&key.sign(&idp.claims(&caller)))).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(!answer.text().contains(CANARY));
        let seen = server.take();
        assert!(seen.iter().all(|request| request.method() != "tools/call"), "{seen:?}");
    }
    tells_nothing(&gateway, 2, &[CANARY]).await;
}

#[tokio::test]
async fn what_the_gateway_asks_by_itself_carries_the_servers_own_too() {
    let (server, issuer) = (Upstream::mcp("a").await, Issuer::start(3600).await);
    let more =
        format!(", catalog: {{ listing: on }}, credentials: {{ {} }}", issuer.oauth_client(""));
    let gateway =
        Gateway::start(&format!("{}{}", sections(&[server.url()], &more), identity())).await;
    assert!(server.reached(1).await, "{}", gateway.diagnostics());
    for request in server.take() {
        assert_eq!(request.field("authorization"), Some("Bearer token-1"), "{request:?}");
    }
    assert_eq!(issuer.upstream.take().len(), 1);
}
