//! All endpoints of one server under one configuration, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::retry_budget::RetryBudget;
#[cfg(feature = "kubernetes")]
use super::standing::Membership;
use super::standing::{Fault, State};
use super::{Chooser, Credentials, Endpoint, Otherwise, Wanted};
use crate::config::{self, Balance, HashKey, Timeouts, wildcard_matches};

/// One MCP server as one configuration describes it. Its endpoints may come and go meanwhile.
pub struct Pool {
    settings: config::Server,
    members: ArcSwap<Members>,
    life: Arc<Life>,
    credentials: Arc<Credentials>,
}

/// The endpoints of a pool, at one moment.
pub struct Members {
    list: Vec<Member>,
    endpoints: Vec<Arc<Endpoint>>,
    chooser: Chooser,
}

/// One endpoint, and how it came to be part of the pool.
#[derive(Clone, Debug)]
pub struct Member {
    /// What the admin API calls it.
    pub name: String,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Who says that it is there.
    pub source: Source,
}

/// Who says that an endpoint is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration.
    Configured,
    /// The name of `discovery.dns`.
    Dns,
    /// The file of `discovery.file`.
    File,
    /// The service of `discovery.kubernetes`.
    Kubernetes,
    /// Whoever registered it, until the lease ends.
    Leased {
        /// When it ends unless it is renewed.
        until_ms: u64,
    },
    /// Whoever registered it, for good.
    Permanent,
}

impl Source {
    /// The source's name in the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Dns => "dns",
            Self::File => "file",
            Self::Kubernetes => "kubernetes",
            Self::Leased { .. } | Self::Permanent => "registered",
        }
    }
}

/// What outlives a configuration: what the gateway has learned of a server, and who listens to it.
pub(super) struct Life {
    session_habit: AtomicU8,
    retry_budget: RetryBudget,
    /// Whether the whole server is being taken out: what is open finishes, and nothing new begins.
    leaving: AtomicBool,
    /// Rung when streams should look whether their endpoint still is theirs.
    bell: watch::Sender<u64>,
    /// How often what clients can see of the server has changed.
    changes: AtomicU32,
}

/// Whether a server gives its legacy clients session ids, as far as it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionHabit {
    /// It has not answered an `initialize` yet.
    Unknown = 0,
    /// It gives session ids, so a request without one is refused.
    Mints = 1,
    /// It gives none, so requests without one are whole.
    Stateless = 2,
}

/// Why a session cannot stay where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The endpoint is no longer part of the pool.
    Gone,
    /// The endpoint is drained.
    Drained,
    /// The endpoint is ejected, unhealthy, or refuses connections.
    Ejected,
    /// The endpoint cannot be connected to.
    Unreachable,
    /// The endpoint does not know the session any more.
    Forgotten,
}

impl Loss {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Gone, Self::Drained, Self::Ejected, Self::Unreachable, Self::Forgotten];

    /// The reason's name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Drained => "drained",
            Self::Ejected => "ejected",
            Self::Unreachable => "unreachable",
            Self::Forgotten => "forgotten",
        }
    }
}

/// An endpoint was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// Why.
    pub fault: Fault,
    /// For how long.
    pub pause: Duration,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            session_habit: AtomicU8::new(SessionHabit::Unknown as u8),
            retry_budget: RetryBudget::new(),
            leaving: AtomicBool::new(false),
            bell: watch::Sender::new(0),
            changes: AtomicU32::new(0),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    #[cfg(feature = "kubernetes")]
    pub(super) fn retire(&self, retired: Membership) {
        self.leaving.store(retired == Membership::Left, Ordering::Relaxed);
    }

    pub(super) fn ring_bell(&self) {
        self.bell.send_modify(|rung| *rung += 1);
    }
}

impl Members {
    pub(super) fn new(list: Vec<Member>, balance: &Balance) -> Self {
        let endpoints: Vec<_> = list.iter().map(|member| Arc::clone(&member.endpoint)).collect();
        let chooser = match balance {
            Balance::ConsistentHash { .. } => Chooser::ring(&endpoints),
            Balance::RoundRobin => Chooser::turn(&endpoints),
            Balance::LeastRequest => Chooser::LeastRequest,
        };
        Self { list, endpoints, chooser }
    }

    /// Every endpoint with where it comes from.
    pub fn list(&self) -> &[Member] {
        &self.list
    }

    /// Every endpoint.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    pub(super) fn by_id(&self, id: u64) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.id() == id)
    }
}

impl Pool {
    pub(super) fn new(
        settings: &config::Server,
        members: Members,
        life: Arc<Life>,
        credentials: Arc<Credentials>,
    ) -> Self {
        let members = ArcSwap::from_pointee(members);
        Self { settings: settings.clone(), members, life, credentials }
    }

    /// The server's name in the configuration.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What the configuration says of it.
    pub fn settings(&self) -> &config::Server {
        &self.settings
    }

    /// Its endpoints now.
    pub fn members(&self) -> Guard<Arc<Members>> {
        self.members.load()
    }

    pub(super) fn replace_members(&self, members: Members) {
        self.members.store(Arc::new(members));
    }

    /// What requests are hashed by.
    pub fn hash_key(&self) -> &HashKey {
        match &self.settings.balance {
            Balance::ConsistentHash { key } => key,
            Balance::RoundRobin | Balance::LeastRequest => &HashKey::Session,
        }
    }

    /// What it gets instead of the client's credentials.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// How long to wait for this server.
    pub fn timeouts(&self) -> &Timeouts {
        &self.settings.timeouts
    }

    /// The endpoint a session id names, if it is still part of the pool.
    pub fn by_id(&self, id: u64) -> Option<Arc<Endpoint>> {
        self.members.load().by_id(id).map(Arc::clone)
    }

    /// An endpoint for what is not tied to one, none of those tried. When hardly any is in order,
    /// distrust is no help and is forgotten: that is the panic mode.
    pub fn choose(&self, wanted: &Wanted<'_>) -> Option<Arc<Endpoint>> {
        if self.is_leaving() {
            return None;
        }
        let members = self.members.load();
        let endpoints = members.endpoints();
        let is_untried =
            |endpoint: &Endpoint| endpoint.is_resolved() && !wanted.tried.contains(&endpoint.id());
        let pick = |usable: &dyn Fn(&Endpoint) -> bool| {
            members.chooser.choose(endpoints, wanted, self.settings.slow_start, usable)
        };
        let in_order = |endpoint: &Endpoint| {
            is_untried(endpoint) && endpoint.standing().is_usable(wanted.now_ms)
        };
        let not_leaving =
            |endpoint: &Endpoint| is_untried(endpoint) && !endpoint.standing().is_draining();
        let chosen = match self.is_in_panic(endpoints, wanted.now_ms) {
            false => pick(&in_order),
            true => None,
        };
        let chosen = match wanted.otherwise {
            Otherwise::Trust => chosen.or_else(|| pick(&not_leaving)).or_else(|| pick(&is_untried)),
            Otherwise::Nothing => chosen,
        };
        chosen.map(Arc::clone)
    }

    /// Whether the whole server is being taken out.
    pub(super) fn is_leaving(&self) -> bool {
        self.life.is_leaving()
    }

    /// Why a session must leave its endpoint; `None` while it may stay.
    pub fn must_leave(&self, endpoint: &Endpoint, now_ms: u64) -> Option<Loss> {
        let standing = endpoint.standing();
        if standing.may_keep(now_ms) {
            return None;
        }
        if standing.is_retired() {
            return Some(Loss::Gone);
        }
        // Nobody moves where there is nowhere better to go.
        let members = self.members.load();
        let better = |other: &Arc<Endpoint>| {
            other.id() != endpoint.id() && other.is_resolved() && other.standing().is_usable(now_ms)
        };
        if !members.endpoints().iter().any(better) {
            return None;
        }
        if standing.is_lost(now_ms) {
            return Some(Loss::Drained);
        }
        (!self.is_in_panic(members.endpoints(), now_ms)).then_some(Loss::Ejected)
    }

    /// Whether so few endpoints are in order that states say nothing.
    fn is_in_panic(&self, endpoints: &[Arc<Endpoint>], now_ms: u64) -> bool {
        let (mut all, mut usable) = (0, 0);
        for endpoint in endpoints.iter().filter(|endpoint| !endpoint.standing().is_draining()) {
            all += 1;
            usable += usize::from(endpoint.standing().is_usable(now_ms));
        }
        usable < all && (usable as f64) < self.settings.ejection.panic_below * all as f64
    }

    /// An endpoint answered a call.
    pub fn answered(&self, endpoint: &Endpoint, now_ms: u64) {
        endpoint.standing().succeeded(now_ms, &self.settings.ejection);
    }

    /// An endpoint could not be connected to.
    pub fn refused(&self, endpoint: &Endpoint, now_ms: u64) -> Option<Ejected> {
        endpoint.standing().refused(now_ms);
        self.failed(endpoint, now_ms)
    }

    /// A call failed by its endpoint's fault. It may be ejected for that, unless too many are.
    pub fn failed(&self, endpoint: &Endpoint, now_ms: u64) -> Option<Ejected> {
        let ejection = &self.settings.ejection;
        let fault = endpoint.standing().failed(now_ms, ejection)?;
        let members = self.members.load();
        let is_out = |member: &&Arc<Endpoint>| member.standing().is_ejected(now_ms);
        let out = members.endpoints().iter().filter(is_out).count();
        if (out + 1) as f64 > ejection.fraction_max * members.endpoints().len() as f64 {
            return None;
        }
        let pause = endpoint.standing().eject(now_ms, ejection)?;
        self.life.ring_bell();
        Some(Ejected { fault, pause })
    }

    /// A request arrived: it brings its fraction of a retry.
    pub fn count_request(&self) {
        self.life.retry_budget.deposit(self.settings.retries.budget);
    }

    /// Takes one retry from the budget, if there is one.
    pub fn may_retry(&self, now_ms: u64) -> bool {
        self.settings.retries.budget > 0.0 && self.life.retry_budget.withdraw(now_ms)
    }

    /// Whether the operator says that this tool may run twice.
    pub fn may_repeat(&self, tool: &str) -> bool {
        self.settings.retries.tools.iter().any(|pattern| wildcard_matches(pattern, tool))
    }

    /// Tells when streams should look whether their endpoint still is theirs.
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.life.bell.subscribe()
    }

    /// Makes streams look.
    pub fn ring_bell(&self) {
        self.life.ring_bell();
    }

    /// How often what clients can see of the server has changed.
    pub fn changes(&self) -> u32 {
        self.life.changes.load(Ordering::Relaxed)
    }

    /// What clients can see of the server has changed: streams tell them.
    pub fn announce_change(&self) {
        self.life.changes.fetch_add(1, Ordering::Relaxed);
        self.life.ring_bell();
    }

    /// How an endpoint stands, as operators see it.
    pub fn state(&self, endpoint: &Endpoint, now_ms: u64) -> State {
        let state = endpoint.standing().state(now_ms, self.settings.slow_start);
        match endpoint.is_resolved() {
            false if state != State::Draining => State::Unresolved,
            _ => state,
        }
    }

    /// Whether the server gives session ids.
    pub fn session_habit(&self) -> SessionHabit {
        match self.life.session_habit.load(Ordering::Relaxed) {
            1 => SessionHabit::Mints,
            2 => SessionHabit::Stateless,
            _ => SessionHabit::Unknown,
        }
    }

    /// Remembers what an answer to `initialize` showed.
    pub fn learn_session_habit(&self, habit: SessionHabit) {
        self.life.session_habit.store(habit as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Loss, Pool};
    use crate::config;
    use crate::upstream::standing::Probed;
    use crate::upstream::{Fleet, Load, Otherwise, Wanted};
    use std::collections::HashSet;
    use std::sync::Arc;

    const NOW: u64 = 1_000_000;

    fn pool(server: &str) -> Arc<Pool> {
        let urls: Vec<_> = (1..=4).map(|number| format!("http://10.0.0.{number}/mcp")).collect();
        let yaml = format!(
            "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [{}], {server} }} }}\nroutes: [{{ path: /mcp, server: s }}]",
            urls.join(", ")
        );
        let settings = config::parse(&yaml, "test", &|_| None).expect("settings");
        let fleet = Fleet::new();
        let pools = fleet.prepare(&settings.servers, NOW);
        fleet.install(&pools, NOW);
        Arc::clone(&pools[0])
    }

    /// The endpoints that a hundred keys lead to.
    fn chosen(pool: &Pool, otherwise: Otherwise) -> HashSet<u64> {
        let choose = |key: u64| {
            let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            let (random, load, now_ms) = (fastrand::u64(..), Load::Calls, NOW + 1);
            let wanted = Wanted { key: &key, random, tried: &[], load, otherwise, now_ms };
            pool.choose(&wanted).map(|endpoint| endpoint.id())
        };
        (0..100).filter_map(choose).collect()
    }

    #[test]
    fn no_more_than_the_fraction_is_ejected_and_a_panic_ignores_states() {
        let ejection = "ejection: { consecutive_failures: 1, fraction_max: 0.5, panic_below: 0.3 }";
        let pool = pool(ejection);
        let endpoints = pool.members().endpoints().to_vec();
        let ejected = endpoints.iter().filter(|endpoint| pool.failed(endpoint, NOW).is_some());
        assert_eq!(ejected.count(), 2, "half of four");
        assert_eq!(chosen(&pool, Otherwise::Trust).len(), 2);
        assert_eq!(pool.must_leave(&endpoints[0], NOW + 1), Some(Loss::Ejected));
        endpoints[2].standing().probed(Probed::Unhealthy, NOW);
        // One of four is in order, fewer than the bound says: all are tried, and nobody moves.
        assert_eq!(chosen(&pool, Otherwise::Trust).len(), 4);
        assert!(chosen(&pool, Otherwise::Nothing).is_empty());
        assert_eq!(pool.must_leave(&endpoints[0], NOW + 1), None);
        endpoints[2].standing().probed(Probed::Healthy, NOW);
        assert_eq!(chosen(&pool, Otherwise::Trust).len(), 2);
    }

    #[test]
    fn tools_may_run_twice_only_by_name() {
        let pool = pool("retries: { tools: [\"read_*\", now] }");
        let rows = [("read_file", true), ("now", true), ("nowhere", false), ("write_file", false)];
        for (tool, expected) in rows {
            assert_eq!(pool.may_repeat(tool), expected, "{tool}");
        }
    }

    #[test]
    fn a_pool_without_budget_does_not_retry() {
        assert!(!pool("retries: { budget: 0 }").may_retry(NOW));
        assert!(pool("retries: { budget: 0.1 }").may_retry(NOW));
    }
}
