//! What the gateway must know of a method: its class, its routing key, whether running it twice is harmless.

use super::Era;

/// The part of `params` that a method is routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingKey {
    /// `params.name`: a tool or a prompt.
    Name,
    /// `params.uri`: a resource.
    Uri,
    /// `params.taskId`: a task, which lives where it was made.
    TaskId,
    /// `params.ref`: what a completion is for.
    Reference,
    /// Nothing: the method alone decides.
    None,
}

/// A method sorted by how the gateway treats it. The set of methods is open: an unknown one is
/// forwarded like a call that must not run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `initialize`, which opens a legacy session.
    Initialize,
    /// `tools/call`.
    ToolCall,
    /// Reads that change nothing at the server.
    Read,
    /// `tasks/*` for one task.
    Task,
    /// `subscriptions/listen`: an answer that stays open.
    Listen,
    /// Any `notifications/*`.
    Notification,
    /// Everything else.
    Other,
}

impl Class {
    /// The class of a method name.
    pub fn of(method: &str) -> Self {
        match method {
            "initialize" => Self::Initialize,
            "tools/call" => Self::ToolCall,
            "tools/list"
            | "prompts/list"
            | "prompts/get"
            | "resources/list"
            | "resources/templates/list"
            | "resources/read"
            | "completion/complete"
            | "ping"
            | "server/discover" => Self::Read,
            "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => Self::Task,
            "subscriptions/listen" => Self::Listen,
            _ if method.starts_with("notifications/") => Self::Notification,
            _ => Self::Other,
        }
    }

    /// Whether a request of this class may be sent again although a first copy may have run.
    pub fn is_repeatable(self) -> bool {
        matches!(self, Self::Initialize | Self::Read)
    }
}

/// The name of a method as a constant, for those of the specification: what is known need not be
/// copied out of a request to be remembered.
pub fn well_known(method: &str) -> Option<&'static str> {
    const NAMES: &[&str] = &[
        "tools/call",
        "tools/list",
        "initialize",
        "notifications/initialized",
        "ping",
        "server/discover",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "resources/subscribe",
        "resources/unsubscribe",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "logging/setLevel",
        "subscriptions/listen",
        "tasks/get",
        "tasks/update",
        "tasks/cancel",
        "tasks/result",
        "tasks/list",
        "notifications/cancelled",
        "notifications/progress",
        "notifications/roots/list_changed",
    ];
    NAMES.iter().find(|name| **name == method).copied()
}

impl RoutingKey {
    /// The key that `method` is routed by.
    pub fn of(method: &str) -> Self {
        match method {
            "tools/call" | "prompts/get" => Self::Name,
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => Self::Uri,
            "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => Self::TaskId,
            "completion/complete" => Self::Reference,
            _ => Self::None,
        }
    }

    /// Whether a modern request must mirror this method's key in `Mcp-Name`
    /// (2026-07-28 transport, "Standard headers"; tasks by SEP-2663).
    pub fn must_be_mirrored(method: &str) -> bool {
        matches!(
            method,
            "tools/call"
                | "prompts/get"
                | "resources/read"
                | "tasks/get"
                | "tasks/update"
                | "tasks/cancel"
        )
    }
}

/// Whether `method` was removed from the modern era: a request that claims it there gets 404 and
/// -32601 even where legacy is served (2026-07-28 changelog; conformance `server-stateless`).
pub(super) fn is_removed(method: &str, era: Era) -> bool {
    era == Era::Modern
        && matches!(
            method,
            "initialize"
                | "ping"
                | "logging/setLevel"
                | "resources/subscribe"
                | "resources/unsubscribe"
        )
}

#[cfg(test)]
mod tests {
    use super::{Class, RoutingKey, is_removed};
    use crate::mcp::Era;

    #[test]
    fn methods_are_sorted() {
        let rows = [
            ("initialize", Class::Initialize, RoutingKey::None, true),
            ("tools/call", Class::ToolCall, RoutingKey::Name, false),
            ("prompts/get", Class::Read, RoutingKey::Name, true),
            ("resources/read", Class::Read, RoutingKey::Uri, true),
            ("tasks/cancel", Class::Task, RoutingKey::TaskId, false),
            ("subscriptions/listen", Class::Listen, RoutingKey::None, false),
            ("notifications/initialized", Class::Notification, RoutingKey::None, false),
            ("skills/list", Class::Other, RoutingKey::None, false),
        ];
        for (method, class, key, repeatable) in rows {
            assert_eq!(Class::of(method), class, "{method}");
            assert_eq!(RoutingKey::of(method), key, "{method}");
            assert_eq!(Class::of(method).is_repeatable(), repeatable, "{method}");
        }
    }

    #[test]
    fn removed_methods_are_removed_only_in_the_modern_era() {
        assert!(is_removed("ping", Era::Modern));
        assert!(!is_removed("ping", Era::Legacy));
        assert!(!is_removed("tools/list", Era::Modern));
    }
}
