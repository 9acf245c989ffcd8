//! What MCP says, as pure rules: revisions, methods, headers, and whether a request keeps them.

mod annotations;
mod answer;
mod call;
mod edit_scan;
mod edits;
mod events;
mod headers;
mod list_events;
mod listening;
mod lists;
mod method;
mod places;
mod revision;
mod session;
mod skim;
mod sse;
mod verdict;
mod violation;

pub use annotations::Annotations;
pub use answer::{Answer, result_of};
pub use call::{Call, Kind};
pub use edit_scan::EditScan;
pub use edits::{Edit, Rewrite, Sought, Subject, Unfit, edited};
pub use events::{ChangedLists, EventScan};
pub use headers::{
    Claims, LAST_EVENT_ID, MCP_METHOD, MCP_NAME, MCP_PROTOCOL_VERSION, MCP_SESSION_ID, decode_name,
    encode_name,
};
pub use list_events::{ListEvents, ListFault, Passed};
pub use listening::Filter;
pub use lists::{BrokenList, Listed, Passes, Shows, filter_list};
pub use method::{Class, RoutingKey, well_known};
pub use revision::{Era, Revision};
pub use session::{
    cursor, error_code, list_changed, listened_resources, listening_over, log_level, params_of,
};
pub use sse::data_of_events;
pub use verdict::{Lists, MessageScan, Verdict};
pub use violation::{HEADER_MISMATCH, Violation};
