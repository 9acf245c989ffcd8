//! Who did what lately: the marks of combination rules. They outlive a configuration, and are bounded.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::sessions::SessionKey;
use crate::shared::{Store, digest};

/// Marks at once, each in about 150 bytes. When all are in use, what would need another is refused.
pub const MARKS_MAX: usize = 262_144;
/// Marks of one caller, so that one cannot take the room of all.
pub const MARKS_PER_CALLER_MAX: u32 = 4096;
const SHARDS: usize = 64;

/// Every mark. All of one caller are in one shard, so that one lock makes check and mark one step.
pub struct State {
    shards: [Mutex<Shard>; SHARDS],
    marks: AtomicUsize,
    marks_max: usize,
    /// Where the other replicas see them.
    store: Option<Arc<Store>>,
    /// What the store has and must no longer have.
    taken_back: Mutex<Vec<(Key, u64)>>,
}

#[derive(Default)]
struct Shard {
    marks: HashMap<Key, Mark>,
    callers: HashMap<[u8; 16], u32>,
    epochs: u64,
}

/// What is remembered: that this caller did what this combination names, here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) caller: [u8; 16],
    pub(super) combination: u64,
    pub(super) scope: Scope,
}

/// Where it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// In this session.
    Session(SessionKey),
    /// In a session of this server, by the number of its name.
    Server(u64),
    /// In no session.
    Sessionless,
    /// Anywhere.
    Caller,
}

#[derive(Debug)]
struct Mark {
    /// Calls that left it and are running.
    running: u32,
    /// When the last one ended that was not taken back.
    ended_ms: Option<u64>,
    keep_ms: u64,
    /// Tells this mark from an earlier one with its key.
    epoch: u64,
    /// Until when it counts in the store, by the clock there; 0 if it does not.
    stored_until_us: u64,
}

impl Mark {
    fn counts(&self, now_ms: u64) -> bool {
        let lately = |ended: u64| now_ms.saturating_sub(ended) <= self.keep_ms;
        self.running > 0 || self.ended_ms.is_some_and(lately)
    }

    /// How long it counts from now, or from its end if that is to come.
    fn remaining_ms(&self, now_ms: u64) -> u64 {
        match self.ended_ms {
            Some(ended_ms) if self.running == 0 => {
                self.keep_ms.saturating_sub(now_ms.saturating_sub(ended_ms))
            }
            _ => self.keep_ms,
        }
    }
}

/// Which marks are renewed in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Those of calls that run: the others count there as long as they should.
    Running,
    /// All: it may have lost them.
    All,
}

/// One running call's part in a mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    key: Key,
    epoch: u64,
}

impl Key {
    /// The number of a name, of a combination or a server; the same at every replica.
    pub(super) fn id(name: &str) -> u64 {
        let id = digest("combination", &[name.as_bytes()]);
        id.first_chunk().copied().map_or(0, u64::from_le_bytes)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("marks", &self.len()).finish_non_exhaustive()
    }
}

impl Default for State {
    fn default() -> Self {
        Self::with_room(MARKS_MAX, None)
    }
}

impl State {
    /// No marks yet. Those of other replicas are seen in the store, if there is one.
    pub fn new(store: &Arc<Store>) -> Self {
        Self::with_room(MARKS_MAX, store.is_configured().then(|| Arc::clone(store)))
    }

    fn with_room(marks_max: usize, store: Option<Arc<Store>>) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(Shard::default()));
        let taken_back = Mutex::default();
        Self { shards, marks: AtomicUsize::new(0), marks_max, store, taken_back }
    }

    /// Where the other replicas see the marks, if there are others.
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_deref()
    }

    /// Until when marks count in the store.
    pub(super) fn stored(&self, held: &[Held], untils_us: &[u64]) {
        let Some(first) = held.first() else { return };
        let mut locked = self.lock(&first.key.caller);
        for (held, until_us) in held.iter().zip(untils_us) {
            if let Some(mark) = locked.held(held) {
                mark.stored_until_us = mark.stored_until_us.max(*until_us);
            }
        }
    }

    /// The marks that must go on counting in the store, and for how long from now: those that run, or
    /// every one.
    pub(super) fn to_renew(&self, which: Which, now_ms: u64) -> Vec<(Key, u64)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let wanted = shard.marks.iter().filter(|(_, mark)| match which {
                Which::Running => mark.running > 0,
                Which::All => mark.counts(now_ms),
            });
            found.extend(wanted.map(|(key, mark)| (*key, mark.remaining_ms(now_ms))));
        }
        found
    }

    /// What the store must no longer have.
    pub(super) fn to_take_back(&self) -> Vec<(Key, u64)> {
        std::mem::take(&mut self.taken_back.lock())
    }

    /// How many marks there are.
    pub fn len(&self) -> usize {
        self.marks.load(Ordering::Relaxed)
    }

    /// Whether there is no mark.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what no longer counts; to be called now and then.
    pub fn sweep(&self, now_ms: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            self.sweep_shard(&mut shard, now_ms);
        }
    }

    /// Forgets what was done in a session that is over.
    pub fn session_ended(&self, caller: &[u8; 16], session: SessionKey) {
        let mut locked = self.lock(caller);
        let shard = &mut *locked.shard;
        let over = |key: &Key, mark: &mut Mark| {
            key.caller == *caller && key.scope == Scope::Session(session) && mark.running == 0
        };
        let gone: Vec<(Key, Mark)> = shard.marks.extract_if(over).collect();
        for (key, mark) in gone {
            self.forget(shard, &key);
            self.unstore(key, &mark);
        }
    }

    pub(super) fn lock(&self, caller: &[u8; 16]) -> Locked<'_> {
        // A digest is as good as a hash.
        Locked { state: self, shard: self.shards[usize::from(caller[0]) % SHARDS].lock() }
    }

    pub(super) fn take_back(&self, held: &[Held]) {
        if let Some(first) = held.first() {
            self.lock(&first.key.caller).take_back(held);
        }
    }

    pub(super) fn end(&self, held: &[Held], now_ms: u64) {
        let Some(first) = held.first() else { return };
        let mut locked = self.lock(&first.key.caller);
        for mark in held {
            if let Some(mark) = locked.held(mark) {
                mark.running = mark.running.saturating_sub(1);
                mark.ended_ms = mark.ended_ms.max(Some(now_ms));
            }
        }
    }

    fn sweep_shard(&self, shard: &mut Shard, now_ms: u64) {
        let over = |_: &Key, mark: &mut Mark| !mark.counts(now_ms);
        let gone: Vec<Key> = shard.marks.extract_if(over).map(|(key, _)| key).collect();
        gone.iter().for_each(|key| self.forget(shard, key));
    }

    /// Lets the store forget a mark that is gone before its time.
    fn unstore(&self, key: Key, mark: &Mark) {
        if self.store.is_some() && mark.stored_until_us > 0 {
            self.taken_back.lock().push((key, mark.stored_until_us));
        }
    }

    /// Counts a mark that is gone.
    fn forget(&self, shard: &mut Shard, key: &Key) {
        self.marks.fetch_sub(1, Ordering::Relaxed);
        if let Some(marks) = shard.callers.get_mut(&key.caller) {
            *marks = marks.saturating_sub(1);
            if *marks == 0 {
                shard.callers.remove(&key.caller);
            }
        }
    }
}

/// The marks of one shard, while nobody else changes them.
pub(super) struct Locked<'s> {
    state: &'s State,
    shard: MutexGuard<'s, Shard>,
}

impl Locked<'_> {
    pub(super) fn is_marked(&self, key: &Key, now_ms: u64) -> bool {
        self.shard.marks.get(key).is_some_and(|mark| mark.counts(now_ms))
    }

    /// Marks a use that begins; none where there is no room.
    pub(super) fn mark(&mut self, key: Key, keep_ms: u64, now_ms: u64) -> Option<Held> {
        if let Some(mark) = self.shard.marks.get_mut(&key).filter(|mark| mark.counts(now_ms)) {
            mark.running += 1;
            mark.keep_ms = keep_ms;
            return Some(Held { key, epoch: mark.epoch });
        }
        self.make_room(&key, now_ms)?;
        self.shard.epochs += 1;
        let epoch = self.shard.epochs;
        *self.shard.callers.entry(key.caller).or_insert(0) += 1;
        let mark = Mark { running: 1, ended_ms: None, keep_ms, epoch, stored_until_us: 0 };
        self.shard.marks.insert(key, mark);
        Some(Held { key, epoch })
    }

    fn make_room(&mut self, key: &Key, now_ms: u64) -> Option<()> {
        let Self { state, shard } = self;
        if shard.marks.remove(key).is_some() {
            state.forget(shard, key);
        }
        let of_caller = shard.callers.get(&key.caller).copied().unwrap_or(0);
        if state.len() >= state.marks_max || of_caller >= MARKS_PER_CALLER_MAX {
            state.sweep_shard(shard, now_ms);
        }
        let of_caller = shard.callers.get(&key.caller).copied().unwrap_or(0);
        let counted = (of_caller < MARKS_PER_CALLER_MAX).then(|| {
            let room = |marks: usize| (marks < state.marks_max).then_some(marks + 1);
            state.marks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
        });
        counted?.ok().map(drop)
    }

    /// The mark that a call left, unless it is another one by now.
    fn held(&mut self, held: &Held) -> Option<&mut Mark> {
        self.shard.marks.get_mut(&held.key).filter(|mark| mark.epoch == held.epoch)
    }

    /// Takes back the parts of a call that did not run.
    pub(super) fn take_back(&mut self, held: &[Held]) {
        for held in held {
            let Some(mark) = self.held(held) else { continue };
            mark.running = mark.running.saturating_sub(1);
            if mark.running == 0 && mark.ended_ms.is_none() {
                let Some(gone) = self.shard.marks.remove(&held.key) else { continue };
                self.state.forget(&mut self.shard, &held.key);
                self.state.unstore(held.key, &gone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Scope, State};

    fn key(caller: u8) -> Key {
        Key { caller: [caller; 16], combination: Key::id("c"), scope: Scope::Caller }
    }

    #[test]
    fn the_cap_is_hard_and_counts_what_is_there() {
        let state = State::with_room(2, None);
        let mark = |caller: u8, now_ms| state.lock(&[caller; 16]).mark(key(caller), 10, now_ms);
        let one = mark(1, 0).unwrap();
        assert!(mark(2, 0).is_some() && mark(3, 0).is_none());
        assert_eq!(state.len(), 2);
        state.take_back(&[one]);
        assert_eq!(state.len(), 1);
        let three = mark(3, 0).unwrap();
        state.end(&[three], 5);
        state.sweep(15);
        assert_eq!(state.len(), 2, "it still counts");
        state.sweep(16);
        assert_eq!(state.len(), 1, "what runs is never swept");
        // A late word about a mark that is gone changes nothing.
        state.take_back(&[three, one]);
        assert_eq!(state.len(), 1);
        let again = mark(3, 20).unwrap();
        state.take_back(&[three]);
        assert!(state.lock(&[3; 16]).is_marked(&key(3), 20), "it is another mark by now");
        state.take_back(&[again]);
        assert!(!state.lock(&[3; 16]).is_marked(&key(3), 20));
    }
}
