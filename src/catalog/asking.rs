//! Asks a server what it offers, and takes what it says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::client::Conversation;
use super::difference;
use super::listed::{Catalog, Full, Listed};
use super::offer::{Kind, Offer, State};
use super::pins::{Became, DefinitionChange};
use super::told::{Made, Told};
use crate::config::OnChange;
use crate::telemetry::{Metrics, Refresh};
use crate::upstream::{
    AskFault, Connectors, Endpoint, Load, Otherwise, Pool, Subject, Wanted, now_ms,
};

/// How long one endpoint may take for all of its lists.
const LISTING_MAX: Duration = Duration::from_secs(30);
/// Endpoints that are tried before the server counts as silent.
const ENDPOINTS_MAX: usize = 3;
/// Servers that are listed at once: each may hold a whole list in memory.
const AT_ONCE: usize = 32;
/// Changes of one listing that have a line each in the log.
const TOLD_MAX: usize = 50;
const NAME_CHARS_MAX: usize = 128;

/// What everybody who asks servers shares.
pub(super) struct Asking {
    pub(super) catalog: Arc<Catalog>,
    pub(super) metrics: Arc<Metrics>,
    connectors: Arc<Connectors>,
    turns: Semaphore,
}

/// What came of asking.
pub(super) struct Asked {
    pub(super) outcome: Refresh,
    /// Why nothing was heard, where that is so.
    pub(super) fault: Option<AskFault>,
    /// The conversation, if somebody may go on with it; to be ended.
    pub(super) conversation: Option<Conversation>,
}

impl Asking {
    pub(super) fn new(catalog: Arc<Catalog>, metrics: Arc<Metrics>) -> Self {
        let connectors = Arc::new(Connectors::new());
        Self { catalog, metrics, connectors, turns: Semaphore::new(AT_ONCE) }
    }

    /// Lists a server once, unless `stop` ends first. `None` then, and nothing has changed.
    pub(super) async fn list(
        &self,
        pool: &Pool,
        listed: &Listed,
        stop: impl Future<Output = ()>,
    ) -> Option<Asked> {
        let mut stop = std::pin::pin!(stop);
        let _turn = tokio::select! {
            turn = self.turns.acquire() => turn.ok()?,
            () = &mut stop => return None,
        };
        listed.begin();
        let mut tried = Vec::new();
        let mut fault = AskFault("it has no endpoint".to_owned());
        while tried.len() < ENDPOINTS_MAX {
            let Some(endpoint) = choose(pool, &tried) else { break };
            tried.push(endpoint.id());
            let first_byte = pool.timeouts().first_byte;
            let credentials = pool.credentials();
            let credential = match credentials.of(Subject::Gateway).await {
                Ok(credential) => credential,
                // It may let in whoever comes without, and tell what everyone may know.
                Err(_) if credentials.is_per_caller() => None,
                Err(unavailable) => {
                    fault = AskFault(unavailable.to_string());
                    break;
                }
            };
            let mut conversation =
                Conversation::new(&self.connectors, endpoint, credential, first_byte);
            let era = listed.offer().era;
            let heard = tokio::select! {
                heard = timeout(LISTING_MAX, conversation.list(era)) => heard,
                () = &mut stop => {
                    conversation.end().await;
                    return None;
                }
            };
            match heard {
                Ok(Ok(told)) => {
                    let on_change = pool.settings().definitions.on_change;
                    let outcome = self.take(listed, told, on_change);
                    let conversation = Some(conversation);
                    return Some(Asked { outcome, fault: None, conversation });
                }
                Ok(Err(heard)) => fault = heard,
                Err(_) => fault = AskFault("its lists took too long".to_owned()),
            }
            conversation.end().await;
        }
        self.fail(listed, &fault.0);
        Some(Asked { outcome: Refresh::Failed, fault: Some(fault), conversation: None })
    }

    fn take(&self, listed: &Listed, told: Told, on_change: OnChange) -> Refresh {
        let before = Arc::clone(&listed.offer());
        let (server, now) = (listed.server(), SystemTime::now());
        let mut changes = Vec::new();
        let pin = |definitions, extent| {
            let rules = (on_change, extent);
            let (shown, found) = self.catalog.pins().take(server, definitions, rules, now);
            changes = found;
            shown
        };
        let Made { offer, differences, left_out } = told.make(&before, now, pin);
        listed.follow_pins();
        self.tell(listed, &changes);
        let is_whole = offer.state == State::Known;
        if let (State::Stale(fault), false) = (&offer.state, offer.state == before.state) {
            tracing::warn!(server, %fault, "a list of a server could not be read to its end");
        }
        let offer = Arc::new(offer);
        if let Err(Full) = self.catalog.install(listed, Arc::clone(&offer)) {
            self.fail(listed, "what all servers offer takes too much memory");
            return Refresh::Failed;
        }
        for (kind, malformed, doubled) in left_out {
            // Told once for each list, not each time that it is read.
            if differences.iter().any(|difference| difference.kind == kind) {
                self.metrics.catalog.left_out(server, kind.as_str(), malformed, doubled);
                let kind = kind.as_str();
                tracing::warn!(server, kind, malformed, doubled, "definitions are left out");
            }
        }
        for difference in differences {
            let kind = difference.kind.as_str();
            let (added, removed, changed) =
                (difference.added, difference.removed, difference.changed);
            tracing::info!(server, kind, added, removed, changed, "what a server offers is new");
            if before.listed_at.is_some() {
                self.metrics.catalog.changed(server, kind);
            }
        }
        for kind in Kind::ALL {
            self.metrics.catalog.show(server, kind.as_str(), offer.list(kind).all().len());
        }
        let outcome = if is_whole { Refresh::Listed } else { Refresh::Partial };
        self.metrics.catalog.refreshed(server, outcome);
        outcome
    }

    /// Logs and counts what became of definitions.
    fn tell(&self, listed: &Listed, changes: &[DefinitionChange]) {
        let (server, metrics) = (listed.server(), &self.metrics.definitions);
        for DefinitionChange { tool, what, difference, .. } in changes.iter().take(TOLD_MAX) {
            let tool = difference::plain(tool, NAME_CHARS_MAX);
            let (change, difference) = (what.as_str(), difference.join("; "));
            match what {
                Became::Changed | Became::Withheld | Became::Refused => {
                    tracing::warn!(
                        server,
                        tool,
                        change,
                        difference,
                        "a server changed a definition"
                    );
                }
                _ => tracing::info!(server, tool, change, "a server changed what it defines"),
            }
        }
        if let Some(more) = changes.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
            tracing::warn!(server, more, "a server changed further definitions");
        }
        changes.iter().for_each(|change| metrics.changed(server, change.what.as_str()));
        metrics.show_pending(server, self.catalog.pins().of(server).pending().count());
    }

    fn fail(&self, listed: &Listed, fault: &str) {
        let server = listed.server();
        self.metrics.catalog.refreshed(server, Refresh::Failed);
        let before = Arc::clone(&listed.offer());
        let is_news = match &before.state {
            State::Stale(known) => **known != *fault,
            State::Unknown | State::Known => true,
        };
        match is_news {
            true => tracing::warn!(server, fault, "what a server offers could not be listed"),
            false => tracing::debug!(server, fault, "what a server offers could not be listed"),
        }
        let after: Offer = before.after_failure(fault);
        // It takes no more room than before.
        self.catalog.install(listed, Arc::new(after)).ok();
    }
}

fn choose(pool: &Pool, tried: &[u64]) -> Option<Arc<Endpoint>> {
    let random = fastrand::u64(..);
    pool.choose(&Wanted {
        key: &random.to_le_bytes(),
        random,
        tried,
        load: Load::Calls,
        otherwise: Otherwise::Trust,
        now_ms: now_ms(),
    })
}
