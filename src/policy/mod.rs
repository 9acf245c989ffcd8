//! May they? Rules compiled to tables, the same for a call and for what a list shows of it.
//!
//! A rule has a static part (who, where, what) and may have a condition. The static parts are
//! answered by tables: one set of bits for each caller, one for each name at a server, a bit for
//! each rule. Their intersection is what could match, and only there conditions are asked. Order
//! does not matter: a deny that matches wins, else an allow that matches, else it is denied.
//!
//! What nobody can know opens nothing: where a condition fails or reads what is not known, a deny
//! and a requirement match, and an allow does not.

mod arguments;
mod asked;
mod authorize;
mod bits;
mod combination;
mod condition;
mod difference;
mod explain;
mod inquiry;
mod listing;
mod marks;
mod names;
mod question;
mod renewal;
mod rule;
mod survey;
mod table;
mod uri;
mod values;
#[cfg(test)]
mod tests;

pub use asked::{Asked, Subject};
pub use authorize::{Decision, Effect, Outcome, Policy, Reason, Shadow};
pub use combination::{Combinations, Marks, Refused, Use};
pub use difference::{Access, Change, Difference, differences};
pub use explain::{Account, Explanation, Matches};
pub use inquiry::{Catalogue, Inquiry};
pub use listing::Listing;
pub use marks::{MARKS_MAX, MARKS_PER_CALLER_MAX, State};
pub use names::Origin;

use crate::config::{Place, Problem, Settings};

/// A fault in the configuration that only this engine finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: String,
}

/// What only this engine finds wrong in the settings.
pub fn problems(settings: &Settings) -> Vec<Problem> {
    let servers = settings.servers.iter().map(|server| server.name.as_str());
    let faults = Policy::new(&settings.policy, servers).err().unwrap_or_default();
    let problem = |Fault { place, message, hint }| Problem::new(place, message).hint(hint);
    faults.into_iter().map(problem).collect()
}
