//! API keys, looked up by their SHA-256: the gateway never holds a key, and the time of a look-up
//! says nothing about one.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use serde_json::Map;

use super::caller::{Caller, Method, Proven};
use crate::config;

/// The callers by the digest of their key.
pub(super) struct ApiKeys {
    callers: HashMap<[u8; 32], Arc<Caller>>,
}

impl ApiKeys {
    pub(super) fn new(keys: &[config::ApiKey]) -> Self {
        let callers = keys
            .iter()
            .map(|key| {
                let config::ApiKey { caller, tenant, scopes, sha256 } = key.clone();
                let proven = Proven {
                    id: caller,
                    issuer: None,
                    tenant,
                    scopes,
                    claims: Map::new(),
                    method: Method::ApiKey,
                };
                (sha256, Arc::new(Caller::new(proven)))
            })
            .collect();
        Self { callers }
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<&Arc<Caller>> {
        let digest = digest(&SHA256, key);
        let digest: &[u8; 32] = digest.as_ref().try_into().ok()?;
        self.callers.get(digest)
    }
}
