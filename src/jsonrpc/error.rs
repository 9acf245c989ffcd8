//! Writes a JSON-RPC error as the body of an answer.

use super::id::Id;

/// The body is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// The body is JSON and not a JSON-RPC message.
pub const INVALID_REQUEST: i32 = -32600;
/// Nothing answers this method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// The method is known and its parameters are wrong.
pub const INVALID_PARAMS: i32 = -32602;
/// The fault is ours.
pub const INTERNAL_ERROR: i32 = -32603;

/// Whom an error answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo<'a> {
    /// The request with this id.
    Id(Id<'a>),
    /// A request whose id could not be read: JSON-RPC 2.0 wants `null`.
    Null,
    /// The same without the member, for peers that take MCP's schema (`id?: string | number`) at its word.
    Absent,
}

impl<'a> From<Option<Id<'a>>> for ReplyTo<'a> {
    fn from(id: Option<Id<'a>>) -> Self {
        id.map_or(Self::Null, Self::Id)
    }
}

/// A JSON-RPC error answer.
#[derive(Clone, Copy, Debug)]
pub struct ErrorBody<'a> {
    /// Whom it answers.
    pub reply_to: ReplyTo<'a>,
    /// A JSON-RPC or MCP error code.
    pub code: i32,
    /// Plain text; it is escaped here.
    pub message: &'a str,
    /// The `data` member, already JSON; it is written as it is.
    pub detail_json: Option<&'a str>,
}

impl ErrorBody<'_> {
    /// Appends the body to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"jsonrpc":"2.0","#);
        match self.reply_to {
            ReplyTo::Id(id) => {
                out.extend_from_slice(br#""id":"#);
                out.extend_from_slice(id.raw().as_bytes());
                out.push(b',');
            }
            ReplyTo::Null => out.extend_from_slice(br#""id":null,"#),
            ReplyTo::Absent => {}
        }
        out.extend_from_slice(br#""error":{"code":"#);
        write_integer(self.code, out);
        out.extend_from_slice(br#","message":"#);
        write_string(self.message, out);
        if let Some(detail) = self.detail_json {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(detail.as_bytes());
        }
        out.extend_from_slice(b"}}");
    }
}

fn write_integer(value: i32, out: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut first = digits.len();
    let mut rest = value.unsigned_abs();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        first -= 1;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[first..]);
}

fn write_string(value: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in value.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1f => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::{ErrorBody, Id, ReplyTo};

    fn check(error: ErrorBody<'_>, expected: &str) {
        let mut out = Vec::new();
        error.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_error_is_written_with_whom_it_answers() {
        let error =
            ErrorBody { reply_to: ReplyTo::Null, code: -32700, message: "no", detail_json: None };
        check(error, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}"#);
        check(
            ErrorBody { reply_to: ReplyTo::Absent, ..error },
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"no"}}"#,
        );
        check(
            ErrorBody { reply_to: Some(Id::checked(r#""a\/b""#)).into(), ..error },
            r#"{"jsonrpc":"2.0","id":"a\/b","error":{"code":-32700,"message":"no"}}"#,
        );
        check(
            ErrorBody { reply_to: None.into(), detail_json: Some(r#"{"supported":[]}"#), ..error },
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no","data":{"supported":[]}}}"#,
        );
    }

    #[test]
    fn codes_are_written_in_full() {
        for code in [0, 7, -1, 10, i32::MIN, i32::MAX] {
            check(
                ErrorBody { reply_to: ReplyTo::Absent, code, message: "", detail_json: None },
                &format!(r#"{{"jsonrpc":"2.0","error":{{"code":{code},"message":""}}}}"#),
            );
        }
    }

    #[test]
    fn messages_are_escaped_so_that_serde_json_reads_them_back() {
        let every_ascii: String = (0u8..128).map(char::from).collect();
        for message in [every_ascii.as_str(), "ü 🦀 \u{2028}", "\"},{\"id\":1"] {
            let mut out = Vec::new();
            ErrorBody { reply_to: ReplyTo::Absent, code: 1, message, detail_json: None }
                .write(&mut out);
            let tree: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(tree["error"]["message"], message);
        }
    }
}
