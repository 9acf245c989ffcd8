//! Every metric name of the gateway, and handles that are resolved once so that a request only adds.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::calls::{CallDetail, CallMetrics, Details};
use super::certificates::{CertificateMetrics, CertificateShown};
use super::configuration::Configuration;
use super::labels::{Key, Labels};
use super::live::Folded;
use super::operations::{Operation, OperationMetrics, Operations};
use super::routes::RouteFamilies;
use super::{
    AuditMetrics, CatalogMetrics, CredentialMetrics, DefinitionMetrics, EndpointMetrics,
    ExportMetrics, IdentityMetrics, LimitMetrics, PolicyMetrics, Reason, RouteMetrics,
    SessionMetrics, SharedMetrics,
};
use crate::mcp::well_known;

/// The label value that stands for every name beyond the cap, and for names no server confirmed.
pub(super) const OTHER: &str = "other";
/// Methods that are told apart: those of the specification and a few of extensions.
const METHODS_MAX: usize = 100;
/// More series than this and new combinations of names count under the caller [`OTHER`], though each
/// name may be a label; more than twice as many, and under the tool of that name too.
pub(super) const SERIES_MAX: usize = 10_000;
/// Bounds of durations in seconds, those of the OpenTelemetry MCP conventions with finer low ones.
const DURATION_BUCKETS: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// The handles of one combination of labels.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) outcomes: [IntCounter; Outcome::ALL.len()],
    duration: Histogram,
    pub(super) details: Details,
    operations: OnceLock<Box<Operations>>,
}

/// How a request ended, as operators count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered with success.
    Ok,
    /// The gateway said no.
    Refused,
    /// A tool ran and says that it failed.
    ToolError,
    /// The server answered with a JSON-RPC error, under a status of success.
    RpcError,
    /// The server answered with an HTTP error.
    ServerError,
    /// The server's answer ended without one to the request.
    Unanswered,
    /// The gateway or the server failed.
    Failed,
    /// The client left first.
    Cancelled,
}

/// The registry of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    pub(super) durations: HistogramVec,
    pub(super) routes: RouteFamilies,
    pub(super) refusals: IntCounterVec,
    by_reason: Vec<IntCounter>,
    pub(super) upstream_errors: IntCounterVec,
    /// Client connections open now.
    pub connections: IntGauge,
    /// Long-lived streams open now.
    pub streams: IntGauge,
    pub(super) ejections: IntCounterVec,
    calls: CallMetrics,
    /// Issuers of keys and tokens.
    pub identity: IdentityMetrics,
    /// Legacy sessions.
    pub sessions: SessionMetrics,
    /// The store that replicas share.
    pub shared: SharedMetrics,
    /// The record of what happened.
    pub audit: AuditMetrics,
    /// Credentials of servers.
    pub credentials: CredentialMetrics,
    /// Lines of the request log that found no room.
    pub log_lines_lost: IntCounter,
    /// What servers offer.
    pub catalog: CatalogMetrics,
    /// Those of definitions that servers change.
    pub definitions: DefinitionMetrics,
    /// Endpoints, and what finds them.
    pub endpoints: EndpointMetrics,
    /// The policy: rules in shadow, and what combinations remember.
    pub policy: PolicyMetrics,
    /// Limits: what they refused, and how many keys they count.
    pub limits: LimitMetrics,
    /// What goes to a collector.
    pub otlp: ExportMetrics,
    operations: Option<OperationMetrics>,
    configuration: Configuration,
    certificates: CertificateMetrics,
    pub(super) series: papaya::HashMap<Key, Arc<Series>>,
    pub(super) folded: Folded,
    names: Mutex<Names>,
    callers_max: usize,
    tools_max: usize,
}

#[derive(Default)]
struct Names {
    callers: HashSet<Box<str>>,
    tools: HashSet<Box<str>>,
    methods: HashSet<Box<str>>,
}

impl Outcome {
    /// Every outcome, in the order in which they are counted.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Refused,
        Self::ToolError,
        Self::RpcError,
        Self::ServerError,
        Self::Unanswered,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The outcome's name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::ServerError => "server_error",
            Self::Unanswered => "unanswered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Series {
    fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }
}

impl Metrics {
    /// An empty registry with every name of the gateway in it.
    pub fn new(callers_max: usize, tools_max: usize) -> Self {
        let registry = Registry::new();
        let (refusals, by_reason) = refusals(&registry);
        Self {
            requests: counters(
                &registry,
                "toolgate_requests_total",
                "Requests by route, server, method, caller, tool and outcome.",
                &["route", "server", "method", "caller", "tool", "outcome"],
            ),
            durations: histograms(
                &registry,
                "toolgate_request_duration_seconds",
                "Time from the head of a request to the end of its answer.",
                &["route", "method"],
                DURATION_BUCKETS,
            ),
            routes: RouteFamilies::new(&registry),
            refusals,
            by_reason,
            upstream_errors: counters(
                &registry,
                "toolgate_upstream_errors_total",
                "Failed exchanges with an endpoint, by reason.",
                &["server", "endpoint", "reason"],
            ),
            connections: gauge(
                &registry,
                "toolgate_connections_open",
                "Client connections open now.",
            ),
            streams: gauge(&registry, "toolgate_streams_open", "Long-lived streams open now."),
            identity: IdentityMetrics::new(&registry),
            sessions: SessionMetrics::new(&registry),
            shared: SharedMetrics::new(&registry),
            credentials: CredentialMetrics::new(&registry),
            ejections: counters(
                &registry,
                "toolgate_ejections_total",
                "Endpoints taken out because calls to them failed, by reason.",
                &["server", "endpoint", "reason"],
            ),
            calls: CallMetrics::new(&registry),
            audit: AuditMetrics::new(&registry),
            log_lines_lost: counter(
                &registry,
                "toolgate_log_lines_lost_total",
                "Lines of the request log that found no room.",
            ),
            catalog: CatalogMetrics::new(&registry),
            definitions: DefinitionMetrics::new(&registry),
            endpoints: EndpointMetrics::new(&registry),
            policy: PolicyMetrics::new(&registry),
            limits: LimitMetrics::new(&registry),
            otlp: ExportMetrics::new(&registry),
            operations: None,
            configuration: Configuration::new(&registry),
            certificates: CertificateMetrics::new(&registry),
            series: papaya::HashMap::new(),
            folded: Folded::default(),
            names: Mutex::new(Names::default()),
            callers_max,
            tools_max,
            registry,
        }
    }

    /// The same with the durations that OpenTelemetry's conventions for MCP name.
    #[must_use]
    pub fn with_operations(mut self) -> Self {
        self.operations = Some(OperationMetrics::new(&self.registry));
        self
    }

    /// The handles of a route.
    pub fn route(&self, path: &str) -> RouteMetrics {
        self.routes.of(path)
    }

    /// Counts one refusal.
    pub fn refused(&self, reason: Reason) {
        if let Some(counter) = self.by_reason.get(reason as usize) {
            counter.inc();
        }
    }

    /// Counts one failed exchange with an endpoint.
    pub fn upstream_failed(&self, server: &str, endpoint: &str, reason: Reason) {
        self.upstream_errors.with_label_values(&[server, endpoint, reason.as_str()]).inc();
    }

    /// A server said on a stream that one of its lists has changed.
    pub fn list_changed(&self, server: &str, list: &str) {
        self.calls.list_changed(server, list);
    }

    /// Counts one ejection.
    pub fn ejected(&self, server: &str, endpoint: &str, reason: &str) {
        self.ejections.with_label_values(&[server, endpoint, reason]).inc();
    }

    /// Counts one reading of the configuration.
    pub fn reloaded(&self, outcome: &str) {
        self.configuration.reloaded(outcome);
    }

    /// A configuration with this digest has taken effect.
    pub fn configured(&self, digest: [u8; 32], at: SystemTime) {
        self.configuration.configured(digest, at);
    }

    /// When the certificates in force end.
    pub fn certificates(&self, ends: Vec<(CertificateShown, i64)>) {
        self.certificates.show(ends);
    }

    /// Whether a server has answered this combination without error before.
    pub fn is_known(&self, labels: Labels<'_>) -> bool {
        self.series.pin().contains_key(&labels)
    }

    /// Counts a request under its labels. A name becomes a label value only with `confirmed`, when
    /// a server answered it without error: what strangers invent counts as `other`.
    pub fn count(&self, labels: Labels<'_>, outcome: Outcome, seconds: f64, confirmed: bool) {
        let known = self.series.pin().get(&labels).map(|series| {
            series.count(outcome);
            series.duration.observe(seconds);
        });
        if known.is_some() {
            return;
        }
        let admitted = self.admitted(labels, confirmed);
        let (series, counted) = self.resolve(admitted);
        series.count(outcome);
        series.duration.observe(seconds);
        self.folded.count(admitted, counted, outcome);
    }

    /// Counts what else is to be said of a request, under the caller and tool it is counted under.
    pub fn count_detail(&self, labels: Labels<'_>, detail: CallDetail) {
        let count = |labels, details: &Details| self.calls.count(labels, details, detail);
        if let Some(series) = self.series.pin().get(&labels) {
            return count(labels, &series.details);
        }
        let labels = self.admitted(labels, false);
        let (series, counted) = self.resolve(labels);
        count(counted, &series.details);
    }

    /// Counts how long an operation took, where that is told. It is counted already.
    pub fn operated(&self, labels: Labels<'_>, operation: &Operation) {
        let Some(families) = &self.operations else { return };
        let observe = |labels, series: &Series| {
            families.observe(labels, series.operations.get_or_init(Box::default), operation);
        };
        if let Some(series) = self.series.pin().get(&labels) {
            return observe(labels, series);
        }
        let (series, counted) = self.resolve(self.admitted(labels, false));
        observe(counted, &series);
    }

    /// Everything, as the registry has it.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Everything as Prometheus text.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Encoding into memory has no way to fail but a metric family without samples, which the
        // registry leaves out.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    /// The series of labels that may all be label values, and what it counts under: where there are
    /// too many combinations the caller is `other`, so that sums by tool stay true, and then the tool.
    #[cold]
    fn resolve<'a>(&self, labels: Labels<'a>) -> (Arc<Series>, Labels<'a>) {
        let pinned = self.series.pin();
        if let Some(series) = pinned.get(&labels) {
            return (Arc::clone(series), labels);
        }
        let count = pinned.len();
        if count >= SERIES_MAX && labels.caller != OTHER {
            return self.resolve(Labels { caller: OTHER, ..labels });
        }
        if count >= 2 * SERIES_MAX && !matches!(labels.tool, "" | OTHER) {
            return self.resolve(Labels { tool: OTHER, ..labels });
        }
        let outcomes = Outcome::ALL.map(|outcome| {
            self.requests.with_label_values(&[
                labels.route,
                labels.server,
                labels.method,
                labels.caller,
                labels.tool,
                outcome.as_str(),
            ])
        });
        let duration = self.durations.with_label_values(&[labels.route, labels.method]);
        let series = Arc::new(Series {
            outcomes,
            duration,
            details: Details::default(),
            operations: OnceLock::new(),
        });
        pinned.insert(Key::from(labels), Arc::clone(&series));
        (series, labels)
    }

    /// The labels with every name that may not become a label value replaced.
    fn admitted<'a>(&self, labels: Labels<'a>, confirmed: bool) -> Labels<'a> {
        let mut names = self.names.lock();
        let admit = |set: &mut HashSet<Box<str>>, name: &'a str, max: usize, may_grow: bool| {
            if name.is_empty() || set.contains(name) {
                name
            } else if may_grow && set.len() < max {
                set.insert(name.into());
                name
            } else {
                OTHER
            }
        };
        // A caller is proven before it is counted; a tool is only what a client said, and so is a
        // method outside the specification.
        let caller = admit(&mut names.callers, labels.caller, self.callers_max, true);
        let specified = well_known(labels.method).is_some();
        let method = admit(&mut names.methods, labels.method, METHODS_MAX, confirmed || specified);
        let tool = admit(&mut names.tools, labels.tool, self.tools_max, confirmed);
        Labels { method, caller, tool, ..labels }
    }
}

fn register<M: Clone + prometheus::core::Collector + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let registered = metric.and_then(|metric| {
        registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    });
    match registered {
        Ok(metric) => metric,
        // The names above are constants and the registry is new: only an edit of this file can
        // bring a clash, and the first test run shows it.
        Err(error) => unreachable!("a metric of this file is not valid: {error}"),
    }
}

fn refusals(registry: &Registry) -> (IntCounterVec, Vec<IntCounter>) {
    let refusals = counters(
        registry,
        "toolgate_refusals_total",
        "Requests the gateway itself answered with an error, by reason.",
        &["reason"],
    );
    let by_reason = |reason: &Reason| refusals.with_label_values(&[reason.as_str()]);
    let by_reason = Reason::ALL.iter().map(by_reason).collect();
    (refusals, by_reason)
}

pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

pub(super) fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

pub(super) fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, labels))
}

#[cfg(test)]
mod tests {
    use super::{Labels, Metrics, Outcome};

    fn labels<'a>(method: &'a str, caller: &'a str, tool: &'a str) -> Labels<'a> {
        Labels { route: "/mcp", server: "files", method, caller, tool }
    }

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).expect("Prometheus text is UTF-8")
    }

    #[test]
    fn a_tool_becomes_a_label_once_a_server_confirmed_it() {
        let metrics = Metrics::new(10, 10);
        let echo = labels("tools/call", "ann", "echo");
        metrics.count(echo, Outcome::ServerError, 0.1, false);
        assert!(!metrics.is_known(echo));
        assert!(text(&metrics).contains(
            r#"method="tools/call",outcome="server_error",route="/mcp",server="files",tool="other"} 1"#
        ));
        metrics.count(echo, Outcome::Ok, 0.1, true);
        metrics.count(echo, Outcome::Failed, 0.1, false);
        assert!(metrics.is_known(echo));
        let text = text(&metrics);
        for outcome in ["ok", "failed"] {
            let line = format!(
                r#"toolgate_requests_total{{caller="ann",method="tools/call",outcome="{outcome}",route="/mcp",server="files",tool="echo"}} 1"#
            );
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn names_beyond_the_caps_are_other() {
        let metrics = Metrics::new(2, 3);
        for number in 0..50 {
            let (caller, tool) = (format!("caller{number}"), format!("tool{number}"));
            metrics.count(labels("tools/call", &caller, &tool), Outcome::Ok, 0.1, true);
        }
        let text = text(&metrics);
        assert!(text.contains(r#"caller="caller1""#) && !text.contains(r#"caller="caller2""#));
        assert!(text.contains(r#"tool="tool2""#) && !text.contains(r#"tool="tool3""#));
        assert!(text.contains(r#"caller="other",method="tools/call",outcome="ok",route="/mcp",server="files",tool="other"} 47"#), "{text}");
    }
}
