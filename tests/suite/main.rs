//! The suite: the real gateway as a child process, used and attacked over real sockets.

mod support;
mod adversarial;
mod admin;
mod answers;
mod audit;
mod bodies;
mod catalog;
mod certificates;
mod challenges;
mod cli;
mod clients;
mod combinations;
mod conformance;
mod credentials;
mod dashboard;
mod definitions;
mod discovery;
mod federation;
mod health;
mod identity;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod limits;
mod listeners;
mod merging;
mod moves;
mod policy;
mod policy_calls;
mod reload;
mod replicas;
mod servers;
mod sessions;
mod stopping;
mod streams;
mod telemetry;
mod tokens;
