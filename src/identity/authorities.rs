//! Who vouches for callers beyond the configuration: issuers and what is known of them, which
//! outlives a configuration that does not change them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::introspection::Introspector;
use super::issuer::Issuer;
use super::revoked::Revoked;
use super::verified::Verified;
use crate::config;
use crate::outbound::Outbound;
use crate::telemetry::Metrics;

/// How long the start waits for keys: without them the gateway can still serve others.
const START_WAIT: Duration = Duration::from_secs(5);

/// Every issuer, and what is known of its tokens.
pub struct Authorities {
    current: ArcSwap<Known>,
    changed: Notify,
    revoked: Revoked,
    pub(super) verified: Verified,
    pub(super) outbound: Outbound,
    pub(super) metrics: Arc<Metrics>,
}

/// The issuers of one configuration.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// The issuers of signed tokens.
    pub(super) issuers: Vec<Arc<Issuer>>,
    /// Those that are asked, in order.
    pub(super) introspectors: Vec<Arc<Introspector>>,
}

impl Authorities {
    /// Nobody yet.
    pub fn new(outbound: Outbound, metrics: Arc<Metrics>) -> Self {
        Self {
            current: ArcSwap::from_pointee(Known::default()),
            changed: Notify::new(),
            revoked: Revoked::default(),
            verified: Verified::new(),
            outbound,
            metrics,
        }
    }

    /// The keys that open nothing, whatever a configuration says.
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// The issuers of a configuration: those that did not change are the same as before.
    pub(super) fn prepare(&self, settings: &config::Identity) -> Known {
        let current = self.current.load();
        let issuers = settings.jwt.iter().map(|wanted| {
            let same = current.issuers.iter().find(|issuer| issuer.settings == *wanted);
            same.map_or_else(|| Arc::new(Issuer::new(wanted.clone())), Arc::clone)
        });
        let introspectors = settings.introspection.iter().map(|wanted| {
            let same = current.introspectors.iter().find(|known| known.settings == *wanted);
            same.map_or_else(|| Arc::new(Introspector::new(wanted.clone())), Arc::clone)
        });
        Known { issuers: issuers.collect(), introspectors: introspectors.collect() }
    }

    /// Keeps the keys of these issuers, and no others, from now on.
    pub(super) fn install(&self, known: &Known) {
        self.current.store(Arc::new(known.clone()));
        self.changed.notify_one();
    }

    /// Fetches all keys once; to be called before the gateway listens. Takes a few seconds at most.
    pub async fn fetch(&self) {
        let current = self.current.load_full();
        let all =
            current.issuers.iter().map(|issuer| issuer.refresh(&self.outbound, &self.metrics));
        if timeout(START_WAIT, join_all(all)).await.is_err() {
            tracing::warn!("starting without the keys of some issuers");
        }
    }

    /// Keeps the keys of all issuers fresh until `end`.
    pub async fn keep(&self, end: impl Future<Output = ()>) {
        let keeping = async {
            loop {
                let current = self.current.load_full();
                let all =
                    current.issuers.iter().map(|issuer| issuer.keep(&self.outbound, &self.metrics));
                tokio::select! {
                    _ = join_all(all), if !current.issuers.is_empty() => {}
                    () = self.changed.notified() => {}
                }
            }
        };
        tokio::select! {
            () = end => {}
            () = keeping => {}
        }
    }
}
