//! Keeps the marks of this replica true in the store.

use std::time::Duration;

use futures::future::join_all;

use super::marks::{State, Which};
use super::question::{LEASE_US, renew, take_back};
use crate::shared::Store;
use crate::upstream::now_ms;

/// Three tries before a mark that runs ends in the store.
const RENEW_EVERY: Duration = Duration::from_micros(LEASE_US / 3);
/// How soon a mark is gone in the store whose call did not run.
const TAKE_BACK_EVERY: Duration = Duration::from_millis(200);
/// Requests to the store at once.
const AT_ONCE: usize = 64;

impl State {
    /// Renews the marks of calls that run, writes all of them anew where the store may have lost some,
    /// and takes back those of calls that did not run; for as long as the process lives.
    pub async fn share(&self) {
        let Some(store) = self.store() else { return std::future::pending().await };
        let renewing = async {
            let heard = store.heard();
            let mut written = 0;
            loop {
                let generation = heard.borrow().generation;
                let which = if generation == written { Which::Running } else { Which::All };
                // What was not written is written with all of them the next time.
                written = if self.renew(store, which).await { generation } else { 0 };
                tokio::time::sleep(RENEW_EVERY).await;
            }
        };
        let taking_back = async {
            loop {
                tokio::time::sleep(TAKE_BACK_EVERY).await;
                let gone = self.to_take_back();
                for some in gone.chunks(AT_ONCE) {
                    let mut taken = Vec::with_capacity(some.len());
                    taken.extend(some.iter().map(|(key, until)| take_back(store, key, *until)));
                    // One that stays by a failure ends by itself: as if its call had run.
                    join_all(taken).await;
                }
            }
        };
        tokio::join!(renewing, taking_back);
    }

    /// Whether all of them were written.
    async fn renew(&self, store: &Store, which: Which) -> bool {
        if !store.is_up() {
            return false;
        }
        let marks = self.to_renew(which, now_ms());
        for some in marks.chunks(AT_ONCE) {
            let mut renewed = Vec::with_capacity(some.len());
            renewed.extend(some.iter().map(|(key, keep_ms)| renew(store, key, *keep_ms)));
            if join_all(renewed).await.iter().any(Option::is_none) {
                return false;
            }
        }
        true
    }
}
