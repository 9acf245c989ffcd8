//! What a record says: the closed list of events, and everything that is known of one.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::arguments::Arguments;
use super::line;
use super::text::Object;
use crate::identity::Caller;
use crate::telemetry::Short;

/// Names of callers, tools, servers and rules are shortened beyond this.
const NAME_BYTES_MAX: usize = 256;
/// URIs and URLs are shortened beyond this.
const URI_BYTES_MAX: usize = 1024;
/// What a client calls itself is shortened beyond this.
const AGENT_BYTES_MAX: usize = 256;
/// Ids that clients choose are shortened beyond this.
const ID_BYTES_MAX: usize = 128;

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// What a record is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $($(#[$doc])* $variant,)* }

        impl Event {
            /// Every event.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The event's name in records and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

events! {
    /// A tool was called, or another message was carried that has no event of its own.
    Call => "call",
    /// The gateway said no.
    Refusal => "refusal",
    /// A session began.
    SessionStart => "session_start",
    /// A session went on at another endpoint.
    SessionMove => "session_move",
    /// A session ended.
    SessionEnd => "session_end",
    /// A resource was read or subscribed to.
    ResourceRead => "resource_read",
    /// A prompt was asked for.
    PromptGet => "prompt_get",
    /// Tools, prompts or resources were listed.
    List => "list",
    /// An operator changed something.
    AdminChange => "admin_change",
    /// The configuration was read again.
    Reload => "reload",
    /// A server changed a tool's definition, or an operator approved one.
    DefinitionChange => "definition_change",
    /// An endpoint was registered, renewed or deregistered.
    Registration => "registration",
    /// The gateway, or an endpoint, takes no more.
    Drain => "drain",
    /// The first record of a chain.
    AuditStarted => "audit_started",
    /// The last record of a chain.
    AuditClosed => "audit_closed",
    /// Records are missing.
    RecordsLost => "records_lost",
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The call may run.
    Allow,
    /// The call may not run.
    Deny,
}

/// How it ended. Only `Ok` is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With success.
    Ok,
    /// The tool says that it failed (`isError`).
    ToolError,
    /// The server answered with a JSON-RPC error, of this code if it could be read.
    RpcError(Option<i64>),
    /// The server answered with an HTTP error.
    HttpError,
    /// The gateway said no.
    Refused,
    /// No answer, or not a whole one, because of gateway or server.
    Failed,
    /// The client left first.
    Cancelled,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A tool, as the client names it.
    Tool(&'a str),
    /// A prompt, as the client names it.
    Prompt(&'a str),
    /// The URI of a resource.
    Resource(&'a str),
}

/// Everything that is known of one event, borrowed; what is empty is not written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What the record is about.
    pub event: Event,
    /// The request's id, also sent to the server and the client.
    pub request_id: &'a str,
    /// The trace the request belongs to, from `traceparent`.
    pub trace_id: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// What the client calls itself: its `User-Agent`.
    pub user_agent: &'a str,
    /// Who calls.
    pub caller: Option<&'a Caller>,
    /// The JSON-RPC method.
    pub method: &'a str,
    /// The revision of MCP.
    pub revision: &'a str,
    /// A short digest of the session id: it joins records, but opens nothing.
    pub session: Option<[u8; 4]>,
    /// Why the session moved for this request, if it did.
    pub moved: &'a str,
    /// What the call is about.
    pub target: Option<Target<'a>>,
    /// The id of the JSON-RPC request as text.
    pub rpc_id: &'a str,
    /// The route's path.
    pub route: &'a str,
    /// The server's name.
    pub server: &'a str,
    /// What the server itself calls what the call is about, where that differs.
    pub own_name: &'a str,
    /// The endpoint's URL.
    pub endpoint: &'a str,
    /// What was decided.
    pub verdict: Option<Verdict>,
    /// Why, as one of the closed list of reasons.
    pub reason: &'a str,
    /// Why the policy decided as it did, as one of its own closed list of reasons.
    pub policy_reason: &'a str,
    /// The rule that decided.
    pub rule: &'a str,
    /// What a rule in shadow mode would have decided, and its name.
    pub shadow: Option<(Verdict, &'a str)>,
    /// The limit that was reached.
    pub limit: &'a str,
    /// The kind of credential that was sent to the server.
    pub credential: &'a str,
    /// How it ended.
    pub ending: Option<Ending>,
    /// The HTTP status of the answer; 0 when none was sent.
    pub status: u16,
    /// What is kept of the call's arguments.
    pub arguments: &'a Arguments,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// The part of it spent in the gateway.
    pub overhead: Duration,
    /// The part of it spent waiting for a permit, a token or room for the record.
    pub queued: Duration,
    /// What an operator's change, a reload or a registration was about.
    pub subject: &'a str,
    /// What was done to it, or what came of it.
    pub outcome: &'a str,
}

impl Verdict {
    /// The verdict's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Ending {
    /// The ending's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError(_) => "jsonrpc_error",
            Self::HttpError => "http_error",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Record<'_> {
    /// A record of an event of which nothing else is known.
    pub const fn new(event: Event) -> Self {
        Self {
            event,
            request_id: "",
            trace_id: "",
            client: None,
            user_agent: "",
            caller: None,
            method: "",
            revision: "",
            session: None,
            moved: "",
            target: None,
            rpc_id: "",
            route: "",
            server: "",
            own_name: "",
            endpoint: "",
            verdict: None,
            reason: "",
            policy_reason: "",
            rule: "",
            shadow: None,
            limit: "",
            credential: "",
            ending: None,
            status: 0,
            arguments: &Arguments::Absent,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            overhead: Duration::ZERO,
            queued: Duration::ZERO,
            subject: "",
            outcome: "",
        }
    }

    /// Writes the line up to its place in the chain, which only the writing thread knows.
    pub(super) fn write(&self, out: &mut Vec<u8>, now: SystemTime) {
        line::begin(out, now, self.event.as_str());
        let mut object = Object::resume(out);
        self.write_request(&mut object);
        self.write_call(&mut object);
        self.write_decision(&mut object);
        self.write_result(&mut object);
        object.leave();
    }

    fn write_request(&self, object: &mut Object<'_>) {
        object.word("gateway.request.id", self.request_id);
        object.text("trace_id", self.trace_id, ID_BYTES_MAX);
        if let Some(client) = self.client {
            object.short("client.address", Short::address(client));
        }
        object.text("user_agent.original", self.user_agent, AGENT_BYTES_MAX);
        if let Some(caller) = self.caller {
            object.text("caller.id", caller.id(), NAME_BYTES_MAX);
            object.text("caller.tenant", caller.tenant().unwrap_or_default(), NAME_BYTES_MAX);
            object.word("caller.method", caller.method().as_str());
            object.text("caller.issuer", caller.issuer().unwrap_or_default(), URI_BYTES_MAX);
        }
    }

    fn write_call(&self, object: &mut Object<'_>) {
        object.text("mcp.method.name", self.method, NAME_BYTES_MAX);
        object.text("mcp.protocol.version", self.revision, ID_BYTES_MAX);
        if let Some(session) = self.session {
            object.hex("mcp.session.id", &session);
        }
        object.word("session.moved", self.moved);
        match self.target {
            Some(Target::Tool(name)) => object.text("gen_ai.tool.name", name, NAME_BYTES_MAX),
            Some(Target::Prompt(name)) => object.text("gen_ai.prompt.name", name, NAME_BYTES_MAX),
            Some(Target::Resource(uri)) => object.text("mcp.resource.uri", uri, URI_BYTES_MAX),
            None => {}
        }
        object.text("jsonrpc.request.id", self.rpc_id, ID_BYTES_MAX);
        object.text("http.route", self.route, URI_BYTES_MAX);
        object.text("gateway.server", self.server, NAME_BYTES_MAX);
        object.text("gateway.own_name", self.own_name, URI_BYTES_MAX);
        object.text("gateway.endpoint", self.endpoint, URI_BYTES_MAX);
        object.text("subject", self.subject, URI_BYTES_MAX);
        object.text("outcome", self.outcome, URI_BYTES_MAX);
    }

    fn write_decision(&self, object: &mut Object<'_>) {
        object.word("decision", self.verdict.map_or("", Verdict::as_str));
        object.text("reason", self.reason, NAME_BYTES_MAX);
        object.word("policy.reason", self.policy_reason);
        object.text("rule", self.rule, NAME_BYTES_MAX);
        if let Some((verdict, rule)) = self.shadow {
            object.word("shadow.decision", verdict.as_str());
            object.text("shadow.rule", rule, NAME_BYTES_MAX);
        }
        object.text("limit", self.limit, NAME_BYTES_MAX);
        object.word("credential", self.credential);
    }

    fn write_result(&self, object: &mut Object<'_>) {
        if let Some(ending) = self.ending {
            object.word("result", ending.as_str());
            let error = match ending {
                Ending::Ok => "",
                // Why is closer than that.
                _ if !self.reason.is_empty() => self.reason,
                _ => ending.as_str(),
            };
            object.text("error.type", error, NAME_BYTES_MAX);
            if let Ending::RpcError(Some(code)) = ending {
                object.signed("rpc.response.status_code", code);
            }
        }
        self.arguments.write(object);
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let numbers = [
            ("http.response.status_code", u64::from(self.status)),
            ("http.request.body.size", self.bytes_in),
            ("http.response.body.size", self.bytes_out),
            ("duration_us", micros(self.duration)),
            ("overhead_us", micros(self.overhead)),
            ("queue_us", micros(self.queued)),
        ];
        for (key, value) in numbers.into_iter().filter(|(_, value)| *value > 0) {
            object.number(key, value);
        }
    }
}
