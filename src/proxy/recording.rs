//! What the record says of a request, and of what happens beside requests.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;
use http::header::USER_AGENT;
use pingora::http::RequestHeader;

use super::context::{Context, Reached, Record};
use super::refusal::Refusal;
use super::trace::{TRACEPARENT, Trace};
use super::{Gateway, Shared};
use crate::audit::{self, Ending, Event, Target};
use crate::mcp::Verdict;
use crate::policy;
use crate::sessions::Abandoned;
use crate::telemetry::{Outcome, Reason};
use crate::upstream::{Endpoint, Loss};

impl Gateway {
    /// Writes the record of a request into the place that was kept for it. What was refused before it
    /// had one, and not answered as if nobody had called, is recorded where there is room.
    pub(super) fn record(
        &self,
        head: &RequestHeader,
        ctx: &mut Context,
        outcome: Outcome,
        (duration, overhead): (Duration, Duration),
    ) {
        let Some(audit) = &self.audit else { return };
        let slot = ctx.admission.slot.take();
        if slot.is_none() && ctx.record.reason.is_none() {
            return;
        }
        let record = &ctx.record;
        let text = |name: &HeaderName| {
            head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let shadow = record.ruling.shadow.as_ref().map(|(outcome, rule)| {
            let verdict = match outcome {
                policy::Outcome::Allowed => audit::Verdict::Allow,
                policy::Outcome::Refused | policy::Outcome::ScopeMissing => audit::Verdict::Deny,
            };
            (verdict, rule.as_deref().unwrap_or_default())
        });
        let route = record.route.as_deref();
        let (endpoint, credential) = match record.reached {
            Reached::Server => {
                let server = record.server();
                let credential = server.map_or("", |server| server.pool.credentials().kind());
                (record.endpoint.as_deref().map_or("", Endpoint::url), credential)
            }
            Reached::Gateway | Reached::Answered => ("", ""),
        };
        let own_trace = ctx.trace.as_ref().map(Trace::id);
        let own_trace = own_trace.as_ref().and_then(|id| std::str::from_utf8(id).ok());
        let line = audit::Record {
            request_id: ctx.request_id(),
            trace_id: own_trace
                .unwrap_or_else(|| text(&TRACEPARENT).get(3..35).unwrap_or_default()),
            client: record.client,
            user_agent: text(&USER_AGENT),
            caller: record.caller.as_deref(),
            method: &record.method,
            revision: record.revision.map_or("", |revision| revision.as_str()),
            session: record.session,
            moved: record.moved.map_or("", Loss::as_str),
            target: record.target.as_deref().and_then(|name| target(&record.method, name)),
            rpc_id: record.id.as_ref().map_or("", |id| id.as_id().raw()),
            route: route.map_or_else(|| head.uri.path(), |route| &route.path),
            server: record.server_name(),
            own_name: record.own_target.as_deref().unwrap_or_default(),
            endpoint,
            verdict: verdict(record),
            reason: record.reason.map_or("", Reason::as_str),
            policy_reason: policy_reason(record),
            rule: record.ruling.rule.as_deref().unwrap_or_default(),
            shadow,
            limit: record.limit.as_deref().unwrap_or_default(),
            credential,
            ending: Some(ending(outcome, record.verdict)),
            status: record.status,
            arguments: &record.arguments,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            duration,
            overhead,
            queued: record.queued,
            ..audit::Record::new(event(record, outcome))
        };
        match slot {
            Some(slot) => slot.write(&line),
            None => audit.event(&line),
        }
    }
}

impl Shared {
    /// Records the refusal of what never became a request.
    pub(super) fn record_refusal(&self, refusal: &Refusal, client: Option<IpAddr>) {
        let Some(audit) = &self.audit else { return };
        audit.event(&audit::Record {
            client,
            verdict: Some(audit::Verdict::Deny),
            reason: refusal.reason.as_str(),
            ending: Some(Ending::Refused),
            status: refusal.status,
            ..audit::Record::new(Event::Refusal)
        });
    }

    /// Records that a session goes on at another endpoint.
    pub(super) fn record_move(&self, ctx: &Context, server: &str, to: &Endpoint, loss: Loss) {
        let Some(audit) = &self.audit else { return };
        audit.event(&audit::Record {
            request_id: ctx.request_id(),
            client: ctx.record.client,
            caller: ctx.record.caller.as_deref(),
            session: ctx.record.session,
            moved: loss.as_str(),
            server,
            endpoint: to.url(),
            ..audit::Record::new(Event::SessionMove)
        });
    }

    /// Records that the process takes no more.
    pub fn record_drain(&self) {
        let Some(audit) = &self.audit else { return };
        let outcome = match *self.lifecycle.handed_over().borrow() {
            true => "a successor serves",
            false => "told to stop",
        };
        audit.event(&audit::Record {
            subject: "gateway",
            outcome,
            ..audit::Record::new(Event::Drain)
        });
    }

    /// Records that the gateway itself ended a session at its server.
    pub(super) fn record_reaped(&self, request_id: &str, server: &str, ended: &Abandoned) {
        let Some(audit) = &self.audit else { return };
        let Abandoned { key, caller, place, revision } = ended;
        audit.event(&audit::Record {
            request_id,
            caller: caller.as_deref(),
            session: Some(key.short()),
            revision: revision.map_or("", |revision| revision.as_str()),
            server,
            endpoint: place.endpoint.url(),
            outcome: "ended by the gateway: nobody used it, or it moved",
            ..audit::Record::new(Event::SessionEnd)
        });
    }
}

fn event(record: &Record, outcome: Outcome) -> Event {
    if outcome == Outcome::Refused
        || (record.reason.is_some() && record.reached == Reached::Gateway)
    {
        return Event::Refusal;
    }
    match &*record.method {
        "initialize" if record.session.is_some() => Event::SessionStart,
        "DELETE" => Event::SessionEnd,
        "resources/read" | "resources/subscribe" => Event::ResourceRead,
        "prompts/get" => Event::PromptGet,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
            Event::List
        }
        _ => Event::Call,
    }
}

/// Why the rules decided so. A combination has a rule, and no reason but itself.
fn policy_reason(record: &Record) -> &'static str {
    match record.reason {
        Some(Reason::CombinationForbidden) => "",
        _ => record.ruling.reason.map_or("", policy::Reason::as_str),
    }
}

/// What is named, as the conventions of OpenTelemetry tell it apart.
pub(super) fn target<'a>(method: &str, name: &'a str) -> Option<Target<'a>> {
    match method {
        "tools/call" => Some(Target::Tool(name)),
        "prompts/get" => Some(Target::Prompt(name)),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            Some(Target::Resource(name))
        }
        _ => None,
    }
}

/// What was decided: a request that ends before its end is decided was not let in.
fn verdict(record: &Record) -> Option<audit::Verdict> {
    match (record.reached, record.reason) {
        (Reached::Server | Reached::Answered, _) => Some(audit::Verdict::Allow),
        (Reached::Gateway, Some(reason)) if !reason.is_of_endpoint() => Some(audit::Verdict::Deny),
        // It was let in, and found nobody to go to.
        (Reached::Gateway, Some(_)) => Some(audit::Verdict::Allow),
        (Reached::Gateway, None) => None,
    }
}

fn ending(outcome: Outcome, verdict: Verdict) -> Ending {
    match outcome {
        Outcome::Ok => Ending::Ok,
        Outcome::ToolError => Ending::ToolError,
        Outcome::RpcError => Ending::RpcError(match verdict {
            Verdict::Error(code) => code.map(i64::from),
            _ => None,
        }),
        Outcome::ServerError => Ending::HttpError,
        Outcome::Refused => Ending::Refused,
        Outcome::Failed | Outcome::Unanswered => Ending::Failed,
        Outcome::Cancelled => Ending::Cancelled,
    }
}
