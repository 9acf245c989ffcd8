//! The messages of a listing, as far as the gateway reads them.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::offer::Kind;

/// What answers a request.
pub(super) enum Reply {
    /// A result, byte for byte.
    Result(Bytes),
    /// A JSON-RPC error.
    Error(i64),
    /// Something else, and its status.
    Other(u16),
}

/// A JSON-RPC message, as far as it tells what it is.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<WireError>,
    method: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WireError {
    code: i64,
}

/// What a server says of itself first.
#[derive(Deserialize)]
pub(super) struct Greeting<'a> {
    #[serde(borrow)]
    pub(super) capabilities: Capabilities<'a>,
    #[serde(borrow, rename = "protocolVersion")]
    pub(super) version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "supportedVersions", default)]
    pub(super) versions: Vec<Cow<'a, str>>,
}

/// What it is capable of, of what is listed.
#[derive(Deserialize)]
pub(super) struct Capabilities<'a> {
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    prompts: Option<&'a RawValue>,
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
}

impl Capabilities<'_> {
    /// Whether any list is one that the server tells changes of.
    pub(super) fn tells(&self) -> bool {
        #[derive(Deserialize)]
        struct Capability {
            #[serde(rename = "listChanged")]
            list_changed: bool,
        }
        [self.tools, self.prompts, self.resources].into_iter().flatten().any(|capability| {
            let read = serde_json::from_str::<Capability>(capability.get());
            read.is_ok_and(|capability| capability.list_changed)
        })
    }

    pub(super) fn of(&self, kind: Kind) -> Option<&RawValue> {
        match kind {
            Kind::Tools => self.tools,
            Kind::Prompts => self.prompts,
            Kind::Resources | Kind::Templates => self.resources,
        }
    }
}

/// The answer to the request with this id, if this is it.
pub(super) fn reply_of(message: &Bytes, id: u64) -> Option<Reply> {
    let Wire { id: answered, result, error, method } = serde_json::from_slice(message).ok()?;
    if method.is_some() {
        return None;
    }
    let answered = answered.map(RawValue::get);
    let is_ours = answered.is_some_and(|answered| answered.parse() == Ok(id));
    match (result, error) {
        (Some(result), None) if is_ours => {
            Some(Reply::Result(message.slice_ref(result.get().as_bytes())))
        }
        // A server that could not read the request does not know its id.
        (None, Some(error)) if is_ours || matches!(answered, None | Some("null")) => {
            Some(Reply::Error(error.code))
        }
        _ => None,
    }
}

/// Whether a message says that a list has changed.
pub(super) fn tells_of_change(message: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Notification<'a> {
        #[serde(borrow)]
        method: Cow<'a, str>,
    }
    let read = serde_json::from_slice::<Notification<'_>>(message);
    read.is_ok_and(|notification| {
        matches!(
            &*notification.method,
            "notifications/tools/list_changed"
                | "notifications/prompts/list_changed"
                | "notifications/resources/list_changed"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, Greeting, Reply, reply_of, tells_of_change};
    use crate::catalog::Kind;
    use bytes::Bytes;

    #[test]
    fn the_answer_is_told_from_everything_else() {
        let said = |json: &str| match reply_of(&Bytes::copy_from_slice(json.as_bytes()), 7) {
            Some(Reply::Result(result)) => String::from_utf8_lossy(&result).into_owned(),
            Some(Reply::Error(code)) => code.to_string(),
            Some(Reply::Other(_)) | None => "nothing".to_owned(),
        };
        let rows = [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"a" : 1}}"#, r#"{"a" : 1}"#),
            (r#"{"id":7,"error":{"code":-32601}}"#, "-32601"),
            (r#"{"id":null,"error":{"code":-32700}}"#, "-32700"),
            (r#"{"error":{"code":-32600}}"#, "-32600"),
            (r#"{"id":8,"error":{"code":-32601}}"#, "nothing"),
            (r#"{"id":8,"result":{}}"#, "nothing"),
            (r#"{"id":"7","result":{}}"#, "nothing"),
            (r#"{"id":7,"method":"roots/list"}"#, "nothing"),
            (r#"{"id":7,"result":{},"result":{"tools":[]}}"#, "nothing"),
            (r#"[{"id":7,"result":{}}]"#, "nothing"),
            (r#"{"id":7,"result":{}"#, "nothing"),
            ("", "nothing"),
        ];
        for (json, expected) in rows {
            assert_eq!(said(json), expected, "{json}");
        }
    }

    #[test]
    fn a_greeting_names_what_may_be_asked_for() {
        let greeting = r#"{"capabilities":{"tools":{"listChanged":true},"resources":{},"prompts":null},"x":1}"#;
        let Greeting { capabilities, version, versions } =
            serde_json::from_str(greeting).expect("a greeting");
        let asked: Vec<_> =
            Kind::ALL.into_iter().filter(|kind| capabilities.of(*kind).is_some()).collect();
        assert_eq!(asked, [Kind::Tools, Kind::Resources, Kind::Templates]);
        assert!(capabilities.tells() && version.is_none() && versions.is_empty());
        let silent: Capabilities<'_> =
            serde_json::from_str(r#"{"tools":{"listChanged":"yes"}}"#).expect("some");
        assert!(!silent.tells());
    }

    #[test]
    fn only_lists_that_changed_are_heard() {
        let told = |method: &str| tells_of_change(format!(r#"{{"method":"{method}"}}"#).as_bytes());
        assert!(
            told("notifications/tools/list_changed")
                && told("notifications\\/prompts\\/list_changed")
        );
        assert!(!told("notifications/message") && !tells_of_change(b"{"));
    }
}
