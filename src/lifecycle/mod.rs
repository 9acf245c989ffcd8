//! The life of the process: it serves, it drains, it closes, and a successor may take over from it.
//!
//! Pingora would sleep its whole grace period even when nothing is open, shut down although nobody
//! took its sockets, and drop connections that wait for their next request. So its server only
//! accepts and serves here; when and how the process ends is decided in this module.

mod gate;
mod handover;
mod notify;
mod signals;

pub use handover::{Belongings, Handover, HandoverFault};
pub use notify::{State, notify};
pub use signals::Signals;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pingora::server::ShutdownWatch;
use tokio::sync::watch;

use gate::Gate;

/// How long connections are still accepted after the signal to stop, so that balancers notice
/// first; at most a third of the grace period.
const ACCEPT_MAX: Duration = Duration::from_secs(5);
/// How long a connection without a request is kept while draining, because its next request may be
/// on its way; at most half of the grace period.
const LINGER_MAX: Duration = Duration::from_secs(8);
/// Nothing must have been open for this long: a connection in its TLS handshake is not counted yet.
const QUIET: Duration = Duration::from_millis(250);
/// How often a draining process looks whether it may go on.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the process stands. It only moves forward: serving, draining, closing.
pub struct Lifecycle {
    draining: Gate,
    closing: Gate,
    refusing: Gate,
    handed_over: watch::Sender<bool>,
    open: AtomicUsize,
}

/// Something open that the process waits for while it drains: a connection, or a request that may
/// outlive its connection.
pub struct Hold(Arc<Lifecycle>);

/// Why a process drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was told to stop.
    Told,
    /// A successor has its sockets and serves.
    HandedOver,
}

impl Lifecycle {
    /// A process that serves.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            draining: Gate::new(),
            closing: Gate::new(),
            refusing: Gate::new(),
            handed_over: watch::Sender::new(false),
            open: AtomicUsize::new(0),
        })
    }

    /// Whether the process is on its way out: every answer is the last of its connection, streams
    /// come to an end. Cheap enough for every request.
    pub fn is_draining(&self) -> bool {
        self.draining.is_open()
    }

    /// Waits until the process drains. Costs a waiter about 100 bytes.
    pub async fn draining(&self) {
        self.draining.opened().await;
    }

    /// Whether connections without a request are closed by now.
    pub fn is_closing(&self) -> bool {
        self.closing.is_open()
    }

    /// Waits until connections without a request shall close.
    pub async fn closing(&self) {
        self.closing.opened().await;
    }

    /// Waits until no connection is accepted any more.
    pub async fn refusing(&self) {
        self.refusing.opened().await;
    }

    /// Whether a balancer should send clients to this address. After a handover the successor
    /// serves there, whoever answers the probe.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() || *self.handed_over.borrow()
    }

    /// Turns true when a successor serves: from then on the probes are its own to answer.
    pub fn handed_over(&self) -> ShutdownWatch {
        self.handed_over.subscribe()
    }

    /// Counts something open until it is dropped.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.open.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(self))
    }

    /// Drains, and returns when nothing is open or the grace period is over.
    pub async fn drain(&self, cause: Cause, grace: Duration) {
        let accept = match cause {
            Cause::Told => ACCEPT_MAX.min(grace / 3),
            Cause::HandedOver => Duration::ZERO,
        };
        let linger = LINGER_MAX.min(grace / 2);
        self.handed_over.send_replace(cause == Cause::HandedOver);
        self.draining.open();
        let began = Instant::now();
        let mut busy = began;
        loop {
            let (elapsed, open) = (began.elapsed(), self.open.load(Ordering::Relaxed));
            if elapsed >= accept {
                self.refusing.open();
            }
            if elapsed >= linger {
                self.closing.open();
            }
            if open > 0 {
                busy = Instant::now();
            } else if busy.elapsed() >= QUIET {
                return;
            }
            if elapsed >= grace {
                tracing::warn!(open, "the grace period is over; what is open is cut");
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, Lifecycle};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[tokio::test]
    async fn an_idle_process_drains_at_once() {
        let lifecycle = Lifecycle::new();
        assert!(lifecycle.is_ready() && !lifecycle.is_draining());
        let began = Instant::now();
        lifecycle.drain(Cause::Told, Duration::from_secs(30)).await;
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(!lifecycle.is_ready() && lifecycle.is_draining());
    }

    #[tokio::test]
    async fn what_is_open_is_waited_for_and_sees_every_phase() {
        let lifecycle = Lifecycle::new();
        let hold = lifecycle.hold();
        let other = Arc::clone(&lifecycle);
        let work = async move {
            other.draining().await;
            other.refusing().await;
            assert!(!other.is_closing());
            other.closing().await;
            drop(hold);
        };
        let drain = lifecycle.drain(Cause::Told, Duration::from_secs(3));
        let began = Instant::now();
        tokio::join!(work, drain);
        assert!(began.elapsed() >= Duration::from_millis(1500), "idle connections linger");
    }

    #[tokio::test]
    async fn the_grace_period_ends_and_a_handed_over_process_stays_ready() {
        let lifecycle = Lifecycle::new();
        let _hold = lifecycle.hold();
        lifecycle.drain(Cause::HandedOver, Duration::from_millis(300)).await;
        assert!(lifecycle.is_ready(), "its successor serves");
        assert!(*lifecycle.handed_over().borrow());
    }
}
