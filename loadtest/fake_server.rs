//! A fake MCP server that costs as little as possible: prebuilt answers, chosen by the tool name, with the request's id put in.
//!
//! It reads JSON by looking for `"id"`, `"method"` and `"name"` in the first 64 KiB of the body and trusts what it finds,
//! so it is good for measuring and for nothing else. Tools: `json_250`, `json_16k`, `json_256k`, `json_8m`, `sse`; any other name is answered like `json_250`.

mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use clap::Parser;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use wire::{Body, Framing, bad};

#[derive(Parser)]
#[command(about = "A fake MCP server of both eras for load tests.")]
struct Flags {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// How many further tools `tools/list` names: json_250_0000, json_250_0001, ...
    #[arg(long, default_value_t = 0)]
    tools: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let tools: Arc<str> = tools(flags.tools).into();
    let listener = TcpListener::bind(flags.listen).await?;
    loop {
        // Out of file descriptors is the usual failure; the connections that exist must go on.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        let tools = Arc::clone(&tools);
        #[expect(
            clippy::disallowed_methods,
            reason = "a stand-alone program without Pingora services"
        )]
        tokio::spawn(async move {
            // A connection that fails is the load generator's to count.
            drop(Connection::new(stream, tools).serve().await);
        });
    }
}

const BUFFER_BYTES: usize = 64 * 1024;
const SESSION: &str = "5f0c3a52-7d1e-4b9a-9c55-0a1b2c3d4e5f";
const RESULT_OPEN: &str =
    r#","result":{"resultType":"complete","content":[{"type":"text","text":""#;
const RESULT_CLOSE: &str = r#""}]}}"#;

/// The end of every result: text, then the closing brackets. An answer takes as much of its end as it needs, so one copy serves all lengths.
static ENDING: LazyLock<Vec<u8>> =
    LazyLock::new(|| [&vec![b'x'; 8 * 1024 * 1024], RESULT_CLOSE.as_bytes()].concat());

struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    body: Body,
    out: Vec<u8>,
    tools: Arc<str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Post,
    Get,
    Delete,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SessionClaim {
    AbsentOrOurs,
    Foreign,
}

struct Head {
    bytes: usize,
    verb: Verb,
    framing: Framing,
    session: SessionClaim,
}

impl Connection {
    fn new(stream: TcpStream, tools: Arc<str>) -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self {
            stream,
            buffer,
            start: 0,
            end: 0,
            body: Body::new(BUFFER_BYTES),
            out: Vec::with_capacity(4096),
            tools,
        }
    }

    async fn serve(mut self) -> io::Result<()> {
        while let Some(head) = self.read_head().await? {
            self.read_body(&head).await?;
            self.out.clear();
            match (head.session, head.verb) {
                (SessionClaim::Foreign, _) => {
                    self.answer_error("404 Not Found", -32001, "no such session").await?
                }
                (_, Verb::Post) => self.answer_post().await?,
                (_, Verb::Get) => return self.idle_stream().await,
                (_, Verb::Delete) => self.answer_empty("200 OK").await?,
                (_, Verb::Other) => self.answer_empty("405 Method Not Allowed").await?,
            }
        }
        Ok(())
    }

    async fn read_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(head) = parse_head(&self.buffer[self.start..self.end])? {
                return Ok(Some(head));
            }
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                return Err(bad("head: too long"));
            }
            let read = self.stream.read(&mut self.buffer[self.end..]).await?;
            if read == 0 {
                return Ok(None);
            }
            self.end += read;
        }
    }

    async fn read_body(&mut self, head: &Head) -> io::Result<()> {
        self.body.begin(head.framing);
        self.start += head.bytes;
        self.start += self.body.take(&self.buffer[self.start..self.end])?;
        while !self.body.is_done() {
            self.end = self.stream.read(&mut self.buffer).await?;
            if self.end == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.start = self.body.take(&self.buffer[..self.end])?;
        }
        Ok(())
    }

    async fn answer_post(&mut self) -> io::Result<()> {
        let Some(id) = value_of(&self.body.kept, br#""id""#) else {
            return self.answer_empty("202 Accepted").await;
        };
        let id = id.to_owned();
        match value_of(&self.body.kept, br#""method""#) {
            Some(br#""tools/call""#) => match value_of(&self.body.kept, br#""name""#) {
                Some(br#""json_16k""#) => self.answer_result(&id, 16 * 1024).await,
                Some(br#""json_256k""#) => self.answer_result(&id, 256 * 1024).await,
                Some(br#""json_8m""#) => self.answer_result(&id, 8 * 1024 * 1024).await,
                Some(br#""sse""#) => self.answer_event(&id).await,
                _ => self.answer_result(&id, 250).await,
            },
            Some(br#""initialize""#) => {
                self.answer_fixed(&id, &format!("mcp-session-id: {SESSION}\r\n"), INITIALIZED).await
            }
            Some(br#""server/discover""#) => self.answer_fixed(&id, "", DISCOVERED).await,
            Some(br#""tools/list""#) => {
                let tools = Arc::clone(&self.tools);
                self.answer_fixed(&id, "", &tools).await
            }
            Some(br#""ping""#) => self.answer_fixed(&id, "", "{}").await,
            _ => self.answer_error("404 Not Found", -32601, "no such method").await,
        }
    }

    /// Answers one JSON object of exactly this many bytes.
    async fn answer_result(&mut self, id: &[u8], length: usize) -> io::Result<()> {
        let ending = ending(id, length);
        self.out.extend_from_slice(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ",
        );
        self.out.extend_from_slice((message_open_bytes(id) + ending.len()).to_string().as_bytes());
        self.out.extend_from_slice(b"\r\n\r\n");
        self.message_open(id);
        if length > 1024 {
            return wire::write_both(&mut self.stream, &self.out, ending).await;
        }
        self.out.extend_from_slice(ending);
        self.stream.write_all(&self.out).await
    }

    /// Answers a stream of one event whose message has 250 bytes.
    async fn answer_event(&mut self, id: &[u8]) -> io::Result<()> {
        let ending = ending(id, 250);
        let length = wire::EVENT_OPEN.len()
            + message_open_bytes(id)
            + ending.len()
            + wire::EVENT_CLOSE.len();
        self.out.extend_from_slice(STREAM_HEAD.as_bytes());
        self.out.extend_from_slice(format!("{length:x}\r\n").as_bytes());
        self.out.extend_from_slice(wire::EVENT_OPEN.as_bytes());
        self.message_open(id);
        self.out.extend_from_slice(ending);
        self.out.extend_from_slice(wire::EVENT_CLOSE.as_bytes());
        self.out.extend_from_slice(b"\r\n0\r\n\r\n");
        self.stream.write_all(&self.out).await
    }

    fn message_open(&mut self, id: &[u8]) {
        self.out.extend_from_slice(MESSAGE_OPEN.as_bytes());
        self.out.extend_from_slice(id);
        self.out.extend_from_slice(RESULT_OPEN.as_bytes());
    }

    async fn answer_fixed(&mut self, id: &[u8], header: &str, result: &str) -> io::Result<()> {
        let id = String::from_utf8_lossy(id);
        let body = format!(r#"{MESSAGE_OPEN}{id},"result":{result}}}"#);
        self.answer_text("200 OK", header, &body).await
    }

    async fn answer_error(&mut self, status: &str, code: i32, text: &str) -> io::Result<()> {
        let id = value_of(&self.body.kept, br#""id""#).unwrap_or(b"null");
        let id = String::from_utf8_lossy(id);
        let body = format!(r#"{MESSAGE_OPEN}{id},"error":{{"code":{code},"message":"{text}"}}}}"#);
        self.answer_text(status, "", &body).await
    }

    async fn answer_text(&mut self, status: &str, header: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{header}content-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(text.as_bytes()).await
    }

    async fn answer_empty(&mut self, status: &str) -> io::Result<()> {
        self.stream
            .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
            .await
    }

    /// A GET stream says that it is there and then nothing until the client leaves.
    async fn idle_stream(mut self) -> io::Result<()> {
        self.stream.write_all(format!("{STREAM_HEAD}9\r\n: ready\n\n\r\n").as_bytes()).await?;
        self.buffer = Box::new([0; 64]);
        self.body = Body::new(0);
        while self.stream.read(&mut self.buffer).await? > 0 {}
        Ok(())
    }
}

const MESSAGE_OPEN: &str = r#"{"jsonrpc":"2.0","id":"#;
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"fake","version":"1.0.0"}}"#;
const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"serverInfo":{"name":"fake","version":"1.0.0"},"ttlMs":60000,"cacheScope":"public"}"#;

/// What `tools/list` answers: the tools that have an answer of their own, and as many more as were asked for.
fn tools(further: u32) -> String {
    let own = ["json_250", "json_16k", "json_256k", "json_8m", "sse"].map(str::to_owned);
    let names = own.into_iter().chain((0..further).map(|number| format!("json_250_{number:04}")));
    let tools: Vec<_> = names
        .map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#))
        .collect();
    let tools = tools.join(",");
    format!(r#"{{"resultType":"complete","tools":[{tools}],"ttlMs":60000,"cacheScope":"public"}}"#)
}

fn message_open_bytes(id: &[u8]) -> usize {
    MESSAGE_OPEN.len() + id.len() + RESULT_OPEN.len()
}

/// What makes a message of this length whole; a very long id makes the message longer than asked.
fn ending(id: &[u8], length: usize) -> &'static [u8] {
    let bytes = length.saturating_sub(message_open_bytes(id)).max(RESULT_CLOSE.len());
    &ENDING[ENDING.len() - bytes..]
}

fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(bytes) = request.parse(bytes).map_err(|_| bad("head"))? else {
        return Ok(None);
    };
    let verb = match request.method {
        Some("POST") => Verb::Post,
        Some("GET") => Verb::Get,
        Some("DELETE") => Verb::Delete,
        _ => Verb::Other,
    };
    let foreign = request.headers.iter().any(|header| {
        header.name.eq_ignore_ascii_case("mcp-session-id") && header.value != SESSION.as_bytes()
    });
    let session = if foreign { SessionClaim::Foreign } else { SessionClaim::AbsentOrOurs };
    Ok(Some(Head { bytes, verb, framing: wire::framing(request.headers)?, session }))
}

/// The value after the first appearance of a quoted key, as it stands in the text.
fn value_of<'a>(body: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = &body[memmem::find(body, key)? + key.len()..];
    let rest = &rest[rest.iter().position(|byte| !matches!(byte, b' ' | b':'))?..];
    let length = match rest.strip_prefix(b"\"") {
        Some(text) => memchr::memchr(b'"', text)? + 2,
        None => rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\r' | b'\n'))?,
    };
    Some(&rest[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_key() {
        let check = |body: &str, key: &str, expected: Option<&str>| {
            let found = value_of(body.as_bytes(), key.as_bytes())
                .map(|value| std::str::from_utf8(value).unwrap());
            assert_eq!(found, expected, "{key} in {body}");
        };
        check(r#"{"id":7,"method":"ping"}"#, r#""id""#, Some("7"));
        check(r#"{"method":"ping","id":7}"#, r#""id""#, Some("7"));
        check(r#"{"method": "ping", "id": "a-1" }"#, r#""id""#, Some(r#""a-1""#));
        check(r#"{"method": "ping"}"#, r#""method""#, Some(r#""ping""#));
        check(r#"{"method":"notifications/initialized"}"#, r#""id""#, None);
        check(r#"{"id"#, r#""id""#, None);
    }

    #[test]
    fn the_list_names_the_further_tools() {
        let check = |further: u32, expected: usize| {
            let list: serde_json::Value = serde_json::from_str(&tools(further)).unwrap();
            assert_eq!(list["tools"].as_array().unwrap().len(), expected);
        };
        check(0, 5);
        check(500, 505);
    }
}
