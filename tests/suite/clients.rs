//! SDK clients against the demo fleet.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use crate::support::rmcp_client::{Era, exercise};
use std::time::Duration;
use tokio::sync::watch;
use toolgate::demo::Fleet;

#[tokio::test]
async fn rmcp_in_the_legacy_era() {
    check(Era::Legacy).await;
}

#[tokio::test]
async fn rmcp_in_auto_mode() {
    check(Era::Auto).await;
}

async fn check(era: Era) {
    let fleet = Fleet::bind().unwrap();
    let url = format!("http://{}/mcp", fleet.endpoints()[0].1[0]);
    let (stop, stopped) = watch::channel(false);
    let walk = async {
        let outcome = tokio::time::timeout(Duration::from_secs(20), exercise(&url, era)).await;
        stop.send(true).unwrap();
        outcome
    };
    // The fleet must end by itself once it is told to: `join!` would wait for ever otherwise.
    let ((), outcome) = tokio::join!(fleet.serve(stopped), walk);
    assert_eq!(outcome, Ok(Ok(())));
}
