//! What an issuer vouches for: the caller behind a token, where the token counts and until when.

use std::sync::Arc;

use super::Unproven;
use super::audience::Audience;
use super::caller::Caller;

/// The meaning of a token that was found to be true.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) caller: Arc<Caller>,
    /// In their one form.
    pub(super) audiences: Box<[Box<str>]>,
    /// Whether it names an audience that its issuer may use for every route.
    pub(super) is_everywhere: bool,
    /// In seconds since 1970; from then on it must be looked at again.
    pub(super) until_s: u64,
}

impl Vouched {
    /// The caller, if the token is meant for this route (RFC 8707).
    pub(super) fn at(&self, audience: &Audience) -> Result<Arc<Caller>, Unproven> {
        let is_meant = self.is_everywhere || self.audiences.iter().any(|named| audience.is(named));
        is_meant.then(|| Arc::clone(&self.caller)).ok_or(Unproven::Invalid)
    }

    /// Whether it may still be believed.
    pub(super) fn holds(&self, now_s: u64) -> bool {
        now_s < self.until_s
    }
}
