//! How an endpoint stands: what was learned of it, which outlives every reload.
//!
//! Everything here is an atomic, read on the request path and written where something happens.
//! Times are milliseconds of [`super::now_ms`] and come in as arguments.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::Ejection;

/// How long an endpoint that refused a connection is left alone at first; doubled each time.
const UNREACHABLE_MS: u64 = 250;
/// And at the most.
const UNREACHABLE_MS_MAX: u64 = 4_000;
/// No deadline.
const NEVER: u64 = u64::MAX;

/// The state of an endpoint as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes calls.
    Serving,
    /// It takes calls, and at first only a part of its share.
    Warming,
    /// It is taken out: existing sessions finish or move, new ones go elsewhere.
    Draining,
    /// Its probe failed.
    Unhealthy,
    /// Calls to it failed too often.
    Ejected,
    /// It refused a connection a moment ago.
    Unreachable,
    /// Its name has no address.
    Unresolved,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Serving,
        Self::Warming,
        Self::Draining,
        Self::Unhealthy,
        Self::Ejected,
        Self::Unreachable,
        Self::Unresolved,
    ];

    /// The state's name in metrics, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Warming => "warming",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Unreachable => "unreachable",
            Self::Unresolved => "unresolved",
        }
    }
}

/// What is known of one endpoint of one server.
#[derive(Debug)]
pub struct Standing {
    pub(super) in_flight: AtomicUsize,
    pub(super) streams: AtomicUsize,
    pub(super) pending: AtomicUsize,
    /// Wakes one of those that wait for a call to end.
    pub(super) freed: Notify,
    sessions: AtomicUsize,
    unhealthy: AtomicBool,
    retired: AtomicBool,
    unreachable_until: AtomicU64,
    refusals_in_a_row: AtomicU32,
    ejected_until: AtomicU64,
    ejections_in_a_row: AtomicU32,
    failures_in_a_row: AtomicU32,
    window: Window,
    /// Zero while it is not draining.
    drain_deadline: AtomicU64,
    up_since: AtomicU64,
}

/// The calls of the current window, and how many of them failed.
#[derive(Debug, Default)]
struct Window {
    began: AtomicU64,
    calls: AtomicU32,
    failed: AtomicU32,
}

/// Why an endpoint should be ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Several calls in a row failed.
    ConsecutiveFailures,
    /// Too many calls of a window failed.
    FailureRate,
}

impl Fault {
    /// The fault's name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
        }
    }
}

impl Standing {
    /// A new endpoint, warm or not as its server's `slow_start` says.
    pub(super) fn new(now: u64) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            freed: Notify::new(),
            sessions: AtomicUsize::new(0),
            unhealthy: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            unreachable_until: AtomicU64::new(0),
            refusals_in_a_row: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            ejections_in_a_row: AtomicU32::new(0),
            failures_in_a_row: AtomicU32::new(0),
            window: Window::default(),
            drain_deadline: AtomicU64::new(0),
            up_since: AtomicU64::new(now),
        }
    }

    /// Sessions that were last seen there.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Sessions that stay there: none of those of an endpoint that is drained to its deadline, which
    /// move when they are used next.
    pub fn sessions_kept(&self, now: u64) -> usize {
        if self.is_lost(now) { 0 } else { self.sessions() }
    }

    /// One more session lives there.
    pub fn session_came(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// A session ended there, or moved away.
    pub fn session_left(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether new work may go there, as far as the endpoint itself is concerned.
    pub(super) fn is_usable(&self, now: u64) -> bool {
        self.is_trusted(now)
            && !self.is_unreachable(now)
            && self.drain_deadline.load(Ordering::Relaxed) == 0
            && !self.is_retired()
    }

    /// Whether a session may stay there.
    pub(super) fn may_keep(&self, now: u64) -> bool {
        // One refused connection may be chance, and what a session remembers is worth a try.
        let is_down =
            self.is_unreachable(now) && self.refusals_in_a_row.load(Ordering::Relaxed) > 1;
        self.is_trusted(now) && !is_down && !self.is_lost(now)
    }

    /// Whether nothing is held against it. What is only distrust is ignored in a panic.
    fn is_trusted(&self, now: u64) -> bool {
        !self.unhealthy.load(Ordering::Relaxed) && self.ejected_until.load(Ordering::Relaxed) <= now
    }

    /// Whether it is taken out for good: no longer in the pool, or drained to its deadline.
    pub(super) fn is_lost(&self, now: u64) -> bool {
        let deadline = self.drain_deadline.load(Ordering::Relaxed);
        self.is_retired() || (deadline != 0 && deadline <= now)
    }

    /// Whether it left its pool.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// It left its pool, or came back.
    pub(super) fn retire(&self, retired: Membership, now: u64) {
        let was_out = self.retired.swap(retired == Membership::Left, Ordering::Relaxed);
        if was_out && retired == Membership::Stays {
            // Who comes back begins anew: a drain was for the one that left.
            self.drain_deadline.store(0, Ordering::Relaxed);
            self.up_since.store(now, Ordering::Relaxed);
        }
    }

    /// Whether it is being taken out.
    pub fn is_draining(&self) -> bool {
        self.drain_deadline.load(Ordering::Relaxed) != 0
    }

    /// When its drain ends, if it has begun.
    pub fn drain_deadline_ms(&self) -> Option<u64> {
        Some(self.drain_deadline.load(Ordering::Relaxed)).filter(|deadline| *deadline != 0)
    }

    /// Takes no new sessions from now on; those it has move at the deadline.
    pub(super) fn drain(&self, deadline: u64) {
        self.drain_deadline.store(deadline.max(1), Ordering::Relaxed);
    }

    /// Takes new work again, slowly at first.
    pub(super) fn undrain(&self, now: u64) {
        if self.drain_deadline.swap(0, Ordering::Relaxed) != 0 {
            self.up_since.store(now, Ordering::Relaxed);
        }
    }

    /// What its probe found.
    pub(super) fn probed(&self, health: Probed, now: u64) {
        let unhealthy = health == Probed::Unhealthy;
        if self.unhealthy.swap(unhealthy, Ordering::Relaxed) && !unhealthy {
            self.up_since.store(now, Ordering::Relaxed);
        }
        if !unhealthy {
            self.unreachable_until.store(0, Ordering::Relaxed);
        }
    }

    /// A connection was refused: it is left alone for a moment, longer each time.
    pub(super) fn refused(&self, now: u64) {
        let refusals = self.refusals_in_a_row.fetch_add(1, Ordering::Relaxed).min(8);
        let pause = (UNREACHABLE_MS << refusals).min(UNREACHABLE_MS_MAX);
        self.unreachable_until.store(now + pause, Ordering::Relaxed);
    }

    /// A call was answered.
    pub(super) fn succeeded(&self, now: u64, ejection: &Ejection) {
        // Each is written only where it changes something: nearly always none does, and the line
        // of memory stays shared between the workers.
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        if self.refusals_in_a_row.load(Ordering::Relaxed) != 0 {
            self.refusals_in_a_row.store(0, Ordering::Relaxed);
            self.unreachable_until.store(0, Ordering::Relaxed);
            self.up_since.store(now, Ordering::Relaxed);
        }
        if self.ejections_in_a_row.load(Ordering::Relaxed) != 0 {
            let since = now.saturating_sub(self.ejected_until.load(Ordering::Relaxed));
            if since > ms(ejection.duration) {
                self.ejections_in_a_row.store(0, Ordering::Relaxed);
            }
        }
        if ejection.failure_rate < 1.0 {
            self.window.count(now, ms(ejection.window), Outcome::Answered);
        }
    }

    /// A call failed by the endpoint's fault. Tells whether that is one too many.
    pub(super) fn failed(&self, now: u64, ejection: &Ejection) -> Option<Fault> {
        let in_a_row = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let (calls, failed) = self.window.count(now, ms(ejection.window), Outcome::Failed);
        if ejection.consecutive_failures != 0 && in_a_row >= ejection.consecutive_failures {
            return Some(Fault::ConsecutiveFailures);
        }
        let rate = f64::from(failed) / f64::from(calls.max(1));
        (ejection.failure_rate < 1.0
            && calls >= ejection.requests_min
            && rate > ejection.failure_rate)
            .then_some(Fault::FailureRate)
    }

    /// Takes it out for a while, longer each time. `None` if it is out already.
    pub(super) fn eject(&self, now: u64, ejection: &Ejection) -> Option<Duration> {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until > now {
            return None;
        }
        let times = self.ejections_in_a_row.load(Ordering::Relaxed) + 1;
        let pause = ejection.duration.saturating_mul(times).min(ejection.duration_max);
        let claimed = self.ejected_until.compare_exchange(
            until,
            now + ms(pause),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        claimed.ok()?;
        self.ejections_in_a_row.store(times, Ordering::Relaxed);
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.window.began.store(0, Ordering::Relaxed);
        self.up_since.store(now + ms(pause), Ordering::Relaxed);
        Some(pause)
    }

    /// Whether it refused a connection a moment ago.
    pub fn is_unreachable(&self, now: u64) -> bool {
        self.unreachable_until.load(Ordering::Relaxed) > now
    }

    /// Whether it is ejected now.
    pub fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// The part of its share that it takes: it grows from a tenth to all during `slow_start`.
    pub(super) fn warmth(&self, now: u64, slow_start: Duration) -> f64 {
        let age = now.saturating_sub(self.up_since.load(Ordering::Relaxed));
        match ms(slow_start) {
            0 => 1.0,
            whole if age >= whole => 1.0,
            whole => (age as f64 / whole as f64).max(0.1),
        }
    }

    /// Nobody expects anything of it, as when the process has just begun.
    pub(super) fn is_warm_from_the_start(&self) {
        self.up_since.store(0, Ordering::Relaxed);
    }

    /// The state as operators see it.
    pub(super) fn state(&self, now: u64, slow_start: Duration) -> State {
        if self.is_draining() || self.is_retired() {
            State::Draining
        } else if self.unhealthy.load(Ordering::Relaxed) {
            State::Unhealthy
        } else if self.is_ejected(now) {
            State::Ejected
        } else if self.is_unreachable(now) {
            State::Unreachable
        } else if self.warmth(now, slow_start) < 1.0 {
            State::Warming
        } else {
            State::Serving
        }
    }
}

/// Whether an endpoint is part of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    Stays,
    Left,
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Healthy,
    Unhealthy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Failed,
}

impl Window {
    /// Counts a call; the counters begin anew with each window. Two threads that do so at the same
    /// moment may lose a few calls of a window, which no decision depends on.
    fn count(&self, now: u64, length: u64, outcome: Outcome) -> (u32, u32) {
        let began = self.began.load(Ordering::Relaxed);
        if now.saturating_sub(began) > length {
            self.began.store(now, Ordering::Relaxed);
            self.calls.store(0, Ordering::Relaxed);
            self.failed.store(0, Ordering::Relaxed);
        }
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let failed = match outcome {
            Outcome::Answered => self.failed.load(Ordering::Relaxed),
            Outcome::Failed => self.failed.fetch_add(1, Ordering::Relaxed) + 1,
        };
        (calls, failed)
    }
}

/// A duration as the clock of this module counts.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::{Fault, Probed, Standing, State};
    use crate::config::Ejection;
    use std::time::Duration;

    const WARM: Duration = Duration::ZERO;

    fn ejection() -> Ejection {
        Ejection {
            consecutive_failures: 3,
            failure_rate: 0.5,
            requests_min: 10,
            window: Duration::from_secs(10),
            duration: Duration::from_secs(30),
            duration_max: Duration::from_secs(70),
            ..Ejection::default()
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_each_time_for_longer() {
        let standing = Standing::new(0);
        let ejection = ejection();
        assert_eq!(standing.failed(0, &ejection), None);
        assert_eq!(standing.failed(0, &ejection), None);
        standing.succeeded(0, &ejection);
        assert_eq!(standing.failed(0, &ejection), None, "a success ends the row");
        assert_eq!(standing.failed(0, &ejection), None);
        assert_eq!(standing.failed(0, &ejection), Some(Fault::ConsecutiveFailures));
        let mut now = 1_000;
        for seconds in [30, 60, 70, 70] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(standing.eject(now, &ejection), Some(pause));
            assert_eq!(standing.eject(now, &ejection), None, "it is out already");
            assert!(standing.is_ejected(now + seconds * 1000 - 1));
            assert!(!standing.is_usable(now + 1) && !standing.may_keep(now + 1));
            now += seconds * 1000;
            assert!(!standing.is_ejected(now) && standing.is_usable(now));
        }
        standing.succeeded(now + 31_000, &ejection);
        assert_eq!(standing.eject(now + 32_000, &ejection), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_bad_rate_ejects_once_there_are_calls_enough() {
        let standing = Standing::new(0);
        let ejection = Ejection { consecutive_failures: 0, ..ejection() };
        let mut fault = None;
        for call in 0..10 {
            match call % 3 {
                1 => standing.succeeded(20_000 + call, &ejection),
                _ => fault = standing.failed(20_000 + call, &ejection),
            }
            assert!(fault.is_none() || call == 9, "call {call}");
        }
        assert_eq!(fault, Some(Fault::FailureRate));
        assert_eq!(standing.failed(31_000, &ejection), None, "a new window");
    }

    #[test]
    fn a_refused_connection_keeps_others_away_for_a_moment() {
        let standing = Standing::new(0);
        let mut now = 0;
        for pause in [250, 500, 1000, 2000, 4000, 4000] {
            standing.refused(now);
            assert_eq!(standing.state(now + pause - 1, WARM), State::Unreachable);
            assert_eq!(standing.state(now + pause, WARM), State::Serving);
            now += pause;
        }
        standing.refused(now);
        standing.probed(Probed::Healthy, now);
        assert!(standing.is_usable(now), "a probe that succeeds knows better");
    }

    #[test]
    fn a_drained_endpoint_keeps_its_sessions_until_the_deadline() {
        let standing = Standing::new(0);
        standing.drain(5_000);
        assert!(!standing.is_usable(1_000) && standing.may_keep(1_000));
        assert!(!standing.may_keep(5_000) && standing.is_lost(5_000));
        standing.undrain(6_000);
        assert!(standing.is_usable(6_000) && standing.may_keep(6_000));
        let slow = Duration::from_secs(10);
        assert_eq!(standing.state(6_000, slow), State::Warming);
        assert!((standing.warmth(11_000, slow) - 0.5).abs() < 0.01);
        assert_eq!(standing.state(16_000, slow), State::Serving);
    }
}
