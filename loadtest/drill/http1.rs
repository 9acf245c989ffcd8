//! The HTTP/1.1 side of a client: one keep-alive connection, closed between requests without a word, and never with one in flight.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::{Fault, Head, Request};
use crate::wire::{self, Body};

pub(crate) struct Http1 {
    address: SocketAddr,
    connection: Option<Connection>,
}

struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    body: Body,
    after: After,
}

/// What the answer's head said of the time after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    KeptAlive,
    Closed,
}

impl Http1 {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    pub(crate) async fn head(&mut self, request: &Request) -> Result<Head, Fault> {
        // Taken, so that a request that fails or is given up leaves no connection behind.
        let open = self.connection.take().filter(Connection::is_usable);
        let mut connection = match open {
            Some(connection) => connection,
            None => Connection::open(self.address)
                .await
                .map_err(|fault| Fault::Unconnected(fault.to_string()))?,
        };
        let bytes = self.text(request);
        let unanswered = |fault: io::Error| Fault::Unanswered(fault.to_string());
        connection.stream.write_all(bytes.as_bytes()).await.map_err(unanswered)?;
        let head = connection.head().await.map_err(unanswered)?;
        self.connection = Some(connection);
        Ok(head)
    }

    pub(crate) async fn part(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(None);
        };
        let part = connection.part().await.map_err(|fault| Fault::Cut(fault.to_string()))?;
        if part.is_some() || connection.after == After::KeptAlive {
            self.connection = Some(connection);
        }
        Ok(part)
    }

    fn text(&self, request: &Request) -> String {
        let Request { verb, path, fields, body } = request;
        let mut text = format!("{verb} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text.push_str("\r\n");
        text.push_str(body);
        text
    }
}

impl Connection {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let body = Body::new(usize::MAX);
        Ok(Self { stream, unread: Vec::new(), body, after: After::KeptAlive })
    }

    /// Whether the peer has left the connection open and said nothing unasked on it.
    fn is_usable(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        self.unread.is_empty()
            && self.body.is_done()
            && read.is_err_and(|fault| fault.kind() == io::ErrorKind::WouldBlock)
    }

    async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = self.parse_head()? {
                // An interim answer (RFC 9110 section 15.2) is not the answer.
                if head.status >= 200 {
                    return Ok(head);
                }
                continue;
            }
            self.fill().await?;
        }
    }

    async fn part(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let taken = self.body.take(&self.unread)?;
            self.unread.drain(..taken);
            if !self.body.kept.is_empty() {
                return Ok(Some(std::mem::take(&mut self.body.kept)));
            }
            if self.body.is_done() {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.unread).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn parse_head(&mut self) -> io::Result<Option<Head>> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(&self.unread).map_err(|_| wire::bad("answer head"))?;
        let httparse::Status::Complete(bytes) = parsed else {
            return Ok(None);
        };
        let value = |name: &str| {
            let mut fields = response.headers.iter();
            let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
            Some(String::from_utf8_lossy(field.value).into_owned())
        };
        let closes = value("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        let head = Head {
            status: response.code.unwrap_or_default(),
            session: value("mcp-session-id"),
            is_stream: value("content-type").is_some_and(|it| it.starts_with("text/event-stream")),
        };
        self.after = if closes { After::Closed } else { After::KeptAlive };
        self.body.begin(wire::framing(response.headers)?);
        self.unread.drain(..bytes);
        Ok(Some(head))
    }
}
