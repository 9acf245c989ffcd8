//! Answers count as what they say, however they arrive, and pass as they came.

use crate::support::Stage;
use crate::support::message::Message;
use crate::support::upstream::{
    Step, Upstream, chunk, event, events_end, events_head, json_answer, mcp, plain, result,
};
use serde_json::{Value, json};

const OK: &str = r#"{"result":{"content":[{"type":"text","text":"\\"}],"isError":false},"jsonrpc":"2.0","id":1}"#;
const TOOL_ERROR: &str = r#"{"result":{"content":[{"text":"{\"isError\":false"}],"isError":true},"jsonrpc":"2.0","id":1}"#;
const RPC_ERROR: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"message":"no","code":-32602}}"#;
const ASKS: &str = r#"{"jsonrpc":"2.0","id":9,"params":{"isError":true},"method":"roots/list"}"#;

/// A server whose tools answer as `script` says for their name.
async fn stage(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> Stage {
    let script = move |request: &crate::support::upstream::Request| {
        let message = request.json();
        match message["params"]["name"].as_str() {
            Some(tool) if tool != "echo" => script(tool),
            _ => mcp("one", request),
        }
    };
    Stage::before(Upstream::start(script).await).await
}

/// Calls each tool and returns the outcomes that the log names.
async fn outcomes(stage: &Stage, tools: &[&str]) -> Vec<String> {
    let mut outcomes = Vec::new();
    for (nth, tool) in tools.iter().enumerate() {
        let mut client = stage.connect().await;
        client.send(&Message::call(1, tool).bytes()).await;
        client.try_answer().await;
        let log = stage.gateway.log(nth + 1).await;
        let line: Value = serde_json::from_str(&log[nth]).expect("JSON");
        assert_eq!(line["target"], *tool);
        outcomes.push(line["outcome"].as_str().expect("an outcome").to_owned());
    }
    outcomes
}

/// The answer as an event stream with these line ends, in chunks of this size.
fn stream(lines: &[&str], end: &str, size: usize) -> Vec<Step> {
    let text: String = lines.iter().map(|line| [line, end].concat()).collect();
    let mut steps = vec![events_head("")];
    for part in text.as_bytes().chunks(size) {
        steps.push(chunk(std::str::from_utf8(part).expect("ASCII")));
    }
    steps.push(events_end());
    steps
}

#[tokio::test]
async fn an_answer_in_json_counts_as_what_it_says() {
    let stage = stage(|tool| {
        let json = "content-type: application/json; charset=utf-8\r\n";
        let body = |body: &str| vec![plain(200, json, body.as_bytes())];
        match tool {
            "ok" => body(OK),
            "tool_error" => body(TOOL_ERROR),
            "rpc_error" => body(RPC_ERROR),
            "http_error" => vec![plain(404, json, RPC_ERROR.as_bytes())],
            "nothing" => body(""),
            "cut" => body(&OK[..OK.len() - 1]),
            "html" => vec![plain(200, "content-type: text/html\r\n", b"<p>busy</p>")],
            // The same in chunks that end anywhere.
            _ => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
                let mut steps = vec![Step::Send(head.as_bytes().to_vec())];
                steps.extend(TOOL_ERROR.as_bytes().chunks(3).map(|part| chunk(std::str::from_utf8(part).expect("ASCII"))));
                steps.push(events_end());
                steps
            }
        }
    })
    .await;
    let tools = ["ok", "tool_error", "rpc_error", "http_error", "nothing", "cut", "html", "parts"];
    let expected = [
        "ok",
        "tool_error",
        "rpc_error",
        "server_error",
        "unanswered",
        "unanswered",
        "unanswered",
        "tool_error",
    ];
    assert_eq!(outcomes(&stage, &tools).await, expected);
    // None of it says anything of the endpoint.
    assert_eq!(stage.ask(&Message::call(1, "echo")).await.status, 200);
    let counted = [
        r#"tool="echo"} 1"#,
        r#"toolgate_requests_total{caller="anonymous",method="tools/call",outcome="tool_error",route="/mcp",server="one",tool="other"} 2"#,
        r#"outcome="unanswered",route="/mcp",server="one",tool="other"} 3"#,
        r#"toolgate_rpc_errors_total{caller="anonymous",code="-32602",server="one",tool="other"} 2"#,
    ];
    let metrics = stage.gateway.metrics_with_all(&counted).await;
    assert!(!metrics.contains("toolgate_ejections_total"), "{metrics}");
}

#[tokio::test]
async fn an_answer_in_a_stream_counts_as_what_it_says() {
    let stage = stage(|tool| {
        let (kind, form) = tool.split_once('.').expect("a form");
        let answer = match kind {
            "ok" => OK,
            "tool_error" => TOOL_ERROR,
            "rpc_error" => RPC_ERROR,
            _ => ASKS,
        };
        let (asks, answer) = (format!("data: {ASKS}"), format!("data: {answer}"));
        match form {
            // As the SDKs of TypeScript, Python and Rust write it.
            "ts" => stream(
                &[
                    "id: 1",
                    "retry: 5",
                    "data: ",
                    "",
                    "event: message",
                    &asks,
                    "",
                    "event: message",
                    "id: 2",
                    &answer,
                    "",
                ],
                "\n",
                5,
            ),
            "py" => stream(
                &[
                    "id: 1",
                    "data: ",
                    "",
                    "event: message",
                    &asks,
                    "",
                    ": ping",
                    "",
                    "event: message",
                    &answer,
                    "",
                ],
                "\r\n",
                4,
            ),
            "rs" => stream(
                &["data: ", "id: 0/0", "retry: 3000", "", &asks, "", &answer, "id: 1/0", ""],
                "\n",
                1000,
            ),
            _ => stream(&[&asks, "", &answer, ""], "\r", 7),
        }
    })
    .await;
    let (mut tools, mut expected) = (Vec::new(), Vec::new());
    for form in ["ts", "py", "rs", "cr"] {
        for kind in ["ok", "tool_error", "rpc_error", "unanswered"] {
            tools.push(format!("{kind}.{form}"));
            expected.push(kind);
        }
    }
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    assert_eq!(outcomes(&stage, &tools).await, expected);
}

#[tokio::test]
async fn notifications_owe_no_answer() {
    let stage = Stage::mcp().await;
    let session = stage.open_session().await;
    let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    stage.ask(&Message::post(told.to_string()).field("mcp-session-id", &session)).await;
    let said = json!({ "jsonrpc": "2.0", "id": 4, "result": {} });
    stage.ask(&Message::post(said.to_string()).field("mcp-session-id", &session)).await;
    stage.ask(&Message::end(&session)).await;
    for line in stage.gateway.log(4).await {
        assert!(line.contains(r#""outcome":"ok""#), "{line}");
    }
}

#[tokio::test]
async fn repeated_calls_are_counted() {
    let stage = Stage::mcp().await;
    let call = |arguments: Value| {
        Message::modern(1, "tools/call", json!({ "name": "echo", "arguments": arguments }))
    };
    for arguments in [json!({ "a": 1 }), json!({ "a": 2 }), json!({ "a": 1 }), json!({ "a": 1 })] {
        assert_eq!(stage.ask(&call(arguments)).await.status, 200);
    }
    stage
        .gateway
        .metrics_with(r#"toolgate_repeats_total{caller="anonymous",server="one",tool="echo"} 2"#)
        .await;
}

#[tokio::test]
async fn refusals_count_by_caller_and_tool() {
    let stage = Stage::mcp().await;
    stage.ask(&Message::call(1, "echo")).await;
    // A tool has a label once a server answered a call of it, and the call was counted.
    stage.gateway.metrics_with(r#"tool="echo"} 1"#).await;
    stage.ask(&Message::legacy_call(2, "echo", "unknown")).await;
    stage.gateway.metrics_with(r#"toolgate_calls_refused_total{caller="anonymous",reason="session_unknown",server="one",tool="echo"} 1"#).await;
}

#[tokio::test]
async fn changed_lists_are_heard_on_streams_which_pass_as_they_came() {
    let changed = r#"{"method":"notifications/prompts/list_changed","jsonrpc":"2.0"}"#;
    let script = move |request: &crate::support::upstream::Request| match request.verb.as_str() {
        "GET" => vec![
            events_head(""),
            chunk("id: 1\r\ndata: {\"method\":\"notifi"),
            chunk("cations/tools/list_changed\"}\r\n\r\n"),
            event(changed),
            event(&result(&json!(7), "replayed").to_string()),
            events_end(),
        ],
        _ if request.method() == "tools/list" => {
            json_answer(200, "", &json!({ "id": 1, "result": { "tools": [{ "name": "echo" }] } }))
        }
        _ => mcp("one", request),
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let session = stage.open_session().await;
    let mut client = stage.connect().await;
    client.send(&Message::stream(&session).field("last-event-id", "0").bytes()).await;
    let body = client.answer().await.text();
    assert!(
        body.starts_with(
            "id: 1\r\ndata: {\"method\":\"notifications/tools/list_changed\"}\r\n\r\n"
        ),
        "{body}"
    );
    assert!(body.contains("replayed"), "{body}");
    let heard = ["prompts", "tools"]
        .map(|list| format!(r#"toolgate_list_changes_total{{list="{list}",server="one"}} 1"#));
    stage.gateway.metrics_with_all(&[&heard[0], &heard[1]]).await;
    let listed = stage.ask(&Message::modern(1, "tools/list", json!({}))).await;
    assert_eq!(listed.json()["result"]["tools"][0]["name"], "echo");
}
