//! What the API server of Kubernetes knows: the pods of services, and services that want to be servers.

mod watch;
mod slices;
mod pods;
mod services;

pub(super) use pods::Watches;
pub use services::{Service, Services};
