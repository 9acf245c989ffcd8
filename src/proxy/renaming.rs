//! What one of several servers says, renamed for the client on its way.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;

use super::context::Context;
use super::plan::Way;
use super::response_filter::UpstreamHead;
use crate::federation::{Answers, BodyToClient, EventsToClient, Holder, Part, Passage, Passing};
use crate::mcp::Unfit;
use crate::sessions::{Binding, seconds};

/// What is held of an answer to understand it; the state of a call that asks for more may be long.
pub(super) const HELD_BYTES_MAX: usize = 512 * 1024;

/// What becomes of the body of a server's answer.
pub(super) enum Renaming {
    /// It passes as it is.
    Off,
    Json(Box<BodyToClient>),
    Events(Box<EventsToClient>),
}

/// The answer cannot go on. What came before is whole.
pub(super) struct Broken {
    pub(super) before: Bytes,
    pub(super) fault: Unfit,
}

impl Renaming {
    /// What becomes of the answer with this head. One that cannot be read is none.
    pub(super) fn new(
        ctx: &Context,
        way: Option<&Way>,
        head: &UpstreamHead,
    ) -> Result<Self, Unfit> {
        let Some(passage) = way.and_then(|way| passage(ctx, way)) else { return Ok(Self::Off) };
        if head.is_event_stream() || head.is_json() {
            if head.field(&CONTENT_ENCODING).is_some() {
                return Err(Unfit::NotText);
            }
            return Ok(match head.is_event_stream() {
                true => Self::Events(Box::new(EventsToClient::new(&passage, HELD_BYTES_MAX))),
                false => Self::Json(Box::new(BodyToClient::new(&passage, HELD_BYTES_MAX))),
            });
        }
        Ok(Self::Off)
    }

    /// Whether anything may be changed.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// What passes of a part.
    pub(super) fn pass(
        &mut self,
        ctx: &Context,
        way: Option<&Way>,
        part: Bytes,
    ) -> Result<Bytes, Broken> {
        let Some(passage) = way.and_then(|way| passage(ctx, way)) else { return Ok(part) };
        let passing = match self {
            Self::Off => return Ok(part),
            Self::Json(body) => body
                .pass(&part, &passage)
                .map_err(|fault| Broken { before: Bytes::new(), fault })?,
            Self::Events(events) => {
                let Part { passing, dropped } = events
                    .pass(&part, &passage)
                    .map_err(|cut| Broken { before: cut.before.into(), fault: cut.fault })?;
                if let Some((fault, count)) = dropped {
                    let (server, fault) = (passage.server, fault.as_str());
                    tracing::warn!(server, fault, count, "messages of a server are not passed on");
                }
                passing
            }
        };
        Ok(match passing {
            Passing::Whole => part,
            Passing::Instead(instead) => instead.into(),
        })
    }

    /// Whether the body may end here.
    pub(super) fn finish(self) -> Result<(), Unfit> {
        match self {
            Self::Json(body) => body.finish(),
            Self::Off | Self::Events(_) => Ok(()),
        }
    }
}

/// Renames what is here of an answer, so that its head can say how long it is.
pub(super) fn first(
    ctx: &Context,
    way: Option<&Way>,
    head: &mut UpstreamHead,
    held: &mut Bytes,
    is_whole: bool,
) -> Result<Renaming, Unfit> {
    let mut renaming = Renaming::new(ctx, way, head)?;
    if renaming.is_on() {
        let renamed = renaming.pass(ctx, way, std::mem::take(held));
        *held = renamed.map_err(|broken| broken.fault)?;
        head.length = is_whole.then_some(held.len() as u64);
        if is_whole {
            std::mem::replace(&mut renaming, Renaming::Off).finish()?;
        }
    }
    Ok(renaming)
}

/// What is known of the way.
pub(super) fn passage<'a>(ctx: &'a Context, way: &'a Way) -> Option<Passage<'a>> {
    let route = ctx.record.route.as_deref()?;
    let caller = ctx.record.caller.as_deref()?;
    let member = route.federation()?.members().get(way.member)?;
    let raw = |id: &'a crate::jsonrpc::OwnedId| id.as_id().raw();
    Some(Passage {
        holder: Holder {
            sealing: &ctx.snapshot.sealing,
            session: way.session,
            binding: Binding { route: &route.digest, caller: caller.digest() },
        },
        member: member.id.0,
        server: &member.name,
        uri_prefix: &member.uri_prefix,
        answers: match &way.id {
            Some(id) => Answers::To { own: raw(id), shown: raw(id) },
            None => Answers::Any,
        },
        subscription: way.subscription.as_ref().map(raw),
        now: seconds(SystemTime::now()),
    })
}
