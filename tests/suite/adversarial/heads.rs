//! Request heads that break HTTP, or that two readers read differently.

use crate::support::Stage;
use crate::support::client::Client;
use crate::support::http2::Http2;
use crate::support::message::Message;

/// A call that must never reach the server, as it would follow a smuggled head.
const HIDDEN: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}"#;

/// Sends bytes; the first answer must have this status, and the server must see nothing.
async fn check(stage: &Stage, bytes: &[u8], status: u16, connection: Connection) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let mut client = stage.connect().await;
    client.send(bytes).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, status, "{shown:?}: {}", answer.text());
    assert_eq!(answer.code(), i64::from(status), "{shown:?}: {}", answer.text());
    assert!(answer.json()["id"].is_null(), "{shown:?}");
    assert!(answer.json()["error"]["message"].is_string(), "{shown:?}");
    if connection == Connection::Ends {
        assert!(client.is_closed().await, "{shown:?}: the connection lives on");
    }
    drop(client);
    stage.is_unharmed(&shown).await;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Connection {
    Ends,
    MayLive,
}

fn head(lines: &str) -> Vec<u8> {
    let fields = "host: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n";
    format!("POST /mcp HTTP/1.1\r\n{fields}{lines}\r\n{HIDDEN}").into_bytes()
}

#[tokio::test]
async fn framing_with_two_readings() {
    let stage = Stage::mcp().await;
    let length = HIDDEN.len();
    let rows = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}\r\ncontent-length: {length}\r\n"),
        format!("content-length: 5\r\nContent-Length: {length}\r\n"),
        format!("content-length: {length}, {length}\r\n"),
        format!("content-length: +{length}\r\n"),
        format!("content-length: 0{length}\r\n"),
        format!("content-length: {length} \r\ncontent-length: 1\r\n"),
        "content-length: -1\r\n".to_owned(),
        "content-length: 0x10\r\n".to_owned(),
        "content-length: 99999999999999999999999\r\n".to_owned(),
        "content-length: 18446744073709551615\r\n".to_owned(),
        "content-length:\r\n".to_owned(),
        "transfer-encoding: chunked, chunked\r\n".to_owned(),
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n".to_owned(),
        "transfer-encoding: gzip, chunked\r\n".to_owned(),
        "transfer-encoding: identity\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "transfer-encoding: \"chunked\"\r\n".to_owned(),
        format!("transfer-encoding : chunked\r\ncontent-length: {length}\r\n"),
        format!(" transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("x: y\r\n transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("x: y\ntransfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("x: y\rtransfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("transfer-encoding: chunked\0\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}\r\nno-colon\r\n"),
        format!("content-length: {length}\r\n: empty\r\n"),
        format!("content-length: {length}\r\nb\u{e4}d: x\r\n"),
    ];
    for lines in rows {
        check(&stage, &head(&lines), 400, Connection::Ends).await;
    }
}

#[tokio::test]
async fn request_lines_that_are_none() {
    let stage = Stage::mcp().await;
    let rows = [
        "POST /mcp HTTP/1.0\r\ntransfer-encoding: chunked",
        "POST /mcp HTTP/1.2",
        "POST /mcp HTTP/2.0",
        "POST /mcp",
        "POST  /mcp HTTP/1.1",
        "POST /mcp  HTTP/1.1",
        "POST /mcp HTTP/1.1 ",
        "POST\t/mcp\tHTTP/1.1",
        "post /mcp HTTP/1.1",
        "POST mcp HTTP/1.1",
        "POST http://localhost/mcp HTTP/1.1",
        "POST * HTTP/1.1",
        "CONNECT localhost:443 HTTP/1.1",
        "POST /mcp#x HTTP/1.1",
        "POST /mc\u{e9} HTTP/1.1",
        "POST /mcp\0 HTTP/1.1",
        "\r\nPOST /mcp HTTP/1.1",
        "P\u{0}ST /mcp HTTP/1.1",
    ];
    for line in rows {
        let bytes = format!(
            "{line}\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{HIDDEN}",
            HIDDEN.len()
        );
        check(&stage, bytes.as_bytes(), 400, Connection::Ends).await;
    }
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\r\n",
        "GET\r\n\r\n",
        "SSH-2.0-x\r\n",
        "\n\n\n\n",
    ] {
        check(&stage, garbage.as_bytes(), 400, Connection::Ends).await;
    }
}

#[tokio::test]
async fn fields_with_two_readings() {
    let stage = Stage::mcp().await;
    let good = Message::call(7, "echo");
    let rows = [
        good.clone().without("host"),
        good.clone().and("host", "localhost"),
        good.clone().and("Host", "evil.example.com"),
        good.clone().field("host", "localhost, evil.example.com"),
        good.clone().field("host", "localhost/evil"),
        good.clone().field("host", "user@localhost"),
        good.clone().field("host", ""),
        good.clone().and("content-type", "application/json"),
        good.clone().and("authorization", "Bearer x").and("Authorization", "Bearer y"),
        good.clone().and("origin", "http://localhost").and("origin", "http://localhost"),
        good.clone().and("mcp-session-id", "a").and("Mcp-Session-Id", "b"),
        good.clone().and("last-event-id", "1").and("last-event-id", "2"),
        good.clone().and("mcp_method", "tools/list"),
        good.clone().and("Mcp_Session_Id", "x"),
        good.clone().and("connection", "mcp-session-id"),
        good.clone().and("connection", "close, authorization"),
        good.clone().and("connection", "Mcp-Name"),
    ];
    for message in rows {
        check(&stage, &message.bytes(), 400, Connection::MayLive).await;
    }
}

#[tokio::test]
async fn heads_without_end() {
    let stage = Stage::mcp().await;
    let fields = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let many = |count| Message::call(7, "echo").and("x", &format!("y\r\n{}z: z", fields(count)));
    check(&stage, &many(10_000).bytes(), 431, Connection::Ends).await;
    check(&stage, &many(300).bytes(), 431, Connection::Ends).await;
    check(
        &stage,
        &Message::call(7, "echo").and("x", &"y".repeat(5 << 20)).bytes(),
        431,
        Connection::Ends,
    )
    .await;
    check(
        &stage,
        &Message::call(7, "echo").and(&"x".repeat(1 << 20), "y").bytes(),
        431,
        Connection::Ends,
    )
    .await;
    check(
        &stage,
        &Message::call(7, "echo").at(&format!("/mcp?{}", "x".repeat(1 << 20))).bytes(),
        431,
        Connection::Ends,
    )
    .await;
    assert_eq!(stage.ask(&many(200)).await.status, 200);
}

#[tokio::test]
async fn heads_without_end_over_http2() {
    let stage = Stage::mcp().await;
    let many = (0..10_000)
        .fold(Message::call(7, "echo"), |message, n| message.and(&format!("x-{n}"), "y"));
    let large = Message::call(7, "echo").and("x", &"y".repeat(1 << 20));
    for message in [many, large] {
        let mut client = Http2::connect(stage.gateway.address).await;
        // HTTP/2 lets a server answer 431 or end the stream; h2 does either.
        let answer = client.ask(&message).await;
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 431), "{answer:?}");
        stage.is_unharmed("a head without end over HTTP/2").await;
    }
}

#[tokio::test]
async fn a_head_that_never_comes_whole() {
    let upstream = crate::support::upstream::Upstream::mcp("one").await;
    let address = crate::support::gateway::free_address();
    let yaml = format!(
        "listeners: [{{ address: {address}, limits: {{ head_timeout: 500ms, idle_timeout: 1s }} }}]\n{}",
        upstream.sections()
    );
    let gateway = crate::support::gateway::Gateway::start_at(&yaml, address).await;
    let stage = Stage { gateway, upstream };
    let bytes = Message::call(7, "echo").bytes();
    // Stops in the middle.
    for end in [1, 3, 20, 100] {
        let mut client = stage.connect().await;
        client.send(&bytes[..end]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.code()), (408, 408), "{end}");
        assert!(client.is_closed().await);
    }
    // Dribbles: each byte comes in time, the whole does not.
    let mut client = stage.connect().await;
    for byte in &bytes[..12] {
        client.send(&[*byte]).await;
        tokio::time::sleep(std::time::Duration::from_millis(80)).await;
    }
    assert_eq!(client.answer().await.status, 408);
    // Says nothing at all: closed without a word, after a while.
    let mut silent = stage.connect().await;
    assert!(silent.is_closed().await);
    // Keeps its connection and then dribbles the second request.
    let mut kept = stage.connect().await;
    kept.send(&bytes).await;
    assert_eq!(kept.answer().await.status, 200);
    stage.upstream.take();
    kept.send(&bytes[..50]).await;
    assert_eq!(kept.answer().await.status, 408);
    stage.is_unharmed("slow heads").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_its_head_costs_nothing() {
    let stage = Stage::mcp().await;
    let bytes = Message::call(7, "echo").bytes();
    for end in (1..bytes.len()).step_by(5) {
        let mut client: Client = stage.connect().await;
        client.send(&bytes[..end]).await;
    }
    stage.is_unharmed("clients that left").await;
}
