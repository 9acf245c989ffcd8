//! A gate that opens once, for tens of thousands of waiters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Waiters come and go with every request; in shards they seldom wait for each other's lock.
const SHARDS: usize = 16;

/// Closed until it is opened, for good.
pub(super) struct Gate {
    is_open: AtomicBool,
    shards: [Notify; SHARDS],
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { is_open: AtomicBool::new(false), shards: std::array::from_fn(|_| Notify::new()) }
    }

    pub(super) fn open(&self) {
        if !self.is_open.swap(true, Ordering::Release) {
            for shard in &self.shards {
                shard.notify_waiters();
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    pub(super) async fn opened(&self) {
        // A notification counts from here on, so none is lost between the look and the wait.
        let notified = self.shards[shard()].notified();
        if !self.is_open() {
            notified.await;
        }
    }
}

/// The shard of this thread.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}
