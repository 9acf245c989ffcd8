//! The proven identity of a request.

use ring::digest::{SHA256, digest};

/// Who calls, proven. Everything about one caller is computed once, when its key is loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    id: String,
    tenant: Option<String>,
    scopes: Vec<String>,
    method: Method,
    digest: [u8; 16],
}

/// How the caller proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all, where the configuration allows that.
    Anonymous,
    /// By an API key.
    ApiKey,
}

impl Caller {
    /// A caller proven by `method`.
    pub fn new(id: String, tenant: Option<String>, scopes: Vec<String>, method: Method) -> Self {
        let mut digest_of = vec![method as u8];
        digest_of.extend_from_slice(id.as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&digest(&SHA256, &digest_of).as_ref()[..16]);
        Self { id, tenant, scopes, method, digest: short }
    }

    /// The one caller that everybody without a credential is.
    pub fn anonymous() -> Self {
        Self::new("anonymous".to_owned(), None, Vec::new(), Method::Anonymous)
    }

    /// The name in the configuration, for logs, metrics and rules.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The tenant the caller belongs to.
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The scopes granted to the caller.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// How the caller proved itself.
    pub fn method(&self) -> Method {
        self.method
    }

    /// What sessions are bound to. The method is in it: a key named `anonymous` is not everybody.
    pub fn digest(&self) -> &[u8; 16] {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::{Caller, Method};

    #[test]
    fn callers_with_one_name_and_two_proofs_differ() {
        let by_key = Caller::new("anonymous".to_owned(), None, Vec::new(), Method::ApiKey);
        assert_ne!(by_key.digest(), Caller::anonymous().digest());
    }
}
