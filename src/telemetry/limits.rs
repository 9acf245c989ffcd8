//! What metrics say of limits: what they refused, what they let wait, and how many keys they count.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::metrics::{counters, gauges};

/// The metrics of all limits.
pub struct LimitMetrics {
    pub(super) limited: IntCounterVec,
    pub(super) waits: IntCounterVec,
    pub(super) keys: IntGaugeVec,
    pub(super) keys_full: IntCounterVec,
}

/// The handles of one limit.
#[derive(Clone, Debug)]
pub struct LimitCounters {
    /// Refused because too many came in a time.
    pub rate: IntCounter,
    /// Refused because too many were in flight.
    pub in_flight: IntCounter,
    /// Refused because too many streams were open.
    pub streams: IntCounter,
    /// Refused because there was no room to count one more key.
    pub keys_full: IntCounter,
    /// Waited for their turn.
    pub waits: IntCounter,
    /// Keys that are counted now.
    pub keys: IntGauge,
}

impl LimitMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            limited: counters(
                registry,
                "toolgate_limited_total",
                "Requests refused by a limit, by what was used up.",
                &["limit", "why"],
            ),
            waits: counters(
                registry,
                "toolgate_limit_waits_total",
                "Requests that waited for their turn at a limit.",
                &["limit"],
            ),
            keys: gauges(
                registry,
                "toolgate_limit_keys",
                "Keys that a limit counts apart now.",
                &["limit"],
            ),
            keys_full: counters(
                registry,
                "toolgate_limit_keys_full_total",
                "Requests refused because a limit had no room for one more key.",
                &["limit"],
            ),
        }
    }

    /// The handles of one limit.
    pub fn limit(&self, name: &str) -> LimitCounters {
        LimitCounters {
            rate: self.limited.with_label_values(&[name, "rate"]),
            in_flight: self.limited.with_label_values(&[name, "in_flight"]),
            streams: self.limited.with_label_values(&[name, "streams"]),
            keys_full: self.keys_full.with_label_values(&[name]),
            waits: self.waits.with_label_values(&[name]),
            keys: self.keys.with_label_values(&[name]),
        }
    }

    /// Counts the requests that one listener refuses by their address.
    pub fn address(&self) -> IntCounter {
        self.limited.with_label_values(&["requests_per_address", "address"])
    }
}
