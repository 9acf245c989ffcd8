//! 2026-07-28: every request stands alone, and its headers say what its body says.

use super::{refused, served};
use crate::support::Stage;
use crate::support::message::{Message, claims};
use serde_json::{Value, json};

const MISMATCH: i64 = -32020;
const UNSUPPORTED: i64 = -32022;
const PARAMS: i64 = -32602;
const NO_METHOD: i64 = -32601;

fn call() -> Message {
    Message::call(7, "echo")
}

/// A call whose `_meta` lacks one claim.
fn without_claim(name: &str) -> Message {
    let mut claims = claims();
    claims.as_object_mut().expect("claims").remove(&format!("io.modelcontextprotocol/{name}"));
    let params = json!({ "name": "echo", "_meta": claims });
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
    call().with_body(body.to_string())
}

#[tokio::test]
async fn header_and_body_must_agree_or_32020() {
    let stage = Stage::mcp().await;
    let rows = [
        ("no version header", call().without("mcp-protocol-version")),
        ("version of another era", call().field("mcp-protocol-version", "2025-11-25")),
        ("no method header", call().without("mcp-method")),
        ("another method", call().field("mcp-method", "tools/list")),
        ("method in another case", call().field("mcp-method", "Tools/Call")),
        ("empty method", call().field("mcp-method", "")),
        ("no name header", call().without("mcp-name")),
        ("another name", call().field("mcp-name", "other")),
        ("name in another case", call().field("mcp-name", "Echo")),
        ("another name, encoded", call().field("mcp-name", "=?base64?b3RoZXI=?=")),
        ("bad base64", call().field("mcp-name", "=?base64?*?=")),
        ("base64 of no text", call().field("mcp-name", "=?base64?/w==?=")),
        ("base64 without padding", call().field("mcp-name", "=?base64?ZWNobwo?=")),
        ("markers in capitals", call().field("mcp-name", "=?BASE64?ZWNobw==?=")),
        ("half a marker", call().field("mcp-name", "=?base64?ZWNobw==")),
    ];
    for (rule, message) in rows {
        refused(&stage, rule, &message, 400, MISMATCH, &json!(7)).await;
    }
    for (method, key) in [
        ("prompts/get", "name"),
        ("resources/read", "uri"),
        ("tasks/get", "taskId"),
        ("tasks/update", "taskId"),
        ("tasks/cancel", "taskId"),
    ] {
        let message = Message::modern(7, method, json!({ key: "a" }));
        refused(&stage, method, &message.clone().without("mcp-name"), 400, MISMATCH, &json!(7))
            .await;
        refused(&stage, method, &message.clone().field("mcp-name", "b"), 400, MISMATCH, &json!(7))
            .await;
        served(&stage, method, &message, 200).await;
    }
}

#[tokio::test]
async fn doubled_routing_headers_are_32020() {
    let stage = Stage::mcp().await;
    let rows = [
        ("mcp-name", "echo"),
        ("mcp-name", "other"),
        ("Mcp-Name", "echo"),
        ("mcp-method", "tools/call"),
        ("mcp-method", "tools/list"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-protocol-version", "2025-11-25"),
    ];
    for (name, value) in rows {
        let rule = format!("{name} twice");
        refused(&stage, &rule, &call().and(name, value), 400, MISMATCH, &Value::Null).await;
    }
}

#[tokio::test]
async fn headers_beyond_ascii_are_32020() {
    let stage = Stage::mcp().await;
    for name in ["mcp-name", "mcp-method", "mcp-protocol-version"] {
        let answer = stage.ask(&call().field(name, "\u{e9}cho")).await;
        assert_eq!((answer.status, answer.code()), (400, MISMATCH), "{name}: {}", answer.text());
        stage.is_unharmed(name).await;
    }
}

#[tokio::test]
async fn claims_must_be_there_or_32602() {
    let stage = Stage::mcp().await;
    for claim in ["protocolVersion", "clientCapabilities"] {
        refused(&stage, claim, &without_claim(claim), 400, PARAMS, &json!(7)).await;
    }
    let bare =
        json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "echo" } });
    refused(&stage, "no _meta", &call().with_body(bare.to_string()), 400, PARAMS, &json!(7)).await;
    let nameless = Message::modern(7, "tools/call", json!({})).field("mcp-name", "echo");
    refused(&stage, "no name in params", &nameless, 400, PARAMS, &json!(7)).await;
}

#[tokio::test]
async fn unknown_revisions_are_32022_with_those_supported() {
    let stage = Stage::mcp().await;
    for version in ["2027-01-01", "2026-07-29", "1", "DRAFT-2026", "2026-07-28 "] {
        let mut message = call().field("mcp-protocol-version", version);
        let body = String::from_utf8(message.body).expect("text").replace("2026-07-28", version);
        message.body = body.into_bytes();
        let answer = stage.ask(&message).await;
        // A space at the end of a header is no part of its value.
        let code = if version.ends_with(' ') { MISMATCH } else { UNSUPPORTED };
        assert_eq!((answer.status, answer.code()), (400, code), "{version}: {}", answer.text());
        if code == UNSUPPORTED {
            let error = &answer.json()["error"]["data"];
            assert_eq!(error["requested"], version);
            assert!(
                error["supported"].as_array().is_some_and(|all| all.contains(&json!("2026-07-28")))
            );
        }
        assert_eq!(answer.json()["id"], 7);
        stage.is_unharmed(version).await;
    }
}

#[tokio::test]
async fn removed_methods_are_404_and_32601() {
    let stage = Stage::mcp().await;
    for method in
        ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"]
    {
        let message = Message::modern(7, method, json!({ "uri": "a" })).without("mcp-name");
        refused(&stage, method, &message, 404, NO_METHOD, &json!(7)).await;
    }
}

#[tokio::test]
async fn clients_send_no_responses_and_no_batches() {
    let stage = Stage::mcp().await;
    let response = call().without("mcp-method").without("mcp-name");
    let response = response.with_body(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
    let answer = stage.ask(&response).await;
    assert_eq!((answer.status, answer.code()), (400, -32600));
    stage.is_unharmed("a response").await;
    let batch = format!("[{}]", String::from_utf8(call().body).expect("text"));
    refused(&stage, "a batch", &call().with_body(batch), 400, -32600, &Value::Null).await;
}

#[tokio::test]
async fn what_agrees_is_served() {
    let stage = Stage::mcp().await;
    let notification =
        json!({ "jsonrpc": "2.0", "method": "notifications/x", "params": { "_meta": claims() } });
    let rows = [
        ("plain", call(), 200),
        ("encoded name", call().field("mcp-name", "=?base64?ZWNobw==?="), 200),
        (
            "a name where none is needed",
            Message::modern(7, "tools/list", json!({})).and("mcp-name", "x"),
            200,
        ),
        ("a session id is ignored", call().and("mcp-session-id", "whatever"), 200),
        ("an unknown method", Message::modern(7, "skills/list", json!({})), 200),
        ("server/discover", Message::modern("probe", "server/discover", json!({})), 200),
        ("a parameter header", call().and("mcp-param-region", "eu"), 200),
        ("a query", call().at("/mcp?x=1"), 200),
        (
            "a notification",
            Message::post(notification.to_string())
                .field("mcp-protocol-version", "2026-07-28")
                .field("mcp-method", "notifications/x"),
            202,
        ),
    ];
    for (rule, message, status) in rows {
        served(&stage, rule, &message, status).await;
    }
    // HTTP/2 allows no spaces around a value.
    let spaced = stage.ask(&call().field("mcp-name", "  echo\t")).await;
    assert_eq!(spaced.status, 200);
}

#[tokio::test]
async fn names_beyond_ascii_are_encoded() {
    let stage = Stage::mcp().await;
    let name = "gr\u{fc}\u{df}e \u{1f600}";
    let message = Message::modern(7, "tools/call", json!({ "name": name }));
    let encoded = message.field("mcp-name", "=?base64?Z3LDvMOfZSDwn5iA?=");
    served(&stage, "encoded", &encoded, 200).await;
}

#[tokio::test]
async fn only_post_is_served() {
    let stage = Stage::mcp().await;
    for verb in ["GET", "DELETE"] {
        let message =
            Message { verb, ..Message::stream("x").field("mcp-protocol-version", "2026-07-28") };
        let answer = stage.ask(&message).await;
        assert_eq!((answer.status, answer.field("allow")), (405, Some("POST, OPTIONS")), "{verb}");
        stage.is_unharmed(verb).await;
    }
    for verb in ["PUT", "PATCH", "TRACE", "HEAD", "PROPFIND"] {
        let mut client = stage.connect().await;
        client.send(&Message { verb, ..call() }.head()).await;
        let answer = client.head().await;
        assert_eq!(answer.status, 405, "{verb}");
        assert_eq!(answer.field("allow"), Some("GET, POST, DELETE, OPTIONS"), "{verb}");
        stage.is_unharmed(verb).await;
    }
}

#[tokio::test]
async fn media_types_are_json_in_and_both_out() {
    let stage = Stage::mcp().await;
    let both = "application/json, text/event-stream";
    let rows = [
        (call().without("content-type"), 415),
        (call().field("content-type", "text/plain"), 415),
        (call().field("content-type", "application/json; charset=utf-16"), 415),
        (call().field("content-type", "application/jsonp"), 415),
        (call().and("content-encoding", "gzip"), 415),
        (call().without("accept"), 406),
        (call().field("accept", "application/json"), 406),
        (call().field("accept", "text/event-stream"), 406),
        (call().field("accept", "text/html"), 406),
    ];
    for (message, status) in rows {
        let rule = format!("{:?}", message.fields);
        refused(&stage, &rule, &message, status, i64::from(status), &Value::Null).await;
    }
    for message in [
        call().field("content-type", "Application/JSON; Charset=UTF-8"),
        call().field("accept", "*/*"),
        call().field("accept", "text/*;q=0.1,application/*"),
        call()
            .without("accept")
            .and("accept", "application/json")
            .and("accept", "text/event-stream"),
        call().field("accept", &both.to_uppercase()),
    ] {
        served(&stage, "media types", &message, 200).await;
    }
}

#[tokio::test]
async fn paths_are_compared_letter_by_letter() {
    let stage = Stage::mcp().await;
    for path in [
        "/",
        "/mcp/",
        "/MCP",
        "//mcp",
        "/x/../mcp",
        "/./mcp",
        "/%6dcp",
        "/mcp;a=b",
        "/mcp%00",
        "/mcp%2f",
    ] {
        refused(&stage, path, &call().at(path), 404, 404, &Value::Null).await;
    }
}
