//! Brings what the gateway says to a collector of OpenTelemetry: again where it says later, and not for ever.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use crate::config::Secret;
use crate::outbound::{Fault, Guard, Outbound, Request};

/// Attempts for one batch, and the pause after the first, which doubles.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Brings batches to one address, one after the other.
pub struct Courier {
    outbound: Outbound,
    url: String,
    media_type: &'static str,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

impl Courier {
    /// Brings batches of this media type to this address.
    pub fn new(
        outbound: Outbound,
        url: String,
        media_type: &'static str,
        headers: &[(String, Secret)],
        timeout: Duration,
    ) -> Self {
        let headers = headers.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name).ok()?, value))
        });
        Self { outbound, url, media_type, headers: headers.collect(), timeout }
    }

    /// Where it brings them.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Tries until the collector has the batch, or it was tried often enough; `pause` waits before
    /// the next attempt, or says that there is no time for one.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn deliver(
        &self,
        batch: &Bytes,
        pause: impl AsyncFn(Duration) -> bool,
    ) -> Result<Bytes, String> {
        let mut length = PAUSE;
        for attempt in 1.. {
            let why = match self.post(batch).await {
                Ok((200..300, answer)) => return Ok(answer),
                // These mean later; the others mean never.
                Ok((status @ (429 | 502..=504), _)) => format!("status {status}"),
                Ok((status, _)) => return Err(format!("status {status}")),
                Err(fault) => fault.to_string(),
            };
            tracing::debug!(why, attempt, url = self.url, "a batch was not taken");
            if attempt >= ATTEMPTS_MAX || !pause(length).await {
                return Err(why);
            }
            length *= 2;
        }
        Err(String::new())
    }

    async fn post(&self, batch: &Bytes) -> Result<(u16, Bytes), Fault> {
        let request = Request::post(self.url.as_str(), self.media_type, batch.clone())
            .guard(Guard::Collector)
            .time_max(self.timeout)
            .field(http::header::ACCEPT, HeaderValue::from_static(self.media_type));
        let request = self
            .headers
            .iter()
            .fold(request, |request, (name, value)| request.field(name.clone(), value.clone()));
        let reply = self.outbound.ask(request).await?;
        Ok((reply.status, reply.body))
    }
}
