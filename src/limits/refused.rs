//! What is told of a refusal by a limit: when to come again, and what the limit is.

use std::sync::Arc;
use std::time::Duration;

/// A limit is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The limit's name.
    pub limit: Arc<str>,
    /// What is used up.
    pub why: Why,
    /// When it may be worth to come again.
    pub retry_after: Duration,
    /// Where the limit stands.
    pub standing: Standing,
}

/// What is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Calls in a time.
    Rate,
    /// Calls at once.
    InFlight,
    /// Streams at once.
    Streams,
    /// Keys that can be counted apart.
    KeysFull,
    /// Requests of one address in a time.
    Address,
}

/// Where a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How many calls it allows.
    pub quota: u32,
    /// In which way.
    pub counted: Counted,
    /// How many are left.
    pub remaining: u32,
}

/// How calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// In so many seconds.
    Within {
        /// After which the quota is whole again.
        window_s: u64,
    },
    /// At once.
    InFlight,
}

/// The values of the fields of draft-ietf-httpapi-ratelimit-headers, which are structured fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// `RateLimit-Policy`: what the limit is.
    pub policy: String,
    /// `RateLimit`: what is left of it.
    pub limit: String,
}

impl Why {
    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::InFlight => "in_flight",
            Self::Streams => "streams",
            Self::KeysFull => "keys_full",
            Self::Address => "address",
        }
    }
}

impl Refused {
    /// The value of `Retry-After`: whole seconds, at least one.
    pub fn retry_after_s(&self) -> u64 {
        seconds_up(self.retry_after).max(1)
    }

    /// The fields that tell the client. The limit's name needs no escape: `check` saw to that.
    pub fn fields(&self) -> Fields {
        let Self { limit, standing: Standing { quota, counted, remaining }, .. } = self;
        let policy = match counted {
            Counted::Within { window_s } => format!("\"{limit}\";q={quota};w={window_s}"),
            Counted::InFlight => format!("\"{limit}\";q={quota};qu=\"concurrent-requests\""),
        };
        let retry_after_s = self.retry_after_s();
        Fields { policy, limit: format!("\"{limit}\";r={remaining};t={retry_after_s}") }
    }
}

/// Whole seconds, rounded up.
pub(super) fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::{Counted, Refused, Standing, Why};
    use std::time::Duration;

    #[test]
    fn clients_are_told_in_the_words_of_the_draft() {
        let refused = Refused {
            limit: "per-agent".into(),
            why: Why::Rate,
            retry_after: Duration::from_millis(1001),
            standing: Standing {
                quota: 100,
                counted: Counted::Within { window_s: 2 },
                remaining: 3,
            },
        };
        assert_eq!(refused.retry_after_s(), 2);
        assert_eq!(refused.fields().policy, r#""per-agent";q=100;w=2"#);
        assert_eq!(refused.fields().limit, r#""per-agent";r=3;t=2"#);
        let at_once = Standing { quota: 9, counted: Counted::InFlight, remaining: 0 };
        let soon = Duration::from_millis(1);
        let refused = Refused { standing: at_once, retry_after: soon, ..refused };
        assert_eq!(refused.fields().policy, r#""per-agent";q=9;qu="concurrent-requests""#);
        assert_eq!(refused.fields().limit, r#""per-agent";r=0;t=1"#);
    }
}
