//! What metrics say of the collector: how much it did not take.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::metrics::counters;

/// The metrics of what goes to a collector.
pub struct ExportMetrics {
    lost: IntCounterVec,
}

impl ExportMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            lost: counters(
                registry,
                "toolgate_otlp_lost_total",
                "Spans and points of metrics that the collector did not take in time.",
                &["signal"],
            ),
        }
    }

    /// The counter of what is lost of spans, or of metrics.
    pub fn lost(&self, signal: &str) -> IntCounter {
        self.lost.with_label_values(&[signal])
    }
}
