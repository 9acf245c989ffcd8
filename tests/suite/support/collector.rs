//! A stand-in for a collector of OpenTelemetry: it reads what arrives with the types that OpenTelemetry publishes.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;

use super::client::DEADLINE;
use super::upstream::{Request, Step, Upstream, plain};

/// A collector that keeps what it gets.
pub(crate) struct Collector {
    http: Upstream,
    requests: Mutex<Vec<Request>>,
}

impl Collector {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        Self::scripted(|_| vec![plain(200, "", b"")]).await
    }

    /// One that answers like this.
    pub(crate) async fn scripted(
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self { http: Upstream::start(script).await, requests: Mutex::new(Vec::new()) }
    }

    /// The configuration of a gateway that sends to it.
    pub(crate) fn section(&self, more: &str) -> String {
        let address = self.http.address;
        format!("telemetry: {{ otlp: {{ endpoint: 'http://{address}/in/', {more} }} }}\n")
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let mut requests = self.requests.lock();
        requests.extend(self.http.take());
        requests.clone()
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests =
            self.requests().into_iter().filter(|request| request.path == "/in/v1/traces");
        let decoded = requests.map(|request| {
            ExportTraceServiceRequest::decode(&*request.body).expect("a request for traces")
        });
        let mut spans = Vec::new();
        for resource in decoded.flat_map(|request| request.resource_spans) {
            let said = resource.resource.expect("a resource").attributes;
            assert_eq!(text(&said, "service.name"), "toolgate");
            assert_eq!(text(&said, "service.version"), env!("CARGO_PKG_VERSION"));
            assert!(text(&said, "service.instance.id").contains('/'), "{said:?}");
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        spans
    }

    /// Waits until there are this many spans, and takes a moment for more to come.
    pub(crate) async fn spans_of(&self, count: usize) -> Vec<Span> {
        self.wait(|| self.spans().len() >= count, &format!("{count} spans")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let spans = self.spans();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }

    /// The metrics of the last request for them.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let requests = self.requests();
        let last = requests.iter().rfind(|request| request.path == "/in/v1/metrics");
        let Some(last) = last else { return Vec::new() };
        let request =
            ExportMetricsServiceRequest::decode(&*last.body).expect("a request for metrics");
        let scopes = request.resource_metrics.into_iter().flat_map(|all| all.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect()
    }

    /// Waits until this holds.
    pub(crate) async fn wait(&self, holds: impl Fn() -> bool, what: &str) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < DEADLINE, "no {what} in {:#?}", self.spans());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The text or the number of an attribute; nothing if it is not there.
pub(crate) fn text(attributes: &[KeyValue], key: &str) -> String {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next().and_then(|attribute| attribute.value.clone()?.value);
    assert!(found.next().is_none(), "{key} twice in {attributes:?}");
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        None => String::new(),
        other => panic!("{other:?}"),
    }
}
