//! From a public path to everything that serves it.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::catalog::{Catalog, Listed};
use crate::config;
use crate::identity::Audience;
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
}

impl Routes {
    /// Builds the table; `pools` stand in the order of the settings' servers.
    pub fn new(
        routes: &[config::Route],
        pools: &[Arc<Pool>],
        catalog: &Catalog,
        metrics: &Metrics,
    ) -> Self {
        let by_path = routes
            .iter()
            .filter_map(|route| {
                let target = Arc::clone(pools.get(route.server)?);
                let listed = catalog.of(target.name());
                let route = Route {
                    path: route.path.clone(),
                    digest: digest_of(&route.path),
                    target,
                    audience: Audience::new(route.public_url.as_deref()),
                    listed,
                    body_bytes_max: route.body_bytes_max,
                    list_bytes_max: route.list_bytes_max,
                    metrics: metrics.route(&route.path),
                };
                Some((route.path.clone(), Arc::new(route)))
            })
            .collect();
        Self { by_path }
    }

    /// The route of a path. Paths are compared as they are: what is not written in the
    /// configuration letter by letter is not served.
    pub fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.by_path.get(path)
    }
}

fn digest_of(path: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest(&SHA256, path.as_bytes()).as_ref()[..16]);
    short
}
