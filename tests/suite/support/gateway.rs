//! The real binary as a child process: started with a configuration, ready when it says so, killed on drop.

use super::client::{self, Answer, DEADLINE};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a gateway may take to come up, on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    folder: Folder,
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
}

/// A process that takes over from a gateway.
pub(crate) struct Successor {
    child: Child,
    stderr: PathBuf,
}

/// A folder of its own, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Gateway {
    /// Starts a gateway with one plain listener; `sections` is the rest of its configuration.
    pub(crate) async fn start(sections: &str) -> Self {
        let address = free_address();
        Self::start_at(&format!("listen: {address}\n{sections}"), address).await
    }

    /// Starts a gateway with a whole configuration except for `health` and `state_dir`.
    pub(crate) async fn start_at(yaml: &str, address: SocketAddr) -> Self {
        Self::start_in(Folder::new(), yaml, address).await
    }

    /// Starts a gateway in a folder that may hold the state of one before it.
    pub(crate) async fn start_in(folder: Folder, yaml: &str, address: SocketAddr) -> Self {
        let health = free_address();
        let state = folder.path().join("state");
        let mut whole = format!("{yaml}\nhealth: {{ listen: {health} }}\n");
        // Servers that count what they get are not asked what they offer, unless a test says so.
        if !whole.contains("catalog:") {
            whole.push_str("catalog: { listing: off }\n");
        }
        if !whole.contains("state_dir:") {
            whole.push_str(&format!("state_dir: {}\n", state.display()));
        }
        let config = folder.write("toolgate.yaml", &whole);
        let child = Command::new(env!("CARGO_BIN_EXE_toolgate"))
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("stdout")).expect("a file"))
            .stderr(File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("the gateway's process");
        let mut gateway = Self { child, folder, address, health };
        gateway.wait_until_ready().await;
        gateway
    }

    /// Stops this gateway without ceremony and starts another one with the same files.
    pub(crate) async fn restart(mut self, yaml: &str) -> Self {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        let folder = std::mem::replace(&mut self.folder, Folder(PathBuf::new()));
        let address = self.address;
        drop(self);
        Self::start_in(folder, yaml, address).await
    }

    /// Sends this gateway a signal, for example `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(sent.success(), "{name} to {id}");
    }

    /// Waits until this gateway ends by itself; its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        exit_code(&mut self.child).await
    }

    /// Where this gateway keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The configuration of this gateway as a whole.
    pub(crate) fn config(&self) -> String {
        fs::read_to_string(self.folder.path().join("toolgate.yaml")).expect("the configuration")
    }

    /// Starts a process that waits to take over from this gateway.
    pub(crate) fn successor(&self, yaml: &str) -> Successor {
        let config = self.folder.write("successor.yaml", yaml);
        let stderr = self.folder.path().join("successor.stderr");
        let child = Command::new(env!("CARGO_BIN_EXE_toolgate"))
            .args(["run", "--upgrade", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr).expect("a file"))
            .spawn()
            .expect("the successor's process");
        Successor { child, stderr }
    }

    /// What a GET of the health listener says.
    pub(crate) async fn probe(&self, path: &str) -> Answer {
        client::exchange(self.health, &client::get(path)).await
    }

    /// The metrics as text.
    pub(crate) async fn metrics(&self) -> String {
        self.probe("/metrics").await.text()
    }

    /// Waits until a line of the metrics is there.
    pub(crate) async fn metrics_with(&self, wanted: &str) -> String {
        self.metrics_with_all(&[wanted]).await
    }

    /// Waits until all of these lines are there. A request is counted when its client has the answer
    /// already, so that the last one is not always the one that is counted last.
    pub(crate) async fn metrics_with_all(&self, wanted: &[&str]) -> String {
        let began = Instant::now();
        loop {
            let metrics = self.metrics().await;
            let Some(missing) = wanted.iter().find(|line| !metrics.contains(**line)) else {
                return metrics;
            };
            assert!(began.elapsed() < DEADLINE, "no {missing} in\n{metrics}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The request log so far, once it has `lines` lines.
    pub(crate) async fn log(&self, lines: usize) -> Vec<String> {
        let began = Instant::now();
        loop {
            let log = fs::read_to_string(self.folder.path().join("stdout")).expect("the log");
            let found: Vec<String> = log.lines().map(str::to_owned).collect();
            if found.len() >= lines && (log.is_empty() || log.ends_with('\n')) {
                return found;
            }
            assert!(began.elapsed() < DEADLINE, "{lines} lines wanted:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Diagnostics so far.
    pub(crate) fn diagnostics(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }

    /// The folder of its configuration and its state.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A line of /proc/PID/status in KiB, such as `VmRSS` and `VmHWM`.
    pub(crate) fn memory_kib(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("the process's status");
        let value = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        let digits = value.expect("the line").trim().trim_end_matches(" kB");
        digits.parse().expect("a number")
    }

    async fn wait_until_ready(&mut self) {
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            if let Some(status) = self.child.try_wait().expect("the child") {
                panic!("the gateway ended with {status}:\n{}", self.diagnostics());
            }
            let ready = client::try_exchange(self.health, &client::get("/ready")).await;
            if ready.is_some_and(|answer| answer.status == 200)
                && tokio::net::TcpStream::connect(self.address).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the gateway was not ready in time:\n{}", self.diagnostics());
    }
}

impl Successor {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself; its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        exit_code(&mut self.child).await
    }

    /// Diagnostics so far.
    pub(crate) fn diagnostics(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Most tests see the end of it.
        self.child.kill().ok();
        self.child.wait().ok();
        let diagnostics = self.diagnostics();
        if std::thread::panicking() {
            eprintln!("--- diagnostics of the successor ---\n{diagnostics}");
        } else {
            assert!(!diagnostics.contains("panicked at"), "it panicked:\n{diagnostics}");
        }
    }
}

async fn exit_code(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    while began.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait().expect("the child") {
            return status.code();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the process did not end");
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The child may have been stopped by its test; then there is nothing left to end.
        self.child.kill().ok();
        self.child.wait().ok();
        let diagnostics = self.diagnostics();
        let panicked = diagnostics.contains("panicked at");
        if std::thread::panicking() {
            eprintln!("--- diagnostics of the gateway ---\n{diagnostics}");
        } else {
            assert!(!panicked, "the gateway panicked:\n{diagnostics}");
        }
    }
}

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("toolgate-suite-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            fs::remove_dir_all(&self.0).ok();
        }
    }
}

/// Runs a command of the binary to its end.
pub(crate) fn toolgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_toolgate"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the command")
}

/// A loopback address nobody listens on, below the ports that the system gives to clients.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 10_000 + (std::process::id() % 200) as u16 * 100;
    for _ in 0..20_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (start - 10_000 + step) % 22_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}
