//! The operator's side: probes and metrics, on listeners of their own.

mod probes;

pub use probes::{Guard, Probes};
