//! 2025-11-25 and before: sessions, streams, and headers that may be missing but never lie.

use super::{refused, served};
use crate::support::Stage;
use crate::support::message::Message;
use serde_json::{Value, json};

fn call() -> Message {
    Message::legacy_call(7, "echo", "").without("mcp-session-id")
}

#[tokio::test]
async fn headers_may_be_missing_but_never_lie() {
    let stage = Stage::mcp().await;
    let rows = [
        ("another method", call().field("mcp-method", "tools/list"), -32020),
        ("another name", call().field("mcp-name", "other"), -32020),
        ("bad base64", call().field("mcp-name", "=?base64?*?="), -32020),
        ("unknown revision", call().field("mcp-protocol-version", "2025-13-13"), -32022),
    ];
    for (rule, message, code) in rows {
        refused(&stage, rule, &message, 400, code, &json!(7)).await;
    }
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        served(&stage, version, &call().field("mcp-protocol-version", version), 200).await;
    }
    served(&stage, "no version", &call(), 200).await;
    served(
        &stage,
        "mirrored",
        &call().field("mcp-method", "tools/call").field("mcp-name", "echo"),
        200,
    )
    .await;
    served(&stage, "ping", &Message::legacy("p", "ping", &json!({})), 200).await;
}

#[tokio::test]
async fn notifications_and_responses_are_passed_on() {
    let stage = Stage::mcp().await;
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}"#,
    ] {
        served(&stage, body, &Message::post(body), 202).await;
    }
}

#[tokio::test]
async fn a_refused_response_answers_no_request() {
    // Its id is the server's: a client could take the error for the answer to a request of its own.
    let stage = Stage::mcp().await;
    let response = Message::post(r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#);
    let unknown = response.clone().field("mcp-session-id", "unknown");
    refused(&stage, "unknown session", &unknown, 404, 404, &Value::Null).await;
    let lying = response.field("mcp-method", "tools/call");
    refused(&stage, "a method that is none", &lying, 400, -32020, &Value::Null).await;
}

#[tokio::test]
async fn streams_and_ends_need_a_session() {
    let stage = Stage::mcp().await;
    for message in
        [Message::stream("").without("mcp-session-id"), Message::end("").without("mcp-session-id")]
    {
        let answer = stage.ask(&message).await;
        assert_eq!((answer.status, answer.field("allow")), (405, Some("POST, OPTIONS")));
        stage.is_unharmed(message.verb).await;
    }
    let session = stage.open_session().await;
    for accept in ["application/json", "text/html", ""] {
        refused(
            &stage,
            "Accept",
            &Message::stream(&session).field("accept", accept),
            406,
            406,
            &Value::Null,
        )
        .await;
    }
    for name in ["mcp-session-id", "last-event-id", "mcp-protocol-version"] {
        let message = Message::stream(&session).and(name, "1").and(name, "2");
        assert_eq!(stage.ask(&message).await.status, 400, "{name} twice");
        stage.is_unharmed(name).await;
    }
}
