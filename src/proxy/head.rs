//! Reads the raw head of an HTTP/1 request line by line, before Pingora's parser may be lenient.
//!
//! What passes has one meaning for every reader: CRLF line ends, one space between the parts of the
//! request line, no folded lines, one length or chunks but not both (RFC 9112 sections 2 to 6).

use super::strict::is_host;

/// Pingora's parser ends here; past it the client would get a bare 400.
const FIELDS_MAX: usize = 250;

/// A head as far as it has arrived.
#[derive(Default)]
pub(super) struct HeadScan {
    /// Where the next line starts.
    at: usize,
    lines: usize,
    is_http10: bool,
    hosts: usize,
    length: Option<usize>,
    has_coding: bool,
}

/// What is known of a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// Its end has not arrived.
    Partial,
    /// It is whole and has one meaning.
    Complete,
    /// It must be refused.
    Refused(Fault),
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It breaks HTTP, or leaves two readings.
    Malformed(&'static str),
    /// It has more fields than anyone needs.
    TooManyFields,
}

impl HeadScan {
    /// Goes on where it stopped; `bytes` are all bytes of the head so far.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        // What cannot become a method is not waited for: the rest of a body that was longer than
        // its head said, or a TLS handshake on a plain port.
        if self.lines == 0 && bytes.first().is_some_and(|first| !first.is_ascii_uppercase()) {
            return Scanned::Refused(Fault::Malformed("bad method"));
        }
        while let Some(length) = memchr::memchr(b'\n', &bytes[self.at..]) {
            let line = &bytes[self.at..self.at + length];
            let Some(line) = line.strip_suffix(b"\r") else {
                return Scanned::Refused(Fault::Malformed("line without CR"));
            };
            self.at += length + 1;
            self.lines += 1;
            let checked = match (self.lines, line) {
                (1, line) => self.request_line(line),
                (_, []) if self.length.is_some() && self.has_coding => Err("length and chunks"),
                (_, []) if self.is_http10 && self.has_coding => Err("chunks in HTTP/1.0"),
                (_, []) => return Scanned::Complete,
                (_, line) => self.field(line),
            };
            if let Err(what) = checked {
                return Scanned::Refused(Fault::Malformed(what));
            }
            if self.lines > FIELDS_MAX {
                return Scanned::Refused(Fault::TooManyFields);
            }
        }
        Scanned::Partial
    }

    /// How long the whole message is, once its head is complete; unknown for a body in chunks.
    pub(super) fn message_bytes(&self) -> Option<usize> {
        match self.has_coding {
            true => None,
            false => self.at.checked_add(self.length.unwrap_or(0)),
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("request line is not three parts");
        };
        if method.is_empty() || !method.iter().all(u8::is_ascii_uppercase) {
            return Err("bad method");
        }
        if !target.starts_with(b"/") || !target.iter().all(|byte| byte.is_ascii_graphic()) {
            return Err("bad target");
        }
        if target.contains(&b'#') {
            return Err("target with a fragment");
        }
        self.is_http10 = version == b"HTTP/1.0";
        if !self.is_http10 && version != b"HTTP/1.1" {
            return Err("bad version");
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let colon = memchr::memchr(b':', line).ok_or("field without colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            // A line that begins with a space continues the one before for some readers.
            return Err("bad field name");
        }
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return Err("control character in a field");
        }
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
            if self.hosts > 1 {
                return Err("two hosts");
            }
            if !is_host(value) {
                return Err("host is not a name and a port");
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let plain = value.iter().all(u8::is_ascii_digit)
                && (1..=15).contains(&value.len())
                && (value.len() == 1 || value[0] != b'0');
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            if !plain || self.length.is_some() || length.is_none() {
                return Err("bad content length");
            }
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.has_coding || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("bad transfer coding");
            }
            self.has_coding = true;
        }
        Ok(())
    }
}

/// A token character (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::{Fault, HeadScan, Scanned};

    fn check(head: &str, expected: Scanned) {
        assert_eq!(HeadScan::default().scan(head.as_bytes()), expected, "{head:?}");
        // Byte by byte it must come out the same.
        let mut scan = HeadScan::default();
        let mut last = Scanned::Partial;
        for end in 1..=head.len() {
            last = scan.scan(&head.as_bytes()[..end]);
            if last != Scanned::Partial {
                break;
            }
        }
        assert_eq!(last, expected, "{head:?} byte by byte");
    }

    #[test]
    fn whole_heads_pass_and_parts_wait() {
        check("POST /mcp HTTP/1.1\r\nhost: a\r\n\r\n", Scanned::Complete);
        check("GET / HTTP/1.0\r\n\r\n", Scanned::Complete);
        check("POST / HTTP/1.1\r\ncontent-length:0\r\n\r\n", Scanned::Complete);
        check("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nA: \r\n\r\n", Scanned::Complete);
        check("POST / HTTP/1.1\r\nhost: a\r\n", Scanned::Partial);
        check("P", Scanned::Partial);
    }

    #[test]
    fn heads_with_two_readings_are_refused() {
        let rows = [
            ("POST / HTTP/1.1\nhost: a\n\n", "line without CR"),
            ("POST / HTTP/1.1\r\nhost: a\n\r\n", "line without CR"),
            ("POST  / HTTP/1.1\r\n\r\n", "request line is not three parts"),
            ("POST / HTTP/1.1 \r\n\r\n", "request line is not three parts"),
            ("\r\nPOST / HTTP/1.1\r\n\r\n", "bad method"),
            ("onrpc\":\"2.0\"}", "bad method"),
            ("post / HTTP/1.1\r\n\r\n", "bad method"),
            ("POST http://a/ HTTP/1.1\r\n\r\n", "bad target"),
            ("OPTIONS * HTTP/1.1\r\n\r\n", "bad target"),
            ("POST /\u{e9} HTTP/1.1\r\n\r\n", "bad target"),
            ("POST /#a HTTP/1.1\r\n\r\n", "target with a fragment"),
            ("POST / HTTP/1.2\r\n\r\n", "bad version"),
            ("POST / HTTP/1.1\r\nhost\r\n\r\n", "field without colon"),
            ("POST / HTTP/1.1\r\nhost : a\r\n\r\n", "bad field name"),
            ("POST / HTTP/1.1\r\na: b\r\n c\r\n\r\n", "field without colon"),
            ("POST / HTTP/1.1\r\na: b\r\n c:d\r\n\r\n", "bad field name"),
            ("POST / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n", "two hosts"),
            ("POST / HTTP/1.1\r\nhost: a@b\r\n\r\n", "host is not a name and a port"),
            ("POST / HTTP/1.1\r\na: b\0c\r\n\r\n", "control character in a field"),
            ("POST / HTTP/1.1\r\na: b\rc\r\n\r\n", "control character in a field"),
            ("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n", "bad content length"),
            ("POST / HTTP/1.1\r\ncontent-length: 005\r\n\r\n", "bad content length"),
            ("POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", "bad content length"),
            (
                "POST / HTTP/1.1\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n",
                "bad content length",
            ),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "bad transfer coding"),
            ("POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n", "bad transfer coding"),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
                "length and chunks",
            ),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", "chunks in HTTP/1.0"),
        ];
        for (head, what) in rows {
            check(head, Scanned::Refused(Fault::Malformed(what)));
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
        assert_eq!(
            HeadScan::default().scan(many.as_bytes()),
            Scanned::Refused(Fault::TooManyFields)
        );
    }
}
