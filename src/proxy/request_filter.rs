//! Decides what happens to a request. This is the product in one file: read [`Gateway::decide`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::Method;
use pingora::http::RequestHeader;
use pingora_proxy::Session;

use super::Gateway;
use super::admission::{Turn, Wish};
use super::answer::METHODS;
use super::context::Context;
use super::finding::{Lead, Whose, find};
use super::placing::{anywhere, is_over, locate, locate_leg, open, place_legacy};
use super::plan::{Errand, Exchange, Forward, Held, Placement, Plan, Repeat, Shape, Way, What};
use super::refusal::{Refusal, TokenSent};
use super::strict::Ambiguous;
use super::{body, hosts, strict};
use crate::config::Listener;
use crate::federation::Splices;
use crate::identity::{Caller, Credential, Identity, Proof, Shown, Unproven};
use crate::jsonrpc::peek;
use crate::mcp::{
    self, Call, Claims, Class, Era, HEADER_MISMATCH, Kind, MCP_METHOD, MCP_NAME,
    MCP_PROTOCOL_VERSION, MCP_SESSION_ID, Revision, Violation,
};
use crate::routes::{Route, Server};
use crate::sessions::SessionState;
use crate::telemetry::{CallKey, Reason};
use crate::tls::Peer;
use crate::upstream::{Pool, now_ms};

impl Gateway {
    /// The walk of a request, cheap checks before dear ones: nothing below a line runs before the
    /// line has passed.
    pub(super) async fn decide(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Plan, Refusal> {
        self.admit_address(ctx)?;
        self.reserve_record(ctx).await?;
        strict::check(session.req_header()).map_err(malformed)?;
        self.check_certificate(session, ctx)?;
        self.check_host_and_origin(session, ctx)?;
        if let Some(metadata) = find_metadata(session, ctx)? {
            return Ok(metadata);
        }
        let route = find_route(session, ctx)?;
        if session.req_header().method == Method::OPTIONS {
            return Ok(Plan::Preflight);
        }
        let caller = self.authenticate(session, ctx, &route).await?;
        self.admit_early(ctx, &route, &caller).await?;
        match session.req_header().method {
            Method::POST => self.decide_message(session, ctx, &route, &caller).await,
            Method::GET => self.of_session(session, ctx, &route, &caller, Exchange::Stream).await,
            Method::DELETE => {
                self.of_session(session, ctx, &route, &caller, Exchange::EndsSession).await
            }
            _ => Err(Refusal::verb(METHODS)),
        }
    }

    /// Who is calling. A token of which nobody knows is asked about, and the request waits for it.
    async fn authenticate(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        route: &Route,
    ) -> Result<Arc<Caller>, Refusal> {
        let identity = &ctx.snapshot.identity;
        let credential = self.credential(session, identity, &ctx.snapshot.listeners);
        let proof = identity.authenticate(credential, &route.audience, SystemTime::now());
        let proven = match proof {
            Proof::Known(caller) => Ok(caller),
            Proof::Refused(unproven) => Err(unproven),
            Proof::Ask(pending) => {
                let asked = Instant::now();
                let proven = pending.answer().await;
                ctx.record.waited += asked.elapsed();
                proven
            }
        };
        if let Some(header) = identity.certificate_header() {
            // What it says of the client is the gateway's business, whoever wrote it.
            session.req_header_mut().remove_header(header);
        }
        let caller = proven.map_err(|unproven| match unproven {
            Unproven::Missing => Refusal::unauthenticated(TokenSent::No, &route.challenge),
            Unproven::Invalid => Refusal::unauthenticated(TokenSent::Yes, &route.challenge),
            Unproven::Unavailable => Reason::IdentityUnavailable.into(),
        })?;
        ctx.record.caller = Some(Arc::clone(&caller));
        Ok(caller)
    }

    /// What the request shows of its caller. Behind a proxy that is believed to speak of
    /// certificates, the certificate of the connection is the proxy's, and never the caller's.
    fn credential<'s>(
        &self,
        session: &'s Session,
        identity: &Identity,
        listeners: &[Listener],
    ) -> Credential<'s> {
        let headers = &session.req_header().headers;
        let peer = session.client_addr().and_then(|address| address.as_inet());
        let is_trusted = |peer: IpAddr| {
            listeners[self.listener].trusted_proxies.iter().any(|net| net.contains(&peer))
        };
        let header = identity.certificate_header();
        let certificate = match header {
            Some(header) if peer.is_some_and(|peer| is_trusted(peer.ip().to_canonical())) => {
                strict::certificate(headers, header).map(Shown::ByProxy)
            }
            _ => of_connection(session).map(|peer| Shown::ByConnection(&peer.certificate)),
        };
        Credential { authorization: strict::credential(headers), certificate }
    }

    /// POST: one JSON-RPC message.
    async fn decide_message(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        route: &Arc<Route>,
        caller: &Arc<Caller>,
    ) -> Result<Plan, Refusal> {
        check_media(session)?;
        let limits = &ctx.snapshot.listeners[self.listener].limits;
        let body = body::read(session.as_mut(), route.body_bytes_max, limits.body_timeout).await?;
        ctx.record.bytes_in = body.len() as u64;
        let head = session.req_header();
        let call = read_call(head, &body, ctx)?;
        note(ctx, &call);
        self.trace(head, Some(&call.envelope), ctx);
        let lead = match route.federation() {
            Some(federation) => {
                find(federation, head, (route, caller), (&body, &call), ctx).await?
            }
            None => Lead::plain(),
        };
        match lead.whose {
            Whose::Server { own, splices } => {
                let lead = (own, splices, lead.session);
                self.decide_call(session, ctx, (route, caller), (&body, &call), lead).await
            }
            Whose::Gateway(what) => {
                let shape = shape(&call, None, None);
                let lead = (what, lead.session, shape);
                let wish = Wish::of(&call);
                self.decide_errand(session, ctx, (route, caller), (&body, wish), lead).await
            }
        }
    }

    /// A message for one server.
    async fn decide_call(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        (route, caller): (&Arc<Route>, &Arc<Caller>),
        (body, call): (&Bytes, &Call<'_>),
        (own, splices, legs): (Option<Cow<'_, str>>, Splices<'_>, Option<SessionState>),
    ) -> Result<Plan, Refusal> {
        let Server { pool, .. } = route.server(ctx.record.member).ok_or(Reason::Internal)?;
        // Refusals are recorded with both names too.
        let renamed = own.as_deref().filter(|own| call.target() != Some(own));
        ctx.record.own_target = renamed.map(Box::from);
        ctx.record.is_repeat = self.is_repeat(pool, caller, call, own.as_deref());
        let way = way(route, ctx, call, legs.as_ref());
        let head = session.req_header();
        let placement = match (call.era, legs) {
            (Era::Modern, _) => anywhere(head, pool, caller, call, ctx),
            (Era::Legacy, None) => place_legacy(head, (route, pool), caller, call, ctx).await?,
            (Era::Legacy, Some(legs)) => place_leg(head, (route, caller), call, legs, ctx).await?,
        };
        let shape = shape(call, own.as_deref(), Some(pool));
        let wish = Wish::of(call).named(own.as_deref());
        // The session is the client's: what it did at one server counts at all of them.
        let of_client = way.as_ref().and_then(|way| way.session);
        let key = of_client.or_else(|| placement.held().map(Held::key));
        self.authorize(ctx, route, caller, wish)?;
        if call.kind == Kind::Request(Class::Listen) {
            self.authorize_listening(ctx, route, caller, body)?;
        }
        self.remember_use(ctx, route, caller, wish, key)?;
        if ctx.admission.marks.are_unconfirmed() {
            self.confirm_use(ctx).await?;
        }
        let turn = self.admit(session.as_mut(), ctx, (route, caller), wish, (shape, key)).await?;
        if let Turn::ClientLeft = turn {
            return Ok(Plan::Abandoned);
        }
        let pool = Arc::clone(pool);
        rename(session, ctx, &placement)?;
        let body = match splices.is_empty() {
            true => body.clone(),
            false => splices.apply(body).into(),
        };
        Ok(Plan::Forward(Forward { pool, placement, shape, body, way }))
    }

    /// What the gateway answers itself, for those of the servers of which the caller may ask it.
    async fn decide_errand(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        (route, caller): (&Arc<Route>, &Arc<Caller>),
        (body, wish): (&Bytes, Wish<'_>),
        (what, legs, shape): (What, Option<SessionState>, Shape),
    ) -> Result<Plan, Refusal> {
        let members = self.authorize_each(ctx, route, caller, wish)?;
        let shaped = (shape, legs.as_ref().map(|legs| legs.key));
        let turn = self.admit(session.as_mut(), ctx, (route, caller), wish, shaped).await?;
        if let Turn::ClientLeft = turn {
            return Ok(Plan::Abandoned);
        }
        let body = body.clone();
        Ok(Plan::Errand(Box::new(Errand { what, members, session: legs, shape, body })))
    }

    /// GET and DELETE: the stream and the end of a legacy session. Nothing else has one (2026-07-28
    /// transport).
    async fn of_session(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        route: &Arc<Route>,
        caller: &Arc<Caller>,
        exchange: Exchange,
    ) -> Result<Plan, Refusal> {
        let head = session.req_header();
        let (method, repeat) = match exchange {
            Exchange::Stream => ("GET", Repeat::Harmless),
            _ => ("DELETE", Repeat::Never),
        };
        let shape = Shape { exchange, repeat, era: Era::Legacy };
        if exchange == Exchange::Stream && !strict::accepts(&head.headers, "text/event-stream") {
            return Err(Reason::NotAcceptable.into());
        }
        ctx.record.method = method.into();
        self.trace(head, None, ctx);
        let version = strict::text(&head.headers, MCP_PROTOCOL_VERSION);
        let is_modern =
            version.and_then(Revision::parse).is_some_and(|revision| revision.era() == Era::Modern);
        let token = strict::text(&head.headers, MCP_SESSION_ID).filter(|_| !is_modern);
        let Some(token) = token else { return Err(Refusal::verb("POST, OPTIONS")) };
        let state = open(token, version, route, caller, ctx)?;
        let wish = Wish::bare(method);
        if route.federation().is_some() {
            if is_over(&state, route, ctx).await {
                return Err(Reason::SessionUnknown.into());
            }
            let what = match exchange {
                Exchange::Stream => What::Listen,
                _ => What::EndsSession,
            };
            let (nothing, of) = (Bytes::new(), (route, caller));
            let lead = (what, Some(state), shape);
            return self.decide_errand(session, ctx, of, (&nothing, wish), lead).await;
        }
        let Server { pool, .. } = route.server(None).ok_or(Reason::Internal)?;
        let held = locate(state, pool, ctx).await?;
        self.authorize(ctx, route, caller, wish)?;
        let shaped = (shape, Some(held.key()));
        let turn = self.admit(session.as_mut(), ctx, (route, caller), wish, shaped).await?;
        if let Turn::ClientLeft = turn {
            return Ok(Plan::Abandoned);
        }
        Ok(Plan::Forward(Forward {
            pool: Arc::clone(pool),
            placement: Placement::Held(Box::new(held)),
            shape,
            body: Bytes::new(),
            way: None,
        }))
    }

    /// Whether the caller made the same call of a tool a short while ago.
    fn is_repeat(&self, pool: &Pool, caller: &Caller, call: &Call<'_>, own: Option<&str>) -> bool {
        let Some(tool) = call.tool().map(|shown| own.unwrap_or(shown)) else { return false };
        let arguments = call.envelope.params.arguments.unwrap_or_default().as_bytes();
        let server = pool.name();
        let key = CallKey { caller: caller.digest(), server, tool, arguments };
        self.repeats.saw(&key, now_ms() / 1000)
    }

    /// The handshake has checked what the client shows, and a certificate may have been revoked since:
    /// whoever is not let in any more needs another connection, and will not get one with this.
    fn check_certificate(&self, session: &mut Session, ctx: &mut Context) -> Result<(), Refusal> {
        ctx.peer = of_connection(session).cloned();
        if self.is_admitted(&ctx.snapshot, ctx.peer.as_deref()) {
            return Ok(());
        }
        session.as_mut().set_keepalive(None);
        Err(Reason::CertificateRefused.into())
    }

    /// DNS rebinding ends here: a browser that was lured to this address names a foreign host or
    /// origin (2026-07-28 transport, "Security Warning").
    fn check_host_and_origin(&self, session: &Session, ctx: &mut Context) -> Result<(), Refusal> {
        let head = session.req_header();
        let listener = &ctx.snapshot.listeners[self.listener];
        let authority = strict::authority(head).unwrap_or_default();
        if !hosts::host_is_allowed(&listener.allowed_hosts, authority) {
            return Err(Reason::HostRefused.into());
        }
        if let Some(origin) = strict::origin(&head.headers) {
            if !hosts::origin_is_allowed(&listener.allowed_origins, origin) {
                return Err(Reason::OriginRefused.into());
            }
            ctx.record.origin_allowed = true;
        }
        Ok(())
    }
}

/// What clients are told of a route before they have a token (RFC 9728 section 3).
fn find_metadata(session: &Session, ctx: &Context) -> Result<Option<Plan>, Refusal> {
    let head = session.req_header();
    let Some(document) = ctx.snapshot.routes.find_metadata(head.uri.path()) else {
        return Ok(None);
    };
    match head.method {
        Method::GET | Method::HEAD => Ok(Some(Plan::Metadata(document))),
        Method::OPTIONS => Ok(Some(Plan::Preflight)),
        _ => Err(Refusal::verb("GET, HEAD, OPTIONS")),
    }
}

fn find_route(session: &Session, ctx: &mut Context) -> Result<Arc<Route>, Refusal> {
    let found = ctx.snapshot.routes.find(session.req_header().uri.path());
    let route = Arc::clone(found.ok_or(Reason::RouteUnknown)?);
    route.metrics.in_flight.inc();
    ctx.record.route = Some(Arc::clone(&route));
    Ok(route)
}

fn of_connection(session: &Session) -> Option<&Arc<Peer>> {
    session.digest()?.ssl_digest.as_deref()?.extension.get()
}

fn check_media(session: &Session) -> Result<(), Refusal> {
    let headers = &session.req_header().headers;
    if !strict::is_json(headers) {
        return Err(Reason::MediaType.into());
    }
    let both = ["application/json", "text/event-stream"];
    if !both.iter().all(|kind| strict::accepts(headers, kind)) {
        return Err(Reason::NotAcceptable.into());
    }
    Ok(())
}

/// Reads the message and holds the headers against it.
fn read_call<'b>(
    head: &RequestHeader,
    body: &'b Bytes,
    ctx: &mut Context,
) -> Result<Call<'b>, Refusal> {
    let envelope = match peek(body) {
        Ok(envelope) => envelope,
        Err(fault) => {
            ctx.record.id = fault.id.map(crate::jsonrpc::Id::into_owned);
            return Err(Refusal::from(&fault));
        }
    };
    let id = envelope.reply_id();
    let claims = Claims {
        version: strict::text(&head.headers, MCP_PROTOCOL_VERSION),
        method: strict::text(&head.headers, MCP_METHOD),
        name: strict::text(&head.headers, MCP_NAME),
    };
    Call::read(claims, envelope).map_err(|violation| {
        ctx.record.id = id.map(crate::jsonrpc::Id::into_owned);
        match (violation, claims.version) {
            (Violation::UnknownRevision, Some(requested)) => {
                Refusal::unsupported_revision(requested)
            }
            _ => Refusal::from(violation),
        }
    })
}

/// Keeps what the log and the metrics will say of the message.
fn note(ctx: &mut Context, call: &Call<'_>) {
    ctx.record.method = match mcp::well_known(call.method()) {
        Some(name) => name.into(),
        None => call.method().to_owned().into(),
    };
    ctx.record.target = call.target().map(Box::from);
    ctx.record.is_tool_call = call.tool().is_some();
    ctx.record.revision = call.revision;
    // Whoever refuses it later answers with it.
    ctx.record.id = call.id().map(crate::jsonrpc::Id::into_owned);
    if let (Some(keeping), Some(arguments)) =
        (&ctx.snapshot.keeping, call.envelope.params.arguments)
    {
        ctx.record.arguments = keeping.keep(arguments.as_bytes());
    }
}

/// A leg of the client's session at the server that the call is for.
async fn place_leg(
    head: &RequestHeader,
    (route, caller): (&Route, &Caller),
    call: &Call<'_>,
    legs: SessionState,
    ctx: &Context,
) -> Result<Placement, Refusal> {
    let member = route
        .federation()
        .zip(ctx.record.member)
        .and_then(|(federation, member)| federation.members().get(member))
        .ok_or(Reason::Internal)?;
    Ok(match locate_leg(legs, member, ctx).await? {
        Some(held) => Placement::Held(Box::new(held)),
        None => anywhere(head, &member.pool, caller, call, ctx),
    })
}

/// The way back from one of several servers.
fn way(
    route: &Route,
    ctx: &Context,
    call: &Call<'_>,
    legs: Option<&SessionState>,
) -> Option<Box<Way>> {
    route.federation()?;
    let session = legs.map(|legs| legs.key);
    let id = call.id().map(crate::jsonrpc::Id::into_owned);
    Some(Box::new(Way { member: ctx.record.member?, session, id, subscription: None }))
}

/// The head says what the body says: the server's own name, and the revision of its own session.
fn rename(session: &mut Session, ctx: &Context, placement: &Placement) -> Result<(), Refusal> {
    let head = session.req_header_mut();
    if let Some(own) = &ctx.record.own_target
        && head.headers.contains_key(MCP_NAME)
    {
        head.insert_header(MCP_NAME, &*mcp::encode_name(own)).map_err(|_| Reason::Internal)?;
    }
    let revision = placement.held().filter(|_| ctx.record.member.is_some());
    if let Some(revision) = revision.and_then(|held| held.state.revision) {
        head.insert_header(MCP_PROTOCOL_VERSION, revision.as_str())
            .map_err(|_| Reason::Internal)?;
    }
    Ok(())
}

/// Operators name tools as their server does.
fn shape(call: &Call<'_>, own: Option<&str>, pool: Option<&Arc<Pool>>) -> Shape {
    let tool = call.tool().map(|shown| own.unwrap_or(shown));
    let (exchange, repeat) = match call.kind {
        Kind::Request(Class::Initialize) => (Exchange::OpensSession, Repeat::Harmless),
        Kind::Request(Class::Listen) => (Exchange::Stream, Repeat::Harmless),
        Kind::Request(class) if class.is_repeatable() => (Exchange::Message, Repeat::Harmless),
        Kind::Request(_) if tool.zip(pool).is_some_and(|(tool, pool)| pool.may_repeat(tool)) => {
            (Exchange::Message, Repeat::Harmless)
        }
        Kind::Request(_) | Kind::Notification | Kind::Response => {
            (Exchange::Message, Repeat::Never)
        }
    };
    Shape { exchange, repeat, era: call.era }
}

fn malformed(ambiguous: Ambiguous) -> Refusal {
    let refusal = Refusal::from(Reason::HeadMalformed);
    let (what, code) = match ambiguous {
        Ambiguous::Head(what) => (what, refusal.code),
        Ambiguous::Mirror(what) => (what, HEADER_MISMATCH),
    };
    Refusal { code, message: format!("malformed request head: {what}").into(), ..refusal }
}
