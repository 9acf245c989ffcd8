//! What lets a call in besides its identity: the policy, the limits, and a place in the record. `request_filter` says in which order.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

use super::context::{Context, Reached, Record, Ruling};
use super::plan::{Exchange, Shape};
use super::pump::{has_left, while_client_stays};
use super::refusal::Refusal;
use super::{Gateway, Shared, strict};
use crate::audit::Slot;
use crate::catalog::{self, Kind};
use crate::config::OnChange;
use crate::identity::{Caller, Credential, Method, Proof, Unproven};
use crate::limits::{self, Permits};
use crate::mcp::{self, Annotations, Call, Era, Listed, Passes, Shows};
use crate::policy::{Asked, Effect, Marks, Subject};
use crate::routes::{Route, Server};
use crate::sessions::SessionKey;
use crate::snapshot::Snapshot;
use crate::telemetry::Reason;
use crate::tls::Peer;
use crate::upstream::{Pool, now_ms};

/// What a request was let in with; all of it is given back at its end.
#[derive(Default)]
pub(super) struct Admission {
    /// Its places among the calls that run at once, or among the streams that are open.
    pub(super) permits: Permits,
    /// What it leaves behind for combination rules.
    pub(super) marks: Marks,
    /// Its place in the record.
    pub(super) slot: Option<Slot>,
}

/// Whether a call's turn came while there was somebody to answer.
#[must_use]
pub(super) enum Turn {
    /// It did.
    Came,
    /// Its client left before.
    ClientLeft,
}

/// What the policy is asked about.
#[derive(Clone, Copy)]
pub(super) struct Wish<'a> {
    /// The JSON-RPC method, or the HTTP method of a request without a message.
    pub(super) method: &'a str,
    /// What it names.
    pub(super) subject: Subject<'a>,
    /// The arguments as they were sent.
    pub(super) arguments: Option<&'a str>,
    /// The era, in whose words a hidden name is answered.
    pub(super) era: Era,
}

impl<'a> Wish<'a> {
    /// What a message asks for.
    pub(super) fn of(call: &'a Call<'_>) -> Self {
        Self {
            method: call.method(),
            subject: Subject::of(call),
            arguments: call.envelope.params.arguments,
            era: call.era,
        }
    }

    /// A request of a legacy session that has no message.
    pub(super) fn bare(method: &'a str) -> Self {
        Self { method, subject: Subject::Method, arguments: None, era: Era::Legacy }
    }

    /// The same by the server's own name.
    pub(super) fn named(mut self, own: Option<&'a str>) -> Self {
        self.subject = match (self.subject, own) {
            (Subject::Tool(_), Some(own)) => Subject::Tool(own),
            (Subject::Prompt(_), Some(own)) => Subject::Prompt(own),
            (Subject::Resource(_), Some(own)) => Subject::Resource(own),
            (Subject::Template(_), Some(own)) => Subject::Template(own),
            (subject, _) => subject,
        };
        self
    }

    pub(super) fn tool(&self) -> Option<&'a str> {
        match self.subject {
            Subject::Tool(name) => Some(name),
            _ => None,
        }
    }
}

impl Context {
    /// The call is over and holds nothing any more. This comes before its client can know, because
    /// that may ask again at once. A call that reached no server has not run, and leaves no mark.
    pub(super) fn give_back(&mut self) {
        let Admission { permits, marks, slot: _ } = &mut self.admission;
        drop(std::mem::take(permits));
        let marks = std::mem::take(marks);
        if self.record.reached == Reached::Gateway {
            marks.take_back();
        }
    }
}

impl Gateway {
    /// A place in the record, before anything is decided: what is refused is recorded too.
    pub(super) async fn reserve_record(&self, ctx: &mut Context) -> Result<(), Refusal> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let slot = in_turn(&mut ctx.record, audit.reserve()).await;
        ctx.admission.slot = Some(slot.map_err(|_full| Reason::AuditFull)?);
        Ok(())
    }

    /// May they? The rules, by who asks and what the server says of what is asked for.
    pub(super) fn authorize(
        &self,
        ctx: &mut Context,
        route: &Route,
        caller: &Arc<Caller>,
        wish: Wish<'_>,
    ) -> Result<(), Refusal> {
        let Context { snapshot, record, .. } = ctx;
        let server = route.server(record.member).ok_or(Reason::Internal)?;
        let Server { pool, listed } = server;
        let on_change = pool.settings().definitions.on_change;
        if let (OnChange::Refuse, Some(tool)) = (on_change, wish.tool())
            && listed.awaits_approval(tool)
        {
            return Err(Reason::DefinitionPending.into());
        }
        if snapshot.policy.is_empty() && on_change == OnChange::Record {
            return Ok(());
        }
        let seen = kind_of(wish.subject).map(|(kind, name)| {
            let seen = listed.seen_by(caller.fingerprint(), now_ms());
            (seen, kind, name)
        });
        let definition = seen.as_ref().and_then(|(seen, kind, name)| seen.find(*kind, name));
        if definition.is_none() && seen.is_some() {
            listed.in_doubt();
        }
        let decision = snapshot.policy.authorize(&Asked {
            caller,
            server: pool.name(),
            method: wish.method,
            subject: wish.subject,
            annotations: definition.map(|definition| &definition.annotations),
            arguments: wish.arguments.map(str::as_bytes),
            client: record.client,
        });
        record.ruling = Ruling {
            rule: decision.rule.cloned(),
            reason: Some(decision.reason),
            shadow: decision.shadow.map(|shadow| (shadow.outcome, shadow.rule.cloned())),
        };
        match decision.effect {
            Effect::Allowed => {}
            Effect::Hidden => return Err(Refusal::hidden(wish.subject, wish.era)),
            Effect::Forbidden => return Err(Reason::PolicyForbidden.into()),
            Effect::ScopeMissing(scopes) => {
                let challenge = route.challenge.insufficient_scope(
                    scopes.iter().copied(),
                    "the call needs scopes that the token lacks",
                );
                return Err(Refusal::scope_missing(challenge));
            }
        }
        if Listed::of_method(wish.method).is_some() || wish.method == "GET" {
            ctx.shows = Permitted::unless_all(&self.shared, server, caller, ctx);
        }
        Ok(())
    }

    /// Of which of several servers may they ask it? Of none is no.
    pub(super) fn authorize_each(
        &self,
        ctx: &mut Context,
        route: &Route,
        caller: &Arc<Caller>,
        wish: Wish<'_>,
    ) -> Result<Vec<usize>, Refusal> {
        let count = route.federation().map_or(0, |federation| federation.members().len());
        let (mut members, mut refusal) = (Vec::with_capacity(count), None);
        let mut allowed = None;
        for member in 0..count {
            ctx.record.member = Some(member);
            match self.authorize(ctx, route, caller, wish) {
                Ok(()) => {
                    members.push(member);
                    allowed.get_or_insert_with(|| std::mem::take(&mut ctx.record.ruling));
                }
                Err(refused) => refusal = Some(refused),
            }
        }
        // What is recorded is why it may be asked at all.
        if let Some(allowed) = allowed {
            ctx.record.ruling = allowed;
        }
        (ctx.record.member, ctx.shows) = (None, None);
        match refusal {
            Some(refusal) if members.is_empty() => Err(refusal),
            _ => Ok(members),
        }
    }

    /// A listen request also subscribes: to each resource that it names, as `resources/subscribe` would.
    pub(super) fn authorize_listening(
        &self,
        ctx: &mut Context,
        route: &Route,
        caller: &Arc<Caller>,
        body: &[u8],
    ) -> Result<(), Refusal> {
        if ctx.snapshot.policy.is_empty() {
            return Ok(());
        }
        let era = Era::Modern;
        let Some(uris) = mcp::listened_resources(body) else {
            return Err(Refusal::hidden(Subject::Resource(""), era));
        };
        for uri in &uris {
            let (method, subject) = ("resources/subscribe", Subject::Resource(uri));
            self.authorize(ctx, route, caller, Wish { method, subject, arguments: None, era })?;
        }
        Ok(())
    }

    /// Whether this configuration would accept a connection that has shown this.
    pub(super) fn is_admitted(&self, snapshot: &Snapshot, peer: Option<&Peer>) -> bool {
        let terminator = snapshot.tls.get(self.listener).and_then(Option::as_ref);
        terminator.is_none_or(|terminator| terminator.admits(peer))
    }

    /// Whether the configuration in force would still let the caller of a stream in. It began under
    /// another one.
    pub(super) fn is_welcome(&self, head: &RequestHeader, ctx: &Context) -> bool {
        self.is_welcome_at(head, ctx, None, |current, caller, server| {
            // A stream that began without a filter cannot get one now.
            let client = ctx.record.client;
            ctx.shows.is_some() || current.policy.listing(caller, server, client).is_open()
        })
    }

    /// The same for a stream of these servers, or of all that the route has now; each must be one
    /// that the caller `may_see`.
    pub(super) fn is_welcome_at(
        &self,
        head: &RequestHeader,
        ctx: &Context,
        servers: Option<&[&str]>,
        may_see: impl Fn(&Snapshot, &Arc<Caller>, &str) -> bool,
    ) -> bool {
        let current = self.snapshot();
        if Arc::ptr_eq(&current, &ctx.snapshot) {
            return true;
        }
        if !self.is_admitted(&current, ctx.peer.as_deref()) {
            return false;
        }
        let (Some(caller), Some(began)) = (&ctx.record.caller, &ctx.record.route) else {
            return true;
        };
        let Some(route) = current.routes.find(&began.path) else { return false };
        // A certificate is the connection's, and was checked above.
        let proven = match caller.method() {
            Method::Certificate => Arc::clone(caller),
            _ => {
                let authorization = strict::credential(&head.headers);
                let credential = Credential { authorization, certificate: None };
                let now = SystemTime::now();
                match current.identity.authenticate(credential, &route.audience, now) {
                    Proof::Known(proven) => proven,
                    Proof::Refused(Unproven::Missing | Unproven::Invalid) => return false,
                    // Whoever is away now vouched for it when the stream began.
                    Proof::Refused(Unproven::Unavailable) | Proof::Ask(_) => Arc::clone(caller),
                }
            }
        };
        let is_allowed = |server: &str| {
            let decision = current.policy.authorize(&Asked {
                caller: &proven,
                server,
                method: &ctx.record.method,
                subject: Subject::Method,
                annotations: None,
                arguments: None,
                client: ctx.record.client,
            });
            decision.effect == Effect::Allowed && may_see(&current, &proven, server)
        };
        let is_same = proven.digest() == caller.digest();
        is_same
            && match servers {
                Some(servers) => servers.iter().all(|server| is_allowed(server)),
                None => route.server_names(ctx.record.member).into_iter().all(is_allowed),
            }
    }

    /// How much? What can be told before the body is read.
    pub(super) async fn admit_early(
        &self,
        ctx: &mut Context,
        route: &Route,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        let Context { snapshot, record, .. } = ctx;
        if snapshot.limits.is_empty() {
            return Ok(());
        }
        let subject = subject(record, route, caller);
        let admitted = in_turn(record, snapshot.limits.admit_early(&subject)).await;
        admitted.map_err(|refused| limited(ctx, &refused))
    }

    /// How much? Everything about the call is known. A call that waits for its turn, and ends with its
    /// client, does not go on without it.
    pub(super) async fn admit(
        &self,
        client: &mut ServerSession,
        ctx: &mut Context,
        (route, caller): (&Route, &Caller),
        wish: Wish<'_>,
        (shape, session): (Shape, Option<SessionKey>),
    ) -> Result<Turn, Refusal> {
        let Context { snapshot, record, admission, .. } = ctx;
        let subject = limits::Subject {
            tool: wish.tool(),
            session: session.as_ref().map(|key| &key.0[..]),
            ..subject(record, route, caller)
        };
        let admitting = async {
            match shape.exchange {
                Exchange::Stream => snapshot.limits.admit_stream(&subject).await,
                _ => snapshot.limits.admit(&subject).await,
            }
        };
        let admitted = match shape.ends_with_client() {
            false => in_turn(record, admitting).await,
            true => {
                let staying = in_turn(record, while_client_stays(client, admitting)).await;
                let Some(admitted) = staying else { return Ok(Turn::ClientLeft) };
                // It may have left while it waited for something before its body was read.
                if !record.queued.is_zero() && has_left(client).await {
                    return Ok(Turn::ClientLeft);
                }
                admitted
            }
        };
        match admitted {
            Ok(permits) => {
                admission.permits = permits;
                Ok(Turn::Came)
            }
            Err(refused) => Err(limited(ctx, &refused)),
        }
    }

    /// Whether the client's address may ask at all, whoever it is.
    pub(super) fn admit_address(&self, ctx: &mut Context) -> Result<(), Refusal> {
        let Some(client) = ctx.record.client else { return Ok(()) };
        let admitted = ctx.snapshot.limits.admit_address(self.listener, client);
        admitted.map_err(|refused| limited(ctx, &refused))
    }
}

/// Waits until it is the request's turn. Time is looked at only if that is not now.
async fn in_turn<T>(record: &mut Record, turn: impl Future<Output = T>) -> T {
    let mut turn = std::pin::pin!(turn);
    if let Poll::Ready(now) = futures::poll!(turn.as_mut()) {
        return now;
    }
    let began = Instant::now();
    let came = turn.await;
    record.note_queued(began.elapsed());
    came
}

fn subject<'a>(record: &Record, route: &'a Route, caller: &'a Caller) -> limits::Subject<'a> {
    limits::Subject {
        caller: Some(caller),
        tool: None,
        server: route.server(record.member).map(|server| server.pool.name()),
        session: None,
        route: &route.digest,
        address: record.client,
    }
}

fn limited(ctx: &mut Context, refused: &limits::Refused) -> Refusal {
    ctx.record.limit = Some(Arc::clone(&refused.limit));
    Refusal::limited(refused)
}

fn kind_of(subject: Subject<'_>) -> Option<(Kind, &str)> {
    match subject {
        Subject::Tool(name) => Some((Kind::Tools, name)),
        Subject::Prompt(name) => Some((Kind::Prompts, name)),
        Subject::Resource(name) => Some((Kind::Resources, name)),
        Subject::Template(name) => Some((Kind::Templates, name)),
        Subject::Method => None,
    }
}

/// What one caller sees in the lists of a server, by the policy in force when a list passes, and of the
/// definitions that its server has changed.
struct Permitted {
    shared: Arc<Shared>,
    caller: Arc<Caller>,
    pool: Arc<Pool>,
    listed: Arc<catalog::Listed>,
    client: Option<IpAddr>,
}

impl Permitted {
    /// `None` where everything may be seen, so that lists pass untouched.
    fn unless_all(
        shared: &Arc<Shared>,
        Server { pool, listed }: Server<'_>,
        caller: &Arc<Caller>,
        ctx: &Context,
    ) -> Option<Arc<dyn Shows>> {
        let client = ctx.record.client;
        let is_open = ctx.snapshot.policy.listing(caller, pool.name(), client).is_open();
        if is_open && pool.settings().definitions.on_change == OnChange::Record {
            return None;
        }
        let (shared, caller) = (Arc::clone(shared), Arc::clone(caller));
        let (pool, listed) = (Arc::clone(pool), Arc::clone(listed));
        Some(Arc::new(Self { shared, caller, pool, listed, client }))
    }
}

impl Shows for Permitted {
    fn shows(&self, listed: Listed, name: &str, annotations: Option<&Annotations>) -> bool {
        let snapshot = self.shared.snapshot();
        let listing = snapshot.policy.listing(&self.caller, self.pool.name(), self.client);
        listing.shows(listed, name, annotations)
    }

    fn passes(&self, listed: Listed, name: &str, entry: &str) -> Passes {
        let on_change = self.pool.settings().definitions.on_change;
        if listed != Listed::Tool {
            return Passes::AsItIs;
        }
        match self.listed.passing(on_change, name, entry.as_bytes()) {
            catalog::Passing::AsItIs => Passes::AsItIs,
            catalog::Passing::Instead(before) => Passes::Instead(before),
            catalog::Passing::Hidden => Passes::Nothing,
        }
    }
}
