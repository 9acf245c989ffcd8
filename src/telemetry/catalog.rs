//! What metrics say of the catalogue: what servers offer, how it changes, how asking them goes.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::metrics::{counters, gauges};

/// The metrics of the catalogue.
pub struct CatalogMetrics {
    definitions: IntGaugeVec,
    age: IntGaugeVec,
    changes: IntCounterVec,
    refreshes: IntCounterVec,
    left_out: IntCounterVec,
    lists_lacking: IntCounterVec,
}

/// How asking a server went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Every list was read to its end.
    Listed,
    /// A list broke off, or was too long.
    Partial,
    /// Nothing was heard.
    Failed,
}

impl Refresh {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Listed, Self::Partial, Self::Failed];

    /// The outcome's name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

impl CatalogMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            definitions: gauges(
                registry,
                "toolgate_catalog_definitions",
                "What a server offers, by kind: tools, prompts, resources, templates.",
                &["server", "kind"],
            ),
            age: gauges(
                registry,
                "toolgate_catalog_age_seconds",
                "How long ago a server's lists were found to be as they are known.",
                &["server"],
            ),
            changes: counters(
                registry,
                "toolgate_catalog_changes_total",
                "How often a list of a server was found to have changed, by kind.",
                &["server", "kind"],
            ),
            refreshes: counters(
                registry,
                "toolgate_catalog_refreshes_total",
                "How often a server was asked what it offers, by outcome.",
                &["server", "outcome"],
            ),
            left_out: counters(
                registry,
                "toolgate_catalog_left_out_total",
                "Definitions of changed lists that were left out: malformed, or of a name that is taken.",
                &["server", "kind", "reason"],
            ),
            lists_lacking: counters(
                registry,
                "toolgate_lists_lacking_total",
                "Answers for several servers that left one of them out, or showed what was kept of it.",
                &["server", "list", "reason"],
            ),
        }
    }

    /// Shows how many definitions a list has.
    pub fn show(&self, server: &str, kind: &str, definitions: usize) {
        let definitions = i64::try_from(definitions).unwrap_or(i64::MAX);
        self.definitions.with_label_values(&[server, kind]).set(definitions);
    }

    /// Shows how old what is known of a server is.
    pub fn show_age(&self, server: &str, seconds: u64) {
        self.age.with_label_values(&[server]).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Counts a list that changed.
    pub fn changed(&self, server: &str, kind: &str) {
        self.changes.with_label_values(&[server, kind]).inc();
    }

    /// Counts a listing.
    pub fn refreshed(&self, server: &str, outcome: Refresh) {
        self.refreshes.with_label_values(&[server, outcome.as_str()]).inc();
    }

    /// Counts definitions that were left out.
    pub fn left_out(&self, server: &str, kind: &str, malformed: usize, doubled: usize) {
        for (reason, count) in LEFT_OUT.into_iter().zip([malformed, doubled]) {
            if count > 0 {
                self.left_out.with_label_values(&[server, kind, reason]).inc_by(count as u64);
            }
        }
    }

    /// Counts a list that leaves a server out, or shows what is kept of it.
    pub fn list_lacks(&self, server: &str, list: &str, reason: &str) {
        self.lists_lacking.with_label_values(&[server, list, reason]).inc();
    }

    /// Shows a server no longer.
    pub fn forget<'k>(&self, server: &str, kinds: impl Iterator<Item = &'k str>) {
        // What was never shown cannot be removed, and need not be.
        for kind in kinds {
            self.definitions.remove_label_values(&[server, kind]).ok();
            self.changes.remove_label_values(&[server, kind]).ok();
            for reason in LEFT_OUT {
                self.left_out.remove_label_values(&[server, kind, reason]).ok();
            }
        }
        for (list, reason) in LACKING {
            self.lists_lacking.remove_label_values(&[server, list, reason]).ok();
        }
        self.age.remove_label_values(&[server]).ok();
        for outcome in Refresh::ALL {
            self.refreshes.remove_label_values(&[server, outcome.as_str()]).ok();
        }
    }
}

/// How a server is named in lists, and why.
const LACKING: [(&str, &str); 10] = [
    ("kept", "down"),
    ("kept", "stale"),
    ("left_out", "down"),
    ("left_out", "era"),
    ("left_out", "not_listed"),
    ("left_out", "no_session"),
    ("left_out", "no_answer"),
    ("left_out", "error"),
    ("left_out", "unreadable"),
    ("left_out", "cursor"),
];
/// Why a definition is left out.
const LEFT_OUT: [&str; 2] = ["malformed", "duplicate"];
