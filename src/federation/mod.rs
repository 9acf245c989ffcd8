//! How are many servers one? Messages on their way between a client and one of the servers.

mod body;
#[cfg(test)]
mod by_tree;
mod events;
mod holder;
mod message;
mod onward;
mod pending;
mod splices;

pub use body::BodyToClient;
pub use events::{Cut, EVENT_ID_BYTES_MAX, EventsToClient, Part, Passing, event_id, own_event_id};
pub use holder::{Held, Holder, NotHeld};
pub use message::{Answers, Passage, json, to_client};
pub use onward::{Moment, Onward, onward};
pub use splices::Splices;
