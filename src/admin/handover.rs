//! Leases and drains, which are kept in memory only, written down for the successor of this process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::registrations::{put_in_place, read, write};
use crate::config;
use crate::upstream::{Change, Fleet, Registered, Source, id_of, now_ms};

const FILE: &str = "handover.json";
const CANDIDATE: &str = "handover.new.json";
/// Nobody could renew a lease meanwhile, so there is at least this time to do it now.
const LEASE_MIN_MS: u64 = 30_000;
/// How long a drained endpoint that is not there may take to be discovered.
const AWAITED_MAX_MS: u64 = 60_000;

/// What goes over to a successor beside the sockets.
pub(super) struct Bequest {
    directory: PathBuf,
    is_under_way: AtomicBool,
    /// Drains of endpoints that were not found yet.
    awaited: Mutex<Vec<AwaitedDrain>>,
}

/// The file. Clocks begin with each process, so it holds times that are left.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The process that it was written for: one that is left over is for nobody.
    successor: u32,
    leases: Vec<Lease>,
    drains: Vec<Drain>,
}

#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    server: String,
    name: String,
    url: String,
    weight: u32,
    left_ms: u64,
}

#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    server: String,
    url: String,
    left_ms: u64,
}

struct AwaitedDrain {
    server: String,
    url: String,
    deadline_ms: u64,
    until_ms: u64,
}

impl Bequest {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.to_path_buf(),
            is_under_way: AtomicBool::new(false),
            awaited: Mutex::default(),
        }
    }

    /// Whether everything belongs to a successor by now, or may soon.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::Relaxed)
    }

    /// Writes what is in memory for a successor. Nothing may change from now on, and nothing does:
    /// the caller has the turn.
    pub(super) fn pack(&self, fleet: &Fleet, successor: u32) -> io::Result<()> {
        self.is_under_way.store(true, Ordering::Relaxed);
        let written = Written::of(fleet, &self.awaited.lock(), successor);
        let candidate = self.directory.join(CANDIDATE);
        write(&candidate, &written)?;
        put_in_place(&candidate, &self.directory.join(FILE))
    }

    /// There is no successor after all. Leases go on, with time to be renewed.
    pub(super) fn unpack(&self, fleet: &Fleet) {
        self.forget();
        let now = now_ms();
        for (server, mut registered) in fleet.leased() {
            if let Source::Leased { until_ms } = &mut registered.source {
                *until_ms = (*until_ms).max(now + LEASE_MIN_MS);
            }
            fleet.register(&server, registered, now);
        }
        self.is_under_way.store(false, Ordering::Relaxed);
    }

    /// The successor's part: takes what was written for this process.
    pub(super) fn inherit(&self, fleet: &Fleet) {
        let written: Written = match read(&self.directory.join(FILE)) {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(%error, "leases and drains of the process before are lost");
                return;
            }
        };
        if written.successor != std::process::id() {
            return;
        }
        self.forget();
        self.take(fleet, written);
    }

    /// Drains what was not found until now. To be called now and then.
    pub(super) fn drain_found(&self, fleet: &Fleet) {
        let now = now_ms();
        self.awaited.lock().retain(|awaited| {
            let AwaitedDrain { server, url, deadline_ms, until_ms } = awaited;
            !drain(fleet, server, url, *deadline_ms) && now < *until_ms
        });
    }

    fn take(&self, fleet: &Fleet, written: Written) {
        let now = now_ms();
        for Lease { server, name, url, weight, left_ms } in written.leases {
            let endpoint = match config::endpoint(&url, weight) {
                Ok(endpoint) => endpoint,
                Err(fault) => {
                    tracing::warn!(server, endpoint = name, url, fault, "lease not taken over");
                    continue;
                }
            };
            let source = Source::Leased { until_ms: now.saturating_add(left_ms.max(LEASE_MIN_MS)) };
            let change =
                fleet.register(&server, Registered { name: name.clone(), endpoint, source }, now);
            tracing::info!(server, endpoint = name, url, ?change, "lease taken over");
        }
        let drains = written.drains.into_iter().map(|Drain { server, url, left_ms }| {
            let (deadline_ms, until_ms) = (now.saturating_add(left_ms), now + AWAITED_MAX_MS);
            AwaitedDrain { server, url, deadline_ms, until_ms }
        });
        self.awaited.lock().extend(drains);
        self.drain_found(fleet);
    }

    fn forget(&self) {
        match fs::remove_file(self.directory.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove {FILE}");
            }
            _ => {}
        }
    }
}

impl Written {
    fn of(fleet: &Fleet, awaited: &[AwaitedDrain], successor: u32) -> Self {
        let now = now_ms();
        let lease = |(server, own): (String, Registered)| {
            let Source::Leased { until_ms } = own.source else { return None };
            let Registered { name, endpoint, source: _ } = own;
            let left_ms = until_ms.saturating_sub(now);
            Some(Lease { server, name, url: endpoint.url, weight: endpoint.weight, left_ms })
        };
        let mut drains: Vec<Drain> = Vec::new();
        for pool in fleet.pools().iter() {
            for endpoint in pool.members().endpoints() {
                let Some(deadline) = endpoint.standing().drain_deadline_ms() else { continue };
                let (server, url) = (pool.name().to_owned(), endpoint.url().to_owned());
                drains.push(Drain { server, url, left_ms: deadline.saturating_sub(now) });
            }
        }
        drains.extend(awaited.iter().map(|awaited| {
            let AwaitedDrain { server, url, deadline_ms, until_ms: _ } = awaited;
            let left_ms = deadline_ms.saturating_sub(now);
            Drain { server: server.clone(), url: url.clone(), left_ms }
        }));
        let leases = fleet.leased().into_iter().filter_map(lease).collect();
        Self { successor, leases, drains }
    }
}

/// Drains the endpoint of this URL, if it is there.
fn drain(fleet: &Fleet, server: &str, url: &str, deadline_ms: u64) -> bool {
    let Some(pool) = fleet.pool(server) else { return false };
    let members = pool.members();
    let of_url = members.list().iter().find(|member| member.endpoint.id() == id_of(url));
    let Some(member) = of_url else { return false };
    tracing::info!(server, endpoint = member.name, url, "drain taken over");
    matches!(fleet.drain(server, &member.name, deadline_ms), Change::Made | Change::Kept)
}

#[cfg(test)]
mod tests {
    use super::{Bequest, Drain, Lease, Written};
    use crate::admin::registrations::{read, write};
    use crate::upstream::Fleet;
    use std::fs;

    #[test]
    fn only_what_was_written_for_this_process_is_taken() {
        let directory =
            std::env::temp_dir().join(format!("toolgate-bequest-{}", std::process::id()));
        let file = directory.join(super::FILE);
        let fleet = Fleet::new();
        let text = |text: &str| text.to_owned();
        let written = |successor: u32| Written {
            successor,
            leases: vec![Lease {
                server: text("gone"),
                name: text("a"),
                url: text("http://h/"),
                weight: 1,
                left_ms: 1,
            }],
            drains: vec![Drain { server: text("gone"), url: text("http://h/"), left_ms: 1 }],
        };
        let other = std::process::id() + 1;
        for (successor, is_taken) in [(other, false), (std::process::id(), true)] {
            let bequest = Bequest::new(&directory);
            write(&file, &written(successor)).expect("written");
            assert_eq!(read::<Written>(&file).expect("read"), written(successor));
            bequest.inherit(&fleet);
            assert_eq!(file.exists(), !is_taken, "{successor}");
            assert_eq!(bequest.awaited.lock().is_empty(), !is_taken, "{successor}");
        }
        let bequest = Bequest::new(&directory);
        bequest.pack(&fleet, other).expect("written");
        assert!(bequest.is_under_way() && file.exists());
        bequest.unpack(&fleet);
        assert!(!bequest.is_under_way() && !file.exists());
        fs::remove_dir_all(&directory).expect("clean up");
    }
}
