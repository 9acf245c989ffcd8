//! JSON-RPC as bytes: what a body asks for, read without building a tree, and how a "no" is written.

mod envelope;
mod error;
mod fault;
mod fold;
mod id;
mod keys;
mod peek;
mod scan;
mod text;

pub use envelope::{Claim, Envelope, Kind, Meta, Params, Reference};
pub use error::{
    ErrorBody, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR,
    ReplyTo,
};
pub use fault::{Fault, FaultClass};
pub(crate) use fold::{Match, find};
pub use id::{Id, OwnedId};
pub use peek::peek;
pub use scan::DEPTH_MAX;
pub use text::Text;
