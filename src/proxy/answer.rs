//! Answers that the gateway gives itself: refusals and CORS preflights.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_LENGTH,
    CONTENT_TYPE, ORIGIN, VARY,
};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;

use super::context::Context;
use super::refusal::Refusal;
use crate::jsonrpc::ReplyTo;
use crate::mcp::MCP_SESSION_ID;
use crate::telemetry::{Outcome, Reason};

/// The HTTP methods a route serves.
pub(super) const METHODS: &str = "GET, POST, DELETE, OPTIONS";
/// Header fields a browser client may send.
const REQUEST_FIELDS: &str = "content-type, accept, authorization, last-event-id, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, traceparent, tracestate, baggage";
/// Header fields a browser client may read.
const RESPONSE_FIELDS: &str =
    "mcp-session-id, www-authenticate, retry-after, ratelimit, ratelimit-policy, x-request-id";
/// A body of a refused request up to this size is read to its end, so that the connection lives.
const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// Sends a refusal. An answer that has begun stays as it is.
pub(super) async fn refuse(
    session: &mut ServerSession,
    ctx: &mut Context,
    refusal: &Refusal,
) -> pingora::Result<()> {
    ctx.give_back();
    ctx.record.reason = Some(refusal.reason);
    ctx.record.refusal_code = Some(refusal.code);
    ctx.record.status = refusal.status;
    ctx.record.outcome = Some(match refusal.status {
        500.. => Outcome::Failed,
        _ => Outcome::Refused,
    });
    if session.response_written().is_some() {
        return Ok(());
    }
    drain(session, refusal.reason).await;
    let reply_to = match &ctx.record.id {
        Some(id) => ReplyTo::Id(id.as_id()),
        None => ReplyTo::Null,
    };
    let body = refusal.body(reply_to);
    let mut head = ResponseHeader::build_no_case(refusal.status, Some(10))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    for (name, value) in refusal.fields() {
        head.insert_header(name, value.as_ref())?;
    }
    dress(&mut head, session, ctx)?;
    ctx.record.bytes_out = body.len() as u64;
    let is_head = session.req_header().method == http::Method::HEAD;
    let downstream = session;
    downstream.write_response_header(Box::new(head)).await?;
    let body = if is_head { Bytes::new() } else { Bytes::from(body) };
    downstream.write_response_body(body, true).await
}

/// Answers a preflight (Fetch standard, "CORS-preflight request").
pub(super) async fn preflight(
    session: &mut ServerSession,
    ctx: &mut Context,
) -> pingora::Result<()> {
    let mut head = ResponseHeader::build_no_case(204, Some(8))?;
    head.insert_header(ALLOW, METHODS)?;
    if ctx.record.origin_allowed {
        head.insert_header(ACCESS_CONTROL_ALLOW_METHODS, METHODS)?;
        head.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, requested_fields(session))?;
        head.insert_header(ACCESS_CONTROL_MAX_AGE, "7200")?;
    }
    dress(&mut head, session, ctx)?;
    ctx.admission.slot = None;
    ctx.record.status = 204;
    ctx.record.outcome = Some(Outcome::Ok);
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(Bytes::new(), true).await
}

/// Tells what a route is to clients that have no token yet (RFC 9728 section 3.2).
pub(super) async fn metadata(
    session: &mut ServerSession,
    ctx: &mut Context,
    document: Bytes,
) -> pingora::Result<()> {
    let mut head = ResponseHeader::build_no_case(200, Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.insert_header(CONTENT_LENGTH, document.len())?;
    head.insert_header(CACHE_CONTROL, "public, max-age=300")?;
    dress(&mut head, session, ctx)?;
    // Nobody called, so there is nothing to record.
    ctx.admission.slot = None;
    ctx.record.status = 200;
    ctx.record.outcome = Some(Outcome::Ok);
    let is_head = session.req_header().method == http::Method::HEAD;
    session.write_response_header(Box::new(head)).await?;
    let body = if is_head { Bytes::new() } else { document };
    session.write_response_body(body, true).await
}

/// Sends what the gateway says in the place of several servers: JSON, or nothing.
pub(super) async fn own(
    session: &mut ServerSession,
    ctx: &mut Context,
    status: u16,
    body: Bytes,
    token: Option<String>,
) -> pingora::Result<()> {
    ctx.give_back();
    ctx.record.status = status;
    ctx.record.bytes_out = body.len() as u64;
    let mut head = ResponseHeader::build_no_case(status, Some(8))?;
    if !body.is_empty() {
        head.insert_header(CONTENT_TYPE, "application/json")?;
    }
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if let Some(token) = token {
        head.insert_header(MCP_SESSION_ID, token)?;
    }
    dress(&mut head, session, ctx)?;
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(body, true).await
}

/// Adds what every answer carries: the request id, and for browsers the CORS fields.
pub(super) fn dress(
    head: &mut ResponseHeader,
    session: &ServerSession,
    ctx: &Context,
) -> pingora::Result<()> {
    head.insert_header("x-request-id", ctx.request_id.as_slice())?;
    let Some(origin) = session.get_header(ORIGIN).filter(|_| ctx.record.origin_allowed) else {
        return Ok(());
    };
    head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
    head.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_FIELDS)?;
    head.append_header(VARY, "origin")?;
    Ok(())
}

/// The refusal of a connection that has no request to answer yet, as bytes.
pub(super) fn raw(refusal: &Refusal) -> Vec<u8> {
    let body = refusal.body(ReplyTo::Null);
    let status = http::StatusCode::from_u16(refusal.status).unwrap_or_default();
    let text = status.canonical_reason().unwrap_or("Refused");
    let fields = refusal.fields().into_iter();
    let fields: String = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut bytes = format!(
        "HTTP/1.1 {} {text}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{fields}connection: close\r\n\r\n",
        refusal.status,
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// What the browser asked to send, if the list is only of fields that MCP has; `Mcp-Param-*` is open.
fn requested_fields(session: &ServerSession) -> String {
    let mut fields = REQUEST_FIELDS.to_owned();
    let asked = session.get_header_bytes("access-control-request-headers");
    for name in asked.split(|byte| *byte == b',').map(|name| name.trim_ascii()) {
        let is_param = name.len() <= 64 && name.to_ascii_lowercase().starts_with(b"mcp-param-");
        let is_token = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        if let Ok(name) = std::str::from_utf8(name)
            && is_param
            && is_token
            && fields.len() < 2048
        {
            fields.push_str(", ");
            fields.push_str(name);
        }
    }
    fields
}

/// Reads what is left of a small body, so that the client reads our answer and not a reset, and its
/// connection serves the next request. A request whose framing is in doubt ends its connection.
async fn drain(session: &mut ServerSession, reason: Reason) {
    let downstream = session;
    let small = match downstream.get_header(CONTENT_LENGTH) {
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse::<usize>().ok());
            length.is_some_and(|length| length <= DRAIN_BYTES_MAX)
        }
        None => false,
    };
    let in_doubt = matches!(
        reason,
        Reason::HeadMalformed | Reason::BodyBroken | Reason::BodyTimeout | Reason::BodyTooLarge
    );
    if in_doubt {
        // Where the next request begins is not known.
        downstream.set_keepalive(None);
        return;
    }
    if small && downstream.get_header(http::header::EXPECT).is_none() {
        downstream.set_total_drain_timeout(Some(std::time::Duration::from_secs(1)));
        if let Err(error) = downstream.drain_request_body().await {
            tracing::debug!(%error, "refused request's body");
        }
    }
}
