//! The sessions of one replica, and what it counted; all of it is gone when the process is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// `GET /stats` lists the state of at most this many sessions.
const LISTED_MAX: usize = 1000;

/// What a client has set in its session.
pub(crate) struct Session {
    pub(crate) stage: Stage,
    pub(crate) level: Option<Box<str>>,
    pub(crate) subscriptions: Vec<Box<str>>,
    born: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// `initialize` was answered; the client has not said `notifications/initialized`.
    Opened,
    Initialized,
}

/// Everything that `GET /stats` tells.
#[derive(Default)]
pub(crate) struct Sessions {
    open: HashMap<u128, Session>,
    opened: u64,
    ended: u64,
    pub(crate) unknown: u64,
    pub(crate) calls: u64,
    pub(crate) calls_before_initialized: u64,
    pub(crate) streams_open: u64,
    pub(crate) foreign_event_ids: u64,
}

impl Sessions {
    /// Opens a session under a fresh random UUID.
    pub(crate) fn open(&mut self) -> u128 {
        // Version 4, variant 1 (RFC 9562).
        let id = fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
        let session = Session {
            stage: Stage::Opened,
            level: None,
            subscriptions: Vec::new(),
            born: Instant::now(),
        };
        self.open.insert(id, session);
        self.opened += 1;
        id
    }

    pub(crate) fn find(&mut self, id: u128) -> Option<&mut Session> {
        self.open.get_mut(&id)
    }

    /// Ends a session as DELETE asks; `false` where there is none.
    pub(crate) fn end(&mut self, id: u128) -> bool {
        let ended = self.open.remove(&id).is_some();
        self.ended += u64::from(ended);
        ended
    }

    pub(crate) fn stats(&self, name: &str) -> Value {
        let with_state = self
            .open
            .iter()
            .filter(|(_, session)| session.level.is_some() || !session.subscriptions.is_empty());
        let listed = with_state.take(LISTED_MAX).map(|(id, session)| {
            json!({"session": text(*id), "level": session.level, "subscriptions": session.subscriptions})
        });
        json!({
            "replica": name,
            "sessions": self.open.len(),
            "opened": self.opened,
            "ended": self.ended,
            "unknown": self.unknown,
            "streams": self.streams_open,
            "calls": self.calls,
            "calls_before_initialized": self.calls_before_initialized,
            "foreign_event_ids": self.foreign_event_ids,
            "with_state": listed.collect::<Vec<_>>(),
        })
    }
}

impl Session {
    /// Events are a function of time, so that any of them can be told again without keeping it: the first is due one step after the session was opened.
    pub(crate) fn due(&self, event: u64, every: Duration) -> Instant {
        self.born + every.saturating_mul(u32::try_from(event).unwrap_or(u32::MAX))
    }

    /// The last event that was due by now; 0 where none was.
    pub(crate) fn last_event(&self, every: Duration) -> u64 {
        (self.born.elapsed().as_nanos() / every.as_nanos().max(1)) as u64
    }
}

/// The id as clients see it.
pub(crate) fn text(id: u128) -> String {
    let hex = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The id that a client sent; only the form that this replica gives out is one.
pub(crate) fn parse(sent: &str) -> Option<u128> {
    let id = u128::from_str_radix(&sent.replace('-', ""), 16).ok()?;
    (text(id) == sent).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_and_only_those_are_read() {
        let mut sessions = Sessions::default();
        let id = sessions.open();
        let sent = text(id);
        assert_eq!((sent.len(), &sent[14..15]), (36, "4"), "{sent}");
        assert!(matches!(&sent[19..20], "8" | "9" | "a" | "b"), "{sent}");
        assert_eq!(parse(&sent), Some(id));
        assert_eq!(parse(&sent.to_uppercase().replace('4', "A")), None);
        assert_eq!(parse(&sent.replace('-', "")), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_ended_session_is_not_found() {
        let mut sessions = Sessions::default();
        let id = sessions.open();
        assert!(sessions.find(id).is_some());
        assert!(sessions.end(id));
        assert!(!sessions.end(id));
        assert!(sessions.find(id).is_none());
        assert_eq!(sessions.stats("a")["ended"], 1);
    }
}
