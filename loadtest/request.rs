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
    #[value(name = "8m")]
    Json8m,
    Sse,
}

impl Answer {
    pub(crate) fn tool(self) -> &'static str {
        match self {
            Self::Json250 => "json_250",
            Self::Json16k => "json_16k",
            Self::Json256k => "json_256k",
            Self::Json8m => "json_8m",
            Self::Sse => "sse",
        }
    }

    pub(crate) fn length(self) -> u64 {
        match self {
            Self::Json250 => 250,
            Self::Json16k => 16 * 1024,
            Self::Json256k => 256 * 1024,
            Self::Json8m => 8 * 1024 * 1024,
            Self::Sse => (wire::EVENT_OPEN.len() + 250 + wire::EVENT_CLOSE.len()) as u64,
        }
    }
}

/// How an answer is known to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The fake server's: exactly so many bytes.
    Length(u64),
    /// Any other server's: a result that is no error.
    Any,
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
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) fields: String,
    pub(crate) bearer: Option<String>,
    pub(crate) era: Era,
    pub(crate) tool: String,
    /// The arguments as JSON; without them a text that fills the request up.
    pub(crate) arguments: Option<String>,
    pub(crate) expected: Expected,
    pub(crate) request_bytes: usize,
    pub(crate) transfer: Transfer,
}

/// Over how many paths, tokens and tools the calls go, each with its number at the end of its name; with 1 the name stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) paths: u32,
    pub(crate) bearers: u32,
    pub(crate) tools: u32,
}

impl Spread {
    /// How many targets one of so many connections asks in turn, so that all connections together ask everything.
    pub(crate) fn targets_per_connection(self, connections: u32) -> u32 {
        self.paths.max(self.bearers).max(self.tools).div_ceil(connections)
    }
}

impl Target {
    /// The target of this number: names of one length, so that all requests have one length.
    pub(crate) fn numbered(&self, spread: Spread, number: u32) -> Self {
        let mut target = self.clone();
        if spread.paths > 1 {
            target.path = format!("{}/{}", self.path, number % spread.paths);
        }
        if let Some(bearer) = &self.bearer
            && spread.bearers > 1
        {
            target.bearer = Some(format!("{bearer}-{}", number % spread.bearers));
        }
        if spread.tools > 1 {
            target.tool = format!("{}_{:04}", self.tool, number % spread.tools);
        }
        target
    }

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
        let Self { authority, path, .. } = self;
        let fields = self.stream_fields(session);
        format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n")
    }

    /// The fields of a GET that opens a stream, whatever the version of HTTP.
    pub(crate) fn stream_fields(&self, session: &str) -> String {
        format!("Accept: text/event-stream\r\n{}{}", self.own_fields(), legacy_fields(session))
    }

    fn own_fields(&self) -> String {
        match &self.bearer {
            Some(token) => format!("Authorization: Bearer {token}\r\n{}", self.fields),
            None => self.fields.clone(),
        }
    }

    fn post(&self, fields: &str, body: &str) -> String {
        let length = body.len();
        format!("{}{fields}Content-Length: {length}\r\n\r\n{body}", self.post_head())
    }

    fn post_head(&self) -> String {
        let Self { authority, path, .. } = self;
        let fields = self.own_fields();
        format!(
            "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{fields}"
        )
    }

    fn call_open(&self) -> String {
        let tool = &self.tool;
        let text = if self.arguments.is_some() { "" } else { r#"{"text":""# };
        format!(
            r#"{{"jsonrpc":"2.0","id":{ID_MIN},"method":"tools/call","params":{{"name":"{tool}","arguments":{text}"#
        )
    }

    fn call_close(&self) -> String {
        let text = if self.arguments.is_some() { "" } else { r#""}"# };
        let meta = match self.era {
            Era::Legacy => "",
            Era::Modern => {
                r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#
            }
        };
        format!("{text}{meta}}}}}")
    }

    /// The part of every call that does not change, which all connections share: the arguments or the filler, and the end of the body.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let close = self.call_close();
        let mut tail = match &self.arguments {
            Some(arguments) => arguments.clone().into_bytes(),
            None => {
                let others = self.call_open().len() + close.len();
                vec![b'x'; self.request_bytes.saturating_sub(others)]
            }
        };
        tail.extend_from_slice(close.as_bytes());
        if self.transfer == Transfer::Chunked {
            tail.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        tail
    }
}

fn legacy_fields(session: &str) -> String {
    // A server without sessions names none.
    let named =
        if session.is_empty() { String::new() } else { format!("Mcp-Session-Id: {session}\r\n") };
    format!("{named}MCP-Protocol-Version: 2025-11-25\r\n")
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
        let tool = &target.tool;
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

    fn target(era: Era, transfer: Transfer, request_bytes: usize) -> Target {
        Target {
            address: ([127, 0, 0, 1], 80).into(),
            authority: "127.0.0.1".to_owned(),
            path: "/mcp".to_owned(),
            fields: String::new(),
            bearer: None,
            era,
            tool: "json_250".to_owned(),
            arguments: None,
            expected: Expected::Length(250),
            request_bytes,
            transfer,
        }
    }

    /// The length of the body that is sent, and its text.
    fn body_of(target: &Target) -> (u64, String) {
        let Target { era, .. } = *target;
        let tail = target.tail();
        let session = (era == Era::Legacy).then_some("a-session");
        let mut outgoing = Outgoing::new(target, session, &tail);
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
        (body.length, String::from_utf8(body.kept).unwrap())
    }

    fn check(era: Era, transfer: Transfer, request_bytes: usize) {
        let (length, text) = body_of(&target(era, transfer, request_bytes));
        assert_eq!(length, request_bytes as u64, "{era:?} {transfer:?}");
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

    #[test]
    fn own_arguments_stand_where_the_filler_would() {
        for era in [Era::Legacy, Era::Modern] {
            let mut target = target(era, Transfer::Length, 250);
            target.tool = "echo".to_owned();
            target.arguments = Some(r#"{"message":"hi"}"#.to_owned());
            let (_, text) = body_of(&target);
            let message: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(message["params"]["name"], "echo");
            assert_eq!(message["params"]["arguments"]["message"], "hi");
        }
    }

    #[test]
    fn calls_are_spread_over_all_names_and_keep_their_length() {
        let spread = Spread { paths: 3, bearers: 10, tools: 7 };
        let mut target = target(Era::Modern, Transfer::Length, 400);
        target.bearer = Some("key".to_owned());
        assert_eq!(spread.targets_per_connection(4), 3);
        let all: Vec<_> = (0..12).map(|number| target.numbered(spread, number)).collect();
        let count = |name: fn(&Target) -> String| {
            all.iter().map(name).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(count(|target| target.path.clone()), 3);
        assert_eq!(count(|target| target.bearer.clone().unwrap_or_default()), 10);
        assert_eq!(count(|target| target.tool.clone()), 7);
        assert!(all.iter().all(|numbered| body_of(numbered).0 == 400));
        let one = Spread { paths: 1, bearers: 1, tools: 1 };
        assert_eq!(target.numbered(one, 5).path, target.path, "one name stays as it is");
    }
}
