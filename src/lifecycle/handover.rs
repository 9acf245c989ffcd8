//! Handing the listening sockets over to a successor, which may fail at any point without harm.
//!
//! The sockets travel in Pingora's form, one message over a Unix socket. The successor reads and
//! checks everything before it asks for them. The process that serves sends them when it is told to
//! (SIGQUIT) and goes on accepting until the successor has written its id into `toolgate.pid`, which
//! it does when it listens. Whatever goes wrong before that, the old process serves on.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::server::{Fds, ListenFds};

/// The id of the process that serves.
const SERVING: &str = "toolgate.pid";
/// Only its owner may enter it: the sockets pass through here.
const DIRECTORY: &str = "upgrade";
/// The id of the process that waits.
const SUCCESSOR: &str = "successor.pid";
const SOCKET: &str = "socket";
/// What one message of Pingora's carries.
const SOCKETS_MAX: usize = 32;
const ADDRESSES_BYTES_MAX: usize = 2048;
/// The longest path of a Unix socket, without its closing zero.
const PATH_BYTES_MAX: usize = 107;
/// How long a successor waits for the sockets.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The listening sockets of this process, and where they go and come from.
pub struct Handover {
    serving: PathBuf,
    directory: PathBuf,
    sockets: ListenFds,
    belongings: Option<Arc<dyn Belongings>>,
}

/// What a process has beside its sockets, and its successor must have.
pub trait Belongings: Send + Sync {
    /// Writes what the successor, the process of this id, would not find otherwise. From now on
    /// nothing changes here, because it would be lost. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    fn pack(&self, successor: u32) -> io::Result<()>;

    /// The successor does not serve: this process goes on as before.
    fn unpack(&self);
}

/// Why there was no handover.
#[derive(Debug, thiserror::Error)]
pub enum HandoverFault {
    /// SIGQUIT came, and nobody waits to take over.
    #[error("no successor waits; start one with `toolgate run --upgrade` first")]
    NoSuccessor,
    /// The sockets could not be sent.
    #[error("the sockets could not be sent: {0}")]
    NotSent(String),
    /// What belongs to this process could not be written.
    #[error("leases and drains could not be written for the successor: {0}")]
    NotPacked(String),
    /// The successor ended.
    #[error("the successor {0} has ended and does not serve")]
    NotServing(u32),
    /// One message carries so many sockets and no more.
    #[error("more than {SOCKETS_MAX} listeners cannot be handed over")]
    TooMany,
    /// The path of `state_dir` is too long for a Unix socket.
    #[error("{0} is too long for a socket; choose a shorter state_dir")]
    LongPath(String),
    /// There is nothing to take over.
    #[error("no gateway serves with state_dir {0}; start without --upgrade")]
    NoPredecessor(String),
    /// One at a time.
    #[error("process {0} is waiting to take over already")]
    Busy(u32),
    /// Nobody sent the sockets.
    #[error("process {0} did not hand over its sockets")]
    NotReceived(u32),
    /// The file system said no.
    #[error("cannot prepare the handover: {0}")]
    Io(#[from] io::Error),
}

impl Handover {
    /// A process without sockets yet, which leaves its traces in this directory.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            serving: state_dir.join(SERVING),
            directory: state_dir.join(DIRECTORY),
            sockets: ListenFds::new(Fds::new().into()),
            belongings: None,
        }
    }

    /// The same where this goes over with the sockets.
    #[must_use]
    pub fn with(self, belongings: Option<Arc<dyn Belongings>>) -> Self {
        Self { belongings, ..self }
    }

    /// The table that Pingora's listeners take their sockets from, and put new ones into.
    pub fn sockets(&self) -> ListenFds {
        ListenFds::clone(&self.sockets)
    }

    /// Waits until this process listens on all addresses.
    pub async fn listening(&self, addresses: &[SocketAddr]) {
        let is_bound = |address: &SocketAddr| self.has(*address);
        while !addresses.iter().all(is_bound) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether this process has a socket for the address.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.sockets.lock().get(&address.to_string()).is_some()
    }

    /// Says that this process serves; a predecessor drains from now on.
    pub fn serve(&self) -> io::Result<()> {
        if let Some(state_dir) = self.serving.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        }
        write_own_id(&self.serving)?;
        forget_own_id(&self.directory.join(SUCCESSOR));
        Ok(())
    }

    /// Removes what says that this process serves.
    pub fn leave(&self) {
        forget_own_id(&self.serving);
    }

    /// The successor's part: waits for the sockets, of which it will use those of `addresses`.
    pub fn receive(&self, addresses: &[SocketAddr]) -> Result<(), HandoverFault> {
        let path = self.directory.join(SOCKET).display().to_string();
        if path.len() > PATH_BYTES_MAX {
            return Err(HandoverFault::LongPath(path));
        }
        let Some(predecessor) = living(&self.serving) else {
            let state_dir = self.serving.parent().unwrap_or_else(|| Path::new(""));
            return Err(HandoverFault::NoPredecessor(state_dir.display().to_string()));
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        let waiting = self.directory.join(SUCCESSOR);
        if let Some(other) = living(&waiting) {
            return Err(HandoverFault::Busy(other));
        }
        write_own_id(&waiting)?;
        tracing::info!("ready to take over from process {predecessor}: send it SIGQUIT");
        let began = Instant::now();
        let mut received = Fds::new();
        // Pingora waits for some seconds and gives up; the operator may take longer.
        while let Err(error) = received.get_from_sock(path.as_str()) {
            if began.elapsed() > WAIT_MAX || living(&self.serving) != Some(predecessor) {
                tracing::debug!(%error, "no sockets");
                forget_own_id(&waiting);
                return Err(HandoverFault::NotReceived(predecessor));
            }
        }
        let wanted = addresses.iter().map(SocketAddr::to_string).collect();
        for address in received.close_unclaimed(&wanted) {
            tracing::info!("no longer listening on {address}");
        }
        *self.sockets.lock() = received;
        Ok(())
    }

    /// The part of the process that serves: sends the sockets to the successor that waits, and
    /// returns once it serves. An error changes nothing here.
    pub(super) async fn hand_over(&self) -> Result<(), HandoverFault> {
        let successor =
            living(&self.directory.join(SUCCESSOR)).ok_or(HandoverFault::NoSuccessor)?;
        let (addresses, _) = self.sockets.lock().serialize();
        if addresses.len() > SOCKETS_MAX || addresses.join(" ").len() > ADDRESSES_BYTES_MAX {
            return Err(HandoverFault::TooMany);
        }
        let Some(belongings) = &self.belongings else { return self.send(successor).await };
        let packed = Arc::clone(belongings);
        let packing = tokio::task::spawn_blocking(move || packed.pack(successor)).await;
        let handed_over = match packing.map_err(io::Error::other).flatten() {
            Ok(()) => self.send(successor).await,
            Err(error) => Err(HandoverFault::NotPacked(error.to_string())),
        };
        handed_over.inspect_err(|_| belongings.unpack())
    }

    /// Sends the sockets and waits for as long as the successor lives: both must not serve.
    async fn send(&self, successor: u32) -> Result<(), HandoverFault> {
        let path = self.directory.join(SOCKET).display().to_string();
        let sockets = self.sockets();
        // Sending waits for a successor that is not quite there.
        let sending = tokio::task::spawn_blocking(move || {
            sockets.lock().send_to_sock(path.as_str()).map_err(|error| error.to_string())
        });
        match sending.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(HandoverFault::NotSent(error)),
            Err(error) => return Err(HandoverFault::NotSent(error.to_string())),
        }
        while living(&self.serving) != Some(successor) {
            if !is_alive(successor) {
                return Err(HandoverFault::NotServing(successor));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// The process that a file names, if it lives and is not this one.
fn living(path: &Path) -> Option<u32> {
    let id: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (id != std::process::id() && is_alive(id)).then_some(id)
}

/// Whether a process runs; one that has ended and that nobody has asked about does not.
fn is_alive(id: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { return false };
    // The state comes after the name, which stands in brackets and may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Writes this process's id so that a reader sees the old file or the new one.
fn write_own_id(path: &Path) -> io::Result<()> {
    let beside = path.with_extension(format!("pid.{}", std::process::id()));
    let mut file = fs::File::create(&beside)?;
    writeln!(file, "{}", std::process::id())?;
    fs::rename(beside, path)
}

/// Removes a file that names this process.
fn forget_own_id(path: &Path) {
    let is_own =
        fs::read_to_string(path).is_ok_and(|text| text.trim().parse() == Ok(std::process::id()));
    if is_own && let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, "cannot remove {}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::{Handover, HandoverFault, SUCCESSOR, is_alive, living};
    use std::fs;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("toolgate-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("upgrade")).expect("a folder");
        path
    }

    #[test]
    fn only_a_living_process_counts() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let id = child.id();
        while is_alive(id) {
            std::thread::yield_now();
        }
        child.wait().expect("gone");
        let folder = folder("living");
        for (text, expected) in [("", None), ("x", None), (&id.to_string(), None), ("1\n", Some(1))]
        {
            fs::write(folder.join("pid"), text).expect("a file");
            assert_eq!(living(&folder.join("pid")), expected, "{text}");
        }
        fs::remove_dir_all(folder).expect("clean up");
    }

    #[tokio::test]
    async fn without_a_successor_nothing_is_handed_over() {
        let folder = folder("handover");
        let handover = Handover::new(&folder);
        let nobody = handover.hand_over().await;
        assert!(matches!(nobody, Err(HandoverFault::NoSuccessor)), "{nobody:?}");
        let own = std::process::id().to_string();
        fs::write(folder.join("upgrade").join(SUCCESSOR), own).expect("a file");
        let itself = handover.hand_over().await;
        assert!(matches!(itself, Err(HandoverFault::NoSuccessor)), "{itself:?}");
        let nothing = handover.receive(&[]);
        assert!(matches!(nothing, Err(HandoverFault::NoPredecessor(_))), "{nothing:?}");
        handover.serve().expect("a file");
        handover.leave();
        assert!(!folder.join("toolgate.pid").exists());
        fs::remove_dir_all(folder).expect("clean up");
    }
}
