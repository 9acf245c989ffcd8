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
const DATA: u8 = 0;
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
    wire.extend(frame(DATA, END_STREAM, 1, body));
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

#[tokio::test]
async fn heads_with_two_readings_over_http2() {
    let stage = Stage::mcp().await;
    let body = Message::call(7, "echo").body;
    let answer = send(&stage, &good(&body), &body).await;
    assert!(answer.contains(r#""result""#), "the raw client works: {answer:?}");
    assert_eq!(stage.upstream.take().len(), 1);
    let and = |name: &str, value: &str| {
        let mut fields = good(&body);
        fields.push((name.to_owned(), value.to_owned()));
        fields
    };
    let with = |name: &str, value: &str| {
        let mut fields = good(&body);
        for field in fields.iter_mut().filter(|(found, _)| found == name) {
            value.clone_into(&mut field.1);
        }
        fields
    };
    let without = |name: &str| {
        let mut fields = good(&body);
        fields.retain(|(found, _)| found != name);
        fields
    };
    let rows = [
        ("another host", and("host", "evil.example.com")),
        ("two hosts", {
            let mut fields = and("host", "localhost");
            fields.push(("host".to_owned(), "localhost".to_owned()));
            fields
        }),
        ("no authority", without(":authority")),
        ("user in the authority", with(":authority", "user@localhost")),
        ("list in the authority", with(":authority", "localhost,evil")),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("empty path", with(":path", "")),
        ("path without slash", with(":path", "mcp")),
        ("star", with(":path", "*")),
        ("path with a space", with(":path", "/mcp HTTP/1.1")),
        ("path with a line", with(":path", "/mcp\r\nx: y")),
        ("method with a line", with(":method", "POST / HTTP/1.1\r\n")),
        ("second path", and(":path", "/mcp")),
        ("pseudo field after others", and(":x", "y")),
        ("capitals in a name", and("X-Own", "y")),
        ("space in a name", and("x own", "y")),
        ("colon in a name", and("x:own", "y")),
        ("line in a name", and("x\r\nown", "y")),
        ("empty name", and("", "y")),
        ("line in a value", and("x-own", "y\r\nmcp-session-id: z")),
        ("LF in a value", and("x-own", "y\nz")),
        ("NUL in a value", and("x-own", "y\0z")),
        ("chunks", and("transfer-encoding", "chunked")),
        ("connection", and("connection", "mcp-name")),
        ("upgrade", and("upgrade", "h2c")),
        ("keep-alive", and("keep-alive", "timeout=5")),
        ("te", and("te", "gzip")),
        ("second length", and("content-length", "1")),
        ("same length twice", and("content-length", &body.len().to_string())),
        ("length too short", with("content-length", "1")),
        ("length too long", with("content-length", "10000")),
        ("length that is none", with("content-length", "+1")),
        ("second name", and("mcp-name", "other")),
        ("underscore", and("mcp_method", "tools/list")),
        ("second authorization", {
            let mut fields = and("authorization", "Bearer x");
            fields.push(("authorization".to_owned(), "Bearer y".to_owned()));
            fields
        }),
    ];
    for (what, fields) in rows {
        let answer = send(&stage, &fields, &body).await;
        assert!(!answer.contains(r#""result""#), "{what} was served: {answer:?}");
        stage.is_unharmed(what).await;
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
        ("data first", [preface.clone(), frame(DATA, END_STREAM, 1, b"x")].concat()),
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
        ("a huge frame", [preface.clone(), vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]].concat()),
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
    wire.extend(frame(DATA, 0, 1, &body[..20]));
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
