//! What the gateway tells about itself: `telemetry`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::collector;
use super::reading::{Fault, Reading};
use super::scalars::{Count, DurationOrZero, Fraction, choice_schema, parse_choice};
use super::secret::Secret;
use super::shape::{Entries, Scalar, shape};
use super::url::Url;

/// Of all traces that begin here, one in a hundred says how calls go; those who want more ask for it.
const SAMPLE: f64 = 0.01;
const METRICS_INTERVAL: Duration = Duration::from_secs(60);

/// Logs, the bounds of metric labels, and what goes to a collector.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// How each request is logged on standard output.
    pub requests: RequestLog,
    /// Callers that metrics tell apart; the rest is `other`.
    pub callers_max: usize,
    /// Tools that metrics tell apart; the rest is `other`.
    pub tools_max: usize,
    /// Where traces and metrics go besides.
    pub otlp: Option<Export>,
}

/// A collector of OpenTelemetry that takes traces and metrics over HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// Its address, to which `/v1/traces` and `/v1/metrics` are added.
    pub endpoint: String,
    /// Headers that are sent to it, by name.
    pub headers: Vec<(String, Secret)>,
    /// After this time without an answer a request has failed.
    pub timeout: Duration,
    /// Who signs its certificate, besides the authorities of the system.
    pub ca: Option<PathBuf>,
    /// The fraction of the traces that begin here which are kept.
    pub sample: f64,
    /// How often all metrics are sent; zero means never.
    pub metrics_interval: Duration,
}

impl Default for Telemetry {
    fn default() -> Self {
        let requests = RequestLog::default();
        Self { requests, callers_max: 1000, tools_max: 1000, otlp: None }
    }
}

/// How each request is logged on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestLog {
    /// As one JSON object a line, for machines.
    #[default]
    Json,
    /// As one short line, for people.
    Text,
    /// Not at all.
    Off,
}

shape! {
    /// What the gateway tells about itself.
    TelemetryText {
        /// One line per request on standard output: json, text or off.
        optional requests: RequestLog,
        /// How many values a metric label may have before the rest is counted as other.
        optional labels: LabelsText,
        /// A collector of OpenTelemetry that gets traces and metrics over HTTP (Protocol Buffers).
        optional otlp: ExportText,
    }
}

shape! {
    /// A collector of OpenTelemetry that gets traces and metrics over HTTP (Protocol Buffers).
    ExportText {
        /// Its URL, to which /v1/traces and /v1/metrics are added.
        required endpoint: Url,
        /// Headers that are sent to it, by name; their values are secrets.
        optional headers: Entries<Secret>,
        /// After this time without an answer a request has failed.
        optional timeout: Duration,
        /// Who signs the certificate of the collector, in PEM, besides the authorities of the system.
        optional ca: PathBuf,
        /// The fraction of traces that is kept, where no client has decided it: 0 to 1.
        optional sample: Fraction,
        /// How often all metrics are sent; 0s never.
        optional metrics_interval: DurationOrZero,
    }
}

shape! {
    /// How many values a metric label may have before the rest is counted as other.
    LabelsText {
        /// Callers that metrics tell apart.
        optional callers_max: Count,
        /// Tools that metrics tell apart.
        optional tools_max: Count,
    }
}

impl Scalar for RequestLog {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, REQUEST_LOGS)
    }

    fn schema() -> Value {
        choice_schema(REQUEST_LOGS)
    }
}

const REQUEST_LOGS: &[(&str, RequestLog)] =
    &[("json", RequestLog::Json), ("text", RequestLog::Text), ("off", RequestLog::Off)];

/// What is told, whether the section is there or not.
pub(super) fn check(section: Option<TelemetryText>, reading: &mut Reading<'_>) -> Telemetry {
    section.map_or_else(Telemetry::default, |section| section.check(reading))
}

impl TelemetryText {
    fn check(self, reading: &mut Reading<'_>) -> Telemetry {
        let Self { requests, labels, otlp } = self;
        let default = Telemetry::default();
        let (callers_max, tools_max) = labels.value().map_or((None, None), |labels| {
            let LabelsText { callers_max, tools_max } = labels;
            (callers_max.value(), tools_max.value())
        });
        Telemetry {
            requests: requests.or(default.requests),
            callers_max: callers_max.map_or(default.callers_max, Count::size),
            tools_max: tools_max.map_or(default.tools_max, Count::size),
            otlp: otlp.value().and_then(|otlp| otlp.check(reading)),
        }
    }
}

impl ExportText {
    fn check(self, reading: &mut Reading<'_>) -> Option<Export> {
        let Self { endpoint, headers, timeout, ca, sample, metrics_interval } = self;
        let headers = collector::headers(headers, reading);
        let ca = ca.given().map(|ca| (ca.head, reading.existing_file(ca.place, &ca.value)));
        let endpoint = collector::endpoint(endpoint, "/v1/traces and /v1/metrics are", reading)?;
        if let Some((head, _)) = ca.as_ref().filter(|_| endpoint.starts_with("http:")) {
            reading.problem(*head, "this collector is spoken to without TLS", "write https://");
        }
        Some(Export {
            endpoint,
            headers,
            timeout: collector::timeout(timeout),
            ca: ca.map(|(_, ca)| ca),
            sample: sample.or(Fraction(SAMPLE)).0,
            metrics_interval: metrics_interval.or(DurationOrZero(METRICS_INTERVAL)).0,
        })
    }
}
