//! What the registry holds, as OTLP writes it: one registry feeds Prometheus and the collector.

use std::time::SystemTime;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::span::nanoseconds;
use super::wire::{self, Value};
use crate::telemetry::operations::{conventional, conventional_label};

/// Counts since the process began.
const CUMULATIVE: u64 = 2;

/// Writes every family, as `ScopeMetrics` holds them; how many points they have.
pub(super) fn write(
    out: &mut Vec<u8>,
    families: &[MetricFamily],
    started: SystemTime,
    now: SystemTime,
) -> u64 {
    let times = (nanoseconds(started), nanoseconds(now));
    let mut points = 0;
    for family in families {
        points += family.get_metric().len() as u64;
        wire::message(out, 2, |out| write_family(out, family, times));
    }
    points
}

fn write_family(out: &mut Vec<u8>, family: &MetricFamily, times: (u64, u64)) {
    let name = family.name();
    let (name, unit, called): (_, _, fn(&str) -> &str) = match conventional(name) {
        Some(conventional) => (conventional, "s", conventional_label),
        None => (name, unit(name), |label| label),
    };
    wire::text(out, 1, name);
    wire::text(out, 2, family.help());
    wire::text(out, 3, unit);
    let metrics = family.get_metric();
    match family.get_field_type() {
        MetricType::COUNTER => wire::message(out, 7, |out| {
            for metric in metrics {
                write_number(out, metric, times, metric.get_counter().get_value());
            }
            wire::number(out, 2, CUMULATIVE);
            wire::number(out, 3, 1);
        }),
        MetricType::HISTOGRAM => wire::message(out, 9, |out| {
            for metric in metrics {
                write_histogram(out, metric, times, called);
            }
            wire::number(out, 2, CUMULATIVE);
        }),
        // The gateway has no others than gauges.
        _ => wire::message(out, 5, |out| {
            for metric in metrics {
                write_number(out, metric, times, metric.get_gauge().get_value());
            }
        }),
    }
}

fn write_number(out: &mut Vec<u8>, metric: &Metric, (started, now): (u64, u64), value: f64) {
    wire::message(out, 1, |out| {
        wire::fixed64(out, 2, started);
        wire::fixed64(out, 3, now);
        wire::double(out, 4, value);
        write_labels(out, 7, metric.get_label(), |label| label);
    });
}

fn write_histogram(
    out: &mut Vec<u8>,
    metric: &Metric,
    (started, now): (u64, u64),
    called: fn(&str) -> &str,
) {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    // Prometheus has a bucket hold those before it too, and may or may not name the last one.
    let buckets: Vec<(f64, u64)> = histogram
        .get_bucket()
        .iter()
        .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
        .filter(|(bound, _)| bound.is_finite())
        .collect();
    wire::message(out, 1, |out| {
        wire::fixed64(out, 2, started);
        wire::fixed64(out, 3, now);
        wire::fixed64(out, 4, count);
        wire::double(out, 5, histogram.get_sample_sum());
        wire::message(out, 6, |out| {
            let mut before = 0;
            // Buckets are read one after the other while calls are counted.
            for cumulative in buckets.iter().map(|(_, count)| *count).chain([count]) {
                out.extend_from_slice(&cumulative.saturating_sub(before).to_le_bytes());
                before = before.max(cumulative);
            }
        });
        wire::message(out, 7, |out| {
            for (bound, _) in &buckets {
                out.extend_from_slice(&bound.to_le_bytes());
            }
        });
        write_labels(out, 9, metric.get_label(), called);
    });
}

fn write_labels(out: &mut Vec<u8>, field: u32, labels: &[LabelPair], called: fn(&str) -> &str) {
    for label in labels {
        wire::attribute(out, field, called(label.name()), Value::Text(label.value()));
    }
}

/// What the last part of a name says it is counted in.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{unit, write};
    use crate::telemetry::{Labels, Metrics, Operation, Outcome};
    use opentelemetry_proto::tonic::metrics::v1::metric::Data as Points;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    use opentelemetry_proto::tonic::metrics::v1::{Metric, ScopeMetrics};
    use prost::Message as _;
    use std::time::{Duration, UNIX_EPOCH};

    fn gathered(metrics: &Metrics) -> Vec<Metric> {
        let mut out = Vec::new();
        let (started, now) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(1));
        let points = write(&mut out, &metrics.gather(), started, now);
        let scope = ScopeMetrics::decode(&*out).expect("protobuf");
        let count = |metric: &Metric| match metric.data.as_ref().expect("points") {
            Points::Gauge(gauge) => gauge.data_points.len(),
            Points::Sum(sum) => sum.data_points.len(),
            Points::Histogram(histogram) => histogram.data_points.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(scope.metrics.iter().map(count).sum::<usize>() as u64, points);
        scope.metrics
    }

    #[test]
    fn every_family_is_what_it_was() {
        let metrics = Metrics::new(10, 10).with_operations();
        let labels = Labels {
            route: "/mcp",
            server: "files",
            method: "tools/call",
            caller: "ann",
            tool: "read",
        };
        metrics.count(labels, Outcome::Ok, 0.03, true);
        let operation = Operation {
            outcome: Outcome::Ok,
            code: None,
            seconds: 0.03,
            asked_seconds: Some(0.015),
        };
        metrics.operated(labels, &operation);
        metrics.connections.set(3);
        let all = gathered(&metrics);
        let find = |name: &str| all.iter().find(|metric| metric.name == name).expect("a metric");
        let Some(Points::Sum(sum)) = &find("toolgate_requests_total").data else { panic!("a sum") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        let one = sum.data_points.iter().find(|point| point.value == Some(Value::AsDouble(1.0)));
        let one = one.expect("the call");
        assert_eq!((one.start_time_unix_nano, one.time_unix_nano), (0, 1_000_000_000));
        assert!(one.attributes.iter().any(|attribute| attribute.key == "tool"));
        let Some(Points::Gauge(gauge)) = &find("toolgate_connections_open").data else {
            panic!("a gauge")
        };
        assert_eq!(gauge.data_points[0].value, Some(Value::AsDouble(3.0)));
        for (name, sum, bucket) in [
            ("mcp.server.operation.duration", 0.03, 2),
            ("mcp.client.operation.duration", 0.015, 1),
        ] {
            let metric = find(name);
            let Some(Points::Histogram(histogram)) = &metric.data else { panic!("a histogram") };
            assert_eq!((metric.unit.as_str(), histogram.aggregation_temporality), ("s", 2));
            let point = &histogram.data_points[0];
            assert_eq!((point.count, point.sum), (1, Some(sum)));
            assert_eq!(point.explicit_bounds.len(), 14);
            let mut buckets = [0; 15];
            buckets[bucket] = 1;
            assert_eq!(point.bucket_counts, buckets);
            let keys: Vec<_> = point.attributes.iter().map(|it| it.key.as_str()).collect();
            let expected =
                ["gen_ai.operation.name", "gen_ai.tool.name", "mcp.method.name", "toolgate.server"];
            assert_eq!(keys, expected);
        }
    }

    #[test]
    fn units_are_in_names() {
        assert_eq!(unit("toolgate_overhead_seconds"), "s");
        assert_eq!(unit("toolgate_body_bytes_total"), "By");
        assert_eq!(unit("toolgate_requests_total"), "");
    }
}
