//! Two gateways, then four, then one, behind a TCP balancer: every one of them must come to carry its share.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balancer::{Backend, Balancer};
use crate::fleet::{Fleet, Gateway};
use crate::load::Load;
use crate::verdict::Findings;

/// The numbers of gateways, one after the other.
const STEPS: [usize; 3] = [2, 4, 1];
const BALANCED_WITHIN: Duration = Duration::from_secs(60);
/// Shares are of the calls in such a time.
const WINDOW: Duration = Duration::from_secs(5);
/// How far a share may be from an equal one.
const TOLERANCE: f64 = 0.2;
const GONE_WITHIN: Duration = Duration::from_secs(45);

pub(crate) async fn run(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    balancer: &Balancer,
    findings: &mut Findings,
) -> io::Result<()> {
    for (step, wanted) in STEPS.into_iter().enumerate() {
        load.until(step as f64 / STEPS.len() as f64).await;
        while fleet.gateways.len() < wanted {
            fleet.add_gateway().await?;
        }
        let mut leaving = fleet.gateways.split_off(wanted);
        let began = Instant::now();
        for gateway in &leaving {
            gateway.process.signal("TERM")?;
        }
        // Those that leave stay listed: that they are not ready any more is theirs to say.
        let all = fleet.gateways.iter().chain(&leaving);
        balancer.set(all.map(backend).collect());
        until_balanced(fleet, began, findings).await;
        for gateway in &mut leaving {
            gateway.process.until_gone(GONE_WITHIN).await?;
        }
        balancer.set(fleet.gateways.iter().map(backend).collect());
    }
    Ok(())
}

/// Starts the first gateways before the load.
pub(crate) async fn begin(fleet: &mut Fleet, balancer: &Balancer) -> io::Result<()> {
    while fleet.gateways.len() < STEPS[0] {
        fleet.add_gateway().await?;
    }
    balancer.set(fleet.gateways.iter().map(backend).collect());
    while balancer.ready() < STEPS[0] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn until_balanced(fleet: &Fleet, began: Instant, findings: &mut Findings) {
    let count = fleet.gateways.len();
    loop {
        let shares = shares(fleet).await;
        let after = began.elapsed().as_secs();
        let told = shares.iter().map(|share| format!("{share:.2}")).collect::<Vec<_>>().join(" ");
        let fair = 1.0 / count as f64;
        if shares.iter().all(|share| (share / fair - 1.0).abs() <= TOLERANCE) {
            findings.said.push(format!("{count} gateways after {after} s: shares {told}"));
            return;
        }
        if began.elapsed() > BALANCED_WITHIN {
            findings.missed.push(format!("{count} gateways, still uneven after {after} s: {told}"));
            return;
        }
    }
}

/// Every gateway's share of the calls in the next window.
async fn shares(fleet: &Fleet) -> Vec<f64> {
    let mut before = Vec::new();
    for gateway in &fleet.gateways {
        before.push(gateway.calls().await);
    }
    tokio::time::sleep(WINDOW).await;
    let mut calls = Vec::new();
    for (gateway, before) in fleet.gateways.iter().zip(before) {
        calls.push(gateway.calls().await - before);
    }
    let sum: f64 = calls.iter().sum();
    calls.iter().map(|calls| calls / sum.max(1.0)).collect()
}

fn backend(gateway: &Gateway) -> Backend {
    Backend { listen: gateway.addresses.listen, health: gateway.addresses.health }
}
