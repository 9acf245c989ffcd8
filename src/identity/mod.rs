//! Who is calling? Proof in the headers becomes a [`Caller`], or the request ends here.

mod api_key;
mod caller;

pub use caller::{Caller, Method, Proven};

use std::sync::Arc;

use crate::config;
use api_key::ApiKeys;

/// The ways of proof that the configuration allows.
pub struct Identity {
    api_keys: ApiKeys,
    anonymous: Option<Arc<Caller>>,
}

/// Why nobody was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// The request carries no credential and anonymous callers are refused.
    Missing,
    /// The request carries a credential that proves nothing. It is refused even where anonymous
    /// callers are welcome: a bad proof must never fall back to none (CVE-2026-12773).
    Invalid,
}

impl Identity {
    /// Builds the tables once, so that a request only looks up.
    pub fn new(settings: &config::Identity) -> Self {
        let anonymous = match settings.anonymous {
            config::Anonymous::Allow => Some(Arc::new(Caller::anonymous())),
            config::Anonymous::Deny => None,
        };
        Self { api_keys: ApiKeys::new(&settings.api_keys), anonymous }
    }

    /// The caller behind the value of `Authorization`, the only place a credential is read from.
    pub fn authenticate(&self, authorization: Option<&[u8]>) -> Result<&Arc<Caller>, Unproven> {
        let Some(value) = authorization else {
            return self.anonymous.as_ref().ok_or(Unproven::Missing);
        };
        let token = bearer(value).ok_or(Unproven::Invalid)?;
        self.api_keys.find(token).ok_or(Unproven::Invalid)
    }
}

/// The token of `Authorization: Bearer <token>` (RFC 6750 section 2.1; the scheme in any case).
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let token = token.trim_ascii();
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::{Identity, Unproven};
    use crate::config;

    fn identity(anonymous: config::Anonymous) -> Identity {
        let key = |caller: &str, secret: &str| config::ApiKey {
            caller: caller.to_owned(),
            tenant: None,
            scopes: Vec::new(),
            sha256: ring::digest::digest(&ring::digest::SHA256, secret.as_bytes())
                .as_ref()
                .try_into()
                .expect("SHA-256 is 32 bytes"),
        };
        Identity::new(&config::Identity {
            anonymous,
            api_keys: vec![key("ann", "secret-a"), key("bob", "secret-b")],
        })
    }

    fn check(identity: &Identity, value: Option<&str>, expected: Result<&str, Unproven>) {
        let found = identity.authenticate(value.map(str::as_bytes)).map(|caller| caller.id());
        assert_eq!(found, expected, "{value:?}");
    }

    #[test]
    fn a_key_proves_its_caller_and_nothing_else_does() {
        let strict = identity(config::Anonymous::Deny);
        check(&strict, Some("Bearer secret-a"), Ok("ann"));
        check(&strict, Some("bearer  secret-b "), Ok("bob"));
        for bad in ["Bearer secret-c", "Bearer ", "Basic secret-a", "secret-a", "Bearer", ""] {
            check(&strict, Some(bad), Err(Unproven::Invalid));
        }
        check(&strict, None, Err(Unproven::Missing));
    }

    #[test]
    fn a_bad_proof_is_not_anonymous() {
        let open = identity(config::Anonymous::Allow);
        check(&open, None, Ok("anonymous"));
        check(&open, Some("Bearer secret-c"), Err(Unproven::Invalid));
    }
}
