//! The suite: the real gateway as a child process, used and attacked over real sockets.

mod support;
mod adversarial;
mod admin;
mod answers;
mod audit;
mod bodies;
mod catalog;
mod certificates;
mod cli;
mod clients;
mod conformance;
mod credentials;
mod discovery;
mod health;
mod identity;
mod limits;
mod listeners;
mod moves;
mod policy;
mod reload;
mod servers;
mod sessions;
mod stopping;
mod streams;
mod telemetry;
mod tokens;
