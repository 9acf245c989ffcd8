//! A new configuration while the gateway runs: read and checked whole, then in force at once, or refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use super::difference::Difference;
use super::discovered::Discovered;
use super::handover::Bequest;
use super::registrations::{Registrations, Servers};
use super::revocations::RevocationFile;
use super::view::Origin;
use crate::audit::{Event, Record};
use crate::config::{self, Beside, Marks, Problems, Settings, Watch};
use crate::identity::KeyState;
use crate::lifecycle::Belongings;
use crate::proxy::Shared;
use crate::snapshot::Snapshot;
use crate::tls;

/// The configuration in force, and where the next one comes from.
pub struct Reload {
    path: PathBuf,
    check: Check,
    shared: Arc<Shared>,
    settings: ArcSwap<Settings>,
    registrations: Registrations,
    discovered: Discovered,
    revocations: RevocationFile,
    bequest: Bequest,
    watch: Mutex<Watch>,
}

/// Checks what only an engine can.
pub type Check = fn(&Settings) -> Result<(), Problems>;

/// The right to change something: one change at a time.
pub(super) struct Turn<'r>(MutexGuard<'r, Watch>);

/// Who wants the configuration read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// One of its files changed.
    Files,
    /// The admin API.
    Operator,
    /// The process before may have changed it since this one read it.
    Upgrade,
    /// Servers were discovered, or went away.
    Discovery,
}

/// What reading the configuration again has led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// It is another one, in force now: what changed, a few words each.
    Installed(Vec<String>),
    /// It is the same.
    Unchanged,
}

/// Why a configuration was refused; the one before it stays.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is wrong.
    #[error("{0}")]
    Problems(Problems),
    /// It changes what a running process cannot.
    #[error("these keys take effect only in a new process, so nothing was changed: {}", .0.join(", "))]
    Immovable(Vec<&'static str>),
    /// The machine did not give what it needs.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Files => "a file changed",
            Self::Operator => "admin",
            Self::Upgrade => "upgrade",
            Self::Discovery => "services of Kubernetes",
        }
    }
}

impl Reload {
    /// Begins with the settings that were read from `path` and are in force.
    ///
    /// # Errors
    /// When a file in `state_dir` cannot be read.
    pub fn new(
        path: &Path,
        settings: &Settings,
        shared: Arc<Shared>,
        check: Check,
    ) -> io::Result<Self> {
        let registrations = Registrations::open(&settings.state_dir)?;
        registrations.renew(shared.fleet());
        let revoked = shared.lasting().authorities.revoked();
        let revocations = RevocationFile::open(&settings.state_dir, revoked)?;
        if !revoked.all().is_empty() {
            // The first snapshot was made before they were known.
            shared.install(Snapshot::new(settings, shared.lasting())?);
        }
        shared.metrics().configured(settings.sources.digest(), SystemTime::now());
        let discovered = Discovered::new(shared.metrics());
        let reload = Self {
            path: path.to_path_buf(),
            check,
            shared,
            settings: ArcSwap::from_pointee(settings.clone()),
            registrations,
            discovered,
            revocations,
            bequest: Bequest::new(&settings.state_dir),
            watch: Mutex::default(),
        };
        // How the files looked when they were read is not known: they will be read once more, which
        // shows whether they have changed since.
        let files = || {
            let files = std::iter::once(path).chain(settings.sources.files());
            files.filter(|file| !reload.registrations.owns(file))
        };
        reload.turn().0.was_read(&Marks::unknown(files()), files());
        Ok(reload)
    }

    /// The configuration in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    /// The servers that were discovered.
    pub(super) fn discovered(&self) -> &Discovered {
        &self.discovered
    }

    /// Who says that this server is there.
    pub(super) fn origin(&self, server: &str, settings: &Settings) -> Origin {
        match server {
            _ if self.registrations.servers().contains(server) => Origin::Registered,
            _ if self.discovered.has(server, settings) => Origin::Discovered,
            _ => Origin::Configured,
        }
    }

    /// Takes the servers that can be found in a moment, before the gateway listens.
    #[cfg(feature = "kubernetes")]
    pub fn discover_now(&self) {
        self.discovered.look_now(self);
    }

    /// What goes over to a successor.
    pub(super) fn bequest(&self) -> &Bequest {
        &self.bequest
    }

    /// Takes what the process before had and this one does not know yet. To be called once its
    /// sockets are here: it changes nothing any more.
    pub fn take_over(&self) {
        // A configuration that is refused is in the log; what was read before is in force.
        drop(self.reload(Trigger::Upgrade));
        self.bequest.inherit(self.shared.fleet());
    }

    /// Finishes that when endpoints were discovered, before anybody is served.
    pub fn taken_over(&self) {
        self.bequest.drain_found(self.shared.fleet());
        self.shared.fleet().warm_all();
    }

    /// Waits until nobody else changes anything.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn(self.watch.lock())
    }

    /// Whether a file of the configuration has changed since it was read, and is whole again.
    pub fn is_due(&self) -> bool {
        self.turn().0.has_changed()
    }

    /// Reads the configuration again and lets it take effect if it is another one. Blocks.
    ///
    /// # Errors
    /// Everything that is wrong with it; nothing has changed then.
    pub fn reload(&self, trigger: Trigger) -> Result<Reloaded, Fault> {
        self.reload_in(&mut self.turn(), trigger)
    }

    pub(super) fn reload_in(
        &self,
        turn: &mut Turn<'_>,
        trigger: Trigger,
    ) -> Result<Reloaded, Fault> {
        let why = trigger.as_str();
        let reloaded = self.read(turn, &self.registrations.servers_file()).and_then(|settings| {
            if settings.sources.is_same(&self.settings.load().sources) {
                return Ok(Reloaded::Unchanged);
            }
            self.install(settings).map(Reloaded::Installed)
        });
        let outcome = match &reloaded {
            Ok(Reloaded::Installed(changes)) => {
                tracing::info!(why, "configuration reloaded: {}", changes.join("; "));
                "installed"
            }
            Ok(Reloaded::Unchanged)
                if matches!(trigger, Trigger::Files | Trigger::Upgrade | Trigger::Discovery) =>
            {
                "unchanged"
            }
            Ok(Reloaded::Unchanged) => {
                tracing::info!(why, "configuration reloaded: nothing has changed");
                "unchanged"
            }
            Err(fault) => {
                tracing::error!(why, "configuration refused, the one before it stays:\n{fault}");
                "refused"
            }
        };
        self.shared.metrics().reloaded(outcome);
        if let Some(audit) = self.shared.audit().filter(|_| outcome != "unchanged") {
            let changes = match &reloaded {
                Ok(Reloaded::Installed(changes)) => changes.join("; "),
                Ok(Reloaded::Unchanged) => String::new(),
                // The problems may show lines of the file.
                Err(_) => "it has problems".to_owned(),
            };
            let outcome = &format!("{outcome} ({why}): {changes}");
            audit.event(&Record {
                subject: "configuration",
                outcome,
                ..Record::new(Event::Reload)
            });
        }
        reloaded
    }

    /// What reading the configuration again would change.
    pub(super) fn differences(&self, turn: &mut Turn<'_>) -> Result<Vec<String>, Fault> {
        let watch = turn.0.clone();
        let settings = self.read(turn, &self.registrations.servers_file());
        // Nothing takes effect, so a change of the files is still to be acted on.
        *turn.0 = watch;
        Ok(Difference::between(&self.settings.load(), &settings?).changes)
    }

    /// Lets other registered servers take effect, with whatever else the configuration says by now.
    pub(super) fn register(
        &self,
        turn: &mut Turn<'_>,
        servers: Servers,
    ) -> Result<Vec<String>, Fault> {
        let watch = turn.0.clone();
        let changes = self.try_out(turn, &servers).and_then(|settings| {
            self.registrations.accept(servers)?;
            self.install(settings)
        });
        changes.inspect_err(|_| *turn.0 = watch)
    }

    /// Reads the configuration as it would be with other registered servers.
    pub(super) fn rehearse(&self, turn: &mut Turn<'_>, servers: &Servers) -> Result<(), Fault> {
        let watch = turn.0.clone();
        let tried = self.try_out(turn, servers);
        *turn.0 = watch;
        tried?;
        self.registrations.dismiss();
        Ok(())
    }

    /// Revokes a key at once, also for streams that are open, or lets it be valid again.
    pub(super) fn set_key(
        &self,
        _turn: &mut Turn<'_>,
        digest: [u8; 32],
        state: KeyState,
    ) -> io::Result<bool> {
        let revoked = self.shared.lasting().authorities.revoked();
        let is_news = revoked.set(digest, state).map_err(io::Error::other)?;
        if is_news {
            let snapshot = Snapshot::new(&self.settings.load(), self.shared.lasting())?;
            self.shared.install(snapshot);
            self.revocations.keep(revoked)?;
        }
        Ok(is_news)
    }

    fn try_out(&self, turn: &mut Turn<'_>, servers: &Servers) -> Result<Settings, Fault> {
        let candidate = self.registrations.propose(servers)?;
        self.read(turn, &candidate).inspect_err(|_| self.registrations.dismiss())
    }

    /// A whole and checked configuration that this process can take.
    fn read(&self, turn: &mut Turn<'_>, registered: &Path) -> Result<Settings, Fault> {
        let before = turn.0.marks();
        let environment = |name: &str| std::env::var(name).ok();
        let discovered = self.discovered.text();
        let beside = Beside { registered: Some(registered), discovered: discovered.as_deref() };
        let loaded = config::load_with(&self.path, &environment, beside).or_else(|problems| {
            // What was discovered must not keep what was written from taking effect.
            let alone = Beside { discovered: None, ..beside };
            let settings = discovered
                .as_ref()
                .and_then(|_| config::load_with(&self.path, &environment, alone).ok());
            settings.ok_or(problems).inspect(|_| {
                tracing::error!(
                    "the configuration is good only without the services of Kubernetes"
                );
            })
        });
        let current = self.settings.load();
        let sources = match &loaded {
            Ok(settings) => &*settings.sources,
            Err(problems) => problems.sources(),
        };
        // Where the reading failed, it may have missed files that the one before it had found.
        let known = loaded.is_err().then(|| current.sources.files()).into_iter().flatten();
        let files = sources.files().chain(known).chain(std::iter::once(self.path.as_path()));
        turn.0.was_read(&before, files.filter(|file| !self.registrations.owns(file)));

        let settings = loaded.map_err(Fault::Problems)?;
        (self.check)(&settings).map_err(Fault::Problems)?;
        let immovable = current.immovable_changes(&settings);
        match immovable.is_empty() {
            true => Ok(settings),
            false => Err(Fault::Immovable(immovable)),
        }
    }

    fn install(&self, settings: Settings) -> Result<Vec<String>, Fault> {
        let shared = &self.shared;
        let before = shared.fleet().pools();
        let snapshot = Snapshot::new(&settings, shared.lasting())?;
        let Difference { changes, announced } =
            Difference::between(&self.settings.load(), &settings);
        shared.metrics().configured(settings.sources.digest(), SystemTime::now());
        tls::note(&settings, shared.metrics(), SystemTime::now());
        shared.install(snapshot);
        self.settings.store(Arc::new(settings));
        self.registrations.renew(shared.fleet());
        for server in announced {
            // A server that is no longer there still has streams that must be told.
            let pool = shared.fleet().pool(&server);
            let pool = pool.or_else(|| before.iter().find(|pool| pool.name() == server).cloned());
            if let Some(pool) = pool {
                pool.announce_change();
            }
        }
        Ok(changes)
    }
}

impl Belongings for Reload {
    fn pack(&self, successor: u32) -> io::Result<()> {
        let _turn = self.turn();
        self.bequest.pack(self.shared.fleet(), successor)
    }

    fn unpack(&self) {
        self.bequest.unpack(self.shared.fleet());
    }
}
