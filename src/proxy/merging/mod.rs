//! One stream made of those of several servers: a legacy client's GET, a modern client's listen request.
//!
//! Every server has a [`source`] of its own, which opens its stream, and opens it again when it is lost.
//! Nothing is read of any of them while the client has not taken what was read before, so that a slow
//! client pushes back on all of them and no queue grows. One source at a time has the floor while an
//! event is passed on in parts; otherwise events of all of them take turns as they come.

mod answering;
mod opening;
mod source;
mod sources;
mod streaming;

use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};

use crate::proxy::Gateway;
use crate::proxy::answer;
use crate::proxy::context::{Context, Reached};
use crate::proxy::plan::Errand;
use crate::proxy::refusal::Refusal;
use crate::telemetry::{Outcome, Reason};
use answering::Answering;
use source::Scene;
use streaming::{Streaming, Tally};

/// How a merged stream came to its end.
enum Ending {
    /// Nothing was sent: this is answered.
    Refused(Refusal),
    /// Between two events.
    Clean,
    /// The client is gone.
    ClientGone,
    /// A server broke off in an event of which the client has a part.
    Cut,
}

impl Gateway {
    /// Gives the client the events of every server that has some for it.
    pub(super) async fn merge(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        errand: &Errand,
    ) -> pingora::Result<()> {
        let sought = match Box::pin(self.sources(session.req_header(), ctx, errand)).await {
            Ok(sought) => sought,
            Err(refusal) => return answer::refuse(session, ctx, &refusal).await,
        };
        let client = session.req_header().clone();
        ctx.record.reached = Reached::Server;
        let (ending, tally) = {
            let scene =
                Scene { gateway: self, ctx, client: &client, session: errand.session.as_ref() };
            let answering = Answering::new(errand, sought.asked);
            let mut streaming = Streaming::new(&scene, answering, sought.sources);
            let ending = Box::pin(streaming.run(session)).await;
            // Whatever is open at servers is closed before anything else is done.
            (ending, streaming.end())
        };
        let Tally { bytes_out, waited } = tally;
        ctx.record.waited += waited;
        if let Ending::Refused(refusal) = ending {
            return answer::refuse(session, ctx, &refusal).await;
        }
        ctx.record.status = 200;
        ctx.record.bytes_out += bytes_out;
        let (outcome, reason) = match ending {
            Ending::Refused(_) | Ending::Clean => (Outcome::Ok, None),
            Ending::ClientGone => (Outcome::Cancelled, None),
            Ending::Cut => (Outcome::Failed, Some(Reason::EndpointBroken)),
        };
        (ctx.record.outcome, ctx.record.reason) = (Some(outcome), reason);
        match outcome {
            Outcome::Ok => Ok(()),
            _ => Error::e_explain(ErrorType::ConnectionClosed, "merged stream cut short"),
        }
    }
}
