//! Every server there is, and who its endpoints are now: what the configuration says, what was
//! discovered, and what was registered. It outlives every reload, and so does what is known of an
//! endpoint.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::credentials::Credentials;
use super::endpoint::{Address, Endpoint, id_of};
use super::pool::{Life, Member, Members, Pool, Source};
use super::standing::{Membership, Standing};
use crate::config;
use crate::outbound::Outbound;

/// All servers.
pub struct Fleet {
    servers: Mutex<HashMap<String, Server>>,
    pools: ArcSwap<Vec<Arc<Pool>>>,
    /// Made when the first credential must be asked for; without a client it cannot be had.
    outbound: Arc<OnceLock<Option<Outbound>>>,
}

/// An endpoint that a discovery found.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is.
    pub endpoint: config::Endpoint,
    /// Where it is.
    pub address: Address,
    /// Who found it.
    pub source: Source,
}

/// An endpoint that somebody registered.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The name it was given.
    pub name: String,
    /// What it is.
    pub endpoint: config::Endpoint,
    /// For how long: [`Source::Leased`] or [`Source::Permanent`].
    pub source: Source,
}

/// What a change found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something is there that was not.
    Made,
    /// It was there already, and is as asked now.
    Kept,
    /// Nothing of this name is there.
    Unknown,
    /// It is there, but for another reason: the configuration or a discovery says so.
    Foreign,
}

/// What is known of one server beside its settings.
struct Server {
    life: Arc<Life>,
    found: Vec<Found>,
    registered: Vec<Registered>,
    standings: HashMap<u64, Arc<Standing>>,
}

impl Server {
    fn new() -> Self {
        Self {
            life: Arc::new(Life::new()),
            found: Vec::new(),
            registered: Vec::new(),
            standings: HashMap::new(),
        }
    }

    /// Who is part of the pool, each URL once: the configuration's word counts most.
    fn members(&mut self, settings: &config::Server, before: &[Member], now: u64) -> Members {
        let configured = settings.endpoints.iter().map(|endpoint| {
            let name = format!("{:016x}", id_of(&endpoint.url));
            (name, endpoint, Address::OfHost, Source::Configured)
        });
        let registered = self.registered.iter().map(|registered| {
            let Registered { name, endpoint, source } = registered;
            (name.clone(), endpoint, Address::OfHost, *source)
        });
        let found = self.found.iter().map(|Found { endpoint, address, source }| {
            (format!("{:016x}", id_of(&endpoint.url)), endpoint, *address, *source)
        });
        let mut list: Vec<Member> = Vec::new();
        for (name, endpoint, address, source) in configured.chain(registered).chain(found) {
            let id = id_of(&endpoint.url);
            if list.iter().any(|member| member.endpoint.id() == id || member.name == name) {
                continue;
            }
            let standing = self.standings.entry(id).or_insert_with(|| Arc::new(Standing::new(now)));
            let known = before.iter().map(|member| &member.endpoint).find(|known| known.id() == id);
            let endpoint = match known {
                Some(known) if known.is_made_of(endpoint, settings, address) => Arc::clone(known),
                known => {
                    let made = Endpoint::new(endpoint, settings, address, Arc::clone(standing));
                    known.inspect(|known| made.resolved_like(known));
                    Arc::new(made)
                }
            };
            list.push(Member { name, endpoint, source });
        }
        Members::new(list, &settings.balance)
    }

    /// Marks who left and who came back.
    fn settle(&mut self, members: &Members, now: u64) {
        for (id, standing) in &self.standings {
            let stays = members.endpoints().iter().any(|endpoint| endpoint.id() == *id);
            standing.retire(if stays { Membership::Stays } else { Membership::Left }, now);
        }
        // An endpoint that left is remembered as long as a session or a call is bound to it.
        self.standings
            .retain(|_, standing| !standing.is_retired() || Arc::strong_count(standing) > 1);
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// A fleet without servers.
    pub fn new() -> Self {
        Self { servers: Mutex::default(), pools: ArcSwap::default(), outbound: Arc::default() }
    }

    /// Every server as the configuration in force describes it, in its order.
    pub fn pools(&self) -> Arc<Vec<Arc<Pool>>> {
        self.pools.load_full()
    }

    /// The server of this name.
    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.pools.load().iter().find(|pool| pool.name() == name).map(Arc::clone)
    }

    /// The pools of a new configuration. They take effect with [`Self::install`]; until then nothing
    /// has changed.
    pub fn prepare(&self, settings: &[config::Server], now_ms: u64) -> Vec<Arc<Pool>> {
        let mut servers = self.servers.lock();
        let current = self.pools.load();
        let prepared = settings.iter().map(|settings| {
            let before = current.iter().find(|pool| pool.name() == settings.name);
            let server = servers.entry(settings.name.clone()).or_insert_with(Server::new);
            let members = match before {
                Some(pool) => server.members(settings, pool.members().list(), now_ms),
                None => server.members(settings, &[], now_ms),
            };
            let credentials = match before {
                Some(pool) if pool.settings().credentials == settings.credentials => {
                    Arc::clone(pool.credentials())
                }
                _ => {
                    let credentials = settings.credentials.clone();
                    Arc::new(Credentials::new(&settings.name, credentials, &self.outbound))
                }
            };
            Arc::new(Pool::new(settings, members, Arc::clone(&server.life), credentials))
        });
        prepared.collect()
    }

    /// Lets the pools of a new configuration take effect.
    pub fn install(&self, pools: &[Arc<Pool>], now_ms: u64) {
        let mut servers = self.servers.lock();
        let is_first = self.pools.load().is_empty();
        self.pools.store(Arc::new(pools.to_vec()));
        servers.retain(|name, server| {
            let pool = pools.iter().find(|pool| pool.name() == name);
            let Some(pool) = pool else {
                for standing in server.standings.values() {
                    standing.retire(Membership::Left, now_ms);
                }
                server.life.ring_bell();
                return false;
            };
            // Between preparing and installing a discovery may have found something.
            let members = server.members(pool.settings(), pool.members().list(), now_ms);
            if is_first {
                let endpoints = members.endpoints().iter();
                endpoints.for_each(|endpoint| endpoint.standing().is_warm_from_the_start());
            }
            server.settle(&members, now_ms);
            pool.replace_members(members);
            server.life.ring_bell();
            true
        });
    }

    /// Takes what a discovery found in place of what it had found before. Tells whether anything
    /// changed.
    pub fn found(&self, server: &str, found: Vec<Found>, now_ms: u64) -> bool {
        self.change(server, now_ms, |state, _| state.found = found).is_some_and(|changed| changed)
    }

    /// Registers an endpoint under a name, or renews its lease.
    pub fn register(&self, server: &str, registered: Registered, now_ms: u64) -> Change {
        let mut outcome = Change::Unknown;
        self.change(server, now_ms, |state, list| {
            let id = id_of(&registered.endpoint.url);
            let foreign = list.iter().any(|member| {
                let same = member.name == registered.name || member.endpoint.id() == id;
                let own = member.name == registered.name
                    && matches!(member.source, Source::Leased { .. } | Source::Permanent);
                same && !own
            });
            outcome = match state.registered.iter().position(|own| own.name == registered.name) {
                _ if foreign => Change::Foreign,
                Some(at) => {
                    state.registered[at] = registered;
                    Change::Kept
                }
                None => {
                    state.registered.push(registered);
                    Change::Made
                }
            };
        });
        outcome
    }

    /// Takes a registered endpoint out of its pool.
    pub fn deregister(&self, server: &str, name: &str, now_ms: u64) -> Change {
        let mut outcome = Change::Unknown;
        self.change(server, now_ms, |state, list| {
            let before = state.registered.len();
            state.registered.retain(|own| own.name != name);
            outcome = match list.iter().any(|member| member.name == name) {
                _ if state.registered.len() < before => Change::Made,
                true => Change::Foreign,
                false => Change::Unknown,
            };
        });
        outcome
    }

    /// Takes out endpoints whose lease has ended; tells which, by server and name.
    pub fn expire_leases(&self, now_ms: u64) -> Vec<(String, String)> {
        let mut expired = Vec::new();
        for pool in self.pools.load().iter() {
            let is_over = |source: &Source| matches!(source, Source::Leased { until_ms } if *until_ms <= now_ms);
            if pool.members().list().iter().any(|member| is_over(&member.source)) {
                self.change(pool.name(), now_ms, |state, _| {
                    let (over, left) = std::mem::take(&mut state.registered)
                        .into_iter()
                        .partition(|own| is_over(&own.source));
                    state.registered = left;
                    let over: Vec<Registered> = over;
                    expired.extend(over.into_iter().map(|own| (pool.name().to_owned(), own.name)));
                });
            }
        }
        expired
    }

    /// What is registered for good, by server.
    pub fn permanent(&self) -> Vec<(String, Registered)> {
        let servers = self.servers.lock();
        let of_server = |(name, server): (&String, &Server)| {
            let permanent = server.registered.iter().filter(|own| own.source == Source::Permanent);
            permanent.map(|own| (name.clone(), own.clone())).collect::<Vec<_>>()
        };
        servers.iter().flat_map(of_server).collect()
    }

    /// Lets an endpoint take no new sessions; those it has move when the time is over.
    pub fn drain(&self, server: &str, name: &str, deadline_ms: u64) -> Change {
        self.standing_of(server, name, |standing| match standing.is_draining() {
            true => {
                standing.drain(deadline_ms);
                Change::Kept
            }
            false => {
                standing.drain(deadline_ms);
                Change::Made
            }
        })
    }

    /// Lets a drained endpoint take new sessions again.
    pub fn undrain(&self, server: &str, name: &str, now_ms: u64) -> Change {
        self.standing_of(server, name, |standing| match standing.is_draining() {
            true => {
                standing.undrain(now_ms);
                Change::Made
            }
            false => Change::Kept,
        })
    }

    /// Takes a whole server out: nothing new begins there, and what is open may stay until the deadline.
    #[cfg(feature = "kubernetes")]
    pub fn leave(&self, server: &str, deadline_ms: u64) {
        let Some(pool) = self.pool(server) else { return };
        if let Some(server) = self.servers.lock().get(server) {
            server.life.retire(Membership::Left);
        }
        for endpoint in pool.members().endpoints() {
            endpoint.standing().drain(deadline_ms);
        }
        pool.ring_bell();
    }

    /// Takes a server that was being taken out back in.
    #[cfg(feature = "kubernetes")]
    pub fn stay(&self, server: &str, now_ms: u64) {
        let Some(pool) = self.pool(server) else { return };
        if let Some(server) = self.servers.lock().get(server) {
            server.life.retire(Membership::Stays);
        }
        for endpoint in pool.members().endpoints() {
            endpoint.standing().undrain(now_ms);
        }
    }

    /// Wakes the streams of servers where the deadline of a drain has passed in this time.
    pub fn wake_drained(&self, since_ms: u64, now_ms: u64) {
        let is_due = |member: &Member| {
            let deadline = member.endpoint.standing().drain_deadline_ms();
            deadline.is_some_and(|deadline| since_ms < deadline && deadline <= now_ms)
        };
        for pool in self.pools.load().iter() {
            if pool.members().list().iter().any(is_due) {
                pool.ring_bell();
            }
        }
    }

    /// Wakes the streams of every server.
    pub fn ring_all(&self) {
        for pool in self.pools.load().iter() {
            pool.ring_bell();
        }
    }

    fn standing_of(
        &self,
        server: &str,
        name: &str,
        change: impl FnOnce(&Standing) -> Change,
    ) -> Change {
        let Some(pool) = self.pool(server) else { return Change::Unknown };
        let members = pool.members();
        let Some(member) = members.list().iter().find(|member| member.name == name) else {
            return Change::Unknown;
        };
        let change = change(member.endpoint.standing());
        pool.ring_bell();
        change
    }

    /// Changes what is known of a server and brings its pool up to date. `None` if there is no such
    /// server, otherwise whether the pool has other endpoints now.
    fn change(
        &self,
        name: &str,
        now_ms: u64,
        change: impl FnOnce(&mut Server, &[Member]),
    ) -> Option<bool> {
        let mut servers = self.servers.lock();
        let pool = self.pool(name)?;
        let server = servers.get_mut(name)?;
        let before = pool.members();
        change(server, before.list());
        let members = server.members(pool.settings(), before.list(), now_ms);
        let urls = |members: &Members| {
            let shown =
                |member: &Member| (member.endpoint.url().to_owned(), member.endpoint.weight());
            members.list().iter().map(shown).collect::<Vec<_>>()
        };
        let changed = urls(&before) != urls(&members);
        server.settle(&members, now_ms);
        drop(before);
        pool.replace_members(members);
        if changed {
            server.life.ring_bell();
        }
        Some(changed)
    }

    /// What is registered with a lease, by server.
    pub fn leased(&self) -> Vec<(String, Registered)> {
        let servers = self.servers.lock();
        let of_server = |(name, server): (&String, &Server)| {
            let is_leased = |own: &&Registered| matches!(own.source, Source::Leased { .. });
            let leased = server.registered.iter().filter(is_leased);
            leased.map(|own| (name.clone(), own.clone())).collect::<Vec<_>>()
        };
        servers.iter().flat_map(of_server).collect()
    }

    /// Lets every endpoint take its whole share at once, because it had it in the process before.
    pub fn warm_all(&self) {
        for pool in self.pools.load().iter() {
            let endpoints = pool.members();
            let standings = endpoints.endpoints().iter().map(|endpoint| endpoint.standing());
            standings.for_each(|standing| standing.is_warm_from_the_start());
        }
    }
}
