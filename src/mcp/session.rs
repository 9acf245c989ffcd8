//! What the gateway must understand of a session to keep it alive: how it was opened, what its
//! client has set, and what its streams are told.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Era;

/// The key under which a notification of a listen stream names the request it belongs to
/// (2026-07-28 subscriptions).
pub(super) const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// What lists there are: the notification that one has changed, and the key by which a modern
/// client asks for it.
pub(super) const LISTS: [(&str, &str); 3] = [
    ("notifications/tools/list_changed", "toolsListChanged"),
    ("notifications/prompts/list_changed", "promptsListChanged"),
    ("notifications/resources/list_changed", "resourcesListChanged"),
];

#[derive(Deserialize)]
struct Opening<'a> {
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Deserialize)]
struct Failure {
    error: ErrorCode,
}

#[derive(Deserialize)]
struct ErrorCode {
    code: i32,
}

#[derive(Deserialize)]
struct SetLevel {
    params: Level,
}

#[derive(Deserialize)]
struct Level {
    level: String,
}

#[derive(Deserialize)]
struct Listen<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    params: ListenParams,
}

#[derive(Deserialize)]
struct ListenParams {
    #[serde(default)]
    notifications: Value,
}

/// The `params` of a message, as they came.
pub fn params_of(message: &[u8]) -> Option<&[u8]> {
    let opening: Opening<'_> = serde_json::from_slice(message).ok()?;
    Some(opening.params.get().as_bytes())
}

/// The code of a JSON-RPC error; `None` if the message is none.
pub fn error_code(message: &[u8]) -> Option<i32> {
    serde_json::from_slice::<Failure>(message).ok().map(|failure| failure.error.code)
}

/// The level that a `logging/setLevel` sets.
pub fn log_level(message: &[u8]) -> Option<String> {
    serde_json::from_slice::<SetLevel>(message).ok().map(|set| set.params.level)
}

/// The cursor of a request for a list, if it has one.
///
/// # Errors
/// When it has something else in that place.
pub fn cursor(message: &[u8]) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct List {
        params: Option<Page>,
    }
    #[derive(Deserialize)]
    struct Page {
        cursor: Option<String>,
    }
    let list: List = serde_json::from_slice(message)?;
    Ok(list.params.and_then(|page| page.cursor))
}

/// The notifications that say that every list may have changed: all of them on a legacy stream, on
/// a modern one those that its listen request asked for, with its id.
pub fn list_changed(era: Era, request: &[u8]) -> Vec<String> {
    if era == Era::Legacy {
        let told =
            |(method, _): &(&str, &str)| format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
        return LISTS.iter().map(told).collect();
    }
    let Ok(Listen { id, params }) = serde_json::from_slice(request) else { return Vec::new() };
    let asked = LISTS.iter().filter(|(_, key)| params.notifications[*key] == Value::Bool(true));
    let told = asked.map(|(method, _)| {
        let about = format!(r#"{{"_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}"#);
        format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{about}}}"#)
    });
    told.collect()
}

/// The resources whose changes a listen request asks for; `None` if they cannot be read.
pub fn listened_resources(request: &[u8]) -> Option<Vec<String>> {
    let Listen { params, .. } = serde_json::from_slice(request).ok()?;
    match &params.notifications["resourceSubscriptions"] {
        Value::Null => Some(Vec::new()),
        Value::Array(uris) => uris.iter().map(|uri| Some(uri.as_str()?.to_owned())).collect(),
        _ => None,
    }
}

/// The answer that ends a modern listen stream; `id` is that of its request, as it came.
pub fn listening_over(id: &str) -> String {
    let about = format!(r#"{{"{SUBSCRIPTION_ID}":{id}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{about}}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::{
        error_code, list_changed, listened_resources, listening_over, log_level, params_of,
    };
    use crate::mcp::Era;

    #[test]
    fn params_are_cut_out_as_they_came() {
        let message =
            br#"{"method":"initialize","id":1, "params" : {"capabilities": {} , "a":"\u00e9"} }"#;
        assert_eq!(params_of(message), Some(&br#"{"capabilities": {} , "a":"\u00e9"}"#[..]));
        assert_eq!(params_of(br#"{"method":"initialize","id":1}"#), None);
    }

    #[test]
    fn the_level_is_read() {
        let message = br#"{"method":"logging/setLevel","params":{"level":"warning"}}"#;
        assert_eq!(log_level(message).as_deref(), Some("warning"));
        assert_eq!(log_level(b"{}"), None);
    }

    #[test]
    fn the_code_of_an_error_is_read() {
        let unknown = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
        assert_eq!(error_code(unknown), Some(-32601));
        assert_eq!(
            (error_code(br#"{"id":1,"result":{}}"#), error_code(b"not found")),
            (None, None)
        );
    }

    #[test]
    fn changes_are_told_to_who_asked() {
        assert_eq!(list_changed(Era::Legacy, b"").len(), 3);
        let listen =
            br#"{"id":"L","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":false}}}"#;
        let told = list_changed(Era::Modern, listen);
        let expected = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}"#;
        assert_eq!(told, [expected]);
    }

    #[test]
    fn the_resources_that_are_listened_to_are_read() {
        let check = |notifications: &str, expected: Option<&[&str]>| {
            let request = format!(r#"{{"id":1,"params":{{"notifications":{notifications}}}}}"#);
            let read = listened_resources(request.as_bytes());
            let expected = expected.map(|uris| uris.iter().map(|uri| (*uri).to_owned()).collect());
            assert_eq!(read, expected, "{notifications}");
        };
        check(r#"{"toolsListChanged":true}"#, Some(&[]));
        check(r#"{"resourceSubscriptions":["a:b","c:d"]}"#, Some(&["a:b", "c:d"]));
        check(r#"{"resourceSubscriptions":"a:b"}"#, None);
        check(r#"{"resourceSubscriptions":[1]}"#, None);
    }

    #[test]
    fn a_listen_stream_ends_with_the_answer_to_its_request() {
        let over: serde_json::Value = serde_json::from_str(&listening_over("7")).expect("JSON");
        assert_eq!((&over["id"], &over["result"]["resultType"]), (&7.into(), &"complete".into()));
        assert_eq!(over["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
    }
}
