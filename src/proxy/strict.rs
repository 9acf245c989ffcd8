//! Refuses request heads that two readers could read differently, in both versions of HTTP.
//!
//! Each rule closes a way to show the gateway one request and the server another (RELIABILITY.md
//! section 1.2): what passes has one meaning.

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Version};
use pingora::http::RequestHeader;

use crate::mcp;

/// Fields that a request may carry once. A second copy could be the one the server believes.
const SINGLE: [&str; 11] = [
    "host",
    "authorization",
    "content-type",
    "content-length",
    "origin",
    "last-event-id",
    "expect",
    mcp::MCP_SESSION_ID,
    mcp::MCP_PROTOCOL_VERSION,
    mcp::MCP_METHOD,
    mcp::MCP_NAME,
];

/// The fields of [`SINGLE`] that mirror the body; in doubt they are a header mismatch.
const MIRRORS: [&str; 3] = [mcp::MCP_PROTOCOL_VERSION, mcp::MCP_METHOD, mcp::MCP_NAME];

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ambiguous {
    /// A rule of HTTP, or of caution.
    Head(&'static str),
    /// A field that mirrors the body, so that MCP has a code for it.
    Mirror(&'static str),
}

/// Checks the fields of a request.
pub(super) fn check(head: &RequestHeader) -> Result<(), Ambiguous> {
    let mut seen = [false; SINGLE.len()];
    for (name, value) in &head.headers {
        let name = name.as_str();
        // Servers behind CGI-like interfaces read `_` and `-` as the same.
        if name.as_bytes().contains(&b'_') {
            return Err(Ambiguous::Head("field name with an underscore"));
        }
        let Some(place) = SINGLE.iter().position(|single| *single == name) else { continue };
        if std::mem::replace(&mut seen[place], true) {
            return Err(in_field(name, "field given twice"));
        }
        if value.to_str().is_err() {
            return Err(in_field(name, "field value beyond visible ASCII"));
        }
    }
    check_host(head)?;
    check_connection(&head.headers)?;
    if !head.raw_path().starts_with(b"/") && !is_absolute_http2(head) {
        return Err(Ambiguous::Head("target not in origin form"));
    }
    if !head.raw_path().iter().all(|byte| byte.is_ascii_graphic()) {
        return Err(Ambiguous::Head("target beyond visible ASCII"));
    }
    Ok(())
}

/// Whether a value of `Host` has only the characters of a name or address with its port.
pub(super) fn is_host(value: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]%~".contains(byte);
    !value.is_empty() && value.iter().all(plain)
}

/// The host a request is for, as its head says it.
pub(super) fn authority(head: &RequestHeader) -> Option<&str> {
    match head.headers.get(HOST) {
        Some(host) => host.to_str().ok(),
        None => head.uri.authority().map(|authority| authority.as_str()),
    }
}

/// Whether a media type in `Content-Type` is JSON that everybody decodes alike.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let plain = headers
        .get(CONTENT_ENCODING)
        .is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let Some(Ok(value)) = headers.get(CONTENT_TYPE).map(HeaderValue::to_str) else { return false };
    let mut parts = value.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let utf8 = parts.all(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else { return true };
        !name.trim().eq_ignore_ascii_case("charset")
            || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    plain && utf8 && kind.eq_ignore_ascii_case("application/json")
}

/// Whether `Accept` takes this type; weights and parameters are not looked at.
pub(super) fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let family = wanted.split('/').next().unwrap_or_default();
    headers.get_all(http::header::ACCEPT).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|range| {
            let range = range.split(|byte| *byte == b';').next().unwrap_or_default();
            let range = range.trim_ascii();
            range.eq_ignore_ascii_case(wanted.as_bytes())
                || range == b"*/*"
                || range
                    .strip_suffix(b"/*")
                    .is_some_and(|found| found.eq_ignore_ascii_case(family.as_bytes()))
        })
    })
}

/// The value of a field that [`check`] has passed.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The credential, the only place where one is read.
pub(super) fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)
}

/// What a proxy says of the client's certificate. Said twice it names nobody.
pub(super) fn certificate<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    Some(if values.next().is_some() { b"" } else { first })
}

/// The web origin a browser speaks for.
pub(super) fn origin(headers: &HeaderMap) -> Option<&str> {
    // A value that is no text is an origin that nobody allowed.
    headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null"))
}

fn in_field(name: &str, what: &'static str) -> Ambiguous {
    match MIRRORS.contains(&name) {
        true => Ambiguous::Mirror(what),
        false => Ambiguous::Head(what),
    }
}

fn check_host(head: &RequestHeader) -> Result<(), Ambiguous> {
    let host = head.headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
    let authority = head.uri.authority().map(|authority| authority.as_str());
    match (host, authority) {
        (None, None) => Err(Ambiguous::Head("no host")),
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            Err(Ambiguous::Head("two hosts"))
        }
        (Some(host), _) => match is_host(host.as_bytes()) {
            true => Ok(()),
            false => Err(Ambiguous::Head("host is not a name and a port")),
        },
        (None, Some(_)) => Ok(()),
    }
}

/// `Connection` may name what belongs to the connection, and nothing that we read or forward: a
/// field that it names is dropped by some and kept by others.
fn check_connection(headers: &HeaderMap) -> Result<(), Ambiguous> {
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            let known = [&b""[..], b"close", b"keep-alive", b"te", b"upgrade", b"http2-settings"]
                .iter()
                .any(|known| option.eq_ignore_ascii_case(known));
            if !known {
                return Err(Ambiguous::Head("connection option names an end-to-end field"));
            }
        }
    }
    Ok(())
}

fn is_absolute_http2(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_2 && head.uri.path().starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::Ambiguous::{Head, Mirror};
    use super::{Ambiguous, accepts, check, is_json};
    use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
    use pingora::http::RequestHeader;

    fn head(fields: &[(&'static str, &[u8])]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/mcp", None).expect("a head");
        for (name, value) in fields {
            let value = http::HeaderValue::from_bytes(value).expect("a value");
            head.append_header(*name, value).expect("a field");
        }
        head
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        type Fields = &'static [(&'static str, &'static [u8])];
        let rows: &[(Fields, Result<(), Ambiguous>)] = &[
            (&[("host", b"a")], Ok(())),
            (&[("host", b"[::1]:80"), ("accept", b"a"), ("accept", b"b")], Ok(())),
            (&[("host", b"a"), ("connection", b"Keep-Alive, close")], Ok(())),
            (&[], Err(Head("no host"))),
            (&[("host", b"a"), ("host", b"a")], Err(Head("field given twice"))),
            (&[("host", b"a,b")], Err(Head("host is not a name and a port"))),
            (&[("host", b"a/b")], Err(Head("host is not a name and a port"))),
            (&[("host", b"")], Err(Head("host is not a name and a port"))),
            (&[("host", b"a"), ("mcp_method", b"x")], Err(Head("field name with an underscore"))),
            (
                &[("host", b"a"), ("mcp-method", b"x"), ("mcp-method", b"x")],
                Err(Mirror("field given twice")),
            ),
            (
                &[("host", b"a"), ("mcp-name", b"\xc3\xa9")],
                Err(Mirror("field value beyond visible ASCII")),
            ),
            (
                &[("host", b"a"), ("connection", b"mcp-session-id")],
                Err(Head("connection option names an end-to-end field")),
            ),
        ];
        for (fields, expected) in rows {
            assert_eq!(check(&head(fields)), *expected, "{fields:?}");
        }
    }

    #[test]
    fn json_is_json_in_one_encoding() {
        let rows = [
            ("application/json", "", true),
            ("Application/JSON; charset=UTF-8", "", true),
            ("application/json; charset=\"utf-8\"; x=y", "identity", true),
            ("application/json; charset=utf-16", "", false),
            ("application/json", "gzip", false),
            ("text/plain", "", false),
            ("application/jsonp", "", false),
        ];
        for (kind, coding, expected) in rows {
            let mut head = head(&[]);
            head.insert_header(CONTENT_TYPE, kind).expect("a field");
            if !coding.is_empty() {
                head.insert_header(CONTENT_ENCODING, coding).expect("a field");
            }
            assert_eq!(is_json(&head.headers), expected, "{kind} {coding}");
        }
    }

    #[test]
    fn accept_is_read_leniently() {
        let rows = [
            ("application/json, text/event-stream", true),
            ("text/event-stream;q=0.5,application/json", true),
            ("*/*", true),
            ("Text/*", true),
            ("application/json", false),
            ("text/html", false),
        ];
        for (value, expected) in rows {
            let mut head = head(&[]);
            head.insert_header(ACCEPT, value).expect("a field");
            assert_eq!(accepts(&head.headers, "text/event-stream"), expected, "{value}");
        }
    }
}
