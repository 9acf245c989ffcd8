//! From a public path to everything that serves it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ring::digest::{SHA256, digest};

use crate::catalog::{Catalog, Listed};
use crate::config::{self, Settings};
use crate::federation::{Federation, Member};
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
    pub target: Target,
    /// What who has no token, or too little of one, is told.
    pub challenge: Challenge,
    /// What tokens for this route name.
    pub audience: Audience,
    /// Largest body a client may send, in bytes.
    pub body_bytes_max: usize,
    /// Largest list that is held to be filtered, in bytes.
    pub list_bytes_max: usize,
    /// The route's metric handles.
    pub metrics: RouteMetrics,
}

/// What answers a route.
pub enum Target {
    /// One server.
    One {
        /// Its endpoints.
        pool: Arc<Pool>,
        /// What it offers.
        listed: Arc<Listed>,
    },
    /// Several servers, shown as one.
    Many(Box<Federation>),
}

impl Route {
    /// The several servers that it shows as one, if it does.
    pub fn federation(&self) -> Option<&Federation> {
        match &self.target {
            Target::One { .. } => None,
            Target::Many(federation) => Some(federation),
        }
    }

    /// Its server; of several the one with this index among them.
    pub fn server(&self, member: Option<usize>) -> Option<Server<'_>> {
        match (&self.target, member) {
            (Target::One { pool, listed }, _) => Some(Server { pool, listed }),
            (Target::Many(federation), Some(member)) => {
                let Member { pool, listed, .. } = federation.members().get(member)?;
                Some(Server { pool, listed })
            }
            (Target::Many(_), None) => None,
        }
    }

    /// The names of the servers that a request is for: one, or all of the route.
    pub fn server_names(&self, member: Option<usize>) -> Vec<&str> {
        match (self.server(member), self.federation()) {
            (Some(server), _) => vec![server.pool.name()],
            (None, Some(federation)) => {
                federation.members().iter().map(|member| member.name.as_str()).collect()
            }
            (None, None) => Vec::new(),
        }
    }

    /// Whether the server with this name answers it, alone or beside others.
    pub fn leads_to(&self, server: &str) -> bool {
        match &self.target {
            Target::One { pool, .. } => pool.name() == server,
            Target::Many(federation) => {
                federation.members().iter().any(|member| member.name == server)
            }
        }
    }
}

/// A server as a route knows it.
#[derive(Clone, Copy)]
pub struct Server<'r> {
    /// Its endpoints.
    pub pool: &'r Arc<Pool>,
    /// What it offers.
    pub listed: &'r Arc<Listed>,
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
            let target = match &route.target {
                config::Target::Server(server) => {
                    let Some(pool) = pools.get(*server) else { continue };
                    Target::One { pool: Arc::clone(pool), listed: catalog.of(pool.name()) }
                }
                config::Target::Servers(_) => {
                    Target::Many(Box::new(Federation::new(route, pools, catalog)))
                }
            };
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
                target,
                challenge,
                audience: Audience::new(route.public_url.as_deref()),
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

    /// Every route, by its path.
    pub fn all(&self) -> impl Iterator<Item = &Route> {
        let mut all: Vec<&Route> = self.by_path.values().map(Arc::as_ref).collect();
        all.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        all.into_iter()
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
