//! What was called before lets a call in or not, here and at the other replicas.

use std::sync::Arc;

use super::Gateway;
use super::admission::Wish;
use super::context::Context;
use super::refusal::Refusal;
use crate::catalog::Kind;
use crate::identity::Caller;
use crate::policy::{self, Combinations, Marks, Origin, Use};
use crate::routes::{Route, Server};
use crate::sessions::SessionKey;
use crate::telemetry::Reason;
use crate::upstream::now_ms;

impl Gateway {
    /// May they, after what they did before? From here on the call counts for others.
    pub(super) fn remember_use(
        &self,
        ctx: &mut Context,
        route: &Route,
        caller: &Caller,
        wish: Wish<'_>,
        session: Option<SessionKey>,
    ) -> Result<(), Refusal> {
        let combinations: &Combinations = &ctx.snapshot.combinations;
        let Some(tool) = wish.tool().filter(|_| !combinations.is_empty()) else { return Ok(()) };
        let Some(Server { pool, listed }) = route.server(ctx.record.member) else {
            return Err(Reason::Internal.into());
        };
        let is_declared = listed.offer().find(Kind::Tools, tool).is_some();
        let used = Use {
            server: pool.name(),
            tool,
            origin: if is_declared { Origin::Declared } else { Origin::Claimed },
            caller: caller.digest(),
            session,
        };
        let admitted = combinations.admit(&self.lasting.marks, used, now_ms());
        self.keep_marks(ctx, admitted)
    }

    /// The same for what the caller did at other replicas.
    pub(super) async fn confirm_use(&self, ctx: &mut Context) -> Result<(), Refusal> {
        let marks = std::mem::take(&mut ctx.admission.marks);
        let confirmed = marks.confirm().await;
        self.keep_marks(ctx, confirmed)
    }

    fn keep_marks(
        &self,
        ctx: &mut Context,
        admitted: Result<Marks, policy::Refused>,
    ) -> Result<(), Refusal> {
        let (rule, reason) = match admitted {
            Ok(marks) => {
                if let Some(shadow) = &marks.shadow {
                    let outcome = policy::Outcome::Refused;
                    let shadow = || (outcome, Some(Arc::clone(shadow)));
                    ctx.record.ruling.shadow.get_or_insert_with(shadow);
                }
                ctx.admission.marks = marks;
                return Ok(());
            }
            Err(policy::Refused::Combination(rule)) => (rule, Reason::CombinationForbidden),
            Err(policy::Refused::Full(rule)) => {
                self.lasting.metrics.policy.marks_full.inc();
                (rule, Reason::CombinationFull)
            }
            Err(policy::Refused::Away(rule)) => (rule, Reason::CombinationAway),
        };
        ctx.record.ruling.rule = Some(rule);
        Err(reason.into())
    }
}
