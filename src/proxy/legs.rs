//! Opens the session of a client at several servers at once, so that one sealed id carries them all.

use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pingora::http::RequestHeader;
use pingora::time::timeout;
use serde_json::value::RawValue;

use super::Gateway;
use super::context::{Context, short_digest};
use super::identity_headers::{subject, told};
use super::moving::Opener;
use super::plan::Errand;
use crate::federation::{Federation, Member};
use crate::mcp::{self, Era, Revision};
use crate::sessions::{
    Binding, NewLeg, NewSession, Opening, Place, Restore, SessionKey, seconds, write_legs,
};
use crate::telemetry::Reason;
use crate::upstream::SessionHabit;

/// How long a client waits for the servers of its session. Who is slower is opened when it is needed.
const OPEN_MAX: Duration = Duration::from_secs(1);

/// A leg that was opened.
struct Opened<'f> {
    member: &'f Member,
    place: Place,
    revision: Option<Revision>,
}

impl Gateway {
    /// Opens the session at every server that the caller may use, and seals its id.
    pub(super) async fn open_legs(
        &self,
        client: &RequestHeader,
        ctx: &mut Context,
        federation: &Federation,
        errand: &Errand,
    ) -> Result<Option<String>, Reason> {
        let opening = mcp::params_of(&errand.body).unwrap_or_default();
        let raw: &RawValue =
            serde_json::from_slice(opening).map_err(|_| Reason::MessageViolation)?;
        let members =
            errand.members.iter().filter(|member| federation.member_speaks(**member, Era::Legacy));
        let members = members.map(|member| &federation.members()[*member]);
        let mut opening_all: FuturesUnordered<_> =
            members.map(|member| self.open_leg(client, ctx, member, raw)).collect();
        let mut opened = Vec::with_capacity(opening_all.len());
        let all = async {
            while let Some(leg) = opening_all.next().await {
                opened.extend(leg);
            }
        };
        // What is open by then is open.
        let _late = timeout(OPEN_MAX, all).await.is_err();
        drop(opening_all);
        let revision = asked(raw).filter(|revision| revision.era() == Era::Legacy);
        let revision = revision.unwrap_or(Revision::V2025_11_25);
        self.seal_legs(ctx, opening, revision, &opened).map(Some)
    }

    async fn open_leg<'f>(
        &self,
        client: &RequestHeader,
        ctx: &Context,
        member: &'f Member,
        opening: &RawValue,
    ) -> Option<Opened<'f>> {
        let pool = &member.pool;
        let caller = ctx.record.caller.as_deref();
        let credential = pool.credentials().of(subject(client, caller)).await.ok()?;
        let (restore, told) = (&Restore::default(), told(pool, caller));
        // Chance places it, as it does every new session.
        let mut key = [0; 12];
        key[..8].copy_from_slice(&fastrand::u64(..).to_le_bytes());
        let key = SessionKey(key);
        let opener =
            Opener { key, pool, client, opening, revision: None, restore, credential, told };
        pool.count_request();
        let opened = self.open_at_any(ctx, Vec::new(), &opener).await;
        let (place, revision) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                let (server, reason) = (&member.name, reason.as_str());
                tracing::debug!(server, reason, "a leg of a session was not opened");
                return None;
            }
        };
        pool.learn_session_habit(match place.upstream_id {
            Some(_) => SessionHabit::Mints,
            None => SessionHabit::Stateless,
        });
        Some(Opened { member, place, revision })
    }

    fn seal_legs(
        &self,
        ctx: &mut Context,
        opening: &[u8],
        revision: Revision,
        opened: &[Opened<'_>],
    ) -> Result<String, Reason> {
        let (Some(route), Some(caller)) = (&ctx.record.route, &ctx.record.caller) else {
            return Err(Reason::Internal);
        };
        let binding = Binding { route: &route.digest, caller: caller.digest() };
        let now = SystemTime::now();
        let mut legs: Vec<NewLeg<'_>> = opened
            .iter()
            .map(|Opened { member, place, revision }| NewLeg {
                id: member.id.0,
                endpoint: place.endpoint.id(),
                revision: *revision,
                upstream_id: place.upstream_id.as_deref().unwrap_or_default(),
            })
            .collect();
        let sealed = loop {
            let new = NewSession {
                endpoint: 0,
                revision: Some(revision),
                upstream_id: &write_legs(&legs),
                opening,
            };
            match ctx.snapshot.seal.seal_legs(binding, new, now) {
                Some(sealed) => break sealed,
                // The longest of the servers' ids has no room: that leg is found beside.
                None => {
                    let longest = (0..legs.len()).max_by_key(|leg| legs[*leg].upstream_id.len());
                    legs.swap_remove(longest.ok_or(Reason::Internal)?);
                }
            }
        };
        self.lasting.metrics.sessions.opened.inc();
        let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
        for Opened { member, place, revision } in opened {
            let (leg, now) = (sealed.key.named_leg(member.id.0), seconds(now));
            let is_sealed = legs.iter().any(|leg| leg.id == member.id.0);
            if !is_sealed {
                sessions.moved(leg, place, *revision, now, rules);
                sessions.moved_alone(leg);
            } else if place.upstream_id.is_some() {
                let beside = (sealed.opening == Opening::Beside).then(|| opening.into());
                sessions.came(leg, place, *revision, beside, now, rules);
            }
        }
        ctx.record.session = Some(short_digest(&sealed.token));
        ctx.record.revision = Some(revision);
        Ok(sealed.token)
    }
}

fn asked(opening: &RawValue) -> Option<Revision> {
    #[derive(serde::Deserialize)]
    struct Asked {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let asked: Asked = serde_json::from_str(opening.get()).ok()?;
    Revision::parse(&asked.version)
}
