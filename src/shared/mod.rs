//! What replicas of the gateway share: in memory by default, Redis or Valkey when configured.
//!
//! Engines decide with what is in the process. Here they ask the store for what they lack, bounded by
//! a few milliseconds, and when it is away they are told so at once and go on by themselves. Nothing
//! secret lies in the store in the clear: values are sealed with the keys of sessions, bound to the
//! name they lie under. Names are digests of things that are no secrets. Every time is the store's
//! own, so that the clocks of replicas need not agree.

mod ask;
mod board;
mod fleet;
mod link;
mod name;
mod sealed;
mod store;

pub use ask::Ask;
pub use board::{Board, Fields, Steps, slim};
pub use fleet::{Heard, Topic};
pub use link::Away;
pub use name::{Name, digest};
pub use redis::FromRedisValue as FromReply;
pub use store::{Standing, Store};
