//! Which conversation? Legacy session ids that clients hold are sealed by the gateway, not stored.

mod key_file;
mod seal;

pub use key_file::{KeyFile, generated_key};
pub use seal::{Binding, Seal, SessionState, TOKEN_BYTES_MAX};
