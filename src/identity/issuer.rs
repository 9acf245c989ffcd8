//! One issuer of signed tokens: its keys, fetched beside the requests and kept while they are away.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::jwt::{Fault, Token};
use super::key_set::KeySet;
use super::vouched::Vouched;
use crate::config::{self, KeySource, Marks};
use crate::outbound::{Outbound, Request};
use crate::telemetry::Metrics;

/// A larger set is not one of keys.
const SET_BYTES_MAX: usize = 256 * 1024;
/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many requests may wait for one fetch; more are told to come back.
const WAITING_MAX: usize = 1024;

/// An issuer of signed tokens, as long as its settings stay the same.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) settings: config::Jwt,
    keys: ArcSwapOption<KeySet>,
    /// How the file with the keys looked when it was read.
    marks: Mutex<Marks>,
    attempts: watch::Sender<Attempts>,
    /// Whether a request waits for a fetch that has not ended.
    is_asked: AtomicBool,
    asked: Notify,
    waiting: AtomicUsize,
}

/// The fetches so far.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    count: u64,
    last: Option<Instant>,
    has_failed: bool,
}

/// Whether the keys may be fetched for the sake of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetch {
    /// The request may wait for the one after so many.
    MayHelp(u64),
    /// They were fetched a moment ago.
    WasJustDone,
    /// Too many wait already.
    IsCrowded,
}

/// What a token turns out to be, as far as the keys are known.
#[derive(Debug)]
pub(super) enum Finding {
    /// True; checked with the keys of this number.
    True(Vouched, u64),
    /// Not true.
    False,
    /// It names a key that is not known.
    KeyUnknown,
    /// No keys are known.
    NoKeys,
}

impl Issuer {
    pub(super) fn new(settings: config::Jwt) -> Self {
        Self {
            settings,
            keys: ArcSwapOption::empty(),
            marks: Mutex::new(Marks::default()),
            attempts: watch::Sender::new(Attempts::default()),
            is_asked: AtomicBool::new(false),
            asked: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Checks a token.
    pub(super) fn check(&self, token: Token<'_>, now_s: u64) -> Finding {
        let keys = self.keys.load();
        let Some(keys) = keys.as_deref() else { return Finding::NoKeys };
        match token.check(&self.settings, keys, now_s) {
            Ok(vouched) => Finding::True(vouched, keys.number),
            Err(Fault::Invalid) => Finding::False,
            Err(Fault::KeyUnknown) => Finding::KeyUnknown,
        }
    }

    /// Whether what was checked with the keys of this number is still true.
    pub(super) fn still_has(&self, number: u64) -> bool {
        self.keys.load().as_deref().is_some_and(|keys| keys.number == number)
    }

    /// How often the keys were fetched so far; to be asked before a token is checked.
    pub(super) fn fetches(&self) -> u64 {
        self.attempts.borrow().count
    }

    /// Whether it helps to wait for a fetch, after a token was checked with what so many fetches have
    /// brought. Whatever tokens ask for, the issuer is asked at most once in its cool-down.
    pub(super) fn fetch(&self, fetches: u64, now: Instant) -> Fetch {
        let attempts = *self.attempts.borrow();
        if attempts.count == fetches && self.is_cooling(attempts, now) {
            return Fetch::WasJustDone;
        }
        match self.waiting.load(Ordering::Relaxed) < WAITING_MAX {
            true => Fetch::MayHelp(fetches),
            false => Fetch::IsCrowded,
        }
    }

    fn is_cooling(&self, attempts: Attempts, now: Instant) -> bool {
        attempts.last.is_some_and(|last| now < last + self.settings.jwks.cooldown)
    }

    /// Waits until the fetch after so many has ended, and no longer than one may take.
    pub(super) async fn fetched(&self, fetches: u64) {
        let _waiting = Waiting::new(&self.waiting);
        let mut attempts = self.attempts.subscribe();
        if attempts.borrow_and_update().count > fetches {
            return;
        }
        self.is_asked.store(true, Ordering::Release);
        self.asked.notify_one();
        let ended = attempts.wait_for(|attempts| attempts.count > fetches);
        // Who waits in vain goes on with what there is.
        drop(timeout(self.settings.jwks.timeout + Duration::from_secs(1), ended).await);
    }

    /// Keeps the keys fresh. Never ends, and may be dropped and begun again.
    pub(super) async fn keep(&self, outbound: &Outbound, metrics: &Metrics) {
        loop {
            if !self.is_asked.load(Ordering::Acquire) {
                tokio::select! {
                    () = sleep_until(self.due()) => {}
                    () = self.asked.notified() => continue,
                }
            } else if self.is_cooling(*self.attempts.borrow(), Instant::now()) {
                // Who asked has just missed the end of a fetch, and sees that it has ended.
                self.is_asked.store(false, Ordering::Release);
                continue;
            }
            self.refresh(outbound, metrics).await;
        }
    }

    /// When the keys are to be fetched though nobody asks for them.
    fn due(&self) -> Instant {
        let attempts = *self.attempts.borrow();
        let Some(last) = attempts.last else { return Instant::now() };
        let jwks = &self.settings.jwks;
        match (&jwks.source, attempts.has_failed) {
            (KeySource::File(_), _) => Instant::now() + LOOK_EVERY,
            (KeySource::Url(_), false) => last + jwks.refresh,
            (KeySource::Url(_), true) => last + jwks.refresh.min(jwks.cooldown),
        }
    }

    /// Fetches the keys now. What cannot be used changes nothing.
    pub(super) async fn refresh(&self, outbound: &Outbound, metrics: &Metrics) {
        let fetched = match &self.settings.jwks.source {
            KeySource::Url(url) => {
                let request = Request::get(url.as_str())
                    .time_max(self.settings.jwks.timeout)
                    .body_bytes_max(SET_BYTES_MAX);
                match outbound.ask(request).await {
                    Ok(reply) if reply.is_ok() => Ok(reply.body.to_vec()),
                    Ok(reply) => Err(format!("status {}", reply.status)),
                    Err(fault) => Err(fault.to_string()),
                }
            }
            KeySource::File(path) => {
                let marks = Marks::of(std::iter::once(path.as_path()));
                let is_asked = self.is_asked.load(Ordering::Acquire);
                let was_read = self.attempts.borrow().last.is_some();
                if was_read && !is_asked && *self.marks.lock() == marks {
                    return;
                }
                *self.marks.lock() = marks;
                read(path)
            }
        };
        let used = fetched.and_then(|json| self.take(&json));
        let result = if used.is_ok() { "ok" } else { "failed" };
        metrics.identity.fetched(&self.settings.issuer, result);
        if let Err(why) = &used {
            let issuer = &self.settings.issuer;
            tracing::warn!(issuer, why, "the keys of an issuer were not renewed");
        }
        self.is_asked.store(false, Ordering::Release);
        self.attempts.send_modify(|attempts| {
            attempts.count += 1;
            attempts.last = Some(Instant::now());
            attempts.has_failed = used.is_err();
        });
    }

    /// Uses another set, if it is one.
    pub(super) fn take(&self, json: &[u8]) -> Result<(), String> {
        let mut set = KeySet::parse(json, &self.settings.algorithms).map_err(|e| e.to_string())?;
        let before = self.keys.load_full();
        if before.as_ref().is_some_and(|before| before.is_like(&set)) {
            return Ok(());
        }
        set.number = before.map_or(1, |before| before.number + 1);
        self.keys.store(Some(Arc::new(set)));
        tracing::info!(issuer = self.settings.issuer, "took the keys of an issuer");
        Ok(())
    }
}

/// Reads no more of a file than a set of keys may have.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(SET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    match read {
        Ok(length) if length > SET_BYTES_MAX => Err("the file is too large".to_owned()),
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// Counts who waits, also where a client leaves meanwhile.
struct Waiting<'c>(&'c AtomicUsize);

impl<'c> Waiting<'c> {
    fn new(count: &'c AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
