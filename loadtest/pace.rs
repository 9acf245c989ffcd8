//! When the calls of a run are due: as soon as a connection is free, or at a fixed rate whatever the answers do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The least time that the thread of the open loop sleeps, so that it leaves the core to the others; that late a call may be.
const NAP: Duration = Duration::from_micros(100);
/// After the last call is due, connections have this long to take it; what nobody took was not sent.
const LAST_CALL: Duration = Duration::from_millis(100);

/// What the connections of a run share.
pub(crate) struct Pace {
    began: OnceLock<Instant>,
    seconds: f64,
    open: Option<Open>,
}

/// A schedule in which call N is due at N / rate. A connection that is free takes the next; latency counts from when it was due,
/// so that a call which had to wait for a connection has waited.
struct Open {
    rate: f64,
    total: u64,
    due: Semaphore,
    taken: AtomicU64,
}

impl Pace {
    pub(crate) fn closed(seconds: f64) -> Self {
        Self { began: OnceLock::new(), seconds, open: None }
    }

    pub(crate) fn open(seconds: f64, rate: f64) -> Self {
        let total = (seconds * rate) as u64;
        let open = Open { rate, total, due: Semaphore::new(0), taken: AtomicU64::new(0) };
        Self { began: OnceLock::new(), seconds, open: Some(open) }
    }

    /// The run begins; all connections are open.
    pub(crate) fn begin(self: &Arc<Self>) {
        let began = self.began();
        if self.open.is_some() {
            let pace = Arc::clone(self);
            thread::spawn(move || {
                if let Some(open) = &pace.open {
                    open.release_in_time(began);
                }
            });
        }
    }

    /// When the next call was due, once it is; `None` when the run is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        match &self.open {
            Some(open) => open.next(self.began()).await,
            None => Some(Instant::now()).filter(|_| !self.is_over()),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        match &self.open {
            Some(open) => open.due.is_closed(),
            None => Instant::now() >= self.deadline(),
        }
    }

    pub(crate) fn began(&self) -> Instant {
        *self.began.get_or_init(Instant::now)
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.began() + Duration::from_secs_f64(self.seconds)
    }

    /// Calls that were due and never sent, because no connection was free.
    pub(crate) fn unsent(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.total - open.taken.load(Ordering::Relaxed))
    }
}

impl Open {
    async fn next(&self, began: Instant) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(began + Duration::from_secs_f64(number as f64 / self.rate))
    }

    /// Runs in a thread of its own, because timers of the runtime are as coarse as a millisecond.
    fn release_in_time(&self, began: Instant) {
        let mut released = 0;
        while released < self.total {
            let due = self.due_after(began.elapsed());
            // Never more than the total, and that fits: a run of seconds.
            self.due.add_permits((due - released) as usize);
            released = due;
            let next = Duration::from_secs_f64(released as f64 / self.rate);
            thread::sleep(next.saturating_sub(began.elapsed()).max(NAP));
        }
        thread::sleep(LAST_CALL);
        self.due.close();
    }

    fn due_after(&self, elapsed: Duration) -> u64 {
        ((elapsed.as_secs_f64() * self.rate) as u64 + 1).min(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_at_their_rate_and_no_more_than_all() {
        let check = |elapsed_ms: u64, expected: u64| {
            let pace = Pace::open(2.0, 100.0);
            let open = pace.open.as_ref().unwrap();
            assert_eq!(open.due_after(Duration::from_millis(elapsed_ms)), expected, "{elapsed_ms}");
        };
        check(0, 1);
        check(9, 1);
        check(11, 2);
        check(1001, 101);
        check(2001, 200);
        check(60_000, 200);
    }

    #[tokio::test]
    async fn every_call_of_an_open_loop_is_handed_out_once_in_order() {
        let pace = Arc::new(Pace::open(0.2, 1000.0));
        pace.begin();
        let mut due = Vec::new();
        while let Some(at) = pace.next().await {
            assert!(at <= Instant::now(), "no call is early");
            due.push(at);
        }
        assert_eq!((due.len(), pace.unsent()), (200, 0));
        assert!(due.is_sorted());
        assert!(pace.is_over());
    }

    #[tokio::test]
    async fn what_nobody_took_in_time_was_not_sent() {
        let pace = Arc::new(Pace::open(0.1, 1000.0));
        pace.begin();
        assert!(pace.next().await.is_some());
        while !pace.is_over() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(pace.next().await, None);
        assert_eq!(pace.unsent(), 99);
    }

    #[tokio::test]
    async fn a_closed_loop_goes_on_until_its_time_is_over() {
        let pace = Arc::new(Pace::closed(0.05));
        pace.begin();
        assert!(pace.next().await.is_some());
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(pace.next().await, None);
    }
}
