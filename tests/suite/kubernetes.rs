//! Kubernetes: pods are endpoints, services are servers, and an API server that is away changes nothing.

mod services;

use crate::support::api_server::ApiServer;
use crate::support::client::{self, Answer, DEADLINE};
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::upstream::Upstream;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SLICES: &str = "endpointslices";
/// The one server whose endpoints are the pods of `mcp/search`; `{}` is for more keys.
const SERVER: &str = "servers: { one: { discovery: { kubernetes: { service: mcp/search, port: mcp{} } }, balance: { algorithm: round_robin } } }\nroutes: [{ path: /mcp, server: one }]\n";

/// The conditions of a pod.
fn ready() -> Value {
    json!({ "ready": true, "serving": true, "terminating": false })
}

fn not_ready() -> Value {
    json!({ "ready": false, "serving": false, "terminating": false })
}

fn stopping() -> Value {
    json!({ "ready": false, "serving": true, "terminating": true })
}

/// A slice of a service with one pod, which is where `server` is.
fn slice(name: &str, service: (&str, &str), server: &Upstream, conditions: &Value) -> Value {
    let (namespace, service) = service;
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "namespace": namespace, "uid": name,
            "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": "metrics", "port": 1, "protocol": "TCP" },
            { "name": "mcp", "port": server.address.port(), "protocol": "TCP" }],
        "endpoints": [{ "addresses": [server.address.ip().to_string()], "conditions": conditions,
            "zone": "a", "hints": { "forZones": [{ "name": "b" }] } }],
    })
}

fn search(name: &str, server: &Upstream, conditions: &Value) -> Value {
    slice(name, ("mcp", "search"), server, conditions)
}

async fn gateway(api: &ApiServer, more: &str) -> Gateway {
    Gateway::start(&(SERVER.replace("{}", more) + &api.section(""))).await
}

async fn ask(gateway: &Gateway, message: &Message) -> Answer {
    client::exchange(gateway.address, &message.bytes()).await
}

/// Who answers a few calls without a session, each once; a status where nobody does.
async fn answering(gateway: &Gateway, path: &str) -> Vec<String> {
    let mut names = Vec::new();
    for id in 0..4 {
        let answer = ask(gateway, &Message::call(id, "echo").at(path)).await;
        names.push(match answer.status {
            200 => text(&answer),
            status => status.to_string(),
        });
    }
    names.sort();
    names.dedup();
    names
}

fn text(answer: &Answer) -> String {
    let text = answer.json()["result"]["content"][0]["text"].as_str().map(str::to_owned);
    text.unwrap_or_else(|| format!("{}: {}", answer.status, answer.text()))
}

async fn answers_come_from(gateway: &Gateway, path: &str, expected: &[&str], what: &str) {
    let began = Instant::now();
    loop {
        let found = answering(gateway, path).await;
        if found == expected {
            return;
        }
        let diagnostics = gateway.diagnostics();
        assert!(began.elapsed() < DEADLINE, "{what}: {found:?}\n{diagnostics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many endpoints there are, as metrics show them.
async fn shown(gateway: &Gateway) -> usize {
    let metrics = gateway.metrics().await;
    metrics.lines().filter(|line| line.starts_with("toolgate_endpoint_in_flight")).count()
}

async fn is_said(gateway: &Gateway, what: &str) {
    let began = Instant::now();
    while !gateway.diagnostics().contains(what) {
        assert!(began.elapsed() < DEADLINE, "{what}:\n{}", gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn calls_go_to_the_pods_that_are_ready() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    api.put(SLICES, search("search-2", &b, &not_ready()));
    api.put(SLICES, slice("other-1", ("mcp", "other"), &b, &ready()));
    api.put(SLICES, slice("search-1", ("elsewhere", "search"), &b, &ready()));
    let gateway = gateway(&api, "").await;
    assert_eq!(answering(&gateway, "/mcp").await, ["a"], "found before the gateway listens");
    let host = format!("search.mcp.svc:{}", a.address.port());
    assert_eq!(a.take()[0].field("host"), Some(host.as_str()), "spoken to by the service's name");
    // Two slices were two pages.
    api.is_asked(&["/namespaces/mcp/endpointslices?", "continue=", "limit="]).await;
    api.is_asked(&["kubernetes.io/service-name=search", "watch=true", "resourceVersion=104"]).await;

    api.put(SLICES, search("search-2", &b, &ready()));
    answers_come_from(&gateway, "/mcp", &["a", "b"], "one became ready").await;
    // The same pod in a second slice is no second endpoint.
    api.put(SLICES, search("search-3", &b, &ready()));
    api.put(SLICES, search("search-1", &a, &not_ready()));
    answers_come_from(&gateway, "/mcp", &["b"], "one is no longer ready").await;
    let began = Instant::now();
    while shown(&gateway).await != 1 {
        assert!(began.elapsed() < DEADLINE, "{}", gateway.metrics().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.delete(SLICES, "mcp", "search-2");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(answering(&gateway, "/mcp").await, ["b"], "it is still in the other slice");
    api.delete(SLICES, "mcp", "search-3");
    answers_come_from(&gateway, "/mcp", &["503"], "no pod is ready").await;
    api.put(SLICES, search("search-1", &a, &ready()));
    answers_come_from(&gateway, "/mcp", &["a"], "one is ready again").await;
}

#[tokio::test]
async fn a_pod_that_is_being_stopped_drains_and_then_its_sessions_move() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    let gateway = gateway(&api, ", drain: 1h").await;
    let session = ask(&gateway, &Message::initialize()).await.session();
    let call = Message::legacy_call(7, "echo", &session);
    assert_eq!(text(&ask(&gateway, &call).await), "a");

    api.put(SLICES, search("search-2", &b, &ready()));
    answers_come_from(&gateway, "/mcp", &["a", "b"], "both are ready").await;
    api.put(SLICES, search("search-1", &a, &stopping()));
    let state = |name: &str, is: u8| {
        let port = a.address.port();
        format!(
            r#"toolgate_endpoint_state{{endpoint="http://127.0.0.1:{port}/mcp",server="one",state="{name}"}} {is}"#
        )
    };
    answers_come_from(&gateway, "/mcp", &["b"], "nothing new").await;
    gateway.metrics_with(&state("draining", 1)).await;
    assert_eq!(text(&ask(&gateway, &call).await), "a", "what is open stays");
    let other = ask(&gateway, &Message::initialize()).await.session();
    assert_eq!(text(&ask(&gateway, &Message::legacy_call(8, "echo", &other)).await), "b");

    // It is gone: what it had goes on elsewhere.
    api.put(
        SLICES,
        search("search-1", &a, &json!({ "ready": false, "serving": false, "terminating": true })),
    );
    let began = Instant::now();
    while gateway.metrics().await.contains(&state("draining", 1)) {
        assert!(began.elapsed() < DEADLINE, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(text(&ask(&gateway, &call).await), "b");
    // A new pod at the same address owes nothing to the one before.
    api.put(SLICES, search("search-1", &a, &ready()));
    answers_come_from(&gateway, "/mcp", &["a", "b"], "another one").await;
    assert_eq!(gateway.diagnostics().matches("it drains").count(), 1, "{}", gateway.diagnostics());
}

#[tokio::test]
async fn at_the_deadline_sessions_leave_a_pod_that_is_still_there() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    let gateway = gateway(&api, ", drain: 1s").await;
    let session = ask(&gateway, &Message::initialize()).await.session();
    api.put(SLICES, search("search-2", &b, &ready()));
    api.put(SLICES, search("search-1", &a, &stopping()));
    let began = Instant::now();
    while text(&ask(&gateway, &Message::legacy_call(7, "echo", &session)).await) != "b" {
        assert!(began.elapsed() < DEADLINE, "{}", gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    gateway.metrics_with(r#"toolgate_sessions_moved_total{reason="drained",server="one"} 1"#).await;
    // The service is deleted, and its slices with it: its pods have as long.
    api.delete(SLICES, "mcp", "search-1");
    api.delete(SLICES, "mcp", "search-2");
    answers_come_from(&gateway, "/mcp", &["503"], "the service is gone").await;
    assert_eq!(shown(&gateway).await, 0);
}

#[tokio::test]
async fn a_watch_goes_on_where_it_ended_and_begins_anew_where_it_is_too_old() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    let gateway = gateway(&api, "").await;
    answers_come_from(&gateway, "/mcp", &["a"], "at first").await;
    api.is_asked(&["watch=true", "resourceVersion=101"]).await;

    // Closed as servers do: no list, and no further back than the last bookmark.
    let version = api.bookmark();
    tokio::time::sleep(Duration::from_millis(500)).await;
    api.take();
    api.close_watches();
    api.is_asked(&["watch=true", &format!("resourceVersion={version}")]).await;
    api.put(SLICES, search("search-2", &b, &ready()));
    answers_come_from(&gateway, "/mcp", &["a", "b"], "after a close").await;
    let asked = api.take();
    assert!(asked.iter().all(|asked| asked.contains("watch=true")), "no list: {asked:?}");

    // What happens while there is no watch is not missed.
    api.cut_watches();
    api.put(SLICES, search("search-1", &a, &not_ready()));
    answers_come_from(&gateway, "/mcp", &["b"], "after a cut").await;

    for _ in 0..2 {
        api.take();
        api.compact();
        api.is_asked(&["endpointslices?", "limit="]).await;
        api.put(SLICES, search("search-1", &a, &ready()));
        answers_come_from(&gateway, "/mcp", &["a", "b"], "after 410").await;
        api.put(SLICES, search("search-1", &a, &not_ready()));
        answers_come_from(&gateway, "/mcp", &["b"], "after 410").await;
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_changes_nothing() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let mut api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    let gateway = gateway(&api, "").await;
    let session = ask(&gateway, &Message::initialize()).await.session();
    api.stop();
    let failing = r#"toolgate_discovery_failing{server="one",source="mcp/search"}"#;
    gateway.metrics_with(&format!("{failing} 1")).await;
    assert_eq!(answering(&gateway, "/mcp").await, ["a"]);
    let call = Message::legacy_call(7, "echo", &session);
    assert_eq!(text(&ask(&gateway, &call).await), "a");
    // Meanwhile the pod was replaced; what was known of it says nothing about that.
    api.delete(SLICES, "mcp", "search-1");
    api.put(SLICES, search("search-2", &b, &ready()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(answering(&gateway, "/mcp").await, ["a"]);
    api.resume().await;
    answers_come_from(&gateway, "/mcp", &["b"], "the API server is back").await;
    gateway.metrics_with(&format!("{failing} 0")).await;
    let said = gateway.diagnostics();
    assert_eq!(said.matches("pods not found;").count(), 1, "{said}");
    assert_eq!(said.matches("pods found again").count(), 1, "{said}");
    assert_eq!(text(&ask(&gateway, &call).await), "b", "the session has moved");
}

#[tokio::test]
async fn a_gateway_that_starts_without_an_api_server_finds_the_pods_later() {
    let a = Upstream::mcp("a").await;
    let mut api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    api.stop();
    let gateway = gateway(&api, "").await;
    assert_eq!(answering(&gateway, "/mcp").await, ["503"]);
    api.resume().await;
    answers_come_from(&gateway, "/mcp", &["a"], "the API server is there").await;
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SLICES, search("search-1", &a, &ready()));
    let gateway = gateway(&api, "").await;
    api.accept("s3cret-two");
    api.close_watches();
    is_said(&gateway, "pods not found;").await;
    assert!(api.refused() > 0, "the old token was shown");
    assert!(!gateway.diagnostics().contains("s3cret"), "{}", gateway.diagnostics());
    api.put(SLICES, search("search-1", &b, &ready()));
    assert_eq!(answering(&gateway, "/mcp").await, ["a"], "what was known stays");
    api.give("s3cret-two");
    answers_come_from(&gateway, "/mcp", &["b"], "with the new token").await;
    is_said(&gateway, "pods found again").await;
}
