//! Where does a call go? Each MCP server is a pool of equal endpoints (YAML key `servers`).

mod choose;
mod endpoint;
mod pool;
mod resolve;

pub use choose::Chooser;
pub use endpoint::{Endpoint, InFlight};
pub use pool::{Pool, SessionHabit};
pub use resolve::{RESOLVE_EVERY, resolve, resolve_now};
