//! The body framing of HTTP/1.1 as both ends of the load test read it: pieces in, payload out, nothing else kept.

use std::io::{self, IoSlice};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What surrounds the one message of an SSE answer; both ends must agree on its length.
pub(crate) const EVENT_OPEN: &str = "event: message\ndata: ";
pub(crate) const EVENT_CLOSE: &str = "\n\n";

/// How the body of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// Reads the framing from the header fields; a message that names neither form has no body.
pub(crate) fn framing(headers: &[httparse::Header<'_>]) -> io::Result<Framing> {
    let mut found = Framing::Length(0);
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).map_err(|_| bad("Content-Length"))?;
            found = Framing::Length(text.parse().map_err(|_| bad("Content-Length"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Framing::Chunked);
        }
    }
    Ok(found)
}

/// A body on its way in. Its length is counted in full, but only its first bytes are kept, so that a body of any size costs little.
#[derive(Debug)]
pub(crate) struct Body {
    stage: Stage,
    pub(crate) kept: Vec<u8>,
    kept_bytes_max: usize,
    pub(crate) length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Plain(u64),
    Size(Option<u64>),
    SizeRest(u64),
    Chunk(u64),
    ChunkEnd,
    Trailer { line_bytes: u64 },
    Done,
}

impl Body {
    pub(crate) fn new(kept_bytes_max: usize) -> Self {
        Self { stage: Stage::Done, kept: Vec::new(), kept_bytes_max, length: 0 }
    }

    /// Begins the next body of the same connection; the memory is used again.
    pub(crate) fn begin(&mut self, framing: Framing) {
        self.kept.clear();
        self.length = 0;
        self.stage = match framing {
            Framing::Length(0) => Stage::Done,
            Framing::Length(bytes) => Stage::Plain(bytes),
            Framing::Chunked => Stage::Size(None),
        };
    }

    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Takes what belongs to this body and returns how many bytes that was.
    pub(crate) fn take(&mut self, input: &[u8]) -> io::Result<usize> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            match self.stage {
                Stage::Plain(left) => {
                    let taken = self.payload(&input[at..], left);
                    at += taken;
                    let left = left - taken as u64;
                    self.stage = if left == 0 { Stage::Done } else { Stage::Plain(left) };
                }
                Stage::Chunk(left) => {
                    let taken = self.payload(&input[at..], left);
                    at += taken;
                    let left = left - taken as u64;
                    self.stage = if left == 0 { Stage::ChunkEnd } else { Stage::Chunk(left) };
                }
                stage => {
                    self.stage = between_chunks(stage, input[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    fn payload(&mut self, input: &[u8], left: u64) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let kept = taken.min(self.kept_bytes_max - self.kept.len());
        self.kept.extend_from_slice(&input[..kept]);
        self.length += taken as u64;
        taken
    }
}

/// One byte of the lines around chunks: sizes, their extensions, and trailers.
fn between_chunks(stage: Stage, byte: u8) -> io::Result<Stage> {
    Ok(match (stage, byte) {
        (Stage::Size(size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit =
                char::from(byte).to_digit(16).map(u64::from).ok_or_else(|| bad("chunk size"))?;
            let larger = size.unwrap_or(0).checked_mul(16).ok_or_else(|| bad("chunk size"))?;
            Stage::Size(Some(larger + digit))
        }
        (Stage::Size(Some(size)), b';' | b'\r') => Stage::SizeRest(size),
        (Stage::SizeRest(0), b'\n') => Stage::Trailer { line_bytes: 0 },
        (Stage::SizeRest(size), b'\n') => Stage::Chunk(size),
        (Stage::SizeRest(_) | Stage::ChunkEnd, _) if byte != b'\n' => stage,
        (Stage::ChunkEnd, b'\n') => Stage::Size(None),
        (Stage::Trailer { line_bytes: 0 }, b'\n') => Stage::Done,
        (Stage::Trailer { .. }, b'\n') => Stage::Trailer { line_bytes: 0 },
        (Stage::Trailer { line_bytes }, b'\r') => Stage::Trailer { line_bytes },
        (Stage::Trailer { line_bytes }, _) => Stage::Trailer { line_bytes: line_bytes + 1 },
        _ => return Err(bad("chunk framing")),
    })
}

/// Writes two slices with as few system calls as the socket allows, without joining them in memory.
pub(crate) async fn write_both(
    stream: &mut TcpStream,
    first: &[u8],
    second: &[u8],
) -> io::Result<()> {
    let mut written = 0;
    while written < first.len() {
        let sent =
            stream.write_vectored(&[IoSlice::new(&first[written..]), IoSlice::new(second)]).await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        written += sent;
    }
    stream.write_all(&second[written - first.len()..]).await
}

pub(crate) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the input in pieces of every size and expects the same payload and the same rest each time.
    fn check(framing: Framing, input: &str, expected: Option<(&str, &str)>) {
        for piece_bytes in 1..=input.len() {
            let mut body = Body::new(1024);
            body.begin(framing);
            let mut consumed = 0;
            let mut failed = false;
            for piece in input.as_bytes().chunks(piece_bytes) {
                match body.take(piece) {
                    Ok(taken) => consumed += taken,
                    Err(_) => failed = true,
                }
                if failed || body.is_done() {
                    break;
                }
            }
            let read = (!failed && body.is_done())
                .then(|| (std::str::from_utf8(&body.kept).unwrap(), &input[consumed..]));
            assert_eq!(read, expected, "{framing:?} {input:?} in pieces of {piece_bytes}");
            if let Some((payload, _)) = expected {
                assert_eq!(body.length, payload.len() as u64);
            }
        }
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        check(Framing::Length(5), "hello", Some(("hello", "")));
        check(Framing::Length(5), "helloPOST", Some(("hello", "POST")));
        check(Framing::Length(6), "hello", None);
        check(Framing::Chunked, "5\r\nhello\r\n0\r\n\r\n", Some(("hello", "")));
        check(
            Framing::Chunked,
            "3;x=y\r\nhel\r\nA\r\nlo, world!\r\n0\r\n\r\nGET",
            Some(("hello, world!", "GET")),
        );
        check(Framing::Chunked, "1\r\nx\r\n0\r\nTrailer: y\r\n\r\n", Some(("x", "")));
        check(Framing::Chunked, "5\r\nhello\r\n", None);
        check(Framing::Chunked, "\r\n", None);
        check(Framing::Chunked, "g\r\n", None);
        check(Framing::Chunked, "11111111111111111\r\n", None);
    }

    #[test]
    fn only_the_first_bytes_are_kept() {
        let mut body = Body::new(4);
        body.begin(Framing::Length(10));
        assert_eq!(body.take(b"0123456789").ok(), Some(10));
        assert_eq!((body.kept.as_slice(), body.length, body.is_done()), (&b"0123"[..], 10, true));
    }
}
