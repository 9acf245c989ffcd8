//! One exchange with an endpoint over HTTP/1.1, with buffers no larger than what passes through.
//!
//! Pingora's own client keeps 64 KiB for every answer that is streamed; a gateway holds tens of
//! thousands of idle streams. Connections still come from and go back to Pingora's pool.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use pingora::protocols::Stream;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 128;
/// Interim answers (1xx) before the real one.
const INTERIM_MAX: usize = 8;
/// Longest line of a chunk's size with its extension, and of all trailers together.
const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// A body up to this size is sent in one piece with its head.
const JOINED_BYTES_MAX: usize = 16 * 1024;
/// Read sizes grow from the first to the second while an endpoint fills them. A client that has
/// stopped to read holds the last of them.
const READ_BYTES: std::ops::RangeInclusive<usize> = FIRST_BYTES..=16 * 1024;
/// As much is read by way of the stack.
const FIRST_BYTES: usize = 1024;

/// An exchange on one connection.
pub(super) struct Http1 {
    stream: Stream,
    buffer: BytesMut,
    read_bytes: usize,
    framing: Framing,
    reusable: bool,
    heard: bool,
}

/// The head of an answer, its values borrowed from the buffer they arrived in.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    /// The body's length, where the endpoint says it.
    pub(super) length: Option<u64>,
}

/// The beginning of a body.
pub(super) struct Arrived {
    /// What is here.
    pub(super) part: Bytes,
    /// Whether that is all.
    pub(super) whole: bool,
}

/// Why an exchange failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The connection failed or ended.
    Io(std::io::ErrorKind),
    /// The endpoint broke HTTP.
    Framing(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Unknown,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

#[derive(Debug, PartialEq, Eq)]
enum Chunked {
    Size,
    Part(u64),
    PartEnd,
    Trailers(usize),
    Done,
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.kind())
    }
}

impl Http1 {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            read_bytes: *READ_BYTES.start(),
            framing: Framing::Unknown,
            reusable: false,
            heard: false,
        }
    }

    /// Sends a whole request.
    pub(super) async fn send(&mut self, mut head: Vec<u8>, body: &Bytes) -> Result<(), Broken> {
        if body.len() <= JOINED_BYTES_MAX {
            head.extend_from_slice(body);
            self.stream.write_all(&head).await?;
        } else {
            self.stream.write_all(&head).await?;
            self.stream.write_all(body).await?;
        }
        Ok(self.stream.flush().await?)
    }

    /// Whether the endpoint has sent anything: until then, a lost connection may have been lost
    /// before the request reached anyone.
    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    /// Reads the head of the final answer, into a buffer of `room` bytes at first.
    pub(super) async fn read_head(&mut self, room: usize) -> Result<Head, Broken> {
        let mut interim = 0;
        self.buffer.reserve(room);
        loop {
            if let Some(head) = self.parse_head()? {
                match head.status {
                    101 => return Err(Broken::Framing("switched protocols unasked")),
                    100..=199 if interim < INTERIM_MAX => interim += 1,
                    100..=199 => return Err(Broken::Framing("too many interim answers")),
                    _ => return Ok(head),
                }
                continue;
            }
            if self.buffer.len() >= HEAD_BYTES_MAX {
                return Err(Broken::Framing("head too large"));
            }
            self.buffer.reserve(1024);
            self.fill().await?;
        }
    }

    /// The next part of the body; `None` at its end. May be dropped while it waits.
    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(part) = self.decode()? {
                return Ok(Some(part));
            }
            if self.framing == Framing::Done {
                return Ok(None);
            }
            let filled = match self.framing {
                // What is sure to come may have its room at once.
                Framing::Length(left) => {
                    self.buffer.reserve(left.min(*READ_BYTES.end() as u64) as usize);
                    self.fill().await
                }
                _ if self.read_bytes > FIRST_BYTES => {
                    self.buffer.reserve(self.read_bytes);
                    self.fill().await
                }
                _ => self.fill_when_it_comes().await,
            };
            match filled {
                Ok(()) => {}
                Err(Broken::Io(std::io::ErrorKind::UnexpectedEof))
                    if self.framing == Framing::UntilClose =>
                {
                    self.framing = Framing::Done;
                }
                Err(broken) => return Err(broken),
            }
        }
    }

    /// What has arrived of the body together with the head, without waiting for more.
    pub(super) fn arrived(&mut self) -> Result<Arrived, Broken> {
        let part = self.decode()?.unwrap_or_default();
        Ok(Arrived { part, whole: self.framing == Framing::Done })
    }

    /// Whether the whole body has been handed out.
    pub(super) fn is_finished(&self) -> bool {
        self.framing == Framing::Done
    }

    /// The connection, if the next request may use it.
    pub(super) fn into_reusable(self) -> Option<Stream> {
        let clean = self.framing == Framing::Done && self.buffer.is_empty();
        (self.reusable && clean).then_some(self.stream)
    }

    async fn fill(&mut self) -> Result<(), Broken> {
        let room = self.buffer.capacity() - self.buffer.len();
        let read = self.stream.read_buf(&mut self.buffer).await?;
        self.has_read(read, room)
    }

    /// The next bytes, which may not come for hours: until they do, nothing is held for them.
    async fn fill_when_it_comes(&mut self) -> Result<(), Broken> {
        let Self { stream, buffer, .. } = self;
        let read = poll_fn(|cx| {
            let mut first = [0; FIRST_BYTES];
            let mut first = ReadBuf::new(&mut first);
            let polled = Pin::new(&mut *stream).poll_read(cx, &mut first);
            if polled.is_pending() && buffer.is_empty() {
                *buffer = BytesMut::new();
            }
            buffer.extend_from_slice(first.filled());
            polled.map_ok(|()| first.filled().len())
        });
        let read = read.await?;
        self.has_read(read, FIRST_BYTES)
    }

    fn has_read(&mut self, read: usize, room: usize) -> Result<(), Broken> {
        if read == 0 {
            return Err(Broken::Io(std::io::ErrorKind::UnexpectedEof));
        }
        self.heard = true;
        self.read_bytes = if read >= room {
            (self.read_bytes * 2).min(*READ_BYTES.end())
        } else {
            read.next_power_of_two().clamp(*READ_BYTES.start(), self.read_bytes)
        };
        Ok(())
    }

    fn parse_head(&mut self) -> Result<Option<Head>, Broken> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        let length = match answer.parse(&self.buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Broken::Framing("malformed head")),
        };
        let status = answer.code.unwrap_or_default();
        let start = self.buffer.as_ptr() as usize;
        // Where each value lies, so that it can be cut out of the buffer without a copy.
        let mut spans = Vec::with_capacity(answer.headers.len());
        for field in answer.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes())
                .map_err(|_| Broken::Framing("malformed field name"))?;
            let at = field.value.as_ptr() as usize - start;
            spans.push((name, at..at + field.value.len()));
        }
        let is_http11 = answer.version == Some(1);
        let bytes = self.buffer.split_to(length).freeze();
        let mut fields = Vec::with_capacity(spans.len());
        for (name, span) in spans {
            let value = HeaderValue::from_maybe_shared(bytes.slice(span))
                .map_err(|_| Broken::Framing("malformed field value"))?;
            fields.push((name, value));
        }
        if status < 200 {
            return Ok(Some(Head { status, fields, length: None }));
        }
        let length = self.frame(status, is_http11, &fields)?;
        Ok(Some(Head { status, fields, length }))
    }

    /// Decides how the body ends (RFC 9112 section 6.3); every doubt is the endpoint's fault.
    fn frame(
        &mut self,
        status: u16,
        is_http11: bool,
        fields: &[(HeaderName, HeaderValue)],
    ) -> Result<Option<u64>, Broken> {
        let mut length = None;
        let mut chunked = false;
        let mut close = !is_http11;
        for (name, value) in fields {
            if name == http::header::CONTENT_LENGTH {
                let value = decimal(value.as_bytes()).ok_or(Broken::Framing("bad length"))?;
                if length.is_some_and(|before| before != value) {
                    return Err(Broken::Framing("two lengths"));
                }
                length = Some(value);
            } else if name == http::header::TRANSFER_ENCODING {
                if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Broken::Framing("unknown transfer coding"));
                }
                chunked = true;
            } else if name == http::header::CONNECTION {
                let mut options = value.as_bytes().split(|byte| *byte == b',');
                close |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        if chunked && length.is_some() {
            return Err(Broken::Framing("length and chunks"));
        }
        let is_bodiless = status == 204 || status == 304;
        self.framing = match length {
            _ if is_bodiless => Framing::Done,
            Some(0) => Framing::Done,
            Some(length) => Framing::Length(length),
            None if chunked => Framing::Chunked(Chunked::Size),
            None => Framing::UntilClose,
        };
        // A body where none belongs would be read as the next caller's answer.
        let may_follow = is_bodiless && (chunked || length.is_some_and(|length| length > 0));
        self.reusable = !close && !may_follow && self.framing != Framing::UntilClose;
        Ok(if self.framing == Framing::Done { Some(0) } else { length })
    }

    fn decode(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.framing {
            Framing::Unknown | Framing::Done => Ok(None),
            Framing::UntilClose => {
                let part = self.buffer.split();
                Ok((!part.is_empty()).then(|| part.freeze()))
            }
            Framing::Length(left) => {
                let here = (self.buffer.len() as u64).min(*left);
                *left -= here;
                if *left == 0 {
                    self.framing = Framing::Done;
                }
                let part = self.buffer.split_to(here as usize);
                Ok((!part.is_empty()).then(|| part.freeze()))
            }
            Framing::Chunked(chunked) => {
                let part = chunked.decode(&mut self.buffer)?;
                if *chunked == Chunked::Done {
                    self.framing = Framing::Done;
                }
                Ok(part.map(BytesMut::freeze))
            }
        }
    }
}

impl Chunked {
    /// Takes all the payload that is in `buffer`, in one piece.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, Broken> {
        let mut payload: Option<BytesMut> = None;
        loop {
            match self {
                Self::Size => {
                    let Some(line) = line(buffer)? else { break };
                    *self = match chunk_size(&line)? {
                        0 => Self::Trailers(0),
                        size => Self::Part(size),
                    };
                }
                Self::Part(left) => {
                    let here = (buffer.len() as u64).min(*left) as usize;
                    if here == 0 {
                        break;
                    }
                    let part = buffer.split_to(here);
                    match &mut payload {
                        None => payload = Some(part),
                        Some(payload) => payload.extend_from_slice(&part),
                    }
                    *left -= here as u64;
                    if *left == 0 {
                        *self = Self::PartEnd;
                    }
                }
                Self::PartEnd => {
                    if buffer.len() < 2 {
                        break;
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(Broken::Framing("chunk without its end"));
                    }
                    buffer.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers(read) => {
                    let Some(line) = line(buffer)? else { break };
                    *read += line.len();
                    if *read > CHUNK_LINE_BYTES_MAX {
                        return Err(Broken::Framing("trailers too large"));
                    }
                    if line.is_empty() {
                        *self = Self::Done;
                    }
                }
                Self::Done => break,
            }
        }
        Ok(payload)
    }
}

/// Cuts a line with its CRLF off the buffer.
fn line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Broken> {
    match memchr::memchr(b'\n', buffer) {
        Some(at) if at > 0 && buffer[at - 1] == b'\r' && at <= CHUNK_LINE_BYTES_MAX => {
            let mut line = buffer.split_to(at + 1);
            line.truncate(at - 1);
            Ok(Some(line))
        }
        Some(_) => Err(Broken::Framing("bad line in a chunked body")),
        None if buffer.len() > CHUNK_LINE_BYTES_MAX => Err(Broken::Framing("endless chunk line")),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Broken> {
    let bad = Broken::Framing("bad chunk size");
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let digits = line[..end].trim_ascii_end();
    if digits.is_empty() || digits.len() > 15 {
        return Err(bad);
    }
    digits.iter().try_fold(0, |size, digit| {
        let digit = (*digit as char).to_digit(16).ok_or(Broken::Framing("bad chunk size"))?;
        Ok(size * 16 + u64::from(digit))
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Broken, Http1};
    use bytes::Bytes;
    use pingora::protocols::Stream;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    /// Plays `wire` to a client in pieces of `step` bytes and returns what it understood.
    async fn exchange(wire: &[u8], step: usize) -> Result<(u16, Vec<u8>, bool), Broken> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let wire = wire.to_vec();
        let server = async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.set_nodelay(true).expect("no delay");
            for part in wire.chunks(step) {
                if stream.write_all(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            stream.shutdown().await.ok();
        };
        let client = async move {
            let stream = TcpStream::connect(address).await.expect("a server");
            let stream: Stream = Box::new(pingora::protocols::l4::stream::Stream::from(stream));
            let mut exchange = Http1::new(stream);
            exchange.send(b"GET / HTTP/1.1\r\n\r\n".to_vec(), &Bytes::new()).await?;
            let head = exchange.read_head(64).await?;
            let mut body = Vec::new();
            while let Some(part) = exchange.read_body().await? {
                body.extend_from_slice(&part);
            }
            Ok((head.status, body, exchange.into_reusable().is_some()))
        };
        tokio::join!(server, client).1
    }

    async fn check(wire: &str, expected: Result<(u16, &str, bool), Broken>) {
        for step in [1, 3, wire.len().max(1)] {
            let found = exchange(wire.as_bytes(), step).await;
            match (&found, &expected) {
                (Ok((status, body, reusable)), Ok((s, b, r))) => {
                    assert_eq!((*status, body.as_slice(), *reusable), (*s, b.as_bytes(), *r));
                }
                (Err(found), Err(expected)) => assert_eq!(found, expected, "{wire:?}"),
                _ => panic!("{wire:?} by {step}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[tokio::test]
    async fn answers_are_framed_as_rfc_9112_says() {
        let ok = "HTTP/1.1 200 OK\r\n";
        check(&format!("{ok}content-length: 5\r\n\r\nhello"), Ok((200, "hello", true))).await;
        check(
            &format!(
                "{ok}transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\na: b\r\n\r\n"
            ),
            Ok((200, "hello", true)),
        )
        .await;
        check(&format!("{ok}\r\nuntil the end"), Ok((200, "until the end", false))).await;
        check(&format!("{ok}connection: close\r\ncontent-length: 0\r\n\r\n"), Ok((200, "", false)))
            .await;
        check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", Ok((200, "x", false))).await;
        check("HTTP/1.1 204 None\r\ncontent-length: 5\r\n\r\n", Ok((204, "", false))).await;
        check("HTTP/1.1 304 Same\r\ncontent-length: 0\r\n\r\n", Ok((304, "", true))).await;
        check(
            "HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            Ok((204, "", true)),
        )
        .await;
    }

    #[tokio::test]
    async fn answers_in_doubt_are_broken() {
        let rows = [
            ("content-length: 1\r\ncontent-length: 2\r\n\r\n", "two lengths"),
            ("content-length: +1\r\n\r\n", "bad length"),
            ("content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "length and chunks"),
            ("transfer-encoding: gzip, chunked\r\n\r\n", "unknown transfer coding"),
            ("transfer-encoding: chunked\r\n\r\nx\r\n", "bad chunk size"),
            ("transfer-encoding: chunked\r\n\r\n\r\n", "bad chunk size"),
            ("transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", "chunk without its end"),
            ("transfer-encoding: chunked\r\n\r\n1\nab\n", "bad line in a chunked body"),
        ];
        for (rest, fault) in rows {
            check(&format!("HTTP/1.1 200 OK\r\n{rest}"), Err(Broken::Framing(fault))).await;
        }
        let eof = || Err(Broken::Io(std::io::ErrorKind::UnexpectedEof));
        check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", eof()).await;
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhell", eof()).await;
        check("", eof()).await;
        check("garbage\r\n\r\n", Err(Broken::Framing("malformed head"))).await;
        let switched = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
        check(switched, Err(Broken::Framing("switched protocols unasked"))).await;
    }
}
