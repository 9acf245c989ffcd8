//! What the peek reads from a message: its kind, and what routes it.

use super::id::Id;
use super::text::Text;

/// What one message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Which of the three kinds of message it is.
    pub kind: Kind<'a>,
    /// What is read of its `params`; empty where there are none.
    pub params: Params<'a>,
}

/// The three kinds of JSON-RPC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// It wants an answer.
    Request {
        /// What the answer will carry.
        id: Id<'a>,
        /// What is asked.
        method: Text<'a>,
    },
    /// It wants none.
    Notification {
        /// What is told.
        method: Text<'a>,
    },
    /// It answers a request of the server.
    Response {
        /// The server's id. Only an `error` may be without: JSON-RPC sends it with a null id when
        /// the request could not be read, and MCP makes the id of an error optional.
        id: Option<Id<'a>>,
    },
}

/// What is read of `params`.
///
/// A key that routes the method has the type MCP gives it, if it is there. To other methods, known or
/// not, it may mean anything; a value of another type is then `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    /// `name`: of a tool or a prompt.
    pub name: Option<Text<'a>>,
    /// `uri`: of a resource.
    pub uri: Option<Text<'a>>,
    /// `taskId`.
    pub task_id: Option<Text<'a>>,
    /// `ref`: what a completion is for.
    pub reference: Option<Reference<'a>>,
    /// `protocolVersion`: what `initialize` asks for.
    pub protocol_version: Option<Text<'a>>,
    /// `requestId`: what `notifications/cancelled` cancels.
    pub request_id: Option<Id<'a>>,
    /// `requestState`: what a repeated call sends back unread (2026-07-28).
    pub request_state: Option<Text<'a>>,
    /// `arguments`, as they stand in the body, whatever they are.
    pub arguments: Option<&'a str>,
    /// `_meta`; empty where there is none.
    pub meta: Meta<'a>,
}

/// `params.ref`: a prompt by name or a resource by URI template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference<'a> {
    /// `type`: `ref/prompt` or `ref/resource`.
    pub kind: Option<Text<'a>>,
    /// `name`: of the prompt.
    pub name: Option<Text<'a>>,
    /// `uri`: of the resource.
    pub uri: Option<Text<'a>>,
}

/// `params._meta`: what a modern request says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    /// All of it, as it stands in the body; empty where there is none.
    pub literal: &'a str,
    /// `progressToken`: a string or an integer, like an id.
    pub progress_token: Option<Id<'a>>,
    /// `io.modelcontextprotocol/protocolVersion`.
    pub protocol_version: Option<Text<'a>>,
    /// `io.modelcontextprotocol/clientCapabilities`.
    pub client_capabilities: Claim,
    /// `io.modelcontextprotocol/clientInfo`.
    pub client_info: Claim,
    /// `io.modelcontextprotocol/logLevel`.
    pub log_level: Claim,
}

/// Whether a claim is made whose content does not matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claim {
    /// The key is not there.
    #[default]
    Absent,
    /// Its value is an object.
    Object,
    /// Its value is something else.
    NotObject,
}

impl<'a> Envelope<'a> {
    /// The id of a request or response.
    pub fn id(&self) -> Option<Id<'a>> {
        match self.kind {
            Kind::Request { id, .. } => Some(id),
            Kind::Notification { .. } => None,
            Kind::Response { id } => id,
        }
    }

    /// The id that an answer carries. A response has none to be answered with: its id is the
    /// server's, and a client could take the answer for one to a request of its own.
    pub fn reply_id(&self) -> Option<Id<'a>> {
        match self.kind {
            Kind::Request { id, .. } => Some(id),
            Kind::Notification { .. } | Kind::Response { .. } => None,
        }
    }

    /// The method of a request or notification.
    pub fn method(&self) -> Option<&Text<'a>> {
        match &self.kind {
            Kind::Request { method, .. } | Kind::Notification { method } => Some(method),
            Kind::Response { .. } => None,
        }
    }
}
