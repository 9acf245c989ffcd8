//! Lists of tasks on a route with several servers: each that has any is asked in its own leg.

use std::time::SystemTime;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::Method;
use pingora::protocols::http::ServerSession;
use serde_json::json;

use super::Gateway;
use super::context::Context;
use super::errands::{Message, bad_cursor};
use super::placing::locate_leg;
use super::plan::{Errand, Held};
use super::refusal::Refusal;
use crate::federation::{Answers, Federation, Holder, Member, Passage, TaskPage, TaskPlaces};
use crate::mcp;
use crate::sessions::{Binding, SessionState, seconds};
use crate::telemetry::Reason;
use crate::upstream::{Load, Otherwise, Wanted, now_ms};

/// What the gateway calls its requests, as it stands on the wire.
const ID: &str = "\"toolgate-4\"";

impl Gateway {
    /// A page of the tasks of all servers. Who does not answer in time is named and left out.
    pub(super) async fn list_tasks(
        &self,
        session: &ServerSession,
        ctx: &Context,
        federation: &Federation,
        errand: &Errand,
    ) -> Result<Bytes, Refusal> {
        let (Some(route), Some(caller), Some(state)) =
            (&ctx.record.route, &ctx.record.caller, &errand.session)
        else {
            return Err(Reason::Internal.into());
        };
        let holder = Holder {
            sealing: &ctx.snapshot.sealing,
            session: Some(state.key),
            binding: Binding { route: &route.digest, caller: caller.digest() },
        };
        let now = seconds(SystemTime::now());
        let cursor = mcp::cursor(&errand.body).map_err(|_| bad_cursor())?;
        let places = match &cursor {
            Some(cursor) => Some(TaskPlaces::open(cursor, &holder, now).map_err(|_| bad_cursor())?),
            None => None,
        };
        let members = errand.members.iter().filter(|index| federation.lists_tasks(**index));
        let members = members.map(|index| &federation.members()[*index]);
        let asked: Vec<(&Member, Option<&str>)> = members
            .filter_map(|member| match &places {
                Some(places) => Some((member, Some(places.of(member.id)?))),
                None => Some((member, None)),
            })
            .collect();
        let asking: FuturesUnordered<_> = asked
            .iter()
            .enumerate()
            .map(|(at, (member, own))| async move {
                (at, self.tasks_of(session, ctx, member, state.clone(), *own).await)
            })
            .collect();
        let mut answers: Vec<_> = asking.collect().await;
        // Whoever is first: the order is that of the servers.
        answers.sort_by_key(|(at, _)| *at);
        let mut page = TaskPage::default();
        for (at, answer) in answers {
            let (member, own) = asked[at];
            match answer {
                Ok(answer) => page.add(member, &passage(holder, member, now), &answer, own),
                Err(because) => page.lacks(member, because),
            }
        }
        let metrics = &self.lasting.metrics.catalog;
        Ok(page
            .close(&holder, now, &|server, list, reason| metrics.list_lacks(server, list, reason)))
    }

    /// What a server answers, or why it does not.
    async fn tasks_of(
        &self,
        session: &ServerSession,
        ctx: &Context,
        member: &Member,
        state: SessionState,
        cursor: Option<&str>,
    ) -> Result<Bytes, &'static str> {
        let held = leg(state, member, ctx).await.ok_or("no_session")?;
        let params = match cursor {
            Some(cursor) => json!({ "cursor": cursor }),
            None => json!({}),
        };
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"tasks/list","params":{params}}}"#);
        let message = Message { verb: Method::POST, body: body.into() };
        let said = self.ask_one(session, ctx, member, &held, message).await;
        said.map(|said| said.text()).ok_or("no_answer")
    }
}

/// Where the session can be spoken of with the server. At one where it was not opened it has no tasks.
async fn leg(state: SessionState, member: &Member, ctx: &Context) -> Option<Held> {
    match locate_leg(state.clone(), member, ctx).await {
        Ok(Some(held)) => (!held.is_late()).then_some(held),
        // It has no sessions, and any endpoint will do.
        Ok(None) => {
            let (state, _) = state.into_leg(member.id.0);
            let wanted = Wanted {
                key: &state.key.0,
                random: fastrand::u64(..),
                tried: &[],
                load: Load::Calls,
                otherwise: Otherwise::Trust,
                now_ms: now_ms(),
            };
            let endpoint = member.pool.choose(&wanted)?;
            Some(Held::moved(state, Some(endpoint), None))
        }
        Err(_) => None,
    }
}

fn passage<'a>(holder: Holder<'a>, member: &'a Member, now: u32) -> Passage<'a> {
    Passage {
        holder,
        member: member.id.0,
        server: &member.name,
        uri_prefix: &member.uri_prefix,
        answers: Answers::To { own: ID, shown: ID },
        subscription: None,
        now,
    }
}
