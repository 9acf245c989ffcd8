//! Carries out the plan. Pingora's own pipeline is not entered: see `pump.rs`.

use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use pingora_proxy::Session;

use super::Gateway;
use super::answer;
use super::context::Context;
use super::parked::{self, Parked};
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
            Plan::Errand(errand) => {
                let permit = match self.stream_permit(ctx, errand.shape) {
                    Ok(permit) => permit,
                    Err(refusal) => {
                        return answer::refuse(session.as_mut(), ctx, &refusal).await;
                    }
                };
                let done = Box::pin(self.run_errand(session.as_mut(), ctx, *errand)).await;
                drop(permit);
                done
            }
            Plan::Forward(mut forward) => {
                let permit = match self.stream_permit(ctx, forward.shape) {
                    Ok(permit) => permit,
                    Err(refusal) => {
                        return answer::refuse(session.as_mut(), ctx, &refusal).await;
                    }
                };
                if forward.shape.exchange == Exchange::Stream && parked::is_possible() {
                    parked::park(session, ctx, forward, permit);
                    return Error::e_explain(ErrorType::ConnectionClosed, "goes on elsewhere");
                }
                self.drive(session.as_mut(), ctx, &mut forward).await
            }
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
            // Boxed, so that calls have no room for what only streams need.
            Pumped::Stream(body, in_flight) => {
                Box::pin(self.pass_on_stream(session, ctx, forward, body, in_flight)).await
            }
        };
        ended(session, ctx, forward, end).await
    }

    /// Carries a stream that has left Pingora's request to its end. While it idles, what came before
    /// its first event has no room any more.
    pub(super) async fn drive_parked(&self, parked: &mut Parked) -> pingora::Result<()> {
        let Parked { downstream, ctx, forward, .. } = parked;
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
