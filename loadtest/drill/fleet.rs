//! The processes of one run: replicas that share a ledger, and gateways in front of them that share a session key.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::peer;
use crate::processes::{Folder, Process, free_address};
use crate::yaml::{self, Endpoint, Keys, Wants};

const START_WITHIN: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) gateway: PathBuf,
    pub(crate) replica: PathBuf,
}

pub(crate) struct Fleet {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) wants: Wants,
    pub(crate) ledger: PathBuf,
    binaries: Binaries,
    store: Option<Process>,
    /// Last, so that nobody writes into it any more when it is removed.
    pub(crate) folder: Folder,
}

pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    process: Option<Process>,
}

pub(crate) struct Gateway {
    pub(crate) name: String,
    pub(crate) addresses: Addresses,
    pub(crate) state: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) process: Process,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) listen: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Where a gateway's process takes its listening sockets from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Afresh,
    /// From the process that runs now.
    TakeOver,
}

impl Fleet {
    /// Starts so many replicas and gateways, and returns when all of them answer.
    pub(crate) async fn start(
        name: &str,
        binaries: &Binaries,
        (replicas, gateways): (usize, usize),
        wants: Wants,
    ) -> io::Result<Self> {
        let folder = Folder::new(name)?;
        let ledger = folder.path().join("ledger");
        fs::write(&ledger, "")?;
        let binaries = binaries.clone();
        let (found, none) = (Vec::new(), Vec::new());
        let store = match wants.keys {
            Keys::Stored(port) => Some(start_store(port, folder.path())?),
            Keys::Own | Keys::Shared => None,
        };
        let mut fleet =
            Self { replicas: found, gateways: none, wants, ledger, binaries, store, folder };
        for _ in 0..replicas {
            fleet.add_replica().await?;
        }
        for _ in 0..gateways {
            fleet.add_gateway().await?;
        }
        Ok(fleet)
    }

    pub(crate) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Takes the store away, and brings it back empty.
    pub(crate) async fn renew_store(&mut self, away: Duration) -> io::Result<()> {
        let (Keys::Stored(port), Some(store)) = (self.wants.keys, &mut self.store) else {
            return Err(io::Error::other("there is no store; give --store"));
        };
        store.kill()?;
        tokio::time::sleep(away).await;
        *store = start_store(port, self.folder.path())?;
        Ok(())
    }

    /// Starts one more replica, which no gateway knows yet.
    pub(crate) async fn add_replica(&mut self) -> io::Result<()> {
        let name = format!("replica-{}", self.replicas.len());
        self.replicas.push(Replica { name, address: free_address()?, process: None });
        self.start_replica(self.replicas.len() - 1).await
    }

    /// Starts a replica where it was, with empty memory.
    pub(crate) async fn start_replica(&mut self, number: usize) -> io::Result<()> {
        let replica = &mut self.replicas[number];
        let mut command = Command::new(&self.binaries.replica);
        command.arg("--listen").arg(replica.address.to_string()).args(["--name", &replica.name]);
        command.arg("--ledger").arg(&self.ledger).arg("--while-stdin-is-open");
        let mut process = Process::start(&replica.name, &mut command, self.folder.path())?;
        until_ok(&mut process, replica.address, "/stats").await?;
        replica.process = Some(process);
        Ok(())
    }

    /// Starts one more gateway, with the configuration of the others but addresses and state of its own.
    pub(crate) async fn add_gateway(&mut self) -> io::Result<()> {
        let name = format!("gateway-{}", self.gateways.len());
        let state = self.folder.path().join(format!("{name}.state"));
        let config = self.folder.path().join(format!("{name}.yaml"));
        let (listen, health, admin) = (free_address()?, free_address()?, free_address()?);
        let addresses = Addresses { listen, health, admin };
        let endpoints = self.endpoints();
        fs::write(&config, yaml::gateway(&addresses, &state, &self.wants, &endpoints))?;
        let mut process = self.run_gateway(&name, &config, Start::Afresh)?;
        until_ok(&mut process, health, "/ready").await?;
        self.gateways.push(Gateway { name, addresses, state, config, process });
        Ok(())
    }

    /// Starts the process of a gateway, which may take over from another one.
    pub(crate) fn run_gateway(
        &self,
        name: &str,
        config: &PathBuf,
        start: Start,
    ) -> io::Result<Process> {
        let mut command = Command::new(&self.binaries.gateway);
        command.arg("run").arg("--config").arg(config);
        if start == Start::TakeOver {
            command.arg("--upgrade");
        }
        Process::start(name, &mut command, self.folder.path())
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let addresses = self.replicas.iter().map(|replica| replica.address);
        addresses.map(|address| Endpoint { address, weight: 1 }).collect()
    }

    /// The addresses where clients connect.
    pub(crate) fn listening(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(|gateway| gateway.addresses.listen).collect()
    }

    /// What all replicas that answer say together under this key of `/stats`.
    pub(crate) async fn stats(&self, key: &str) -> u64 {
        let mut sum = 0;
        for replica in &self.replicas {
            sum += replica.stats().await.map_or(0, |stats| stats[key].as_u64().unwrap_or_default());
        }
        sum
    }

    /// The sum of every sample of the live gateways whose name and labels begin and continue with these texts; `None` where there is none.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let mut sum = None;
        for gateway in &self.gateways {
            if let Some(value) = gateway.metric(name, label).await {
                sum = Some(sum.unwrap_or(0.0) + value);
            }
        }
        sum
    }
}

impl Replica {
    pub(crate) fn process(&mut self) -> io::Result<&mut Process> {
        let gone = || io::Error::other(format!("{} does not run", self.name));
        self.process.as_mut().ok_or_else(gone)
    }

    pub(crate) async fn stats(&self) -> io::Result<Value> {
        let answer = peer::fetch(self.address, "/stats").await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }
}

impl Gateway {
    pub(crate) async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let answer = peer::fetch(self.addresses.health, "/metrics").await.ok()?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Calls that it has answered so far.
    pub(crate) async fn calls(&self) -> f64 {
        let name = "toolgate_requests_total";
        self.metric(name, r#"method="tools/call""#).await.unwrap_or_default()
    }
}

/// A redis-server that keeps nothing on disk.
fn start_store(port: u16, folder: &Path) -> io::Result<Process> {
    let program = std::env::var("TOOLGATE_STORE");
    let mut command = Command::new(program.as_deref().unwrap_or("redis-server"));
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    Process::start("store", command.args(["--port", &port.to_string()]), folder)
}

async fn until_ok(process: &mut Process, address: SocketAddr, path: &str) -> io::Result<()> {
    let began = Instant::now();
    while !peer::fetch(address, path).await.is_ok_and(|answer| answer.head.status == 200) {
        let ended = process.exit()?.map(|status| format!("ended with {status}"));
        let late = (began.elapsed() > START_WITHIN).then(|| "is not ready in time".to_owned());
        if let Some(why) = ended.or(late) {
            return Err(io::Error::other(format!("a process {why}:\n{}", process.last_words())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
