//! Reads a request's body, whole, up to the route's limit: the only place that does.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::ErrorType;
use pingora::protocols::http::ServerSession;
use pingora::time::timeout;

use super::refusal::Refusal;
use crate::telemetry::Reason;

/// Reads the body. A length over the limit is refused before a byte of it is read.
pub(super) async fn read(
    downstream: &mut ServerSession,
    bytes_max: usize,
    deadline: Duration,
) -> Result<Bytes, Refusal> {
    let announced = downstream
        .get_header(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(Reason::BodyTooLarge.into());
    }
    if downstream.get_header(EXPECT).is_some() {
        // Whoever asked first waits for this line before the body (RFC 9110 section 10.1.1).
        downstream.write_continue_response().await.map_err(|_| Reason::BodyBroken)?;
    }
    match timeout(deadline, read_all(downstream, announced, bytes_max)).await {
        Ok(body) => body,
        Err(_) => Err(Reason::BodyTimeout.into()),
    }
}

async fn read_all(
    downstream: &mut ServerSession,
    announced: Option<usize>,
    bytes_max: usize,
) -> Result<Bytes, Refusal> {
    let Some(first) = chunk(downstream).await? else { return Ok(Bytes::new()) };
    // The ordinary call is here already, in one piece: nothing is copied.
    if announced == Some(first.len()) {
        // The reader must see the end, or the connection could not be used again.
        return match chunk(downstream).await? {
            None => Ok(first),
            Some(_) => Err(Reason::BodyBroken.into()),
        };
    }
    let mut whole = BytesMut::with_capacity(announced.unwrap_or(first.len() * 2));
    let mut next = Some(first);
    while let Some(part) = next {
        if whole.len() + part.len() > bytes_max {
            return Err(Reason::BodyTooLarge.into());
        }
        whole.extend_from_slice(&part);
        next = chunk(downstream).await?;
    }
    if announced.is_some_and(|length| length != whole.len()) {
        return Err(Reason::BodyBroken.into());
    }
    Ok(whole.freeze())
}

async fn chunk(downstream: &mut ServerSession) -> Result<Option<Bytes>, Refusal> {
    downstream.read_request_body().await.map_err(|error| {
        tracing::debug!(%error, "request body");
        // The wait for one part ends with the wait for the whole, and may be noticed first.
        Refusal::from(match error.etype() {
            ErrorType::ReadTimedout => Reason::BodyTimeout,
            _ => Reason::BodyBroken,
        })
    })
}
