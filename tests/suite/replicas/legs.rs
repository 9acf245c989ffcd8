//! Sessions with several servers that many replicas have in common.

use super::sessions::{Sessions, answer, eventually};
use super::stands;
use crate::support::client;
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::store::Store;
use crate::support::upstream::{Request, Step, Upstream, initialized, json_answer, plain};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Two servers as one, of which the first has no room for sessions at first.
#[tokio::test]
async fn a_leg_that_one_replica_opened_late_is_the_leg_of_all() {
    let store = Store::start();
    let (github, files) = (Arc::new(Sessions::default()), Arc::new(Sessions::default()));
    let is_up = Arc::new(AtomicBool::new(false));
    let (up, of_github, of_files) = (Arc::clone(&is_up), Arc::clone(&github), Arc::clone(&files));
    let first = Upstream::start(move |request: &Request| match up.load(Ordering::Relaxed) {
        true => of_federation("github", &of_github, request),
        false if request.field("user-agent").is_some_and(|agent| agent.contains("(catalog)")) => {
            of_federation("github", &of_github, request)
        }
        false => vec![plain(503, "", b"")],
    })
    .await;
    let second =
        Upstream::start(move |request: &Request| of_federation("files", &of_files, request)).await;
    let yaml = format!(
        "servers:\n  github: {{ endpoints: [{}] }}\n  files: {{ endpoints: [{}] }}\nroutes: [{{ path: /mcp, servers: [{{ name: github, prefix: github_ }}, {{ name: files }}] }}]\ncatalog: {{ listing: on, refresh: 1h }}\n",
        first.url(),
        second.url()
    );
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let gateway = Gateway::start(&format!("{}{yaml}", store.sections())).await;
        stands(&gateway, "up").await;
        gateways.push(gateway);
    }
    let ask = async |gateway: usize, message: &Message| {
        client::exchange(gateways[gateway].address, &message.bytes()).await
    };
    let session = ask(0, &Message::initialize()).await.session();
    let call = Message::legacy_call(5, "github_echo", &session);
    for gateway in 0..2 {
        let near = Message::legacy_call(5, "echo", &session);
        eventually("the names are known", async || ask(gateway, &near).await.status == 200).await;
    }
    let before = github.opened();
    is_up.store(true, Ordering::Relaxed);
    let calls = (0..12).map(|turn| ask(turn % 2, &call));
    for answer in futures::future::join_all(calls).await {
        // An endpoint that failed before may not be trusted yet.
        assert!([200, 502, 503].contains(&answer.status), "{}", answer.text());
    }
    for gateway in 0..2 {
        eventually("it is trusted again", async || ask(gateway, &call).await.status == 200).await;
    }
    assert_eq!(github.opened(), before + 1, "one leg for all");
    // Its end is the end of all, of lists too.
    assert!(ask(0, &Message::end(&session)).await.status < 300);
    let list = Message::legacy(5, "tools/list", &json!({})).field("mcp-session-id", &session);
    for message in [&call, &list] {
        eventually("it is over", async || ask(1, message).await.status == 404).await;
    }
    let ended = github.ended.lock();
    assert!(ended.values().all(|times| *times == 1), "{ended:?}");
}

fn of_federation(name: &str, sessions: &Sessions, request: &Request) -> Vec<Step> {
    let success = |result: Value| {
        let id = &request.json()["id"];
        json_answer(200, "", &json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    };
    let is_own = request.field("user-agent").is_some_and(|agent| agent.contains("(catalog)"));
    match request.method().as_str() {
        "tools/list" => {
            success(json!({ "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] }))
        }
        "server/discover" => {
            let id = &request.json()["id"];
            let error = json!({ "code": -32601, "message": "no" });
            json_answer(400, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
        }
        // The gateway's own sessions are not counted.
        "initialize" if is_own => {
            json_answer(200, "mcp-session-id: own\r\n", &initialized(&request.json()["id"]))
        }
        _ if is_own => vec![plain(202, "", b"")],
        _ => answer(name, sessions, request),
    }
}
