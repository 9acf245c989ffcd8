//! One request to the store: a script, the names it works on and what it is told.

use redis::{Cmd, ToRedisArgs};

use super::name::Name;

/// A script that the store runs as one step, with its names and arguments.
///
/// It is sent whole each time: a store that forgot it, or a node of a cluster that never knew it,
/// needs no second try.
#[derive(Clone, Debug)]
pub struct Ask {
    what: &'static str,
    script: &'static str,
    names: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Ask {
    /// A script, and what it is counted as in metrics.
    pub fn new(what: &'static str, script: &'static str) -> Self {
        Self { what, script, names: Vec::new(), arguments: Vec::new() }
    }

    /// One more of the script's `KEYS`. All of them lie in one slot of a cluster.
    #[must_use]
    pub fn of(mut self, name: &Name) -> Self {
        self.names.push(name.as_str().to_owned());
        self
    }

    /// One more of the script's `ARGV`.
    #[must_use]
    pub fn with(mut self, argument: impl ToRedisArgs) -> Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    pub(super) fn what(&self) -> &'static str {
        self.what
    }

    pub(super) fn command(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.script).arg(self.names.len()).arg(&self.names);
        for argument in &self.arguments {
            command.arg(argument);
        }
        command
    }
}
