//! The rate of one key: the generic cell rate algorithm over one atomic number.
//!
//! `governor` has the same algorithm, but can only say yes or no now: it cannot reserve a place ahead
//! of time, which is how calls wait in order, and cannot give back what a refused call took. So it is
//! written here, and tested against `governor`, call by call.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::Allowance;

use super::keys::Tally;

const RETIRED: u64 = u64::MAX;

/// When the allowance of one key will be whole again, in nanoseconds since the state began.
#[derive(Debug, Default)]
pub(super) struct Gcra(AtomicU64);

/// How much a key may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// How long the allowance of one call takes to come back.
    pub(super) interval_ns: u64,
    /// The whole allowance, in calls.
    pub(super) burst: u32,
    /// How long a call may wait for its turn.
    pub(super) wait_max_ns: u64,
}

/// Not now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// When there will be enough.
    pub(super) retry_after_ns: u64,
    /// Calls that are left, though fewer than this one costs.
    pub(super) remaining: u32,
}

impl Quota {
    /// The quota of a checked allowance, so short that nothing below overflows.
    pub(super) fn new(allowance: &Allowance, wait_max_ns: u64) -> Self {
        let interval_ns = u64::try_from(allowance.rate.interval().as_nanos()).unwrap_or(u64::MAX);
        Self { interval_ns, burst: allowance.burst.get(), wait_max_ns }
    }

    /// How long the whole allowance takes to come back.
    pub(super) fn burst_ns(self) -> u64 {
        self.interval_ns.saturating_mul(self.burst.into())
    }

    fn cost_ns(self, calls: u32) -> u64 {
        self.interval_ns.saturating_mul(calls.into())
    }
}

impl Gcra {
    /// Takes the allowance of so many calls, and says after how many nanoseconds it is theirs: who
    /// came first has its turn first. `None` once the key is forgotten.
    pub(super) fn take(
        &self,
        calls: u32,
        quota: Quota,
        now_ns: u64,
    ) -> Option<Result<u64, Exhausted>> {
        let (cost_ns, burst_ns) = (quota.cost_ns(calls), quota.burst_ns());
        let mut whole_at = self.0.load(Ordering::Relaxed);
        loop {
            if whole_at == RETIRED {
                return None;
            }
            let next = whole_at.max(now_ns).saturating_add(cost_ns).min(RETIRED - 1);
            let wait_ns = next.saturating_sub(now_ns.saturating_add(burst_ns));
            if wait_ns > quota.wait_max_ns {
                let left_ns = now_ns.saturating_add(burst_ns).saturating_sub(whole_at.max(now_ns));
                let remaining = left_ns / quota.interval_ns.max(1);
                return Some(Err(Exhausted {
                    retry_after_ns: wait_ns - quota.wait_max_ns,
                    remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
                }));
            }
            // The number guards nothing but itself, so its order among other memory does not matter.
            match self.0.compare_exchange_weak(whole_at, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(Ok(wait_ns)),
                Err(changed) => whole_at = changed,
            }
        }
    }

    /// From now on so many calls are left and no more.
    pub(super) fn leave(&self, calls: u32, quota: Quota, now_ns: u64) {
        let used = quota.burst.saturating_sub(calls);
        let whole_at = now_ns.saturating_add(quota.cost_ns(used)).min(RETIRED - 1);
        self.0.store(whole_at, Ordering::Relaxed);
    }

    /// Whether a new one would say the same.
    pub(super) fn is_whole(&self, now_ns: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now_ns
    }

    /// Gives back what a call took that did not run. A forgotten key has everything already.
    pub(super) fn give_back(&self, calls: u32, quota: Quota) {
        let cost_ns = quota.cost_ns(calls);
        let less = |whole_at: u64| (whole_at != RETIRED).then(|| whole_at.saturating_sub(cost_ns));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }
}

impl Tally for Gcra {
    fn retire(&self, now_ns: u64) -> bool {
        let whole = |whole_at| (whole_at <= now_ns).then_some(RETIRED);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, whole).is_ok()
    }

    fn is_retired(&self) -> bool {
        self.0.load(Ordering::Relaxed) == RETIRED
    }
}

#[cfg(test)]
mod tests {
    use super::{Exhausted, Gcra, Quota};
    use crate::limits::keys::Tally;
    use governor::clock::FakeRelativeClock;
    use governor::{Quota as Oracle, RateLimiter};
    use proptest::prelude::{ProptestConfig, prop, prop_assert_eq, proptest};
    use std::num::NonZeroU32;
    use std::time::Duration;

    const fn quota(interval_ns: u64, burst: u32, wait_max_ns: u64) -> Quota {
        Quota { interval_ns, burst, wait_max_ns }
    }

    #[test]
    fn a_thousand_a_second_of_twenty_thousand_offered() {
        let (gcra, quota) = (Gcra::default(), quota(1_000_000, 10, 0));
        let admitted = |second: u64| {
            let offers = (0..20_000).map(|offer| second * 1_000_000_000 + offer * 50_000);
            offers.filter(|now| gcra.take(1, quota, *now) == Some(Ok(0))).count()
        };
        let counts: Vec<usize> = (0..10).map(admitted).collect();
        assert_eq!(counts, [1009, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]);
    }

    #[test]
    fn calls_wait_in_the_order_in_which_they_came() {
        let (gcra, quota) = (Gcra::default(), quota(10, 2, 25));
        let take = |now| gcra.take(1, quota, now).expect("the key is kept");
        assert_eq!([take(100), take(100), take(100), take(100)], [Ok(0), Ok(0), Ok(10), Ok(20)]);
        assert_eq!(take(100), Err(Exhausted { retry_after_ns: 5, remaining: 0 }));
        assert_eq!([take(105), take(105)].map(|turn| turn.ok()), [Some(25), None]);
        assert_eq!(take(151), Ok(0), "the burst is coming back");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let (gcra, quota) = (Gcra::default(), quota(10, 4, 0));
        assert_eq!(gcra.take(4, quota, 100), Some(Ok(0)));
        gcra.give_back(3, quota);
        let refused = gcra.take(4, quota, 100);
        assert_eq!(refused, Some(Err(Exhausted { retry_after_ns: 10, remaining: 3 })));
        assert_eq!(gcra.take(3, quota, 100), Some(Ok(0)));
    }

    #[test]
    fn only_a_whole_allowance_is_forgotten() {
        let (gcra, quota) = (Gcra::default(), quota(10, 4, 0));
        assert_eq!(gcra.take(2, quota, 100), Some(Ok(0)));
        assert!(!gcra.retire(119) && !gcra.is_retired());
        assert!(gcra.retire(120) && gcra.is_retired());
        assert_eq!(gcra.take(1, quota, 130), None);
        gcra.give_back(1, quota);
        assert!(gcra.is_retired());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Without waiting, every single decision is the one of `governor`.
        #[test]
        fn decisions_are_those_of_governor(
            per_second in 1u32..2_000,
            burst in 1u32..50,
            calls in prop::collection::vec((1u32..60, 0u64..5_000_000), 1..200),
        ) {
            let clock = FakeRelativeClock::default();
            let count = NonZeroU32::new(per_second).expect("from 1");
            let oracle = Oracle::per_second(count).allow_burst(NonZeroU32::new(burst).expect("from 1"));
            let limiter = RateLimiter::direct_with_clock(oracle, clock.clone());
            let interval_ns = u64::from(1_000_000_000 / per_second);
            let (gcra, quota) = (Gcra::default(), quota(interval_ns, burst, 0));
            let mut now_ns = 0;
            for (calls, later_ns) in calls {
                clock.advance(Duration::from_nanos(later_ns));
                now_ns += later_ns;
                let expected = limiter.check_n(NonZeroU32::new(calls).expect("from 1"));
                let admitted = gcra.take(calls, quota, now_ns).expect("the key is kept").is_ok();
                prop_assert_eq!(admitted, matches!(expected, Ok(Ok(()))));
            }
        }
    }
}
