//! Checked settings, made ready to serve: immutable, and pinned by every request that uses it.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::audit::Keeping;
use crate::catalog::Catalog;
use crate::config::{self, Reap, Settings};
use crate::identity::{Authorities, Identity};
use crate::limits::{self, Limits};
use crate::outbound::Outbound;
use crate::policy::{self, Combinations, Policy};
use crate::routes::Routes;
use crate::sessions::{KeyFile, Rules, Seal, Sealing, Table, View, generated_key, seconds};
use crate::shared::Store;
use crate::telemetry::{Metrics, instance};
use crate::tls::{Terminator, Terminators};
use crate::upstream::{self, Fleet, Pool, now_ms};

/// What outlives every configuration.
pub struct Lasting {
    /// Every server and its endpoints.
    pub fleet: Arc<Fleet>,
    /// The legacy sessions that were used lately.
    pub sessions: Arc<Table>,
    /// What the servers offer.
    pub catalog: Arc<Catalog>,
    /// The keys of those who issue tokens, and the tokens that were checked.
    pub authorities: Arc<Authorities>,
    /// What combination rules remember.
    pub marks: Arc<policy::State>,
    /// What ends TLS at listeners, as long as their files stay the same.
    pub terminators: Arc<Terminators>,
    /// What limits have counted.
    pub limits: Arc<limits::State>,
    /// What all replicas have in common.
    pub store: Arc<Store>,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
}

impl Lasting {
    /// At the start of a process: nothing is known yet.
    pub fn new(settings: &Settings, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let store = match &settings.shared {
            Some(shared) => {
                let secrets = settings.sessions.keys.iter().map(|key| key.expose().as_bytes());
                Store::new(shared, secrets, &instance(), metrics.shared.clone())?
            }
            None => Store::alone(),
        };
        let store = Arc::new(store);
        let outbound = Outbound::new(None).map_err(io::Error::other)?;
        Ok(Self {
            fleet: Arc::new(Fleet::new()),
            sessions: Arc::new(Table::with_store(seconds(SystemTime::now()), &store)),
            catalog: Arc::new(Catalog::new()),
            authorities: Arc::new(Authorities::new(outbound, Arc::clone(metrics))),
            marks: Arc::new(policy::State::new(&store)),
            terminators: Arc::default(),
            limits: Arc::new(limits::State::new(&store, &metrics.shared)),
            store,
            metrics: Arc::clone(metrics),
        })
    }
}

/// One configuration, ready to serve.
pub struct Snapshot {
    /// Where requests go.
    pub routes: Routes,
    /// Who is calling.
    pub identity: Identity,
    /// What callers may do.
    pub policy: Policy,
    /// What may not follow what.
    pub combinations: Combinations,
    /// What the record keeps of arguments, if there is a record.
    pub keeping: Option<Keeping>,
    /// How much is served.
    pub limits: Limits,
    /// What legacy session ids are sealed with.
    pub seal: Seal,
    /// What else clients hold for the gateway is sealed with this.
    pub sealing: Sealing,
    /// Every server, in the order of the settings.
    pub pools: Vec<Arc<Pool>>,
    /// What the servers offer.
    pub catalog: Arc<Catalog>,
    /// What ends TLS at each listener, in the order of the settings; nothing at a plain one.
    pub tls: Vec<Option<Arc<Terminator>>>,
    /// The rules of each listener, in the order of the settings.
    pub listeners: Vec<config::Listener>,
    /// The legacy sessions that were used lately.
    pub sessions: Arc<Table>,
    /// The bounds of that table.
    pub session_rules: Rules,
    /// Long-lived streams the process may hold.
    pub streams_max: usize,
}

impl Snapshot {
    /// Builds everything a request needs. Fails only where the machine does: the settings are
    /// checked already.
    pub fn new(settings: &Settings, lasting: &Lasting) -> io::Result<Self> {
        let Lasting {
            fleet,
            sessions,
            catalog,
            authorities,
            marks: _,
            terminators,
            limits,
            store: _,
            metrics,
        } = lasting;
        let pools = fleet.prepare(&settings.servers, now_ms());
        upstream::resolve_now(&pools);
        let servers = || settings.servers.iter().map(|server| server.name.as_str());
        // `check` has compiled every condition already.
        let policy = Policy::new(&settings.policy, servers()).map_err(|faults| {
            io::Error::other(faults.into_iter().map(|fault| fault.message).collect::<String>())
        })?;
        let combinations =
            Combinations::new(&settings.policy, servers(), settings.sessions.lifetime);
        let (seal, sealing) = seal(settings)?;
        Ok(Self {
            routes: Routes::new(settings, &pools, catalog, metrics),
            identity: Identity::new(&settings.identity, authorities),
            policy,
            combinations,
            keeping: settings.audit.as_ref().map(Keeping::new),
            limits: Limits::new(&settings.limits, &settings.listeners, limits, &metrics.limits),
            seal,
            sealing,
            pools,
            catalog: Arc::clone(catalog),
            tls: terminators.prepare(&settings.listeners).map_err(io::Error::other)?,
            listeners: settings.listeners.clone(),
            sessions: Arc::clone(sessions),
            session_rules: session_rules(settings),
            streams_max: settings.runtime.streams_max,
        })
    }
}

fn session_rules(settings: &Settings) -> Rules {
    let sessions = &settings.sessions;
    let view = match sessions.reap {
        Reap::Off => View::Part,
        // What the others use they tell each other.
        Reap::On | Reap::Auto if settings.shared.is_some() => View::Shared,
        Reap::On => View::Whole,
        // With a key of its own, this gateway is the only one that can open its ids.
        Reap::Auto if sessions.keys.is_empty() => View::Whole,
        Reap::Auto => View::Part,
    };
    let idle_s = u32::try_from(sessions.idle.as_secs()).unwrap_or(u32::MAX);
    let lifetime_s = u32::try_from(sessions.lifetime.as_secs()).unwrap_or(u32::MAX);
    Rules { idle_s, entries_max: sessions.table_max, lifetime_s, view }
}

fn seal(settings: &Settings) -> io::Result<(Seal, Sealing)> {
    let lifetime = settings.sessions.lifetime;
    let keys = &settings.sessions.keys;
    if !keys.is_empty() {
        let secrets = || keys.iter().map(|key| key.expose().as_bytes());
        return Ok((Seal::new(secrets(), lifetime), Sealing::new(secrets())));
    }
    let generated = generated_key(&settings.state_dir)?;
    if matches!(generated, KeyFile::Made(_)) {
        tracing::info!(
            state_dir = %settings.state_dir.display(),
            "made a session key; set sessions.keys to share sessions between gateways"
        );
    }
    let secret = || std::iter::once(generated.secret().as_bytes());
    Ok((Seal::new(secret(), lifetime), Sealing::new(secret())))
}
