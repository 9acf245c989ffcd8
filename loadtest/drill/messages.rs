//! The requests of both eras, and what must be in the answer to each.

use serde_json::{Value, json};

use crate::peer::{Answer, Fault, Request};

const PATH: &str = "/mcp";
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
/// What every session of a drill sets once, and must find again wherever it is served.
pub(crate) const LEVEL: &str = "warning";
const SUBSCRIPTION: &str = "drill://ledger";

/// What a call is asked to do beside entering its nonce.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// `json` or `event`.
    pub(crate) form: &'static str,
    pub(crate) wait_ms: u64,
}

/// What an answered call tells of the session that served it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) replica: String,
    /// Whether the log level and the subscription are what the client has set.
    pub(crate) state: SessionState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionState {
    Whole,
    Lost,
}

pub(crate) fn initialize(id: u64) -> Request {
    let body = json!({
        "jsonrpc": "2.0", "id": id, "method": "initialize",
        "params": {
            "protocolVersion": LEGACY, "capabilities": {},
            "clientInfo": {"name": "drill", "version": "1.0.0"},
        },
    });
    post(Vec::new(), &body)
}

pub(crate) fn initialized(session: &str) -> Request {
    let body = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    post(legacy(session), &body)
}

pub(crate) fn set_level(session: &str, id: u64) -> Request {
    let params = json!({"level": LEVEL});
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "logging/setLevel", "params": params});
    post(legacy(session), &body)
}

pub(crate) fn subscribe(session: &str, id: u64) -> Request {
    let params = json!({"uri": SUBSCRIPTION});
    let method = "resources/subscribe";
    let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    post(legacy(session), &body)
}

/// A call in a session.
pub(crate) fn call(session: &str, id: u64, manner: Manner) -> Request {
    let params = json!({"name": "note", "arguments": arguments(id, manner)});
    let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    post(legacy(session), &body)
}

pub(crate) fn modern_call(id: u64, manner: Manner) -> Request {
    let params = json!({"name": "note", "arguments": arguments(id, manner), "_meta": claims()});
    modern("tools/call", Some("note"), id, params)
}

pub(crate) fn listen(id: u64) -> Request {
    let params = json!({"notifications": {"toolsListChanged": true}, "_meta": claims()});
    modern("subscriptions/listen", None, id, params)
}

pub(crate) fn stream(session: &str, last_event: Option<&str>) -> Request {
    let mut fields = legacy(session);
    fields.push(("Accept", "text/event-stream".to_owned()));
    fields.extend(last_event.map(|id| ("Last-Event-ID", id.to_owned())));
    Request { verb: "GET", path: PATH.to_owned(), fields, body: String::new() }
}

pub(crate) fn end(session: &str) -> Request {
    let fields = legacy(session);
    Request { verb: "DELETE", path: PATH.to_owned(), fields, body: String::new() }
}

/// The nonce under which a call stands in the ledger.
pub(crate) fn nonce(id: u64) -> String {
    format!("n{id}")
}

/// The id of a nonce in the ledger.
pub(crate) fn id_of(nonce: &str) -> Option<u64> {
    nonce.strip_prefix('n')?.parse().ok()
}

/// Reads the result of a request with this id; everything else is a fault.
pub(crate) fn result(answer: &Answer, id: u64) -> Result<Value, Fault> {
    if answer.head.status != 200 {
        return Err(Fault::Status(answer.head.status, answer.excerpt()));
    }
    let wrong = || Fault::Wrong(answer.excerpt());
    let mut message = match answer.head.is_stream {
        false => serde_json::from_slice::<Value>(&answer.body).map_err(|_| wrong())?,
        true => events(&answer.body)
            .find(|event| event["id"] == id)
            .ok_or_else(|| Fault::Cut("the stream ended without the answer".to_owned()))?,
    };
    let result = message["result"].take();
    if message["id"] == id && result.is_object() { Ok(result) } else { Err(wrong()) }
}

/// Reads what a call has told, and whether it is the answer to this call.
pub(crate) fn told(answer: &Answer, id: u64) -> Result<Told, Fault> {
    let result = result(answer, id)?;
    let told = &result["structuredContent"];
    let replica = told["replica"].as_str();
    match replica {
        Some(replica) if told["nonce"] == nonce(id) && result["isError"] != true => {
            let whole = told["level"] == LEVEL && told["subscriptions"] == 1;
            let state = if whole { SessionState::Whole } else { SessionState::Lost };
            Ok(Told { replica: replica.to_owned(), state })
        }
        _ => Err(Fault::Wrong(answer.excerpt())),
    }
}

/// An answer without a result, as notifications and DELETE get.
pub(crate) fn accepted(answer: &Answer) -> Result<(), Fault> {
    match answer.head.status {
        200 | 202 | 204 => Ok(()),
        status => Err(Fault::Status(status, answer.excerpt())),
    }
}

/// An answer to DELETE; that there is no such session any more is what was wanted.
pub(crate) fn ended(answer: &Answer) -> Result<(), Fault> {
    if answer.head.status == 404 { Ok(()) } else { accepted(answer) }
}

fn events(body: &[u8]) -> impl Iterator<Item = Value> {
    let lines = body.split(|byte| *byte == b'\n');
    lines.filter_map(|line| serde_json::from_slice(line.strip_prefix(b"data: ")?).ok())
}

fn arguments(id: u64, manner: Manner) -> Value {
    json!({"nonce": nonce(id), "form": manner.form, "wait_ms": manner.wait_ms})
}

fn claims() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

fn legacy(session: &str) -> Vec<(&'static str, String)> {
    vec![("Mcp-Session-Id", session.to_owned()), ("MCP-Protocol-Version", LEGACY.to_owned())]
}

fn modern(method: &str, name: Option<&str>, id: u64, params: Value) -> Request {
    let mut fields =
        vec![("MCP-Protocol-Version", MODERN.to_owned()), ("Mcp-Method", method.to_owned())];
    fields.extend(name.map(|name| ("Mcp-Name", name.to_owned())));
    post(fields, &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
}

fn post(mut fields: Vec<(&'static str, String)>, body: &Value) -> Request {
    fields.push(("Content-Type", "application/json".to_owned()));
    fields.push(("Accept", "application/json, text/event-stream".to_owned()));
    Request { verb: "POST", path: PATH.to_owned(), fields, body: body.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Head;

    fn check(status: u16, form: &str, body: &str, expected: Result<SessionState, &str>) {
        let head = Head { status, is_stream: form == "event", session: None };
        let answer = Answer { head, body: body.as_bytes().to_vec() };
        match (told(&answer, 7), expected) {
            (Ok(told), Ok(state)) => assert_eq!((told.replica.as_str(), told.state), ("a", state)),
            (Err(fault), Err(expected)) => {
                assert!(fault.to_string().starts_with(expected), "{fault} for {body}");
            }
            (found, expected) => panic!("{found:?} instead of {expected:?} for {body}"),
        }
    }

    #[test]
    fn only_the_right_answer_is_one() {
        let told = r#"{"nonce":"n7","replica":"a","level":"warning","subscriptions":1}"#;
        let right = format!(r#"{{"id":7,"result":{{"structuredContent":{told}}}}}"#);
        check(200, "json", &right, Ok(SessionState::Whole));
        check(200, "event", &format!(": x\n\ndata: {right}\n\n"), Ok(SessionState::Whole));
        let blank = right.replace(r#""warning""#, "null");
        check(200, "json", &blank, Ok(SessionState::Lost));
        check(502, "json", &right, Err("status 502"));
        check(200, "json", &right.replace(r#""id":7"#, r#""id":8"#), Err("wrong answer"));
        check(200, "json", &right.replace("n7", "n8"), Err("wrong answer"));
        check(200, "json", r#"{"id":7,"error":{"code":1,"message":"x"}}"#, Err("wrong answer"));
        check(200, "event", ": x\n\n", Err("answer cut"));
    }
}
