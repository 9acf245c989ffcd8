//! What the gateway answers itself on a route with several servers: what they say together.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::Method;
use http::header::CONTENT_TYPE;
use pingora::protocols::http::ServerSession;
use pingora::time::timeout;

use super::Gateway;
use super::answer;
use super::context::{Context, Reached};
use super::identity_headers::{subject, told};
use super::own_request::{self, OwnRequest, message_head};
use super::placing::locate_leg;
use super::plan::{Errand, Held, What};
use super::refusal::Refusal;
use crate::catalog::{self, Audience};
use crate::federation::{BadCursor, Federation, Holder, Lacks, ListAsk, Member};
use crate::jsonrpc::peek;
use crate::mcp::{self, Era, Listed, Revision, Verdict};
use crate::policy::Listing;
use crate::sessions::{Abandoned, Binding, Place, SessionState, seconds};
use crate::telemetry::{Outcome, Reason};
use crate::upstream::now_ms;

/// How long a client waits for what several servers are told. Who is slower has heard it all the same.
const TELL_MAX: Duration = Duration::from_secs(1);

/// What is answered.
enum Said {
    /// The result of a request, and the id of the session that it opens.
    Result(Bytes, Option<String>),
    /// A notification was taken.
    Accepted,
    /// A session has ended.
    Ended,
}

/// What a server is told.
pub(super) struct Message {
    pub(super) verb: Method,
    pub(super) body: Bytes,
}

impl Gateway {
    /// Does an errand, and answers it.
    pub(super) async fn run_errand(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        errand: &Errand,
    ) -> pingora::Result<()> {
        if errand.what == What::Listen {
            return self.merge(session, ctx, errand).await;
        }
        match self.do_errand(session, ctx, errand).await {
            Ok(said) => {
                ctx.record.reached = Reached::Answered;
                ctx.record.outcome = Some(Outcome::Ok);
                match said {
                    Said::Result(result, token) => {
                        ctx.record.verdict = Verdict::Ok;
                        let id = peek(&errand.body)
                            .ok()
                            .and_then(|envelope| envelope.reply_id().map(|id| id.raw().to_owned()));
                        let body = result_of(id.as_deref().unwrap_or("null"), &result);
                        answer::own(session, ctx, 200, body, token).await
                    }
                    Said::Accepted => answer::own(session, ctx, 202, Bytes::new(), None).await,
                    Said::Ended => answer::own(session, ctx, 200, Bytes::new(), None).await,
                }
            }
            Err(refusal) => answer::refuse(session, ctx, &refusal).await,
        }
    }

    async fn do_errand(
        &self,
        session: &ServerSession,
        ctx: &mut Context,
        errand: &Errand,
    ) -> Result<Said, Refusal> {
        let Some(route) = ctx.record.route.clone() else { return Err(Reason::Internal.into()) };
        let federation = route.federation().ok_or(Reason::Internal)?;
        match errand.what {
            What::OpensSession => {
                let asked = asked_revision(&errand.body);
                let greeting = federation.greeting(Era::Legacy, asked);
                let token = self.open_legs(session.req_header(), ctx, federation, errand).await?;
                Ok(Said::Result(greeting, token))
            }
            What::Discover => Ok(Said::Result(federation.greeting(Era::Modern, None), None)),
            What::List(kind) => {
                let metrics = &self.lasting.metrics.catalog;
                let lacks = |server: &str, list: &str, reason: &str| {
                    metrics.list_lacks(server, list, reason);
                };
                let page = list(federation, kind, ctx, errand, &lacks)?;
                Ok(Said::Result(page, None))
            }
            What::ListTasks => {
                let page = self.list_tasks(session, ctx, federation, errand).await?;
                Ok(Said::Result(page, None))
            }
            What::Ping => Ok(Said::Result(Bytes::from_static(b"{}"), None)),
            What::Level => {
                self.note_level(ctx, federation, errand);
                self.tell(session, ctx, federation, errand).await;
                Ok(Said::Result(Bytes::from_static(b"{}"), None))
            }
            What::Tell => {
                self.tell(session, ctx, federation, errand).await;
                Ok(Said::Accepted)
            }
            What::Accept => Ok(Said::Accepted),
            What::EndsSession => {
                self.end_legs(session, ctx, federation, errand).await;
                Ok(Said::Ended)
            }
            What::Listen => Err(Reason::Internal.into()),
        }
    }

    /// Passes the message on to every server at which the session has a leg.
    async fn tell(
        &self,
        session: &ServerSession,
        ctx: &Context,
        federation: &Federation,
        errand: &Errand,
    ) {
        let Some(session_of_client) = &errand.session else { return };
        let members = errand.members.iter().map(|member| &federation.members()[*member]);
        let told: FuturesUnordered<_> = members
            .map(|member| async move {
                let leg = held_leg(session_of_client.clone(), member, ctx).await;
                let Some(held) = leg else { return };
                let said = Message { verb: Method::POST, body: errand.body.clone() };
                if !self.tell_one(session, ctx, member, &held, said).await {
                    tracing::debug!(server = member.name, what = ?errand.what, "was not told");
                }
            })
            .collect();
        told.collect::<()>().await;
    }

    /// Whether the server at which the session has this leg took it.
    async fn tell_one(
        &self,
        session: &ServerSession,
        ctx: &Context,
        member: &Member,
        held: &Held,
        message: Message,
    ) -> bool {
        // Nobody waits for what one of several servers thinks of it.
        self.ask_one(session, ctx, member, held, message).await.is_some()
    }

    /// What the server at which the session has this leg says in time.
    pub(super) async fn ask_one(
        &self,
        session: &ServerSession,
        ctx: &Context,
        member: &Member,
        held: &Held,
        Message { verb, body }: Message,
    ) -> Option<own_request::Said> {
        let client = session.req_header();
        let caller = ctx.record.caller.as_deref();
        let (Some(endpoint), Ok(mut head)) =
            (&held.endpoint, message_head(client, held.state.revision))
        else {
            return None;
        };
        if verb != Method::POST {
            head.remove_header(&CONTENT_TYPE);
            head.set_method(verb);
        }
        let tell = async {
            let credential = member.pool.credentials().of(subject(client, caller)).await.ok()?;
            let request = OwnRequest {
                head: &head,
                session: held.upstream_id(),
                request_id: ctx.request_id(),
                client_address: ctx.record.client,
                body,
                credential: credential.as_ref(),
                told: told(&member.pool, caller),
                method: &ctx.record.method,
                trace: ctx.trace.as_ref(),
            };
            self.ask_endpoint(&member.pool, endpoint, request).await.ok()
        };
        timeout(TELL_MAX, tell).await.ok().flatten()
    }

    /// A leg that moves, or is opened later, gets the level that the client has set.
    fn note_level(&self, ctx: &Context, federation: &Federation, errand: &Errand) {
        let level = mcp::log_level(&errand.body);
        let (Some(level), Some(session)) = (level, &errand.session) else { return };
        for member in federation.members() {
            let leg = session.key.named_leg(member.id.0);
            ctx.snapshot.sessions.note_level(leg, &level, ctx.snapshot.session_rules);
        }
    }

    /// Ends the session at every server. A server that does not hear it in time is told later.
    async fn end_legs(
        &self,
        client: &ServerSession,
        ctx: &Context,
        federation: &Federation,
        errand: &Errand,
    ) {
        let Some(session) = &errand.session else { return };
        let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
        let mut anywhere = None;
        let legs: FuturesUnordered<_> = FuturesUnordered::new();
        for member in federation.members() {
            let Some(held) = held_leg(session.clone(), member, ctx).await else { continue };
            let Some(endpoint) = held.endpoint.clone() else { continue };
            let upstream_id = held.upstream_id().map(<[u8]>::to_vec);
            let place = Place { endpoint, upstream_id };
            sessions.ended(held.named());
            anywhere.get_or_insert_with(|| place.clone());
            legs.push(self.end_leg(client, ctx, member, held, place));
        }
        // What is opened late would be opened again: the session itself is over.
        let place = anywhere.or_else(|| {
            let pool = &federation.members().first()?.pool;
            let endpoint = pool.members().endpoints().first().cloned()?;
            Some(Place { endpoint, upstream_id: None })
        });
        if let Some(place) = place {
            let now = seconds(SystemTime::now());
            sessions.came(session.key, &place, session.revision, None, now, rules);
            sessions.ended(session.key);
        }
        if let Some(caller) = &ctx.record.caller {
            self.lasting.marks.session_ended(caller.digest(), session.key);
        }
        // Nobody can use it any more, whatever its servers take their time for.
        legs.collect::<()>().await;
    }

    async fn end_leg(
        &self,
        client: &ServerSession,
        ctx: &Context,
        member: &Member,
        held: Held,
        place: Place,
    ) {
        let said = Message { verb: Method::DELETE, body: Bytes::new() };
        if place.upstream_id.is_none() || self.tell_one(client, ctx, member, &held, said).await {
            return;
        }
        let (key, caller, revision) = (held.key(), ctx.record.caller.clone(), held.state.revision);
        self.reaper.add(Abandoned { key, caller, place, revision }, Instant::now());
    }
}

/// The leg of a session at one server, if it has one there now.
pub(super) async fn held_leg(
    session: SessionState,
    member: &Member,
    ctx: &Context,
) -> Option<Held> {
    let held = locate_leg(session, member, ctx).await.ok().flatten()?;
    (!held.is_late()).then_some(held)
}

/// A page of a list, less what the caller may not see.
fn list(
    federation: &Federation,
    kind: catalog::Kind,
    ctx: &Context,
    errand: &Errand,
    lacks: &Lacks<'_>,
) -> Result<Bytes, Refusal> {
    let record = &ctx.record;
    let (Some(route), Some(caller)) = (&record.route, &record.caller) else {
        return Err(Reason::Internal.into());
    };
    let holder = Holder {
        sealing: &ctx.snapshot.sealing,
        session: None,
        binding: Binding { route: &route.digest, caller: caller.digest() },
    };
    let policy = &ctx.snapshot.policy;
    // Whether a member is shown at all, and what of it.
    let mut listings: Vec<Option<(Listing<'_>, bool)>> = Vec::new();
    listings.resize_with(federation.members().len(), || None);
    for member in &errand.members {
        let name = &federation.members()[*member].name;
        let listing = policy.listing(caller, name, record.client);
        let is_open = listing.is_open();
        listings[*member] = Some((listing, is_open));
    }
    let all_is_shown =
        listings.iter().all(|listing| listing.as_ref().is_some_and(|(_, is_open)| *is_open));
    let cursor = mcp::cursor(&errand.body).map_err(|_| bad_cursor())?;
    let ask = ListAsk {
        kind,
        era: errand.shape.era,
        cursor: cursor.as_deref(),
        audience: if all_is_shown { Audience::Everyone } else { Audience::Caller },
        lacks,
        cursors: &holder,
        now: SystemTime::now(),
        now_ms: now_ms(),
    };
    let listed = Listed::from(kind);
    let shows =
        |member: usize, _, own: &str, annotations: &mcp::Annotations| match listings.get(member) {
            Some(Some((_, true))) => true,
            Some(Some((listing, false))) => listing.shows(listed, own, Some(annotations)),
            _ => false,
        };
    federation.list(&ask, &shows).map_err(|BadCursor| bad_cursor())
}

/// As servers answer it.
pub(super) fn bad_cursor() -> Refusal {
    let refusal = Refusal::from(Reason::HandleUnknown);
    Refusal { status: 200, message: "invalid cursor".into(), ..refusal }
}

/// The revision that an `initialize` asks for.
fn asked_revision(body: &[u8]) -> Option<Revision> {
    let envelope = peek(body).ok()?;
    Revision::parse(envelope.params.protocol_version?.as_str())
}

fn result_of(id: &str, result: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(id.len() + result.len() + 40);
    body.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    body.extend_from_slice(id.as_bytes());
    body.extend_from_slice(br#","result":"#);
    body.extend_from_slice(result);
    body.push(b'}');
    body.into()
}
