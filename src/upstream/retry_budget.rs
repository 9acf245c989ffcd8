//! Bounds what is sent again to a fraction of what is sent, so that failures cannot grow into a storm.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A retry costs a thousand, so that a fraction of one can be put in.
const RETRY: i64 = 1_000;
/// What may be saved up, in retries.
const SAVED_MAX: i64 = 100;
/// A pool with little traffic may retry this often each second all the same.
const PER_SECOND: i64 = 10;

/// The retries of one pool.
#[derive(Debug)]
pub(super) struct RetryBudget {
    saved: AtomicI64,
    refilled: AtomicU64,
}

impl RetryBudget {
    pub(super) fn new() -> Self {
        Self { saved: AtomicI64::new(SAVED_MAX * RETRY), refilled: AtomicU64::new(0) }
    }

    /// A request brings its fraction of a retry.
    pub(super) fn deposit(&self, fraction: f64) {
        if self.saved.load(Ordering::Relaxed) < SAVED_MAX * RETRY {
            self.saved.fetch_add((fraction * RETRY as f64) as i64, Ordering::Relaxed);
        }
    }

    /// Takes one retry, if there is one.
    pub(super) fn withdraw(&self, now_ms: u64) -> bool {
        let refilled = self.refilled.load(Ordering::Relaxed);
        if now_ms.saturating_sub(refilled) >= 1_000
            && self
                .refilled
                .compare_exchange(refilled, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let least = |saved: i64| Some(saved.max(PER_SECOND * RETRY));
            // The closure always gives a value, so there is no error to see.
            self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, least).ok();
        }
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
                (saved >= RETRY).then_some(saved - RETRY)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;

    fn granted(budget: &RetryBudget, tries: usize, now_ms: u64) -> usize {
        (0..tries).filter(|_| budget.withdraw(now_ms)).count()
    }

    #[test]
    fn retries_are_a_fraction_of_requests() {
        let budget = RetryBudget::new();
        assert_eq!(granted(&budget, 1_000, 0), 100, "what was saved up");
        for _ in 0..1_000 {
            budget.deposit(0.05);
        }
        assert_eq!(granted(&budget, 1_000, 10), 50);
        assert_eq!(granted(&budget, 1_000, 1_010), 10, "each second brings a few");
        assert_eq!(granted(&budget, 1_000, 1_020), 0);
    }
}
