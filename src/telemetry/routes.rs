//! What metrics say of a route, whoever calls what on it.

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::metrics::{counters, gauges, histograms};

/// Bounds of the gateway's own time in seconds.
const OVERHEAD_BUCKETS: &[f64] =
    &[0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1];

/// The handles of one route.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    /// Requests being served.
    pub in_flight: IntGauge,
    /// Body bytes from clients.
    pub bytes_in: IntCounter,
    /// Body bytes to clients.
    pub bytes_out: IntCounter,
    /// Seconds spent in the gateway itself.
    pub overhead: Histogram,
}

/// The metrics of all routes.
pub(super) struct RouteFamilies {
    pub(super) overheads: HistogramVec,
    pub(super) in_flight: IntGaugeVec,
    pub(super) bytes: IntCounterVec,
}

impl RouteFamilies {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            overheads: histograms(
                registry,
                "toolgate_overhead_seconds",
                "Time spent in the gateway itself, without waiting for client or server.",
                &["route"],
                OVERHEAD_BUCKETS,
            ),
            in_flight: gauges(
                registry,
                "toolgate_requests_in_flight",
                "Requests being served now.",
                &["route"],
            ),
            bytes: counters(
                registry,
                "toolgate_body_bytes_total",
                "Body bytes from clients (in) and to clients (out).",
                &["route", "direction"],
            ),
        }
    }

    /// The handles of the route at this path.
    pub(super) fn of(&self, path: &str) -> RouteMetrics {
        RouteMetrics {
            in_flight: self.in_flight.with_label_values(&[path]),
            bytes_in: self.bytes.with_label_values(&[path, "in"]),
            bytes_out: self.bytes.with_label_values(&[path, "out"]),
            overhead: self.overheads.with_label_values(&[path]),
        }
    }
}
