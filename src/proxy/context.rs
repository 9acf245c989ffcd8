//! What one request carries from phase to phase.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::{BError, Error, ErrorType};

use super::admission::Admission;
use super::plan::Plan;
use super::trace::Trace;
use crate::audit::Arguments;
use crate::identity::Caller;
use crate::jsonrpc::OwnedId;
use crate::mcp::{Class, Revision, Shows, Verdict};
use crate::policy;
use crate::routes::{Route, Server};
use crate::snapshot::Snapshot;
use crate::telemetry::{Labels, Outcome, Reason};
use crate::tls::Peer;
use crate::upstream::{Endpoint, Loss};

/// The state of one request. The snapshot is pinned when it is made, so that one request sees one
/// configuration from beginning to end.
pub struct Context {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) started: Instant,
    pub(super) request_id: [u8; 16],
    stage: Stage,
    pub(super) record: Record,
    /// What it was let in with.
    pub(super) admission: Admission,
    /// What the caller may see in lists, if that is not everything.
    pub(super) shows: Option<Arc<dyn Shows>>,
    /// The certificate that the connection has shown.
    pub(super) peer: Option<Arc<Peer>>,
    /// Where it stands in which trace, once that is known and if anybody wants to know.
    pub(super) trace: Option<Trace>,
}

/// How far the request has come.
enum Stage {
    /// Nothing is decided.
    Deciding,
    /// Decided; the plan waits to be carried out.
    Planned(Box<Plan>),
    /// The plan was taken.
    Driving,
    /// The request went on elsewhere; what is left of it here says nothing.
    HandedOver,
}

/// What the log and the metrics say at the end. It only grows.
#[derive(Default)]
pub(super) struct Record {
    pub(super) route: Option<Arc<Route>>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) method: Cow<'static, str>,
    pub(super) target: Option<Box<str>>,
    /// Of several servers the one that it goes to, by its index.
    pub(super) member: Option<usize>,
    /// What that server itself calls what is named.
    pub(super) own_target: Option<Box<str>>,
    pub(super) is_tool_call: bool,
    pub(super) id: Option<OwnedId>,
    pub(super) session: Option<[u8; 4]>,
    /// The revision that the headers or the session name.
    pub(super) revision: Option<Revision>,
    /// What the policy decided.
    pub(super) ruling: Ruling,
    /// The limit that refused.
    pub(super) limit: Option<Arc<str>>,
    /// What the record keeps of the arguments.
    pub(super) arguments: Arguments,
    /// How far the request came.
    pub(super) reached: Reached,
    /// Time spent waiting for a turn, or for room in the record; a part of what was waited.
    pub(super) queued: Duration,
    /// Why the session moved for this request, if it did.
    pub(super) moved: Option<Loss>,
    pub(super) client: Option<IpAddr>,
    pub(super) origin_allowed: bool,
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) status: u16,
    pub(super) outcome: Option<Outcome>,
    pub(super) reason: Option<Reason>,
    /// The code of the JSON-RPC error that it was refused with.
    pub(super) refusal_code: Option<i32>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Time spent waiting for the server or the client.
    pub(super) waited: Duration,
    /// Whether the caller made the same call a short while ago.
    pub(super) is_repeat: bool,
    /// What the server's answer says of the call.
    pub(super) verdict: Verdict,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reached {
    /// No server has seen a byte of it.
    #[default]
    Gateway,
    /// The gateway answered it itself, for several servers.
    Answered,
    /// A server may have seen it, and may have run it.
    Server,
}

/// What the policy decided, and by which rule.
#[derive(Default)]
pub(super) struct Ruling {
    pub(super) rule: Option<Arc<str>>,
    pub(super) reason: Option<policy::Reason>,
    /// What rules in shadow would have decided instead, and which.
    pub(super) shadow: Option<(policy::Outcome, Option<Arc<str>>)>,
}

impl Context {
    pub(super) fn new(snapshot: Arc<Snapshot>, request_id: [u8; 16]) -> Self {
        Self {
            snapshot,
            started: Instant::now(),
            request_id,
            stage: Stage::Deciding,
            record: Record::default(),
            admission: Admission::default(),
            shows: None,
            peer: None,
            trace: None,
        }
    }

    /// The request's id as text.
    pub(super) fn request_id(&self) -> &str {
        // The bytes are hexadecimal digits by construction.
        std::str::from_utf8(&self.request_id).unwrap_or_default()
    }

    /// The request's state, for whoever goes on with it.
    pub(super) fn hand_over(&mut self) -> Self {
        let mut left = Self::new(Arc::clone(&self.snapshot), self.request_id);
        left.stage = Stage::HandedOver;
        std::mem::replace(self, left)
    }

    /// Whether the request went on elsewhere.
    pub(super) fn is_handed_over(&self) -> bool {
        matches!(self.stage, Stage::HandedOver)
    }

    /// Hands the plan to the phases that carry it out.
    pub(super) fn plan(&mut self, plan: Plan) {
        self.stage = Stage::Planned(Box::new(plan));
    }

    /// The plan, once. Only a phase that runs out of order finds none, and that is our fault.
    pub(super) fn planned(&mut self) -> Result<Box<Plan>, BError> {
        match std::mem::replace(&mut self.stage, Stage::Driving) {
            Stage::Planned(plan) => Ok(plan),
            Stage::Deciding | Stage::Driving | Stage::HandedOver => {
                Error::e_explain(ErrorType::InternalError, "a phase ran without its plan")
            }
        }
    }
}

impl Record {
    /// The server that it goes to, once that is known.
    pub(super) fn server(&self) -> Option<Server<'_>> {
        self.route.as_deref()?.server(self.member)
    }

    /// The name of that server.
    pub(super) fn server_name(&self) -> &str {
        self.server().map_or("", |server| server.pool.name())
    }

    /// The request waited for its turn.
    pub(super) fn note_queued(&mut self, queued: Duration) {
        self.queued += queued;
        self.waited += queued;
    }

    /// Whether a label of the request is a name that so far only the client has said: a tool, or a
    /// method that the specification does not have (those it has are constants, and borrowed).
    pub(super) fn has_claimed_name(&self) -> bool {
        self.is_tool_call || matches!(self.method, Cow::Owned(_))
    }

    /// The server's answer has come to its end: what it says decides how the request ended.
    pub(super) fn judge(&mut self, verdict: Verdict, expects: Expects) {
        self.verdict = verdict;
        if self.outcome == Some(Outcome::Ok) {
            self.outcome = Some(match (verdict, expects) {
                (Verdict::ToolError, _) => Outcome::ToolError,
                (Verdict::Error(_), _) => Outcome::RpcError,
                (Verdict::None | Verdict::Unclear, Expects::Answer) => Outcome::Unanswered,
                _ => Outcome::Ok,
            });
        }
    }

    /// What must come back for the message.
    pub(super) fn expects(&self) -> Expects {
        match Class::of(&self.method) {
            Class::Notification => Expects::Nothing,
            // A client's response to the server has no method.
            _ if self.method.is_empty() => Expects::Nothing,
            _ => Expects::Answer,
        }
    }

    /// The labels the request is counted under; none before it has a route.
    pub(super) fn labels(&self) -> Option<Labels<'_>> {
        let route = self.route.as_deref()?;
        let tool = match self.is_tool_call {
            true => self.target.as_deref().unwrap_or_default(),
            false => "",
        };
        Some(Labels {
            route: &route.path,
            server: self.server_name(),
            method: &self.method,
            caller: self.caller.as_deref().map_or("", Caller::id),
            tool,
        })
    }
}

/// What a server owes a client for its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    /// The answer to a request.
    Answer,
    /// Nothing: the message is no request, or listens only.
    Nothing,
}

/// What joins the log lines of a session: the start of its id, which is random and opens nothing.
pub(super) fn short_digest(token: &str) -> [u8; 4] {
    let mut short = [0; 4];
    for (byte, from) in short.iter_mut().zip(token.bytes()) {
        *byte = from;
    }
    short
}
