//! What an exchange says of its endpoint: metrics, and the ejection that may follow.

use super::Shared;
use crate::telemetry::Reason;
use crate::upstream::{Ejected, Endpoint, Pool, now_ms};

impl Shared {
    /// The endpoint answered. What a gateway in front of it says when it is down counts against it.
    pub(super) fn endpoint_answered(&self, pool: &Pool, endpoint: &Endpoint, status: u16) {
        match status {
            502..=504 => self.note_ejection(pool, endpoint, pool.failed(endpoint, now_ms())),
            _ => pool.answered(endpoint, now_ms()),
        }
    }

    /// The exchange failed by the endpoint's fault.
    pub(super) fn endpoint_failed(&self, pool: &Pool, endpoint: &Endpoint, reason: Reason) {
        self.lasting.metrics.upstream_failed(pool.name(), endpoint.url(), reason);
        self.note_ejection(pool, endpoint, pool.failed(endpoint, now_ms()));
    }

    /// The endpoint could not be connected to.
    pub(super) fn endpoint_refused(&self, pool: &Pool, endpoint: &Endpoint, reason: Reason) {
        self.lasting.metrics.upstream_failed(pool.name(), endpoint.url(), reason);
        self.note_ejection(pool, endpoint, pool.refused(endpoint, now_ms()));
    }

    fn note_ejection(&self, pool: &Pool, endpoint: &Endpoint, ejected: Option<Ejected>) {
        if let Some(Ejected { fault, pause }) = ejected {
            self.lasting.metrics.ejected(pool.name(), endpoint.url(), fault.as_str());
            tracing::warn!(
                server = pool.name(),
                endpoint = endpoint.url(),
                reason = fault.as_str(),
                pause_s = pause.as_secs(),
                "endpoint ejected"
            );
        }
    }
}
