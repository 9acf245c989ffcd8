//! Legacy sessions with several servers: one id for the client, one leg for each server.

use super::{Pair, Server, by, forged, heard, methods, names, said, success};
use crate::support::client::{Answer, Client};
use crate::support::gateway::free_address;
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, event, events_end, events_head, json_answer, plain,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Waits until this is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(15), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn in_session(session: &str, message: Message) -> Message {
    message.field("mcp-session-id", session)
}

fn notification(session: &str, method: &str, params: &Value) -> Message {
    let body = json!({ "jsonrpc": "2.0", "method": method, "params": params });
    in_session(session, Message::post(body.to_string()))
}

/// Exactly these requests, in this order, of a server's own session.
fn has_heard(upstream: &Upstream, name: &str, expected: &[&str]) -> Vec<Request> {
    let heard = heard(upstream);
    assert_eq!(methods(&heard), expected, "{name}");
    let own = format!("{name}-session");
    for request in &heard {
        let id = (request.method() != "initialize").then_some(own.as_str());
        assert_eq!(request.field("mcp-session-id"), id, "{name}: {}", request.method());
    }
    heard
}

#[tokio::test]
async fn one_id_is_a_session_with_each_server() {
    let pair = Pair::plain("").await;
    let capabilities =
        json!({ "sampling": {}, "elicitation": {}, "roots": { "listChanged": true } });
    let client = json!({ "name": "a \"client\"", "version": "1" });
    let params = json!({ "protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": client });
    let opened = pair.ask(&Message::legacy("first", "initialize", &params)).await;
    assert_eq!((opened.status, &opened.json()["id"]), (200, &json!("first")), "{}", opened.text());
    assert_eq!(opened.json()["result"]["protocolVersion"], "2025-06-18");
    let session = opened.session();
    assert!(session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    for name in ["github-session", "files-session"] {
        assert!(!session.contains(name));
    }
    for (upstream, name) in [(&pair.github, "github"), (&pair.files, "files")] {
        let heard = has_heard(upstream, name, &["initialize", "notifications/initialized"]);
        assert_eq!(heard[0].json()["params"], params);
        assert_eq!(
            heard[1].field("mcp-protocol-version"),
            Some("2025-11-25"),
            "as the server agreed"
        );
    }
    let told = pair.ask(&notification(&session, "notifications/initialized", &json!({}))).await;
    assert_eq!((told.status, told.body.len()), (202, 0));
    pair.nobody_heard("they were told");
    // Each call goes with the session of its own server, in the revision of that.
    for (tool, upstream, name) in
        [("github_search", &pair.github, "github"), ("read", &pair.files, "files")]
    {
        let call =
            Message::legacy_call(5, tool, &session).field("mcp-protocol-version", "2025-06-18");
        let answer = pair.ask(&call).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.field("mcp-session-id"), None);
        let heard = has_heard(upstream, name, &["tools/call"]);
        assert_eq!(heard[0].field("mcp-protocol-version"), Some("2025-11-25"));
    }
    let ping = pair.ask(&in_session(&session, Message::legacy(9, "ping", &json!({})))).await;
    assert_eq!(ping.json(), json!({ "jsonrpc": "2.0", "id": 9, "result": {} }));
    pair.nobody_heard("ping");
}

#[tokio::test]
async fn without_a_session_of_the_caller_there_is_nothing() {
    let pair = Pair::plain("").await;
    let session = pair.ask(&by("ann", Message::initialize())).await.session();
    pair.forget();
    let missing =
        pair.ask(&by("ann", Message::legacy_call(5, "read", "").without("mcp-session-id"))).await;
    assert_eq!((missing.status, missing.code()), (400, 400), "{}", missing.text());
    for (caller, id) in
        [("bob", session.as_str()), ("ann", "files-session"), ("ann", &session[1..])]
    {
        for message in [
            Message::legacy_call(5, "read", id),
            in_session(id, Message::legacy(5, "tools/list", &json!({}))),
            in_session(id, Message::legacy(5, "ping", &json!({}))),
            notification(id, "notifications/roots/list_changed", &json!({})),
            Message::end(id),
            Message::stream(id),
        ] {
            let answer = pair.ask(&by(caller, message)).await;
            assert_eq!(answer.status, 404, "{caller} {id}: {}", answer.text());
        }
    }
    pair.nobody_heard("a session of nobody");
    assert_eq!(pair.ask(&by("ann", Message::legacy_call(5, "read", &session))).await.status, 200);
}

#[tokio::test]
async fn the_end_of_a_session_is_its_end_at_every_server() {
    let pair = Pair::plain("").await;
    let session = pair.open_session().await;
    let other = pair.open_session().await;
    let ended = pair.ask(&Message::end(&session)).await;
    assert!([200, 204].contains(&ended.status), "{}", ended.text());
    for (upstream, name) in [(&pair.github, "github"), (&pair.files, "files")] {
        assert!(upstream.reached(1).await, "{name}");
        let heard = heard(upstream);
        assert_eq!((heard[0].verb.as_str(), heard.len()), ("DELETE", 1), "{name}");
        assert_eq!(heard[0].field("mcp-session-id"), Some(format!("{name}-session").as_str()));
    }
    for message in [
        Message::legacy_call(5, "read", &session),
        Message::legacy_call(5, "github_search", &session),
        in_session(&session, Message::legacy(5, "tools/list", &json!({}))),
        in_session(&session, Message::legacy(5, "ping", &json!({}))),
        Message::end(&session),
    ] {
        let answer = pair.ask(&message).await;
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
    pair.nobody_heard("a dead session");
    assert_eq!(pair.ask(&Message::legacy_call(5, "read", &other)).await.status, 200);
}

#[tokio::test]
async fn a_server_without_sessions_is_one_of_them() {
    let stateless = |request: &Request| {
        (request.method() == "initialize").then(|| {
            success(request, "", json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "x", "version": "1" } }))
        })
    };
    let github = Server::with_tools("github", &["search"]).start_with(stateless).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    let answer = pair.ask(&Message::legacy_call(5, "github_search", &session)).await;
    assert_eq!(said(&answer), "github: \"search\"");
    let heard = heard(&pair.github);
    assert_eq!(methods(&heard), ["tools/call"]);
    assert_eq!(heard[0].field("mcp-session-id"), None);
    assert_eq!(
        said(&pair.ask(&Message::legacy_call(5, "read", &session)).await),
        "files: \"read\""
    );
    assert!([200, 204].contains(&pair.ask(&Message::end(&session)).await.status));
    assert_eq!(pair.ask(&Message::legacy_call(5, "github_search", &session)).await.status, 404);
}

#[tokio::test]
async fn a_leg_that_its_server_forgot_is_opened_again_and_the_call_runs_once() {
    let runs = Arc::new(AtomicUsize::new(0));
    let forgets = Arc::new(AtomicBool::new(false));
    let (counted, forgotten) = (Arc::clone(&runs), Arc::clone(&forgets));
    let script = move |request: &Request| match request.method().as_str() {
        "initialize" if forgotten.load(Ordering::Relaxed) => Some(success(
            request,
            "mcp-session-id: github-again\r\n",
            json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "x", "version": "1" } }),
        )),
        "tools/call"
            if forgotten.load(Ordering::Relaxed)
                && request.field("mcp-session-id") != Some("github-again") =>
        {
            Some(json_answer(
                404,
                "",
                &json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32001, "message": "Session not found" } }),
            ))
        }
        "tools/call" => {
            counted.fetch_add(1, Ordering::Relaxed);
            None
        }
        _ => None,
    };
    let github = Server::with_tools("github", &["search"]).start_with(script).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    let level = in_session(
        &session,
        Message::legacy(6, "logging/setLevel", &json!({ "level": "warning" })),
    );
    assert_eq!(pair.ask(&level).await.status, 200);
    let call = Message::legacy_call(5, "github_search", &session);
    assert_eq!(pair.ask(&call).await.status, 200);
    pair.forget();
    forgets.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(said(&pair.ask(&call).await), "github: \"search\"");
    }
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    let heard = heard(&pair.github);
    assert_eq!(
        methods(&heard),
        [
            "tools/call",
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "tools/call",
            "tools/call"
        ]
    );
    assert_eq!(heard[1].json()["params"]["clientInfo"]["name"], "suite");
    assert_eq!(heard[5].field("mcp-session-id"), Some("github-again"));
    // The other leg stays where it is, and both end.
    assert_eq!(pair.ask(&Message::legacy_call(5, "read", &session)).await.status, 200);
    has_heard(&pair.files, "files", &["tools/call"]);
    pair.ask(&Message::end(&session)).await;
    assert!(pair.github.reached(1).await && pair.files.reached(1).await);
    assert_eq!(pair.github.take()[0].field("mcp-session-id"), Some("github-again"));
}

#[tokio::test]
async fn what_a_client_tells_all_servers_reaches_all() {
    let pair = Pair::plain("").await;
    let session = pair.open_session().await;
    let level = in_session(
        &session,
        Message::legacy(6, "logging/setLevel", &json!({ "level": "warning" })),
    );
    let answer = pair.ask(&level).await;
    assert_eq!(answer.json(), json!({ "jsonrpc": "2.0", "id": 6, "result": {} }));
    for (upstream, name) in [(&pair.github, "github"), (&pair.files, "files")] {
        let heard = has_heard(upstream, name, &["logging/setLevel"]);
        assert_eq!(heard[0].json()["params"]["level"], "warning");
    }
    for (method, params) in [
        ("notifications/cancelled", json!({ "requestId": 5, "reason": "enough" })),
        ("notifications/roots/list_changed", json!({})),
    ] {
        let told = pair.ask(&notification(&session, method, &params)).await;
        assert_eq!((told.status, told.body.len()), (202, 0), "{}", told.text());
        for (upstream, name) in [(&pair.github, "github"), (&pair.files, "files")] {
            let heard = has_heard(upstream, name, &[method]);
            assert_eq!(heard[0].json()["params"], params);
        }
    }
}

#[tokio::test]
async fn subscriptions_go_to_the_server_of_the_resource() {
    let pair = Pair::plain("").await;
    let session = pair.open_session().await;
    for method in ["resources/subscribe", "resources/unsubscribe"] {
        let ask = Message::legacy(6, method, &json!({ "uri": "github+file:///a" }));
        assert_eq!(pair.ask(&in_session(&session, ask)).await.status, 200);
        let heard = has_heard(&pair.github, "github", &[method]);
        assert_eq!(heard[0].json()["params"]["uri"], "file:///a");
    }
    pair.nobody_heard("another's resource");
}

/// A server that asks its client something in the answer to a call, and says what it was told.
async fn asking(name: &'static str, tool: &str, own: Value) -> (Upstream, Arc<Semaphore>) {
    let told = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&told);
    let script = move |request: &Request| {
        let message = request.json();
        if message["method"] == "tools/call" {
            let ask = json!({ "jsonrpc": "2.0", "id": own, "method": "elicitation/create", "params": {
                "message": "Who?", "requestedSchema": { "type": "object", "properties": {} },
                "_meta": { "progressToken": "tok" } } });
            let done = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "content": [{ "type": "text", "text": "done" }] } });
            return Some(vec![
                events_head(""),
                event(&ask.to_string()),
                Step::Wait(Arc::clone(&waits)),
                event(&done.to_string()),
                events_end(),
            ]);
        }
        None
    };
    (Server::with_tools(name, &[tool]).start_with(script).await, told)
}

/// The JSON of each event so far.
fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
    lines.filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
}

fn answer_to(id: &Value, session: &str) -> Message {
    let body = format!(
        r#"{{ "jsonrpc":"2.0", "id" : {id} ,"result":{{"action":"accept" , "content":{{"id":1.0}}}}}}"#
    );
    in_session(session, Message::post(body))
}

#[tokio::test]
async fn what_a_server_asks_is_answered_to_that_server() {
    let own_ids = [json!(1), json!("a \"b\"")];
    let (github, github_told) = asking("github", "ask", own_ids[0].clone()).await;
    let (files, files_told) = asking("files", "ask2", own_ids[1].clone()).await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.ask(&by("ann", Message::initialize())).await.session();
    let foreign = pair.ask(&by("ann", Message::initialize())).await.session();
    pair.forget();
    let mut asked = Vec::new();
    for tool in ["github_ask", "ask2"] {
        let mut client = Client::connect(pair.gateway.address).await;
        client.send(&by("ann", Message::legacy_call(5, tool, &session)).bytes()).await;
        let text = client.body_after_head("\n\n").await;
        let ask = events(&text).remove(0);
        assert_eq!(ask["method"], "elicitation/create", "{text}");
        asked.push((client, ask["id"].clone(), ask["params"].clone()));
    }
    assert_ne!(asked[0].1, asked[1].1);
    assert_eq!(asked[0].2["_meta"]["io.toolgate/server"], "github", "{:?}", asked[0].2);
    assert_eq!(asked[1].2["_meta"]["io.toolgate/server"], "files");
    pair.forget();
    // Nobody but this session can answer, and nobody can answer what was not asked.
    let id = asked[0].1.as_str().expect("a text").to_owned();
    let forged = json!(forged(&id));
    for (id, session) in [
        (&forged, &session),
        (&json!(1), &session),
        (&json!("a \"b\""), &session),
        (&json!(id), &foreign),
    ] {
        let answer = pair.ask(&by("ann", answer_to(id, session))).await;
        assert_eq!((answer.status, answer.code()), (400, -32602), "{id}: {}", answer.text());
    }
    pair.nobody_heard("an answer to nothing");
    for (at, (upstream, name)) in [(1, (&pair.files, "files")), (0, (&pair.github, "github"))] {
        let answer = pair.ask(&by("ann", answer_to(&asked[at].1, &session))).await;
        assert_eq!((answer.status, answer.body.len()), (202, 0), "{}", answer.text());
        let heard = has_heard(upstream, name, &[""]);
        let sent = String::from_utf8_lossy(&answer_to(&own_ids[at], &session).body).into_owned();
        assert_eq!(String::from_utf8_lossy(&heard[0].body), sent);
    }
    // So is progress of what it asked for.
    let told = json!({ "progressToken": asked[0].2["_meta"]["progressToken"], "progress": 1 });
    let answer =
        pair.ask(&by("ann", notification(&session, "notifications/progress", &told))).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let heard = has_heard(&pair.github, "github", &["notifications/progress"]);
    assert_eq!(heard[0].json()["params"]["progressToken"], "tok");
    pair.nobody_heard("progress of another's request");
    github_told.add_permits(1);
    files_told.add_permits(1);
    for (client, ..) in &mut asked {
        let text = client.body_with("done").await;
        assert_eq!(events(&text).last().expect("an answer")["id"], 5, "{text}");
    }
}

#[tokio::test]
async fn what_may_not_be_used_is_not_even_opened() {
    let policy = "policy: { rules: [{ name: ann, allow: { callers: [ann], servers: [files] } },
  { name: not-there, deny: { callers: [ann], servers: [github] } }] }\n";
    let github = Server::with_tools("github", &["search"]).start().await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, policy).await;
    let opened = pair.ask(&by("ann", Message::initialize())).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    assert!(heard(&pair.github).is_empty(), "a server that she may not use");
    let session = opened.session();
    let list = in_session(&session, Message::legacy(5, "tools/list", &json!({})));
    assert_eq!(names(&pair.ask(&by("ann", list)).await, "tools"), ["read"]);
    let call = |tool| by("ann", Message::legacy_call(5, tool, &session));
    assert_eq!(pair.ask(&call("read")).await.status, 200);
    assert_eq!(pair.ask(&call("github_search")).await.code(), -32602);
    assert!(heard(&pair.github).is_empty());
}

#[tokio::test]
async fn a_session_outlives_a_restart_and_another_order_of_its_servers() {
    let github = Server::with_tools("github", &["search"]).start().await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let servers = [("github", github.url()), ("files", files.url())];
    let address = free_address();
    let yaml =
        |members: &str| format!("listen: {address}\n{}", super::sections(&servers, members, ""));
    let gateway = crate::support::gateway::Gateway::start_at(&yaml(super::MEMBERS), address).await;
    let ask = async |message: &Message| -> Answer {
        crate::support::client::exchange(address, &message.bytes()).await
    };
    let session = ask(&Message::initialize()).await.session();
    let turned = "servers: [{ name: files }, { name: github, prefix: gh_ }]";
    let _gateway = gateway.restart(&yaml(turned)).await;
    github.take();
    files.take();
    for (tool, upstream, name) in [("gh_search", &github, "github"), ("read", &files, "files")] {
        let answer = ask(&Message::legacy_call(5, tool, &session)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        has_heard(upstream, name, &["tools/call"]);
    }
}

#[tokio::test]
async fn a_session_that_a_server_opens_too_late_is_ended() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let script = move |request: &Request| {
        let greeting = json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
            "serverInfo": { "name": "x", "version": "1" } });
        let answer = success(request, "mcp-session-id: github-late\r\n", greeting);
        let wait = Step::Wait(Arc::clone(&waits));
        let is_opening = request.method() == "initialize";
        is_opening.then(|| [wait].into_iter().chain(answer).collect())
    };
    let github = Server::with_tools("github", &["search"]).start_with(script).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "sessions: { idle: 8s }\n").await;
    let opened = pair.ask(&Message::initialize()).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    has_heard(&pair.github, "github", &["initialize"]);
    // Nobody waits any more.
    gate.add_permits(1);
    assert!(pair.github.reached(1).await, "it is not ended");
    let ended = heard(&pair.github);
    assert_eq!(ended[0].verb, "DELETE");
    assert_eq!(ended[0].field("mcp-session-id"), Some("github-late"));
}

#[tokio::test]
async fn calls_of_one_session_that_come_at_once_open_a_late_leg_once() {
    let is_up = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&is_up);
    let script = move |request: &Request| {
        (request.verb == "POST" && !up.load(Ordering::Relaxed)).then(|| vec![plain(503, "", b"")])
    };
    let github = Server::with_tools("github", &["search"]).start_with(script).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    is_up.store(true, Ordering::Relaxed);
    let call = Message::legacy_call(5, "github_search", &session);
    eventually("the server is trusted again", async || pair.ask(&call).await.status == 200).await;
    let calls: Vec<_> = (0..8).map(|_| pair.ask(&call)).collect();
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let mut count: HashMap<String, usize> = HashMap::new();
    for request in heard(&pair.github) {
        *count.entry(request.method()).or_default() += 1;
    }
    assert_eq!((count["initialize"], count["tools/call"]), (1, 9), "{count:?}");
}

#[tokio::test]
async fn what_was_done_at_one_server_counts_at_the_others() {
    let policy = "policy:
  labels: { secret: [files/secret], egress: [github/send] }
  rules: [{ name: all, allow: {} }]
  combinations: [{ name: no-leak, after: secret, deny: egress, within: session }]
";
    let github = Server::with_tools("github", &["search", "send"]).start().await;
    let files = Server::with_tools("files", &["read", "secret"]).start().await;
    let pair = Pair::of(github, files, policy).await;
    let session = pair.ask(&Message::initialize()).await.session();
    let other = pair.ask(&Message::initialize()).await.session();
    let ask = async |tool: &str, session: &str| {
        pair.ask(&Message::legacy_call(5, tool, session)).await.status
    };
    assert_eq!(ask("github_send", &session).await, 200, "nothing secret was read");
    assert_eq!(ask("secret", &session).await, 200);
    assert_eq!(ask("github_send", &session).await, 403, "at another server, in this session");
    assert_eq!(ask("github_search", &session).await, 200);
    assert_eq!(
        ask("github_send", &other).await,
        403,
        "another session is no way out to another server"
    );
}
