//! The official Rust SDK against the demo fleet: directly, and through the gateway.

mod asked;

use crate::support::gateway::Gateway;
use crate::support::rmcp_client::{Era, exercise, exercise_both};
use std::time::Duration;
use tokio::sync::watch;
use toolgate::demo::Fleet;

#[tokio::test]
async fn rmcp_in_the_legacy_era() {
    check(Era::Legacy, Way::Direct).await;
}

#[tokio::test]
async fn rmcp_in_auto_mode() {
    check(Era::Auto, Way::Direct).await;
}

#[tokio::test]
async fn rmcp_in_the_legacy_era_through_the_gateway() {
    check(Era::Legacy, Way::Gateway).await;
}

#[tokio::test]
async fn rmcp_in_auto_mode_through_the_gateway() {
    check(Era::Auto, Way::Gateway).await;
}

#[tokio::test]
async fn rmcp_in_the_legacy_era_with_two_servers_as_one() {
    check(Era::Legacy, Way::TwoServers).await;
}

#[tokio::test]
async fn rmcp_in_auto_mode_with_two_servers_as_one() {
    check(Era::Auto, Way::TwoServers).await;
}

#[derive(Clone, Copy)]
enum Way {
    Direct,
    Gateway,
    TwoServers,
}

async fn check(era: Era, way: Way) {
    let fleet = Fleet::bind().expect("ports");
    let replicas = fleet.endpoints()[0].1.clone();
    let (stop, stopped) = watch::channel(false);
    let walk = async {
        let urls: Vec<String> = replicas.iter().map(|at| format!("http://{at}/mcp")).collect();
        let outcome = match way {
            Way::Direct => timely(exercise(&urls[0], era)).await,
            Way::Gateway => {
                let sections = crate::support::upstream::sections(&urls, "");
                let gateway = Gateway::start(&sections).await;
                timely(exercise(&format!("http://{}/mcp", gateway.address), era)).await
            }
            Way::TwoServers => {
                let gateway = Gateway::start(&two_servers(&urls)).await;
                timely(exercise_both(&format!("http://{}/mcp", gateway.address), era)).await
            }
        };
        stop.send(true).expect("a fleet");
        outcome
    };
    // The fleet must end by itself once it is told to: `join!` would wait for ever otherwise.
    let ((), outcome) = tokio::join!(fleet.serve(stopped), walk);
    assert_eq!(outcome, Ok(()));
}

/// A route that shows two servers as one, each with an endpoint of its own.
fn two_servers(urls: &[String]) -> String {
    format!(
        "servers: {{ one: {{ endpoints: [{}] }}, two: {{ endpoints: [{}] }} }}
routes: [{{ path: /mcp, servers: [{{ name: one }}, {{ name: two, prefix: two_ }}] }}]
catalog: {{ listing: on, refresh: 1h }}
",
        urls[0], urls[1]
    )
}

async fn timely(walk: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let walk = tokio::time::timeout(Duration::from_secs(20), walk);
    walk.await.map_err(|_| "too slow".to_owned())?
}
