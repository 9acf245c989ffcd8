//! A real redis-server as a child process: stopped, frozen, brought back and killed as tests like.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};

use super::gateway::free_address;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running store.
pub(crate) struct Store {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    /// What a cluster writes about itself.
    nodes: Option<String>,
}

impl Store {
    /// A store without anything in it, which keeps nothing on disk.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same with further arguments of `redis-server`.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let (port, child) = (0..10)
            .map(|_| free_address().port())
            .find_map(|port| Some((port, serving(port, &arguments)?)))
            .expect("ten times somebody else had taken a port");
        Self { child, port, arguments, nodes: None }
    }

    /// A cluster of one node, which refuses whatever spans two slots.
    pub(crate) fn cluster() -> Self {
        let nodes = format!("/tmp/toolgate-nodes-{}-{}", std::process::id(), free_address().port());
        let arguments = ["--cluster-enabled", "yes", "--cluster-config-file", &nodes];
        let mut store = Self::with(&arguments);
        store.nodes = Some(nodes.clone());
        let mut connection = store.connection();
        let given: String = redis::cmd("CLUSTER")
            .arg(&["ADDSLOTSRANGE", "0", "16383"])
            .query(&mut connection)
            .expect("all slots");
        assert_eq!(given, "OK");
        let started = Instant::now();
        loop {
            let told: String =
                redis::cmd("CLUSTER").arg("INFO").query(&mut connection).expect("told");
            if told.contains("cluster_state:ok") {
                return store;
            }
            assert!(started.elapsed() < START_TIMEOUT, "{told}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it is, as the configuration names it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The sections of the configuration that make gateways share it. What is shared waits long here,
    /// because the machine that tests is busy.
    pub(crate) fn sections(&self) -> String {
        let topology = if self.nodes.is_some() { ", topology: cluster" } else { "" };
        self.sections_with(&format!("wait: 1s{topology}"))
    }

    /// The same with further keys.
    pub(crate) fn sections_with(&self, more: &str) -> String {
        format!(
            "sessions: {{ keys: [replicas-of-tests-have-this-in-common] }}\nshared: {{ redis: \"{}\", {more} }}\n",
            self.url()
        )
    }

    /// A connection of the test's own.
    pub(crate) fn connection(&self) -> Connection {
        Client::open(self.url()).expect("an address").get_connection().expect("the store")
    }

    /// Freezes the process (`STOP`), wakes it (`CONT`).
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(sent.success(), "{name} to {id}");
    }

    /// Takes it away with all that is in it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// Brings it back, empty.
    pub(crate) fn start_again(&mut self) {
        let started = Instant::now();
        self.child = loop {
            if let Some(child) = serving(self.port, &self.arguments) {
                break child;
            }
            assert!(started.elapsed() < START_TIMEOUT, "its port was taken and stays so");
            std::thread::sleep(Duration::from_millis(50));
        };
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(nodes) = &self.nodes {
            std::fs::remove_file(nodes).ok();
        }
    }
}

/// A process that serves on this port, or nothing if it ended because one of its ports is taken: a
/// node of a cluster listens on a second one, and does so after it has accepted connections.
fn serving(port: u16, arguments: &[String]) -> Option<Child> {
    let mut child = spawn(port, arguments);
    let started = Instant::now();
    loop {
        if answers(port) && child.try_wait().expect("waited").is_none() {
            return Some(child);
        }
        if child.try_wait().expect("waited").is_some() {
            return None;
        }
        assert!(started.elapsed() < START_TIMEOUT, "redis-server did not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a store answers there; that it wants a password is an answer.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut first = [0];
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut first).is_ok()
        && matches!(first, [b'+' | b'-'])
}

fn spawn(port: u16, arguments: &[String]) -> Child {
    let program = std::env::var("TOOLGATE_STORE");
    Command::new(program.as_deref().unwrap_or("redis-server"))
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir", "/tmp"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server, or the program that TOOLGATE_STORE names, is installed")
}
