//! Streams: nothing is held back, a slow reader pushes back, and who leaves is treated as its era says.

use crate::support::Stage;
use crate::support::gateway::Gateway;
use crate::support::http2::{Http2, Http2Upstream, Reaction};
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, chunk, event, events_end, events_head, mcp, result, sections,
};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A server whose calls and streams send one event and wait at `gate` before the next.
fn gated(gate: &Arc<Semaphore>) -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move |request| match (request.verb.as_str(), request.method().as_str()) {
        ("GET", _) | ("POST", "tools/call" | "subscriptions/listen") => {
            let answer = result(&request.json()["id"], "done").to_string();
            vec![
                events_head(""),
                event(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#),
                Step::Wait(Arc::clone(&gate)),
                event(&answer),
                events_end(),
            ]
        }
        _ => mcp("one", request),
    }
}

async fn gated_stage() -> (Stage, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    (Stage::before(Upstream::start(gated(&gate)).await).await, gate)
}

/// Every kind of request whose answer is a stream.
async fn kinds(stage: &Stage) -> [Message; 4] {
    let session = stage.open_session().await;
    [
        Message::call(2, "echo"),
        Message::modern(2, "subscriptions/listen", json!({})),
        Message::legacy_call(2, "echo", &session),
        Message::stream(&session),
    ]
}

#[tokio::test]
async fn the_first_event_passes_before_the_second_is_sent() {
    let (stage, gate) = gated_stage().await;
    for message in kinds(&stage).await {
        let mut client = stage.connect().await;
        client.send(&message.bytes()).await;
        let head = client.head().await;
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
        assert_eq!(head.field("content-length"), None);
        client.body_with("progress").await;
        gate.add_permits(1);
        client.body_with("done").await;
        assert_eq!(client.part().await, None);
        assert!(client.body_is_whole());
        // The connection serves on.
        client.send(&Message::modern(3, "tools/list", json!({})).bytes()).await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn the_first_event_passes_at_once_over_http2() {
    let (stage, gate) = gated_stage().await;
    let mut client = Http2::connect(stage.gateway.address).await;
    for message in kinds(&stage).await {
        let mut stream = client.begin(&message).await.expect("a head");
        assert_eq!(stream.head.status, 200);
        let first = stream.part().await.expect("a stream").expect("an event");
        assert!(String::from_utf8_lossy(&first).contains("progress"));
        gate.add_permits(1);
        let second = stream.part().await.expect("a stream").expect("an event");
        assert!(String::from_utf8_lossy(&second).contains("done"));
        while let Some(rest) = stream.part().await.expect("a clean end") {
            assert!(rest.is_empty());
        }
    }
}

#[tokio::test]
async fn events_pass_byte_by_byte_whatever_they_hold() {
    let odd = [
        ": ping\n\n",
        "id: 0/0\nretry: 3000\ndata: \n\n",
        "event: message\r\nid: 7\r\ndata: {\"a\":1}\r\n\r\n",
        "data: one\ndata: two\n\n",
        "data: caf\u{e9} \u{1f600}\n\n",
        "\u{feff}data: x\r\rnonsense without a colon\n\n",
    ];
    let script = move |request: &Request| {
        let mut steps = vec![events_head("x-accel-buffering: no\r\n")];
        for text in odd {
            for part in text.as_bytes().chunks(3) {
                let size = format!("{:x}\r\n", part.len());
                steps.push(Step::Send([size.as_bytes(), part, b"\r\n"].concat()));
            }
            steps.push(Step::Pause(Duration::from_millis(5)));
        }
        steps.push(chunk(&format!("data: {}\n\n", result(&request.json()["id"], "done"))));
        steps.push(events_end());
        steps
    };
    let stage = Stage::before(Upstream::start(script).await).await;
    let answer = stage.ask(&Message::call(1, "echo")).await;
    let expected = format!("{}data: {}\n\n", odd.concat(), result(&json!(1), "done"));
    assert_eq!(answer.text(), expected);
    assert_eq!(answer.field("x-accel-buffering"), Some("no"));
}

/// What a disconnect may take to reach the server, on a machine busy with other tests.
const SOON: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_modern_client_that_leaves_cancels() {
    let (stage, _gate) = gated_stage().await;
    for (nth, method) in ["tools/call", "subscriptions/listen"].into_iter().enumerate() {
        let message = Message::modern(2, method, json!({ "name": "echo" }));
        let message = if nth == 1 { message.without("mcp-name") } else { message };
        let mut client = stage.connect().await;
        client.send(&message.bytes()).await;
        client.body_after_head("progress").await;
        drop(client);
        let began = Instant::now();
        assert!(stage.upstream.left(2 * nth + 1).await, "{method} over HTTP/1.1");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        // Over HTTP/2 the stream ends, and its connection lives.
        let mut client = Http2::connect(stage.gateway.address).await;
        let mut stream = client.begin(&message).await.expect("a head");
        stream.part().await.expect("a part");
        drop(stream);
        let began = Instant::now();
        assert!(stage.upstream.left(2 * nth + 2).await, "{method} over HTTP/2");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        let next = client.ask(&Message::modern(3, "tools/list", json!({}))).await;
        assert_eq!(next.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn a_modern_client_that_leaves_before_the_answer_cancels() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let stage =
        Stage::before(Upstream::start(move |_| vec![Step::Wait(Arc::clone(&waiting))]).await).await;
    let mut client = stage.connect().await;
    client.send(&Message::call(2, "echo").bytes()).await;
    assert!(stage.upstream.reached(1).await);
    drop(client);
    assert!(stage.upstream.left(1).await);
    let line = stage.gateway.log(1).await;
    assert!(line[0].contains(r#""outcome":"cancelled""#), "{line:?}");
}

#[tokio::test]
async fn a_modern_cancel_resets_the_stream_of_an_http2_server() {
    let upstream = Http2Upstream::start(|_| Reaction::Stall).await;
    let gateway = Gateway::start(&sections(&[upstream.url()], ", protocol: http2")).await;
    for count in 1..3 {
        let mut client = crate::support::client::Client::connect(gateway.address).await;
        client.send(&Message::call(2, "echo").bytes()).await;
        client.body_after_head("data: {}").await;
        drop(client);
        assert!(upstream.left(count).await, "the stream goes on");
    }
}

#[tokio::test]
async fn a_legacy_client_that_leaves_cancels_nothing() {
    let (stage, gate) = gated_stage().await;
    let session = stage.open_session().await;
    let message = Message::legacy_call(2, "echo", &session);
    let mut client = stage.connect().await;
    client.send(&message.bytes()).await;
    client.body_after_head("progress").await;
    drop(client);
    let mut client = Http2::connect(stage.gateway.address).await;
    let mut stream = client.begin(&message).await.expect("a head");
    stream.part().await.expect("a part");
    drop(stream);
    // Long enough for a cancel to arrive if there were one.
    tokio::time::sleep(SOON).await;
    gate.add_permits(2);
    // The server gave both answers to their end: `initialize` was the first of three.
    assert!(stage.upstream.ended(3).await, "the gateway left before the end");
}

#[tokio::test]
async fn a_legacy_stream_without_its_listener_is_closed() {
    let (stage, _gate) = gated_stage().await;
    let session = stage.open_session().await;
    let mut client = stage.connect().await;
    client.send(&Message::stream(&session).bytes()).await;
    client.body_after_head("progress").await;
    stage.gateway.metrics_with("toolgate_streams_open 1").await;
    drop(client);
    assert!(stage.upstream.left(1).await);
    stage.gateway.metrics_with("toolgate_streams_open 0").await;
    let mut http2 = Http2::connect(stage.gateway.address).await;
    let mut stream = http2.begin(&Message::stream(&session)).await.expect("a head");
    stream.part().await.expect("a part");
    drop(stream);
    assert!(stage.upstream.left(2).await, "over HTTP/2");
    let none = ["toolgate_streams_open 0", r#"toolgate_requests_in_flight{route="/mcp"} 0"#];
    stage.gateway.metrics_with_all(&none).await;
}

#[tokio::test]
async fn a_slow_reader_pushes_back_and_costs_no_memory() {
    let script = |_: &Request| vec![events_head(""), Step::Flood(200 << 20), events_end()];
    let stage = Stage::before(Upstream::start(script).await).await;
    stage.gateway.probe("/ready").await;
    let before = stage.gateway.memory_kib("VmRSS");
    // Three readers, each of which reads the head and then nothing for a while.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = stage.connect().await;
        client.send(&Message::call(1, "echo").bytes()).await;
        assert_eq!(client.head().await.status, 200);
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = stage.gateway.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for three readers that do not read");
    // One of them reads on, and gets everything.
    let mut client = clients.swap_remove(0);
    let mut read = 0;
    while let Some(part) = client.part().await {
        read += part.len();
    }
    assert_eq!((read, client.body_is_whole()), (200 << 20, true));
    let grown = stage.gateway.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB for 200 MiB that passed through");
}

#[tokio::test]
async fn a_slow_reader_over_http2_costs_no_memory() {
    let script = |_: &Request| vec![events_head(""), Step::Flood(200 << 20), events_end()];
    let stage = Stage::before(Upstream::start(script).await).await;
    let before = stage.gateway.memory_kib("VmRSS");
    let mut client = Http2::connect(stage.gateway.address).await;
    let mut stream = client.begin(&Message::call(1, "echo")).await.expect("a head");
    stream.part().await.expect("a part");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = stage.gateway.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for a reader that does not read");
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = Upstream::start(gated(&gate)).await;
    let gateway =
        Gateway::start(&format!("{}runtime: {{ streams_max: 2 }}\n", upstream.sections())).await;
    let stage = Stage { gateway, upstream };
    let session = stage.open_session().await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = stage.connect().await;
        client.send(&Message::stream(&session).bytes()).await;
        assert_eq!(client.head().await.status, 200);
        open.push(client);
    }
    for message in
        [Message::stream(&session), Message::modern(9, "subscriptions/listen", json!({}))]
    {
        let answer = stage.ask(&message).await;
        assert_eq!(
            (answer.status, answer.code(), answer.field("retry-after")),
            (503, 503, Some("1"))
        );
    }
    // Calls are no streams, whatever their answer looks like.
    gate.add_permits(3);
    assert_eq!(stage.ask(&Message::call(2, "echo")).await.status, 200);
    drop(open);
    stage.gateway.metrics_with("toolgate_streams_open 0").await;
    let mut client = stage.connect().await;
    client.send(&Message::stream(&session).bytes()).await;
    assert_eq!(client.head().await.status, 200);
}

#[tokio::test]
async fn a_slow_reader_pushes_back_on_a_server_of_http2() {
    let upstream = Http2Upstream::start(|_| Reaction::Answer {
        status: 200,
        fields: vec![("content-type", "application/json".to_owned())],
        body: vec![b' '; 50 << 20],
    })
    .await;
    let gateway = Gateway::start(&sections(&[upstream.url()], ", protocol: http2")).await;
    let before = gateway.memory_kib("VmRSS");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = crate::support::client::Client::connect(gateway.address).await;
        client.send(&Message::call(1, "echo").bytes()).await;
        assert_eq!(client.head().await.status, 200);
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = gateway.memory_kib("VmHWM").saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB for three readers that do not read");
}
