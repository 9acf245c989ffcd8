//! One HTTP/1.1 connection of the replica: requests in, answers and streams out, kept alive between them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answers::{Answer, Form, Replica, event_id};
use crate::sessions;
use crate::wire::{self, Body, Framing, bad};

const HEAD_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How often a stream that has nothing to say shows that it is alive.
const COMMENT_EVERY: Duration = Duration::from_secs(1);
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Post,
    Get,
    Delete,
    Other,
}

/// One whole request; of its fields only those that mean something here.
pub(crate) struct Request {
    pub(crate) verb: Verb,
    pub(crate) path: String,
    pub(crate) session: Option<String>,
    pub(crate) last_event: Option<String>,
    pub(crate) revision_field: Option<String>,
    pub(crate) method_field: Option<String>,
    pub(crate) name_field: Option<String>,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Connection {
    stream: TcpStream,
    replica: Arc<Replica>,
    unread: Vec<u8>,
    body: Body,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, replica: Arc<Replica>) -> Self {
        Self { stream, replica, unread: Vec::new(), body: Body::new(BODY_BYTES_MAX) }
    }

    pub(crate) async fn serve(mut self) -> io::Result<()> {
        while let Some(request) = self.request().await? {
            match self.replica.answer(&request) {
                Answer::Empty(status) => {
                    // A 204 has no length (RFC 9110 section 8.6).
                    let length =
                        if status.starts_with("204") { "" } else { "content-length: 0\r\n" };
                    self.write(&format!("HTTP/1.1 {status}\r\n{length}\r\n")).await?;
                }
                Answer::Json { status, session, body } => {
                    let session = session.map(sessions::text);
                    self.json(status, session.as_deref(), &body.to_string()).await?;
                }
                Answer::Result { form, after, body } => {
                    if !after.is_zero() {
                        tokio::time::sleep(after).await;
                    }
                    match form {
                        Form::Json => self.json("200 OK", None, &body.to_string()).await?,
                        Form::Event => {
                            let event = chunk(&format!("event: message\ndata: {body}\n\n"));
                            self.write(&format!("{STREAM_HEAD}{event}0\r\n\r\n")).await?;
                        }
                    }
                }
                Answer::Events { session, next } => {
                    return Streaming::begin(self).await?.events(session, next).await;
                }
                Answer::Listen { acknowledgement } => {
                    let mut streaming = Streaming::begin(self).await?;
                    return streaming.listen(&acknowledgement.to_string()).await;
                }
            }
        }
        Ok(())
    }

    async fn request(&mut self) -> io::Result<Option<Request>> {
        let (bytes, mut request, framing) = loop {
            if let Some(parsed) = parse_head(&self.unread)? {
                break parsed;
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Err(bad("head: too long"));
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Ok(None);
            }
        };
        self.unread.drain(..bytes);
        self.body.begin(framing);
        loop {
            let taken = self.body.take(&self.unread)?;
            self.unread.drain(..taken);
            if self.body.is_done() {
                break;
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if self.body.length > BODY_BYTES_MAX as u64 {
            return Err(bad("body: too long"));
        }
        request.body = std::mem::take(&mut self.body.kept);
        Ok(Some(request))
    }

    async fn json(&mut self, status: &str, session: Option<&str>, body: &str) -> io::Result<()> {
        let session = session.map_or_else(String::new, |id| format!("mcp-session-id: {id}\r\n"));
        let length = body.len();
        self.write(&format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{session}content-length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes()).await
    }
}

/// A connection that has become a stream. It is counted as long as it lasts.
struct Streaming {
    connection: Connection,
}

impl Streaming {
    async fn begin(mut connection: Connection) -> io::Result<Self> {
        connection.write(&format!("{STREAM_HEAD}{}", chunk(": ready\n\n"))).await?;
        connection.replica.sessions.lock().streams_open += 1;
        Ok(Self { connection })
    }

    /// Tells what is due, one event after another, until the client leaves or the session ends.
    async fn events(mut self, session: u128, mut next: u64) -> io::Result<()> {
        loop {
            let every = self.connection.replica.event_every;
            let due = {
                let mut sessions = self.connection.replica.sessions.lock();
                sessions.find(session).map(|held| held.due(next, every))
            };
            let Some(due) = due else {
                return self.connection.write("0\r\n\r\n").await;
            };
            if self.client_leaves_before(due).await? {
                return Ok(());
            }
            let id = event_id(session, next);
            let told = json!({
                "jsonrpc": "2.0",
                "method": "notifications/message",
                "params": {"level": "info", "data": {"stream": sessions::text(session), "number": next}},
            });
            let event = format!("event: message\nid: {id}\ndata: {told}\n\n");
            self.connection.write(&chunk(&event)).await?;
            next += 1;
        }
    }

    async fn listen(&mut self, acknowledgement: &str) -> io::Result<()> {
        let event = format!("event: message\ndata: {acknowledgement}\n\n");
        self.connection.write(&chunk(&event)).await?;
        loop {
            let due = std::time::Instant::now() + COMMENT_EVERY;
            if self.client_leaves_before(due).await? {
                return Ok(());
            }
            self.connection.write(&chunk(": alive\n\n")).await?;
        }
    }

    async fn client_leaves_before(&mut self, due: std::time::Instant) -> io::Result<bool> {
        let mut ignored = [0; 64];
        loop {
            tokio::select! {
                read = self.connection.stream.read(&mut ignored) => {
                    if read? == 0 {
                        return Ok(true);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => return Ok(false),
            }
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.connection.replica.sessions.lock().streams_open -= 1;
    }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<(usize, Request, Framing)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(bytes) = head.parse(bytes).map_err(|_| bad("head"))? else {
        return Ok(None);
    };
    let value = |name: &str| {
        let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(field.value).into_owned())
    };
    let request = Request {
        verb: match head.method {
            Some("POST") => Verb::Post,
            Some("GET") => Verb::Get,
            Some("DELETE") => Verb::Delete,
            _ => Verb::Other,
        },
        path: head.path.unwrap_or_default().to_owned(),
        session: value("mcp-session-id"),
        last_event: value("last-event-id"),
        revision_field: value("mcp-protocol-version"),
        method_field: value("mcp-method"),
        name_field: value("mcp-name"),
        body: Vec::new(),
    };
    Ok(Some((bytes, request, wire::framing(head.headers)?)))
}
