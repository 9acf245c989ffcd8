//! Lists of tasks of several servers as one: each is asked for its own.

use super::{Pair, Server, by, error, forged, heard, methods, success};
use crate::support::client::Answer;
use crate::support::message::Message;
use crate::support::upstream::{Request, Step, Upstream, event, events_end, events_head};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

fn task(id: &str) -> Value {
    json!({ "taskId": id, "status": "working", "createdAt": "2026-01-01T00:00:00Z",
        "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttl": null })
}

/// A server with tasks, which answers `tasks/list` so.
async fn with_tasks(
    name: &'static str,
    list: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
) -> Upstream {
    let script = move |request: &Request| match request.method().as_str() {
        "tasks/list" => Some(list(request)),
        "tasks/get" => Some(success(request, "", task("t-1"))),
        _ => None,
    };
    let server = Server::with_tools(name, &["long"]).and("tasks", "[]");
    server.start_with(script).await
}

/// A list in two pages, in events.
fn in_pages(request: &Request) -> Vec<Step> {
    let message = request.json();
    let result = match message["params"]["cursor"].as_str() {
        None => json!({ "tasks": [task("t-1"), task("t-2")], "nextCursor": "on \"é" }),
        Some("on \"é") => json!({ "tasks": [task("t-3")] }),
        Some(_) => return error(request, 200, -32602),
    };
    let progress = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": {
        "level": "info", "data": "listing" } });
    let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
    vec![events_head(""), event(&progress.to_string()), event(&answer.to_string()), events_end()]
}

fn list(session: &str, params: &Value) -> Message {
    by("ann", Message::legacy(7, "tasks/list", params)).field("mcp-session-id", session)
}

fn ids(answer: &Answer) -> Vec<String> {
    let tasks = answer.json()["result"]["tasks"].as_array().cloned();
    let tasks = tasks.unwrap_or_else(|| panic!("no tasks: {}", answer.text()));
    tasks.iter().map(|task| task["taskId"].as_str().expect("an id").to_owned()).collect()
}

async fn session_of(pair: &Pair, caller: &str) -> String {
    let opened = pair.ask(&by(caller, Message::initialize())).await;
    pair.forget();
    opened.session()
}

#[tokio::test]
async fn tasks_of_all_servers_are_one_list() {
    let one = |request: &Request| success(request, "", json!({ "tasks": [task("t-1")] }));
    let github = with_tasks("github", in_pages).await;
    let pair = Pair::of(github, with_tasks("files", one).await, "").await;
    let opened = pair.ask(&by("ann", Message::initialize())).await;
    assert_eq!(opened.json()["result"]["capabilities"]["tasks"]["list"], json!({}));
    let modern = pair.ask(&by("ann", Message::modern(1, "server/discover", json!({})))).await;
    assert_eq!(modern.json()["result"]["capabilities"]["tasks"]["list"], Value::Null);
    let session = opened.session();
    pair.forget();
    let first = pair.ask(&list(&session, &json!({}))).await;
    assert_eq!((first.status, &first.json()["id"]), (200, &json!(7)), "{}", first.text());
    let shown = ids(&first);
    assert_eq!(shown.len(), 3, "{}", first.text());
    assert_eq!(first.json()["result"]["_meta"], Value::Null, "{}", first.text());
    for (upstream, name) in [(&pair.github, "github"), (&pair.files, "files")] {
        let heard = heard(upstream);
        assert_eq!(methods(&heard), ["tasks/list"]);
        let id = format!("{name}-session");
        assert_eq!(heard[0].field("mcp-session-id"), Some(id.as_str()));
        assert_eq!(heard[0].json()["params"], json!({}));
    }
    // The same id at two servers is two tasks, and each leads back to its own.
    for (shown, own, upstream) in [
        (&shown[0], "t-1", &pair.github),
        (&shown[1], "t-2", &pair.github),
        (&shown[2], "t-1", &pair.files),
    ] {
        let get = Message::legacy(8, "tasks/get", &json!({ "taskId": shown }));
        pair.ask(&by("ann", get).field("mcp-session-id", &session)).await;
        assert_eq!(heard(upstream)[0].json()["params"]["taskId"], own);
    }
    let cursor = first.json()["result"]["nextCursor"].as_str().expect("a cursor").to_owned();
    let second = pair.ask(&list(&session, &json!({ "cursor": cursor }))).await;
    assert_eq!(ids(&second).len(), 1, "{}", second.text());
    assert_eq!(second.json()["result"]["nextCursor"], Value::Null);
    assert!(heard(&pair.files).is_empty(), "its list is over");
    assert_eq!(heard(&pair.github)[0].json()["params"]["cursor"], "on \"é");
    // A cursor is of one list and one caller.
    let of_bob = session_of(&pair, "bob").await;
    let tools = Message::legacy(7, "tools/list", &json!({ "cursor": cursor }));
    for message in [
        list(&session, &json!({ "cursor": forged(&cursor) })),
        list(&session, &json!({ "cursor": 7 })),
        by("bob", Message::legacy(7, "tasks/list", &json!({ "cursor": cursor })))
            .field("mcp-session-id", &of_bob),
        by("ann", tools).field("mcp-session-id", &session),
    ] {
        let answer = pair.ask(&message).await;
        assert_eq!((answer.status, answer.code()), (200, -32602), "{}", answer.text());
    }
    pair.nobody_heard("a cursor of others");
}

#[tokio::test]
async fn a_server_whose_tasks_are_missing_is_named() {
    let never = |_: &Request| vec![Step::Wait(Arc::new(Semaphore::new(0)))];
    let failing = |request: &Request| error(request, 200, -32603);
    let looping = |request: &Request| {
        success(request, "", json!({ "tasks": [task("t-1")], "nextCursor": "again" }))
    };
    let foreign = |_: &Request| {
        let answer = json!({ "jsonrpc": "2.0", "id": "other", "result": { "tasks": [] } });
        crate::support::upstream::json_answer(200, "", &answer)
    };
    let slow = with_tasks("files", never).await;
    let broken = with_tasks("files", failing).await;
    let odd = with_tasks("files", foreign).await;
    let endless = with_tasks("files", looping).await;
    for (files, because) in
        [(slow, "no_answer"), (broken, "error"), (odd, "unreadable"), (endless, "cursor")]
    {
        let one = |request: &Request| success(request, "", json!({ "tasks": [task("t-1")] }));
        let pair = Pair::of(with_tasks("github", one).await, files, "").await;
        let session = session_of(&pair, "ann").await;
        let began = Instant::now();
        let mut answer = pair.ask(&list(&session, &json!({}))).await;
        if because == "cursor" {
            let cursor = &answer.json()["result"]["nextCursor"];
            answer = pair.ask(&list(&session, &json!({ "cursor": cursor }))).await;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{because}");
        assert_eq!(ids(&answer).len(), 1, "{because}: {}", answer.text());
        assert_eq!(answer.json()["result"]["nextCursor"], Value::Null, "{because}");
        let odd = &answer.json()["result"]["_meta"]["io.toolgate/servers"];
        let expected = json!([{ "name": "files", "list": "left_out", "because": because }]);
        assert_eq!(odd, &expected, "{because}");
    }
}

#[tokio::test]
async fn only_servers_that_list_tasks_are_asked() {
    let one = |request: &Request| success(request, "", json!({ "tasks": [task("t-1")] }));
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(with_tasks("github", one).await, files, "").await;
    let session = session_of(&pair, "ann").await;
    let answer = pair.ask(&list(&session, &json!({}))).await;
    assert_eq!(ids(&answer).len(), 1, "{}", answer.text());
    assert_eq!(answer.json()["result"]["_meta"], Value::Null, "{}", answer.text());
    assert!(heard(&pair.files).is_empty());
    // The modern era has no such list.
    let modern = pair.ask(&Message::modern(7, "tasks/list", json!({}))).await;
    assert_eq!((modern.status, modern.code()), (404, -32601), "{}", modern.text());
}
