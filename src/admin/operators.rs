//! The admin listener: probes and the dashboard for everybody, and the API for who has a token.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::answer::{Answer, Denial, respond};
use super::api::Api;
use super::dashboard::{self, Served};
use super::probes::Probes;

/// No registration is larger.
const BODY_BYTES_MAX: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what nobody will read is still taken, so that its sender reads the answer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What answers on the admin listener.
pub struct Operators {
    /// Where no token is asked for, a web page that was rebound to this address must get nothing.
    loopback: Probes,
    anywhere: Probes,
    api: Arc<Api>,
}

impl Operators {
    /// The listener, with probes for when there are no tokens and for when there are.
    pub fn new(loopback: Probes, anywhere: Probes, api: Arc<Api>) -> Self {
        Self { loopback, anywhere, api }
    }

    async fn carry_out(&self, session: &mut ServerSession) -> Result<Answer, Denial> {
        let from = session.client_addr().map_or_else(String::new, ToString::to_string);
        let head = session.req_header();
        let target = (head.uri.path(), head.uri.query());
        let asked = self.api.admit(&head.method, target, &head.headers, from)?;
        let body = read_body(session).await?;
        if !body.is_empty() && !is_json(&session.req_header().headers) {
            let text = "send Content-Type: application/json";
            return Err(Denial::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        // Files are read and names looked up: that must not keep others from being answered.
        let api = Arc::clone(&self.api);
        let done = tokio::task::spawn_blocking(move || api.carry_out(&asked, &body)).await;
        done.unwrap_or_else(|error| Err(Denial::internal(&error)))
    }
}

#[async_trait]
impl ServeHttp for Operators {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let asks_for_tokens = self.api.asks_for_tokens();
        let path = session.req_header().uri.path();
        if !asks_for_tokens || !path.starts_with("/v1/") {
            let probes = if asks_for_tokens { &self.anywhere } else { &self.loopback };
            if dashboard::is_at(path) && probes.serves_host(&session.req_header().headers) {
                let served = if asks_for_tokens { Served::Api } else { Served::ProbesOnly };
                return dashboard::respond(&session.req_header().method, served);
            }
            return probes.response(session).await;
        }
        let outcome = self.carry_out(session).await;
        if outcome.is_err() && !session.is_body_done() {
            session.set_keepalive(None);
            // Whether all of it came or the time was over: the answer is the same.
            timeout(DRAIN_TIMEOUT, session.drain_request_body()).await.ok();
        }
        respond(&session.req_header().method, outcome)
    }
}

async fn read_body(session: &mut ServerSession) -> Result<Vec<u8>, Denial> {
    let headers = &session.req_header().headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let bad = |_| Denial::bad_request("the body did not come to its end");
    if headers.contains_key(EXPECT) {
        session.write_continue_response().await.map_err(bad)?;
    }
    let read = async {
        let mut body = Vec::new();
        while let Some(part) = session.read_request_body().await.map_err(bad)? {
            if body.len() + part.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    };
    let late = |_| Denial::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

fn too_large() -> Denial {
    let text = format!("the body is larger than {BODY_BYTES_MAX} bytes");
    Denial::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn is_json(headers: &HeaderMap) -> bool {
    let field = headers.get(CONTENT_TYPE).and_then(|field| field.to_str().ok()).unwrap_or_default();
    let media = field.split(';').next().unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/json")
}
