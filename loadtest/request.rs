//! The requests of the load generator: built once, then only the id is changed.

use std::io;
use std::net::SocketAddr;

use clap::ValueEnum;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wire;

/// Ids have ten digits, so that each fits where the one before it stood, and no two requests of a run share one.
pub(crate) const ID_MIN: u64 = 1_000_000_000;
pub(crate) const IDS_PER_CONNECTION: u64 = 1_000_000;

/// The answer that the fake server is asked for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Answer {
    #[value(name = "250")]
    Json250,
    #[value(name = "16k")]
    Json16k,
    #[value(name = "256k")]
    Json256k,
    Sse,
}

impl Answer {
    fn tool(self) -> &'static str {
        match self {
            Self::Json250 => "json_250",
            Self::Json16k => "json_16k",
            Self::Json256k => "json_256k",
            Self::Sse => "sse",
        }
    }

    pub(crate) fn length(self) -> u64 {
        match self {
            Self::Json250 => 250,
            Self::Json16k => 16 * 1024,
            Self::Json256k => 256 * 1024,
            Self::Sse => (wire::EVENT_OPEN.len() + 250 + wire::EVENT_CLOSE.len()) as u64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    Legacy,
    Modern,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    Length,
    Chunked,
}

/// What is asked, of whom, and how.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) fields: String,
    pub(crate) era: Era,
    pub(crate) answer: Answer,
    /// What stands before the tool's own name.
    pub(crate) prefix: String,
    pub(crate) request_bytes: usize,
    pub(crate) transfer: Transfer,
}

impl Target {
    pub(crate) fn initialize(&self, id: u64) -> String {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"load","version":"1.0.0"}}}}}}"#
        );
        self.post("", &body)
    }

    pub(crate) fn initialized(&self, session: &str) -> String {
        self.post(
            &legacy_fields(session),
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        )
    }

    pub(crate) fn stream(&self, session: &str) -> String {
        let Self { authority, path, fields, .. } = self;
        let session = legacy_fields(session);
        format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n{fields}{session}\r\n"
        )
    }

    fn post(&self, fields: &str, body: &str) -> String {
        let length = body.len();
        format!("{}{fields}Content-Length: {length}\r\n\r\n{body}", self.post_head())
    }

    fn post_head(&self) -> String {
        let Self { authority, path, fields, .. } = self;
        format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{fields}"
        )
    }

    fn tool(&self) -> String {
        format!("{}{}", self.prefix, self.answer.tool())
    }

    fn call_open(&self) -> String {
        let tool = self.tool();
        format!(
            r#"{{"jsonrpc":"2.0","id":{ID_MIN},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":""#
        )
    }

    fn call_close(&self) -> &'static str {
        match self.era {
            Era::Legacy => r#""}}}"#,
            Era::Modern => {
                r#""},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#
            }
        }
    }

    /// The part of every call that does not change, which all connections share: the filler and the end of the body.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let close = self.call_close();
        let filler = self.request_bytes.saturating_sub(self.call_open().len() + close.len());
        let mut tail = vec![b'x'; filler];
        tail.extend_from_slice(close.as_bytes());
        if self.transfer == Transfer::Chunked {
            tail.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        tail
    }
}

fn legacy_fields(session: &str) -> String {
    format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
}

/// One connection's call: the head and the body up to the filler; a short tail is joined to it, a long one is shared.
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    id_at: usize,
    tail: Tail,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    Joined,
    Shared,
}

impl Outgoing {
    pub(crate) fn new(target: &Target, session: Option<&str>, tail: &[u8]) -> Self {
        let tool = target.tool();
        let fields = match session {
            Some(session) => legacy_fields(session),
            None => format!(
                "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
            ),
        };
        let open = target.call_open();
        let framing = match target.transfer {
            Transfer::Length => format!("Content-Length: {}\r\n\r\n", open.len() + tail.len()),
            Transfer::Chunked => {
                let length = open.len() + tail.len() - b"\r\n0\r\n\r\n".len();
                format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n")
            }
        };
        let mut bytes = format!("{}{fields}{framing}", target.post_head()).into_bytes();
        let id_at = bytes.len() + r#"{"jsonrpc":"2.0","id":"#.len();
        bytes.extend_from_slice(open.as_bytes());
        if tail.len() > 16 * 1024 {
            return Self { bytes, id_at, tail: Tail::Shared };
        }
        bytes.extend_from_slice(tail);
        Self { bytes, id_at, tail: Tail::Joined }
    }

    pub(crate) fn set_id(&mut self, id: u64) {
        let mut rest = id;
        for digit in self.bytes[self.id_at..self.id_at + 10].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }

    pub(crate) async fn send(&self, stream: &mut TcpStream, tail: &[u8]) -> io::Result<()> {
        match self.tail {
            Tail::Joined => stream.write_all(&self.bytes).await,
            Tail::Shared => wire::write_both(stream, &self.bytes, tail).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(era: Era, transfer: Transfer, request_bytes: usize) {
        let target = Target {
            address: ([127, 0, 0, 1], 80).into(),
            authority: "127.0.0.1".to_owned(),
            path: "/mcp".to_owned(),
            fields: String::new(),
            era,
            answer: Answer::Json250,
            prefix: String::new(),
            request_bytes,
            transfer,
        };
        let tail = target.tail();
        let session = (era == Era::Legacy).then_some("a-session");
        let mut outgoing = Outgoing::new(&target, session, &tail);
        outgoing.set_id(1_234_567_890);
        let mut sent = outgoing.bytes.clone();
        if outgoing.tail == Tail::Shared {
            sent.extend_from_slice(&tail);
        }
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Request::new(&mut headers);
        let body_at = head.parse(&sent).unwrap().unwrap();
        let mut body = wire::Body::new(usize::MAX);
        body.begin(wire::framing(head.headers).unwrap());
        assert_eq!(body.take(&sent[body_at..]).unwrap(), sent.len() - body_at);
        assert!(body.is_done());
        assert_eq!(body.length, request_bytes as u64, "{era:?} {transfer:?}");
        let text = String::from_utf8(body.kept).unwrap();
        assert!(text.starts_with(r#"{"jsonrpc":"2.0","id":1234567890,"method":"tools/call""#));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert_eq!(text.contains("_meta"), era == Era::Modern);
    }

    #[test]
    fn a_call_has_the_length_and_the_id_that_were_asked_for() {
        for era in [Era::Legacy, Era::Modern] {
            for transfer in [Transfer::Length, Transfer::Chunked] {
                for request_bytes in [250, 16 * 1024, 256 * 1024] {
                    check(era, transfer, request_bytes);
                }
            }
        }
    }
}
