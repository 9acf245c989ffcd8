//! The operator of a drill: what it asks of the gateways' admin API.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::peer::{self, Answer};
use crate::yaml::{SERVER, TOKEN};

const POLL_EVERY: Duration = Duration::from_millis(20);

/// One gateway's admin listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operator {
    pub(crate) address: SocketAddr,
}

impl Operator {
    /// The endpoints of the server as the gateway lists them.
    pub(crate) async fn endpoints(&self) -> io::Result<Vec<Value>> {
        let answer = self.ask("GET", &format!("/v1/servers/{SERVER}"), "").await?;
        let mut server: Value = serde_json::from_slice(&expect(200, answer)?.body)?;
        match server["endpoints"].take() {
            Value::Array(endpoints) => Ok(endpoints),
            other => Err(io::Error::other(format!("no endpoints: {other}"))),
        }
    }

    pub(crate) async fn endpoint(&self, url: &str) -> io::Result<Value> {
        let endpoints = self.endpoints().await?;
        let found = endpoints.into_iter().find(|endpoint| endpoint["url"] == url);
        found.ok_or_else(|| io::Error::other(format!("no endpoint {url}")))
    }

    /// Waits until the endpoint is as wanted, and tells when that was seen.
    pub(crate) async fn until(
        &self,
        url: &str,
        wanted: impl Fn(&Value) -> bool,
        limit: Duration,
    ) -> io::Result<Instant> {
        let began = Instant::now();
        loop {
            let endpoint = self.endpoint(url).await?;
            if wanted(&endpoint) {
                return Ok(Instant::now());
            }
            if began.elapsed() > limit {
                let text = format!("after {} s still {endpoint}", limit.as_secs());
                return Err(io::Error::other(text));
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    pub(crate) async fn drain(&self, url: &str, deadline: &str) -> io::Result<()> {
        self.change(url, "drain", &json!({"deadline": deadline}).to_string()).await
    }

    pub(crate) async fn undrain(&self, url: &str) -> io::Result<()> {
        self.change(url, "undrain", "").await
    }

    /// Whether the configuration was taken; `Err` with everything else but taken and refused.
    pub(crate) async fn reload(&self) -> io::Result<Reload> {
        let answer = self.ask("POST", "/v1/reload", "").await?;
        match answer.head.status {
            422 => Ok(Reload::Refused),
            _ => expect(200, answer).map(|_| Reload::Taken),
        }
    }

    async fn change(&self, url: &str, verb: &str, body: &str) -> io::Result<()> {
        let endpoint = self.endpoint(url).await?;
        let id = endpoint["id"].as_str().unwrap_or_default();
        let path = format!("/v1/servers/{SERVER}/endpoints/{id}/{verb}");
        let answer = self.ask("POST", &path, body).await?;
        match answer.head.status {
            200..=299 => Ok(()),
            _ => expect(200, answer).map(drop),
        }
    }

    async fn ask(&self, verb: &'static str, path: &str, body: &str) -> io::Result<Answer> {
        let mut fields = vec![("Authorization", format!("Bearer {TOKEN}"))];
        if verb == "POST" {
            fields.push(("Content-Type", "application/json".to_owned()));
        }
        // A POST without anything to say still says so.
        let body = if verb == "POST" && body.is_empty() { "{}" } else { body };
        peer::ask_once(self.address, verb, path, fields, body).await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    Taken,
    Refused,
}

fn expect(status: u16, answer: Answer) -> io::Result<Answer> {
    match answer.head.status == status {
        true => Ok(answer),
        false => {
            let text = format!("the admin API says {} {}", answer.head.status, answer.excerpt());
            Err(io::Error::other(text))
        }
    }
}
