//! One stream made of those of several servers.

use pingora::protocols::http::ServerSession;

use super::Gateway;
use super::answer;
use super::context::Context;
use super::plan::Errand;
use super::refusal::Refusal;

impl Gateway {
    /// Gives the client the events of every server that has some for it.
    pub(super) async fn merge(
        &self,
        session: &mut ServerSession,
        ctx: &mut Context,
        _errand: Errand,
    ) -> pingora::Result<()> {
        answer::refuse(session, ctx, &Refusal::verb("POST, DELETE, OPTIONS")).await
    }
}
