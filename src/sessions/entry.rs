//! What the table keeps of one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};

use super::legs::LegId;
use super::table::{Rules, Subscription};
use super::{SessionKey, SessionState};
use crate::mcp::Revision;
use crate::upstream::Endpoint;

/// What an entry costs at most, with its share of the table: the cap in bytes is this times
/// `sessions.table_max`. An entry with more beside it counts as several.
pub const ENTRY_BYTES_MAX: usize = 128;
/// A server's own id up to this length lies in the entry itself.
const ID_BYTES_INLINE: usize = 48;
/// What one session may have beside its entry.
pub(super) const BESIDE_BYTES_MAX: usize = 16 * 1024;

/// A session, or a leg of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// What the table calls it.
    pub key: SessionKey,
    /// Which leg it is; zero for what is none.
    pub leg: LegId,
}

impl Named {
    /// The session that it is, or is a leg of.
    #[must_use]
    pub fn session(self) -> SessionKey {
        self.key.leg(self.leg)
    }
}

impl From<SessionKey> for Named {
    fn from(key: SessionKey) -> Self {
        Self { key, leg: LegId::default() }
    }
}

impl SessionKey {
    /// A leg of this session.
    #[must_use]
    pub fn named_leg(self, leg: LegId) -> Named {
        Named { key: self.leg(leg), leg }
    }
}

impl SessionState {
    /// What it is called, be it a session or a leg of one.
    pub fn named(&self) -> Named {
        Named { key: self.key, leg: self.leg }
    }
}

/// Where a session lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// The endpoint that holds it.
    pub endpoint: Arc<Endpoint>,
    /// The server's own session id; `None` if it gives none.
    pub upstream_id: Option<Vec<u8>>,
}

/// What must be made anew where a session moves to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// The log level that the client set, as it is called.
    pub level: Option<&'static str>,
    /// The resources that the client subscribed to.
    pub subscriptions: Vec<Box<str>>,
    /// The client's `initialize`, where it had no room in the id.
    pub opening: Option<Box<[u8]>>,
}

impl Restore {
    /// The client subscribed to a resource, or no longer does.
    pub(super) fn subscribe(&mut self, uri: &str, subscription: Subscription) {
        self.subscriptions.retain(|known| **known != *uri);
        if subscription == Subscription::Begins {
            self.subscriptions.push(uri.into());
        }
    }

    /// Whether nothing must be made anew that the id does not say.
    pub(super) fn is_empty(&self) -> bool {
        self.level.is_none() && self.subscriptions.is_empty() && self.opening.is_none()
    }
}

/// The levels of `logging/setLevel` (2025-11-25, RFC 5424 section 6.2.1).
pub(super) const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// A level as entries keep it: its place and one; zero is none.
pub(super) fn level_byte(level: &str) -> u8 {
    LEVELS.iter().position(|known| *known == level).map_or(0, |at| at as u8 + 1)
}

/// The level that entries keep so.
pub(super) fn level_of(byte: u8) -> Option<&'static str> {
    usize::from(byte).checked_sub(1).and_then(|at| LEVELS.get(at).copied())
}

pub(super) const LIVE: u8 = 0;
pub(super) const ENDED: u8 = 1;
/// It moved, and no event of its new endpoint has reached the client yet.
pub(super) const MOVED_SILENT: u8 = 2;
pub(super) const MOVED: u8 = 3;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) used: AtomicU32,
    /// The last use that the other replicas were told of.
    pub(super) told: AtomicU32,
    /// Of an older epoch than the table's, it may have moved or ended elsewhere.
    pub(super) epoch: AtomicU16,
    pub(super) leg: LegId,
    /// Whether it counts among the sessions of its endpoint.
    counted: AtomicBool,
    pub(super) stage: AtomicU8,
    pub(super) revision: u8,
    /// The place in `LEVELS` and one; zero is none.
    pub(super) level: u8,
    id_bytes: u8,
    id: [u8; ID_BYTES_INLINE],
    pub(super) beside: Option<Box<Beside>>,
}

/// What few sessions have.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    id: Box<[u8]>,
    pub(super) opening: Option<Box<[u8]>>,
    pub(super) subscriptions: Vec<Box<str>>,
}

impl Beside {
    pub(super) fn bytes(&self) -> usize {
        let subscriptions: usize = self.subscriptions.iter().map(|uri| uri.len() + 16).sum();
        self.id.len() + self.opening.as_ref().map_or(0, |opening| opening.len()) + subscriptions
    }
}

impl Entry {
    pub(super) fn new(
        place: &Place,
        revision: Option<Revision>,
        leg: LegId,
        now: u32,
        stage: u8,
    ) -> Self {
        let upstream_id = place.upstream_id.as_deref().unwrap_or_default();
        let mut id = [0; ID_BYTES_INLINE];
        let mut beside = None;
        match id.get_mut(..upstream_id.len()) {
            Some(room) => room.copy_from_slice(upstream_id),
            None => beside = Some(Box::new(Beside { id: upstream_id.into(), ..Beside::default() })),
        }
        Self {
            endpoint: Arc::clone(&place.endpoint),
            used: AtomicU32::new(now),
            told: AtomicU32::new(0),
            epoch: AtomicU16::new(0),
            leg,
            counted: AtomicBool::new(true),
            stage: AtomicU8::new(stage),
            revision: revision.map_or(0, |revision| revision as u8),
            level: 0,
            id_bytes: if beside.is_some() { 0 } else { upstream_id.len() as u8 },
            id,
            beside,
        }
    }

    pub(super) fn place(&self) -> Place {
        let id = match &self.beside {
            Some(beside) if !beside.id.is_empty() => &beside.id,
            _ => &self.id[..usize::from(self.id_bytes)],
        };
        Place {
            endpoint: Arc::clone(&self.endpoint),
            upstream_id: (!id.is_empty()).then(|| id.to_vec()),
        }
    }

    pub(super) fn with(&self, level: u8, beside: Option<Box<Beside>>) -> Self {
        Self {
            endpoint: Arc::clone(&self.endpoint),
            used: AtomicU32::new(self.used.load(Ordering::Relaxed)),
            told: AtomicU32::new(self.told.load(Ordering::Relaxed)),
            epoch: AtomicU16::new(self.epoch.load(Ordering::Relaxed)),
            counted: AtomicBool::new(true),
            stage: AtomicU8::new(self.stage.load(Ordering::Relaxed)),
            level,
            beside,
            ..*self
        }
    }

    pub(super) fn units(&self) -> usize {
        let beside = self.beside.as_ref().map_or(0, |beside| beside.bytes() + 64);
        1 + beside.div_ceil(ENTRY_BYTES_MAX)
    }

    /// It no longer counts among the sessions of its endpoint.
    pub(super) fn uncount(&self) {
        if self.counted.swap(false, Ordering::AcqRel) {
            self.endpoint.standing().session_left();
        }
    }

    /// What must be made anew where it moves to.
    pub(super) fn restore(&self) -> Restore {
        let beside = self.beside.as_deref().cloned().unwrap_or_default();
        Restore {
            level: level_of(self.level),
            subscriptions: beside.subscriptions,
            opening: beside.opening,
        }
    }

    /// Lets this be made anew where it moves to, as far as there is room for it.
    pub(super) fn set_restore(&mut self, restore: &Restore) {
        let Restore { level, subscriptions, opening } = restore;
        self.level = level.map_or(0, level_byte);
        if subscriptions.is_empty() && opening.is_none() && self.beside.is_none() {
            return;
        }
        let beside = self.beside.get_or_insert_default();
        beside.subscriptions.clone_from(subscriptions);
        beside.opening.clone_from(opening);
        if beside.bytes() > BESIDE_BYTES_MAX {
            beside.subscriptions.clear();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == ENDED
    }

    pub(super) fn is_idle(&self, now: u32, rules: Rules) -> bool {
        now.saturating_sub(self.used.load(Ordering::Relaxed)) > rules.idle_s
    }
}
