//! What metrics say of the definitions that servers change, and of names that are alike.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counter, counters, gauges};

/// The metrics of definitions.
pub struct DefinitionMetrics {
    changes: IntCounterVec,
    pending: IntGaugeVec,
    alike: IntGaugeVec,
    /// How often what was shown could not be written down.
    pub write_failures: IntCounter,
}

impl DefinitionMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            changes: counters(
                registry,
                "toolgate_definitions_changes_total",
                "What became of definitions of tools that were shown.",
                &["server", "change"],
            ),
            pending: gauges(
                registry,
                "toolgate_definitions_pending",
                "Definitions of tools that wait for an operator to approve them.",
                &["server"],
            ),
            alike: gauges(
                registry,
                "toolgate_definitions_alike",
                "Tools whose name could be taken for another one's.",
                &["server", "how"],
            ),
            write_failures: counter(
                registry,
                "toolgate_definitions_write_failures_total",
                "How often the definitions that were shown could not be written to state_dir.",
            ),
        }
    }

    /// Counts a change.
    pub fn changed(&self, server: &str, change: &str) {
        self.changes.with_label_values(&[server, change]).inc();
    }

    /// Shows how many definitions wait.
    pub fn show_pending(&self, server: &str, pending: usize) {
        let pending = i64::try_from(pending).unwrap_or(i64::MAX);
        self.pending.with_label_values(&[server]).set(pending);
    }

    /// Shows how many names of a server are like another one's.
    pub fn show_alike(&self, server: &str, how: &str, tools: usize) {
        let tools = i64::try_from(tools).unwrap_or(i64::MAX);
        self.alike.with_label_values(&[server, how]).set(tools);
    }

    /// Shows a server no longer.
    pub fn forget<'k>(
        &self,
        server: &str,
        changes: impl Iterator<Item = &'k str>,
        hows: impl Iterator<Item = &'k str>,
    ) {
        // What was never shown cannot be removed, and need not be.
        for change in changes {
            self.changes.remove_label_values(&[server, change]).ok();
        }
        for how in hows {
            self.alike.remove_label_values(&[server, how]).ok();
        }
        self.pending.remove_label_values(&[server]).ok();
    }
}
