//! The head of a server's answer as the client sees it.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Version};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;

use super::answer::dress;
use super::context::Context;
use crate::mcp::MCP_SESSION_ID;

/// The head of an answer, from either version of HTTP.
pub(super) struct UpstreamHead {
    pub(super) status: u16,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    pub(super) length: Option<u64>,
}

impl UpstreamHead {
    /// Whether the body is a stream of events.
    pub(super) fn is_event_stream(&self) -> bool {
        self.is_of_type(b"text/event-stream")
    }

    /// Whether the body is one JSON text.
    pub(super) fn is_json(&self) -> bool {
        self.is_of_type(b"application/json")
    }

    fn is_of_type(&self, media_type: &[u8]) -> bool {
        let value = self.field(&CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(media_type)
    }

    /// The first field of this name.
    pub(super) fn field(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// The session id the server gives. Only an answer of success to `initialize` has a say in
    /// that: real servers put fresh ids on errors (SPEC.md section 2.7).
    pub(super) fn session_id(&self) -> Option<&HeaderValue> {
        let id = self.fields.iter().find(|(name, _)| name.as_str() == MCP_SESSION_ID);
        id.map(|(_, value)| value).filter(|_| (200..300).contains(&self.status))
    }
}

/// Builds the client's head. `sealed` is the gateway's own session id, where one was opened.
pub(super) fn response_filter(
    head: &UpstreamHead,
    sealed: Option<String>,
    session: &ServerSession,
    ctx: &Context,
) -> pingora::Result<Box<ResponseHeader>> {
    let mut answer = ResponseHeader::build_no_case(head.status, Some(head.fields.len() + 6))?;
    for (name, value) in &head.fields {
        if is_forwarded(name.as_str()) {
            answer.append_header(name.clone(), value.clone())?;
        }
    }
    match head.length {
        Some(length) if head.status != 204 && head.status != 304 => {
            answer.insert_header(CONTENT_LENGTH, length)?;
        }
        Some(_) => {}
        // HTTP/2 has frames, and HTTP/1.0 no chunks: there the body ends with the connection.
        None if session.is_http2() || session.req_header().version == Version::HTTP_10 => {}
        None => {
            answer.insert_header(http::header::TRANSFER_ENCODING, "chunked")?;
        }
    }
    if let Some(sealed) = sealed {
        answer.insert_header(MCP_SESSION_ID, sealed)?;
    }
    dress(&mut answer, session, ctx)?;
    Ok(Box::new(answer))
}

/// Whether a server's field goes on to the client: not what belongs to its connection, not its
/// session id, not cookies (the origin is the gateway's), not its own idea of who may read it.
fn is_forwarded(name: &str) -> bool {
    !matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "content-length"
            | "date"
            | "set-cookie"
            | "x-request-id"
            | "alt-svc"
            | "strict-transport-security"
            | MCP_SESSION_ID
    ) && !name.starts_with("access-control-")
}

#[cfg(test)]
mod tests {
    use super::{UpstreamHead, is_forwarded};
    use http::{HeaderName, HeaderValue};

    fn head(status: u16, name: &'static str, value: &'static str) -> UpstreamHead {
        let fields = vec![(HeaderName::from_static(name), HeaderValue::from_static(value))];
        UpstreamHead { status, fields, length: None }
    }

    #[test]
    fn a_session_id_counts_only_on_success() {
        assert!(head(200, "mcp-session-id", "a").session_id().is_some());
        assert!(head(400, "mcp-session-id", "a").session_id().is_none());
    }

    #[test]
    fn event_streams_are_known_by_their_type() {
        assert!(head(200, "content-type", "text/event-stream; charset=utf-8").is_event_stream());
        assert!(head(200, "content-type", "Text/Event-Stream").is_event_stream());
        assert!(!head(200, "content-type", "application/json").is_event_stream());
    }

    #[test]
    fn a_server_has_no_say_over_the_gateways_origin() {
        for name in ["set-cookie", "access-control-allow-origin", "mcp-session-id", "connection"] {
            assert!(!is_forwarded(name), "{name}");
        }
        for name in ["content-type", "www-authenticate", "cache-control", "x-accel-buffering"] {
            assert!(is_forwarded(name), "{name}");
        }
    }
}
