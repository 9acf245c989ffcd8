//! The keys of one limit, each with its tally: found without a lock, never more than allowed.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How often a map that is far from full is looked through.
const SWEEP_EVERY_NS: u64 = 10_000_000_000;

/// What is counted for one key.
pub(super) trait Tally {
    /// Ends the tally if a new one would say the same; then nobody may use it any more.
    fn retire(&self, now_ns: u64) -> bool;
    /// Whether it has ended.
    fn is_retired(&self) -> bool;
}

/// Tallies by key. A key is a keyed hash of 64 bits: among a million keys the chance that any two
/// share one is one in thirty million, and nobody outside can look for such a pair.
pub(super) struct Keys<T> {
    tallies: papaya::HashMap<u64, T, BuildHasherDefault<AsItIs>>,
    count: AtomicUsize,
    keys_max: usize,
    swept_ns: AtomicU64,
}

/// There is no room for a new key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<T: Tally> Keys<T> {
    pub(super) fn new(keys_max: usize) -> Self {
        Self {
            tallies: papaya::HashMap::default(),
            count: AtomicUsize::new(0),
            keys_max,
            swept_ns: AtomicU64::new(0),
        }
    }

    /// Uses the tally of a key, which is made if need be. `act` gives `None` on a tally that has
    /// ended, and is then asked again with another one.
    pub(super) fn with<R>(
        &self,
        key: u64,
        make: impl Fn() -> T,
        act: impl Fn(&T) -> Option<R>,
    ) -> Result<R, Full> {
        let pinned = self.tallies.pin();
        loop {
            match pinned.get(&key) {
                Some(tally) => match act(tally) {
                    Some(outcome) => return Ok(outcome),
                    None => self.remove(key),
                },
                None => {
                    self.make_room()?;
                    // Somebody else may have been faster.
                    if pinned.try_insert(key, make()).is_err() {
                        self.count.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Uses the tally of a key, if there is one.
    pub(super) fn with_known(&self, key: u64, act: impl Fn(&T)) {
        if let Some(tally) = self.tallies.pin().get(&key) {
            act(tally);
        }
    }

    /// Forgets keys that say nothing, at once where room is short, else now and then.
    pub(super) fn sweep(&self, now_ns: u64) {
        let is_short = self.len() >= self.keys_max / 4 * 3;
        let swept_ns = self.swept_ns.load(Ordering::Relaxed);
        if !is_short && now_ns < swept_ns.saturating_add(SWEEP_EVERY_NS) {
            return;
        }
        self.swept_ns.store(now_ns, Ordering::Relaxed);
        for (key, tally) in &self.tallies.pin() {
            if tally.retire(now_ns) {
                self.remove(*key);
            }
        }
    }

    /// Keys that are counted now.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn make_room(&self) -> Result<(), Full> {
        if self.count.fetch_add(1, Ordering::Relaxed) < self.keys_max {
            return Ok(());
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Err(Full)
    }

    /// Removes a tally that has ended; one that took its place stays.
    fn remove(&self, key: u64) {
        let removed = self
            .tallies
            .pin()
            .remove_if(&key, |_, tally| tally.is_retired())
            .is_ok_and(|removed| removed.is_some());
        if removed {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The hash of a key that is a hash already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        // Only whole keys are hashed; this is here because the trait asks for it.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Keys, Tally};
    use crate::limits::gcra::{Gcra, Quota};

    const QUOTA: Quota = Quota { interval_ns: 10, burst: 1, wait_max_ns: 0 };

    fn take(keys: &Keys<Gcra>, key: u64, now_ns: u64) -> Result<bool, Full> {
        keys.with(key, Gcra::default, |gcra| gcra.take(1, QUOTA, now_ns)).map(|taken| taken.is_ok())
    }

    #[test]
    fn a_full_map_is_closed_for_new_keys_only() {
        let keys = Keys::new(100);
        for key in 0..100 {
            assert_eq!(take(&keys, key, 1000), Ok(true));
        }
        assert_eq!((take(&keys, 100, 1000), keys.len()), (Err(Full), 100));
        assert_eq!((take(&keys, 5, 1000), take(&keys, 6, 1010)), (Ok(false), Ok(true)));
        keys.sweep(1010);
        assert_eq!(keys.len(), 1, "the others have their whole allowance back");
        assert_eq!((take(&keys, 100, 1010), take(&keys, 6, 1010)), (Ok(true), Ok(false)));
    }

    #[test]
    fn a_tally_that_ended_is_replaced() {
        let keys = Keys::new(1);
        assert_eq!(take(&keys, 7, 1000), Ok(true));
        keys.with_known(7, |gcra| assert!(gcra.retire(1010)));
        assert_eq!((take(&keys, 7, 1010), keys.len()), (Ok(true), 1));
        assert_eq!(take(&keys, 7, 1010), Ok(false), "the new one counts");
    }

    #[test]
    fn nothing_is_lost_while_keys_are_forgotten() {
        let keys = Keys::new(10);
        let admitted: usize = std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    // Everything, always: no tally may be used after that.
                    keys.swept_ns.store(0, std::sync::atomic::Ordering::Relaxed);
                    keys.sweep(u64::MAX - 2);
                }
            });
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| (0..20_000).filter(|_| take(&keys, 1, 0) == Ok(true)).count())
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().expect("no panic")).sum()
        });
        assert!(admitted >= 1 && keys.len() <= 1, "{admitted} {}", keys.len());
        keys.sweep(u64::MAX - 2);
        assert_eq!(take(&keys, 1, 0).map(|_| keys.len()), Ok(1));
    }
}
