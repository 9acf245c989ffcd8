//! The operator's side: probes and metrics, the admin API, and the configuration while it changes.

mod probes;
mod difference;
mod registrations;
mod handover;
#[cfg(feature = "kubernetes")]
mod services;
mod discovered;
mod reload;
mod answer;
mod tokens;
mod sightings;
mod view;
mod offers;
mod api;
mod servers;
mod endpoints;
mod approvals;
mod live;
mod dashboard;
mod revocations;
mod sharing;
mod operators;
mod upkeep;
mod ask;
mod table;

pub use api::Api;
pub use ask::{AskFault, explain, ready, servers};
pub use operators::Operators;
pub use probes::{Guard, Probes};
pub use registrations::load;
pub use reload::{Check, Fault, Reload, Reloaded, Trigger};
pub use table::table;
pub use upkeep::Upkeep;
