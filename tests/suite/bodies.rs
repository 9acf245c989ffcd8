//! Bodies pass byte by byte: every size, every framing, both versions of HTTP on both sides.

use crate::support::client::{self, Client};
use crate::support::gateway::Gateway;
use crate::support::http2::{Http2, Http2Upstream, Reaction};
use crate::support::message::{Message, claims};
use crate::support::upstream::{Request, Step, Upstream, plain, sections};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Sizes around every buffer on the way, from next to nothing to the megabytes of an image.
const SIZES: [usize; 13] =
    [0, 1, 100, 2_000, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 200_000, 1 << 20, 5 << 20];

/// Text of a length in which no two parts are alike.
fn text(length: usize) -> String {
    let mut state = 0x9e37_79b9_u32;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    };
    (0..length).map(letter).collect()
}

fn call_of(length: usize) -> Message {
    let params = json!({ "name": "echo", "arguments": { "a": text(length) }, "_meta": claims() });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    Message::call(1, "echo").with_body(body.to_string())
}

fn echo(request: &Request) -> Vec<Step> {
    vec![plain(200, "content-type: application/json\r\n", &request.body)]
}

#[tokio::test]
async fn requests_pass_byte_by_byte() {
    let http1 = Upstream::start(echo).await;
    let http2 = Http2Upstream::start(|request| Reaction::Answer {
        status: 200,
        fields: vec![("content-type", "application/json".to_owned())],
        body: request.body.clone(),
    })
    .await;
    let gateways = [
        Gateway::start(&http1.sections()).await,
        Gateway::start(&sections(&[http2.url()], ", protocol: http2")).await,
    ];
    for (gateway, name) in gateways.iter().zip(["HTTP/1.1", "HTTP/2"]) {
        let mut connection = Client::connect(gateway.address).await;
        let mut streams = Http2::connect(gateway.address).await;
        for size in SIZES {
            let message = call_of(size);
            let small = call_of(size.min(4_000) + 1);
            let rows = [
                (message.bytes(), &message),
                (message.chunked(100_000), &message),
                (small.chunked(7), &small),
            ];
            for (bytes, sent) in rows {
                connection.send(&bytes).await;
                let answer = connection.answer().await;
                assert!(answer.status == 200 && answer.body == sent.body, "{size} to {name}");
            }
            let answer = streams.ask(&message).await.expect("an answer");
            assert!(
                answer.status == 200 && answer.body == message.body,
                "{size} over HTTP/2 to {name}"
            );
        }
    }
    let seen = http1.take();
    assert_eq!(seen.len(), SIZES.len() * 4);
    for (at, size) in SIZES.iter().enumerate() {
        let sent = call_of(*size).body;
        for nth in [0, 1, 3] {
            assert!(seen[at * 4 + nth].body == sent, "{size} as the server saw it");
        }
    }
    assert_eq!(http2.take().len(), SIZES.len() * 4);
}

/// Answers of the size that the tool's name says, framed as its prefix says.
fn sized(request: &Request) -> Vec<Step> {
    let name = request.field("mcp-name").unwrap_or_default().to_owned();
    let (framing, size) = name.split_once('-').expect("a framing and a size");
    let body = text(size.parse().expect("a size"));
    let json = "content-type: application/json\r\n";
    match framing {
        "length" => vec![plain(200, json, body.as_bytes())],
        "close" => {
            let head = format!("HTTP/1.1 200 OK\r\n{json}\r\n{body}");
            vec![Step::Send(head.into_bytes()), Step::Close]
        }
        _ => {
            let head = format!("HTTP/1.1 200 OK\r\n{json}transfer-encoding: chunked\r\n\r\n");
            let mut wire = head.into_bytes();
            for part in body.as_bytes().chunks(10_007) {
                wire.extend_from_slice(format!("{:X};x=y\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\nx-trailer: y\r\n\r\n");
            vec![Step::Send(wire)]
        }
    }
}

#[tokio::test]
async fn answers_pass_byte_by_byte_however_they_end() {
    let upstream = Upstream::start(sized).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    let mut connection = Client::connect(gateway.address).await;
    let mut streams = Http2::connect(gateway.address).await;
    for framing in ["length", "chunks", "close"] {
        for size in SIZES {
            let message = Message::call(1, &format!("{framing}-{size}"));
            connection.send(&message.bytes()).await;
            let answer = connection.answer().await;
            assert_eq!(answer.status, 200);
            assert!(
                answer.body == text(size).as_bytes(),
                "{framing} {size}: {}",
                answer.body.len()
            );
            let length = answer.field("content-length").map(str::to_owned);
            // An answer in chunks that came as a whole goes on with its length.
            match framing {
                "length" => assert!(length.is_some(), "{size}: a known length is said"),
                "close" => assert!(length.is_none(), "{size}: no length is made up"),
                _ => {}
            }
            let answer = streams.ask(&message).await.expect("an answer");
            assert!(answer.body == text(size).as_bytes(), "{framing} {size} over HTTP/2");
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let upstream = Upstream::start(sized).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    for framing in ["length", "chunks", "close"] {
        let message = Message::call(1, &format!("{framing}-1000"));
        let old =
            String::from_utf8(message.bytes()).expect("text").replacen("HTTP/1.1", "HTTP/1.0", 1);
        let mut connection = Client::connect(gateway.address).await;
        connection.send(old.as_bytes()).await;
        let answer = connection.answer().await;
        assert_eq!(answer.field("transfer-encoding"), None, "{framing}");
        assert!(answer.body == text(1000).as_bytes(), "{framing}");
        assert!(connection.is_closed().await, "{framing}");
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on() {
    let upstream = Upstream::start(echo).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    let message = call_of(1000).and("expect", "100-continue");
    let mut connection = Client::connect(gateway.address).await;
    connection.send(&message.head()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    connection.send(&message.body).await;
    let answer = connection.answer().await;
    assert!(answer.status == 200 && answer.body == message.body);
    assert_eq!(upstream.take()[0].field("expect"), None);
}

#[tokio::test]
async fn requests_of_one_packet_are_answered_in_order() {
    let upstream = Upstream::start(echo).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    let legacy: Vec<Message> = (1..4).map(|id| Message::legacy(id, "ping", &json!({}))).collect();
    let modern: Vec<Message> = (1..4).map(|id| Message::call(id, "echo")).collect();
    for calls in [legacy, modern] {
        let wire: Vec<u8> = calls.iter().flat_map(Message::bytes).collect();
        let mut connection = Client::connect(gateway.address).await;
        connection.send(&wire).await;
        for call in calls {
            let answer = connection.answer().await;
            assert!(answer.status == 200 && answer.body == call.body);
        }
    }
}

#[tokio::test]
async fn a_request_that_comes_early_cancels_nothing() {
    let free = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&free);
    let upstream =
        Upstream::start(move |_| vec![Step::Wait(Arc::clone(&waits)), plain(200, "", b"{}")]).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    let mut connection = Client::connect(gateway.address).await;
    connection.send(&Message::call(1, "echo").bytes()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    connection.send(&Message::call(2, "echo").bytes()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    free.add_permits(2);
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.text()), (200, "{}".to_owned()));
    // The connection lost a byte of the second request, and says so.
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(upstream.take().len(), 1);
}

#[tokio::test]
async fn sixty_four_large_bodies_at_once_need_little_more_than_themselves() {
    let upstream = Upstream::start(|_| vec![plain(200, "", b"{}")]).await;
    let gateway = Gateway::start(&upstream.sections()).await;
    client::exchange(gateway.address, &call_of(5 << 20).bytes()).await;
    let before = gateway.memory_kib("VmRSS");
    let bytes = Arc::new(call_of(5 << 20).bytes());
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (bytes, address) = (Arc::clone(&bytes), gateway.address);
        calls.spawn(async move { client::exchange(address, &bytes).await.status });
    }
    assert!(calls.join_all().await.into_iter().all(|status| status == 200));
    let grown = gateway.memory_kib("VmHWM") - before;
    assert!(grown < (64 * 5 + 64) * 1024, "{grown} KiB for 64 bodies of 5 MiB");
}
