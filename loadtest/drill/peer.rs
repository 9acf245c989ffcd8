//! One client's way to one gateway: at most one connection, opened again as real clients do, over HTTP/1.1 or HTTP/2.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::http1::Http1;
use crate::http2::Http2;

/// Longer than any time limit that a drill configures; whoever waits as long waits for nothing.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request before it is put on a wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) verb: &'static str,
    pub(crate) path: String,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// What has come of an answer once its head is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) session: Option<String>,
    pub(crate) is_stream: bool,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

/// Why a request has no whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection, so nothing was sent.
    Unconnected(String),
    /// The request was written and the connection ended without an answer.
    Unanswered(String),
    /// The answer began and was not ended as its framing promised.
    Cut(String),
    /// Nothing came for longer than any limit.
    Silent,
    /// An answer with a status that is not the one of success.
    Status(u16, String),
    /// An answer of success with something else in it than what was asked for.
    Wrong(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconnected(why) => write!(out, "no connection: {why}"),
            Self::Unanswered(why) => write!(out, "no answer: {why}"),
            Self::Cut(why) => write!(out, "answer cut: {why}"),
            Self::Silent => write!(out, "nothing within {} s", PATIENCE.as_secs()),
            Self::Status(status, body) => write!(out, "status {status} {body}"),
            Self::Wrong(what) => write!(out, "wrong answer: {what}"),
        }
    }
}

pub(crate) enum Peer {
    Http1(Http1),
    Http2(Http2),
}

impl Peer {
    pub(crate) fn http1(address: SocketAddr) -> Self {
        Self::Http1(Http1::new(address))
    }

    /// Sends a request and waits for the head of its answer; the body is then read by `part`.
    pub(crate) async fn head(&mut self, request: &Request) -> Result<Head, Fault> {
        match self {
            Self::Http1(peer) => patiently(peer.head(request)).await,
            Self::Http2(peer) => patiently(peer.head(request)).await,
        }
    }

    /// The next part of the body as it arrives, `None` at its proper end.
    pub(crate) async fn part(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match self {
            Self::Http1(peer) => patiently(peer.part()).await,
            Self::Http2(peer) => patiently(peer.part()).await,
        }
    }

    /// Sends a request and reads its whole answer.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer, Fault> {
        let head = self.head(request).await?;
        let mut body = Vec::new();
        while let Some(part) = self.part().await? {
            body.extend_from_slice(&part);
        }
        Ok(Answer { head, body })
    }
}

impl Answer {
    /// The text of the body: the start of it, as a line of a report.
    pub(crate) fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(160).collect()
    }
}

async fn patiently<T>(wait: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or(Err(Fault::Silent))
}

/// A GET of the gateway's own pages or of a replica's, on a connection of its own.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> io::Result<Answer> {
    ask_once(address, "GET", path, Vec::new(), "").await
}

/// One request on a connection of its own.
pub(crate) async fn ask_once(
    address: SocketAddr,
    verb: &'static str,
    path: &str,
    fields: Vec<(&'static str, String)>,
    body: &str,
) -> io::Result<Answer> {
    let request = Request { verb, path: path.to_owned(), fields, body: body.to_owned() };
    let answer = Peer::http1(address).ask(&request).await;
    answer.map_err(|fault| io::Error::other(format!("{verb} {path}: {fault}")))
}
