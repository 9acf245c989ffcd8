//! What a collector gets of a request that is over: how long it took, and its spans if its trace is kept.

use std::time::{Duration, Instant, SystemTime};

use http::Version;
use pingora::http::RequestHeader;

use super::Gateway;
use super::context::{Context, Record};
use super::recording;
use super::trace::{Asked, InVain, Own, State, TRACESTATE, Trace, single};
use crate::audit::Target;
use crate::config::Protocol;
use crate::identity::Caller;
use crate::mcp::Verdict;
use crate::telemetry::{Attributes, Operation, Outcome, Reason, Side, Span, SpanContext, Spans};
use crate::upstream::Endpoint;

impl Gateway {
    /// Tells the collector of a request that is over.
    pub(super) fn send_spans(
        &self,
        head: &RequestHeader,
        ctx: &mut Context,
        outcome: Outcome,
        duration: Duration,
    ) {
        self.trace(head, None, ctx);
        let (Some(otlp), Some(trace)) = (&self.otlp, &ctx.trace) else { return };
        let record = &ctx.record;
        // Preflights and metadata are nobody's call.
        if record.method.is_empty() && record.reason.is_none() && trace.asked.is_none() {
            return;
        }
        if let Some(labels) = record.labels().filter(|_| is_operation(&record.method)) {
            let asked = trace.asked.map(|asked| asked.began.elapsed().as_secs_f64());
            let code = rpc_code(record);
            let seconds = duration.as_secs_f64();
            let operation = Operation { outcome, code, seconds, asked_seconds: asked };
            self.lasting.metrics.operated(labels, &operation);
        }
        if trace.span.is_sampled {
            let over = Over { trace, ctx, head, outcome, now: (Instant::now(), SystemTime::now()) };
            otlp.send(over.spans());
        }
    }
}

/// A request that is over, and kept.
struct Over<'a> {
    trace: &'a Trace,
    ctx: &'a Context,
    head: &'a RequestHeader,
    outcome: Outcome,
    now: (Instant, SystemTime),
}

impl Over<'_> {
    fn spans(&self) -> Spans {
        let Self { trace, ctx, .. } = self;
        let mut spans = Spans::default();
        let code = rpc_code(&ctx.record).map(|code| code.to_string()).unwrap_or_default();
        let error = self.error(&code);
        self.add_server(&mut spans, (error.as_str(), &code));
        for InVain { asked, ended, endpoint, why } in &trace.in_vain {
            self.add_client(&mut spans, (asked, self.at(*ended)), endpoint, (why, ""));
        }
        for own in &*trace.own.lock() {
            self.add_own(&mut spans, own);
        }
        if let (Some(asked), Some(endpoint)) = (&trace.asked, &ctx.record.endpoint) {
            self.add_client(&mut spans, (asked, self.now.1), endpoint, (error.as_str(), &code));
        }
        spans
    }

    /// A client asked the gateway.
    fn add_server(&self, spans: &mut Spans, (error, code): (&str, &str)) {
        let Self { trace, ctx, head, .. } = self;
        let record = &ctx.record;
        let method = match &*record.method {
            "" => head.method.as_str(),
            method => method,
        };
        let state = match &trace.state {
            State::OfHead => single(head, &TRACESTATE).unwrap_or_default(),
            State::OfMessage(state) => state.as_deref().unwrap_or_default(),
        };
        let span = Span {
            context: trace.span,
            parent: trace.parent,
            link: trace.link,
            state,
            side: Side::Server,
            method,
            target: spoken(target(record, record.target.as_deref())),
            began: self.at(ctx.started),
            ended: self.now.1,
            error,
        };
        spans.add(&span, |say| {
            self.say_call(say, record.target.as_deref(), code);
            say_http(say, version(head.version));
            say.text("toolgate.server", record.server_name());
            if let Some(client) = record.client {
                say.text("client.address", &client.to_string());
            }
            let route = record.route.as_deref();
            say.text("toolgate.request.id", ctx.request_id());
            say.text("toolgate.route", route.map_or("", |route| &route.path));
            say.text("toolgate.caller", record.caller.as_deref().map_or("", Caller::id));
            say.text("toolgate.refusal", record.reason.map_or("", Reason::as_str));
            say.text("toolgate.rule", record.ruling.rule.as_deref().unwrap_or_default());
            say.text("toolgate.limit", record.limit.as_deref().unwrap_or_default());
            if record.status > 0 {
                say.number("http.response.status_code", record.status.into());
            }
        });
    }

    /// The gateway passed it on to a server.
    fn add_client(
        &self,
        spans: &mut Spans,
        (asked, ended): (&Asked, SystemTime),
        endpoint: &Endpoint,
        (error, code): (&str, &str),
    ) {
        let record = &self.ctx.record;
        let own = record.own_target.as_deref().or(record.target.as_deref());
        let names = (&*record.method, spoken(target(record, own)));
        spans.add(&self.client(asked, ended, names, error), |say| {
            self.say_call(say, own, code);
            say_endpoint(say, record.server_name(), endpoint);
        });
    }

    /// The gateway asked a server something itself.
    fn add_own(&self, spans: &mut Spans, own: &Own) {
        let Own { asked, ended, endpoint, server, method, error } = own;
        spans.add(&self.client(asked, self.at(*ended), (method, ""), error), |say| {
            say.text("mcp.method.name", method);
            say_endpoint(say, server, endpoint);
        });
    }

    fn client<'s>(
        &'s self,
        asked: &Asked,
        ended: SystemTime,
        (method, target): (&'s str, &'s str),
        error: &'s str,
    ) -> Span<'s> {
        Span {
            context: SpanContext { span_id: asked.span_id, ..self.trace.span },
            parent: Some(self.trace.span.span_id),
            link: None,
            state: "",
            side: Side::Client,
            method: if method.is_empty() { self.head.method.as_str() } else { method },
            target,
            began: self.at(asked.began),
            ended,
            error,
        }
    }

    /// What both sides know of the call.
    fn say_call(&self, say: &mut Attributes<'_>, name: Option<&str>, code: &str) {
        let record = &self.ctx.record;
        if is_operation(&record.method) {
            say.text("mcp.method.name", &record.method);
        }
        match target(record, name) {
            Some(Target::Tool(name)) => {
                say.text("gen_ai.tool.name", name);
                say.text("gen_ai.operation.name", "execute_tool");
            }
            Some(Target::Prompt(name)) => say.text("gen_ai.prompt.name", name),
            Some(Target::Resource(uri)) => say.text("mcp.resource.uri", uri),
            None => {}
        }
        if let Some(id) = &record.id {
            let id = id.as_id();
            say.text(
                "jsonrpc.request.id",
                match id.is_string() {
                    true => id.raw().trim_matches('"'),
                    false => id.raw(),
                },
            );
        }
        say.text("rpc.response.status_code", code);
        say.text("mcp.protocol.version", record.revision.map_or("", |revision| revision.as_str()));
        if let Some([a, b, c, d]) = record.session {
            // What audit calls it too: the start of a random name, which opens nothing.
            say.text("mcp.session.id", &format!("{a:02x}{b:02x}{c:02x}{d:02x}"));
        }
    }

    /// Why it failed, if it did.
    fn error(&self, code: &str) -> String {
        let record = &self.ctx.record;
        match (self.outcome, record.reason) {
            (Outcome::Ok, _) => String::new(),
            (Outcome::RpcError, _) if !code.is_empty() => code.to_owned(),
            (Outcome::ServerError, None) => record.status.to_string(),
            // Why is closer than that.
            (_, Some(reason)) => reason.as_str().to_owned(),
            (outcome, None) => outcome.as_str().to_owned(),
        }
    }

    /// When this was, by the clock.
    fn at(&self, moment: Instant) -> SystemTime {
        let (now, clock) = self.now;
        clock.checked_sub(now.saturating_duration_since(moment)).unwrap_or(clock)
    }
}

/// What is named, as conventions tell them apart.
fn target<'a>(record: &Record, name: Option<&'a str>) -> Option<Target<'a>> {
    recording::target(&record.method, name?)
}

/// What the name of a span says of it: URIs are too many for that.
fn spoken(target: Option<Target<'_>>) -> &str {
    match target {
        Some(Target::Tool(name) | Target::Prompt(name)) => name,
        Some(Target::Resource(_)) | None => "",
    }
}

/// Which server was asked, and where.
fn say_endpoint(say: &mut Attributes<'_>, server: &str, endpoint: &Endpoint) {
    say_http(
        say,
        match endpoint.protocol() {
            Protocol::Http1 => "1.1",
            Protocol::Http2 => "2",
        },
    );
    let (host, port) = host_and_port(endpoint);
    say.text("server.address", host);
    say.number("server.port", port.into());
    say.text("toolgate.server", server);
}

fn say_http(say: &mut Attributes<'_>, version: &str) {
    say.text("network.protocol.name", "http");
    say.text("network.protocol.version", version);
    say.text("network.transport", "tcp");
}

/// Whether it is a method of MCP: a stream's GET and a session's DELETE are none.
fn is_operation(method: &str) -> bool {
    !matches!(method, "" | "GET" | "DELETE")
}

fn rpc_code(record: &Record) -> Option<i32> {
    match record.verdict {
        Verdict::Error(code) => code,
        _ => record.refusal_code,
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// The parts of the authority; the port of the scheme where it names none.
fn host_and_port(endpoint: &Endpoint) -> (&str, u16) {
    let authority = endpoint.authority();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    let of_scheme = if endpoint.url().starts_with("https:") { 443 } else { 80 };
    (host.trim_matches(['[', ']']), port.unwrap_or(of_scheme))
}
