//! How is the gateway doing? Metrics, the request log, and the closed list of reasons both share.

mod audit;
mod clock;
mod endpoints;
mod logs;
mod metrics;
mod reason;
mod sessions;

pub use audit::AuditMetrics;
pub use clock::{rfc3339, write_rfc3339};
pub use endpoints::{EndpointMetrics, EndpointShown};
pub use logs::{Format, Line, RequestLog, start_diagnostics};
pub use metrics::{Labels, Metrics, Outcome, RouteMetrics};
pub use reason::Reason;
pub use sessions::SessionMetrics;
