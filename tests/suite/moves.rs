//! Legacy sessions move when their endpoint is lost, and their clients notice nothing.

use crate::support::client::{self, Answer, Client};
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, chunk, event, events_end, events_head, initialized, json_answer, mcp,
    plain, result, sections,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Two servers of the names `a` and `b`, a gateway in front of both, and a session in one of them.
struct Pair {
    gateway: Gateway,
    home: Upstream,
    other: Upstream,
    session: String,
}

impl Pair {
    async fn new(more: &str) -> Self {
        let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
        let gateway = Gateway::start(&sections(&[a.url(), b.url()], more)).await;
        let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
        let session = opened.session();
        let (home, other) = if a.take().is_empty() { (b, a) } else { (a, b) };
        home.take();
        other.take();
        Self { gateway, home, other, session }
    }

    async fn ask(&self, message: &Message) -> Answer {
        client::exchange(self.gateway.address, &message.bytes()).await
    }
}

/// Kills a server, and waits until the gateway can know that its connections are gone.
async fn kill(server: Upstream) {
    drop(server);
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn methods(seen: &[Request]) -> Vec<String> {
    let name = |request: &Request| match request.method() {
        method if method.is_empty() => request.verb.clone(),
        method => method,
    };
    seen.iter().map(name).collect()
}

#[tokio::test]
async fn a_session_of_a_dead_endpoint_is_opened_again_elsewhere() {
    let pair = Pair::new("").await;
    let set = json!({ "level": "warning" });
    let held =
        |message: Message| message.field("mcp-session-id", &pair.session).field("x-of-client", "1");
    let uri = |uri: &str| json!({ "uri": uri });
    for (method, params) in [
        ("logging/setLevel", set),
        ("resources/subscribe", uri("file:///a")),
        ("resources/subscribe", uri("file:///b")),
        ("resources/unsubscribe", uri("file:///a")),
    ] {
        assert_eq!(pair.ask(&held(Message::legacy(3, method, &params))).await.status, 200);
    }
    let Pair { gateway, home, other, session } = pair;
    kill(home).await;
    let call = Message::legacy_call(7, "echo", &session)
        .field("mcp-protocol-version", "2025-11-25")
        .field("x-of-client", "1");
    let answer = client::exchange(gateway.address, &call.bytes()).await;
    assert_eq!((answer.status, answer.json()["id"].clone()), (200, json!(7)), "{}", answer.text());
    assert_eq!(answer.field("mcp-session-id"), None);
    let seen = other.take();
    let expected = [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "resources/subscribe",
        "tools/call",
    ];
    assert_eq!(methods(&seen), expected);
    let opened = seen[0].json();
    assert_eq!(opened["params"]["clientInfo"]["name"], "suite");
    assert_eq!(seen[0].field("mcp-session-id"), None);
    let new_id = seen[4].field("mcp-session-id").map(str::to_owned);
    assert!(new_id.as_deref().is_some_and(|id| id.ends_with("-session")));
    for request in &seen[1..] {
        assert_eq!(request.field("mcp-session-id"), new_id.as_deref());
        assert_eq!(request.field("mcp-protocol-version"), Some("2025-11-25"));
    }
    assert!(seen.iter().all(|request| request.field("x-of-client") == Some("1")));
    assert_eq!(seen[2].json()["params"]["level"], "warning");
    assert_eq!(seen[3].json()["params"]["uri"], "file:///b");
    // From now on it lives there.
    assert_eq!(client::exchange(gateway.address, &call.bytes()).await.status, 200);
    assert_eq!(methods(&other.take()), ["tools/call"]);
    let moved = r#"toolgate_sessions_moved_total{reason="unreachable",server="one"} 1"#;
    gateway.metrics_with(moved).await;
    let log = gateway.log(7).await;
    assert!(log.iter().any(|line| line.contains(r#""moved":"unreachable""#)), "{log:#?}");
    assert!(gateway.diagnostics().contains("session moved"));
}

#[tokio::test]
async fn many_requests_at_once_start_one_new_session() {
    let Pair { gateway, home, other, session } = Pair::new("").await;
    kill(home).await;
    let mut calls = JoinSet::new();
    for id in 0..40 {
        let call = Message::legacy_call(id, "echo", &session).bytes();
        let address = gateway.address;
        calls.spawn(async move { (id, client::exchange(address, &call).await) });
    }
    while let Some(done) = calls.join_next().await {
        let (id, answer) = done.expect("asked");
        assert_eq!((answer.status, answer.json()["id"].clone()), (200, json!(id)));
    }
    let seen = other.take();
    let count = |method| methods(&seen).iter().filter(|seen| *seen == method).count();
    assert_eq!((count("initialize"), count("notifications/initialized")), (1, 1));
    assert_eq!(count("tools/call"), 40);
}

/// A server that forgets its sessions when it is told to, and counts what it runs.
struct Forgetful {
    upstream: Upstream,
    forget: Arc<AtomicBool>,
    ran: Arc<AtomicUsize>,
}

async fn forgetful() -> Forgetful {
    let (forget, ran) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let opened = Arc::new(AtomicUsize::new(0));
    let (forgets, counts) = (Arc::clone(&forget), Arc::clone(&ran));
    let script = move |request: &Request| {
        let id = &request.json()["id"];
        if request.method() == "initialize" {
            forgets.store(false, Ordering::Relaxed);
            let number = opened.fetch_add(1, Ordering::Relaxed);
            let field = format!("mcp-session-id: session-{number}\r\n");
            return json_answer(200, &field, &initialized(id));
        }
        let current = format!("session-{}", opened.load(Ordering::Relaxed) - 1);
        let known = request.field("mcp-session-id") == Some(&current);
        if forgets.load(Ordering::Relaxed) || !known {
            let error = json!({ "code": -32001, "message": "Session not found" });
            return json_answer(404, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }));
        }
        if request.method() == "tools/call" {
            counts.fetch_add(1, Ordering::Relaxed);
        }
        mcp("one", request)
    };
    Forgetful { upstream: Upstream::start(script).await, forget, ran }
}

#[tokio::test]
async fn a_server_that_forgot_the_session_gets_a_new_one_and_runs_the_call_once() {
    let Forgetful { upstream, forget, ran } = forgetful().await;
    let gateway = Gateway::start(&upstream.sections()).await;
    let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
    let call = Message::legacy_call(5, "echo", &opened.session()).bytes();
    assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
    forget.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
    }
    assert_eq!(ran.load(Ordering::Relaxed), 4);
    gateway
        .metrics_with(r#"toolgate_sessions_moved_total{reason="forgotten",server="one"} 1"#)
        .await;
}

#[tokio::test]
async fn where_state_cannot_be_rebuilt_the_client_is_told() {
    let Forgetful { upstream, forget, ran } = forgetful().await;
    let strict = ", on_endpoint_loss: not_found";
    let gateway = Gateway::start(&sections(&[upstream.url()], strict)).await;
    let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
    let call = Message::legacy_call(5, "echo", &opened.session()).bytes();
    forget.store(true, Ordering::Relaxed);
    let answer = client::exchange(gateway.address, &call).await;
    assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (404, json!(-32001)));
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    // And the same when the endpoint is dead.
    let Pair { gateway, home, other, session } = Pair::new(strict).await;
    kill(home).await;
    let call = Message::legacy_call(9, "echo", &session).bytes();
    let answer = client::exchange(gateway.address, &call).await;
    assert_eq!((answer.status, answer.code(), answer.json()["id"].clone()), (404, 404, json!(9)));
    assert!(other.bytes().is_empty());
}

#[tokio::test]
async fn a_removed_endpoint_moves_only_its_own_sessions() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let address = free_address();
    let yaml = |urls: &[String]| format!("listen: {address}\n{}", sections(urls, ""));
    let gateway = Gateway::start_at(&yaml(&[a.url(), b.url()]), address).await;
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(client::exchange(address, &Message::initialize().bytes()).await.session());
    }
    let opened_at_a = methods(&a.take()).len();
    b.take();
    let gateway = gateway.restart(&yaml(&[b.url()])).await;
    for session in &sessions {
        let call = Message::legacy_call(1, "echo", session).bytes();
        assert_eq!(client::exchange(gateway.address, &call).await.status, 200);
    }
    let seen = methods(&b.take());
    let opened = seen.iter().filter(|method| *method == "initialize").count();
    assert_eq!(opened, opened_at_a, "one for each session of the endpoint that went");
    assert!(a.bytes().is_empty());
}

#[tokio::test]
async fn a_session_that_its_client_ended_stays_ended() {
    let pair = Pair::new("").await;
    assert_eq!(pair.ask(&Message::end(&pair.session)).await.status, 204);
    let call = Message::legacy_call(4, "echo", &pair.session);
    for message in [call, Message::stream(&pair.session), Message::end(&pair.session)] {
        assert_eq!(pair.ask(&message).await.status, 404);
    }
    assert_eq!(methods(&pair.home.take()), ["DELETE"]);
    assert!(pair.other.bytes().is_empty());
}

#[tokio::test]
async fn a_server_that_takes_the_session_in_another_revision_only_does_not_get_it() {
    let script = |request: &Request| match request.method().as_str() {
        "initialize" => {
            let mut answer = initialized(&request.json()["id"]);
            answer["result"]["protocolVersion"] = json!("2025-03-26");
            json_answer(200, "mcp-session-id: old\r\n", &answer)
        }
        _ => mcp("old", request),
    };
    let (new, old) = (Upstream::mcp("new").await, Upstream::start(script).await);
    let gateway = Gateway::start(&sections(&[new.url(), old.url()], "")).await;
    let mut session = String::new();
    while new.take().is_empty() {
        let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
        session = opened.session();
    }
    old.take();
    kill(new).await;
    let call = Message::legacy_call(6, "echo", &session).bytes();
    let answer = client::exchange(gateway.address, &call).await;
    assert_eq!((answer.status, answer.json()["id"].clone()), (502, json!(6)), "{}", answer.text());
    assert!(!methods(&old.take()).contains(&"tools/call".to_owned()));
}

#[tokio::test]
async fn a_stream_follows_its_session_and_forgets_old_events() {
    let stream = |name: &'static str, close: Arc<Semaphore>| {
        move |request: &Request| match request.verb.as_str() {
            "GET" => vec![
                events_head(""),
                chunk(&format!("id: {name}-1\ndata: {{}}\n\n")),
                Step::Wait(Arc::clone(&close)),
                Step::Close,
            ],
            _ => mcp(name, request),
        }
    };
    let (a_ends, b_ends) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let a = Upstream::start(stream("a", Arc::clone(&a_ends))).await;
    let b = Upstream::start(stream("b", Arc::clone(&b_ends))).await;
    let gateway = Gateway::start(&sections(&[a.url(), b.url()], "")).await;
    let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
    let (home, name, other, other_name) = match a.take().is_empty() {
        true => (b, "b", a, "a"),
        false => (a, "a", b, "b"),
    };
    other.take();
    let mut client = Client::connect(gateway.address).await;
    let listen = Message::stream(&opened.session()).field("last-event-id", "before-1");
    client.send(&listen.bytes()).await;
    assert_eq!(client.head().await.status, 200);
    client.body_with(&format!("id: {name}-1")).await;
    assert_eq!(
        home.take()
            .last()
            .and_then(|seen| seen.field("last-event-id").map(str::to_owned))
            .as_deref(),
        Some("before-1")
    );
    drop(home);
    client.body_with(&format!("id: {other_name}-1")).await;
    let seen = other.take();
    assert_eq!(methods(&seen), ["initialize", "notifications/initialized", "GET"]);
    assert_eq!(seen[2].field("last-event-id"), None, "the new endpoint knows nothing of it");
}

#[tokio::test]
async fn a_stream_that_breaks_at_a_living_endpoint_ends_so_that_its_client_resumes() {
    let script = |request: &Request| match request.verb.as_str() {
        "GET" => vec![events_head(""), event("{}"), Step::Close],
        _ => mcp("one", request),
    };
    let upstream = Upstream::start(script).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    let session = client::exchange(gateway.address, &Message::initialize().bytes()).await.session();
    upstream.take();
    for _ in 0..2 {
        let stream = Message::stream(&session).field("last-event-id", "one-7");
        let answer = client::exchange(gateway.address, &stream.bytes()).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with("data: {}\n\n"), "{}", answer.text());
    }
    let seen = upstream.take();
    assert_eq!(methods(&seen), ["GET", "GET"]);
    assert!(seen.iter().all(|seen| seen.field("last-event-id") == Some("one-7")));
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_ejected_and_its_sessions_move() {
    let hang = Arc::new(AtomicBool::new(false));
    let hangs = Arc::clone(&hang);
    let script = move |request: &Request| match hangs.load(Ordering::Relaxed) {
        true => vec![Step::Wait(Arc::new(Semaphore::new(0)))],
        false => mcp("a", request),
    };
    let (a, b) = (Upstream::start(script).await, Upstream::mcp("b").await);
    let more = ", timeouts: { first_byte: 300ms }, ejection: { consecutive_failures: 3 }";
    let gateway = Gateway::start(&sections(&[a.url(), b.url()], more)).await;
    let mut session = String::new();
    while a.take().is_empty() {
        let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
        session = opened.session();
    }
    hang.store(true, Ordering::Relaxed);
    let call = Message::legacy_call(2, "echo", &session).bytes();
    for _ in 0..3 {
        assert_eq!(client::exchange(gateway.address, &call).await.status, 504);
    }
    let answer = client::exchange(gateway.address, &call).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], "b", "{}", answer.text());
    let fault = r#"reason="consecutive_failures",server="one"} 1"#;
    gateway.metrics_with(fault).await;
}

#[tokio::test]
async fn abandoned_sessions_are_ended_at_their_server() {
    let next = Arc::new(AtomicUsize::new(0));
    let script = move |request: &Request| match request.method().as_str() {
        "initialize" => {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let field = format!("mcp-session-id: session-{number}\r\n");
            json_answer(200, &field, &initialized(&request.json()["id"]))
        }
        _ => mcp("one", request),
    };
    let upstream = Upstream::start(script).await;
    let yaml = format!("{}sessions: {{ idle: 1s }}\n", upstream.sections());
    let gateway = Gateway::start(&yaml).await;
    let mut sessions = Vec::new();
    for _ in 0..10 {
        let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
        sessions.push(opened.session());
    }
    upstream.take();
    gateway.metrics_with("toolgate_sessions_reaped_total 10").await;
    let ended: HashSet<String> = upstream
        .take()
        .iter()
        .filter(|request| request.verb == "DELETE")
        .filter_map(|request| request.field("mcp-session-id").map(str::to_owned))
        .collect();
    assert_eq!(ended.len(), 10);
    let call = Message::legacy_call(3, "echo", &sessions[0]).bytes();
    assert_eq!(client::exchange(gateway.address, &call).await.status, 404, "its time is over");
    gateway.metrics_with("toolgate_sessions_tracked 0").await;
}

#[tokio::test]
async fn a_full_endpoint_lets_some_wait_and_refuses_the_rest() {
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let script = move |request: &Request| {
        let answer = result(&request.json()["id"], "done").to_string();
        vec![
            Step::Wait(Arc::clone(&gate)),
            plain(200, "content-type: application/json\r\n", answer.as_bytes()),
        ]
    };
    let upstream = Upstream::start(script).await;
    let more = ", breaker: { in_flight_max: 2, pending_max: 3 }";
    let gateway = Gateway::start(&sections(&[upstream.url()], more)).await;
    let mut calls = JoinSet::new();
    for id in 0..5 {
        let call = Message::call(id, "echo").bytes();
        let address = gateway.address;
        calls.spawn(async move { client::exchange(address, &call).await.status });
    }
    assert!(upstream.reached(2).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = client::exchange(gateway.address, &Message::call(9, "echo").bytes()).await;
    assert_eq!(
        (refused.status, refused.code(), refused.json()["id"].clone()),
        (503, 503, json!(9))
    );
    assert_eq!(upstream.take().len(), 2, "the others wait in the gateway");
    go.add_permits(100);
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.expect("asked"), 200);
    }
    assert_eq!(upstream.take().len(), 3);
}

#[tokio::test]
async fn what_answers_garbage_to_a_move_does_not_get_the_session() {
    let bad: Vec<(&str, Vec<Step>)> = vec![
        ("no JSON", vec![plain(200, "content-type: application/json\r\n", b"<html>")]),
        (
            "an error",
            json_answer(
                200,
                "mcp-session-id: x\r\n",
                &json!({ "jsonrpc": "2.0", "id": "toolgate-1", "error": { "code": 1, "message": "no" } }),
            ),
        ),
        ("a status", json_answer(500, "mcp-session-id: x\r\n", &initialized(&Value::Null))),
        ("a cut", vec![events_head("mcp-session-id: x\r\n"), Step::Close]),
        ("an end", vec![events_head("mcp-session-id: x\r\n"), events_end()]),
        ("nothing", vec![Step::Close]),
    ];
    for (what, steps) in bad {
        let steps = Arc::new(parking_lot::Mutex::new(Some(steps)));
        let armed = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&armed);
        let script = move |request: &Request| match is_armed.load(Ordering::Relaxed) {
            true => steps.lock().take().unwrap_or_else(|| vec![Step::Close]),
            false => mcp("b", request),
        };
        let (a, b) = (Upstream::mcp("a").await, Upstream::start(script).await);
        let gateway = Gateway::start(&sections(&[a.url(), b.url()], "")).await;
        let mut session = String::new();
        while a.take().is_empty() {
            let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
            session = opened.session();
        }
        armed.store(true, Ordering::Relaxed);
        b.take();
        kill(a).await;
        let call = Message::legacy_call(6, "echo", &session).bytes();
        let answer = client::exchange(gateway.address, &call).await;
        assert_eq!((answer.status, answer.json()["id"].clone()), (502, json!(6)), "{what}");
        assert!(!methods(&b.take()).contains(&"tools/call".to_owned()), "{what}");
    }
}
