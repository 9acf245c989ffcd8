//! What metrics say of the credentials that servers get: asked for, given, denied.

use prometheus::{IntCounterVec, Registry};

use super::metrics::counters;

/// The metrics of servers' credentials.
pub struct CredentialMetrics {
    requests: IntCounterVec,
}

impl CredentialMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            requests: counters(
                registry,
                "toolgate_credential_requests_total",
                "Credentials for servers that the gateway asked for, by outcome.",
                &["server", "outcome"],
            ),
        }
    }

    /// Counts what was asked for since the last time.
    pub fn count(&self, server: &str, issued: u64, denied: u64) {
        for (outcome, count) in [("issued", issued), ("denied", denied)] {
            if count > 0 {
                self.requests.with_label_values(&[server, outcome]).inc_by(count);
            }
        }
    }
}
