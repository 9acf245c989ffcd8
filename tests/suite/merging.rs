//! One stream made of those of several servers: GET of a legacy session, and modern listen requests.

mod ending;
mod listening;

use crate::support::client::{self, Answer, Client};
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, chunk, event, events_end, events_head, json_answer, mcp, plain,
};
use listening::accepted;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// A gateway in front of two servers, shown as one.
struct Pair {
    gateway: Gateway,
    one: Upstream,
    two: Upstream,
}

impl Pair {
    async fn new(one: Upstream, two: Upstream) -> Self {
        Self::with(one, two, "").await
    }

    /// The same with more configuration.
    async fn with(one: Upstream, two: Upstream, more: &str) -> Self {
        let servers = [("one", &one), ("two", &two)];
        let servers = servers.map(|(name, of)| format!("{name}: {{ endpoints: [{}] }}", of.url()));
        let members = "[{ name: one, prefix: one_ }, { name: two, prefix: two_ }]";
        let gateway = Gateway::start(&format!(
            "servers: {{ {} }}\nroutes: [{{ path: /mcp, servers: {members} }}]\n{more}",
            servers.join(", ")
        ))
        .await;
        Self { gateway, one, two }
    }

    async fn ask(&self, message: &Message) -> Answer {
        client::exchange(self.gateway.address, &message.bytes()).await
    }

    /// Opens a session at both, and forgets how.
    async fn open_session(&self) -> String {
        let session = self.ask(&Message::initialize()).await.session();
        let opened = [self.one.take(), self.two.take()];
        assert!(opened.iter().all(|seen| seen.len() == 2), "{opened:#?}");
        session
    }

    async fn begin(&self, message: &Message) -> Client {
        let mut client = Client::connect(self.gateway.address).await;
        client.send(&message.bytes()).await;
        client
    }
}

/// A server whose GET streams take these steps.
async fn streaming(
    name: &'static str,
    stream: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
) -> Upstream {
    Upstream::start(move |request| match request.verb.as_str() {
        "GET" => stream(request),
        _ => mcp(name, request),
    })
    .await
}

/// What never comes.
fn never() -> Step {
    Step::Wait(Arc::new(Semaphore::new(0)))
}

fn told(text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "data": text } })
}

/// A server whose GET streams tell one thing, and last.
async fn telling(name: &'static str) -> Upstream {
    let event = format!("id: 1\ndata: {}\n\n", told(name));
    streaming(name, move |_| vec![events_head(""), chunk(&event), never()]).await
}

/// The ids and the messages of a stream.
fn read(stream: &str) -> Vec<(String, Value)> {
    let of = |event: &str, name: &str| {
        let value = event.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(String::new(), |value| value.trim_start().to_owned())
    };
    let events = stream.split("\n\n").filter(|event| event.contains("data:"));
    let read = |event: &str| {
        let message = serde_json::from_str(&of(event, "data:")).expect("a whole message");
        (of(event, "id:"), message)
    };
    events.map(read).collect()
}

fn methods(stream: &str) -> Vec<String> {
    let method =
        |(_, message): &(String, Value)| message["method"].as_str().unwrap_or_default().to_owned();
    read(stream).iter().map(method).collect()
}

async fn gets(upstream: &Upstream, count: usize) -> Vec<Request> {
    assert!(upstream.reached(count).await);
    let mut seen = upstream.take();
    seen.retain(|request| request.verb == "GET");
    seen
}

/// Reads until all of these are there.
async fn read_all(client: &mut Client, wanted: &[&str]) -> String {
    let mut seen = String::new();
    while let Some(missing) = wanted.iter().find(|wanted| !seen.contains(**wanted)) {
        let part = client.part().await;
        let part = part.unwrap_or_else(|| panic!("the stream ended without {missing}: {seen}"));
        seen.push_str(&String::from_utf8(part).expect("text"));
    }
    seen
}

#[tokio::test]
async fn events_of_both_come_with_ids_that_lead_back() {
    let pair = Pair::new(telling("one").await, telling("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    let head = client.head().await;
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.field("cache-control"), Some("no-store"));
    let events = read(&read_all(&mut client, &[r#""one""#, r#""two""#]).await);
    assert_eq!(events.len(), 2, "{events:?}");
    for (upstream, name) in [(&pair.one, "one"), (&pair.two, "two")] {
        let seen = gets(upstream, 1).await;
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].field("mcp-session-id"), Some(&*format!("{name}-session")));
        assert_eq!(seen[0].field("mcp-protocol-version"), Some("2025-11-25"));
        assert_eq!(seen[0].field("last-event-id"), None);
    }
    let id_of = |name: &str| {
        let (id, _) = events.iter().find(|(_, said)| *said == told(name)).expect("its event");
        id.clone()
    };
    let ids = [id_of("one"), id_of("two")];
    assert!(ids.iter().all(|id| id.len() == 10 && id.ends_with(".1")) && ids[0] != ids[1]);
    drop(client);
    assert!(pair.one.left(1).await && pair.two.left(1).await, "both are closed");
    // The one whose event was the last goes on after it; of the other something may be missed.
    let message = Message::stream(&session).field("last-event-id", &ids[1]);
    let mut client = pair.begin(&message).await;
    assert_eq!(client.head().await.status, 200);
    let last = "notifications/resources/list_changed";
    let again = read_all(&mut client, &[r#""one""#, r#""two""#, last]).await;
    assert_eq!(methods(&again).len(), 5, "{again}");
    assert_eq!(gets(&pair.one, 1).await[0].field("last-event-id"), None);
    assert_eq!(gets(&pair.two, 1).await[0].field("last-event-id"), Some("1"));
    let log = pair.gateway.log(2).await;
    assert!(log[1].contains(r#""outcome":"cancelled""#), "{log:#?}");
}

#[tokio::test]
async fn what_servers_ask_is_answered_to_the_one_that_asked() {
    let asking = |name| {
        let ask = r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#;
        streaming(name, move |_| vec![events_head(""), event(ask), never()])
    };
    let pair = Pair::new(asking("one").await, asking("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    let mut seen = client.body_with("roots/list").await;
    while methods(&seen).len() < 2 {
        seen.push_str(&client.body_with("\n\n").await);
    }
    let mut ids: Vec<String> = Vec::new();
    for (_, ask) in read(&seen) {
        ids.push(ask["id"].as_str().expect("a sealed id").to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    gets(&pair.one, 1).await;
    gets(&pair.two, 1).await;
    let mut asked = Vec::new();
    for id in &ids {
        let answer = json!({ "jsonrpc": "2.0", "id": id, "result": { "roots": [] } });
        let answer = Message::post(answer.to_string()).field("mcp-session-id", &session);
        let taken = pair.ask(&answer).await;
        assert_eq!(taken.status, 202, "{}", taken.text());
        let (one, two) = (pair.one.take(), pair.two.take());
        assert_eq!(one.len() + two.len(), 1, "only who asked is answered");
        let (name, got) = if two.is_empty() { ("one", &one[0]) } else { ("two", &two[0]) };
        assert_eq!(got.json(), json!({ "jsonrpc": "2.0", "id": 5, "result": { "roots": [] } }));
        assert_eq!(got.field("mcp-session-id"), Some(&*format!("{name}-session")));
        asked.push(name);
    }
    asked.sort_unstable();
    assert_eq!(asked, ["one", "two"]);
}

#[tokio::test]
async fn who_has_no_stream_is_not_asked_again() {
    let without = |name| streaming(name, |_| vec![plain(405, "allow: POST\r\n", b"")]);
    let pair = Pair::new(without("one").await, telling("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    client.body_after_head(r#""two""#).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(gets(&pair.one, 1).await.len(), 1);
    drop(client);
    let pair = Pair::new(without("one").await, without("two").await).await;
    let session = pair.open_session().await;
    let refused = pair.ask(&Message::stream(&session)).await;
    assert_eq!((refused.status, refused.field("allow")), (405, Some("POST, DELETE, OPTIONS")));
}

#[tokio::test]
async fn a_server_that_says_nothing_delays_nobody() {
    let slow = streaming("one", |_| vec![never()]).await;
    let gate = Arc::new(Semaphore::new(0));
    let gated = Arc::clone(&gate);
    let event = format!("id: 1\ndata: {}\n\n", told("two"));
    let quick = streaming("two", move |_| {
        vec![events_head(""), chunk(&event), Step::Wait(Arc::clone(&gated)), chunk(&event), never()]
    })
    .await;
    let pair = Pair::new(slow, quick).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    client.body_after_head(r#""two""#).await;
    gate.add_permits(1);
    client.body_with(r#""two""#).await;
    drop(client);
    assert!(pair.one.left(1).await && pair.two.left(1).await);
    // Where nobody says anything, the client learns soon that its stream is open.
    let quiet = |name| streaming(name, |_| vec![never()]);
    let pair = Pair::new(quiet("one").await, quiet("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
}

#[tokio::test]
async fn a_stream_that_is_lost_is_opened_again_behind_the_clients_back() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    let one = streaming("one", move |_| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let event = format!("id: {number}\ndata: {}\n\n", told(&format!("stream {number}")));
        match number {
            // It ends, and then in the middle of an event.
            0 => vec![events_head(""), chunk(&event), events_end()],
            1 => vec![events_head(""), chunk(&event), chunk("data: {\"a\":"), Step::Close],
            _ => vec![events_head(""), chunk(&event), never()],
        }
    })
    .await;
    let pair = Pair::new(one, telling("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    let seen = read_all(&mut client, &["stream 0", "stream 1", "stream 2", r#""two""#]).await;
    // It goes on after the last event, so that nothing is missed, and nothing needs to be told.
    assert_eq!(methods(&seen), ["notifications/message"; 4], "{seen}");
    let seen = gets(&pair.one, 3).await;
    let resumed: Vec<_> = seen.iter().map(|request| request.field("last-event-id")).collect();
    assert_eq!(resumed, [None, Some("0"), Some("1")]);
    assert_eq!(gets(&pair.two, 1).await.len(), 1);
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_is_heard_again() {
    let pair = Pair::new(telling("one").await, telling("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    read_all(&mut client, &[r#""one""#, r#""two""#]).await;
    let Pair { gateway: _gateway, one, two: _two } = pair;
    let address = one.address;
    drop(one);
    tokio::time::sleep(Duration::from_millis(200)).await;
    // It has forgotten its sessions.
    let back = Upstream::start_at(address, |request| {
        let is_known = request.field("mcp-session-id") == Some("new-session");
        match request.verb.as_str() {
            "POST" if request.method() == "initialize" => mcp("new", request),
            _ if !is_known => vec![plain(404, "", b"")],
            "GET" => vec![events_head(""), event(&told("back").to_string()), never()],
            _ => mcp("new", request),
        }
    })
    .await;
    let seen = read_all(&mut client, &["back", "notifications/resources/list_changed"]).await;
    let lists = methods(&seen).iter().filter(|method| method.ends_with("list_changed")).count();
    assert_eq!(lists, 3, "{seen}");
    let opened: Vec<String> = back.take().iter().map(Request::method).collect();
    assert!(opened.contains(&"initialize".to_owned()), "{opened:?}");
}

#[tokio::test]
async fn a_gateway_that_stops_ends_streams_between_events() {
    let serving = |name: &'static str| {
        let told = told(name).to_string();
        Upstream::start(move |request| match (request.verb.as_str(), &*request.method()) {
            ("GET", _) => vec![events_head(""), event(&told), never()],
            (_, "subscriptions/listen") => {
                vec![events_head(""), event(&accepted(request).to_string()), never()]
            }
            _ => mcp(name, request),
        })
    };
    let mut pair = Pair::new(serving("one").await, serving("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    read_all(&mut client, &[r#""one""#, r#""two""#]).await;
    let listen = json!({ "notifications": { "toolsListChanged": true } });
    let mut listener = pair.begin(&Message::modern("L", "subscriptions/listen", listen)).await;
    listener.body_after_head("acknowledged").await;
    pair.gateway.signal("TERM");
    client.body_with("retry:").await;
    assert_eq!(client.part().await, None);
    assert!(client.body_is_whole());
    let last = read(&listener.body_with("result").await).pop().expect("the result").1;
    assert_eq!((&last["id"], &last["result"]["_meta"][SUBSCRIPTION]), (&json!("L"), &json!("L")));
    assert_eq!(listener.part().await, None);
    assert!(listener.body_is_whole());
    assert_eq!(pair.gateway.ended().await, Some(0));
    let log = pair.gateway.log(3).await;
    let is_ok = |line: &&String| line.contains(r#""outcome":"ok""#);
    assert_eq!(log.iter().filter(is_ok).count(), 3, "{log:#?}");
}

#[tokio::test]
async fn an_event_that_passes_in_parts_is_not_mixed_with_others() {
    let large = told(&"x".repeat(3 << 20)).to_string();
    let expected = large.clone();
    let one = streaming("one", move |_| {
        let event = format!("data: {large}\n\n");
        let mut steps = vec![events_head("")];
        for part in event.as_bytes().chunks(200_000) {
            steps.push(chunk(std::str::from_utf8(part).expect("text")));
            steps.push(Step::Pause(Duration::from_millis(10)));
        }
        steps.push(never());
        steps
    })
    .await;
    let two = streaming("two", |_| {
        let mut steps = vec![events_head("")];
        for number in 0..100 {
            steps.push(event(&told(&format!("event {number} of two")).to_string()));
            steps.push(Step::Pause(Duration::from_millis(2)));
        }
        steps.push(never());
        steps
    })
    .await;
    let pair = Pair::new(one, two).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    let seen = read_all(&mut client, &["event 99 of two", "xxx\"}}\n\n"]).await;
    let events = read(&seen);
    assert_eq!(events.len(), 101);
    assert!(seen.contains(&expected));
}

#[tokio::test]
async fn a_slow_client_pushes_back_on_all() {
    let flood = |name| streaming(name, |_| vec![events_head(""), Step::Flood(100 << 20), never()]);
    let pair = Pair::new(flood("one").await, flood("two").await).await;
    let session = pair.open_session().await;
    let before = pair.gateway.memory_kib("VmRSS");
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = pair.gateway.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for a reader that does not read");
}

#[tokio::test]
async fn who_is_told_of_a_change_finds_it_in_the_list() {
    let (gate, is_changed) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gated, changes) = (Arc::clone(&gate), Arc::clone(&is_changed));
    let one = Upstream::start(move |request| match (request.verb.as_str(), &*request.method()) {
        ("GET", _) => {
            let said = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
            vec![events_head(""), Step::Wait(Arc::clone(&gated)), event(said), never()]
        }
        (_, "tools/list") => {
            let name = ["before", "after"][changes.load(Ordering::Relaxed)];
            let tool = json!({ "name": name, "inputSchema": { "type": "object" } });
            let (id, tools) = (&request.json()["id"], json!({ "tools": [tool] }));
            let answer = json!({ "jsonrpc": "2.0", "id": id, "result": tools });
            // Longer than a client takes to ask once it was told.
            let mut steps = vec![Step::Pause(Duration::from_millis(300))];
            steps.extend(json_answer(200, "", &answer));
            steps
        }
        (_, "server/discover") => vec![plain(404, "", b"")],
        _ => mcp("one", request),
    })
    .await;
    let pair = Pair::with(one, Upstream::mcp("two").await, "catalog: { listing: on }\n").await;
    let session = pair.ask(&Message::initialize()).await.session();
    let list = Message::legacy(2, "tools/list", &json!({})).field("mcp-session-id", &session);
    for _ in 0..200 {
        if pair.ask(&list).await.text().contains("one_before") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    is_changed.store(1, Ordering::Relaxed);
    // The gateway's own stream, if it has one, and the client's.
    gate.add_permits(2);
    while !pair.ask(&list).await.text().contains("one_after") {
        client.body_with("tools/list_changed").await;
    }
}

#[tokio::test]
async fn a_session_that_ends_ends_its_stream() {
    let pair = Pair::new(telling("one").await, telling("two").await).await;
    let session = pair.open_session().await;
    let mut client = pair.begin(&Message::stream(&session)).await;
    assert_eq!(client.head().await.status, 200);
    read_all(&mut client, &[r#""one""#, r#""two""#]).await;
    assert_eq!(pair.ask(&Message::end(&session)).await.status, 200);
    assert_eq!(client.part().await, None);
    assert!(client.body_is_whole());
    assert_eq!(pair.ask(&Message::stream(&session)).await.status, 404);
}
