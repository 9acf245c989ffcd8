//! Of many replicas one moves a session, and the others follow it there.

use std::time::{Instant, SystemTime};

use super::Gateway;
use super::context::Context;
use super::placing::place_at;
use super::plan::Held;
use crate::mcp::Revision;
use crate::sessions::{
    Abandoned, Account, Alive, Claim, Ledger, Place, Restore, Spot, Table, Turn, seconds,
};
use crate::telemetry::Reason;
use crate::upstream::Pool;

/// Whose move of a session it is.
pub(super) enum Whose<'t> {
    /// Another replica has moved it, and this one has followed.
    Done,
    /// This replica's; with others, by a claim that they respect.
    Ours(Option<Claimed<'t>>),
}

/// The claim to a move.
pub(super) struct Claimed<'t> {
    ledger: &'t Ledger,
    claim: Claim,
}

impl Claimed<'_> {
    /// What must be made anew, if the other replicas know.
    pub(super) fn restore(&self) -> Option<&Restore> {
        self.claim.restore()
    }
}

/// Does the work under the claim, if there is one, which is given up if it fails.
pub(super) async fn under<T>(
    claimed: Option<&Claimed<'_>>,
    work: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    let Some(Claimed { ledger, claim }) = claimed else { return work.await };
    let done = ledger.keep(claim, work).await;
    if done.is_err() {
        ledger.give_up(claim).await;
    }
    done
}

impl Gateway {
    /// Follows the session to where another replica has moved it, or takes the move upon itself.
    pub(super) async fn claim<'t>(
        &self,
        sessions: &'t Table,
        ctx: &Context,
        pool: &Pool,
        held: &mut Held,
    ) -> Result<Whose<'t>, Reason> {
        let Some(ledger) = sessions.ledger() else { return Ok(Whose::Ours(None)) };
        let here = held.spot();
        match ledger.claim(held.named(), is_other(pool, here.as_ref())).await {
            // As without a store, each replica moves the session for itself.
            Err(_) => Ok(Whose::Ours(None)),
            Ok(Turn::Ours(claim)) => Ok(Whose::Ours(Some(Claimed { ledger, claim }))),
            Ok(Turn::Over) => {
                sessions.ended(held.named());
                Err(Reason::SessionUnknown)
            }
            Ok(Turn::Moved(alive)) => {
                follow(sessions, ctx, pool, held, alive)?;
                Ok(Whose::Done)
            }
        }
    }

    /// Lets the other replicas know where the session moved to. If one of them was faster, the session
    /// lives there, and what was opened here is left. Whether it lives here.
    pub(super) async fn settle(
        &self,
        claimed: Option<Claimed<'_>>,
        ctx: &Context,
        pool: &Pool,
        held: &mut Held,
        (place, agreed, restore): (&Place, Option<Revision>, &Restore),
    ) -> Result<bool, Reason> {
        let (sessions, rules) = (&ctx.snapshot.sessions, ctx.snapshot.session_rules);
        let revision = agreed.or(held.state.revision);
        let mut is_known = false;
        if let Some(Claimed { ledger, claim }) = claimed {
            let spot = Some(Spot::from(place));
            let moved = Alive { spot, revision, restore: restore.clone() };
            let here = held.spot();
            let other = is_other(pool, here.as_ref());
            let settled = ledger.settle(claim, &moved, other, rules.lifetime_s).await;
            is_known = settled.is_ok();
            if let Ok(Some(instead)) = settled {
                let (key, caller) = (held.key(), ctx.record.caller.clone());
                let left = Abandoned { key, caller, place: place.clone(), revision };
                self.reaper.add(left, Instant::now());
                let Account::Alive(alive) = instead else { return Err(Reason::SessionUnknown) };
                follow(sessions, ctx, pool, held, alive)?;
                return Ok(false);
            }
        }
        held.state.revision = revision;
        let now = seconds(SystemTime::now());
        sessions.moved(held.named(), place, revision, now, rules);
        if !is_known {
            sessions.moved_alone(held.named());
        }
        Ok(true)
    }
}

/// Whether a place is another one than this, and can be used here.
fn is_other(pool: &Pool, here: Option<&Spot>) -> impl Fn(&Spot) -> bool {
    move |spot| here != Some(spot) && pool.by_id(spot.endpoint).is_some()
}

fn follow(
    sessions: &Table,
    ctx: &Context,
    pool: &Pool,
    held: &mut Held,
    alive: Alive,
) -> Result<(), Reason> {
    let place = alive.spot.as_ref().and_then(|spot| place_at(pool, spot));
    let place = place.ok_or(Reason::EndpointNone)?;
    let (now, rules) = (seconds(SystemTime::now()), ctx.snapshot.session_rules);
    sessions.follow(held.named(), &alive, Some(place.clone()), now, rules);
    held.state.revision = alive.revision.or(held.state.revision);
    held.move_to(place);
    Ok(())
}
