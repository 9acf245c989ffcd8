//! What happens while the load runs: one function for each scenario that is about replicas or about the gateway's process.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures::future::try_join_all;
use serde_json::Value;

use crate::admin::Operator;
use crate::fleet::{Fleet, Start};
use crate::load::Load;
use crate::processes::Process;
use crate::verdict::{Findings, Hang, Kill};
use crate::yaml::{Admin, Wants};

/// The first-byte limit of `hang`.
const FIRST_BYTE: Duration = Duration::from_secs(1);
const EJECTED_WITHIN: Duration = Duration::from_secs(15);
/// What a drained replica's sessions have to move.
const DRAIN_DEADLINE: &str = "2s";
const DRAINED_WITHIN: Duration = Duration::from_secs(12);
/// How long the store is away, and how soon it must be seen again (the two seconds).
const STORE_AWAY: Duration = Duration::from_secs(3);
const STORE_BACK_WITHIN: Duration = Duration::from_secs(2);
const UPGRADES: u32 = 5;
/// After that the old process is told to hand over, whether or not the new one is seen to wait.
const SOCKET_WITHIN: Duration = Duration::from_secs(10);
/// How long a process that hands over may take: its grace, and the pauses of the handover itself.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Nothing happens.
    Steady,
    /// Every replica is killed in turn, and comes back with empty memory.
    Restart,
    /// Every replica is drained, stopped, started and undrained in turn.
    Drain,
    /// The gateway is replaced five times by a process that takes over its sockets.
    Upgrade,
    /// Gateways behind a TCP balancer: two, then four, then one.
    Scale,
    /// Fifty reloads, some of them of a broken file.
    Reload,
    /// A replica stops where it stands.
    Hang,
    /// The store of several gateways goes, and comes back with nothing in it; needs --store.
    Store,
    /// A great many sessions are opened and left.
    Abandon,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Restart => "restart",
            Self::Drain => "drain",
            Self::Upgrade => "upgrade",
            Self::Scale => "scale",
            Self::Reload => "reload",
            Self::Hang => "hang",
            Self::Store => "store",
            Self::Abandon => "abandon",
        }
    }

    /// The keys of the configuration that only this scenario needs.
    pub(crate) fn wants(self) -> Wants {
        let entries = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect();
        let mut wants = Wants::default();
        match self {
            Self::Steady | Self::Restart | Self::Store => {}
            Self::Drain | Self::Reload => wants.admin = Some(Admin),
            Self::Upgrade => wants.runtime = entries(&["grace: 5s"]),
            Self::Scale => wants.runtime = entries(&["grace: 10s", "connection_age_max: 5s"]),
            Self::Hang => {
                wants.admin = Some(Admin);
                let limit = format!("timeouts: {{ first_byte: {}s }}", FIRST_BYTE.as_secs());
                // Longer than the run, so that the replica stays out once it is.
                let ejection = "ejection: { consecutive_failures: 5, duration: 5m }".to_owned();
                wants.server = vec![limit, ejection];
            }
            Self::Abandon => wants.sessions = entries(&["reap: on"]),
        }
        wants
    }
}

/// Kills every replica in turn, a while after the one before it is back.
pub(crate) async fn restart(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    findings: &mut Findings,
) -> io::Result<()> {
    let count = fleet.replicas.len();
    for number in 0..count {
        load.until((number as f64 + 0.5) / (count as f64 + 0.5)).await;
        let replica = &mut fleet.replicas[number];
        let began = Instant::now();
        replica.process()?.kill()?;
        let ended = Instant::now();
        findings.kills.push(Kill { replica: replica.name.clone(), began, ended });
        load.until((number as f64 + 0.8) / (count as f64 + 0.5)).await;
        fleet.start_replica(number).await?;
    }
    Ok(())
}

/// Drains every replica in turn, and stops it only when no gateway has anything there.
pub(crate) async fn drain(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    findings: &mut Findings,
) -> io::Result<()> {
    let count = fleet.replicas.len();
    for number in 0..count {
        load.until((number as f64 + 0.5) / (count as f64 + 0.5)).await;
        let url = fleet.endpoints()[number].url();
        let operators = operators(fleet);
        // Gateways with a store tell each other.
        let told = if fleet.has_store() { &operators[..1] } else { &operators };
        for operator in told {
            operator.drain(&url, DRAIN_DEADLINE).await?;
        }
        let began = Instant::now();
        let is_empty = |endpoint: &Value| {
            ["sessions", "in_flight", "streams"].iter().all(|what| endpoint[what] == 0)
        };
        let waits = operators.iter().map(|operator| operator.until(&url, is_empty, DRAINED_WITHIN));
        try_join_all(waits).await?;
        let took = began.elapsed().as_secs_f64();
        let replica = &mut fleet.replicas[number];
        let left = replica.stats().await?["sessions"].clone();
        findings.said.push(format!(
            "{} drained in {took:.1} s; it still held {left} sessions, which nobody uses",
            replica.name
        ));
        replica.process()?.signal("TERM")?;
        replica.process()?.until_gone(Duration::from_secs(5)).await?;
        fleet.start_replica(number).await?;
        for operator in told {
            operator.undrain(&url).await?;
        }
    }
    Ok(())
}

/// Takes the store away twice, for some seconds, and brings it back empty.
pub(crate) async fn store(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    findings: &mut Findings,
) -> io::Result<()> {
    for part in [0.25, 0.6] {
        load.until(part).await;
        let asked = fleet.metric("toolgate_shared_requests_total", "").await.unwrap_or_default();
        fleet.renew_store(STORE_AWAY).await?;
        let back = Instant::now();
        while fleet.metric("toolgate_shared_up", "").await < Some(fleet.gateways.len() as f64) {
            if back.elapsed() > STORE_BACK_WITHIN {
                findings.missed.push("the store is back, and a gateway does not see it".to_owned());
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let took = back.elapsed().as_secs_f64();
        findings
            .said
            .push(format!("the store was seen again after {took:.2} s ({asked} requests before)"));
    }
    Ok(())
}

/// Replaces the process of every gateway, five times.
pub(crate) async fn upgrade(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    findings: &mut Findings,
) -> io::Result<()> {
    for round in 0..UPGRADES {
        load.until(f64::from(round + 1) / f64::from(UPGRADES + 2)).await;
        let began = Instant::now();
        for number in 0..fleet.gateways.len() {
            let gateway = &fleet.gateways[number];
            let mut new = fleet.run_gateway(&gateway.name, &gateway.config, Start::TakeOver)?;
            // The new process waits at this socket for the listening ones.
            let socket = gateway.state.join("upgrade/socket");
            let waited = Instant::now();
            while !socket.exists() && waited.elapsed() < SOCKET_WITHIN {
                must_run(&mut new)?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let mut old = std::mem::replace(&mut fleet.gateways[number].process, new);
            old.signal("QUIT")?;
            old.until_gone(HANDED_OVER_WITHIN).await?;
            must_run(&mut fleet.gateways[number].process)?;
        }
        let took = began.elapsed().as_secs_f64();
        findings.said.push(format!("upgrade {} took {took:.1} s", round + 1));
    }
    Ok(())
}

fn must_run(process: &mut Process) -> io::Result<()> {
    let Some(status) = process.exit()? else {
        return Ok(());
    };
    let words = process.last_words();
    Err(io::Error::other(format!("the new process ended with {status}: {words}")))
}

/// Stops a replica where it stands, waits until it is ejected, and lets it go on at the end: what it had read by then it must not run a second time.
pub(crate) async fn hang(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    findings: &mut Findings,
) -> io::Result<()> {
    load.until(0.2).await;
    let url = fleet.endpoints()[0].url();
    let began = Instant::now();
    fleet.replicas[0].process()?.signal("STOP")?;
    let is_ejected = |endpoint: &Value| endpoint["state"] == "ejected";
    let operators = operators(fleet);
    let waits = operators.iter().map(|operator| operator.until(&url, is_ejected, EJECTED_WITHIN));
    let ejected = try_join_all(waits).await;
    if let Ok(ejected) = ejected.as_ref() {
        for (number, at) in ejected.iter().enumerate() {
            let after = (*at - began).as_secs_f64();
            let text = format!("gateway-{number} ejected the hung replica after {after:.2} s");
            findings.said.push(text);
        }
        let ejected = ejected.clone();
        findings.hang = Some(Hang { began, limit: FIRST_BYTE, ejected });
        load.until(0.9).await;
    }
    fleet.replicas[0].process()?.signal("CONT")?;
    ejected.map(drop)
}

pub(crate) fn operators(fleet: &Fleet) -> Vec<Operator> {
    let gateways = fleet.gateways.iter();
    gateways.map(|gateway| Operator { address: gateway.addresses.admin }).collect()
}
