//! What the admin API answers: JSON, with an entity tag where there is a server to tag.

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::reload::Fault;

/// An answer to a request that was understood.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Value,
    tag: Option<String>,
}

/// Why a request was not carried out; nothing has changed.
#[derive(Debug)]
pub(super) struct Denial {
    status: StatusCode,
    text: String,
    allow: &'static str,
}

impl Answer {
    pub(super) fn new(status: StatusCode, body: Value) -> Self {
        Self { status, body, tag: None }
    }

    pub(super) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    pub(super) fn tagged(self, tag: String) -> Self {
        Self { tag: Some(tag), ..self }
    }
}

impl Denial {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), allow: "" }
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn unauthorized(text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, text)
    }

    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }

    pub(super) fn unprocessable(text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let denial = Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow} here"));
        Self { allow, ..denial }
    }

    pub(super) fn unavailable(text: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<Fault> for Denial {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(error) => Self::internal(&error),
            fault => Self::unprocessable(fault.to_string()),
        }
    }
}

/// The answer as HTTP.
pub(super) fn respond(method: &Method, outcome: Result<Answer, Denial>) -> Response<Vec<u8>> {
    let mut response = Response::builder().header(CACHE_CONTROL, "no-store");
    let body = match outcome {
        Ok(Answer { status, body, tag }) => {
            response = response.status(status);
            if let Some(tag) = tag {
                response = response.header(ETAG, tag);
            }
            if status == StatusCode::NOT_MODIFIED {
                return response.body(Vec::new()).unwrap_or_default();
            }
            body
        }
        Err(Denial { status, text, allow }) => {
            response = response.status(status);
            if status == StatusCode::UNAUTHORIZED {
                response = response.header(WWW_AUTHENTICATE, r#"Bearer realm="toolgate admin""#);
            }
            if status == StatusCode::SERVICE_UNAVAILABLE {
                response = response.header(RETRY_AFTER, 1);
            }
            if !allow.is_empty() {
                response = response.header(ALLOW, allow);
            }
            json!({ "error": text })
        }
    };
    let body = format!("{body}\n").into_bytes();
    let response =
        response.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
    let body = if method == Method::HEAD { Vec::new() } else { body };
    response.body(body).unwrap_or_default()
}
