//! What MCP says, as pure rules: revisions, methods, headers, and whether a request keeps them.

mod annotations;
mod answer;
mod call;
mod headers;
mod method;
mod revision;
mod session;
mod sse;
mod violation;

pub use annotations::Annotations;
pub use answer::{Answer, result_of};
pub use call::{Call, Kind};
pub use headers::{
    Claims, LAST_EVENT_ID, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, MCP_SESSION_ID, decode_name,
};
pub use method::{Class, RoutingKey, well_known};
pub use revision::{Era, Revision};
pub use session::{error_code, list_changed, listening_over, log_level, params_of};
pub use sse::data_of_events;
pub use violation::{HEADER_MISMATCH, Violation};
