//! Listen requests of modern clients, split and merged: one acknowledgement, one stream, one end.

use super::{Pair, SUBSCRIPTION, never, read, read_all};
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, event, events_end, events_head, json_answer, mcp,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The acknowledgement of a server that accepts all that it is asked.
pub(super) fn accepted(request: &Request) -> Value {
    let asked = request.json();
    json!({ "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
        "notifications": asked["params"]["notifications"],
        "_meta": { SUBSCRIPTION: asked["id"] } } })
}

/// A server whose listen streams begin with its acknowledgement and go on so.
async fn listening(
    name: &'static str,
    then: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
) -> Upstream {
    Upstream::start(move |request| match request.method().as_str() {
        "subscriptions/listen" => {
            let mut steps = vec![events_head(""), event(&accepted(request).to_string())];
            steps.extend(then(request));
            steps
        }
        _ => mcp(name, request),
    })
    .await
}

#[tokio::test]
async fn a_listen_request_is_split_and_acknowledged_once() {
    let updated = |request: &Request, uri: &str| {
        event(
            &json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {
            "uri": uri, "_meta": { SUBSCRIPTION: request.json()["id"] } } })
            .to_string(),
        )
    };
    let one = listening("one", move |request| vec![updated(request, "file:///a"), never()]).await;
    let two = listening("two", move |request| vec![updated(request, "file:///b"), never()]).await;
    let pair = Pair::new(one, two).await;
    let filter = json!({
        "toolsListChanged": true,
        "resourceSubscriptions": ["one+file:///a", "two+file:///b", "file:///nobodys"],
        "taskIds": ["nobodys"],
    });
    let message = json!({ "notifications": filter, "x-more": 1.50 });
    let mut client = pair.begin(&Message::modern("L", "subscriptions/listen", message)).await;
    let head = client.head().await;
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    let events = read(
        &read_all(&mut client, &[r#""uri":"one+file:///a""#, r#""uri":"two+file:///b""#]).await,
    );
    let mut seen = String::new();
    for (_, said) in &events {
        assert_eq!(said["params"]["_meta"][SUBSCRIPTION], "L", "{said}");
        seen.push_str(said["params"]["uri"].as_str().unwrap_or_default());
    }
    let acknowledged = &events[0].1;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    let union = json!({
        "toolsListChanged": true,
        "resourceSubscriptions": ["one+file:///a", "two+file:///b"],
    });
    assert_eq!(acknowledged["params"]["notifications"], union);
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(["one+file:///atwo+file:///b", "two+file:///bone+file:///a"].contains(&&*seen));
    for (upstream, own) in [(&pair.one, "file:///a"), (&pair.two, "file:///b")] {
        let asked = upstream.take().pop().expect("a listen request");
        let filter = json!({ "toolsListChanged": true, "resourceSubscriptions": [own] });
        assert_eq!(asked.json()["params"]["notifications"], filter);
        assert!(String::from_utf8_lossy(&asked.body).contains(r#""x-more":1.5"#));
        assert_eq!(asked.field("mcp-method"), Some("subscriptions/listen"));
        assert_eq!(asked.field("mcp-protocol-version"), Some("2026-07-28"));
    }
    drop(client);
    assert!(pair.one.left(1).await && pair.two.left(1).await, "both are closed");
}

#[tokio::test]
async fn a_server_with_nothing_of_a_filter_is_not_asked() {
    let one = listening("one", |_| vec![never()]).await;
    let pair = Pair::new(one, Upstream::mcp("two").await).await;
    let filter = json!({ "notifications": { "resourceSubscriptions": ["one+file:///a"] } });
    let mut client = pair.begin(&Message::modern(7, "subscriptions/listen", filter)).await;
    client.body_after_head("acknowledged").await;
    assert_eq!((pair.one.take().len(), pair.two.take().len()), (1, 0));
    let wrong = json!({ "notifications": { "resourceSubscriptions": "one+file:///a" } });
    let refused = pair.ask(&Message::modern(8, "subscriptions/listen", wrong)).await;
    assert_eq!((refused.status, refused.code()), (400, -32602));
    assert!(pair.one.bytes().is_empty());
}

#[tokio::test]
async fn a_server_that_stops_telling_is_asked_again() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    let one = listening("one", move |request| {
        if counted.fetch_add(1, Ordering::Relaxed) > 0 {
            return vec![never()];
        }
        let (id, about) = (&request.json()["id"], json!({ SUBSCRIPTION: request.json()["id"] }));
        let over = json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete", "_meta": about } });
        vec![event(&over.to_string()), events_end()]
    })
    .await;
    let pair = Pair::new(one, listening("two", |_| vec![never()]).await).await;
    let filter = json!({ "notifications": { "promptsListChanged": true } });
    let mut client = pair.begin(&Message::modern(7, "subscriptions/listen", filter)).await;
    assert_eq!(client.head().await.status, 200);
    let seen = read_all(&mut client, &["acknowledged", "prompts/list_changed"]).await;
    let events = read(&seen);
    assert_eq!(events.len(), 2, "{seen}");
    assert_eq!(events[1].1["params"]["_meta"][SUBSCRIPTION], 7);
    assert_eq!((pair.one.take().len(), pair.two.take().len()), (2, 1));
}

#[tokio::test]
async fn where_nobody_knows_the_method_the_client_is_told() {
    let unknown = || {
        Upstream::start(|request| {
            let error = json!({ "code": -32601, "message": "method not found" });
            let id = &request.json()["id"];
            json_answer(404, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
        })
    };
    let filter = json!({ "notifications": { "toolsListChanged": true } });
    let message = Message::modern(7, "subscriptions/listen", filter);
    let pair = Pair::new(unknown().await, unknown().await).await;
    let refused = pair.ask(&message).await;
    assert_eq!((refused.status, refused.code()), (404, -32601), "{}", refused.text());
    assert_eq!(refused.json()["id"], 7);
    // One that does is enough.
    let pair = Pair::new(unknown().await, listening("two", |_| vec![never()]).await).await;
    let mut client = pair.begin(&message).await;
    let seen = client.body_after_head("acknowledged").await;
    let acknowledged = &read(&seen)[0].1["params"]["notifications"];
    assert_eq!(*acknowledged, json!({ "toolsListChanged": true }));
}
