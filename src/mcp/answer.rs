//! What a server's answer says, for the few that the gateway must understand.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Revision;
use super::sse::data_of_events;

/// A JSON-RPC answer, as far as the gateway cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A result that reports no error.
    Success {
        /// The revision that an `initialize` result agreed on.
        revision: Option<Revision>,
    },
    /// A JSON-RPC error, or a tool result with `isError`.
    Error,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    result: Option<WireResult<'a>>,
    error: Option<IgnoredAny>,
    method: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct WireResult<'a> {
    #[serde(rename = "protocolVersion", borrow)]
    protocol_version: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "isError")]
    is_error: Option<bool>,
}

impl Answer {
    /// Reads a JSON answer. `None` if it is not an answer, or not whole yet.
    pub fn of_json(body: &[u8]) -> Option<Self> {
        let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
        match wire {
            // A request or notification of the server, on its way to the client.
            Wire { method: Some(_), .. } => None,
            Wire { error: Some(_), .. } => Some(Self::Error),
            Wire { result: Some(result), .. } if result.is_error == Some(true) => Some(Self::Error),
            Wire { result: Some(result), .. } => Some(Self::Success {
                revision: result.protocol_version.and_then(|name| Revision::parse(&name)),
            }),
            Wire { .. } => None,
        }
    }

    /// Reads the answer among the events of a stream.
    pub fn of_events(stream: &[u8]) -> Option<Self> {
        data_of_events(stream).iter().find_map(|data| Self::of_json(data))
    }
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    method: Option<IgnoredAny>,
}

/// The result of a JSON-RPC answer, byte for byte; `None` if it has none.
pub fn result_of(answer: &[u8]) -> Option<&[u8]> {
    let Whole { result, method } = serde_json::from_slice(answer).ok()?;
    result.filter(|_| method.is_none()).map(|result| result.get().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::Answer;
    use crate::mcp::Revision;

    #[test]
    fn answers_are_told_from_everything_else() {
        let success = |revision| Some(Answer::Success { revision });
        let rows = [
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}"#,
                success(Some(Revision::V2025_06_18)),
            ),
            (r#"{"result":{"content":[]},"jsonrpc":"2.0","id":1}"#, success(None)),
            (r#"{"id":1,"result":{"isError":true}}"#, Some(Answer::Error)),
            (r#"{"id":1,"result":{"isError":false}}"#, success(None)),
            (r#"{"id":1,"error":{"code":-32602}}"#, Some(Answer::Error)),
            (r#"{"id":1,"method":"roots/list"}"#, None),
            (r#"{"id":1,"result":{"#, None),
            ("", None),
        ];
        for (json, expected) in rows {
            assert_eq!(Answer::of_json(json.as_bytes()), expected, "{json}");
            let events = format!("data: \nid: 0\n\ndata: {json}\n\n");
            assert_eq!(Answer::of_events(events.as_bytes()), expected, "{json}");
        }
    }
}
