//! How MCP sessions are sealed, and when they end: `sessions`.

use std::time::Duration;

use serde_json::Value;

use super::reading::{Fault, Reading};
use super::scalars::{Count, choice_schema, parse_choice};
use super::secret::Secret;
use super::shape::{Field, Scalar, shape};

/// A key is derived by SHA-256, which makes nothing strong of a short text.
const KEY_CHARS_MIN: usize = 32;

/// Keys and lifetime of sealed sessions, and what becomes of those that nobody uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// The first seals, all open; empty means that a key is generated in `state_dir`.
    pub keys: Vec<Secret>,
    /// How long a session may live.
    pub lifetime: Duration,
    /// How long a session may live without being used.
    pub idle: Duration,
    /// Sessions whose last use is remembered, each in at most 128 bytes.
    pub table_max: usize,
    /// Whether abandoned sessions are ended at their server.
    pub reap: Reap,
}

/// Whether abandoned sessions are ended at their server, with a DELETE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reap {
    /// They are, unless keys are configured and no store is shared: then another gateway may be using them.
    #[default]
    Auto,
    /// They are.
    On,
    /// They are not.
    Off,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            lifetime: Duration::from_secs(24 * 60 * 60),
            idle: Duration::from_secs(30 * 60),
            table_max: 1024 * 1024,
            reap: Reap::default(),
        }
    }
}

shape! {
    /// How MCP sessions are sealed, and when they end.
    SessionsText {
        /// Secrets of at least 32 characters: the first seals, all open; without one a key is generated in state_dir.
        optional keys: Vec<Field<Secret>>,
        /// How long a session may live.
        optional lifetime: Duration,
        /// How long a session may live without being used.
        optional idle: Duration,
        /// Sessions whose last use is remembered, each in at most 128 bytes.
        optional table_max: Count,
        /// Whether abandoned sessions are ended at their server with DELETE: on, off, or auto: on where no key is configured, or where a store is shared.
        optional reap: Reap,
    }
}

const REAPS: &[(&str, Reap)] = &[("auto", Reap::Auto), ("on", Reap::On), ("off", Reap::Off)];

impl Scalar for Reap {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, REAPS)
    }

    fn schema() -> Value {
        choice_schema(REAPS)
    }
}

impl SessionsText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Sessions {
        let Self { keys, lifetime, idle, table_max, reap } = self;
        let default = Sessions::default();
        let mut checked: Vec<Secret> = Vec::new();
        for key in keys.or(Vec::new()).into_iter().filter_map(Field::given) {
            if key.value.expose().chars().count() < KEY_CHARS_MIN {
                let hint = "make one with: openssl rand -base64 32";
                reading.problem(
                    key.place,
                    format!("a session key has at least {KEY_CHARS_MIN} characters"),
                    hint,
                );
            } else if checked.contains(&key.value) {
                reading.problem(
                    key.place,
                    "this session key is in the list twice",
                    "remove one of them",
                );
            }
            checked.push(key.value);
        }
        Sessions {
            keys: checked,
            lifetime: lifetime.or(default.lifetime),
            idle: idle.or(default.idle),
            table_max: table_max.value().map_or(default.table_max, Count::size),
            reap: reap.or(default.reap),
        }
    }
}
