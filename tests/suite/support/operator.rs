//! An operator: requests of the admin API, with a token or without.

use std::net::SocketAddr;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::client::{self, Answer};

/// Somebody who knows where the admin listener is.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) address: SocketAddr,
    token: &'static str,
}

/// The `admin` section with a token for each role; the token is the role.
pub(crate) fn section(address: SocketAddr) -> String {
    let tokens = ["read", "register:one", "operate"].map(|role| {
        let digest = digest(&SHA256, role.as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{ role: \"{role}\", sha256: \"{hex}\" }}")
    });
    format!("admin: {{ listen: {address}, tokens: [{}] }}\n", tokens.join(", "))
}

impl Operator {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, token: "operate" }
    }

    /// The same with another role; none sends no token.
    pub(crate) fn with(&self, token: &'static str) -> Self {
        Self { token, ..self.clone() }
    }

    /// One request; `fields` are further lines of its head.
    pub(crate) async fn send(&self, verb: &str, path: &str, fields: &str, body: &str) -> Answer {
        let token = match self.token {
            "" => String::new(),
            token => format!("authorization: Bearer {token}\r\n"),
        };
        let framed = match (verb, body) {
            ("GET" | "DELETE", "") => String::new(),
            _ => format!("content-length: {}\r\n", body.len()),
        };
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nhost: admin.internal:9901\r\nconnection: close\r\n{token}{fields}{framed}\r\n{body}"
        );
        client::exchange(self.address, head.as_bytes()).await
    }

    /// A request with a JSON body, where there is one.
    pub(crate) async fn ask(&self, verb: &str, path: &str, body: &Value) -> Answer {
        match body {
            Value::Null => self.send(verb, path, "", "").await,
            body => {
                let fields = "content-type: application/json\r\n";
                self.send(verb, path, fields, &body.to_string()).await
            }
        }
    }

    /// A server as it is listed.
    pub(crate) async fn server(&self, name: &str) -> Value {
        let answer = self.ask("GET", &format!("/v1/servers/{name}"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The endpoints of a server.
    pub(crate) async fn endpoints(&self, name: &str) -> Vec<Value> {
        self.server(name).await["endpoints"].as_array().expect("a list").clone()
    }
}
