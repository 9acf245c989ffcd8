//! What will be done for a request: forwarded to a pool, or answered here.

use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::Kind;
use crate::jsonrpc::{Id, OwnedId, peek};
use crate::mcp::Era;
use crate::sessions::{Named, Place, SessionKey, SessionState, Spot};
use crate::upstream::{Endpoint, Pool};

/// The decision about one request.
pub(super) enum Plan {
    /// Send it to an endpoint.
    Forward(Forward),
    /// A CORS preflight, answered by the gateway.
    Preflight,
    /// What a route says of itself to clients without a token (RFC 9728): JSON.
    Metadata(Bytes),
    /// Nothing: the client left before it was its turn.
    Abandoned,
    /// Answer it here, for several servers.
    Errand(Box<Errand>),
}

/// Everything that carrying a request to a server needs.
pub(super) struct Forward {
    pub(super) pool: Arc<Pool>,
    pub(super) placement: Placement,
    pub(super) shape: Shape,
    pub(super) body: Bytes,
    /// Of several servers the one it goes to; what it says is renamed for the client.
    pub(super) way: Option<Box<Way>>,
}

/// The way of messages between a client and one of several servers.
pub(super) struct Way {
    /// Which server, by its index.
    pub(super) member: usize,
    /// The session of the client.
    pub(super) session: Option<SessionKey>,
    /// The id of the request that is answered.
    pub(super) id: Option<OwnedId>,
    /// The listen request that the messages belong to, as the client wrote its id.
    pub(super) subscription: Option<OwnedId>,
}

/// What the gateway does itself, for several servers.
pub(super) struct Errand {
    pub(super) what: What,
    /// The servers that it is for, by their index: the caller may ask them so.
    pub(super) members: Vec<usize>,
    /// The legacy session.
    pub(super) session: Option<SessionState>,
    pub(super) shape: Shape,
    pub(super) body: Bytes,
}

/// Which errand it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// `initialize`.
    OpensSession,
    /// `server/discover`.
    Discover,
    /// A list.
    List(Kind),
    /// `tasks/list`: every server of the session is asked.
    ListTasks,
    /// `ping`.
    Ping,
    /// `logging/setLevel`: every server of the session is told.
    Level,
    /// A notification for every server of the session.
    Tell,
    /// A notification that says nothing new to any of them.
    Accept,
    /// The stream of a legacy session, or a modern listen request.
    Listen,
    /// DELETE of a session.
    EndsSession,
}

impl Forward {
    /// The legacy session that the request belongs to.
    pub(super) fn held(&self) -> Option<&Held> {
        self.placement.held()
    }

    /// The server's own session id, in place of the sealed one the client sent.
    pub(super) fn upstream_session(&self) -> Option<&[u8]> {
        self.held().and_then(Held::upstream_id)
    }

    /// The id to answer with. It is not kept while all goes well, because the body still has it.
    pub(super) fn reply_id(&self) -> Option<OwnedId> {
        peek(&self.body).ok()?.reply_id().map(Id::into_owned)
    }
}

/// Which endpoint may take it.
pub(super) enum Placement {
    /// The one that holds the session.
    Held(Box<Held>),
    /// Any; the key decides on the ring, the random number elsewhere.
    Any {
        /// What is hashed.
        key: Key,
        /// Picks where nothing is hashed.
        random: u64,
    },
}

impl Placement {
    /// The legacy session that decides.
    pub(super) fn held(&self) -> Option<&Held> {
        match self {
            Self::Held(held) => Some(held),
            Self::Any { .. } => None,
        }
    }
}

/// A legacy session, and where it lives now.
pub(super) struct Held {
    /// What its id says.
    pub(super) state: SessionState,
    /// Where it lives; `None` if that endpoint is no longer part of the pool.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// The server's own id there, if the session moved.
    moved: Option<Option<Vec<u8>>>,
    /// Whether it was never opened: a leg that was not there when its session began.
    is_late: bool,
}

impl Held {
    /// A session that lives where its id says, at this endpoint if there is one.
    pub(super) fn at_home(state: SessionState, endpoint: Option<Arc<Endpoint>>) -> Self {
        Self { state, endpoint, moved: None, is_late: false }
    }

    /// A session that moved, to this endpoint if it is still part of the pool.
    pub(super) fn moved(
        state: SessionState,
        endpoint: Option<Arc<Endpoint>>,
        upstream_id: Option<Vec<u8>>,
    ) -> Self {
        Self { state, endpoint, moved: Some(upstream_id), is_late: false }
    }

    /// A leg that was never opened, and is opened before anything is sent.
    pub(super) fn late(state: SessionState) -> Self {
        Self { state, endpoint: None, moved: Some(None), is_late: true }
    }

    /// Whether it was never opened.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// The session moves now.
    pub(super) fn move_to(&mut self, to: Place) {
        self.is_late = false;
        self.endpoint = Some(to.endpoint);
        self.moved = Some(to.upstream_id);
    }

    /// Whether it lives somewhere else than its id says.
    pub(super) fn is_away(&self) -> bool {
        self.moved.is_some()
    }

    /// The session's name.
    pub(super) fn key(&self) -> SessionKey {
        self.state.key
    }

    /// What it is called, be it a session or a leg of one.
    pub(super) fn named(&self) -> Named {
        self.state.named()
    }

    /// Where it lives, as every replica names it.
    pub(super) fn spot(&self) -> Option<Spot> {
        let endpoint = self.endpoint.as_ref()?.id();
        let upstream_id = self.upstream_id().filter(|id| !id.is_empty()).map(<[u8]>::to_vec);
        Some(Spot { endpoint, upstream_id })
    }

    /// The server's own id, where the session lives; `None` if it gives none there.
    pub(super) fn upstream_id(&self) -> Option<&[u8]> {
        match &self.moved {
            Some(moved) => moved.as_deref(),
            None => Some(self.state.upstream_id()),
        }
    }

    /// Whether the session lives at this place.
    pub(super) fn lives_at(&self, place: &Place) -> bool {
        let here = self.endpoint.as_ref().map(|endpoint| endpoint.id());
        here == Some(place.endpoint.id()) && self.upstream_id() == place.upstream_id.as_deref()
    }
}

/// What a request is hashed by. Most keys are short and of fixed length, and cost no allocation.
pub(super) enum Key {
    /// A digest, an address, or a number.
    Fixed([u8; 16]),
    /// A name or the value of a field.
    Text(Box<str>),
}

impl Key {
    /// The bytes to hash.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

/// What kind of exchange it is, as far as driving it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) exchange: Exchange,
    pub(super) repeat: Repeat,
    pub(super) era: Era,
}

/// What the answer is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// A message and its answer.
    Message,
    /// `initialize`, whose answer opens a session.
    OpensSession,
    /// A legacy GET stream, or a modern listen stream: it may idle for hours.
    Stream,
    /// DELETE of a session.
    EndsSession,
}

/// Whether the request may be sent again after a first copy may have reached a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing, so a second copy does no harm.
    Harmless,
    /// It must never run twice.
    Never,
}

impl Shape {
    /// Whether the exchange ends when the client leaves. A modern disconnect is a cancel
    /// (2026-07-28 transport), a legacy one is not (2025-11-25 transport); a legacy GET stream
    /// only listens, so without its listener it is nothing.
    pub(super) fn ends_with_client(self) -> bool {
        self.era == Era::Modern || self.exchange == Exchange::Stream
    }
}
