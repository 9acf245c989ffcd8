//! Services with the label are servers where their namespace is approved, and take nothing from the configuration.

use super::{SLICES, answers_come_from, ask, is_said, ready, slice, text};
use crate::support::api_server::ApiServer;
use crate::support::client::DEADLINE;
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::Upstream;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SERVICES: &str = "services";

fn service(namespace: &str, name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace, "uid": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "toolgate.dev/server": "true" }, "annotations": annotations },
        "spec": { "ports": [{ "name": "mcp", "port": 80, "targetPort": "mcp" },
            { "name": "metrics", "port": 9090 }] },
    })
}

async fn gateway(api: &ApiServer, admin: SocketAddr, more: &str) -> Gateway {
    let own = "servers: { own: { endpoints: [http://127.0.0.1:9/] } }\nroutes: [{ path: /mcp, server: own }, { path: /services/team-a/taken, server: own }]\n";
    let services = format!(", services: {{ namespaces: [team-a, team-b]{more} }}");
    Gateway::start(&format!("{own}{}{}", api.section(&services), operator::section(admin))).await
}

/// The services as operators see them, once there are so many.
async fn shown(operator: &Operator, count: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let answer = operator.ask("GET", "/v1/services", &Value::Null).await;
        let services = answer.json()["services"].as_array().cloned().unwrap_or_default();
        if services.len() == count {
            return services;
        }
        assert!(began.elapsed() < DEADLINE, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_service_becomes_a_server_and_goes() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SERVICES, service("team-a", "search", &json!({})));
    api.put(SLICES, slice("search-1", ("team-a", "search"), &a, &ready()));
    let admin = free_address();
    let gateway = gateway(&api, admin, ", drain: 8s").await;
    let operator = Operator::new(admin);
    let path = "/services/team-a/search";
    answers_come_from(&gateway, path, &["a"], "there from the start").await;
    let expected = json!([{ "namespace": "team-a", "name": "search", "state": "served",
        "server": "team-a.search", "route": path }]);
    assert_eq!(json!(shown(&operator, 1).await), expected);
    let server = operator.server("team-a.search").await;
    assert_eq!(server["endpoints"][0]["source"], "kubernetes", "{server}");
    assert_eq!(server["source"], "discovered", "{server}");
    let body = json!({ "endpoints": ["http://127.0.0.1:9/"] });
    let replaced = operator.ask("PUT", "/v1/servers/team-a.search", &body).await;
    assert_eq!(replaced.status, 409, "{}", replaced.text());

    // Another one comes while the gateway runs, by another name and at another path of its own.
    api.put(SLICES, slice("files-1", ("team-b", "files-v2"), &b, &ready()));
    api.put(
        SERVICES,
        service(
            "team-b",
            "files-v2",
            &json!({ "toolgate.dev/name": "files", "toolgate.dev/path": "/v2" }),
        ),
    );
    answers_come_from(&gateway, "/services/team-b/files", &["b"], "it came").await;
    assert_eq!(b.take()[0].path, "/v2");

    // It goes: what is open stays for a while, and nothing new begins.
    let session = ask(&gateway, &Message::initialize().at(path)).await.session();
    let call = Message::legacy_call(7, "echo", &session).at(path);
    assert_eq!(text(&ask(&gateway, &call).await), "a");
    api.delete(SERVICES, "team-a", "search");
    api.delete(SLICES, "team-a", "search-1");
    is_said(&gateway, "its service is gone; it drains").await;
    assert_eq!(text(&ask(&gateway, &call).await), "a", "a session stays");
    assert_eq!(ask(&gateway, &Message::initialize().at(path)).await.status, 503);
    assert_eq!(ask(&gateway, &Message::call(8, "echo").at(path)).await.status, 503);
    let leaving = shown(&operator, 2).await;
    assert!(leaving.iter().any(|service| service["state"] == "leaving"), "{leaving:?}");
    answers_come_from(&gateway, path, &["404"], "its time is over").await;
    assert_eq!(shown(&operator, 1).await[0]["server"], "team-b.files");
    answers_come_from(&gateway, "/services/team-b/files", &["b"], "the other one stays").await;
    // A label that is taken away is a service that is gone.
    let mut unlabelled = service("team-b", "files-v2", &json!({}));
    unlabelled["metadata"]["labels"] = json!({});
    api.put(SERVICES, unlabelled);
    answers_come_from(&gateway, "/services/team-b/files", &["404"], "unlabelled").await;
}

#[tokio::test]
async fn what_is_not_approved_is_reported_and_left_alone() {
    let a = Upstream::mcp("a").await;
    let api = ApiServer::start().await;
    let named = |name: &str| json!({ "toolgate.dev/name": name });
    for (namespace, name, annotations) in [
        ("team-a", "good", json!({})),
        ("team-a", "path", named("taken")),
        ("team-b", "secret", json!({ "toolgate.dev/path": "/${HOME:-x}" })),
        ("team-c", "stranger", json!({})),
    ] {
        api.put(SERVICES, service(namespace, name, &annotations));
        api.put(SLICES, slice(name, (namespace, name), &a, &ready()));
    }
    let admin = free_address();
    let gateway = gateway(&api, admin, ", watch: cluster").await;
    let operator = Operator::new(admin);
    answers_come_from(&gateway, "/services/team-a/good", &["a"], "approved").await;
    for path in ["/services/team-c/stranger", "/services/team-b/secret"] {
        assert_eq!(ask(&gateway, &Message::call(1, "echo").at(path)).await.status, 404, "{path}");
    }
    a.take();
    let taken = ask(&gateway, &Message::call(1, "echo").at("/services/team-a/taken")).await;
    assert_eq!(taken.status, 502, "it is the configuration's, whose server is away");
    assert!(a.take().is_empty());
    let found = shown(&operator, 4).await;
    let why = |name: &str| {
        let service = found.iter().find(|service| service["name"] == name).expect("the service");
        (service["state"].as_str().unwrap_or_default(), service["why"].as_str().unwrap_or_default())
    };
    assert_eq!(why("good"), ("served", ""));
    for (name, part) in
        [("path", "the configuration has"), ("secret", "environment"), ("stranger", "not approved")]
    {
        let (state, why) = why(name);
        assert!(state == "ignored" && why.contains(part), "{name}: {state} {why}");
    }
    let said = gateway.diagnostics();
    assert!(said.contains("its namespace is not approved"), "{said}");
    assert_eq!(said.matches("a service is no server").count(), 2, "each once: {said}");
}

#[tokio::test]
async fn the_configuration_takes_a_name_back() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let api = ApiServer::start().await;
    api.put(SERVICES, service("team-a", "search", &json!({})));
    api.put(SLICES, slice("search-1", ("team-a", "search"), &a, &ready()));
    let admin = free_address();
    let gateway = gateway(&api, admin, "").await;
    answers_come_from(&gateway, "/services/team-a/search", &["a"], "discovered").await;
    let more = format!("servers: {{ team-a.search: {{ endpoints: ['{}'] }}, own:", b.url());
    let more = gateway.config().replace("servers: { own:", &more);
    let more = more.replace("routes: [", "routes: [{ path: /search, server: team-a.search }, ");
    std::fs::write(gateway.folder().join("toolgate.yaml"), more).expect("written");
    answers_come_from(&gateway, "/search", &["b"], "the configuration's").await;
    answers_come_from(&gateway, "/services/team-a/search", &["404"], "no longer a server").await;
    let shown = shown(&Operator::new(admin), 1).await;
    assert_eq!(shown[0]["state"], "ignored", "{shown:?}");
}
