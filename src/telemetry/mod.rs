//! How is the gateway doing? Metrics, the request log, and the closed list of reasons both share.

mod calls;
mod catalog;
mod audit;
mod clock;
mod configuration;
mod definitions;
mod endpoints;
mod identity;
mod limits;
mod logs;
mod metrics;
mod policy;
mod reason;
mod repeats;
mod routes;
mod sessions;
mod credentials;

pub use audit::AuditMetrics;
pub use calls::{CallDetail, RpcCode};
pub use catalog::{CatalogMetrics, Refresh};
pub use clock::{rfc3339, write_rfc3339};
pub use credentials::CredentialMetrics;
pub use definitions::DefinitionMetrics;
pub use endpoints::{EndpointMetrics, EndpointShown};
pub use identity::IdentityMetrics;
pub use limits::{LimitCounters, LimitMetrics};
pub use logs::{Format, Line, RequestLog, start_diagnostics, write_number};
pub use metrics::{Labels, Metrics, Outcome};
pub use policy::PolicyMetrics;
pub use reason::Reason;
pub use repeats::{CallKey, Repeats};
pub use routes::RouteMetrics;
pub use sessions::SessionMetrics;
