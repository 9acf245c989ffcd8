//! Legacy sessions: sealed, pinned, bound to caller and route, and good at every gateway with the key.

use crate::support::Stage;
use crate::support::client::{self, Client};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::message::Message;
use crate::support::upstream::{
    Step, Upstream, chunk, event, events_end, events_head, initialized, json_answer, mcp, plain,
    sections,
};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const KEY_A: &str = "a-session-key-of-thirty-two-bytes-or-more";
const KEY_B: &str = "b-session-key-of-thirty-two-bytes-or-more";

/// The name of the replica that answered.
fn replica(answer: &client::Answer) -> String {
    let text = answer.json()["result"]["content"][0]["text"].as_str().map(str::to_owned);
    text.unwrap_or_else(|| panic!("no result: {}", answer.text()))
}

#[tokio::test]
async fn the_client_holds_a_sealed_id_and_the_server_its_own() {
    let stage = Stage::mcp().await;
    let opened = stage.ask(&Message::initialize()).await;
    assert_eq!(opened.status, 200);
    let session = opened.session();
    assert!(!session.contains("one-session") && session.len() < 200, "{session}");
    assert!(session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    assert_ne!(stage.ask(&Message::initialize()).await.session(), session);
    let called = stage.ask(&Message::legacy_call(2, "echo", &session)).await;
    assert_eq!((called.status, called.field("mcp-session-id")), (200, None));
    let seen = stage.upstream.take();
    assert_eq!(seen[0].field("mcp-session-id"), None);
    assert_eq!(seen[2].field("mcp-session-id"), Some("one-session"));
}

#[tokio::test]
async fn an_answer_in_events_opens_a_session_too() {
    let script = |request: &crate::support::upstream::Request| {
        if request.method() != "initialize" {
            return mcp("one", request);
        }
        let answer = initialized(&request.json()["id"]).to_string();
        let (first, second) = answer.split_at(40);
        vec![
            events_head("mcp-session-id: one-session\r\n"),
            chunk("id: 0/0\nretry: 3000\ndata: \n\n"),
            Step::Pause(Duration::from_millis(30)),
            chunk(&format!("event: message\r\nid: 1/0\r\ndata: {first}")),
            Step::Pause(Duration::from_millis(30)),
            chunk(&format!("{second}\r\n\r\n")),
            events_end(),
        ]
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let opened = stage.ask(&Message::initialize()).await;
    assert!(opened.text().starts_with("id: 0/0\nretry: 3000\n"), "{}", opened.text());
    assert!(opened.text().ends_with("\r\n\r\n"), "{}", opened.text());
    let session = opened.session();
    let called = stage.ask(&Message::legacy_call(2, "echo", &session)).await;
    assert_eq!(called.status, 200);
    assert_eq!(stage.upstream.take()[1].field("mcp-session-id"), Some("one-session"));
    // The revision was read from the events: another one is refused from now on.
    let other =
        Message::legacy_call(3, "echo", &session).field("mcp-protocol-version", "2025-06-18");
    assert_eq!(stage.ask(&other).await.status, 400);
}

#[tokio::test]
async fn a_session_stays_with_the_replica_that_opened_it() {
    let replicas = [Upstream::mcp("a").await, Upstream::mcp("b").await, Upstream::mcp("c").await];
    let urls: Vec<String> = replicas.iter().map(Upstream::url).collect();
    let gateway = Gateway::start(&sections(&urls, "")).await;
    let mut used = HashSet::new();
    for _ in 0..40 {
        let session =
            client::exchange(gateway.address, &Message::initialize().bytes()).await.session();
        let call = Message::legacy_call(2, "echo", &session).bytes();
        let home = replica(&client::exchange(gateway.address, &call).await);
        for _ in 0..2 {
            assert_eq!(replica(&client::exchange(gateway.address, &call).await), home);
        }
        let stream = Message::stream(&session);
        let mut client = Client::connect(gateway.address).await;
        client.send(&stream.bytes()).await;
        assert_eq!(client.head().await.status, 200);
        used.insert(home);
    }
    assert_eq!(used.len(), 3, "new sessions spread over all replicas");
    for (upstream, name) in replicas.iter().zip(["a", "b", "c"]) {
        let own = format!("{name}-session");
        let foreign = upstream
            .take()
            .into_iter()
            .find(|request| request.field("mcp-session-id").is_some_and(|session| session != own));
        assert!(foreign.is_none(), "{foreign:?}");
    }
}

#[tokio::test]
async fn two_gateways_with_one_key_serve_one_session_in_turn() {
    let replicas = [Upstream::mcp("a").await, Upstream::mcp("b").await, Upstream::mcp("c").await];
    let urls: Vec<String> = replicas.iter().map(Upstream::url).collect();
    let sections = format!("{}sessions: {{ keys: [{KEY_A}] }}\n", sections(&urls, ""));
    let gateways = [Gateway::start(&sections).await, Gateway::start(&sections).await];
    let opened = client::exchange(gateways[0].address, &Message::initialize().bytes()).await;
    let call = Message::legacy_call(2, "echo", &opened.session()).bytes();
    let home = replica(&client::exchange(gateways[0].address, &call).await);
    for turn in 0..6 {
        let answer = client::exchange(gateways[(turn + 1) % 2].address, &call).await;
        assert_eq!(replica(&answer), home);
    }
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let yaml = format!("listen: {address}\n{}", upstream.sections());
    let gateway = Gateway::start_at(&yaml, address).await;
    let session = client::exchange(address, &Message::initialize().bytes()).await.session();
    assert!(gateway.diagnostics().contains("made a session key"), "{}", gateway.diagnostics());
    let gateway = gateway.restart(&yaml).await;
    assert!(!gateway.diagnostics().contains("made a session key"));
    let call = Message::legacy_call(2, "echo", &session).bytes();
    assert_eq!(replica(&client::exchange(gateway.address, &call).await), "one");
}

#[tokio::test]
async fn stream_and_end_reach_the_server_with_its_own_id() {
    let stage = Stage::mcp().await;
    let session = stage.open_session().await;
    let mut client = stage.connect().await;
    client.send(&Message::stream(&session).field("last-event-id", "5/1").bytes()).await;
    let head = client.head().await;
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(stage.ask(&Message::end(&session)).await.status, 204);
    let seen = stage.upstream.take();
    let shown = |at: usize| (seen[at].verb.as_str(), seen[at].field("mcp-session-id"));
    assert_eq!(shown(0), ("GET", Some("one-session")));
    assert_eq!(seen[0].field("last-event-id"), Some("5/1"));
    assert_eq!(shown(1), ("DELETE", Some("one-session")));
}

#[tokio::test]
async fn a_server_without_sessions_gives_none_and_needs_none() {
    let script = |request: &crate::support::upstream::Request| match request.method().as_str() {
        "initialize" => json_answer(200, "", &initialized(&request.json()["id"])),
        _ => mcp("one", request),
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    for _ in 0..2 {
        let opened = stage.ask(&Message::initialize()).await;
        assert_eq!((opened.status, opened.field("mcp-session-id")), (200, None));
        let call = Message::legacy_call(2, "echo", "").without("mcp-session-id");
        assert_eq!(stage.ask(&call).await.status, 200);
    }
}

#[tokio::test]
async fn a_missing_id_is_refused_once_the_server_is_known_to_give_them() {
    let stage = Stage::mcp().await;
    let call = Message::legacy_call(3, "echo", "").without("mcp-session-id");
    assert_eq!(stage.ask(&call).await.status, 200, "nothing is known yet");
    stage.open_session().await;
    let answer = stage.ask(&call).await;
    assert_eq!((answer.status, answer.code(), answer.json()["id"].clone()), (400, 400, json!(3)));
    assert!(stage.upstream.bytes().is_empty());
    // The other era is not concerned.
    assert_eq!(stage.ask(&Message::call(1, "echo")).await.status, 200);
}

/// Two callers, two routes to one server, and a session key.
fn two_of_all(upstream: &Upstream, sessions: &str) -> String {
    let url = upstream.url();
    let digest = |key: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let (ann, bob) = (digest("key-of-ann"), digest("key-of-bob"));
    format!(
        "servers: {{ one: {{ endpoints: [{url}] }} }}
routes: [{{ path: /mcp, server: one }}, {{ path: /other, server: one }}]
identity: {{ anonymous: allow, api_keys: [{{ caller: ann, sha256: {ann} }}, {{ caller: bob, sha256: {bob} }}] }}
sessions: {{ {sessions} }}
"
    )
}

fn by(key: &str, message: Message) -> Message {
    message.field("authorization", &format!("Bearer {key}"))
}

#[tokio::test]
async fn an_id_that_opens_nothing_is_one_answer_whatever_is_wrong() {
    let upstream = Upstream::mcp("one").await;
    let gateway = Gateway::start(&two_of_all(&upstream, &format!("keys: [{KEY_A}]"))).await;
    let other_key = Gateway::start(&two_of_all(&upstream, &format!("keys: [{KEY_B}]"))).await;
    let open = async |gateway: &Gateway, message: Message| {
        client::exchange(gateway.address, &message.bytes()).await.session()
    };
    let session = open(&gateway, by("key-of-ann", Message::initialize())).await;
    let of_unknown_key = open(&other_key, by("key-of-ann", Message::initialize())).await;
    let of_other_route = open(&gateway, by("key-of-ann", Message::initialize().at("/other"))).await;
    let of_anonymous = open(&gateway, Message::initialize()).await;
    upstream.take();
    let mut ids = vec![of_unknown_key, of_other_route, of_anonymous];
    ids.extend(
        ["x", "one-session", "%00", "null", "../../etc/passwd", "a b", "=", "AAAA====", "{}"]
            .map(str::to_owned),
    );
    ids.extend(["A".repeat(40), "A".repeat(2048), "A".repeat(2049), "A".repeat(30_000)]);
    for at in (0..session.len()).step_by(11) {
        let mut forged = session.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        ids.push(String::from_utf8(forged).expect("text"));
        ids.push(session[..at.max(1)].to_owned());
    }
    ids.push(format!("{session}A"));
    ids.push(format!("{session}=="));
    ids.push(format!("{session}, {session}"));
    let mut bodies = HashSet::new();
    for id in ids {
        for message in
            [Message::legacy_call(5, "echo", &id), Message::stream(&id), Message::end(&id)]
        {
            let is_call = message.verb == "POST";
            let answer =
                client::exchange(gateway.address, &by("key-of-ann", message).bytes()).await;
            assert_eq!(answer.status, 404, "{id:?}: {}", answer.text());
            assert_eq!(answer.json()["id"], if is_call { json!(5) } else { Value::Null });
            bodies.insert(answer.text());
        }
    }
    // Another caller's id, and an id at another route.
    for message in [
        by("key-of-bob", Message::legacy_call(5, "echo", &session)),
        Message::legacy_call(5, "echo", &session),
        by("key-of-ann", Message::legacy_call(5, "echo", &session)).at("/other"),
    ] {
        let answer = client::exchange(gateway.address, &message.bytes()).await;
        assert_eq!(answer.status, 404, "{}", answer.text());
        bodies.insert(answer.text());
    }
    assert_eq!(
        bodies.len(),
        2,
        "one text for messages with an id, one for those without: {bodies:?}"
    );
    assert!(upstream.bytes().is_empty(), "the server saw {:?}", upstream.take());
    let good = by("key-of-ann", Message::legacy_call(5, "echo", &session));
    assert_eq!(client::exchange(gateway.address, &good.bytes()).await.status, 200);
}

#[tokio::test]
async fn the_second_key_opens_what_it_sealed_when_it_was_the_first() {
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let yaml = |keys: &str| {
        format!("listen: {address}\n{}sessions: {{ keys: [{keys}] }}\n", upstream.sections())
    };
    let gateway = Gateway::start_at(&yaml(KEY_A), address).await;
    let session = client::exchange(address, &Message::initialize().bytes()).await.session();
    let call = Message::legacy_call(2, "echo", &session).bytes();
    let gateway = gateway.restart(&yaml(&format!("{KEY_B}, {KEY_A}"))).await;
    assert_eq!(client::exchange(address, &call).await.status, 200);
    let gateway = gateway.restart(&yaml(KEY_B)).await;
    assert_eq!(client::exchange(address, &call).await.status, 404);
    drop(gateway);
}

#[tokio::test]
async fn an_id_expires_with_its_lifetime() {
    let stage = Stage::with("sessions: { lifetime: 1s }\n").await;
    let call = Message::legacy_call(2, "echo", &stage.open_session().await);
    assert_eq!(stage.ask(&call).await.status, 200);
    let began = Instant::now();
    while stage.ask(&call).await.status != 404 {
        assert!(began.elapsed() < Duration::from_secs(10), "the session lives on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.upstream.take();
    assert_eq!(stage.ask(&call).await.code(), 404);
    stage.is_unharmed("an expired session").await;
}

#[tokio::test]
async fn a_servers_session_id_on_anything_but_a_new_session_stays_here() {
    let error = json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32600, "message": "no" } });
    for status in [200, 400, 404, 405, 500] {
        let error = error.clone();
        let script = move |_: &crate::support::upstream::Request| {
            json_answer(status, "mcp-session-id: leaked-session\r\n", &error)
        };
        let stage = Stage::before(Upstream::start(script).await).await;
        for message in [
            Message::initialize(),
            Message::legacy_call(1, "echo", "").without("mcp-session-id"),
            Message::call(1, "echo"),
        ] {
            let answer = stage.ask(&message).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.field("mcp-session-id"), None, "{status}: {}", answer.text());
        }
    }
    // On the answer to a call of a good session, and on a stream that fails.
    let script = |request: &crate::support::upstream::Request| match request.verb.as_str() {
        "GET" => json_answer(405, "mcp-session-id: leaked-session\r\nallow: POST\r\n", &json!({})),
        _ if request.method() == "tools/call" => json_answer(
            200,
            "mcp-session-id: leaked-session\r\n",
            &json!({ "jsonrpc": "2.0", "id": 2, "result": {} }),
        ),
        _ => mcp("one", request),
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let session = stage.open_session().await;
    for message in [Message::legacy_call(2, "echo", &session), Message::stream(&session)] {
        let answer = stage.ask(&message).await;
        assert!([200, 405].contains(&answer.status));
        assert_eq!(answer.field("mcp-session-id"), None);
    }
}

#[tokio::test]
async fn a_session_speaks_the_revision_it_negotiated() {
    let stage = Stage::mcp().await;
    let session = stage.open_session().await;
    for (version, status) in
        [("2025-11-25", 200), ("2025-06-18", 400), ("2024-11-05", 400), ("2027-01-01", 400)]
    {
        let call = Message::legacy_call(2, "echo", &session).field("mcp-protocol-version", version);
        let answer = stage.ask(&call).await;
        assert_eq!((answer.status, answer.json()["id"].clone()), (status, json!(2)), "{version}");
    }
    assert_eq!(stage.upstream.take().len(), 1);
}

#[tokio::test]
async fn a_session_id_of_megabytes_is_refused_unread() {
    let stage = Stage::mcp().await;
    stage.upstream.take();
    for megabytes in [1, 4] {
        let id = "A".repeat(megabytes * 1024 * 1024);
        for message in
            [Message::legacy_call(2, "echo", &id), Message::stream(&id), Message::end(&id)]
        {
            let mut client = stage.connect().await;
            client.send(&message.bytes()).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.code()), (431, 431));
            stage.is_unharmed("a session id of megabytes").await;
        }
    }
}

#[tokio::test]
async fn a_servers_id_too_long_to_seal_is_its_fault() {
    let script = |request: &crate::support::upstream::Request| {
        let id = "x".repeat(3000);
        json_answer(200, &format!("mcp-session-id: {id}\r\n"), &initialized(&request.json()["id"]))
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let answer = stage.ask(&Message::initialize()).await;
    assert_eq!((answer.status, answer.code(), answer.json()["id"].clone()), (502, 502, json!(1)));
}

#[tokio::test]
async fn a_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    let state = folder.path().join("state");
    std::fs::create_dir_all(&state).expect("a folder");
    let key = folder.write("state/session.key", KEY_A);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let yaml = format!(
        "listen: {}\nstate_dir: {}\n{}",
        free_address(),
        state.display(),
        sections(&["http://127.0.0.1:1/mcp".to_owned()], "")
    );
    let config = folder.write("toolgate.yaml", &yaml);
    let output =
        crate::support::gateway::toolgate(&["run", "--config", &config.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("readable by others"));
}

#[tokio::test]
async fn a_stream_of_a_server_that_says_nothing_still_begins() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let script = move |request: &crate::support::upstream::Request| match request.verb.as_str() {
        "GET" => vec![events_head(""), Step::Wait(Arc::clone(&opened)), event("{}"), events_end()],
        "DELETE" => vec![plain(405, "allow: GET, POST\r\n", b"")],
        _ => mcp("one", request),
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let session = stage.open_session().await;
    let mut client = stage.connect().await;
    client.send(&Message::stream(&session).bytes()).await;
    assert_eq!(client.head().await.status, 200);
    gate.add_permits(1);
    assert_eq!(client.body_with("\n\n").await, "event: message\ndata: {}\n\n");
    assert_eq!(client.part().await, None);
    assert!(client.body_is_whole());
    let refused = stage.ask(&Message::end(&session)).await;
    assert_eq!((refused.status, refused.field("allow")), (405, Some("GET, POST")));
}
