//! Carries out the plan. Pingora's own pipeline is not entered: see `pump.rs`.

use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use pingora_proxy::Session;

use super::Gateway;
use super::answer;
use super::context::Context;
use super::parked::{self, Parked, Source};
use super::plan::{Exchange, Forward, Plan, Shape};
use super::pump::{End, Pumped};
use super::refusal::Refusal;
use crate::telemetry::{Outcome, Reason};

impl Gateway {
    /// Does what was decided. An error means that the client's connection must not be used again.
    pub(super) async fn carry_out(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let plan = ctx.planned()?;
        match *plan {
            Plan::Preflight => answer::preflight(session.as_mut(), ctx).await,
            Plan::Metadata(document) => answer::metadata(session.as_mut(), ctx, document).await,
            Plan::Abandoned => {
                ctx.record.outcome = Some(Outcome::Cancelled);
                Error::e_explain(ErrorType::ConnectionClosed, "client left")
            }
            Plan::Errand(errand) => match self.stream_permit(ctx, errand.shape) {
                Ok(None) => Box::pin(self.run_errand(session.as_mut(), ctx, &errand)).await,
                Ok(permit) => parked::park(session, ctx, Source::Several(errand), permit),
                Err(refusal) => answer::refuse(session.as_mut(), ctx, &refusal).await,
            },
            Plan::Forward(mut forward) => match self.stream_permit(ctx, forward.shape) {
                Ok(None) => self.drive(session.as_mut(), ctx, &mut forward).await,
                Ok(permit) => parked::park(session, ctx, Source::One(forward), permit),
                Err(refusal) => answer::refuse(session.as_mut(), ctx, &refusal).await,
            },
        }
    }

    /// Carries a request to its end.
    pub(super) async fn drive(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &mut Forward,
    ) -> pingora::Result<()> {
        let end = match self.pump(session, ctx, forward).await {
            Pumped::Ended(end) => end,
            // An answer in events. Boxed, so that calls have no room for what only streams need.
            Pumped::Stream(body, in_flight) => {
                Box::pin(self.pass_on_stream(session, ctx, forward, body, in_flight)).await
            }
        };
        ended(session, ctx, forward, end).await
    }

    /// Carries a stream that has left Pingora's request to its end. While it idles, what came before
    /// its first event has no room any more.
    pub(super) async fn drive_parked(&self, parked: &mut Parked) -> pingora::Result<()> {
        let Parked { downstream, ctx, source, .. } = parked;
        let forward = match source {
            Source::One(forward) => forward,
            Source::Several(errand) => {
                return Box::pin(self.run_errand(downstream, ctx, errand)).await;
            }
        };
        let end = match Box::pin(self.pump(downstream, ctx, forward)).await {
            Pumped::Ended(end) => end,
            Pumped::Stream(body, in_flight) => {
                Box::pin(self.pass_on_stream(downstream, ctx, forward, body, in_flight)).await
            }
        };
        Box::pin(ended(downstream, ctx, forward, end)).await
    }

    /// Streams are counted, because each holds memory and two connections for hours.
    fn stream_permit(&self, ctx: &Context, shape: Shape) -> Result<Option<StreamPermit>, Refusal> {
        if shape.exchange != Exchange::Stream {
            return Ok(None);
        }
        let permit = StreamPermit::take(self.lasting.metrics.streams.clone());
        match permit.open <= ctx.snapshot.streams_max as i64 {
            true => Ok(Some(permit)),
            false => Err(Reason::StreamsFull.into()),
        }
    }
}

/// Tells the client what it does not know yet.
async fn ended(
    session: &mut ServerSession,
    ctx: &mut Context,
    forward: &Forward,
    end: End,
) -> pingora::Result<()> {
    match end {
        End::Complete => Ok(()),
        End::Refused(refusal) => {
            if ctx.record.id.is_none() {
                ctx.record.id = forward.reply_id();
            }
            answer::refuse(session, ctx, &refusal).await
        }
        End::Cut => Error::e_explain(ErrorType::ConnectionClosed, "answer cut short"),
    }
}

/// One open stream, counted until it is dropped.
pub(super) struct StreamPermit {
    gauge: prometheus::IntGauge,
    open: i64,
}

impl StreamPermit {
    fn take(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        let open = gauge.get();
        Self { gauge, open }
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
