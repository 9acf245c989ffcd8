//! What metrics say of the record of what happened: written, waiting, lost.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::metrics::{counter, counters, gauge};

/// The metrics of the record.
#[derive(Clone)]
pub struct AuditMetrics {
    /// Records that wait to be written.
    pub queue: IntGauge,
    /// Calls that had to wait for room.
    pub waits: IntCounter,
    records: IntCounterVec,
    pub(super) lost: IntCounterVec,
    pub(super) write_errors: IntCounterVec,
}

impl AuditMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            queue: gauge(
                registry,
                "toolgate_audit_queue",
                "Audit records that wait to be written.",
            ),
            waits: counter(
                registry,
                "toolgate_audit_waits_total",
                "Calls that waited for room for their audit record.",
            ),
            records: counters(
                registry,
                "toolgate_audit_records_total",
                "Audit records written, by event.",
                &["event"],
            ),
            lost: counters(
                registry,
                "toolgate_audit_lost_total",
                "Audit records that are in no sink (all), or not in this one.",
                &["sink"],
            ),
            write_errors: counters(
                registry,
                "toolgate_audit_write_errors_total",
                "Failed attempts to write audit records, by sink.",
                &["sink"],
            ),
        }
    }

    /// The counter of the records of an event.
    pub fn records(&self, event: &str) -> IntCounter {
        self.records.with_label_values(&[event])
    }

    /// The counter of the records that a sink lost; `all` stands for all of them.
    pub fn lost(&self, sink: &str) -> IntCounter {
        self.lost.with_label_values(&[sink])
    }

    /// The counter of a sink's failed attempts.
    pub fn write_errors(&self, sink: &str) -> IntCounter {
        self.write_errors.with_label_values(&[sink])
    }
}
