//! Credentials in exchange for callers' tokens: one for each token, known by its digest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};

use super::Unavailable;
use super::ask::Denied;
use super::kept::{Failures, Held};
use super::reply::Issued;
use crate::config::{self, CredentialSource, Secret};
use crate::upstream::now_ms;

/// How many are known of one server; the least used give way.
const KNOWN_MAX: usize = 10_000;
/// How many wait to be renewed; others are when they end.
const WAITING_MAX: usize = 1024;
/// A caller for whom there is none is asked for again after this time.
const REFUSED_MS: u64 = 5_000;
/// How often what was just asked for may turn out to be over already.
const TURNS_MAX: u32 = 3;

type Key = [u8; 32];

/// The credentials of one server in exchange for callers' tokens.
pub(super) struct Callers {
    known: Cache<Key, Arc<Entry>>,
    /// Tokens whose credentials are used and soon over. They stay for a moment only.
    waiting: Mutex<HashMap<Key, Secret>>,
    failures: Mutex<Failures>,
    /// When the issuer may be asked again, whoever calls.
    pause_until_ms: AtomicU64,
}

enum Entry {
    Held(Held),
    /// There is none, and nobody asks for it until then.
    Lacking {
        until_ms: u64,
        why: Unavailable,
    },
}

impl Callers {
    pub(super) fn new(settings: Option<&config::Credentials>) -> Self {
        let known_max = match settings.map(|settings| &settings.source) {
            Some(CredentialSource::TokenExchange(_)) => KNOWN_MAX,
            _ => 1,
        };
        Self {
            known: Cache::new(known_max),
            waiting: Mutex::default(),
            failures: Mutex::default(),
            pause_until_ms: AtomicU64::new(0),
        }
    }

    /// The value in exchange for this token, if it is known.
    pub(super) fn known(&self, token: &[u8], now_ms: u64) -> Option<HeaderValue> {
        let key = key_of(token);
        let entry = self.known.get(&key)?;
        let Entry::Held(held) = &*entry else { return None };
        let value = held.value(now_ms)?;
        if held.is_due(now_ms) {
            self.wait_for_renewal(key, token);
        }
        Some(value.clone())
    }

    /// A server did not take it: the next call asks for another.
    pub(super) fn doubt(&self, token: &[u8], now_ms: u64) {
        let is_doubtful =
            |entry: &Arc<Entry>| matches!(&**entry, Entry::Held(held) if held.is_doubtful(now_ms));
        self.known.remove_if(&key_of(token), is_doubtful);
    }

    /// The same value, asked for by one of those who need it, while the others wait.
    pub(super) async fn fetch<'t, A>(
        &self,
        token: &'t [u8],
        ask: impl Fn(&'t str) -> A,
    ) -> Result<HeaderValue, Unavailable>
    where
        A: Future<Output = Result<(HeaderValue, Issued), Denied>>,
    {
        let text = std::str::from_utf8(token).map_err(|_| Unavailable::Refused)?;
        let key = key_of(token);
        for _ in 0..TURNS_MAX {
            let entry = match self.known.get_value_or_guard_async(&key).await {
                Ok(entry) => entry,
                Err(turn) => {
                    let entry = match now_ms() < self.pause_until_ms.load(Ordering::Relaxed) {
                        // Somebody else has found out that nobody answers.
                        true => return Err(Unavailable::Failed),
                        false => Arc::new(self.take(ask(text).await)),
                    };
                    // It fails only if the key was removed meanwhile; this caller has its value.
                    drop(turn.insert(Arc::clone(&entry)));
                    entry
                }
            };
            let now_ms = now_ms();
            match &*entry {
                Entry::Held(held) => {
                    if let Some(value) = held.value(now_ms) {
                        return Ok(value.clone());
                    }
                }
                Entry::Lacking { until_ms, why } if now_ms < *until_ms => return Err(*why),
                Entry::Lacking { .. } => {}
            }
            self.known.remove_if(&key, |known| Arc::ptr_eq(known, &entry));
        }
        Err(Unavailable::Failed)
    }

    /// Some of the tokens whose credentials should be renewed.
    pub(super) fn take_waiting(&self, at_most: usize) -> Vec<(Key, Secret)> {
        let mut waiting = self.waiting.lock();
        let keys: Vec<Key> = waiting.keys().take(at_most).copied().collect();
        keys.into_iter().filter_map(|key| waiting.remove_entry(&key)).collect()
    }

    /// Takes what came of a renewal. What there is lasts until its end, unless there is better.
    pub(super) fn renewed(&self, key: Key, asked: Result<(HeaderValue, Issued), Denied>) {
        let entry = self.take(asked);
        match (&entry, self.known.get(&key).as_deref()) {
            (Entry::Held(_), _) => self.known.insert(key, Arc::new(entry)),
            (Entry::Lacking { until_ms, .. }, Some(Entry::Held(held))) => {
                let now_ms = now_ms();
                held.renew_in(until_ms.saturating_sub(now_ms), now_ms);
            }
            _ => {}
        }
    }

    fn wait_for_renewal(&self, key: Key, token: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX
            && let Ok(token) = std::str::from_utf8(token)
        {
            waiting.insert(key, Secret::from(token.to_owned()));
        }
    }

    fn take(&self, asked: Result<(HeaderValue, Issued), Denied>) -> Entry {
        let now_ms = now_ms();
        match asked {
            Ok((value, issued)) => {
                self.failures.lock().forget();
                self.pause_until_ms.store(0, Ordering::Relaxed);
                Entry::Held(Held::new(value, issued.lifetime, now_ms))
            }
            Err(denied) if denied.is_of_subject() => {
                Entry::Lacking { until_ms: now_ms + REFUSED_MS, why: Unavailable::Refused }
            }
            Err(_) => {
                let until_ms = now_ms + self.failures.lock().pause_ms();
                self.pause_until_ms.store(until_ms, Ordering::Relaxed);
                Entry::Lacking { until_ms, why: Unavailable::Failed }
            }
        }
    }
}

fn key_of(token: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, token).as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::{Callers, KNOWN_MAX};
    use crate::outbound::Fault;
    use crate::upstream::credentials::Unavailable;
    use crate::upstream::credentials::ask::Denied;
    use crate::upstream::credentials::reply::Issued;
    use crate::upstream::now_ms;
    use http::HeaderValue;
    use std::cell::Cell;
    use std::time::Duration;

    type Asked = Result<(HeaderValue, Issued), Denied>;

    fn issued(token: &str, seconds: u64) -> Asked {
        let lifetime = Some(Duration::from_secs(seconds));
        let issued = Issued { token: token.to_owned(), lifetime };
        Ok((issued.value(None).expect("a value"), issued))
    }

    fn callers() -> Callers {
        let mut callers = Callers::new(None);
        callers.known = quick_cache::sync::Cache::new(KNOWN_MAX);
        callers
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn each_token_is_exchanged_once_and_never_for_anothers() {
        let (callers, asked) = (callers(), Cell::new(0));
        let ask = |token: &str| {
            asked.set(asked.get() + 1);
            let token = format!("for-{token}");
            async move {
                tokio::task::yield_now().await;
                issued(&token, 60)
            }
        };
        let fetch = |token: &'static [u8]| callers.fetch(token, ask);
        let all = run(futures::future::join4(fetch(b"a"), fetch(b"b"), fetch(b"a"), fetch(b"a")));
        let all = [all.0, all.1, all.2, all.3].map(|value| value.expect("a value"));
        assert_eq!(all, ["for-a", "for-b", "for-a", "for-a"]);
        assert_eq!(asked.get(), 2);
        assert_eq!(callers.known(b"b", now_ms()).expect("a value"), "for-b");
        assert!(callers.known(b"c", now_ms()).is_none());
        assert!(callers.known(b"b", now_ms() + 60_000).is_none(), "it is over");
        assert_eq!(run(callers.fetch(b"\xff", ask)), Err(Unavailable::Refused));
    }

    #[test]
    fn a_caller_who_is_refused_does_not_stop_the_others_and_an_issuer_that_is_away_does() {
        let (callers, asked) = (callers(), Cell::new(0));
        let refuse = |_: &str| {
            asked.set(asked.get() + 1);
            async { Err(Denied::Refused { status: 400, error: "invalid_grant" }) }
        };
        for _ in 0..3 {
            assert_eq!(run(callers.fetch(b"bad", refuse)), Err(Unavailable::Refused));
        }
        assert_eq!(asked.get(), 1, "nobody asks again at once");
        assert!(run(callers.fetch(b"good", |_| async { issued("t", 60) })).is_ok());
        let away = |_: &str| {
            asked.set(asked.get() + 1);
            async { Err(Denied::Unanswered(Fault::TimedOut)) }
        };
        for token in [b"c", b"d", b"e"] {
            assert_eq!(run(callers.fetch(token, away)), Err(Unavailable::Failed));
        }
        assert_eq!(asked.get(), 2, "who is away is left alone");
        assert!(callers.known(b"good", now_ms()).is_some(), "what is known stays");
    }

    #[test]
    fn what_is_used_is_renewed_and_kept_where_that_fails() {
        let callers = callers();
        assert!(run(callers.fetch(b"a", |_| async { issued("one", 60) })).is_ok());
        assert!(callers.known(b"a", now_ms()).is_some());
        assert!(callers.take_waiting(9).is_empty(), "it is fresh");
        let later = now_ms() + 45_000;
        for _ in 0..3 {
            assert_eq!(callers.known(b"a", later).expect("a value"), "one");
        }
        let waiting = callers.take_waiting(9);
        assert_eq!(waiting.len(), 1, "once");
        let (key, token) = waiting.into_iter().next().expect("one waits");
        assert_eq!(token.expose(), "a");
        callers.renewed(key, Err(Denied::Unanswered(Fault::TimedOut)));
        assert_eq!(callers.known(b"a", now_ms()).expect("a value"), "one");
        callers.renewed(key, issued("two", 60));
        assert_eq!(callers.known(b"a", now_ms()).expect("a value"), "two");
        // A server that does not take it has it asked for again, but not at once.
        callers.doubt(b"a", now_ms());
        assert!(callers.known(b"a", now_ms()).is_some());
        callers.doubt(b"a", now_ms() + 11_000);
        assert!(callers.known(b"a", now_ms()).is_none());
    }

    #[test]
    fn the_table_is_bounded() {
        let callers = callers();
        run(async {
            for number in 0..2 * KNOWN_MAX {
                let token = number.to_string();
                callers
                    .fetch(token.as_bytes(), |_| async { issued("t", 60) })
                    .await
                    .expect("a value");
            }
        });
        assert!(callers.known.len() <= KNOWN_MAX, "{}", callers.known.len());
    }
}
