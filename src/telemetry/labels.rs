//! Who called what, as the labels of metrics: borrowed to look up, owned to keep.

use std::hash::{Hash, Hasher};

/// Who called what, as labels. Borrowed: a known combination is found without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    /// The route's path.
    pub route: &'a str,
    /// The server's name.
    pub server: &'a str,
    /// The JSON-RPC method, or the HTTP method of a request without a message.
    pub method: &'a str,
    /// The caller's id.
    pub caller: &'a str,
    /// The tool's name, or nothing.
    pub tool: &'a str,
}

/// The owned form of [`Labels`]; both hash alike so that the borrowed form finds it.
#[derive(PartialEq, Eq)]
pub(super) struct Key {
    route: Box<str>,
    server: Box<str>,
    method: Box<str>,
    caller: Box<str>,
    tool: Box<str>,
}

impl Key {
    pub(super) fn labels(&self) -> Labels<'_> {
        Labels {
            route: &self.route,
            server: &self.server,
            method: &self.method,
            caller: &self.caller,
            tool: &self.tool,
        }
    }
}

impl From<Labels<'_>> for Key {
    fn from(labels: Labels<'_>) -> Self {
        Self {
            route: labels.route.into(),
            server: labels.server.into(),
            method: labels.method.into(),
            caller: labels.caller.into(),
            tool: labels.tool.into(),
        }
    }
}

impl Hash for Labels<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The server follows from the route, so it need not be hashed.
        for part in [self.route, self.method, self.caller, self.tool] {
            state.write(part.as_bytes());
            state.write_u8(0xff);
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.labels().hash(state);
    }
}

impl papaya::Equivalent<Key> for Labels<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        key.labels() == *self
    }
}
