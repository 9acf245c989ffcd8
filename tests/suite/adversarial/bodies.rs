//! Bodies that are too large, too slow, or not what their head says.

use crate::support::Stage;
use crate::support::gateway::{Gateway, free_address};
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::upstream::Upstream;
use std::time::Duration;

const MEGABYTE: usize = 1 << 20;

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body() {
    let stage = Stage::mcp().await;
    for megabytes in [7, 100, 100_000] {
        let length = (megabytes * MEGABYTE).to_string();
        for message in [Message::call(7, "echo"), Message::legacy_call(7, "echo", "x")] {
            let mut client = stage.connect().await;
            client.send(&message.field("content-length", &length).head()).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.code()), (413, 413));
            assert!(client.is_closed().await, "what follows is the body, and nobody reads it");
            stage.is_unharmed("an announced body").await;
        }
    }
    // The same with a client that waits for leave to send: it gets none.
    let mut client = stage.connect().await;
    let message = Message::call(7, "echo").field("content-length", "104857600");
    client.send(&message.and("expect", "100-continue").head()).await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn a_hundred_megabytes_are_not_read() {
    let stage = Stage::mcp().await;
    let before = stage.gateway.memory_kib("VmHWM");
    let body = vec![b' '; 100 * MEGABYTE];
    let mut client = stage.connect().await;
    let message = Message::call(7, "echo").with_body(body);
    client.send(&message.bytes()).await;
    // A client that sends on regardless may find its connection reset.
    let answer = client.try_answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 413));
    let mut client = stage.connect().await;
    assert!(!client.send(&message.chunked(64 * 1024)).await, "a hundred megabytes were taken");
    let answer = client.try_answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 413));
    stage.is_unharmed("a hundred megabytes").await;
    let grown = stage.gateway.memory_kib("VmHWM") - before;
    assert!(grown < 40 * 1024, "{grown} KiB for a body that was refused");
}

#[tokio::test]
async fn chunks_over_the_limit_are_refused() {
    let stage = Stage::mcp().await;
    let mut client = stage.connect().await;
    client.send(&Message::call(7, "echo").field("transfer-encoding", "chunked").head()).await;
    let chunk = [b"100000\r\n".to_vec(), vec![b' '; MEGABYTE], b"\r\n".to_vec()].concat();
    for _ in 0..6 {
        client.send(&chunk).await;
    }
    client.send(b"1\r\n \r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code()), (413, 413));
    assert!(client.is_closed().await, "nobody reads the rest");
    stage.is_unharmed("chunks over the limit").await;
}

#[tokio::test]
async fn too_much_over_http2_is_refused() {
    let stage = Stage::mcp().await;
    for message in [
        Message::call(7, "echo").with_body(vec![b' '; 7 * MEGABYTE]),
        Message::call(7, "echo")
            .with_body(vec![b' '; 7 * MEGABYTE])
            .and("content-length", "7340032"),
    ] {
        let mut client = Http2::connect(stage.gateway.address).await;
        let answer = client.ask(&message).await;
        assert_eq!(answer.expect("an answer").status, 413);
        assert_eq!(client.ask(&Message::call(1, "echo")).await.expect("an answer").status, 200);
        stage.upstream.take();
        stage.is_unharmed("too much over HTTP/2").await;
    }
}

#[tokio::test]
async fn chunks_that_are_none() {
    let stage = Stage::mcp().await;
    let body = String::from_utf8(Message::call(7, "echo").body).expect("text");
    let size = format!("{:x}", body.len());
    let rows = [
        format!("zz\r\n{body}\r\n0\r\n\r\n"),
        format!("-{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("+{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("0x{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("{size}\r\n{body}XX0\r\n\r\n"),
        format!("{size}\r\n{body}0\r\n\r\n\r\n"),
        format!("\r\n{body}\r\n0\r\n\r\n"),
        format!("ffffffffffffffffff\r\n{body}\r\n0\r\n\r\n"),
        format!("10000000000000000{size}\r\n{body}\r\n0\r\n\r\n"),
        format!("{size}\n{body}\n0\n\n"),
        format!("{size} {size}\r\n{body}\r\n0\r\n\r\n"),
    ];
    for wire in rows {
        let head = Message::call(7, "echo").field("transfer-encoding", "chunked").head();
        let mut client = stage.connect().await;
        client.send(&[head, wire.clone().into_bytes()].concat()).await;
        client.send(b"\r\n\r\n").await;
        // Where the framing is lost, answers and a closed connection are both right.
        while let Some(answer) = client.try_answer().await {
            assert_eq!(answer.status, 400, "{wire:?}: {}", answer.text());
        }
        drop(client);
        stage.is_unharmed(&wire).await;
    }
}

#[tokio::test]
async fn lengths_that_lie() {
    let stage = Stage::mcp().await;
    let message = Message::call(7, "echo");
    // Shorter than the body: the message is cut, and its rest is no request.
    for length in [1, 10, message.body.len() - 1] {
        let mut client = stage.connect().await;
        client.send(&message.clone().field("content-length", &length.to_string()).bytes()).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.code()), (400, -32700), "{length}");
        if let Some(second) = client.try_answer().await {
            assert_eq!(second.status, 400);
            assert!(client.is_closed().await);
        }
        stage.is_unharmed("a length too short").await;
    }
    // Longer than the body, and then the client leaves: in both framings, at every place.
    for end in (0..message.body.len()).step_by(9) {
        let mut client = stage.connect().await;
        let bytes = [message.head(), message.body[..end].to_vec()].concat();
        client.send(&bytes).await;
        drop(client);
        let mut client = stage.connect().await;
        let chunked = message.chunked(16);
        let head = message.clone().field("transfer-encoding", "chunked").head().len();
        client.send(&chunked[..head + end]).await;
        drop(client);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.is_unharmed("bodies that were cut").await;
}

#[tokio::test]
async fn a_half_closed_connection_with_half_a_body_gets_no_service() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stage = Stage::mcp().await;
    let message = Message::call(7, "echo");
    let mut stream =
        tokio::net::TcpStream::connect(stage.gateway.address).await.expect("connected");
    let half = [message.head(), message.body[..20].to_vec()].concat();
    stream.write_all(&half).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
    read.await.expect("no hang").ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    stage.is_unharmed("half a body").await;
}

#[tokio::test]
async fn a_body_that_takes_for_ever_is_refused() {
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let yaml = format!(
        "listeners: [{{ address: {address}, limits: {{ body_timeout: 500ms }} }}]\n{}",
        upstream.sections()
    );
    let gateway = Gateway::start_at(&yaml, address).await;
    let stage = Stage { gateway, upstream };
    let message = Message::call(7, "echo");
    let whole = message.bytes();
    let chunked = message.chunked(10);
    for bytes in
        [&whole[..message.head().len()], &whole[..whole.len() - 5], &chunked[..chunked.len() - 20]]
    {
        let mut client = stage.connect().await;
        client.send(bytes).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.code()), (408, 408), "{}", answer.text());
        assert!(client.is_closed().await);
        stage.is_unharmed("a body that stops").await;
    }
    // Dribbles, so that every wait for the next byte is short.
    let mut client = stage.connect().await;
    client.send(&message.head()).await;
    for byte in &message.body[..10] {
        if !client.send(&[*byte]).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.answer().await.status, 408);
    stage.is_unharmed("a body that dribbles").await;
}

#[tokio::test]
async fn a_body_where_none_belongs_is_no_second_request() {
    let stage = Stage::mcp().await;
    let hidden = Message::call(666, "echo").bytes();
    let length = hidden.len().to_string();
    let rows = [
        (Message { verb: "GET", ..Message::post(hidden.clone()) }, 405),
        (Message { verb: "DELETE", ..Message::post(hidden.clone()) }, 405),
        (Message { verb: "OPTIONS", ..Message::post(hidden.clone()) }, 204),
        (Message { verb: "PUT", ..Message::post(hidden.clone()) }, 405),
        (Message::post(hidden.clone()).at("/nowhere"), 404),
        (Message::post(hidden.clone()).field("content-type", "text/plain"), 415),
        (Message::post(hidden.clone()).field("accept", "text/plain"), 406),
        (Message::post(hidden.clone()).field("host", "evil.example.com"), 421),
        (Message::post(hidden.clone()).field("origin", "http://evil.example.com"), 403),
        (Message::post(hidden.clone()).field("authorization", "Bearer nobody"), 401),
    ];
    for (message, status) in rows {
        let chunked = message.chunked(50);
        let whole = message.clone().field("content-length", &length).bytes();
        for bytes in [whole, chunked] {
            let mut client = stage.connect().await;
            client.send(&bytes).await;
            assert_eq!(client.answer().await.status, status, "{}", message.verb);
            let leaked = stage.upstream.bytes();
            assert!(
                leaked.is_empty(),
                "{} {status}: {}",
                message.verb,
                String::from_utf8_lossy(&leaked)
            );
            // If the connection lives it serves the next request, and only that.
            client.send(&Message::call(1, "echo").bytes()).await;
            if let Some(next) = client.try_answer().await {
                assert_eq!(next.status, 200, "{} {status}", message.verb);
                assert_eq!(stage.upstream.take().len(), 1);
            }
            drop(client);
            stage.is_unharmed(message.verb).await;
        }
    }
}

#[tokio::test]
async fn the_limit_is_exact() {
    let upstream = Upstream::mcp("one").await;
    let sections = upstream.sections().replace("6MiB", "1KiB");
    let stage = Stage { gateway: Gateway::start(&sections).await, upstream };
    let sized = |size: usize| {
        let mut message = Message::call(7, "echo");
        message.body.resize(size, b' ');
        message
    };
    let mut http2 = Http2::connect(stage.gateway.address).await;
    for (size, status) in [(1023, 200), (1024, 200), (1025, 413), (2048, 413)] {
        let message = sized(size);
        let mut client = stage.connect().await;
        client.send(&message.chunked(100)).await;
        assert_eq!(client.answer().await.status, status, "{size} in chunks");
        assert_eq!(stage.ask(&message).await.status, status, "{size}");
        let answer = http2.ask(&message).await.expect("an answer");
        assert_eq!(answer.status, status, "{size} over HTTP/2");
        assert_eq!(stage.upstream.take().len(), if status == 200 { 3 } else { 0 });
    }
}
