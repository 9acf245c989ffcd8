//! From a public path to everything that serves it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ring::digest::{SHA256, digest};

use crate::catalog::{Catalog, Listed};
use crate::config::{self, Settings};
use crate::identity::{Audience, Challenge, ProtectedResource};
use crate::telemetry::{Metrics, RouteMetrics};
use crate::upstream::Pool;

/// A public path with its rules.
pub struct Route {
    /// The path, exactly as clients ask for it.
    pub path: String,
    /// What session ids of this route are bound to.
    pub digest: [u8; 16],
    /// What answers.
    pub target: Arc<Pool>,
    /// What who has no token, or too little of one, is told.
    pub challenge: Challenge,
    /// What tokens for this route name.
    pub audience: Audience,
    /// What its server offers.
    pub listed: Arc<Listed>,
    /// Largest body a client may send, in bytes.
    pub body_bytes_max: usize,
    /// Largest list that is held to be filtered, in bytes.
    pub list_bytes_max: usize,
    /// The route's metric handles.
    pub metrics: RouteMetrics,
}

/// Every route, by path.
pub struct Routes {
    by_path: HashMap<String, Arc<Route>>,
    /// What each route says of itself to clients without a token, by its well-known path.
    metadata: HashMap<String, Bytes>,
}

impl Routes {
    /// Builds the tables; `pools` stand in the order of the settings' servers.
    pub fn new(
        settings: &Settings,
        pools: &[Arc<Pool>],
        catalog: &Catalog,
        metrics: &Metrics,
    ) -> Self {
        let (mut by_path, mut metadata) = (HashMap::new(), HashMap::new());
        for route in &settings.routes {
            let config::Target::Server(server) = route.target else { continue };
            let Some(target) = pools.get(server) else { continue };
            let resource = route.public_url.as_deref().and_then(|url| {
                let servers = route.servers();
                let names = servers.iter().filter_map(|server| pools.get(*server));
                let names: Vec<&str> = names.map(|pool| pool.name()).collect();
                let scopes = settings.policy.scopes_at(&names);
                ProtectedResource::new(url, &settings.identity, scopes)
            });
            let challenge = Challenge::new(resource.as_ref());
            if let Some(ProtectedResource { path, document, .. }) = resource {
                metadata.insert(path, Bytes::from(document));
            }
            let ready = Route {
                path: route.path.clone(),
                digest: digest_of(&route.path),
                target: Arc::clone(target),
                challenge,
                audience: Audience::new(route.public_url.as_deref()),
                listed: catalog.of(target.name()),
                body_bytes_max: route.body_bytes_max,
                list_bytes_max: route.list_bytes_max,
                metrics: metrics.route(&route.path),
            };
            by_path.insert(route.path.clone(), Arc::new(ready));
        }
        Self { by_path, metadata }
    }

    /// The route of a path. Paths are compared as they are: what is not written in the
    /// configuration letter by letter is not served.
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.by_path.get(path)
    }

    /// The metadata of the route whose well-known path this is (RFC 9728 section 3.1).
    pub fn find_metadata(&self, path: &str) -> Option<Bytes> {
        self.metadata.get(path).cloned()
    }
}

fn digest_of(path: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest(&SHA256, path.as_bytes()).as_ref()[..16]);
    short
}
