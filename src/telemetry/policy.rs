//! What metrics say of the policy: what it refused, what rules in shadow would have done, and what combination rules remember.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::Reason;
use super::metrics::{counter, counters, gauge};

/// The metrics of the policy.
pub struct PolicyMetrics {
    pub(super) denials: IntCounterVec,
    pub(super) shadow: IntCounterVec,
    /// Uses that combination rules remember now.
    pub marks: IntGauge,
    /// Calls refused because one more use could not be remembered.
    pub marks_full: IntCounter,
}

impl PolicyMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            denials: counters(
                registry,
                "toolgate_policy_denials_total",
                "Requests that the policy refused, by the rule that decided and by reason.",
                &["rule", "reason"],
            ),
            shadow: counters(
                registry,
                "toolgate_policy_shadow_total",
                "Requests that a rule in shadow mode would have decided otherwise, by rule.",
                &["rule", "outcome"],
            ),
            marks: gauge(
                registry,
                "toolgate_policy_marks",
                "Uses of labelled tools that combination rules remember now.",
            ),
            marks_full: counter(
                registry,
                "toolgate_policy_marks_full_total",
                "Calls refused because one more use could not be remembered.",
            ),
        }
    }

    /// Counts a request that the policy refused; the rule is empty where no rule allows it.
    pub fn denied(&self, rule: &str, reason: Reason) {
        self.denials.with_label_values(&[rule, reason.as_str()]).inc();
    }

    /// Counts a request that a rule in shadow mode would have decided otherwise; the rule is empty
    /// where no rule would have allowed it.
    pub fn shadowed(&self, rule: &str, outcome: &str) {
        self.shadow.with_label_values(&[rule, outcome]).inc();
    }
}
