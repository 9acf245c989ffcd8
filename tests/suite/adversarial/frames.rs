//! Raw HTTP/2: heads that no proper client can write, and bodies that are not what they say.

use crate::support::Stage;
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::upstream::Upstream;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const HEADERS: u8 = 1;
const BODY: u8 = 0;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame on stream 1, or on the connection.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Fields as literals that are never indexed, so that any bytes can be written.
fn literals(fields: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            // Seven bits of length; a longer one goes on in the next byte.
            if text.len() < 127 {
                block.push(text.len() as u8);
            } else {
                block.extend_from_slice(&[127, (text.len() - 127) as u8]);
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The fields of a good call, in order.
fn good(body: &[u8]) -> Vec<(String, String)> {
    let pseudo =
        [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/mcp")];
    let pseudo = pseudo.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut fields = pseudo.to_vec();
    let message = Message::call(7, "echo").without("host");
    fields.extend(message.fields);
    fields.push(("content-length".to_owned(), body.len().to_string()));
    fields
}

/// What came of a request: the bytes of its answer's frames, as far as they are text.
async fn send(stage: &Stage, fields: &[(String, String)], body: &[u8]) -> String {
    let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
    let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    wire.extend(frame(4, 0, 0, &[]));
    wire.extend(frame(HEADERS, END_HEADERS, 1, &literals(fields)));
    wire.extend(frame(BODY, END_STREAM, 1, body));
    // A ping after it: its echo says that everything before was looked at.
    wire.extend(frame(6, 0, 0, b"the end!"));
    stream.write_all(&wire).await.ok();
    let mut answer = Vec::new();
    let mut part = vec![0; 4096];
    let quiet = Duration::from_millis(400);
    while let Ok(Ok(read)) = timeout(quiet, stream.read(&mut part)).await {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&part[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a call with these fields; it must not be served.
async fn check(stage: &Stage, what: &str, fields: &[(String, String)], body: &[u8]) {
    let answer = send(stage, fields, body).await;
    assert!(!answer.contains(r#""result""#), "{what} was served: {answer:?}");
    stage.is_unharmed(what).await;
}

#[tokio::test]
async fn fields_of_a_request_line_with_two_readings() {
    let stage = Stage::mcp().await;
    let body = Message::call(7, "echo").body;
    let answer = send(&stage, &good(&body), &body).await;
    assert!(answer.contains(r#""result""#), "the raw client works: {answer:?}");
    assert_eq!(stage.upstream.take().len(), 1);
    for (name, value) in [
        (":authority", "user@localhost"),
        (":authority", "localhost,evil"),
        (":authority", "evil.example.com"),
        (":path", ""),
        (":path", "mcp"),
        (":path", "*"),
        (":path", "/mcp HTTP/1.1"),
        (":path", "/mcp\r\nx: y"),
        (":method", "POST / HTTP/1.1\r\n"),
        (":method", "post"),
        ("content-length", "1"),
        ("content-length", "10000"),
        ("content-length", "+1"),
    ] {
        let mut fields = good(&body);
        for field in fields.iter_mut().filter(|(found, _)| found == name) {
            value.clone_into(&mut field.1);
        }
        check(&stage, &format!("{name}: {value}"), &fields, &body).await;
    }
    for name in [":authority", ":path", ":method"] {
        let mut fields = good(&body);
        fields.retain(|(found, _)| found != name);
        check(&stage, &format!("no {name}"), &fields, &body).await;
    }
}

#[tokio::test]
async fn fields_with_two_readings_over_http2() {
    let stage = Stage::mcp().await;
    let body = Message::call(7, "echo").body;
    let length = body.len().to_string();
    for (name, value) in [
        ("host", "evil.example.com"),
        (":path", "/mcp"),
        (":x", "y"),
        ("X-Own", "y"),
        ("x own", "y"),
        ("x:own", "y"),
        ("x\r\nown", "y"),
        ("", "y"),
        ("x-own", "y\r\nmcp-session-id: z"),
        ("x-own", "y\nz"),
        ("x-own", "y\0z"),
        ("transfer-encoding", "chunked"),
        ("connection", "mcp-name"),
        ("upgrade", "h2c"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip"),
        ("content-length", "1"),
        ("content-length", &length),
        ("content-type", "application/json"),
        ("mcp-name", "other"),
        ("mcp-name", "echo"),
        ("mcp_method", "tools/list"),
        ("authorization", "Bearer x"),
    ] {
        let mut fields = good(&body);
        fields.push((name.to_owned(), value.to_owned()));
        check(&stage, &format!("{name}: {value}"), &fields, &body).await;
    }
}

#[tokio::test]
async fn frames_that_are_none_end_their_connection_only() {
    let stage = Stage::mcp().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let rows = [
        ("half a preface", b"PRI * HTTP/2.0\r\n".to_vec()),
        ("a preface that turns", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("garbage", [preface.clone(), vec![0xff; 2000]].concat()),
        ("data first", [preface.clone(), frame(BODY, END_STREAM, 1, b"x")].concat()),
        (
            "an even stream",
            [preface.clone(), frame(4, 0, 0, &[]), frame(HEADERS, 5, 2, &literals(&good(b"")))]
                .concat(),
        ),
        (
            "a bad index",
            [preface.clone(), frame(4, 0, 0, &[]), frame(HEADERS, 5, 1, &[0xff, 0xff, 0xff, 0xff])]
                .concat(),
        ),
        ("a huge frame", [preface.clone(), vec![0xff, 0xff, 0xff, BODY, 0, 0, 0, 0, 1]].concat()),
        (
            "an endless head",
            [
                preface.clone(),
                frame(4, 0, 0, &[]),
                frame(HEADERS, 0, 1, &literals(&good(b""))),
                frame(9, 0, 1, &literals(&good(b""))).repeat(2000),
            ]
            .concat(),
        ),
        ("resets without end", {
            let mut wire = [preface, frame(4, 0, 0, &[])].concat();
            for stream in 0..5_000 {
                wire.extend(frame(HEADERS, END_HEADERS, stream * 2 + 1, &literals(&good(b"x"))));
                wire.extend(frame(3, 0, stream * 2 + 1, &8_u32.to_be_bytes()));
            }
            wire
        }),
    ];
    for (what, wire) in rows {
        let mut stream = TcpStream::connect(stage.gateway.address).await.expect("connected");
        stream.write_all(&wire).await.ok();
        let mut answer = vec![0; 4096];
        timeout(Duration::from_millis(300), stream.read(&mut answer)).await.ok();
        stage.is_unharmed(what).await;
    }
}

#[tokio::test]
async fn a_body_over_http2_that_never_ends_is_refused() {
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let yaml = format!(
        "listeners: [{{ address: {address}, limits: {{ body_timeout: 500ms }} }}]\n{}",
        upstream.sections()
    );
    let gateway = Gateway::start_at(&yaml, address).await;
    let stage = Stage { gateway, upstream };
    let body = Message::call(7, "echo").body;
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let mut wire = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    wire.extend(frame(4, 0, 0, &[]));
    wire.extend(frame(HEADERS, END_HEADERS, 1, &literals(&good(&body))));
    wire.extend(frame(BODY, 0, 1, &body[..20]));
    stream.write_all(&wire).await.expect("sent");
    let mut seen = Vec::new();
    let mut part = vec![0; 4096];
    while !String::from_utf8_lossy(&seen).contains(r#""code":408"#) {
        let read = timeout(Duration::from_secs(10), stream.read(&mut part)).await.expect("no hang");
        let read = read.expect("an answer");
        assert!(read > 0, "closed without an answer: {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&part[..read]);
    }
    stage.is_unharmed("a body that never ends").await;
}
