//! How is the gateway doing? Metrics, the request log, and the closed list of reasons both share.

mod clock;
mod endpoints;
mod logs;
mod metrics;
mod reason;
mod sessions;
mod credentials;

pub use clock::rfc3339;
pub use credentials::CredentialMetrics;
pub use endpoints::{EndpointMetrics, EndpointShown};
pub use logs::{Format, Line, RequestLog, start_diagnostics};
pub use metrics::{Labels, Metrics, Outcome, RouteMetrics};
pub use reason::Reason;
pub use sessions::SessionMetrics;
