//! What the policy is asked: who wants to do what, where.

use std::net::IpAddr;

use crate::identity::Caller;
use crate::jsonrpc::{Reference, Text};
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
                call.envelope.params.reference.as_ref().map_or(Self::Prompt(""), Self::of_reference)
            }
            _ => Self::Method,
        }
    }

    /// What a completion is for. Servers choose by `type`, some perhaps by what is there: where these
    /// could differ it is nobody's name.
    fn of_reference(reference: &'a Reference<'_>) -> Self {
        let Reference { kind, name, uri } = reference;
        match (kind.as_ref().map(Text::as_str), name, uri) {
            (Some("ref/prompt"), Some(name), None) => Self::Prompt(name.as_str()),
            (Some("ref/resource"), None, Some(uri)) => Self::Template(uri.as_str()),
            _ => Self::Prompt(""),
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
/// rule denies it: what it lists is filtered, and a task was begun by a call that was allowed. The list
/// of tasks is not among them: servers may list those of others.
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
            | "GET"
            | "DELETE"
    ) || method.starts_with("notifications/")
}

#[cfg(test)]
mod tests {
    use super::{Subject, is_lifecycle};
    use crate::jsonrpc::peek;
    use crate::mcp::{Call, Claims};

    #[test]
    fn a_completion_is_for_what_its_type_says_or_for_nobody() {
        let rows = [
            (r#"{"type":"ref/prompt","name":"p"}"#, Subject::Prompt("p")),
            (r#"{"name":"p","title":"P","type":"ref/prompt"}"#, Subject::Prompt("p")),
            (r#"{"type":"ref/resource","uri":"file:///{x}"}"#, Subject::Template("file:///{x}")),
            (r#"{"type":"ref/resource","uri":"file:///{x}","name":"p"}"#, Subject::Prompt("")),
            (r#"{"type":"ref/prompt","uri":"file:///{x}","name":"p"}"#, Subject::Prompt("")),
            (r#"{"type":"ref/prompt","uri":"file:///{x}"}"#, Subject::Prompt("")),
            (r#"{"type":"ref/resource","name":"p"}"#, Subject::Prompt("")),
            (r#"{"type":"ref/Prompt","name":"p"}"#, Subject::Prompt("")),
            (r#"{"name":"p"}"#, Subject::Prompt("")),
            ("{}", Subject::Prompt("")),
        ];
        for (reference, expected) in rows {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{reference}}}}}"#
            );
            let claims = Claims { version: None, method: None, name: None };
            let envelope = peek(body.as_bytes()).expect("a body the peek accepts");
            let call = Call::read(claims, envelope).expect("a call");
            assert_eq!(Subject::of(&call), expected, "{reference}");
        }
    }

    #[test]
    fn one_task_belongs_to_the_protocol_and_the_list_of_tasks_does_not() {
        assert!(is_lifecycle("tasks/get") && !is_lifecycle("tasks/list"));
    }
}
