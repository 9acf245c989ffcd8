//! What happens is visible: metrics under capped names, and one line of JSON per request.

mod collecting;
mod traces;

use crate::support::Stage;
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::upstream::{Upstream, json_answer, mcp, result};
use serde_json::{Value, json};

#[tokio::test]
async fn every_metric_is_there_after_one_of_each() {
    let stage = Stage::mcp().await;
    let session = stage.open_session().await;
    stage.ask(&Message::legacy_call(2, "echo", &session)).await;
    stage.ask(&Message::legacy_call(2, "echo", "unknown")).await;
    let counted = [
        r#"reason="session_unknown"} 1"#,
        r#"toolgate_requests_total{caller="anonymous",method="initialize",outcome="ok",route="/mcp",server="one",tool=""} 1"#,
        r#"toolgate_requests_total{caller="anonymous",method="tools/call",outcome="ok",route="/mcp",server="one",tool="echo"} 1"#,
        r#"toolgate_request_duration_seconds_count{method="tools/call",route="/mcp"}"#,
        r#"toolgate_overhead_seconds_count{route="/mcp"} 3"#,
        r#"toolgate_requests_in_flight{route="/mcp"} 0"#,
        r#"toolgate_body_bytes_total{direction="in",route="/mcp"}"#,
        r#"toolgate_body_bytes_total{direction="out",route="/mcp"}"#,
        "toolgate_sessions_opened_total 1",
        "toolgate_streams_open 0",
        "toolgate_connections_open ",
        "toolgate_log_lines_lost_total 0",
    ];
    stage.gateway.metrics_with_all(&counted).await;
}

#[tokio::test]
async fn a_tool_that_no_server_knows_is_no_label() {
    let stage = Stage::mcp().await;
    for number in 0..20 {
        stage.ask(&Message::call(number, &format!("invented{number}"))).await;
    }
    stage.ask(&Message::call(1, "echo")).await;
    let counted = [r#"tool="echo"} 1"#, r#"server="one",tool="other"} 20"#];
    let metrics = stage.gateway.metrics_with_all(&counted).await;
    assert!(!metrics.contains("invented"), "{metrics}");
}

#[tokio::test]
async fn a_method_that_no_server_knows_is_no_label() {
    // Legacy servers answer an unknown method with 200 and an error in the body, and any
    // notification with 202.
    let script = |request: &crate::support::upstream::Request| {
        let message = request.json();
        match message["method"].as_str() {
            Some(method) if method.starts_with("invented/") => {
                let error = json!({ "code": -32601, "message": "method not found" });
                json_answer(
                    200,
                    "",
                    &json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }),
                )
            }
            _ => mcp("one", request),
        }
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    for number in 0..20 {
        let method = format!("invented/{number}");
        stage.ask(&Message::legacy(number, &method, &json!({}))).await;
        let told = json!({ "jsonrpc": "2.0", "method": format!("notifications/invented{number}") });
        assert_eq!(stage.ask(&Message::post(told.to_string())).await.status, 202);
    }
    stage.ask(&Message::legacy(1, "skills/list", &json!({}))).await;
    let metrics = stage.gateway.metrics_with(r#"method="skills/list""#).await;
    assert!(!metrics.contains("invented"), "{metrics}");
}

#[tokio::test]
async fn labels_are_capped() {
    let upstream = Upstream::start(|request| {
        json_answer(200, "", &result(&request.json()["id"], "any tool works"))
    })
    .await;
    let telemetry = "telemetry: { labels: { tools_max: 3 } }\n";
    let gateway = Gateway::start(&format!("{}{telemetry}", upstream.sections())).await;
    let stage = Stage { gateway, upstream };
    for number in 0..10 {
        stage.ask(&Message::call(number, &format!("tool{number}"))).await;
    }
    let metrics = stage.gateway.metrics_with(r#"tool="other"} 7"#).await;
    // Which three it is depends on which calls were counted first: a call is counted when the client
    // has its answer already.
    let named = metrics.lines().filter(|line| {
        line.contains(r#"outcome="ok""#) && line.contains(r#"tool="tool"#) && line.ends_with(" 1")
    });
    assert_eq!(named.count(), 3, "{metrics}");
}

#[tokio::test]
async fn every_request_is_one_line_of_json() {
    let stage = Stage::mcp().await;
    let session = stage.open_session().await;
    let odd = "a\"b\\c\u{1f600}\n{\"forged\":\"line\"}";
    let encoded = "=?base64?YSJiXGPwn5iACnsiZm9yZ2VkIjoibGluZSJ9?=";
    stage.ask(&Message::legacy_call(2, "echo", &session)).await;
    stage
        .ask(&Message::modern(3, "tools/call", json!({ "name": odd })).field("mcp-name", encoded))
        .await;
    stage.ask(&Message::call(4, "echo").at("/no\"where")).await;
    stage.ask(&Message::call(5, "echo").field("host", "evil.example.com")).await;
    let log = stage.gateway.log(5).await;
    let lines: Vec<Value> =
        log.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 5, "{log:#?}");
    let find = |status: u64, method: &str| {
        let found = lines.iter().find(|line| line["status"] == status && line["method"] == method);
        found.unwrap_or_else(|| panic!("no {status} {method} in {log:#?}"))
    };
    let call = lines.iter().find(|line| line["target"] == "echo").expect("the call");
    for (key, expected) in [
        ("verb", "POST"),
        ("path", "/mcp"),
        ("server", "one"),
        ("method", "tools/call"),
        ("outcome", "ok"),
        ("caller", "anonymous"),
        ("client", "127.0.0.1"),
    ] {
        assert_eq!(call[key], expected, "{key}");
    }
    assert_eq!(call["endpoint"], stage.upstream.url());
    assert!(
        call["duration_us"].is_u64() && call["overhead_us"].is_u64() && call["bytes_in"].is_u64()
    );
    assert!(
        !log.concat().contains(&session) && !log.concat().contains("one-session"),
        "a session id in the log"
    );
    assert!(lines.iter().any(|line| line["target"] == odd));
    assert_eq!(find(200, "initialize")["verb"], "POST");
    assert!(lines.iter().any(|line| line["status"] == 404 && line["reason"] == "route_unknown"));
    assert!(lines.iter().any(|line| line["status"] == 421 && line["reason"] == "host_refused"));
}

#[tokio::test]
async fn the_log_may_be_text_or_off() {
    let stage = Stage::with("telemetry: { requests: text }\n").await;
    stage.ask(&Message::call(2, "echo")).await;
    let line = stage.gateway.log(1).await.remove(0);
    assert!(line.contains("200 ok   tools/call echo"), "{line}");
    let stage = Stage::with("telemetry: { requests: off }\n").await;
    stage.ask(&Message::call(2, "echo")).await;
    stage.gateway.metrics_with(r#"tool="echo"} 1"#).await;
    assert!(stage.gateway.log(0).await.is_empty());
}
