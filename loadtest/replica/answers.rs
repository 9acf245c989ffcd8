//! What the replica answers to each message: the rules of both eras, as far as the drills touch them.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::connection::{Request, Verb};
use crate::sessions::{self, Sessions, Stage};

const REVISION_CLAIM: &str = "io.modelcontextprotocol/protocolVersion";
const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const SESSION_NOT_FOUND: i64 = -32001;
const HEADER_MISMATCH: i64 = -32020;

/// The state that all connections share.
pub(crate) struct Replica {
    pub(crate) name: String,
    ledger: File,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) event_every: Duration,
}

/// What goes back on the connection.
pub(crate) enum Answer {
    /// A status line's end, and no body.
    Empty(&'static str),
    Json {
        status: &'static str,
        session: Option<u128>,
        body: Value,
    },
    /// The answer to a call, which may take a while: as JSON, or as a stream of one event.
    Result {
        form: Form,
        after: Duration,
        body: Value,
    },
    /// The GET stream of a session, from this event on.
    Events {
        session: u128,
        next: u64,
    },
    /// `subscriptions/listen`: an acknowledgement, then silence until the client leaves.
    Listen {
        acknowledgement: Value,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Event,
}

impl Replica {
    pub(crate) fn new(name: String, ledger: File, event_every: Duration) -> Self {
        Self { name, ledger, sessions: Mutex::default(), event_every }
    }

    pub(crate) fn answer(&self, request: &Request) -> Answer {
        match (request.verb, request.path.as_str()) {
            (Verb::Get, "/stats") => {
                let body = self.sessions.lock().stats(&self.name);
                Answer::Json { status: "200 OK", session: None, body }
            }
            (_, path) if path != "/mcp" => Answer::Empty("404 Not Found"),
            (Verb::Post, _) => self.post(request),
            (Verb::Get, _) => {
                self.in_session(request, &Value::Null, |session| self.events(request, session))
            }
            (Verb::Delete, _) => self.in_session(request, &Value::Null, |session| {
                self.sessions.lock().end(session);
                Answer::Empty("204 No Content")
            }),
            (Verb::Other, _) => Answer::Empty("405 Method Not Allowed"),
        }
    }

    fn post(&self, request: &Request) -> Answer {
        let Ok(message) = serde_json::from_slice::<Value>(&request.body) else {
            return error("400 Bad Request", &Value::Null, PARSE_ERROR, "no JSON");
        };
        let method = message["method"].as_str().unwrap_or_default();
        if message["params"]["_meta"][REVISION_CLAIM].is_string() {
            return self.modern(request, method, &message);
        }
        if method == "initialize" {
            return self.initialize(&message);
        }
        let id = &message["id"];
        self.in_session(request, id, |session| self.legacy(session, method, &message))
    }

    fn initialize(&self, message: &Value) -> Answer {
        let session = self.sessions.lock().open();
        let body = result(
            &message["id"],
            json!({
                "protocolVersion": LEGACY,
                "capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": true}},
                "serverInfo": {"name": self.name, "version": "1.0.0"},
            }),
        );
        Answer::Json { status: "200 OK", session: Some(session), body }
    }

    /// Refuses a request that names no session of this process, and hands on the others.
    fn in_session(
        &self,
        request: &Request,
        id: &Value,
        then: impl FnOnce(u128) -> Answer,
    ) -> Answer {
        let Some(sent) = &request.session else {
            return error("400 Bad Request", id, INVALID_REQUEST, "Mcp-Session-Id is required");
        };
        let known =
            sessions::parse(sent).filter(|session| self.sessions.lock().find(*session).is_some());
        match known {
            Some(session) => then(session),
            None => {
                self.sessions.lock().unknown += 1;
                error("404 Not Found", id, SESSION_NOT_FOUND, "session not found")
            }
        }
    }

    fn legacy(&self, session: u128, method: &str, message: &Value) -> Answer {
        let id = &message["id"];
        let mut sessions = self.sessions.lock();
        let stage = sessions.find(session).map_or(Stage::Opened, |session| session.stage);
        if id.is_null() {
            if let Some(session) = sessions.find(session)
                && method == "notifications/initialized"
            {
                session.stage = Stage::Initialized;
            }
            return Answer::Empty("202 Accepted");
        }
        if method == "ping" {
            return json(id, json!({}));
        }
        if stage != Stage::Initialized {
            sessions.calls_before_initialized += 1;
            return error("400 Bad Request", id, INVALID_REQUEST, "the session is not initialized");
        }
        let Some(held) = sessions.find(session) else {
            return error("404 Not Found", id, SESSION_NOT_FOUND, "session not found");
        };
        match method {
            "tools/list" => json(id, tools()),
            "logging/setLevel" => {
                held.level = message["params"]["level"].as_str().map(Into::into);
                json(id, json!({}))
            }
            "resources/subscribe" => {
                held.subscriptions.extend(message["params"]["uri"].as_str().map(Into::into));
                json(id, json!({}))
            }
            "tools/call" => {
                let mut told = json!({"resultType": "complete"});
                told["structuredContent"] =
                    json!({"level": held.level, "subscriptions": held.subscriptions.len()});
                sessions.calls += 1;
                drop(sessions);
                self.call(message, &sessions::text(session), told)
            }
            _ => error("200 OK", id, METHOD_NOT_FOUND, "no such method"),
        }
    }

    fn modern(&self, request: &Request, method: &str, message: &Value) -> Answer {
        let id = &message["id"];
        let named = message["params"]["name"].as_str();
        let agrees = request.method_field.as_deref() == Some(method)
            && request.name_field.as_deref() == named
            && request.revision_field.as_deref()
                == message["params"]["_meta"][REVISION_CLAIM].as_str();
        if !agrees {
            return error("400 Bad Request", id, HEADER_MISMATCH, "headers and body disagree");
        }
        match method {
            "server/discover" => json(
                id,
                json!({
                    "resultType": "complete",
                    "supportedVersions": [MODERN, LEGACY],
                    "capabilities": {"tools": {"listChanged": true}},
                    "serverInfo": {"name": self.name, "version": "1.0.0"},
                    "ttlMs": 0,
                    "cacheScope": "private",
                }),
            ),
            "tools/list" => json(id, tools()),
            "tools/call" => {
                self.sessions.lock().calls += 1;
                self.call(message, "-", json!({"resultType": "complete", "structuredContent": {}}))
            }
            "subscriptions/listen" => Answer::Listen {
                acknowledgement: json!({
                    "jsonrpc": "2.0",
                    "method": "notifications/subscriptions/acknowledged",
                    "params": {
                        "notifications": message["params"]["notifications"],
                        "_meta": {"io.modelcontextprotocol/subscriptionId": id},
                    },
                }),
            },
            _ => error("404 Not Found", id, METHOD_NOT_FOUND, "no such method"),
        }
    }

    /// Runs the one tool: the nonce is in the ledger before anyone is told.
    fn call(&self, message: &Value, session: &str, mut told: Value) -> Answer {
        let id = &message["id"];
        let arguments = &message["params"]["arguments"];
        let Some(nonce) = arguments["nonce"].as_str() else {
            return error("200 OK", id, INVALID_PARAMS, "a nonce is required");
        };
        if let Err(fault) = self.enter(nonce, session) {
            return error("500 Internal Server Error", id, -32603, &fault.to_string());
        }
        told["structuredContent"]["nonce"] = nonce.into();
        told["structuredContent"]["replica"] = self.name.as_str().into();
        told["content"] = json!([{"type": "text", "text": nonce}]);
        let form = match arguments["form"].as_str() {
            Some("event") => Form::Event,
            _ => Form::Json,
        };
        let after = Duration::from_millis(arguments["wait_ms"].as_u64().unwrap_or_default());
        Answer::Result { form, after, body: result(id, told) }
    }

    /// One write to a file that is opened for appending is one line, whoever else writes.
    fn enter(&self, nonce: &str, session: &str) -> io::Result<()> {
        let line = format!("{nonce} {} {session}\n", self.name);
        let written = (&self.ledger).write(line.as_bytes())?;
        if written == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn events(&self, request: &Request, session: u128) -> Answer {
        let mut sessions = self.sessions.lock();
        let mut next =
            sessions.find(session).map_or(1, |held| held.last_event(self.event_every) + 1);
        if let Some(last) = &request.last_event {
            match event_number(last, session) {
                Some(number) => next = number + 1,
                // An id of another replica says nothing here; the stream begins with what comes.
                None => sessions.foreign_event_ids += 1,
            }
        }
        Answer::Events { session, next }
    }
}

/// Names the session beside the number, so that an id that belongs to another stream is noticed.
pub(crate) fn event_id(session: u128, number: u64) -> String {
    format!("{:08x}-{number}", session >> 96)
}

fn event_number(id: &str, session: u128) -> Option<u64> {
    let number: u64 = id.rsplit_once('-')?.1.parse().ok()?;
    (event_id(session, number) == id).then_some(number)
}

fn tools() -> Value {
    let schema = json!({
        "type": "object",
        "properties": {
            "nonce": {"type": "string"},
            "form": {"enum": ["json", "event"]},
            "wait_ms": {"type": "integer"},
        },
        "required": ["nonce"],
    });
    json!({
        "resultType": "complete",
        "tools": [{"name": "note", "description": "Enters a nonce in the ledger.", "inputSchema": schema}],
        "ttlMs": 0,
        "cacheScope": "private",
    })
}

fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn json(id: &Value, value: Value) -> Answer {
    Answer::Json { status: "200 OK", session: None, body: result(id, value) }
}

fn error(status: &'static str, id: &Value, code: i64, message: &str) -> Answer {
    let body = json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}});
    Answer::Json { status, session: None, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_read_by_the_session_that_gave_them() {
        let (session, other) = (0x1234_5678 << 96, 0x1234_5679 << 96);
        assert_eq!(event_number(&event_id(session, 7), session), Some(7));
        assert_eq!(event_number(&event_id(other, 7), session), None);
        assert_eq!(event_number("7", session), None);
        assert_eq!(event_number("", session), None);
    }
}
