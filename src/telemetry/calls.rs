//! What metrics say of calls beyond their outcome: why they were refused, which error, and repeats.

use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::metrics::{OTHER, SERIES_MAX, counters};
use super::{Labels, Reason};

/// What else is to be said of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallDetail {
    /// Why the gateway refused it or failed to carry it.
    Refused(Reason),
    /// The server answered with a JSON-RPC error.
    RpcError(RpcCode),
    /// The same caller made the same call a short while ago.
    Repeated,
}

/// The code of a JSON-RPC error as a label. Servers are free in their codes, so only those of the
/// specifications are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RpcCode(Option<i32>);

/// The counters of the details of one combination of labels, each made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Details(pub(super) papaya::HashMap<CallDetail, IntCounter>);

/// The metrics of details.
pub(super) struct CallMetrics {
    refusals: IntCounterVec,
    rpc_errors: IntCounterVec,
    repeats: IntCounterVec,
    list_changes: IntCounterVec,
    /// How many counters there are under names.
    counters: AtomicUsize,
}

impl CallDetail {
    /// A JSON-RPC error with this code, if it has one.
    pub fn rpc_error(code: Option<i32>) -> Self {
        Self::RpcError(RpcCode(code.filter(|code| specified(*code).is_some())))
    }
}

impl RpcCode {
    pub(super) fn as_str(self) -> &'static str {
        self.0.and_then(specified).unwrap_or(OTHER)
    }
}

/// The codes of JSON-RPC 2.0 and of MCP, as labels.
fn specified(code: i32) -> Option<&'static str> {
    Some(match code {
        -32700 => "-32700",
        -32600 => "-32600",
        -32601 => "-32601",
        -32602 => "-32602",
        -32603 => "-32603",
        // A resource that is not found, up to 2025-11-25.
        -32002 => "-32002",
        // An elicitation by URL is required (2025-11-25).
        -32042 => "-32042",
        -32020 => "-32020",
        -32021 => "-32021",
        -32022 => "-32022",
        _ => return None,
    })
}

impl CallMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            refusals: counters(
                registry,
                "toolgate_calls_refused_total",
                "Requests the gateway itself answered with an error, by caller, tool and reason.",
                &["server", "caller", "tool", "reason"],
            ),
            rpc_errors: counters(
                registry,
                "toolgate_rpc_errors_total",
                "Answers that are a JSON-RPC error, by caller, tool and code.",
                &["server", "caller", "tool", "code"],
            ),
            repeats: counters(
                registry,
                "toolgate_repeats_total",
                "Calls that the same caller made with the same arguments within 5 minutes before.",
                &["server", "caller", "tool"],
            ),
            list_changes: counters(
                registry,
                "toolgate_list_changes_total",
                "How often a stream of a server said that one of its lists has changed.",
                &["server", "list"],
            ),
            counters: AtomicUsize::new(0),
        }
    }

    /// Counts a detail under labels whose names are all known; `details` are theirs.
    pub(super) fn count(&self, labels: Labels<'_>, details: &Details, detail: CallDetail) {
        let pinned = details.0.pin();
        match pinned.get(&detail) {
            Some(counter) => counter.inc(),
            None => pinned.get_or_insert_with(detail, || self.counter(labels, detail)).inc(),
        }
    }

    pub(super) fn list_changed(&self, server: &str, list: &str) {
        self.list_changes.with_label_values(&[server, list]).inc();
    }

    #[cold]
    fn counter(&self, labels: Labels<'_>, detail: CallDetail) -> IntCounter {
        // Names times reasons could be many more than names: beyond the cap they count together.
        let is_full = self.counters.fetch_add(1, Ordering::Relaxed) >= SERIES_MAX;
        let named = |name| if is_full { OTHER } else { name };
        let (caller, tool) = (named(labels.caller), named(labels.tool));
        match detail {
            CallDetail::Refused(reason) => {
                self.refusals.with_label_values(&[labels.server, caller, tool, reason.as_str()])
            }
            CallDetail::RpcError(code) => {
                self.rpc_errors.with_label_values(&[labels.server, caller, tool, code.as_str()])
            }
            CallDetail::Repeated => self.repeats.with_label_values(&[labels.server, caller, tool]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CallDetail;
    use crate::telemetry::{Labels, Metrics, Outcome, Reason};

    fn labels<'a>(caller: &'a str, tool: &'a str) -> Labels<'a> {
        Labels { route: "/mcp", server: "files", method: "tools/call", caller, tool }
    }

    fn check(metrics: &Metrics, line: &str) {
        let text = String::from_utf8(metrics.render()).expect("Prometheus text is UTF-8");
        assert!(text.contains(line), "no {line} in\n{text}");
    }

    #[test]
    fn details_are_counted_by_caller_and_by_tools_that_are_known() {
        let metrics = Metrics::new(10, 10);
        let refused = CallDetail::Refused(Reason::EndpointBusy);
        metrics.count_detail(labels("ann", "echo"), refused);
        check(
            &metrics,
            r#"toolgate_calls_refused_total{caller="ann",reason="endpoint_busy",server="files",tool="other"} 1"#,
        );
        metrics.count(labels("ann", "echo"), Outcome::Ok, 0.1, true);
        metrics.count_detail(labels("ann", "echo"), refused);
        metrics.count_detail(labels("ann", "echo"), refused);
        check(
            &metrics,
            r#"toolgate_calls_refused_total{caller="ann",reason="endpoint_busy",server="files",tool="echo"} 2"#,
        );
        metrics.count_detail(labels("ann", "echo"), CallDetail::Repeated);
        check(&metrics, r#"toolgate_repeats_total{caller="ann",server="files",tool="echo"} 1"#);
    }

    #[test]
    fn codes_that_servers_invent_count_together() {
        let metrics = Metrics::new(10, 10);
        for code in [Some(-32602), Some(7), Some(-32000), None] {
            metrics.count_detail(labels("ann", ""), CallDetail::rpc_error(code));
        }
        for (code, count) in [("-32602", 1), ("other", 3)] {
            check(
                &metrics,
                &format!(
                    r#"toolgate_rpc_errors_total{{caller="ann",code="{code}",server="files",tool=""}} {count}"#
                ),
            );
        }
    }
}
