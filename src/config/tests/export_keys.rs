//! The keys of `telemetry.otlp`: one row for each, with a value that is not the default, and what is refused.

use std::time::Duration;

use super::completed;
use super::keys::Row;
use crate::config::{Export, Settings, parse};

fn export(settings: &Settings) -> &Export {
    settings.telemetry.otlp.as_ref().unwrap()
}

macro_rules! with {
    ($rest:literal) => {
        concat!("telemetry: { otlp: { ", $rest, " } }\n")
    };
}

pub(super) const EXPORT: &[Row] = &[
    ("telemetry.otlp", with!("endpoint: http://a:4318"), |s| {
        *export(s)
            == Export {
                endpoint: "http://a:4318".to_owned(),
                headers: Vec::new(),
                timeout: Duration::from_secs(10),
                ca: None,
                sample: 0.01,
                metrics_interval: Duration::from_secs(60),
            }
    }),
    ("telemetry.otlp.endpoint", with!("endpoint: HTTP://A/b/"), |s| {
        export(s).endpoint == "http://a/b"
    }),
    ("telemetry.otlp.headers", with!("endpoint: http://a, headers: { X-Key: '${LONG}' }"), |s| {
        export(s).headers[0].0 == "x-key"
            && export(s).headers[0].1.expose().contains("horse")
            && !format!("{:?}", s.telemetry).contains("horse")
    }),
    ("telemetry.otlp.timeout", with!("endpoint: http://a, timeout: 3s"), |s| {
        export(s).timeout == Duration::from_secs(3)
    }),
    ("telemetry.otlp.ca", with!("endpoint: https://a, ca: tls.crt"), |s| {
        export(s).ca.as_ref().unwrap().ends_with("tls.crt")
    }),
    ("telemetry.otlp.sample", with!("endpoint: http://a, sample: 1"), |s| export(s).sample == 1.0),
    ("telemetry.otlp.metrics_interval", with!("endpoint: http://a, metrics_interval: 0s"), |s| {
        export(s).metrics_interval.is_zero()
    }),
];

#[test]
fn what_is_no_collector_is_refused() {
    let environment = |_: &str| None;
    for (text, expected) in [
        (with!("sample: 1"), "the key `endpoint` is missing"),
        (
            with!("endpoint: 'http://a/?b'"),
            "give the address of the collector only; /v1/traces and /v1/metrics are added",
        ),
        (with!("endpoint: http://a, sample: 1.5"), "this is not a fraction"),
        (with!("endpoint: http://a, sample: -0.1"), "this is not a fraction"),
        (with!("endpoint: http://a, timeout: 0s"), "a duration must be longer than nothing"),
        (with!("endpoint: http://a, headers: { 'a b': c }"), "this is not the name of a header"),
        (with!("endpoint: http://a, ca: Cargo.toml"), "this collector is spoken to without TLS"),
        (with!("endpoint: https://a, ca: nowhere.crt"), "nowhere.crt"),
    ] {
        let problems = parse(&completed(text), "t", &environment).expect_err(text).to_string();
        assert!(problems.contains(expected), "{text}: {problems}");
    }
}
