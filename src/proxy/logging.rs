//! The end of every request, however it ended: metrics, spans, and one line.

use pingora::http::RequestHeader;

use super::Gateway;
use super::context::Context;
use crate::mcp::Verdict;
use crate::telemetry::{CallDetail, Line, Outcome};
use crate::upstream::{Endpoint, Loss};

impl Gateway {
    /// Counts and logs the request.
    pub(super) fn log(&self, head: &RequestHeader, ctx: &mut Context) {
        ctx.give_back();
        let record = &ctx.record;
        let duration = ctx.started.elapsed();
        let overhead = duration.saturating_sub(record.waited);
        // No outcome means that the client was gone before there was one.
        let outcome = record.outcome.unwrap_or(Outcome::Cancelled);
        if let Some(reason) = record.reason {
            self.lasting.metrics.refused(reason);
            if reason.is_of_policy() {
                let rule = record.ruling.rule.as_deref().unwrap_or_default();
                self.lasting.metrics.policy.denied(rule, reason);
            }
        }
        if let (Some(route), Some(labels)) = (&record.route, record.labels()) {
            route.metrics.in_flight.dec();
            route.metrics.bytes_in.inc_by(record.bytes_in);
            route.metrics.bytes_out.inc_by(record.bytes_out);
            route.metrics.overhead.observe(overhead.as_secs_f64());
            let confirmed = outcome == Outcome::Ok
                && (!record.has_claimed_name() || record.verdict.is_success());
            self.lasting.metrics.count(labels, outcome, duration.as_secs_f64(), confirmed);
            if let Some(reason) = record.reason {
                self.lasting.metrics.count_detail(labels, CallDetail::Refused(reason));
            }
            if let Some((outcome, rule)) = &record.ruling.shadow {
                let rule = rule.as_deref().unwrap_or_default();
                self.lasting.metrics.policy.shadowed(rule, outcome.as_str());
            }
            if let Verdict::Error(code) = record.verdict {
                self.lasting.metrics.count_detail(labels, CallDetail::rpc_error(code));
            }
            if record.is_repeat {
                self.lasting.metrics.count_detail(labels, CallDetail::Repeated);
            }
        }
        self.send_spans(head, ctx, outcome, duration);
        self.record(head, ctx, outcome, (duration, overhead));
        let Some(log) = &self.request_log else { return };
        let record = &ctx.record;
        log.write(&Line {
            id: ctx.request_id(),
            verb: head.method.as_str(),
            path: record.route.as_deref().map_or_else(|| head.uri.path(), |route| &route.path),
            server: record.server_name(),
            endpoint: record.endpoint.as_deref().map_or("", Endpoint::url),
            caller: record.caller.as_deref().map_or("", |caller| caller.id()),
            method: &record.method,
            target: record.target.as_deref().unwrap_or_default(),
            session: record.session,
            moved: record.moved.map(Loss::as_str),
            client: record.client,
            status: record.status,
            outcome,
            reason: record.reason,
            rule: record.limit.as_deref().or(record.ruling.rule.as_deref()).unwrap_or_default(),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration,
            overhead,
        });
    }
}
