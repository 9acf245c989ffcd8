//! What metrics say of the certificates that connections are secured with: when they end.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use prometheus::{IntGaugeVec, Registry};

use super::metrics::gauges;

/// Which certificates, as labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateShown {
    /// What for: listener, client_ca or server_ca.
    pub used_as: &'static str,
    /// The address of the listener, or the name of the server.
    pub by: String,
    /// The file they are in.
    pub file: String,
}

/// The metrics of certificates.
pub(super) struct CertificateMetrics {
    not_after: IntGaugeVec,
    shown: Mutex<BTreeSet<CertificateShown>>,
}

impl CertificateMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            not_after: gauges(
                registry,
                "toolgate_tls_certificate_not_after_seconds",
                "When a certificate in force ends, in seconds since 1970.",
                &["used_as", "by", "file"],
            ),
            shown: Mutex::default(),
        }
    }

    /// These are in force now, and no others.
    pub(super) fn show(&self, ends: Vec<(CertificateShown, i64)>) {
        let mut shown = self.shown.lock();
        let labels = |of: &CertificateShown| [of.used_as, &of.by, &of.file].map(str::to_owned);
        for (of, not_after_s) in &ends {
            self.not_after.with_label_values(&labels(of)).set(*not_after_s);
        }
        let now: BTreeSet<_> = ends.into_iter().map(|(of, _)| of).collect();
        for gone in shown.difference(&now) {
            // It was set above once, so that there is nothing that could fail.
            drop(self.not_after.remove_label_values(&labels(gone)));
        }
        *shown = now;
    }
}
