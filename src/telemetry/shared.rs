//! What metrics say of the store that replicas share.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::metrics::{counter, counters, gauge};

/// The metrics of the shared store.
#[derive(Clone)]
pub struct SharedMetrics {
    /// Whether it can be asked.
    pub up: IntGauge,
    /// Replicas that use it.
    pub replicas: IntGauge,
    /// Values in it that this gateway cannot read.
    pub unreadable: IntCounter,
    pub(super) requests: IntCounterVec,
    pub(super) fallbacks: IntCounterVec,
}

impl SharedMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            up: gauge(registry, "toolgate_shared_up", "1 while the shared store can be asked."),
            replicas: gauge(
                registry,
                "toolgate_shared_replicas",
                "Replicas of the gateway that use the shared store, as last heard.",
            ),
            unreadable: counter(
                registry,
                "toolgate_shared_unreadable_total",
                "Values in the shared store that others wrote or that were changed there.",
            ),
            requests: counters(
                registry,
                "toolgate_shared_requests_total",
                "Requests to the shared store, by what they are about and how they ended.",
                &["what", "outcome"],
            ),
            fallbacks: counters(
                registry,
                "toolgate_shared_fallbacks_total",
                "Decisions that a replica made by itself because the shared store was away or late.",
                &["what"],
            ),
        }
    }

    /// Counts a request.
    pub fn asked(&self, what: &str, outcome: &str) {
        self.requests.with_label_values(&[what, outcome]).inc();
    }

    /// Counts what a replica decided by itself, because the store was away.
    pub fn fallbacks(&self, what: &str) -> IntCounter {
        self.fallbacks.with_label_values(&[what])
    }
}
