//! The head a server gets: the client's own fields, less what is the gateway's business.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use pingora::http::RequestHeader;

use super::identity_headers;
use super::trace::{BAGGAGE_BYTES_MAX, Onward};
use crate::identity::Caller;
use crate::mcp::MCP_SESSION_ID;
use crate::telemetry::Short;
use crate::upstream::{Endpoint, Field};

/// What the head of a request to a server is made of.
pub(super) struct Outgoing<'a> {
    pub(super) client: &'a RequestHeader,
    pub(super) endpoint: &'a Endpoint,
    pub(super) session: Option<&'a [u8]>,
    pub(super) request_id: &'a str,
    pub(super) client_address: Option<IpAddr>,
    pub(super) body_bytes: usize,
    /// What the server gets instead of the client's credentials.
    pub(super) credential: Option<&'a Field>,
    /// Who calls, if the server is told.
    pub(super) told: Option<&'a Caller>,
    /// What it is told of the trace, if that is not what the client says.
    pub(super) trace: Option<Onward<'a>>,
}

impl Outgoing<'_> {
    /// The head as HTTP/1.1 writes it.
    pub(super) fn http1(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(1024);
        for part in [self.client.method.as_str(), " ", self.endpoint.path(), " HTTP/1.1\r\nhost: "]
        {
            head.extend_from_slice(part.as_bytes());
        }
        head.extend_from_slice(self.endpoint.authority().as_bytes());
        head.extend_from_slice(b"\r\n");
        let mut emit = |name: &str, value: &[u8]| {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        };
        self.fields(&mut emit);
        if let Some(Field { name, value }) = self.credential {
            emit(name.as_str(), value.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The head as HTTP/2 takes it.
    pub(super) fn http2(&self) -> pingora::Result<Box<RequestHeader>> {
        let path = self.endpoint.path().as_bytes();
        let mut head = RequestHeader::build_no_case(self.client.method.clone(), path, Some(16))?;
        head.insert_header(http::header::HOST, self.endpoint.authority())?;
        let mut result = Ok(());
        self.fields(|name, value| {
            if result.is_ok() {
                result = match HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .zip(HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value)).ok())
                {
                    Some((name, value)) => head.append_header(name, value).map(drop),
                    None => Ok(()),
                };
            }
        });
        result?;
        if let Some(Field { name, value }) = self.credential {
            // The value is marked, so that no table of HPACK remembers it.
            head.append_header(name.clone(), value.clone())?;
        }
        Ok(Box::new(head))
    }

    /// Every field but `Host` and the credential, in the client's order, the gateway's own last.
    fn fields(&self, mut emit: impl FnMut(&str, &[u8])) {
        for (name, value) in &self.client.headers {
            let is_replaced = self.credential.is_some_and(|credential| credential.name == *name)
                || self.trace.is_some_and(|trace| trace.replaces(name))
                || (value.len() > BAGGAGE_BYTES_MAX && *name == "baggage");
            if !is_replaced && is_forwarded(name.as_str()) {
                emit(name.as_str(), value.as_bytes());
            }
        }
        if self.client.method == Method::POST {
            emit("content-length", Short::number(self.body_bytes as u64).as_bytes());
        }
        if let Some(session) = self.session {
            emit(MCP_SESSION_ID, session);
        }
        emit("x-request-id", self.request_id.as_bytes());
        if let Some(address) = self.client_address {
            emit("x-forwarded-for", Short::address(address).as_bytes());
        }
        if let Some(trace) = self.trace {
            trace.each(&mut emit);
        }
        if let Some(caller) = self.told {
            identity_headers::each(caller, emit);
        }
    }
}

/// Whether a client's field goes on to the server. What is withheld:
/// - what belongs to this connection (RFC 9110 section 7.6.1), and the framing, which is made anew;
/// - the client's credentials, which are the gateway's (MCP authorization: no token passthrough),
///   and cookies, which belong to the gateway's origin;
/// - `Host` and `Origin`: checked here, and a server that checks them knows only its own;
/// - what says who the client is: only the gateway says that;
/// - `Accept-Encoding`: the gateway reads answers.
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
            | "http2-settings"
            | "content-length"
            | "expect"
            | "authorization"
            | "proxy-authorization"
            | "cookie"
            | "host"
            | "origin"
            | "referer"
            | "forwarded"
            | "x-real-ip"
            | "x-request-id"
            | "x-http-method-override"
            | "client-cert"
            | "client-cert-chain"
            | "accept-encoding"
            | MCP_SESSION_ID
    ) && !name.starts_with("x-forwarded-")
        && !name.starts_with("x-toolgate-")
        && !name.starts_with("x-ssl-client")
        && !name.starts_with("x-client-cert")
        && !name.starts_with("sec-")
        && !name.starts_with("access-control-")
}

#[cfg(test)]
mod tests {
    use super::is_forwarded;

    #[test]
    fn credentials_and_identity_stay_here_and_mcp_goes_on() {
        for name in [
            "authorization",
            "cookie",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-toolgate-caller",
            "client-cert",
            "x-ssl-client-cert",
            "mcp-session-id",
            "transfer-encoding",
            "origin",
        ] {
            assert!(!is_forwarded(name), "{name}");
        }
        for name in [
            "mcp-protocol-version",
            "mcp-method",
            "mcp-name",
            "mcp-param-region",
            "last-event-id",
            "accept",
            "content-type",
            "traceparent",
            "user-agent",
        ] {
            assert!(is_forwarded(name), "{name}");
        }
    }
}
