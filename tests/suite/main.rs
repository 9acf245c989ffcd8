//! The suite.
mod support;
mod clients;
