//! The suite: the real gateway as a child process, used and attacked over real sockets.

mod support;
mod adversarial;
mod bodies;
mod clients;
mod conformance;
mod servers;
mod sessions;
mod streams;
