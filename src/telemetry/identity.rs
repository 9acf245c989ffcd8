//! What metrics say of those who issue keys and tokens: whether they answer.

use prometheus::{IntCounterVec, Registry};

use super::metrics::counters;

/// The metrics of issuers.
pub struct IdentityMetrics {
    fetches: IntCounterVec,
    introspections: IntCounterVec,
}

impl IdentityMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            fetches: counters(
                registry,
                "toolgate_identity_key_fetches_total",
                "Fetches of an issuer's keys, by result: ok or failed.",
                &["issuer", "result"],
            ),
            introspections: counters(
                registry,
                "toolgate_identity_introspections_total",
                "Questions to an issuer about a token, by result: active, inactive or unavailable.",
                &["issuer", "result"],
            ),
        }
    }

    /// Counts a fetch of keys.
    pub fn fetched(&self, issuer: &str, result: &str) {
        self.fetches.with_label_values(&[issuer, result]).inc();
    }

    /// Counts a question about a token.
    pub fn introspected(&self, issuer: &str, result: &str) {
        self.introspections.with_label_values(&[issuer, result]).inc();
    }
}
