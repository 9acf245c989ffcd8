//! Keeps the addresses of endpoints that are configured by host name.

use std::net::ToSocketAddrs as _;
use std::sync::Arc;
use std::time::Duration;

use super::{Endpoint, Pool};

/// How often names are looked up again.
pub const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// Looks up every name once, before the gateway listens. A name that fails is tried again later:
/// a server that is not up yet must not keep the others from being served.
pub fn resolve_now(pools: &[Arc<Pool>]) {
    for endpoint in named(pools) {
        let Some(name) = endpoint.name() else { continue };
        match name.to_socket_addrs() {
            Ok(mut addresses) => take(&endpoint, addresses.next()),
            Err(error) => tracing::warn!(endpoint = endpoint.url(), %error, "name not resolved"),
        }
    }
}

/// Looks up every name again; the last good address stays where that fails.
pub async fn resolve(pools: &[Arc<Pool>]) {
    for endpoint in named(pools) {
        let Some(name) = endpoint.name() else { continue };
        match tokio::net::lookup_host(name).await {
            Ok(mut addresses) => take(&endpoint, addresses.next()),
            Err(error) => tracing::warn!(endpoint = endpoint.url(), %error, "name not resolved"),
        }
    }
}

fn named(pools: &[Arc<Pool>]) -> Vec<Arc<Endpoint>> {
    let endpoints = pools.iter().flat_map(|pool| pool.members().endpoints().to_vec());
    endpoints.filter(|endpoint| endpoint.name().is_some()).collect()
}

fn take(endpoint: &Endpoint, address: Option<std::net::SocketAddr>) {
    match address {
        Some(address) => endpoint.resolved_to(address),
        None => tracing::warn!(endpoint = endpoint.url(), "name has no address"),
    }
}
