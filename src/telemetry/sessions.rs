//! What metrics say of legacy sessions: opened, in use, moved, abandoned.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::metrics::{counter, counters, gauge};

/// The metrics of legacy sessions.
pub struct SessionMetrics {
    /// Opened by clients.
    pub opened: IntCounter,
    /// Used lately.
    pub tracked: IntGauge,
    /// Not used for too long.
    pub abandoned: IntCounter,
    /// Ended at their servers by the gateway.
    pub reaped: IntCounter,
    pub(super) moved: IntCounterVec,
}

impl SessionMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            opened: counter(registry, "toolgate_sessions_opened_total", "Legacy sessions opened."),
            tracked: gauge(
                registry,
                "toolgate_sessions_tracked",
                "Legacy sessions that were used lately.",
            ),
            abandoned: counter(
                registry,
                "toolgate_sessions_abandoned_total",
                "Legacy sessions that nobody used for too long.",
            ),
            reaped: counter(
                registry,
                "toolgate_sessions_reaped_total",
                "Legacy sessions that the gateway ended at their servers.",
            ),
            moved: counters(
                registry,
                "toolgate_sessions_moved_total",
                "Legacy sessions moved to another endpoint, by reason.",
                &["server", "reason"],
            ),
        }
    }

    /// Counts one session that moved.
    pub fn moved(&self, server: &str, reason: &str) {
        self.moved.with_label_values(&[server, reason]).inc();
    }
}
