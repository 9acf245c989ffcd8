//! What the policy is asked: who wants to do what, where.

use std::net::IpAddr;

use crate::identity::Caller;
use crate::mcp::{Annotations, Call};

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The name of the server.
    pub server: &'a str,
    /// The method of the message; for the stream and the end of a legacy session `GET` and `DELETE`.
    pub method: &'a str,
    /// What the message names.
    pub subject: Subject<'a>,
    /// What the server declared about the tool in its list; absent as long as that is not known.
    pub annotations: Option<&'a Annotations>,
    /// The bytes of `params.arguments`, where the message has some.
    pub arguments: Option<&'a [u8]>,
    /// Where the connection comes from.
    pub client: Option<IpAddr>,
}

/// What a message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A tool, by its own name.
    Tool(&'a str),
    /// A prompt, by its own name.
    Prompt(&'a str),
    /// A resource, by its URI.
    Resource(&'a str),
    /// A template of resources, by its URI template.
    Template(&'a str),
    /// Nothing: the method says everything.
    Method,
}

impl<'a> Subject<'a> {
    /// What a call names. One that should name something and does not names the empty name, which
    /// is nobody's.
    pub fn of(call: &'a Call<'_>) -> Self {
        let target = call.target().unwrap_or_default();
        match call.method() {
            "tools/call" => Self::Tool(target),
            "prompts/get" => Self::Prompt(target),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                Self::Resource(target)
            }
            "completion/complete" => {
                let reference = call.envelope.params.reference.as_ref();
                match reference.is_some_and(|reference| reference.name.is_none()) {
                    true => Self::Template(target),
                    false => Self::Prompt(target),
                }
            }
            _ => Self::Method,
        }
    }

    /// The name, URI or URI template.
    pub fn name(self) -> Option<&'a str> {
        match self {
            Self::Tool(name) | Self::Prompt(name) | Self::Resource(name) | Self::Template(name) => {
                Some(name)
            }
            Self::Method => None,
        }
    }
}

/// Whether a method belongs to the protocol itself, so that it is open to every caller unless a
/// rule denies it: what it lists is filtered, and a task was begun by a call that was allowed.
pub(super) fn is_lifecycle(method: &str) -> bool {
    matches!(
        method,
        // The answer of a client to a request of the server has no method.
        "" | "initialize"
            | "ping"
            | "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "logging/setLevel"
            | "subscriptions/listen"
            | "tasks/get"
            | "tasks/update"
            | "tasks/cancel"
            | "tasks/result"
            | "tasks/list"
            | "GET"
            | "DELETE"
    ) || method.starts_with("notifications/")
}
