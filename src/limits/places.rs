//! The places of one key that this replica has leased: how many, until when, and what it looks for.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::state::Clock;

/// So long the store keeps a place for a replica that says nothing.
pub(super) const LEASE_MS: u64 = 3000;
/// How often a lease that is in use is renewed.
const RENEW_EVERY_MS: u64 = 1000;
/// A refusal of the store is good for so long.
const REFUSED_MS: u64 = 20;

const NS_PER_MS: u64 = 1_000_000;
/// The low bits are places, those above them the time in milliseconds until which they are good.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// What a slot may fill, where replicas count together.
#[derive(Debug)]
pub(super) struct Places {
    /// What the store knows the key by.
    pub(super) id: [u8; 16],
    /// Tells this slot from others of the key in this process, which a reload left behind.
    pub(super) number: u32,
    clock: Clock,
    held: AtomicU64,
    /// The most that were in use since the last look.
    peak: AtomicU32,
    renewed_ms: AtomicU64,
    /// How many the store was told are wanted.
    pub(super) told: AtomicU32,
    refused_until_ms: AtomicU64,
    /// Whether the store refused some since the last look.
    is_short: AtomicBool,
    /// Whether the store does not know of those that are here.
    pub(super) is_alone: AtomicBool,
    /// Calls that want a place now and stand nowhere yet.
    pub(super) asking: AtomicU32,
    /// One at a time asks the store.
    pub(super) gate: Semaphore,
    /// Whether it is looked after.
    pub(super) is_listed: AtomicBool,
}

/// What should be said to the store of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// So many places are wanted.
    Want(u32),
    /// Nothing: all is as it was said last.
    Nothing,
}

impl Places {
    pub(super) fn new(id: [u8; 16], clock: Clock) -> Self {
        Self {
            id,
            number: fastrand::u32(..),
            clock,
            held: AtomicU64::new(0),
            peak: AtomicU32::new(0),
            renewed_ms: AtomicU64::new(0),
            told: AtomicU32::new(0),
            refused_until_ms: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
            is_alone: AtomicBool::new(false),
            asking: AtomicU32::new(0),
            gate: Semaphore::new(1),
            is_listed: AtomicBool::new(false),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ns() / NS_PER_MS
    }

    /// How many may be filled now. In one order with the counts of the slot, so that either who
    /// enters sees that there are fewer, or who gives places back sees that one is in use.
    pub(super) fn here(&self) -> u32 {
        let held = self.held.load(Ordering::SeqCst);
        if held >> COUNT_BITS < self.now_ms() { 0 } else { (held & COUNT_MASK) as u32 }
    }

    /// So many are in use.
    pub(super) fn used(&self, in_flight: u32) {
        if in_flight > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(in_flight, Ordering::Relaxed);
        }
    }

    /// From now on there are so many, until a lease that was asked for at this time ends.
    pub(super) fn hold(&self, count: u32, asked_ms: u64) {
        let until_ms = asked_ms.saturating_add(LEASE_MS);
        self.held.store((until_ms << COUNT_BITS) | u64::from(count) & COUNT_MASK, Ordering::SeqCst);
        self.renewed_ms.store(asked_ms, Ordering::Relaxed);
    }

    /// From now on there are no more than so many.
    fn lower(&self, count: u32) {
        let less = |held: u64| {
            let fewer = (held & COUNT_MASK).min(count.into());
            Some((held & !COUNT_MASK) | fewer)
        };
        self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).ok();
    }

    /// The store has no more at this time.
    pub(super) fn refuse(&self) {
        self.is_short.store(true, Ordering::Relaxed);
        self.refused_until_ms.store(self.now_ms() + REFUSED_MS, Ordering::Relaxed);
    }

    /// Whether the store said just now that there are none.
    pub(super) fn is_refused(&self) -> bool {
        self.is_short.store(true, Ordering::Relaxed);
        self.now_ms() < self.refused_until_ms.load(Ordering::Relaxed)
    }

    /// Looked at now and then: what to say to the store. Places that nobody used since the last look
    /// are given up here first.
    pub(super) fn look(&self, in_flight: u32, waiting: u32, most: u32) -> Due {
        let peak = self.peak.swap(in_flight, Ordering::Relaxed);
        let is_short = self.is_short.swap(false, Ordering::Relaxed);
        let used = peak.max(in_flight.saturating_add(waiting));
        let wanted = used.saturating_add(u32::from(is_short)).min(most);
        let here = self.here();
        let renewed_ms = self.renewed_ms.load(Ordering::Relaxed);
        let is_old = self.is_alone.load(Ordering::Relaxed)
            || self.now_ms() >= renewed_ms.saturating_add(RENEW_EVERY_MS);
        if wanted < here {
            self.lower(wanted);
        } else if wanted == here
            && waiting == 0
            && wanted > 0
            && !is_old
            && wanted == self.told.load(Ordering::Relaxed)
        {
            return Due::Nothing;
        }
        self.told.store(wanted, Ordering::Relaxed);
        Due::Want(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, LEASE_MS, Places};
    use crate::limits::State;

    fn places() -> Places {
        Places::new([0; 16], State::default().clock)
    }

    #[test]
    fn a_lease_ends_by_the_clock() {
        let places = places();
        assert_eq!(places.here(), 0);
        places.hold(3, places.now_ms());
        assert_eq!(places.here(), 3);
        let long_ago = Places::new([0; 16], places.clock);
        std::thread::sleep(std::time::Duration::from_millis(2));
        // As if it had been asked for that long ago.
        long_ago.held.store((1 << super::COUNT_BITS) | 3, super::Ordering::SeqCst);
        assert_eq!(long_ago.here(), 0);
        const { assert!(LEASE_MS > super::RENEW_EVERY_MS) };
    }

    #[test]
    fn what_nobody_used_between_two_looks_is_given_up() {
        let places = places();
        places.hold(5, places.now_ms());
        places.used(4);
        assert_eq!(places.look(1, 0, 10), Due::Want(4), "one too many");
        assert_eq!(places.here(), 4);
        assert_eq!(places.look(1, 0, 10), Due::Want(1));
        assert_eq!(places.look(1, 0, 10), Due::Nothing);
        assert_eq!(places.look(1, 2, 10), Due::Want(3), "two wait");
        places.refuse();
        assert!(places.is_refused());
        assert_eq!(places.look(1, 0, 10), Due::Want(2), "one was refused");
        assert_eq!(places.look(0, 0, 10), Due::Want(1));
        assert_eq!((places.look(0, 0, 10), places.here()), (Due::Want(0), 0));
    }
}
