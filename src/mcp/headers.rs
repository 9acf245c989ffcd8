//! The MCP header fields: their names, what a request says in them, and how `Mcp-Name` is decoded.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// `MCP-Protocol-Version`, since 2025-06-18.
pub const MCP_PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// `Mcp-Session-Id`, legacy revisions only.
pub const MCP_SESSION_ID: &str = "mcp-session-id";
/// `Mcp-Method`, since 2026-07-28.
pub const MCP_METHOD: &str = "mcp-method";
/// `Mcp-Name`, since 2026-07-28.
pub const MCP_NAME: &str = "mcp-name";
/// `Last-Event-ID`, legacy stream resumption.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// What stands before a name in base64.
const ENCODED: &str = "=?base64?";

/// What the headers of a request claim about its body. Nothing here is believed before the body
/// said the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Claims<'h> {
    /// The value of `MCP-Protocol-Version`.
    pub version: Option<&'h str>,
    /// The value of `Mcp-Method`.
    pub method: Option<&'h str>,
    /// The value of `Mcp-Name`, still encoded.
    pub name: Option<&'h str>,
}

/// Decodes the `=?base64?...?=` form of SEP-2243. A value without the exact markers is literal;
/// one with them that is not base64 of UTF-8 is `None`.
pub fn decode_name(value: &str) -> Option<Cow<'_, str>> {
    let Some(encoded) = value.strip_prefix(ENCODED).and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(value));
    };
    let bytes = STANDARD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// A name as `Mcp-Name` carries it (SEP-2243): as it is where a field may hold it, else in base64.
pub fn encode_name(name: &str) -> Cow<'_, str> {
    let is_plain = name.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && name.trim() == name
        && !name.starts_with(ENCODED);
    match is_plain {
        true => Cow::Borrowed(name),
        false => format!("{ENCODED}{}?=", STANDARD.encode(name)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::decode_name;

    #[test]
    fn names_decode_as_sep_2243_says() {
        let rows: &[(&str, Option<&str>)] = &[
            ("plain", Some("plain")),
            ("=?base64?SGVsbG8=?=", Some("Hello")),
            ("=?base64?8J+YgA==?=", Some("😀")),
            ("=?base64??=", Some("")),
            // The markers are case-sensitive and both needed; anything else is a literal value.
            ("=?BASE64?SGVsbG8=?=", Some("=?BASE64?SGVsbG8=?=")),
            ("=?base64?SGVsbG8=", Some("=?base64?SGVsbG8=")),
            ("SGVsbG8=?=", Some("SGVsbG8=?=")),
            ("=?base64?not base64?=", None),
            ("=?base64?SGVsbG8?=", None),
            ("=?base64?/w==?=", None),
        ];
        for (value, expected) in rows {
            assert_eq!(decode_name(value).as_deref(), *expected, "{value}");
        }
    }
}
