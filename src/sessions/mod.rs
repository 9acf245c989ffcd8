//! Which conversation? Legacy session ids that clients hold are sealed by the gateway, not stored.

mod key_file;
mod seal;
mod legs;
mod sealed;
mod table;

pub use key_file::{KeyFile, generated_key};
pub use legs::{Leg, LegId, NewLeg, write_legs};
pub use seal::{
    Binding, NewSession, Opening, Seal, Sealed, SessionKey, SessionState, TOKEN_BYTES_MAX, seconds,
};
pub use sealed::{Owner, Purpose, Sealing};
pub use table::{
    Abandoned, ENTRY_BYTES_MAX, Place, Restore, Rules, Seen, Subscription, Table, View,
};
