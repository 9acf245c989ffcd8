//! A credential of the gateway's own: kept while it lasts, asked for by one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use parking_lot::Mutex;

use super::Unavailable;
use super::ask::Denied;
use super::reply::Issued;
use crate::upstream::now_ms;

/// After a failure it is asked for again this soon, and half as often after each further one.
const PAUSE_MIN_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 60_000;
/// A credential that a server does not take is asked for again, but not one that is new.
const DOUBT_MS: u64 = 10_000;

/// The one credential that does not depend on who calls.
pub(super) struct Kept {
    held: ArcSwapOption<Held>,
    /// Whoever asks holds it: the others wait for what comes of that.
    turn: tokio::sync::Mutex<Failures>,
    /// When it may be asked for again.
    pause_until_ms: AtomicU64,
    /// What a file held when it was read last; it counts once it was read twice.
    seen: Mutex<Option<HeaderValue>>,
    is_failing: AtomicBool,
}

/// A credential and its times.
pub(super) struct Held {
    value: HeaderValue,
    since_ms: u64,
    until_ms: u64,
    renew_at_ms: AtomicU64,
}

/// How often in a row there was none.
#[derive(Default)]
pub(super) struct Failures(u32);

impl Failures {
    /// How long to leave the issuer alone.
    pub(super) fn pause_ms(&mut self) -> u64 {
        self.0 = self.0.saturating_add(1);
        let pause = PAUSE_MIN_MS << (self.0 - 1).min(10);
        // Gateways that began together should not ask together for ever.
        (pause.min(PAUSE_MAX_MS) as f64 * (0.8 + fastrand::f64() * 0.4)) as u64
    }

    pub(super) fn forget(&mut self) {
        self.0 = 0;
    }
}

impl Held {
    /// What was issued now. It is renewed when two thirds of its time are over, a little earlier or
    /// later, and not used in the last tenth or ten seconds: clocks differ, and calls take time.
    pub(super) fn new(value: HeaderValue, lifetime: Option<Duration>, now_ms: u64) -> Self {
        let (until_ms, renew_at_ms) = match lifetime {
            None => (u64::MAX, u64::MAX),
            Some(lifetime) => {
                let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX / 4);
                let margin = (lifetime / 10).min(10_000);
                let renew = lifetime as f64 * (0.6 + fastrand::f64() * 0.1);
                (now_ms + lifetime - margin, now_ms + renew as u64)
            }
        };
        let renew_at_ms = AtomicU64::new(renew_at_ms);
        Self { value, since_ms: now_ms, until_ms, renew_at_ms }
    }

    pub(super) fn value(&self, now_ms: u64) -> Option<&HeaderValue> {
        (now_ms < self.until_ms).then_some(&self.value)
    }

    /// Whether it should be renewed; whoever is told so does it.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        let due = self.renew_at_ms.load(Ordering::Relaxed);
        due <= now_ms
            && self
                .renew_at_ms
                .compare_exchange(due, now_ms + PAUSE_MAX_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Renewing failed: again after this time.
    pub(super) fn renew_in(&self, pause_ms: u64, now_ms: u64) {
        self.renew_at_ms.store(now_ms + pause_ms, Ordering::Relaxed);
    }

    /// Whether it is old enough to be thought bad.
    pub(super) fn is_doubtful(&self, now_ms: u64) -> bool {
        self.until_ms != u64::MAX && now_ms >= self.since_ms + DOUBT_MS
    }
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            held: ArcSwapOption::empty(),
            turn: tokio::sync::Mutex::default(),
            pause_until_ms: AtomicU64::new(0),
            seen: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// The value, while it lasts.
    pub(super) fn value(&self, now_ms: u64) -> Option<HeaderValue> {
        self.held.load().as_ref()?.value(now_ms).cloned()
    }

    pub(super) fn keep(&self, value: HeaderValue, lifetime: Option<Duration>) {
        self.is_failing.store(false, Ordering::Relaxed);
        self.held.store(Some(Arc::new(Held::new(value, lifetime, now_ms()))));
    }

    /// Keeps what a file holds if it held the same the last time, or if there is nothing better: a
    /// file that is being written is not read by halves. Tells whether it is kept now.
    pub(super) fn keep_when_settled(&self, value: HeaderValue) -> bool {
        let mut seen = self.seen.lock();
        let is_settled = seen.as_ref() == Some(&value);
        let is_kept = self.value(now_ms()).as_ref() == Some(&value);
        if (is_settled || self.held.load().is_none()) && !is_kept {
            self.keep(value.clone(), None);
        }
        *seen = Some(value);
        self.is_failing.store(false, Ordering::Relaxed);
        is_settled || is_kept
    }

    /// Whether what fails has worked before.
    pub(super) fn is_first_failure(&self) -> bool {
        !self.is_failing.swap(true, Ordering::Relaxed)
    }

    /// A server did not take it.
    pub(super) fn doubt(&self, now_ms: u64) {
        if let Some(held) = self.held.load().as_ref().filter(|held| held.is_doubtful(now_ms)) {
            held.renew_in(0, now_ms);
        }
    }

    /// Whether it should be asked for now, in the background.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        if now_ms < self.pause_until_ms.load(Ordering::Relaxed) {
            return false;
        }
        match self.held.load().as_ref() {
            Some(held) => held.is_due(now_ms) || held.value(now_ms).is_none(),
            None => true,
        }
    }

    /// Waits for the credential, asking for it if nobody else does.
    pub(super) async fn fetch<A>(&self, ask: impl FnOnce() -> A) -> Result<HeaderValue, Unavailable>
    where
        A: Future<Output = Result<(HeaderValue, Issued), Denied>>,
    {
        let mut failures = self.turn.lock().await;
        if let Some(value) = self.value(now_ms()) {
            return Ok(value);
        }
        if now_ms() < self.pause_until_ms.load(Ordering::Relaxed) {
            return Err(Unavailable::Failed);
        }
        self.take(ask().await, &mut failures)
    }

    /// Asks for it though there may be one, unless somebody does so already.
    pub(super) async fn renew<A>(&self, ask: impl FnOnce() -> A)
    where
        A: Future<Output = Result<(HeaderValue, Issued), Denied>>,
    {
        if let Ok(mut failures) = self.turn.try_lock() {
            // What is wrong was logged, and what there is lasts until its end.
            drop(self.take(ask().await, &mut failures));
        }
    }

    fn take(
        &self,
        asked: Result<(HeaderValue, Issued), Denied>,
        failures: &mut Failures,
    ) -> Result<HeaderValue, Unavailable> {
        match asked {
            Ok((value, issued)) => {
                failures.forget();
                self.pause_until_ms.store(0, Ordering::Relaxed);
                self.keep(value.clone(), issued.lifetime);
                Ok(value)
            }
            Err(_) => {
                let (now_ms, pause_ms) = (now_ms(), failures.pause_ms());
                self.pause_until_ms.store(now_ms + pause_ms, Ordering::Relaxed);
                if let Some(held) = self.held.load().as_ref() {
                    held.renew_in(pause_ms, now_ms);
                }
                Err(Unavailable::Failed)
            }
        }
    }
}
