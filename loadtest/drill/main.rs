//! The drills: real gateways and replicas as processes, a steady load that checks every answer, and something happening meanwhile.
//!
//! One line for each run; the exit code is 1 when a goal was missed. loadtest/README.md says how to read it.

#[path = "../histogram.rs"]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "shared with the load generator, which needs more of it")
)]
mod histogram;
#[path = "../wire.rs"]
#[expect(dead_code, reason = "shared with the load generator, which needs more of it")]
mod wire;
mod peer;
mod http1;
mod http2;
mod messages;
mod tally;
mod streams;
mod load;
mod processes;
mod yaml;
mod fleet;
mod ledger;
mod verdict;
mod admin;
mod balancer;
mod scenarios;
mod reload;
mod scale;
mod abandon;
mod report;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use balancer::Balancer;
use fleet::{Binaries, Fleet};
use ledger::Ledger;
use load::{Load, Protocols, Shape};
use processes::Afterwards;
use report::Run;
use scenarios::Scenario;
use tally::Tally;
use verdict::{Findings, Moving, Restoring, Verdict};
use yaml::Keys;

/// How long requests that are under way at the end may take.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(30);
const SESSIONS: u64 = 200;

#[derive(Parser)]
#[command(about = "Drills of a fleet under load; all of them unless some are named.")]
struct Flags {
    /// What shall happen.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Gateways that share a session key and take calls in turn; without it one, then two. `scale` has its own numbers.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    gateways: Option<u8>,
    /// Give several gateways a store in common (redis-server must be installed).
    #[arg(long)]
    store: bool,
    /// At least so many calls in each run; more while events last.
    #[arg(long, default_value_t = 20_000)]
    calls: u64,
    /// Calls that are begun in a second, all clients together.
    #[arg(long, default_value_t = 1250.0)]
    rate: f64,
    /// Clients with a legacy session; for `abandon` the sessions to leave, like --abandoned.
    #[arg(long)]
    sessions: Option<u64>,
    /// Sessions that `abandon` opens and leaves.
    #[arg(long, default_value_t = 1_000_000)]
    abandoned: u64,
    /// Clients of the modern era beside them.
    #[arg(long, default_value_t = 40)]
    modern: u32,
    /// Replicas of the server.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    replicas: u8,
    /// The gateway binary; $TOOLGATE_BINARY, else target/release/toolgate.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// The replica binary; the one beside this program.
    #[arg(long)]
    replica: Option<PathBuf>,
    /// A further entry of the server's configuration, such as "health: { probe: tcp }"; may be repeated.
    #[arg(long, value_name = "YAML")]
    server_yaml: Vec<String>,
    /// Keep configuration, ledger and logs of every run; those of a missed goal are kept anyway.
    #[arg(long)]
    keep: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    tokio::select! {
        code = run_all(&flags) => code,
        // Dropping the runs ends their processes.
        () = told_to_stop() => ExitCode::from(130),
    }
}

async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
async fn run_all(flags: &Flags) -> ExitCode {
    let every = Scenario::value_variants();
    // There is a store to take away only where one is asked for.
    let every: Vec<Scenario> = every
        .iter()
        .copied()
        .filter(|scenario| *scenario != Scenario::Store || flags.store)
        .collect();
    let chosen = if flags.scenarios.is_empty() { &every } else { &flags.scenarios };
    let mut code = ExitCode::SUCCESS;
    println!("{}", report::head());
    for scenario in chosen {
        let numbers = match (scenario, flags.gateways) {
            (Scenario::Scale, _) => vec![4],
            (_, Some(gateways)) => vec![usize::from(gateways)],
            (_, None) => vec![1, 2],
        };
        for gateways in numbers {
            let (text, is_reached) = match run(flags, *scenario, gateways).await {
                Ok((text, is_reached)) => (text, is_reached),
                Err(fault) => {
                    let name = scenario.name();
                    (format!("{name:<9}{gateways:>8}  COULD NOT RUN\n  ! {fault}"), false)
                }
            };
            println!("{text}");
            if !is_reached {
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// One run from start to end: its lines, and whether the goal was reached.
async fn run(flags: &Flags, scenario: Scenario, gateways: usize) -> io::Result<(String, bool)> {
    let began = Instant::now();
    let mut wants = scenario.wants();
    wants.server.extend(flags.server_yaml.iter().cloned());
    // The gateways that `scale` adds open the sessions of those before them.
    wants.keys = match gateways > 1 {
        true if flags.store => Keys::Stored(processes::free_address()?.port()),
        true => Keys::Shared,
        false => Keys::Own,
    };
    let abandoned = match flags.scenarios.as_slice() {
        [Scenario::Abandon] => flags.sessions.unwrap_or(flags.abandoned),
        _ => flags.abandoned,
    };
    if scenario == Scenario::Abandon {
        wants.sessions.push(format!("idle: {}s", abandon::idle(abandoned).as_secs()));
    }
    let binaries = binaries(flags)?;
    // `scale` starts its gateways itself.
    let started = if scenario == Scenario::Scale { 0 } else { gateways };
    let count = (usize::from(flags.replicas), started);
    let mut fleet = Fleet::start(scenario.name(), &binaries, count, wants).await?;
    let mut findings = Findings::default();
    if gateways > 1 {
        findings.restoring = Restoring::Told;
    }
    if flags.store && gateways > 1 {
        findings.moving = Moving::Once;
    }
    let tally = match scenario {
        Scenario::Abandon => abandon::run(&mut fleet, abandoned, &mut findings).await,
        _ => under_load(flags, scenario, &mut fleet, &mut findings).await,
    };
    let tally = tally.inspect_err(|_| fleet.folder.afterwards = Afterwards::Keep);
    let tally = tally.map_err(|fault| {
        io::Error::other(format!("{fault}\n    everything is in {}", fleet.folder.path().display()))
    })?;
    let verdict = judge(scenario, &fleet, &tally, &mut findings).await?;
    if flags.keep || !verdict.missed.is_empty() {
        fleet.folder.afterwards = Afterwards::Keep;
        let place = fleet.folder.path().display();
        findings.said.push(format!("configuration, ledger and logs are in {place}"));
    }
    let moved = fleet.metric("toolgate_sessions_moved", "").await;
    let seconds = began.elapsed().as_secs_f64();
    let line = Run { scenario: scenario.name(), gateways, moved, seconds };
    let text = report::lines(&line, &tally, &findings, &verdict);
    Ok((text, verdict.missed.is_empty()))
}

async fn judge(
    scenario: Scenario,
    fleet: &Fleet,
    tally: &Tally,
    findings: &mut Findings,
) -> io::Result<Verdict> {
    findings.missed.extend(fleet.folder.panics());
    let early = fleet.stats("calls_before_initialized").await;
    if early > 0 {
        findings
            .missed
            .push(format!("{early} requests reached sessions that were not initialized"));
    }
    let mut verdict = verdict::judge(tally, &Ledger::read(&fleet.ledger)?, findings);
    if scenario == Scenario::Abandon {
        // Nothing was called, so nothing of it is in the ledger.
        verdict.missed.retain(|missed| !missed.ends_with("that no replica has run"));
    }
    Ok(verdict)
}

async fn under_load(
    flags: &Flags,
    scenario: Scenario,
    fleet: &mut Fleet,
    findings: &mut Findings,
) -> io::Result<Tally> {
    let balancer = Balancer::start().await?;
    if scenario == Scenario::Scale {
        scale::begin(fleet, &balancer).await?;
    }
    let sessions = u32::try_from(flags.sessions.unwrap_or(SESSIONS)).unwrap_or(u32::MAX);
    let load = Load::new(Shape {
        addresses: match scenario {
            Scenario::Scale => vec![balancer.address],
            _ => fleet.listening(),
        },
        sessions,
        modern: flags.modern,
        listeners: flags.modern.div_ceil(4),
        calls_per_second: flags.rate,
        calls: flags.calls,
        protocols: match scenario {
            // A few connections that carry everything cannot be spread.
            Scenario::Scale => Protocols::Http1,
            _ => Protocols::Both,
        },
    });
    let mut clients = load.start();
    load.until_ready().await?;
    let happened = match scenario {
        Scenario::Steady | Scenario::Abandon => Ok(()),
        Scenario::Restart => scenarios::restart(fleet, &load, findings).await,
        Scenario::Drain => scenarios::drain(fleet, &load, findings).await,
        Scenario::Upgrade => scenarios::upgrade(fleet, &load, findings).await,
        Scenario::Scale => scale::run(fleet, &load, &balancer, findings).await,
        Scenario::Reload => reload::run(fleet, &load, findings).await,
        Scenario::Hang => scenarios::hang(fleet, &load, findings).await,
        Scenario::Store => scenarios::store(fleet, &load, findings).await,
    };
    match happened {
        Ok(()) => load.until(1.0).await,
        // What the clients have seen until then still counts.
        Err(fault) => findings.missed.push(format!("not carried out to its end: {fault}")),
    }
    load.stop();
    let patience = tokio::time::Instant::now() + LAST_ANSWERS_WITHIN;
    while let Ok(Some(client)) = tokio::time::timeout_at(patience, clients.join_next()).await {
        if let Err(fault) = client {
            findings.missed.push(format!("a client broke: {fault}"));
        }
    }
    if !clients.is_empty() {
        findings.missed.push(format!("{} clients still wait for an answer", clients.len()));
    }
    let tally = std::mem::take(&mut *load.tally.lock());
    Ok(tally)
}

fn binaries(flags: &Flags) -> io::Result<Binaries> {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/toolgate");
    let given = std::env::var_os("TOOLGATE_BINARY").map(PathBuf::from);
    let gateway = flags.gateway.clone().or(given).unwrap_or_else(built);
    let replica = match &flags.replica {
        Some(replica) => replica.clone(),
        None => std::env::current_exe()?.with_file_name("replica"),
    };
    for binary in [&gateway, &replica] {
        if !binary.is_file() {
            return Err(io::Error::other(format!("there is no {}", binary.display())));
        }
    }
    Ok(Binaries { gateway, replica })
}
