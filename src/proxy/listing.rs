//! Lists less what their caller may not see, on every way they can arrive: a JSON answer is held whole
//! until its head can say how long it is, a stream is filtered event by event.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use pingora::protocols::http::ServerSession;

use super::Gateway;
use super::context::Context;
use super::deliver::{IsStream, error_event};
use super::exchange::Exchange;
use super::plan::{Exchange as Purpose, Forward};
use super::pump::End;
use super::response_body_filter::BodyWatch;
use super::response_filter::UpstreamHead;
use crate::mcp::{ListEvents, ListFault, Listed, Passed, Shows, filter_list};
use crate::telemetry::{Outcome, Reason};

/// What becomes of the events of an answer.
pub(super) enum EventFilter {
    /// They pass as they are.
    Off,
    /// Lists among them are filtered.
    On(Box<ListEvents>, Arc<dyn Shows>),
}

impl EventFilter {
    pub(super) fn new(ctx: &Context, forward: &Forward, head: &UpstreamHead) -> Self {
        let Some(shows) = ctx.shows.as_ref().filter(|_| head.is_event_stream()) else {
            return Self::Off;
        };
        // Whatever answer a client missed may come again on its stream, so all of its are looked at.
        let is_asked = Listed::of_method(&ctx.record.method).is_some();
        match is_asked || forward.shape.exchange == Purpose::Stream {
            true => {
                let events = ListEvents::new(forward.shape.era, ctx.list_bytes_max());
                Self::On(Box::new(events), Arc::clone(shows))
            }
            false => Self::Off,
        }
    }

    /// Whether anything may be changed.
    pub(super) fn is_on(&self) -> bool {
        matches!(self, Self::On(..))
    }

    /// What passes of a part, and why nothing may follow it.
    pub(super) fn pass(&mut self, part: Bytes) -> (Bytes, Option<ListFault>) {
        match self {
            Self::Off => (part, None),
            Self::On(events, shows) => match events.pass(&part, &**shows) {
                Passed::Whole => (part, None),
                Passed::Instead(instead) => (instead.into(), None),
                Passed::Ends(last, fault) => (last.into(), Some(fault)),
            },
        }
    }

    /// The stream goes on at another endpoint.
    pub(super) fn restart(&mut self) {
        if let Self::On(events, _) = self {
            events.restart();
        }
    }
}

impl Context {
    /// Whether the answer is a list that must be filtered before its head can be sent.
    pub(super) fn must_hold_list(&self, head: &UpstreamHead) -> bool {
        self.shows.is_some()
            && Listed::of_method(&self.record.method).is_some()
            && (!head.is_event_stream() || is_coded(head))
    }

    fn list_bytes_max(&self) -> usize {
        self.record.route.as_ref().map_or(0, |route| route.list_bytes_max)
    }
}

/// Whether the body cannot be read as it is. The gateway has asked for no coding.
fn is_coded(head: &UpstreamHead) -> bool {
    head.field(&CONTENT_ENCODING).is_some()
}

impl Gateway {
    /// Holds the list until it is whole, and filters it. What cannot be filtered is refused.
    pub(super) async fn hold_list(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        head: &mut UpstreamHead,
        held: &mut Bytes,
        exchange: Option<Exchange>,
    ) -> Result<(), End> {
        let Some(shows) = ctx.shows.clone() else { return Ok(()) };
        if is_coded(head) {
            return Err(End::Refused(Reason::EndpointBroken.into()));
        }
        if let Some(exchange) = exchange {
            self.read_list(session, ctx, forward, head, held, exchange).await?;
        }
        match filter_list(held, forward.shape.era, &*shows) {
            Ok(None) => {}
            Ok(Some(filtered)) => *held = filtered.into(),
            // There is no list in nothing, nor in a page that says why there is none.
            Err(_) if held.is_empty() || (head.status >= 400 && !head.is_json()) => {}
            Err(_) => return Err(End::Refused(Reason::EndpointBroken.into())),
        }
        head.length = Some(held.len() as u64);
        Ok(())
    }

    /// Reads the rest of a list into `held`.
    async fn read_list(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        head: &UpstreamHead,
        held: &mut Bytes,
        mut exchange: Exchange,
    ) -> Result<(), End> {
        let bytes_max = ctx.list_bytes_max();
        let too_large = || Err(End::Refused(Reason::ListTooLarge.into()));
        if head.length.is_some_and(|length| length > bytes_max as u64) {
            return too_large();
        }
        let mut whole = Vec::from(&held[..]);
        loop {
            match self.read_part(session, ctx, forward, &mut exchange, IsStream::No).await {
                Ok(Some(part)) if whole.len() + part.len() > bytes_max => return too_large(),
                Ok(Some(part)) => whole.extend_from_slice(&part),
                Ok(None) => break,
                Err(interrupted) => {
                    let Some(reason) = interrupted.reason() else {
                        ctx.record.outcome = Some(Outcome::Cancelled);
                        return Err(End::Cut);
                    };
                    if let Some(endpoint) = &ctx.record.endpoint {
                        self.endpoint_failed(&forward.pool, endpoint, reason);
                    }
                    return Err(End::Refused(reason.into()));
                }
            }
            if exchange.is_finished() {
                break;
            }
        }
        self.connections.close(exchange).await;
        *held = whole.into();
        Ok(())
    }

    /// Ends a stream in which a list came that cannot be filtered.
    pub(super) async fn end_listing(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        forward: &Forward,
        fault: ListFault,
    ) -> End {
        let reason = match fault {
            ListFault::TooLarge => Reason::ListTooLarge,
            ListFault::Broken | ListFault::Late => Reason::EndpointBroken,
        };
        tracing::warn!(server = forward.pool.name(), ?fault, "a list could not be filtered");
        ctx.record.outcome = Some(Outcome::Failed);
        ctx.record.reason = Some(reason);
        if fault == ListFault::Late {
            return End::Cut;
        }
        let last = match forward.shape.exchange {
            // The blank line lets the client keep an id that has passed already.
            Purpose::Stream => b"\n".to_vec(),
            _ => error_event(forward, reason),
        };
        match session.write_response_body(Bytes::from(last), true).await {
            Ok(()) => End::Complete,
            Err(_) => End::Cut,
        }
    }

    /// A server said that some of its lists have changed.
    pub(super) fn heard_of_changes(&self, forward: &Forward, watch: &mut BodyWatch) {
        for listed in watch.take_changed().iter() {
            self.lasting.metrics.list_changed(forward.pool.name(), listed.as_str());
        }
    }
}
