//! How one stream made of several ends, and that HTTP/2 clients are given the same.

use super::{Pair, gets, methods, never, streaming, telling, told};
use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::http2::Http2;
use crate::support::idp::{Idp, Key, PUBLIC_URL, in_seconds};
use crate::support::message::Message;
use crate::support::upstream::{Step, Upstream, chunk, events_end, events_head};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A gateway in front of two servers whose streams may be silent so long.
async fn patient(one: &Upstream, two: &Upstream, idle: [&str; 2]) -> Gateway {
    let server = |name: &str, of: &Upstream, idle: &str| {
        let timeouts = format!("timeouts: {{ stream_idle: {idle} }}");
        format!("  {name}: {{ endpoints: [{}], {timeouts} }}\n", of.url())
    };
    let servers = [server("one", one, idle[0]), server("two", two, idle[1])].concat();
    let members = "[{ name: one, prefix: one_ }, { name: two, prefix: two_ }]";
    let route = format!("routes: [{{ path: /mcp, servers: {members} }}]\n");
    Gateway::start(&format!("servers:\n{servers}{route}")).await
}

#[tokio::test]
async fn a_stream_in_which_nobody_says_anything_ends_with_the_most_patient_server() {
    let (one, two) = (telling("one").await, telling("two").await);
    let gateway = patient(&one, &two, ["200ms", "1500ms"]).await;
    let ask = async |message: &Message| {
        crate::support::client::exchange(gateway.address, &message.bytes()).await
    };
    let session = ask(&Message::initialize()).await.session();
    let mut client = Client::connect(gateway.address).await;
    let began = Instant::now();
    client.send(&Message::stream(&session).bytes()).await;
    client.body_after_head("retry: ").await;
    assert!(began.elapsed() >= Duration::from_millis(1500), "one that may be silent longer");
    while client.part().await.is_some() {}
    assert!(client.body_is_whole(), "a clean end");
    assert!(one.left(1).await && two.left(1).await, "nobody listens any more");
    // The session goes on, and so does its stream.
    let mut again = Client::connect(gateway.address).await;
    again.send(&Message::stream(&session).bytes()).await;
    again.body_after_head("\"two\"").await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_goes_on_with_the_next() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let identity = idp.jwt("").replacen("jwt: [{", "jwt: [{ leeway: 0s,", 1);
    let (one, two) = (telling("one").await, telling("two").await);
    let members = "[{ name: one, prefix: one_ }, { name: two, prefix: two_ }]";
    let gateway = Gateway::start(&format!(
        "servers: {{ one: {{ endpoints: [{}] }}, two: {{ endpoints: [{}] }} }}
routes: [{{ path: /mcp, servers: {members}, public_url: {PUBLIC_URL} }}]
identity: {{ {identity} }}\n",
        one.url(),
        two.url()
    ))
    .await;
    let token = |ends_s: u64| {
        let mut claims = idp.claims("ann");
        claims["exp"] = json!(ends_s);
        key.sign(&claims)
    };
    let by =
        |token: &str, message: Message| message.field("authorization", &format!("Bearer {token}"));
    let long = token(in_seconds(600));
    let initialize = by(&long, Message::initialize()).bytes();
    let session = crate::support::client::exchange(gateway.address, &initialize).await.session();
    let ends_s = in_seconds(5);
    let mut ending = Client::connect(gateway.address).await;
    ending.send(&by(&token(ends_s), Message::stream(&session)).bytes()).await;
    ending.body_after_head("\"two\"").await;
    ending.body_with("retry: ").await;
    assert!(in_seconds(0) >= ends_s, "not before its time");
    while ending.part().await.is_some() {}
    assert!(ending.body_is_whole(), "a clean end");
    assert!(one.left(1).await && two.left(1).await, "nobody listens any more");
    let mut again = Client::connect(gateway.address).await;
    again.send(&by(&long, Message::stream(&session)).bytes()).await;
    again.body_after_head("\"two\"").await;
}

#[tokio::test]
async fn http2_clients_have_one_stream_too() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let one = streaming("one", move |_| {
        let event = format!("id: 1\ndata: {}\n\n", told("later"));
        vec![events_head(""), Step::Wait(Arc::clone(&waits)), chunk(&event), never()]
    })
    .await;
    let two = streaming("two", |request| match request.field("last-event-id") {
        None => vec![events_head(""), chunk(&format!("id: 7\ndata: {}\n\n", told("two"))), never()],
        Some(_) => vec![events_head(""), events_end()],
    })
    .await;
    let pair = Pair::new(one, two).await;
    let mut http2 = Http2::connect(pair.gateway.address).await;
    let session = http2.ask(&Message::initialize()).await.expect("an answer").session();
    pair.one.take();
    pair.two.take();
    let mut stream = http2.begin(&Message::stream(&session)).await.expect("a stream");
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.field("content-type"), Some("text/event-stream"));
    let mut seen = String::new();
    for wanted in ["\"two\"", "\"later\""] {
        while !seen.contains(wanted) {
            let part = stream.part().await.expect("no fault").expect("no end");
            seen.push_str(std::str::from_utf8(&part).expect("text"));
        }
        gate.add_permits(1);
    }
    assert_eq!(methods(&seen), ["notifications/message", "notifications/message"], "{seen}");
    // Calls on the same connection go on beside it.
    let call = Message::legacy_call(5, "one_echo", &session);
    assert_eq!(http2.ask(&call).await.expect("an answer").status, 200);
    drop(stream);
    assert!(pair.one.left(1).await && pair.two.left(1).await, "nobody listens any more");
    // Where it was is in the id of its last event.
    pair.one.take();
    pair.two.take();
    let id = super::read(&seen).into_iter().find(|(_, event)| event["params"]["data"] == "two");
    let (id, _) = id.expect("the event of the second server");
    let resumed = Message::stream(&session).field("last-event-id", &id);
    let _stream = http2.begin(&resumed).await.expect("a stream");
    let resumed = gets(&pair.two, 1).await;
    assert_eq!(resumed[0].field("last-event-id"), Some("7"));
}
