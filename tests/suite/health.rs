//! Active probes: an endpoint that fails them takes no calls until it passes them, and they leave nothing behind.

use crate::support::client;
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::http2::{Http2Upstream, Reaction};
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, event, events_head, initialized, json_answer, mcp, plain, sections,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Probes as fast as a test wants them.
fn probing(probe: &str) -> String {
    format!(
        ", health: {{ probe: {probe}, interval: 200ms, timeout: 150ms, unhealthy_after: 2, healthy_after: 2 }}, balance: {{ algorithm: round_robin }}"
    )
}

fn state(endpoint: &str, state: &str) -> String {
    format!(r#"toolgate_endpoint_state{{endpoint="{endpoint}",server="one",state="{state}"}} 1"#)
}

/// Calls and counts how many of them this server answered.
async fn calls_at(gateway: &Gateway, upstream: &Upstream) -> usize {
    upstream.take();
    for id in 0..10 {
        let answer = client::exchange(gateway.address, &Message::call(id, "echo").bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    upstream.take().iter().filter(|request| request.method() == "tools/call").count()
}

#[tokio::test]
async fn an_endpoint_that_fails_its_probe_takes_no_calls_until_it_passes() {
    for probe in ["http", "mcp"] {
        let ill = Arc::new(AtomicBool::new(false));
        let illness = Arc::clone(&ill);
        // It fails probes and nothing else, so nothing else keeps calls away.
        let script = move |request: &Request| match (request.verb.as_str(), request.method()) {
            (_, method) if method == "tools/call" => mcp("patient", request),
            _ if illness.load(Ordering::SeqCst) => vec![plain(500, "", b"")],
            ("GET", _) => vec![plain(200, "", b"well")],
            _ => mcp("patient", request),
        };
        let (well, patient) = (Upstream::mcp("well").await, Upstream::start(script).await);
        // A server of MCP answers a GET of its own path with a stream, which is a 200 as well.
        let urls = [well.url(), patient.url()];
        let gateway = Gateway::start(&sections(&urls, &probing(probe))).await;
        gateway.metrics_with(&state(&patient.url(), "serving")).await;
        assert_eq!(calls_at(&gateway, &patient).await, 5, "{probe}: half of them");
        ill.store(true, Ordering::SeqCst);
        let metrics = gateway.metrics_with(&state(&patient.url(), "unhealthy")).await;
        assert!(metrics.contains(&state(&well.url(), "serving")), "{probe}: {metrics}");
        assert!(metrics.contains(r#",health="unhealthy",server="one"} 1"#), "{probe}: {metrics}");
        assert!(gateway.diagnostics().contains("endpoint is unhealthy"), "{probe}");
        assert_eq!(calls_at(&gateway, &patient).await, 0, "{probe}");
        ill.store(false, Ordering::SeqCst);
        gateway.metrics_with(&state(&patient.url(), "serving")).await;
        assert_eq!(calls_at(&gateway, &patient).await, 5, "{probe}: half of them again");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_unhealthy_before_a_call_finds_out() {
    let (well, patient) = (Upstream::mcp("well").await, Upstream::mcp("patient").await);
    let (address, url) = (patient.address, patient.url());
    let gateway = Gateway::start(&sections(&[well.url(), url.clone()], &probing("tcp"))).await;
    let passed =
        format!(r#"toolgate_probes_total{{endpoint="{url}",outcome="passed",server="one"}}"#);
    gateway.metrics_with(&passed).await;
    drop(patient);
    gateway.metrics_with(&state(&url, "unhealthy")).await;
    assert_eq!(calls_at(&gateway, &well).await, 10);
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("toolgate_upstream_errors_total"), "no call was tried: {metrics}");
    let patient = Upstream::start_at(address, |request| mcp("patient", request)).await;
    gateway.metrics_with(&state(&url, "serving")).await;
    assert_eq!(calls_at(&gateway, &patient).await, 5);
    assert!(patient.bytes().is_empty(), "a probe of TCP says nothing");
}

fn refused(status: u16, id: &Value) -> Vec<Step> {
    let error = json!({ "code": -32601, "message": "no" });
    json_answer(status, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}

/// A server with sessions that knows no `server/discover`.
fn legacy(request: &Request) -> Vec<Step> {
    let id = &request.json()["id"];
    let is_in_session = request.field("mcp-session-id") == Some("old-session");
    match request.method().as_str() {
        "server/discover" => refused(400, id),
        "initialize" => mcp("old", request),
        _ if !is_in_session => refused(400, id),
        _ => mcp("old", request),
    }
}

/// The same, in streams that stay open after the answer.
fn legacy_streams(request: &Request) -> Vec<Step> {
    let id = &request.json()["id"];
    let answer = match request.method().as_str() {
        "initialize" => initialized(id),
        "ping" => json!({ "jsonrpc": "2.0", "id": id, "result": {} }),
        _ => return legacy(request),
    };
    let head = events_head("mcp-session-id: old-session\r\n");
    vec![head, event(&answer.to_string()), Step::Wait(Arc::new(Semaphore::new(0)))]
}

/// A server that gives no session ids.
fn stateless(request: &Request) -> Vec<Step> {
    let id = &request.json()["id"];
    assert_eq!(request.field("mcp-session-id"), None);
    match request.method().as_str() {
        "server/discover" => refused(404, id),
        "initialize" => json_answer(200, "", &initialized(id)),
        _ => mcp("stateless", request),
    }
}

/// A server that does not know `ping`.
fn without_ping(request: &Request) -> Vec<Step> {
    match request.method().as_str() {
        "ping" => refused(200, &request.json()["id"]),
        _ => legacy(request),
    }
}

#[tokio::test]
async fn a_probe_of_mcp_finds_the_manner_of_a_server_and_leaves_no_session() {
    type Script = fn(&Request) -> Vec<Step>;
    let modern: Script = |request| mcp("modern", request);
    let rows: [(&str, Script, &[&str]); 5] = [
        ("modern", modern, &["server/discover"]),
        ("legacy", legacy, &["server/discover", "initialize", "notifications/initialized", "ping"]),
        (
            "legacy, in streams",
            legacy_streams,
            &["server/discover", "initialize", "notifications/initialized", "ping"],
        ),
        (
            "without sessions",
            stateless,
            &["server/discover", "initialize", "notifications/initialized", "ping"],
        ),
        (
            "without ping",
            without_ping,
            &[
                "server/discover",
                "initialize",
                "notifications/initialized",
                "ping",
                "",
                "initialize",
                "notifications/initialized",
                "ping",
            ],
        ),
    ];
    for (what, script, expected) in rows {
        let upstream = Upstream::start(script).await;
        let folder = Folder::new();
        let file = folder.write("endpoints.yaml", &format!("- {}\n", upstream.url()));
        let server = format!("discovery: {{ file: {} }}{}", file.display(), probing("mcp"));
        let sections = format!(
            "servers: {{ one: {{ {server} }} }}\nroutes: [{{ path: /mcp, server: one }}]\n"
        );
        let gateway = Gateway::start(&sections).await;
        assert!(upstream.reached(expected.len() + 3).await, "{what}");
        folder.write("endpoints.yaml", "[]\n");
        let gone = format!(r#"toolgate_endpoint_state{{endpoint="{}""#, upstream.url());
        while gateway.metrics().await.contains(&gone) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The round in which the endpoint left ends with its session.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seen = upstream.take();
        let methods: Vec<String> = seen.iter().map(Request::method).collect();
        assert_eq!(&methods[..expected.len()], expected, "{what}");
        let count = |wanted: &str| methods.iter().filter(|method| *method == wanted).count();
        let has_sessions = !["without sessions", "modern"].contains(&what);
        let opened = if has_sessions { count("initialize") } else { 0 };
        let ended: Vec<_> = seen.iter().filter(|request| request.verb == "DELETE").collect();
        assert_eq!(ended.len(), opened, "{what}: {methods:?}");
        for delete in ended {
            assert_eq!(delete.field("mcp-session-id"), Some("old-session"), "{what}");
        }
        if what != "without ping" {
            assert!(count("initialize") <= 1, "{what}: {methods:?}");
        }
        let metrics = gateway.metrics().await;
        assert!(!metrics.contains("endpoint=\"http://"), "{what}: {metrics}");
        assert!(!gateway.diagnostics().contains("unhealthy"), "{what}: {}", gateway.diagnostics());
    }
}

#[tokio::test]
async fn a_gateway_that_stops_ends_the_sessions_of_its_probes() {
    let upstream = Upstream::start(legacy).await;
    let http2 = Http2Upstream::start(|request| {
        let id = &request.json()["id"];
        let (status, session, body) = match request.method().as_str() {
            "server/discover" => (400, "", String::new()),
            "initialize" => (200, "old-session", initialized(id).to_string()),
            _ => (200, "", json!({ "jsonrpc": "2.0", "id": id, "result": {} }).to_string()),
        };
        let mut fields = vec![("content-type", "application/json".to_owned())];
        if !session.is_empty() {
            fields.push(("mcp-session-id", session.to_owned()));
        }
        Reaction::Answer { status, fields, body: body.into_bytes() }
    })
    .await;
    let probes = probing("mcp");
    let sections = format!(
        "servers: {{ one: {{ endpoints: [{}]{probes} }}, two: {{ endpoints: [{}], protocol: http2{probes} }} }}\nroutes: [{{ path: /mcp, server: one }}]\n",
        upstream.url(),
        http2.url()
    );
    let mut gateway = Gateway::start(&sections).await;
    assert!(upstream.reached(6).await);
    let passed = format!(
        r#"toolgate_probes_total{{endpoint="{}",outcome="passed",server="two"}}"#,
        http2.url()
    );
    gateway.metrics_with(&passed).await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await, Some(0));
    for (what, seen) in [("HTTP/1", upstream.take()), ("HTTP/2", http2.take())] {
        let asked: Vec<_> =
            seen.iter().map(|request| (request.verb.as_str(), request.method())).collect();
        let count = |wanted: &str| asked.iter().filter(|(_, method)| method == wanted).count();
        assert_eq!((count("server/discover"), count("initialize")), (1, 1), "{what}: {asked:?}");
        let last = seen.last().expect("requests");
        assert_eq!(last.verb, "DELETE", "{what}: {asked:?}");
        assert_eq!(last.field("mcp-session-id"), Some("old-session"), "{what}");
    }
}

#[tokio::test]
async fn a_probe_of_mcp_begins_anew_where_its_session_is_forgotten() {
    let forgetful = Arc::new(AtomicBool::new(false));
    let forgets = Arc::clone(&forgetful);
    let script = move |request: &Request| match request.method().as_str() {
        "ping" if forgets.swap(false, Ordering::SeqCst) => refused(404, &request.json()["id"]),
        _ => legacy(request),
    };
    let upstream = Upstream::start(script).await;
    let gateway = Gateway::start(&sections(&[upstream.url()], &probing("mcp"))).await;
    assert!(upstream.reached(5).await);
    upstream.take();
    forgetful.store(true, Ordering::SeqCst);
    assert!(upstream.reached(8).await);
    let methods: Vec<String> = upstream.take().iter().map(Request::method).collect();
    assert_eq!(methods.iter().filter(|method| *method == "initialize").count(), 1, "{methods:?}");
    assert!(gateway.metrics().await.contains(&state(&upstream.url(), "serving")));
    assert!(!gateway.diagnostics().contains("unhealthy"));
}

#[tokio::test]
async fn whatever_a_probe_is_answered_with_the_gateway_lives() {
    type Nonsense = fn(&[u8], &[u8], &str) -> Vec<Step>;
    let big = [b"{\"result\":\"".as_slice(), &vec![b'x'; 1 << 20], b"\"}"].concat();
    let deep = vec![b'['; 200_000];
    let json = "content-type: application/json\r\n";
    let rows: [Nonsense; 9] = [
        |_, _, _| vec![Step::Send(b"SSH-2.0-OpenSSH\r\n".to_vec()), Step::Close],
        |_, _, _| vec![Step::Close],
        |_, _, _| vec![Step::Wait(Arc::new(Semaphore::new(0)))],
        |big, _, json| vec![plain(200, json, big)],
        |_, deep, json| vec![plain(200, json, deep)],
        |_, _, json| vec![plain(200, json, b"{}")],
        |_, _, _| vec![plain(200, "", b"<html>")],
        |_, _, _| vec![events_head("mcp-session-id: \u{ff}\r\n"), Step::Flood(1 << 20)],
        |_, _, json| vec![plain(503, json, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}")],
    ];
    let mut upstreams = Vec::new();
    for row in rows {
        let (big, deep) = (big.clone(), deep.clone());
        let script = move |_: &Request| row(&big, &deep, json);
        upstreams.push(Upstream::start(script).await);
    }
    let mut urls: Vec<String> = upstreams.iter().map(Upstream::url).collect();
    urls.push(format!("http://{}/mcp", free_address()));
    let gateway = Gateway::start(&sections(&urls, &probing("mcp"))).await;
    for url in &urls {
        gateway.metrics_with(&state(url, "unhealthy")).await;
    }
}
