//! The rules of the specification, by revision; each test is named by its rule.

mod modern;
mod legacy;

use crate::support::Stage;
use crate::support::http2::Http2;
use crate::support::message::Message;
use serde_json::Value;

/// Sends a message over both versions of HTTP; a refusal has `code` and the request's id, and the
/// server sees nothing of it.
async fn refused(stage: &Stage, rule: &str, message: &Message, status: u16, code: i64, id: &Value) {
    let mut http2 = Http2::connect(stage.gateway.address).await;
    let answers = [
        ("HTTP/1.1", stage.ask(message).await),
        ("HTTP/2", http2.ask(message).await.expect("an answer over HTTP/2")),
    ];
    for (version, answer) in answers {
        let found = (answer.status, answer.code());
        assert_eq!(found, (status, code), "{rule} over {version}: {}", answer.text());
        assert_eq!(&answer.json()["id"], id, "{rule} over {version}: {}", answer.text());
    }
    stage.is_unharmed(rule).await;
}

/// Sends a message over both versions of HTTP; the server sees it and its answer comes back.
async fn served(stage: &Stage, rule: &str, message: &Message, status: u16) {
    let mut http2 = Http2::connect(stage.gateway.address).await;
    let answers = [
        ("HTTP/1.1", stage.ask(message).await),
        ("HTTP/2", http2.ask(message).await.expect("an answer over HTTP/2")),
    ];
    for (version, answer) in answers {
        assert_eq!(answer.status, status, "{rule} over {version}: {}", answer.text());
    }
    let seen = stage.upstream.take();
    assert_eq!(seen.len(), 2, "{rule}");
    assert!(seen.iter().all(|request| request.body == message.body), "{rule}");
}
