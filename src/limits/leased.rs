//! The rate of one key that replicas have in common: calls that the store let this one have ahead of
//! time, and what it said last.
//!
//! A call takes one of them with one atomic step. Only where there is none, and the store did not say
//! that there is none to be had yet, is the store asked, by `rate_leases.rs`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::gcra::{Exhausted, Gcra, Quota};
use super::keys::Tally;

/// What was leased and not used by then is void: a process that was frozen wakes up with nothing.
const LEASE_MS: u64 = 1000;
/// A lease should last so long, going by what was used lately.
const AHEAD_MS: u64 = 50;
/// The store is asked ahead at most so often about one key.
const ASK_AHEAD_EVERY_MS: u64 = 10;
/// A refusal of the store is good for so long at least, where the burst hides it.
const REFUSED_MIN_NS: u64 = 20_000_000;
/// And for so long at most: others may give back what they do not need.
const REFUSED_MAX_NS: u64 = 1_000_000_000;
/// After an answer that did not come in time the store is left alone for a while.
const ALONE_NS: u64 = 100_000_000;
/// Those who may ask at once: calls that may wait ask each for its own turn, others in one batch.
pub(super) const ASKING_MAX: u32 = 32;

const NS_PER_MS: u64 = 1_000_000;
const RETIRED: u64 = u64::MAX;
/// The low bits are calls, those above them the time in milliseconds.
const CALLS_BITS: u32 = 24;
const CALLS_MASK: u64 = (1 << CALLS_BITS) - 1;
const TIME_MAX_MS: u64 = (RETIRED >> CALLS_BITS) - 1;
/// One lease is no larger.
pub(super) const LEASE_MAX: u32 = 1 << 20;

/// What this replica may let through of one key without asking.
#[derive(Debug)]
pub(super) struct Leased {
    /// What the store knows the key by.
    pub(super) id: [u8; 16],
    pub(super) interval_ns: u64,
    pub(super) burst: u32,
    /// Calls, and until when they are good.
    held: AtomicU64,
    /// How many were left after the last answer of the store, and when that was.
    filled: AtomicU64,
    /// What [`Leased::settle`] looked at last.
    looked_at: AtomicU64,
    /// How many should be there.
    target: AtomicU32,
    /// What the store gets back when it is asked next.
    pub(super) returned: AtomicU32,
    /// Whether somebody will ask ahead.
    pub(super) is_queued: AtomicBool,
    /// Whether it is looked after.
    pub(super) is_listed: AtomicBool,
    /// Who may ask now.
    pub(super) gate: Semaphore,
    refusal: Refusal,
    alone: Alone,
}

/// The last refusal of the store. Its parts are read one by one: any two refusals are of one kind.
#[derive(Debug, Default)]
struct Refusal {
    until_ns: AtomicU64,
    /// When the call that was refused may come again.
    again_ns: AtomicU64,
    /// What that one cost.
    cost: AtomicU32,
    /// What was left for cheaper ones; known also where nothing was refused.
    left: AtomicU32,
    is_known: AtomicBool,
}

/// This replica's share, while the store is away.
#[derive(Debug, Default)]
struct Alone {
    until_ns: AtomicU64,
    /// Whether the share was measured since the store was heard last.
    is_begun: AtomicBool,
    share: Gcra,
}

/// What is known of a call without asking.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It may go on.
    Yes,
    /// It may not.
    No(Exhausted),
    /// Only the store knows.
    Unknown,
    /// Nobody can be asked for now.
    Alone,
}

/// What the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// So many calls, with what was needed.
    pub(super) calls: u32,
    /// After which time the turn of them has come.
    pub(super) turn_ns: u64,
    /// When there will be what was needed, if it was not granted.
    pub(super) next_ns: u64,
    /// What is left for all replicas.
    pub(super) left: u32,
}

fn pack(calls: u64, time_ms: u64) -> u64 {
    (time_ms.min(TIME_MAX_MS) << CALLS_BITS) | calls.min(CALLS_MASK)
}

fn calls(packed: u64) -> u32 {
    (packed & CALLS_MASK) as u32
}

fn time_ms(packed: u64) -> u64 {
    packed >> CALLS_BITS
}

/// What may still be used of it.
fn valid(held: u64, now_ms: u64) -> u32 {
    if held == RETIRED || time_ms(held) < now_ms { 0 } else { calls(held) }
}

impl Leased {
    pub(super) fn new(id: [u8; 16], quota: Quota) -> Self {
        Self {
            id,
            interval_ns: quota.interval_ns.max(1),
            burst: quota.burst,
            held: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            looked_at: AtomicU64::new(0),
            target: AtomicU32::new(0),
            returned: AtomicU32::new(0),
            is_queued: AtomicBool::new(false),
            is_listed: AtomicBool::new(false),
            gate: Semaphore::new(ASKING_MAX as usize),
            refusal: Refusal::default(),
            alone: Alone::default(),
        }
    }

    /// Takes what a call costs if it is here, else says what is known. `None` once the key is
    /// forgotten.
    pub(super) fn take(&self, cost: u32, now_ns: u64) -> Option<Word> {
        let now_ms = now_ns / NS_PER_MS;
        let mut held = self.held.load(Ordering::Relaxed);
        loop {
            if held == RETIRED {
                return None;
            }
            if cost == 0 || valid(held, now_ms) < cost {
                break;
            }
            // The number guards nothing but itself.
            let less = held - u64::from(cost);
            match self.held.compare_exchange_weak(held, less, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(Word::Yes),
                Err(changed) => held = changed,
            }
        }
        if now_ns < self.alone.until_ns.load(Ordering::Relaxed) {
            return Some(Word::Alone);
        }
        Some(self.refusal.of(cost, self.interval_ns, now_ns).map_or(Word::Unknown, Word::No))
    }

    /// Whether it is time to ask the store for more, before somebody waits for it.
    pub(super) fn runs_low(&self, now_ns: u64) -> bool {
        let target = self.target.load(Ordering::Relaxed);
        if target == 0 || self.is_queued.load(Ordering::Relaxed) {
            return false;
        }
        let now_ms = now_ns / NS_PER_MS;
        valid(self.held.load(Ordering::Relaxed), now_ms) < target.div_ceil(2)
            && now_ms >= time_ms(self.filled.load(Ordering::Relaxed)) + ASK_AHEAD_EVERY_MS
            && now_ns >= self.refusal.until_ns.load(Ordering::Relaxed)
            && now_ns >= self.alone.until_ns.load(Ordering::Relaxed)
    }

    /// How many calls should be asked for ahead.
    pub(super) fn wanted(&self, now_ns: u64) -> u32 {
        let here = valid(self.held.load(Ordering::Relaxed), now_ns / NS_PER_MS);
        self.target.load(Ordering::Relaxed).saturating_sub(here)
    }

    /// Before a call asks: what is here is too little, and goes back, so that the store sees all.
    pub(super) fn hand_over(&self, now_ns: u64) {
        let none = |held| (held != RETIRED).then(|| pack(0, time_ms(held)));
        let handed = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, none);
        let here = handed.map_or(0, |held| valid(held, now_ns / NS_PER_MS));
        if here > 0 {
            self.returned.fetch_add(here, Ordering::Relaxed);
            // They were not used.
            let unused = |last| Some(pack(calls(last).saturating_sub(here).into(), time_ms(last)));
            self.filled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unused).ok();
        }
    }

    /// The store answered at `now_ns` what it was asked at `asked_ns`; `need` of it is used already.
    pub(super) fn fill(&self, granted: &Granted, need: u32, asked_ns: u64, now_ns: u64) {
        let (asked_ms, now_ms) = (asked_ns / NS_PER_MS, now_ns / NS_PER_MS);
        let more = granted.calls.saturating_sub(need);
        let mut here = 0;
        let add = |held: u64| {
            let valid = valid(held, now_ms);
            // What was here keeps no later deadline than what came now: both are short.
            let deadline_ms = if more > 0 { asked_ms + LEASE_MS } else { time_ms(held) };
            (held != RETIRED).then(|| pack(u64::from(valid) + u64::from(more), deadline_ms))
        };
        if let Ok(before) = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            here = valid(before, now_ms);
        }
        let filled = pack(u64::from(here) + u64::from(more), now_ms);
        let last = self.filled.swap(filled, Ordering::Relaxed);
        let used = u64::from(calls(last).saturating_sub(here)) + u64::from(granted.calls.min(need));
        let since_ms = now_ms.saturating_sub(time_ms(last)).max(1);
        let target = (used * AHEAD_MS / since_ms).min(u64::from(LEASE_MAX.min(self.burst / 4)));
        self.target.store(u32::try_from(target).unwrap_or(LEASE_MAX), Ordering::Relaxed);
        self.alone.until_ns.store(0, Ordering::Relaxed);
        self.alone.is_begun.store(false, Ordering::Relaxed);
        self.refusal.left.store(granted.left, Ordering::Relaxed);
        self.refusal.is_known.store(true, Ordering::Relaxed);
    }

    /// The store refused a call of this cost.
    pub(super) fn refuse(&self, granted: &Granted, cost: u32, now_ns: u64) -> Exhausted {
        let burst_ns = self.interval_ns.saturating_mul(self.burst.into());
        let least_ns = REFUSED_MIN_NS.min(burst_ns / 8);
        let good_ns = granted.next_ns.clamp(least_ns, REFUSED_MAX_NS);
        self.refusal.cost.store(cost, Ordering::Relaxed);
        self.refusal.again_ns.store(now_ns.saturating_add(granted.next_ns), Ordering::Relaxed);
        self.refusal.until_ns.store(now_ns.saturating_add(good_ns), Ordering::Relaxed);
        Exhausted { retry_after_ns: granted.next_ns, remaining: granted.left }
    }

    /// There was no answer in time.
    pub(super) fn unheard(&self, now_ns: u64) {
        self.alone.until_ns.store(now_ns.saturating_add(ALONE_NS), Ordering::Relaxed);
    }

    /// Takes from what one of so many replicas may let through by itself.
    pub(super) fn take_alone(
        &self,
        cost: u32,
        wait_max_ns: u64,
        replicas: u32,
        now_ns: u64,
    ) -> Result<u64, Exhausted> {
        let replicas = replicas.max(1);
        let quota = Quota {
            interval_ns: self.interval_ns.saturating_mul(replicas.into()),
            // What costs more than the share would else never pass.
            burst: (self.burst / replicas).max(cost).max(1),
            wait_max_ns,
        };
        if !self.alone.is_begun.swap(true, Ordering::Relaxed)
            && self.refusal.is_known.load(Ordering::Relaxed)
        {
            let left = self.refusal.left.load(Ordering::Relaxed) / replicas;
            self.alone.share.leave(left, quota, now_ns);
        }
        // Only keys that are forgotten have nothing to say; their tally is another one.
        self.alone.share.take(cost, quota, now_ns).unwrap_or(Ok(0))
    }

    /// Gives back what a call took that did not run: to those who come next here, or, where calls
    /// wait for their turn in order, to the store.
    pub(super) fn give_back(&self, cost: u32, wait_max_ns: u64, now_ns: u64) {
        if wait_max_ns > 0 {
            self.returned.fetch_add(cost, Ordering::Relaxed);
            return;
        }
        let now_ms = now_ns / NS_PER_MS;
        let more = |held: u64| {
            let here = u64::from(valid(held, now_ms)) + u64::from(cost);
            (held != RETIRED).then(|| pack(here, now_ms + LEASE_MS))
        };
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok();
    }

    /// Whether there is something that may have to be given back.
    pub(super) fn holds(&self) -> bool {
        calls(self.held.load(Ordering::Relaxed)) > 0 || self.returned.load(Ordering::Relaxed) > 0
    }

    /// Looked at now and then: what nobody used since the last look is to be given back. Whether
    /// there is something to tell the store, and whether there may be later.
    pub(super) fn settle(&self, now_ns: u64) -> (bool, bool) {
        let held = self.held.load(Ordering::Relaxed);
        let here = valid(held, now_ns / NS_PER_MS);
        if here > 0 && self.looked_at.swap(held, Ordering::Relaxed) == held {
            self.target.store(0, Ordering::Relaxed);
            self.hand_over(now_ns);
        }
        let tells = self.returned.load(Ordering::Relaxed) > 0;
        (tells, tells || valid(self.held.load(Ordering::Relaxed), now_ns / NS_PER_MS) > 0)
    }
}

impl Refusal {
    fn of(&self, cost: u32, interval_ns: u64, now_ns: u64) -> Option<Exhausted> {
        let refused = self.cost.load(Ordering::Relaxed);
        // A cheaper call may pass still.
        if now_ns >= self.until_ns.load(Ordering::Relaxed) || cost < refused {
            return None;
        }
        let again_ns = self.again_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
        let more_ns = interval_ns.saturating_mul(u64::from(cost - refused));
        let remaining = self.left.load(Ordering::Relaxed);
        Some(Exhausted { retry_after_ns: again_ns.saturating_add(more_ns), remaining })
    }
}

impl Tally for std::sync::Arc<Leased> {
    /// The store remembers: what holds nothing, is asked for by nobody and is no share of a store
    /// that is away, says no more than a new one.
    fn retire(&self, now_ns: u64) -> bool {
        if self.gate.available_permits() < ASKING_MAX as usize
            || self.is_queued.load(Ordering::Relaxed)
            || self.is_listed.load(Ordering::Relaxed)
            || now_ns < self.refusal.until_ns.load(Ordering::Relaxed)
            || !self.alone.share.is_whole(now_ns)
        {
            return false;
        }
        let now_ms = now_ns / NS_PER_MS;
        let end = |held| (held != RETIRED && valid(held, now_ms) == 0).then_some(RETIRED);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end).is_ok()
    }

    fn is_retired(&self) -> bool {
        self.held.load(Ordering::Relaxed) == RETIRED
    }
}

#[cfg(test)]
mod tests {
    use super::{Exhausted, Granted, Leased, NS_PER_MS, Quota, Tally, Word};
    use std::sync::Arc;

    const MS: u64 = NS_PER_MS;

    fn leased(interval_ns: u64, burst: u32) -> Arc<Leased> {
        Arc::new(Leased::new([0; 16], Quota { interval_ns, burst, wait_max_ns: 0 }))
    }

    fn granted(calls: u32) -> Granted {
        Granted { calls, turn_ns: 0, next_ns: 0, left: 0 }
    }

    #[test]
    fn what_was_leased_is_used_here_until_it_is_void() {
        let key = leased(MS, 1000);
        assert_eq!(key.take(1, 5000 * MS), Some(Word::Unknown));
        key.fill(&granted(4), 1, 5000 * MS, 5001 * MS);
        assert_eq!(key.take(2, 5002 * MS), Some(Word::Yes));
        assert_eq!(key.take(2, 5002 * MS), Some(Word::Unknown), "one is left");
        assert_eq!(key.take(1, 6001 * MS), Some(Word::Unknown), "frozen for a second");
        assert_eq!(key.take(1, 6000 * MS), Some(Word::Yes));
        key.give_back(1, 0, 5002 * MS);
        assert!(!key.retire(5003 * MS), "it holds one");
        assert!(key.retire(7000 * MS) && key.take(1, 7000 * MS).is_none());
    }

    #[test]
    fn a_refusal_is_remembered_and_says_when_to_come_again() {
        let key = leased(1000 * MS, 10);
        let none = Granted { calls: 0, turn_ns: 0, next_ns: 3000 * MS, left: 2 };
        let told = key.refuse(&none, 5, 100 * MS);
        assert_eq!(told, Exhausted { retry_after_ns: 3000 * MS, remaining: 2 });
        key.fill(&none, 5, 100 * MS, 100 * MS);
        assert_eq!(key.take(4, 101 * MS), Some(Word::Unknown), "a cheaper one may pass");
        let dearer = Exhausted { retry_after_ns: 3999 * MS, remaining: 2 };
        assert_eq!(key.take(6, 101 * MS), Some(Word::No(dearer)));
        assert_eq!(key.take(5, 1101 * MS), Some(Word::Unknown), "others may have given back");
    }

    #[test]
    fn who_calls_often_leases_ahead_and_who_stops_gives_back() {
        let key = leased(MS, 1000);
        key.fill(&granted(1), 1, 60_000 * MS, 60_000 * MS);
        assert_eq!(key.wanted(60_000 * MS), 0, "a rare call asks for itself");
        key.fill(&granted(10), 1, 60_002 * MS, 60_002 * MS);
        assert_eq!(key.wanted(60_002 * MS), 25 - 9, "one in two milliseconds, for fifty");
        assert!(!key.runs_low(60_003 * MS) && key.runs_low(60_012 * MS));
        assert_eq!(key.settle(60_100 * MS), (false, true));
        assert_eq!(key.take(1, 60_101 * MS), Some(Word::Yes));
        assert_eq!(key.settle(60_200 * MS), (false, true), "one was used");
        assert_eq!(key.settle(60_300 * MS), (true, true));
        assert_eq!(key.returned.swap(0, std::sync::atomic::Ordering::Relaxed), 8);
        assert_eq!((key.settle(60_400 * MS), key.wanted(60_400 * MS)), ((false, false), 0));
    }

    #[test]
    fn alone_a_replica_has_its_share_of_what_was_left() {
        let key = leased(10 * MS, 30);
        let alone =
            |now_ms| (0..50).filter(|_| key.take_alone(1, 0, 3, now_ms * MS).is_ok()).count();
        assert_eq!((alone(5000), alone(5300)), (10, 10), "nothing was known: a third of all");
        key.fill(&Granted { left: 6, ..granted(1) }, 1, 9000 * MS, 9000 * MS);
        key.unheard(9001 * MS);
        assert_eq!(key.take(1, 9002 * MS), Some(Word::Alone));
        assert_eq!((alone(9002), alone(9032)), (2, 1), "a third of six, and one in 30 ms");
        assert!(key.take_alone(20, 0, 3, 20_000 * MS).is_ok(), "dear calls pass, now and then");
    }
}
