//! What the gateway itself says on a merged stream, in the words of the client's era.

use bytes::Bytes;

use crate::jsonrpc::{Id, OwnedId, peek};
use crate::mcp::{self, Era, Filter};
use crate::proxy::plan::Errand;
use crate::proxy::stream::{events, retry_hint};

/// What the client is answered.
pub(super) enum Answering {
    /// The GET of a legacy client.
    Legacy,
    /// A listen request.
    Modern {
        /// Its id.
        id: OwnedId,
        /// What it asks for; once that was acknowledged, what was accepted of it.
        filter: Filter,
    },
}

impl Answering {
    pub(super) fn new(errand: &Errand, asked: Filter) -> Self {
        let id =
            peek(&errand.body).ok().and_then(|envelope| envelope.reply_id().map(Id::into_owned));
        match id.filter(|_| errand.shape.era == Era::Modern) {
            Some(id) => Self::Modern { id, filter: asked },
            None => Self::Legacy,
        }
    }

    /// The first event of a listen stream. What was not asked of any server yet, or not answered, is
    /// accepted as far as it is lists: of those the client is told whenever the server comes.
    pub(super) fn acknowledge(&mut self, accepted: &[Filter], undecided: usize) -> Option<Bytes> {
        let Self::Modern { id, filter } = self else { return None };
        let lists = if undecided > 0 { filter.lists } else { [false; 3] };
        let by_servers = filter.accepted_by(accepted);
        let lists = std::array::from_fn(|list| lists[list] || by_servers.lists[list]);
        *filter = Filter { lists, ..by_servers };
        Some(events(&[filter.acknowledgement(id.as_id().raw())]).into())
    }

    /// Tells that every list may have changed.
    pub(super) fn list_changed(&self) -> Vec<u8> {
        events(&match self {
            Self::Legacy => mcp::list_changed(Era::Legacy, b""),
            Self::Modern { id, filter } => filter.list_changed(id.as_id().raw()),
        })
    }

    /// What the stream ends with: a legacy client is told when to come back, a modern one that its
    /// listening is over.
    pub(super) fn farewell(&self) -> Vec<u8> {
        match self {
            Self::Legacy => retry_hint(),
            Self::Modern { id, .. } => events(&[mcp::listening_over(id.as_id().raw())]),
        }
    }
}
