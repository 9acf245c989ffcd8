//! Whose is a message? On a route with several servers, what it names says so, or what it sends back.

use std::borrow::Cow;
use std::time::SystemTime;

use pingora::http::RequestHeader;

use super::context::Context;
use super::placing::open_session;
use super::plan::What;
use super::refusal::Refusal;
use crate::catalog;
use crate::federation::{Federation, Found, Holder, Moment, Onward, Splices, onward};
use crate::identity::Caller;
use crate::jsonrpc::Text;
use crate::mcp::{Call, Class, Era, Kind, Listed};
use crate::policy::Subject;
use crate::routes::Route;
use crate::sessions::{Binding, SessionState, seconds};
use crate::telemetry::Reason;

/// How long a client may take to go on with a call that asked it for something.
const STATE_AGE_MAX_S: u32 = 60 * 60;

/// Whose a message is.
pub(super) struct Lead<'c> {
    pub(super) whose: Whose<'c>,
    /// The legacy session of the client.
    pub(super) session: Option<SessionState>,
}

/// Whose a message is.
pub(super) enum Whose<'c> {
    /// A server's. The context has its index.
    Server {
        /// What the server calls what is named, where it is named.
        own: Option<Cow<'c, str>>,
        /// What reads differently for the server.
        splices: Splices<'c>,
    },
    /// The gateway's: all servers answer it together.
    Gateway(What),
}

impl Lead<'_> {
    /// The message of a route with one server.
    pub(super) fn plain() -> Self {
        Self { whose: Whose::Server { own: None, splices: Splices::default() }, session: None }
    }
}

/// Finds whose a message is.
pub(super) async fn find<'c>(
    federation: &'c Federation,
    head: &RequestHeader,
    (route, caller): (&Route, &Caller),
    (body, call): (&[u8], &'c Call<'_>),
    ctx: &mut Context,
) -> Result<Lead<'c>, Refusal> {
    if !federation.speaks(call.era) {
        let requested = call.revision.map_or("", |revision| revision.as_str());
        return Err(Refusal::revision_not_among(&federation.versions(), requested));
    }
    let session = match (call.era, call.kind) {
        (Era::Modern, _) | (Era::Legacy, Kind::Request(Class::Initialize)) => None,
        (Era::Legacy, _) => Some(open_session(head, route, caller, ctx).await?),
    };
    if let Some(what) = what(federation, call) {
        return Ok(Lead { whose: Whose::Gateway(what), session });
    }
    let holder = Holder {
        sealing: &ctx.snapshot.sealing,
        session: session.as_ref().map(|session| session.key),
        binding: Binding { route: &route.digest, caller: caller.digest() },
    };
    let moment = Moment { now: seconds(SystemTime::now()), state_age_max: STATE_AGE_MAX_S };
    let Onward { member: sent_back, task_id, mut splices } = match is_gone(call) {
        true => Onward::default(),
        false => match onward(&holder, body, &call.envelope, moment) {
            Ok(onward) => onward,
            // A single server may say itself what it thinks of a task that it did not name.
            Err(_) if federation.members().len() == 1 && is_of_task(call) => Onward::default(),
            Err(_) => return Err(Reason::HandleUnknown.into()),
        },
    };
    let sent_back = match sent_back {
        Some(id) => Some(member_of(federation, id)?),
        None => None,
    };
    let (member, own) = match named(call) {
        Some((kind, shown)) => {
            let (member, own) = of_name(federation, kind, shown.as_str(), call)?;
            if *own != *shown.as_str() {
                splices.text(shown.span(), &own);
            }
            (member, Some(own))
        }
        None => match sent_back {
            Some(member) => (member, task_id.map(Cow::Owned)),
            // Whatever it is, there is nobody else.
            None if federation.members().len() == 1 => (0, None),
            None if call.kind == Kind::Notification => {
                return Ok(Lead { whose: Whose::Gateway(What::Accept), session });
            }
            // It answers nothing that any of them asked.
            None if call.kind == Kind::Response => return Err(Reason::HandleUnknown.into()),
            None => return Err(unknown_method(call.era)),
        },
    };
    if sent_back.is_some_and(|sent_back| sent_back != member) {
        return Err(Reason::HandleUnknown.into());
    }
    if !federation.member_speaks(member, call.era) {
        return Err(Refusal::hidden(Subject::of(call), call.era));
    }
    ctx.record.member = Some(member);
    Ok(Lead { whose: Whose::Server { own, splices }, session })
}

fn is_of_task(call: &Call<'_>) -> bool {
    call.method().starts_with("tasks/")
}

/// Whether the method is one that no server has: 2026-07-28 has taken it away.
fn is_gone(call: &Call<'_>) -> bool {
    call.era == Era::Modern && call.method() == "tasks/result"
}

fn member_of(federation: &Federation, id: [u8; 4]) -> Result<usize, Refusal> {
    let place = federation.members().iter().position(|member| member.id.0 == id);
    // The server is no longer one of the route's.
    place.ok_or_else(|| Reason::HandleUnknown.into())
}

fn of_name<'c>(
    federation: &'c Federation,
    kind: catalog::Kind,
    shown: &'c str,
    call: &Call<'_>,
) -> Result<(usize, Cow<'c, str>), Refusal> {
    match federation.find(kind, shown) {
        Found::At { member, own } => Ok((member, own)),
        Found::Ambiguous | Found::Unknown => Err(Refusal::hidden(Subject::of(call), call.era)),
        Found::NotYet => Err(Reason::CatalogUnknown.into()),
    }
}

/// What a message names, if it names something that is one server's.
fn named<'c>(call: &'c Call<'_>) -> Option<(catalog::Kind, &'c Text<'c>)> {
    let params = &call.envelope.params;
    match call.method() {
        "tools/call" => Some((catalog::Kind::Tools, params.name.as_ref()?)),
        "prompts/get" => Some((catalog::Kind::Prompts, params.name.as_ref()?)),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            Some((catalog::Kind::Resources, params.uri.as_ref()?))
        }
        "completion/complete" => {
            let reference = params.reference.as_ref()?;
            match Subject::of(call) {
                Subject::Template(_) => Some((catalog::Kind::Templates, reference.uri.as_ref()?)),
                _ => Some((catalog::Kind::Prompts, reference.name.as_ref()?)),
            }
        }
        _ => None,
    }
}

/// What the gateway does itself, if it is that.
fn what(federation: &Federation, call: &Call<'_>) -> Option<What> {
    if let Some(listed) = Listed::of_method(call.method()) {
        return Some(What::List(listed.into()));
    }
    match call.method() {
        // A single server answers it itself, and where none does nobody knows the method.
        "tasks/list" if call.era == Era::Legacy && federation.members().len() > 1 => {
            let is_any = (0..federation.members().len()).any(|of| federation.lists_tasks(of));
            is_any.then_some(What::ListTasks)
        }
        "initialize" => Some(What::OpensSession),
        "server/discover" => Some(What::Discover),
        "ping" => Some(What::Ping),
        "logging/setLevel" => Some(What::Level),
        "subscriptions/listen" => Some(What::Listen),
        // Every server was told when its session was opened.
        "notifications/initialized" => Some(What::Accept),
        // What it cancels is known to one server, and nothing to the others. Progress of what a
        // server asked for is that server's.
        "notifications/progress" => None,
        _ if call.kind != Kind::Notification => None,
        // Nothing of a modern notification goes beyond its request.
        _ if call.era == Era::Modern && federation.members().len() > 1 => Some(What::Accept),
        _ if call.era == Era::Modern => None,
        _ => Some(What::Tell),
    }
}

fn unknown_method(era: Era) -> Refusal {
    let refusal = Refusal::from(Reason::MethodUnknown);
    match era {
        Era::Modern => refusal,
        // As servers of that time answer it.
        Era::Legacy => Refusal { status: 200, ..refusal },
    }
}
