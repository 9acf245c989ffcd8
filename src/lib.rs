//! Toolgate: an edge proxy for the Model Context Protocol.

pub mod jsonrpc;
pub mod mcp;
pub mod config;
pub mod telemetry;
pub mod identity;
pub mod upstream;
pub mod sessions;
pub mod routes;
pub mod snapshot;
pub mod proxy;
pub mod admin;
#[cfg(feature = "demo")]
pub mod demo;
pub mod serve;
pub mod cli;
