//! Many replicas that are one gateway, by a store that they share.

mod combinations;
mod legs;
mod limits;
mod operators;
mod places;
mod sessions;
mod store;

use crate::support::gateway::Gateway;
use crate::support::store::Store;
use crate::support::upstream::Upstream;
use std::time::{Duration, Instant};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway in front of the server, with this store and more configuration.
async fn replica(store: &Store, upstream: &Upstream, more: &str) -> Gateway {
    Gateway::start(&format!("{}{}{more}", store.sections(), upstream.sections())).await
}

/// What `/ready` says of the store.
async fn standing(gateway: &Gateway) -> String {
    let answer = gateway.probe("/ready").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.text();
    let line = text.lines().find_map(|line| line.strip_prefix("shared store: "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// Waits until `/ready` says this of the store.
async fn stands(gateway: &Gateway, expected: &str) {
    let started = Instant::now();
    loop {
        let found = standing(gateway).await;
        if found.starts_with(expected) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{found} instead of {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
