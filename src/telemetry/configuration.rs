//! What metrics say of the configuration: which one is in force, and how it came to be.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::instance;
use super::metrics::{counters, gauge, gauges};

/// Which configuration is in force, and how it came to be.
pub(super) struct Configuration {
    reloads: IntCounterVec,
    hash: IntGauge,
    since: IntGauge,
}

impl Configuration {
    pub(super) fn new(registry: &Registry) -> Self {
        let replica = gauges(
            registry,
            "toolgate_replica_info",
            "Which replica of the gateway this is: machine and process, as in the record.",
            &["replica", "version"],
        );
        replica.with_label_values(&[instance().as_str(), env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            reloads: counters(
                registry,
                "toolgate_reloads_total",
                "Readings of the configuration while running, by outcome.",
                &["outcome"],
            ),
            hash: gauge(
                registry,
                "toolgate_config_hash",
                "The start of the digest of the configuration in force, as a number.",
            ),
            since: gauge(
                registry,
                "toolgate_config_reloaded_timestamp_seconds",
                "When the configuration in force took effect.",
            ),
        }
    }

    pub(super) fn reloaded(&self, outcome: &str) {
        self.reloads.with_label_values(&[outcome]).inc();
    }

    pub(super) fn configured(&self, digest: [u8; 32], at: SystemTime) {
        // Six bytes are a number that every reader of metrics holds exactly.
        let hash = digest[..6].iter().fold(0, |hash, byte| hash << 8 | i64::from(*byte));
        self.hash.set(hash);
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.since.set(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    }
}
