//! Where does a call go? Each MCP server is a pool of equal endpoints (YAML key `servers`).

mod standing;
mod endpoint;
mod breaker;
mod choose;
mod retry_budget;
mod credentials;
mod pool;
mod fleet;
mod resolve;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod discovery;
mod probe;
mod probe_mcp;
mod health;
mod upkeep;

pub use breaker::{Busy, InFlight};
pub use choose::{Chooser, Load, Otherwise, Wanted};
pub use credentials::{Credentials, Field, Now, Renewal, Subject, Unavailable};
pub use discovery::Discovery;
pub use endpoint::{Address, Endpoint, id_of};
pub use fleet::{Change, Fleet, Found, Registered};
pub use health::Probing;
#[cfg(feature = "kubernetes")]
pub use kubernetes::{Service, Services};
pub use pool::{Ejected, Loss, Member, Members, Pool, SessionHabit, Source};
pub use probe::{Asked, Connectors, Fault as AskFault, Opened, Question};
pub use resolve::resolve_now;
pub use standing::{Fault, Standing, State};
pub use upkeep::Upkeep;

use std::sync::LazyLock;
use std::time::Instant;

/// Milliseconds on the clock that endpoints and leases are kept by: it only goes forward, and begins
/// well after zero, so that zero can mean never.
pub fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    10_000_000 + u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
