//! How MCP sessions are sealed: `sessions`.

use std::time::Duration;

use super::reading::Reading;
use super::secret::Secret;
use super::shape::{Field, shape};

/// A key is derived by SHA-256, which makes nothing strong of a short text.
const KEY_CHARS_MIN: usize = 32;

/// Keys and lifetime of sealed sessions.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// The first seals, all open; empty means that a key is generated in `state_dir`.
    pub keys: Vec<Secret>,
    /// How long a session may live.
    pub lifetime: Duration,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { keys: Vec::new(), lifetime: Duration::from_secs(24 * 60 * 60) }
    }
}

shape! {
    /// How MCP sessions are sealed.
    SessionsText {
        /// Secrets of at least 32 characters: the first seals, all open; without one a key is generated in state_dir.
        optional keys: Vec<Field<Secret>>,
        /// How long a session may live.
        optional lifetime: Duration,
    }
}

impl SessionsText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Sessions {
        let Self { keys, lifetime } = self;
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
        Sessions { keys: checked, lifetime: lifetime.or(default.lifetime) }
    }
}
