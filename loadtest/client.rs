//! One HTTP/1.1 connection of the load generator: what it sends is prebuilt, what it reads is checked.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::request::{Expected, Target};
use crate::wire::{self, Body, bad};

/// One connection to the endpoint.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    body: Body,
}

/// What the head of an answer says.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) session: Option<String>,
    pub(crate) closes: bool,
    pub(crate) names_retry: bool,
}

impl Head {
    /// Whether the gateway says that there is too much to do just now, and when to come again.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, 429 | 503) && self.names_retry
    }
}

const BUFFER_BYTES: usize = 64 * 1024;
/// The id of an answer must stand in its first bytes.
const KEPT_BYTES: usize = 1024;
/// Of an unknown server it may stand at the end, where small answers end.
const KEPT_OF_ANY_BYTES: usize = 64 * 1024;

impl Client {
    pub(crate) async fn connect(target: &Target) -> io::Result<Self> {
        Self::on(TcpStream::connect(target.address).await?, target)
    }

    /// The same with a receive buffer of so many bytes.
    pub(crate) async fn connect_narrowly(target: &Target, bytes: u32) -> io::Result<Self> {
        let socket = match target.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_recv_buffer_size(bytes)?;
        Self::on(socket.connect(target.address).await?, target)
    }

    fn on(stream: TcpStream, target: &Target) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        let kept_bytes = match target.expected {
            Expected::Length(_) => KEPT_BYTES,
            Expected::Any => KEPT_OF_ANY_BYTES,
        };
        Ok(Self { stream, buffer, start: 0, end: 0, body: Body::new(kept_bytes) })
    }

    /// Opens a session as a legacy client does and returns its id, and what the last answer said of the connection.
    pub(crate) async fn initialize(
        &mut self,
        target: &Target,
        id: &mut u64,
    ) -> io::Result<(String, Head)> {
        *id += 1;
        self.stream.write_all(target.initialize(*id).as_bytes()).await?;
        let head = self.answer().await?;
        if head.status != 200 {
            return Err(refused("initialize", head.status));
        }
        // A server without sessions names none.
        let session = head.session.unwrap_or_default();
        self.stream.write_all(target.initialized(&session).as_bytes()).await?;
        let head = self.answer().await?;
        if head.status == 202 {
            Ok((session, head))
        } else {
            Err(refused("notifications/initialized", head.status))
        }
    }

    /// Reads a whole answer; its body is then in `self.body`.
    pub(crate) async fn answer(&mut self) -> io::Result<Head> {
        let head = self.answer_head().await?;
        self.start += self.body.take(&self.buffer[self.start..self.end])?;
        while !self.body.is_done() {
            self.read(0).await?;
            self.start = self.body.take(&self.buffer[..self.end])?;
        }
        Ok(head)
    }

    pub(crate) async fn answer_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = self.parse_head()? {
                return Ok(head);
            }
            self.buffer.copy_within(self.start..self.end, 0);
            let unread = self.end - self.start;
            self.start = 0;
            self.read(unread).await?;
        }
    }

    async fn read(&mut self, from: usize) -> io::Result<()> {
        match self.stream.read(&mut self.buffer[from..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                self.end = from + bytes;
                Ok(())
            }
        }
    }

    fn parse_head(&mut self) -> io::Result<Option<Head>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed =
            response.parse(&self.buffer[self.start..self.end]).map_err(|_| bad("answer head"))?;
        let httparse::Status::Complete(bytes) = parsed else {
            return Ok(None);
        };
        let value = |name: &str| {
            response
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value)
        };
        let head = Head {
            status: response.code.unwrap_or(0),
            session: value("mcp-session-id").map(|id| String::from_utf8_lossy(id).into_owned()),
            names_retry: value("retry-after").is_some(),
            closes: value("connection").is_some_and(|option| option.eq_ignore_ascii_case(b"close")),
        };
        self.body.begin(wire::framing(response.headers)?);
        self.start += bytes;
        Ok(Some(head))
    }

    /// What is wrong with the answer that was just read; nothing if it is the right one.
    pub(crate) fn fault(&self, head: &Head, id: u64, expected: Expected) -> Option<String> {
        let kept = &self.body.kept;
        if head.status != 200 {
            return Some(format!("status {} {}", head.status, String::from_utf8_lossy(kept)));
        }
        if let Expected::Length(length) = expected
            && self.body.length != length
        {
            return Some(format!("{} bytes instead of {length}", self.body.length));
        }
        let text = id.to_string();
        let is_answer = memmem::find_iter(kept, br#""id":"#).any(|at| {
            let rest = kept[at + 5..].trim_ascii_start();
            rest.strip_prefix(text.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|byte| !byte.is_ascii_digit()))
        });
        if !is_answer {
            return Some(format!("the answer is not the one to {id}"));
        }
        let failed = expected == Expected::Any
            && (memmem::find(kept, br#""result":"#).is_none()
                || memmem::find(kept, br#""isError":true"#).is_some());
        failed.then(|| format!("the call failed: {}", String::from_utf8_lossy(kept)))
    }

    /// Whether the peer has closed: comments that keep a stream alive are read away.
    pub(crate) fn has_ended(&mut self) -> bool {
        loop {
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(fault) => return fault.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Gives the buffer for heads away: a thousand idle connections need not keep a thousand of them.
    pub(crate) fn shrink(&mut self) {
        self.buffer = Box::new([0; 64]);
        (self.start, self.end) = (0, 0);
    }
}

/// What is said where a step before the calls was not accepted.
pub(crate) fn refused(what: &str, status: u16) -> io::Error {
    io::Error::other(format!("{what} got {status}"))
}
