//! One server of several, and whether it can be shown now.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Deserialize;

use crate::catalog::{Listed, Offer, State};
use crate::config::{self, WhenDown, member_digest};
use crate::mcp::{Era, Revision};
use crate::upstream::{Pool, State as EndpointState};

/// What names a server in whatever clients keep, however the configuration changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberId(pub [u8; 4]);

/// One server of several.
pub struct Member {
    /// What names it in whatever clients keep.
    pub id: MemberId,
    /// Its name in the configuration.
    pub name: String,
    /// What answers.
    pub pool: Arc<Pool>,
    /// What it offers.
    pub listed: Arc<Listed>,
    /// What the schemes of its URIs are shown with; may be empty.
    pub uri_prefix: String,
    /// By era, the presence that was logged last, as [`Presence::code`].
    noted: [AtomicU8; 2],
}

impl MemberId {
    /// The id of the server with this name.
    pub fn of(server: &str) -> Self {
        Self(member_digest(server))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Member {
    pub(super) fn new(of: &config::Member, pool: &Arc<Pool>, listed: Arc<Listed>) -> Self {
        Self {
            id: MemberId::of(&of.name),
            name: of.name.clone(),
            pool: Arc::clone(pool),
            listed,
            uri_prefix: of.uri_prefix.clone(),
            noted: Default::default(),
        }
    }

    /// Whether no endpoint of it is in order.
    pub fn is_down(&self, now_ms: u64) -> bool {
        let members = self.pool.members();
        !members.endpoints().iter().any(|endpoint| {
            let state = self.pool.state(endpoint, now_ms);
            matches!(state, EndpointState::Serving | EndpointState::Warming)
        })
    }

    /// Logs how it is listed for clients of an era, when that is not as it was.
    pub(super) fn note(&self, presence: Presence, era: Era, route: &str) {
        let (noted, code) = (&self.noted[era as usize], presence.code());
        if noted.load(Ordering::Relaxed) == code || noted.swap(code, Ordering::Relaxed) == code {
            return;
        }
        let server = &self.name;
        match presence.named() {
            Some((list, because)) => {
                tracing::warn!(route, server, ?era, list, because, "lists lack a server");
            }
            None => tracing::info!(route, server, ?era, "lists show the server again"),
        }
    }

    /// How its definitions are shown in a list.
    pub(super) fn presence(
        &self,
        (offer, voice): (&Offer, Voice),
        era: Era,
        when_down: WhenDown,
        now_ms: u64,
    ) -> Presence {
        if !voice.speaks(era) {
            return Presence::LeftOut("era");
        }
        match (self.is_down(now_ms), when_down, &offer.state) {
            (true, WhenDown::LeaveOut, _) | (true, _, State::Unknown) => Presence::LeftOut("down"),
            (true, WhenDown::Keep, _) => Presence::Kept("down"),
            (false, _, State::Unknown) => Presence::LeftOut("not_listed"),
            (false, _, State::Stale(_)) => Presence::Kept("stale"),
            (false, _, State::Known) => Presence::Whole,
        }
    }
}

/// How the definitions of a server are shown in a list; the word says why they are so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Whole,
    Kept(&'static str),
    LeftOut(&'static str),
}

impl Presence {
    /// How it is listed and why so, if not as it should be.
    pub(super) fn named(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Whole => None,
            Self::Kept(because) => Some(("kept", because)),
            Self::LeftOut(because) => Some(("left_out", because)),
        }
    }

    /// Another number for each.
    fn code(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Kept("down") => 1,
            Self::Kept(_) => 2,
            Self::LeftOut("era") => 3,
            Self::LeftOut("down") => 4,
            Self::LeftOut(_) => 5,
        }
    }
}

/// The eras that a server can be spoken to in, as far as it has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Voice {
    /// How it was spoken to; `None` before it was.
    era: Option<Era>,
    /// Whether a modern one has said that it knows legacy revisions too.
    knows_both: bool,
}

impl Voice {
    pub(super) fn of(offer: &Offer) -> Self {
        #[derive(Deserialize)]
        struct Versions {
            #[serde(rename = "supportedVersions", default)]
            all: Vec<String>,
        }
        let is_legacy = |version: &String| {
            Revision::parse(version).is_some_and(|revision| revision.era() == Era::Legacy)
        };
        let knows_both = offer.era == Some(Era::Modern)
            && serde_json::from_slice::<Versions>(&offer.greeting)
                .is_ok_and(|versions| versions.all.iter().any(is_legacy));
        Self { era: offer.era, knows_both }
    }

    /// Whether it can be spoken to in this era; one that was never spoken to may be.
    pub(super) fn speaks(self, era: Era) -> bool {
        self.era.is_none_or(|spoken| spoken == era || self.knows_both)
    }

    /// Whether it is known that it can.
    pub(super) fn is_known_to_speak(self, era: Era) -> bool {
        self.era.is_some() && self.speaks(era)
    }

    /// The only era that it speaks, if it is known to be one.
    pub(super) fn only(self) -> Option<Era> {
        self.era.filter(|_| !self.knows_both)
    }
}
