//! The child processes of a drill: started with a log of their own, sent signals, and gone when the drill is.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A child, killed at the latest when it is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> io::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().append(true).create(true).open(&log)?;
        // A replica watches its standard input, so that it ends however the drill ends.
        let child = command.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out).spawn();
        let child = child.map_err(|fault| {
            io::Error::other(format!("cannot start {:?}: {fault}", command.get_program()))
        })?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Sends a signal by its name, as kill(1) does.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status()?;
        match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("cannot send {name} to {}", self.name))),
        }
    }

    /// Ends it without warning; it is gone when this returns.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    pub(crate) fn exit(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for it to end by itself.
    pub(crate) async fn until_gone(&mut self, limit: Duration) -> io::Result<()> {
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > limit {
                let name = &self.name;
                return Err(io::Error::other(format!("{name} still runs after {limit:?}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// A line of /proc/PID/status in bytes, such as `VmRSS` and `VmHWM`.
    pub(crate) fn memory_bytes(&self, line: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other(format!("{} has no {line}", self.name)))
    }

    /// The end of what it has printed.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing left to end.
        drop(self.kill());
    }
}

/// A folder of its own for one run; it stays when something must be looked at.
pub(crate) struct Folder {
    path: PathBuf,
    pub(crate) afterwards: Afterwards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    Remove,
    Keep,
}

impl Folder {
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let unique =
            format!("toolgate-drill-{name}-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir(&path)?;
        Ok(Self { path, afterwards: Afterwards::Remove })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lines in which one of the processes says that it panicked.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let name = entry.file_name().to_string_lossy().into_owned();
            let lines = log.lines().filter(|line| line.contains("panicked at"));
            found.extend(lines.map(|line| format!("{name}: {line}")));
        }
        found
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.afterwards == Afterwards::Remove {
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// A loopback address that was free a moment ago.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
