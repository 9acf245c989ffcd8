//! Which conversation? Legacy session ids that clients hold are sealed by the gateway, not stored.

mod account;
mod entry;
mod key_file;
mod seal;
mod ledger;
mod legs;
mod sealed;
mod sharing;
mod table;

pub use account::{Account, Alive, Spot};
pub use entry::{ENTRY_BYTES_MAX, Named, Place, Restore};
pub use key_file::{KeyFile, generated_key};
pub use ledger::{Claim, Ledger, Turn};
pub use legs::{Leg, LegId, NewLeg, write_legs};
pub use seal::{
    Binding, NewSession, Opening, Seal, Sealed, SessionKey, SessionState, TOKEN_BYTES_MAX, seconds,
};
pub use sealed::{Owner, Purpose, Sealing};
pub use sharing::IdleHere;
pub use table::{Abandoned, Rules, Seen, Subscription, Table, View};
