//! The one table of every "no" on the request path: status, JSON-RPC code, and what is said.

use std::borrow::Cow;

use crate::identity::Challenge;
use crate::jsonrpc::{self, ErrorBody, Fault, ReplyTo};
use crate::limits::{self, Why};
use crate::mcp::{Era, Revision, Violation};
use crate::policy::Subject;
use crate::telemetry::Reason;
use crate::upstream::Unavailable;

/// Until 2025-11-25 a resource that is not there has a code of its own.
const RESOURCE_NOT_FOUND: i32 = -32002;

/// A request the gateway does not carry, or could not.
///
/// Codes of the JSON-RPC and MCP specifications are used where they have one for the case. The
/// gateway's own cases carry the HTTP status as their code: it lies outside the range that JSON-RPC
/// reserves (-32768 to -32000), and says something.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Why, as metrics and logs count it.
    pub(super) reason: Reason,
    /// The HTTP status.
    pub(super) status: u16,
    /// The JSON-RPC error code.
    pub(super) code: i32,
    /// What the client reads. It never repeats what the client sent, nor says what exists.
    pub(super) message: Cow<'static, str>,
    /// What goes with it.
    pub(super) extra: Extra,
}

/// What some refusals carry beside the error.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extra {
    /// Nothing.
    None,
    /// The methods that are served, for 405 (RFC 9110 section 10.2.1).
    Allow(&'static str),
    /// When to come back, in seconds, for 503 and 429 (RFC 9110 section 10.2.3).
    RetryAfter(u32),
    /// A bearer challenge, for 401 and 403 (RFC 6750 section 3, RFC 9728 section 5.1).
    Challenge(String),
    /// When to come back in seconds, the limit and its policy, for 429
    /// (draft-ietf-httpapi-ratelimit-headers).
    Limited { retry_after_s: u32, limit: String, policy: String },
    /// The revisions that are known, for -32022 (2026-07-28 `UnsupportedProtocolVersionError`).
    Supported(String),
}

/// The table. The README shows it, and a test holds the two together.
fn row(reason: Reason) -> (u16, i32, &'static str) {
    match reason {
        Reason::ConnectionsFull => (503, 503, "too many connections"),
        Reason::HeadMalformed => (400, 400, "malformed or ambiguous request head"),
        Reason::HeadTooLarge => (431, 431, "request head too large"),
        Reason::HeadTimeout => (408, 408, "the request head did not arrive in time"),
        Reason::CertificateRefused => {
            (421, 421, "the certificate of this connection is not accepted any more")
        }
        Reason::HostRefused => (421, 421, "no such host here"),
        Reason::OriginRefused => (403, 403, "origin not allowed"),
        Reason::AuditFull => (503, 503, "calls cannot be recorded now"),
        Reason::AddressLimited => (429, 429, "too many requests from this address"),
        Reason::RouteUnknown => (404, 404, "no route at this path"),
        Reason::VerbRefused => (405, 405, "method not allowed"),
        Reason::Unauthenticated => (401, 401, "authentication required"),
        Reason::IdentityUnavailable => (503, 503, "identity cannot be checked now"),
        Reason::RateLimited => (429, 429, "too many calls"),
        Reason::InFlightLimited => (429, 429, "too many calls at once"),
        Reason::StreamsLimited => (429, 429, "too many streams at once"),
        Reason::LimitFull => (429, 429, "too many calls of too many callers"),
        Reason::NotAcceptable => {
            (406, 406, "Accept must list application/json and text/event-stream")
        }
        Reason::MediaType => (415, 415, "Content-Type must be application/json"),
        Reason::BodyTooLarge => (413, 413, "request body too large"),
        Reason::BodyTimeout => (408, 408, "the request body did not arrive in time"),
        Reason::BodyBroken => (400, jsonrpc::PARSE_ERROR, "the request body is broken"),
        Reason::MessageMalformed => (400, jsonrpc::INVALID_REQUEST, "malformed message"),
        Reason::MessageViolation => (400, jsonrpc::INVALID_REQUEST, "invalid message"),
        Reason::MethodRemoved => (404, jsonrpc::METHOD_NOT_FOUND, "method not found"),
        Reason::MethodUnknown => (404, jsonrpc::METHOD_NOT_FOUND, "method not found"),
        Reason::HandleUnknown => (
            400,
            jsonrpc::INVALID_PARAMS,
            "what is sent back was not given to this client, or has expired",
        ),
        Reason::CatalogUnknown => (503, 503, "what the servers offer is not known yet"),
        Reason::SessionMissing => (400, 400, "Mcp-Session-Id is required"),
        Reason::SessionUnknown => (404, 404, "session not found"),
        Reason::SessionRevision => {
            (400, 400, "MCP-Protocol-Version is not the one this session negotiated")
        }
        Reason::PolicyHidden => (200, jsonrpc::INVALID_PARAMS, "unknown tool"),
        Reason::PolicyForbidden => (403, 403, "not allowed"),
        Reason::ScopeMissing => (403, 403, "a scope is missing"),
        Reason::DefinitionPending => (403, 403, "the tool has changed, and waits for approval"),
        Reason::CombinationForbidden => (403, 403, "not allowed after what was called before"),
        Reason::CombinationFull => (503, 503, "what is called cannot be remembered now"),
        Reason::CombinationAway => (503, 503, "what was called before cannot be known now"),
        Reason::StreamsFull => (503, 503, "too many streams"),
        Reason::EndpointNone => (503, 503, "no endpoint is available"),
        Reason::EndpointBusy => (503, 503, "the server has too much to do"),
        Reason::CredentialsUnavailable => (503, 503, "the server's credentials are not available"),
        Reason::ExchangeRefused => (403, 403, "no credentials of the server for this caller"),
        Reason::EndpointUnreachable => (502, 502, "the server cannot be reached"),
        Reason::EndpointTimeout => (504, 504, "the server did not answer in time"),
        Reason::EndpointBroken => (502, 502, "the server's answer was broken"),
        Reason::ListTooLarge => (502, 502, "the server's list is too large to be filtered"),
        Reason::Internal => (500, jsonrpc::INTERNAL_ERROR, "internal error"),
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        let (status, code, message) = row(reason);
        let extra = match status {
            429 | 503 => Extra::RetryAfter(1),
            _ => Extra::None,
        };
        Self { reason, status, code, message: Cow::Borrowed(message), extra }
    }
}

impl From<Unavailable> for Reason {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::Failed => Self::CredentialsUnavailable,
            Unavailable::Refused => Self::ExchangeRefused,
        }
    }
}

impl From<&Fault<'_>> for Refusal {
    fn from(fault: &Fault<'_>) -> Self {
        let message = Cow::Borrowed(fault.message());
        Self { code: fault.code(), message, ..Self::from(Reason::MessageMalformed) }
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        let reason = match violation {
            Violation::MethodRemoved => Reason::MethodRemoved,
            _ => Reason::MessageViolation,
        };
        let message = match violation {
            Violation::HeaderMissing(name) => format!("header mismatch: {name} is required").into(),
            Violation::HeaderMismatch(name) => {
                format!("header mismatch: {name} differs from the body").into()
            }
            Violation::HeaderEncoding => "header mismatch: mcp-name does not decode".into(),
            Violation::ClaimMissing(name) => {
                format!("_meta lacks io.modelcontextprotocol/{name}").into()
            }
            Violation::UnknownRevision => "unsupported protocol version".into(),
            Violation::MethodRemoved => "method not found".into(),
            Violation::RoutingKeyMissing(name) => format!("{name} lacks its name or uri").into(),
            Violation::ResponseInModern => "this revision has no client responses".into(),
        };
        Self { code: violation.code(), message, ..Self::from(reason) }
    }
}

impl Refusal {
    /// 405 with the methods that are served.
    pub(super) fn verb(allow: &'static str) -> Self {
        Self { extra: Extra::Allow(allow), ..Self::from(Reason::VerbRefused) }
    }

    /// 401. `invalid_token` is said only of a token that was there.
    pub(super) fn unauthenticated(token_was_sent: TokenSent, challenge: &Challenge) -> Self {
        let challenge = match token_was_sent {
            TokenSent::No => challenge.missing.clone(),
            TokenSent::Yes => challenge.invalid.clone(),
        };
        Self { extra: Extra::Challenge(challenge), ..Self::from(Reason::Unauthenticated) }
    }

    /// A name that the policy hides is answered as servers answer names that they do not know.
    pub(super) fn hidden(subject: Subject<'_>, era: Era) -> Self {
        let refusal = Self::from(Reason::PolicyHidden);
        match (subject, era) {
            (Subject::Tool(_) | Subject::Method, _) => refusal,
            (Subject::Prompt(_), _) => Self { message: "unknown prompt".into(), ..refusal },
            (Subject::Resource(_) | Subject::Template(_), era) => {
                // 2026-07-28 made -32602 of it.
                let code = if era == Era::Legacy { RESOURCE_NOT_FOUND } else { refusal.code };
                Self { code, message: "resource not found".into(), ..refusal }
            }
        }
    }

    /// 403 with the scopes that would do.
    pub(super) fn scope_missing(challenge: String) -> Self {
        Self { extra: Extra::Challenge(challenge), ..Self::from(Reason::ScopeMissing) }
    }

    /// 429 with when to come again.
    pub(super) fn limited(refused: &limits::Refused) -> Self {
        let reason = match refused.why {
            Why::Rate => Reason::RateLimited,
            Why::InFlight => Reason::InFlightLimited,
            Why::Streams => Reason::StreamsLimited,
            Why::KeysFull => Reason::LimitFull,
            Why::Address => Reason::AddressLimited,
        };
        let limits::Fields { policy, limit } = refused.fields();
        let retry_after_s = u32::try_from(refused.retry_after_s()).unwrap_or(u32::MAX);
        Self { extra: Extra::Limited { retry_after_s, limit, policy }, ..Self::from(reason) }
    }

    /// -32022 with the list that lets a client choose again.
    pub(super) fn unsupported_revision(requested: &str) -> Self {
        let newest_first: Vec<_> = Revision::ALL.into_iter().rev().collect();
        Self::revision_not_among(&newest_first, requested)
    }

    /// -32022 with these revisions: the servers speak no other.
    pub(super) fn revision_not_among(known: &[Revision], requested: &str) -> Self {
        let known: Vec<_> = known.iter().map(|known| format!("\"{known}\"")).collect();
        // A header value holds no control characters and was read as UTF-8, so quotes and
        // backslashes are all that must be escaped; overlong nonsense is not repeated.
        let requested = if requested.len() <= 32 && !requested.contains(['"', '\\']) {
            requested
        } else {
            "unknown"
        };
        let detail = format!(r#"{{"supported":[{}],"requested":"{requested}"}}"#, known.join(","));
        let violation = Self::from(Violation::UnknownRevision);
        Self { extra: Extra::Supported(detail), ..violation }
    }

    /// The JSON-RPC error as bytes.
    pub(super) fn body(&self, reply_to: ReplyTo<'_>) -> Vec<u8> {
        let detail_json = match &self.extra {
            Extra::Supported(detail) => Some(detail.as_str()),
            _ => None,
        };
        let mut body = Vec::with_capacity(160);
        ErrorBody { reply_to, code: self.code, message: &self.message, detail_json }
            .write(&mut body);
        body
    }

    /// The header fields that go with the refusal.
    pub(super) fn fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        match &self.extra {
            Extra::None | Extra::Supported(_) => Vec::new(),
            Extra::Allow(methods) => vec![("allow", Cow::Borrowed(methods))],
            Extra::RetryAfter(seconds) => vec![("retry-after", seconds.to_string().into())],
            Extra::Challenge(challenge) => vec![("www-authenticate", Cow::Borrowed(challenge))],
            Extra::Limited { retry_after_s, limit, policy } => vec![
                ("retry-after", retry_after_s.to_string().into()),
                ("ratelimit", Cow::Borrowed(limit)),
                ("ratelimit-policy", Cow::Borrowed(policy)),
            ],
        }
    }
}

/// Whether a refused request carried a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenSent {
    /// It carried none.
    No,
    /// It carried one that proves nothing.
    Yes,
}

#[cfg(test)]
mod tests {
    use super::{Refusal, row};
    use crate::jsonrpc::ReplyTo;
    use crate::telemetry::Reason;

    #[test]
    fn the_readme_shows_the_table() {
        let readme = include_str!("../../README.md");
        for reason in Reason::ALL {
            let (status, code, message) = row(*reason);
            let line = format!("| `{}` | {status} | {code} | {message} |", reason.as_str());
            assert!(readme.contains(&line), "README lacks the row\n{line}");
        }
    }

    #[test]
    fn no_code_of_our_own_lies_in_the_reserved_range() {
        for reason in Reason::ALL {
            let (status, code, _) = row(*reason);
            // A hidden name is answered as servers answer unknown ones (SPEC.md section 2.8).
            let specified = [-32700, -32600, -32601, -32602, -32603].contains(&code);
            assert!(specified || code == i32::from(status), "{reason:?}");
        }
    }

    #[test]
    fn an_unknown_revision_is_answered_with_those_known() {
        for (requested, shown) in [("2030-01-01", "2030-01-01"), ("a\"b", "unknown")] {
            let body = Refusal::unsupported_revision(requested).body(ReplyTo::Null);
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["error"]["code"], -32022);
            assert_eq!(body["error"]["data"]["requested"], shown);
            assert_eq!(body["error"]["data"]["supported"][0], "2026-07-28");
        }
    }
}
