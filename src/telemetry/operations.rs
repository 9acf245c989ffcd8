//! How long operations of MCP take, under the names and with the bounds of OpenTelemetry's conventions.

use std::sync::OnceLock;

use prometheus::{Histogram, HistogramVec, Registry};

use super::calls::RpcCode;
use super::metrics::histograms;
use super::{CallDetail, Labels, Outcome};

/// Bounds in seconds, which the conventions give.
const BUCKETS: &[f64] =
    &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
const SERVER: &str = "mcp_server_operation_duration_seconds";
const CLIENT: &str = "mcp_client_operation_duration_seconds";
const LABELS: &[&str] =
    &["mcp_method_name", "gen_ai_tool_name", "gen_ai_operation_name", "error_type", "server"];

/// One operation, once it is over.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// How it ended.
    pub outcome: Outcome,
    /// The code of the JSON-RPC error, if it ended with one.
    pub code: Option<i32>,
    /// How long the gateway had it.
    pub seconds: f64,
    /// How long the server had it, if one was asked.
    pub asked_seconds: Option<f64>,
}

/// The histograms, which are there only where a collector gets them.
pub(super) struct OperationMetrics {
    server: HistogramVec,
    client: HistogramVec,
}

/// Those of one combination of labels, each resolved when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Operations {
    server: [OnceLock<Histogram>; Outcome::ALL.len()],
    client: [OnceLock<Histogram>; Outcome::ALL.len()],
}

impl OperationMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let server = "Time from the arrival of an MCP message until its answer is sent.";
        let client = "Time from sending an MCP message to a server until its answer is received.";
        Self {
            server: histograms(registry, SERVER, server, LABELS, BUCKETS),
            client: histograms(registry, CLIENT, client, LABELS, BUCKETS),
        }
    }

    /// Counts an operation under labels whose names are all known.
    pub(super) fn observe(&self, labels: Labels<'_>, of: &Operations, operation: &Operation) {
        let observe = |family: &HistogramVec, known: &[OnceLock<Histogram>], seconds| {
            // The codes of errors are labels too, and errors are not in a hurry.
            let known = known.get(operation.outcome as usize);
            match known.filter(|_| operation.outcome != Outcome::RpcError) {
                Some(known) => {
                    known.get_or_init(|| resolve(family, labels, operation)).observe(seconds);
                }
                None => resolve(family, labels, operation).observe(seconds),
            }
        };
        observe(&self.server, &of.server, operation.seconds);
        if let Some(seconds) = operation.asked_seconds {
            observe(&self.client, &of.client, seconds);
        }
    }
}

#[cold]
fn resolve(family: &HistogramVec, labels: Labels<'_>, operation: &Operation) -> Histogram {
    let execute = if labels.tool.is_empty() { "" } else { "execute_tool" };
    let error = match (operation.outcome, CallDetail::rpc_error(operation.code)) {
        (Outcome::Ok, _) => "",
        (Outcome::RpcError, CallDetail::RpcError(code)) => RpcCode::as_str(code),
        (outcome, _) => outcome.as_str(),
    };
    family.with_label_values(&[labels.method, labels.tool, execute, error, labels.server])
}

/// What the conventions call a metric, if it is theirs; Prometheus has no dots in names.
pub(super) fn conventional(name: &str) -> Option<&'static str> {
    match name {
        SERVER => Some("mcp.server.operation.duration"),
        CLIENT => Some("mcp.client.operation.duration"),
        _ => None,
    }
}

/// What they call a label of such a metric; servers are not known to them.
pub(super) fn conventional_label(name: &str) -> &str {
    match name {
        "mcp_method_name" => "mcp.method.name",
        "gen_ai_tool_name" => "gen_ai.tool.name",
        "gen_ai_operation_name" => "gen_ai.operation.name",
        "error_type" => "error.type",
        "server" => "toolgate.server",
        name => name,
    }
}
