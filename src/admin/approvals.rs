//! Definitions of tools that a server has changed and that an operator lets be shown.

use http::StatusCode;
use serde::Deserialize;

use super::answer::{Answer, Denial};
use super::api::{Api, Asked, Mode, Nothing, check_tag, parse};
use crate::catalog::{Digest, NotApproved};

/// Which definition is meant; by default the one that waits now.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalBody {
    digest: Option<String>,
}

impl From<NotApproved> for Denial {
    fn from(why: NotApproved) -> Self {
        match why {
            NotApproved::NothingWaits => {
                Self::not_found("no definition of a tool of this name waits to be approved")
            }
            NotApproved::Other => Self::conflict("another definition waits by now; look again"),
        }
    }
}

impl Api {
    /// Lets the definition of one tool that waits be shown.
    pub(super) fn approve(
        &self,
        asked: &Asked,
        (server, tool): (&str, &str),
        body: &[u8],
    ) -> Result<Answer, Denial> {
        let ApprovalBody { digest } = parse(body)?;
        let _turn = self.turn()?;
        self.pool(server)?;
        check_tag(asked, self.tag(server))?;
        let catalog = &self.reload().shared().snapshot().catalog;
        catalog.pins().of(server).waiting(tool, digest.as_deref())?;
        self.approve_each(asked, server, &[(tool.to_owned(), digest)])
    }

    /// Lets every definition of a server that waits be shown.
    pub(super) fn approve_all(
        &self,
        asked: &Asked,
        server: &str,
        body: &[u8],
    ) -> Result<Answer, Denial> {
        parse::<Nothing>(body)?;
        let _turn = self.turn()?;
        self.pool(server)?;
        check_tag(asked, self.tag(server))?;
        let pins = self.reload().shared().snapshot().catalog.pins().of(server);
        // Those that wait now, not what comes meanwhile.
        let waiting: Vec<_> = pins
            .pending()
            .map(|(tool, pending)| (tool.to_owned(), Some(pending.digest.to_string())))
            .collect();
        drop(pins);
        self.approve_each(asked, server, &waiting)
    }

    fn approve_each(
        &self,
        asked: &Asked,
        server: &str,
        tools: &[(String, Option<String>)],
    ) -> Result<Answer, Denial> {
        let shared = self.reload().shared();
        let catalog = &shared.snapshot().catalog;
        if asked.mode == Mode::Real {
            for (tool, digest) in tools {
                let before = digest_of(catalog.pins().of(server).find(tool).map(|pin| pin.digest));
                let change = catalog.approve(server, tool, digest.as_deref())?;
                let pins = catalog.pins().of(server);
                let after = digest_of(pins.find(tool).map(|pin| pin.digest));
                let metrics = &shared.metrics().definitions;
                metrics.changed(server, change.what.as_str());
                metrics.show_pending(server, pins.pending().count());
                self.note(asked, "approve", &format!("{server}/{tool}"), &before, &after);
            }
            // What is not kept must not be promised.
            catalog.pins().write().map_err(|error| {
                Denial::internal(&format!("approved, but not kept for the next start: {error}"))
            })?;
        }
        let pool = self.pool(server)?;
        Ok(self.done(asked, server, StatusCode::OK, self.whole(&pool)))
    }
}

/// The start of a digest, which is enough to tell two apart.
fn digest_of(digest: Option<Digest>) -> String {
    digest.map(|digest| digest.to_string().chars().take(16).collect()).unwrap_or_default()
}
