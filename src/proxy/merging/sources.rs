//! Which servers a merged stream is made of, and what each of them is asked for.

use std::sync::Arc;

use bytes::Bytes;
use pingora::http::RequestHeader;

use super::source::{Ask, Sought};
use crate::catalog;
use crate::federation::{Federation, Found, Holder, MemberId, Splices, own_event_id};
use crate::identity::Caller;
use crate::jsonrpc::{self, Id, peek};
use crate::mcp::{
    Call, Claims, Era, Filter, LAST_EVENT_ID, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION,
};
use crate::policy::Subject;
use crate::proxy::admission::Wish;
use crate::proxy::context::Context;
use crate::proxy::placing::{anywhere, locate_leg};
use crate::proxy::plan::{Errand, Placement, Way};
use crate::proxy::refusal::Refusal;
use crate::proxy::{Gateway, strict};
use crate::routes::Route;
use crate::sessions::{Binding, SessionState};
use crate::telemetry::Reason;

/// What a merged stream is to be made of.
pub(super) struct Sources {
    pub(super) sources: Vec<Sought>,
    /// What a listen request asks for, as far as it is any server's.
    pub(super) asked: Filter,
}

impl Gateway {
    /// Finds out what each server is asked for.
    pub(super) async fn sources(
        &self,
        head: &RequestHeader,
        ctx: &mut Context,
        errand: &Errand,
    ) -> Result<Sources, Refusal> {
        let (Some(route), Some(caller)) = (ctx.record.route.clone(), ctx.record.caller.clone())
        else {
            return Err(Reason::Internal.into());
        };
        let federation = route.federation().ok_or(Reason::Internal)?;
        match &errand.session {
            Some(session) => Ok(of_session(head, ctx, federation, session, errand).await),
            None => self.of_listening(head, ctx, (&route, federation, &caller), errand),
        }
    }

    /// A listen request is split: lists are every server's, the rest is its owner's.
    fn of_listening(
        &self,
        head: &RequestHeader,
        ctx: &mut Context,
        (route, federation, caller): (&Arc<Route>, &Federation, &Arc<Caller>),
        errand: &Errand,
    ) -> Result<Sources, Refusal> {
        let unreadable = || Refusal {
            code: jsonrpc::INVALID_PARAMS,
            message: "notifications cannot be read".into(),
            ..Reason::MessageViolation.into()
        };
        let (asked, place) = Filter::of_request(&errand.body).ok_or_else(unreadable)?;
        let claims = Claims {
            version: strict::text(&head.headers, MCP_PROTOCOL_VERSION),
            method: strict::text(&head.headers, MCP_METHOD),
            name: strict::text(&head.headers, MCP_NAME),
        };
        let envelope = peek(&errand.body).map_err(|fault| Refusal::from(&fault))?;
        let call = Call::read(claims, envelope).map_err(Refusal::from)?;
        let shares = self.split(ctx, (route, federation, caller), errand, &asked)?;
        let mut sources = Vec::with_capacity(errand.members.len());
        for member in &errand.members {
            let share = &shares[*member];
            let pool = &federation.members()[*member].pool;
            let ask = match share.own.is_empty() {
                true => Ask::Nothing,
                false => {
                    let Placement::Any { key, random } = anywhere(head, pool, caller, &call, ctx)
                    else {
                        return Err(Reason::Internal.into());
                    };
                    let mut splices = Splices::default();
                    splices.literal(place.clone(), share.own.json().into_bytes());
                    let body = Bytes::from(splices.apply(&errand.body));
                    Ask::Listen { key, random, body, share: share.shown.clone() }
                }
            };
            let subscription = call.id().map(Id::into_owned);
            let way = Way { member: *member, session: None, id: None, subscription };
            sources.push(Sought { way, ask, resume: None });
        }
        Ok(Sources { sources, asked })
    }

    /// What of a filter is whose. What is nobody's, or not for this caller to know, is left out.
    fn split(
        &self,
        ctx: &mut Context,
        (route, federation, caller): (&Arc<Route>, &Federation, &Arc<Caller>),
        errand: &Errand,
        asked: &Filter,
    ) -> Result<Vec<Share>, Refusal> {
        let era = Era::Modern;
        let is_asked = |member: usize| {
            errand.members.contains(&member) && federation.member_speaks(member, era)
        };
        let mut shares: Vec<Share> = Vec::new();
        for member in 0..federation.members().len() {
            let lists = if is_asked(member) { asked.lists } else { [false; 3] };
            let lists = Filter { lists, ..Filter::default() };
            shares.push(Share { own: lists.clone(), shown: lists });
        }
        for shown in &asked.resources {
            let Found::At { member, own } = federation.find(catalog::Kind::Resources, shown) else {
                continue;
            };
            if !is_asked(member) {
                continue;
            }
            ctx.record.member = Some(member);
            let (method, subject) = ("resources/subscribe", Subject::Resource(&own));
            let wish = Wish { method, subject, arguments: None, era };
            let allowed = self.authorize(ctx, route, caller, wish);
            ctx.record.member = None;
            match allowed {
                Ok(()) => {}
                Err(refusal) if refusal.reason == Reason::PolicyHidden => continue,
                Err(refusal) => return Err(refusal),
            }
            shares[member].own.resources.push(own.into_owned());
            shares[member].shown.resources.push(shown.clone());
        }
        let holder = Holder {
            sealing: &ctx.snapshot.sealing,
            session: None,
            binding: Binding { route: &route.digest, caller: caller.digest() },
        };
        for shown in &asked.tasks {
            let Ok(held) = holder.task_id(shown) else { continue };
            let member = federation.member_of(MemberId(held.member));
            let Some(member) = member.filter(|member| is_asked(*member)) else { continue };
            shares[member].own.tasks.push(held.own);
            shares[member].shown.tasks.push(shown.clone());
        }
        Ok(shares)
    }
}

/// What one server is asked for.
struct Share {
    /// In its own words.
    own: Filter,
    /// In those of the client.
    shown: Filter,
}

/// The legs of a session. The one whose event the client saw last goes on after that.
async fn of_session(
    head: &RequestHeader,
    ctx: &Context,
    federation: &Federation,
    session: &SessionState,
    errand: &Errand,
) -> Sources {
    let seen = strict::text(&head.headers, LAST_EVENT_ID).and_then(own_event_id);
    let mut sources = Vec::with_capacity(errand.members.len());
    for member in &errand.members {
        let of = &federation.members()[*member];
        let is_spoken = federation.member_speaks(*member, Era::Legacy);
        let ask = match locate_leg(session.clone(), of, ctx).await {
            Ok(Some(held)) if is_spoken && held.is_late() => Ask::Late,
            Ok(Some(held)) if is_spoken => Ask::Leg(Box::new(held)),
            _ => Ask::Nothing,
        };
        let resume = seen.filter(|(id, _)| *id == of.id.0).map(|(_, own)| own.to_owned());
        let way = Way { member: *member, session: Some(session.key), id: None, subscription: None };
        sources.push(Sought { way, ask, resume });
    }
    Sources { sources, asked: Filter::default() }
}
