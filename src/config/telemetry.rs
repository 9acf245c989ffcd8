//! What the gateway tells about itself: `telemetry`.

use serde_json::Value;

use super::reading::Fault;
use super::scalars::{Count, choice_schema, parse_choice};
use super::shape::{Scalar, shape};

/// Logs and the bounds of metric labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// How each request is logged on standard output.
    pub requests: RequestLog,
    /// Callers that metrics tell apart; the rest is `other`.
    pub callers_max: usize,
    /// Tools that metrics tell apart; the rest is `other`.
    pub tools_max: usize,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { requests: RequestLog::default(), callers_max: 1000, tools_max: 1000 }
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

impl TelemetryText {
    pub(super) fn check(self) -> Telemetry {
        let Self { requests, labels } = self;
        let default = Telemetry::default();
        let (callers_max, tools_max) = labels.value().map_or((None, None), |labels| {
            let LabelsText { callers_max, tools_max } = labels;
            (callers_max.value(), tools_max.value())
        });
        Telemetry {
            requests: requests.or(default.requests),
            callers_max: callers_max.map_or(default.callers_max, Count::size),
            tools_max: tools_max.map_or(default.tools_max, Count::size),
        }
    }
}
