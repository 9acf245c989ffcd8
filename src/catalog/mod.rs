//! What does each server offer? The gateway lists it itself, as an MCP client of either era.
//!
//! A [`Catalog`] outlives every configuration. For each server it holds a [`Listed`], the handle that
//! the request path keeps: what the server's own lists said last is one load away, and what a single
//! caller was shown beyond that one lookup further. [`Keeping`] asks the servers, in the
//! background. [`Pins`] remember which definitions were shown.

mod offer;
mod page;
mod canonical;
mod difference;
mod alike;
mod pins;
mod pin_file;
mod told;
mod learned;
mod listed;
mod events;
mod message;
mod client;
mod asking;
mod keeping;

pub use alike::{Alike, Likeness};
pub use canonical::Digest;
pub use keeping::{Keeping, list_first};
pub use learned::{Fingerprint, Seen};
pub use listed::{Catalog, Listed};
pub use offer::{Audience, Definition, Definitions, Kind, Offer, State};
pub use pins::{Became, DefinitionChange, NotApproved, Passing, Pending, Pin, Pins, ServerPins};
