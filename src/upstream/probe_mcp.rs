//! Asks an endpoint as an MCP client would: `server/discover`, or `ping` in a session of the probe's own.

use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::probe::{Asked, Fault, Question, Reply};
use crate::mcp::{Answer, MCP_METHOD, MCP_PROTOCOL_VERSION, MCP_SESSION_ID, Revision};

const MODERN: Revision = Revision::V2026_07_28;
const LEGACY: Revision = Revision::V2025_11_25;
/// Servers must be ready to answer in either way, and refuse clients that accept only one.
const ACCEPT: (&str, &str) = ("accept", "application/json, text/event-stream");

/// How an endpoint wants to be asked, as far as it has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Unknown,
    /// `server/discover`.
    Modern,
    /// `ping`, in a session if the server gave one.
    Legacy(Talk),
}

/// What an `initialize` agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Talk {
    session: Option<String>,
    revision: Option<Revision>,
}

/// What came of a question.
enum Outcome {
    /// A JSON-RPC result.
    Result(Reply),
    /// An answer, but not the wanted one: the server may want to be asked in another way.
    Refusal(Fault),
    /// The server is ill, however it is asked.
    Fault(Fault),
}

/// Asks in the manner that worked last, and finds out which one does where it does no longer. What
/// was learned is in `manner` at every moment: whoever drops this future loses no session.
pub(super) async fn probe(asked: &Asked<'_>, manner: &Mutex<Manner>) -> Result<(), Fault> {
    let known = manner.lock().clone();
    if let Manner::Legacy(talk) = &known {
        match ping(asked, talk).await {
            Outcome::Result(_) => return Ok(()),
            Outcome::Fault(fault) => return Err(fault),
            // It forgot the session, does not know `ping`, or has become a modern server.
            Outcome::Refusal(_) => {
                end(asked, &known).await;
                *manner.lock() = Manner::Unknown;
            }
        }
    } else {
        match discover(asked).await {
            Outcome::Result(_) => {
                *manner.lock() = Manner::Modern;
                return Ok(());
            }
            Outcome::Fault(fault) => return Err(fault),
            Outcome::Refusal(_) => {}
        }
    }
    match initialize(asked, manner).await {
        Outcome::Result(_) => Ok(()),
        Outcome::Refusal(fault) | Outcome::Fault(fault) => {
            // Asked from the beginning the next time.
            if !matches!(*manner.lock(), Manner::Legacy(_)) {
                *manner.lock() = Manner::Unknown;
            }
            Err(fault)
        }
    }
}

/// Ends the probe's session, if there is one. A server that is gone keeps none.
pub(super) async fn end(asked: &Asked<'_>, manner: &Manner) {
    if let Manner::Legacy(talk @ Talk { session: Some(_), .. }) = manner {
        let question = Question {
            method: Method::DELETE,
            path: asked.endpoint.path(),
            fields: talk.fields(),
            body: Bytes::new(),
        };
        if let Err(error) = asked.ask(&question).await {
            tracing::debug!(endpoint = asked.endpoint.url(), %error, "probe session not ended");
        }
    }
}

impl Talk {
    fn fields(&self) -> Vec<(&'static str, &str)> {
        let mut fields = vec![ACCEPT];
        fields.extend(self.session.as_deref().map(|session| (MCP_SESSION_ID, session)));
        fields.extend(self.revision.map(|revision| (MCP_PROTOCOL_VERSION, revision.as_str())));
        fields
    }
}

async fn discover(asked: &Asked<'_>) -> Outcome {
    let message = json!({ "jsonrpc": "2.0", "id": "probe", "method": "server/discover", "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN.as_str(),
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": client(),
        } } });
    let fields =
        vec![ACCEPT, (MCP_PROTOCOL_VERSION, MODERN.as_str()), (MCP_METHOD, "server/discover")];
    outcome(post(asked, fields, &message).await)
}

async fn initialize(asked: &Asked<'_>, manner: &Mutex<Manner>) -> Outcome {
    let message = json!({ "jsonrpc": "2.0", "id": "probe", "method": "initialize", "params": {
        "protocolVersion": LEGACY.as_str(), "capabilities": {}, "clientInfo": client() } });
    let opened = outcome(post(asked, vec![ACCEPT], &message).await);
    let Outcome::Result(Reply { session, answer: Some(Answer::Success { revision }), .. }) =
        &opened
    else {
        return opened;
    };
    let talk = Talk { session: session.clone(), revision: *revision };
    *manner.lock() = Manner::Legacy(talk.clone());
    let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    match post(asked, talk.fields(), &message).await {
        Ok(_) => opened,
        Err(fault) => Outcome::Fault(fault),
    }
}

async fn ping(asked: &Asked<'_>, talk: &Talk) -> Outcome {
    let message = json!({ "jsonrpc": "2.0", "id": "probe", "method": "ping" });
    outcome(post(asked, talk.fields(), &message).await)
}

fn client() -> Value {
    json!({ "name": "toolgate-probe", "version": env!("CARGO_PKG_VERSION") })
}

async fn post(
    asked: &Asked<'_>,
    fields: Vec<(&'static str, &str)>,
    message: &Value,
) -> Result<Reply, Fault> {
    let body = Bytes::from(message.to_string());
    let question = Question { method: Method::POST, path: asked.endpoint.path(), fields, body };
    asked.ask(&question).await
}

/// A server that fails, or does not let the gateway in, does so in every manner (SPEC.md 2.9).
fn outcome(reply: Result<Reply, Fault>) -> Outcome {
    let reply = match reply {
        Ok(reply) => reply,
        Err(fault) => return Outcome::Fault(fault),
    };
    match reply {
        Reply { answer: Some(Answer::Success { .. }), .. } => Outcome::Result(reply),
        Reply { answer: Some(Answer::Error), .. } => {
            Outcome::Refusal(Fault("answered with a JSON-RPC error".to_owned()))
        }
        Reply { status: status @ (401 | 403 | 500..), .. } => {
            Outcome::Fault(Fault(format!("answered with status {status}")))
        }
        Reply { status: 200, .. } => {
            Outcome::Refusal(Fault("answered with something that is not MCP".to_owned()))
        }
        Reply { status, .. } => Outcome::Refusal(Fault(format!("answered with status {status}"))),
    }
}
