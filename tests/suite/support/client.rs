//! A raw HTTP/1 client: bytes out, one answer in, nothing in between that could be polite.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing in this suite may take longer, so that a hang is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// One connection to a gateway, plain or inside TLS.
pub(crate) struct Client<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
    body: Body,
}

/// What is left of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(usize),
    Chunked,
    UntilClose,
    Done,
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first field of this name, in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` where it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of a JSON-RPC error; 0 where there is none.
    pub(crate) fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_default()
    }

    /// The session id the answer carries.
    pub(crate) fn session(&self) -> String {
        self.field("mcp-session-id").expect("a session id").to_owned()
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self::over(stream)
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), body: Body::Done }
    }

    /// Sends bytes. A gateway that has refused may have closed, which the answer will show.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = timeout(DEADLINE, self.stream.write_all(bytes)).await;
        sent.expect("a gateway that reads or closes").is_ok() && self.stream.flush().await.is_ok()
    }

    /// Reads one whole answer; `None` if the connection ends without one.
    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.try_head().await?;
        while let Some(part) = self.part().await {
            answer.body.extend_from_slice(&part);
        }
        // A body that was cut is no whole answer.
        (self.body == Body::Done).then_some(answer)
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("a whole answer")
    }

    pub(crate) async fn head(&mut self) -> Answer {
        self.try_head().await.expect("the head of an answer")
    }

    /// Reads the head of the next answer that is not an interim one.
    async fn try_head(&mut self) -> Option<Answer> {
        loop {
            if let Some((length, answer)) = parse_head(&self.buffer) {
                self.buffer.drain(..length);
                if answer.status >= 200 {
                    self.body = body_of(&answer);
                    return Some(answer);
                }
                continue;
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next part of the body as it arrives; `None` at its end, or where it is cut.
    pub(crate) async fn part(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.body {
                Body::Done => return None,
                Body::Length(0) => self.body = Body::Done,
                Body::Length(left) if !self.buffer.is_empty() => {
                    let part: Vec<u8> = self.buffer.drain(..left.min(self.buffer.len())).collect();
                    self.body = Body::Length(left - part.len());
                    return Some(part);
                }
                Body::UntilClose if !self.buffer.is_empty() => {
                    return Some(std::mem::take(&mut self.buffer));
                }
                Body::Chunked => {
                    if let Some((length, part)) = parse_chunk(&self.buffer) {
                        self.buffer.drain(..length);
                        if part.is_empty() {
                            self.body = Body::Done;
                            return None;
                        }
                        return Some(part);
                    }
                    if !self.fill().await {
                        return None;
                    }
                }
                Body::Length(_) | Body::UntilClose => {
                    if !self.fill().await {
                        if self.body == Body::UntilClose {
                            self.body = Body::Done;
                        }
                        return None;
                    }
                }
            }
        }
    }

    /// Reads the body until it contains `wanted`.
    pub(crate) async fn body_with(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let part = self.part().await;
            seen.extend_from_slice(&part.unwrap_or_else(|| {
                panic!("the body ended without {wanted}: {}", String::from_utf8_lossy(&seen))
            }));
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Reads a head of success and the body until it contains `wanted`.
    pub(crate) async fn body_after_head(&mut self, wanted: &str) -> String {
        assert_eq!(self.head().await.status, 200);
        self.body_with(wanted).await
    }

    /// Whether the answer's body came to its proper end.
    pub(crate) fn body_is_whole(&self) -> bool {
        self.body == Body::Done
    }

    /// Whether the gateway closes this connection, saying nothing more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill().await
    }

    /// Reads more; `false` at the end of the connection.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(64 * 1024);
        match timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await {
            Ok(read) => read.is_ok_and(|read| read > 0),
            Err(_) => panic!(
                "the gateway hangs; so far {:?}",
                String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(300)])
            ),
        }
    }
}

/// Sends a request on a connection of its own and reads the answer.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(request).await;
    client.answer().await
}

/// The same where nobody may be listening.
pub(crate) async fn try_exchange(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.ok()?;
    let mut client = Client::over(stream);
    client.send(request).await;
    client.try_answer().await
}

/// A GET as probes send it.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: 10.1.2.3:9900\r\nconnection: close\r\n\r\n").into_bytes()
}

fn parse_head(bytes: &[u8]) -> Option<(usize, Answer)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).expect("an HTTP answer") else {
        return None;
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let fields = head.headers.iter();
    let fields = fields.map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect();
    Some((length, Answer { status: head.code.unwrap_or_default(), fields, body: Vec::new() }))
}

fn body_of(answer: &Answer) -> Body {
    match (answer.field("content-length"), answer.field("transfer-encoding")) {
        (Some(_), Some(_)) => panic!("an answer with a length and chunks"),
        _ if answer.status == 204 => Body::Done,
        (Some(length), None) => Body::Length(length.parse().expect("a length")),
        (None, Some("chunked")) => Body::Chunked,
        (None, Some(other)) => panic!("unknown transfer coding {other}"),
        (None, None) => Body::UntilClose,
    }
}

/// The first chunk in `bytes`, if it is whole; an empty one is the last.
fn parse_chunk(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let size = std::str::from_utf8(&bytes[..line]).expect("a chunk size");
    let size = usize::from_str_radix(size, 16).expect("a chunk size");
    let end = line + 2 + size;
    let chunk = bytes.get(line + 2..end)?;
    let tail = bytes.get(end..end + 2)?;
    assert_eq!(tail, b"\r\n", "a chunk without its end");
    Some((end + 2, chunk.to_vec()))
}
