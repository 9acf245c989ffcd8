//! Finds endpoints that the configuration does not name, and the addresses of those it names by host.
//!
//! Names are looked up again when their TTL ends, files when they have changed. Whatever fails, the
//! last good answer is kept: an endpoint that works is worth more than a name server's word.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;

use super::endpoint::{Address, Endpoint};
use super::pool::{Pool, Source};
use super::resolve::{Addresses, Resolver, Stamp, look_up_now};
use super::standing::ms;
use super::{Fleet, Found};
use crate::config;
use crate::telemetry::Metrics;

/// After a failure a name is looked up again this soon.
const RETRY: Duration = Duration::from_secs(5);
/// A name of which an endpoint does not work is looked up again this soon, whatever its TTL: the
/// answer may have changed, and nothing is lost by asking.
const DOUBT: Duration = Duration::from_secs(10);
/// A file that was written longer ago than this is whole.
const SETTLED: Duration = Duration::from_secs(1);

/// Everything that is looked up, and what was found last.
pub struct Discovery {
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    names: HashMap<Sought, Name>,
    files: HashMap<String, ListedFile>,
    /// The last good answer for each server whose endpoints are discovered.
    found: HashMap<String, Vec<Found>>,
    lookups: JoinSet<(Sought, Result<Addresses, String>)>,
    #[cfg(feature = "kubernetes")]
    watches: super::kubernetes::Watches,
}

/// What a name is looked up for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sought {
    /// Every address is an endpoint of this server.
    Endpoints(String),
    /// One of the addresses is where this server's endpoint is.
    Address(String, u64),
}

struct Name {
    host: String,
    /// The last good answer; empty if there was none.
    known: Vec<IpAddr>,
    lookup: Lookup,
    answers: Answers,
}

enum Lookup {
    UnderWay,
    Due { at_ms: u64, in_doubt_at_ms: u64 },
}

struct ListedFile {
    path: PathBuf,
    seen: Option<Stamp>,
    /// What was read last, whether it was good or not.
    judged: Option<Stamp>,
    answers: Answers,
}

/// Whether the last answer was good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    Good,
    Failing,
}

impl Discovery {
    /// Discovery by the system's name servers.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::by(Resolver::of_system(), metrics)
    }

    fn by(resolver: Resolver, metrics: Arc<Metrics>) -> Self {
        Self {
            resolver: Arc::new(resolver),
            metrics,
            names: HashMap::new(),
            files: HashMap::new(),
            found: HashMap::new(),
            lookups: JoinSet::new(),
            #[cfg(feature = "kubernetes")]
            watches: super::kubernetes::Watches::default(),
        }
    }

    /// Finds what can be found in a moment, before the gateway listens: the first call after a
    /// restart should not meet an empty pool. May wait for a few seconds.
    pub fn look_now(&mut self, fleet: &Fleet, now_ms: u64) {
        let pools = fleet.pools();
        self.follow(&pools, now_ms);
        for (server, file) in &mut self.files {
            let found = file.look_at_start(server, &self.metrics);
            self.found.extend(found.map(|found| (server.clone(), found)));
        }
        let by_name = |pool: &Arc<Pool>| match &pool.settings().discovery {
            Some(config::Discovery::Dns(endpoint)) => {
                Some((pool.name().to_owned(), (endpoint.host.clone(), endpoint.port)))
            }
            _ => None,
        };
        let (servers, names): (Vec<_>, Vec<_>) = pools.iter().filter_map(by_name).unzip();
        for (server, addresses) in servers.into_iter().zip(look_up_now(names)) {
            let mut list: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
            list.sort_unstable();
            list.dedup();
            // Its TTL is learned with the first tick, and so is what is wrong if nothing was found.
            if let Some(name) = self.names.get_mut(&Sought::Endpoints(server)) {
                name.known = list;
            }
        }
        #[cfg(feature = "kubernetes")]
        self.watches.look_now(&pools, &mut self.found, &self.metrics, now_ms);
        self.settle(fleet, &pools, now_ms);
    }

    /// Takes what was found since the last time and looks up what is due. To be called each second,
    /// within a runtime.
    pub fn tick(&mut self, fleet: &Fleet, now_ms: u64) {
        let pools = fleet.pools();
        self.follow(&pools, now_ms);
        while let Some(finished) = self.lookups.try_join_next() {
            match finished {
                Ok((sought, answer)) => self.take(&sought, answer, now_ms),
                Err(error) => tracing::error!(%error, "a lookup was lost"),
            }
        }
        for (server, file) in &mut self.files {
            let found = file.look(server, &self.metrics);
            self.found.extend(found.map(|found| (server.clone(), found)));
        }
        #[cfg(feature = "kubernetes")]
        self.watches.tick(&pools, &mut self.found, &self.metrics, now_ms);
        self.settle(fleet, &pools, now_ms);
        self.ask(&pools, now_ms);
    }

    /// Begins with what a new configuration or registration names, and ends with what none names
    /// any more.
    fn follow(&mut self, pools: &[Arc<Pool>], now_ms: u64) {
        let mut names = HashMap::new();
        let mut files = HashMap::new();
        for pool in pools {
            match &pool.settings().discovery {
                Some(config::Discovery::Dns(endpoint)) => {
                    let sought = Sought::Endpoints(pool.name().to_owned());
                    names.insert(sought, endpoint.host.clone());
                }
                Some(config::Discovery::File(path)) => {
                    files.insert(pool.name().to_owned(), path.clone());
                }
                Some(config::Discovery::Kubernetes(_)) | None => {}
            }
            for endpoint in pool.members().endpoints() {
                if let Some((host, _)) = endpoint.name() {
                    let sought = Sought::Address(pool.name().to_owned(), endpoint.id());
                    names.insert(sought, host.to_owned());
                }
            }
        }
        let metrics = &self.metrics.endpoints;
        self.names.retain(|sought, name| {
            let stays = names.get(sought) == Some(&name.host);
            if !stays {
                metrics.discovery_ended(sought.server(), &name.host);
            }
            stays
        });
        for (sought, host) in names {
            self.names.entry(sought).or_insert_with(|| Name::new(host, now_ms));
        }
        self.files.retain(|server, file| {
            let stays = files.get(server) == Some(&file.path);
            if !stays {
                metrics.discovery_ended(server, &file.path.display().to_string());
            }
            stays
        });
        for (server, path) in files {
            self.files.entry(server).or_insert_with(|| ListedFile::new(path));
        }
    }

    /// Takes an answer, unless the configuration has changed its mind meanwhile.
    fn take(&mut self, sought: &Sought, answer: Result<Addresses, String>, now_ms: u64) {
        let Some(name) = self.names.get_mut(sought) else { return };
        let (server, host) = (sought.server(), name.host.as_str());
        let metrics = &self.metrics.endpoints;
        let pause = match answer {
            Ok(Addresses { list, ttl }) => {
                if name.answers == Answers::Failing {
                    tracing::info!(server, name = host, "name resolved again");
                }
                metrics.discovery_works(server, host);
                name.answers = Answers::Good;
                name.known = list;
                ttl
            }
            Err(error) => {
                if name.answers == Answers::Good {
                    let kept = name.known.len();
                    tracing::warn!(
                        server,
                        name = host,
                        error,
                        kept,
                        "name not resolved; the last good answer is kept"
                    );
                }
                metrics.discovery_fails(server, host);
                name.answers = Answers::Failing;
                RETRY
            }
        };
        // Gateways that began together should not ask together for ever.
        let at_ms = now_ms + ms(pause.mul_f64(1.0 + fastrand::f64() / 10.0));
        name.lookup = Lookup::Due { at_ms, in_doubt_at_ms: now_ms + ms(DOUBT) };
    }

    /// Makes pools and endpoints what the last good answers say they are.
    fn settle(&mut self, fleet: &Fleet, pools: &[Arc<Pool>], now_ms: u64) {
        for (sought, name) in &self.names {
            let Some(pool) = pools.iter().find(|pool| pool.name() == sought.server()) else {
                continue;
            };
            match sought {
                Sought::Address(_, id) => {
                    if let Some(endpoint) = pool.by_id(*id) {
                        move_to_one_of(&endpoint, &name.known);
                    }
                }
                Sought::Endpoints(server) => {
                    if let Some(config::Discovery::Dns(template)) = &pool.settings().discovery
                        && !name.known.is_empty()
                    {
                        let found =
                            name.known.iter().map(|ip| found_at(template, *ip, Source::Dns));
                        self.found.insert(server.clone(), found.collect());
                    }
                }
            }
        }
        self.found.retain(|server, _| pools.iter().any(|pool| pool.name() == server));
        // What is being taken out keeps what it has.
        for pool in pools.iter().filter(|pool| !pool.is_leaving()) {
            let found = match (self.found.get(pool.name()), &pool.settings().discovery) {
                (Some(found), Some(_)) => found.as_slice(),
                // Nothing is known yet: what another discovery found before stays until then.
                (None, Some(_)) => continue,
                (_, None) => {
                    self.found.remove(pool.name());
                    &[]
                }
            };
            if !holds(pool, found) {
                let endpoints = found.len();
                if fleet.found(pool.name(), found.to_vec(), now_ms) {
                    tracing::info!(server = pool.name(), endpoints, "discovered");
                }
            }
        }
        #[cfg(feature = "kubernetes")]
        self.watches.drain(fleet, now_ms);
    }

    /// Looks up what is due.
    fn ask(&mut self, pools: &[Arc<Pool>], now_ms: u64) {
        for (sought, name) in &mut self.names {
            let Lookup::Due { at_ms, in_doubt_at_ms } = name.lookup else { continue };
            let is_due =
                now_ms >= at_ms || (now_ms >= in_doubt_at_ms && is_in_doubt(sought, pools, now_ms));
            if is_due {
                name.lookup = Lookup::UnderWay;
                let (resolver, sought) = (Arc::clone(&self.resolver), sought.clone());
                let (host, known) = (name.host.clone(), name.known.clone());
                self.lookups.spawn(async move {
                    let answer = resolver.look_up(&host, &known).await;
                    (sought, answer)
                });
            }
        }
    }
}

impl Sought {
    fn server(&self) -> &str {
        let (Self::Endpoints(server) | Self::Address(server, _)) = self;
        server
    }
}

impl Name {
    fn new(host: String, now_ms: u64) -> Self {
        let lookup = Lookup::Due { at_ms: now_ms, in_doubt_at_ms: now_ms };
        Self { host, known: Vec::new(), lookup, answers: Answers::Good }
    }
}

/// Whether an endpoint that this name led to does not work.
fn is_in_doubt(sought: &Sought, pools: &[Arc<Pool>], now_ms: u64) -> bool {
    let Some(pool) = pools.iter().find(|pool| pool.name() == sought.server()) else { return false };
    let members = pool.members();
    members.list().iter().any(|member| {
        let is_sought = match sought {
            Sought::Endpoints(_) => member.source == Source::Dns,
            Sought::Address(_, id) => member.endpoint.id() == *id,
        };
        is_sought && !member.endpoint.standing().is_usable(now_ms)
    })
}

/// An endpoint stays at its address as long as that is among those of its name.
fn move_to_one_of(endpoint: &Endpoint, known: &[IpAddr]) {
    let Some((_, port)) = endpoint.name() else { return };
    let current = endpoint.ip();
    if current.is_some_and(|current| known.contains(&current)) {
        return;
    }
    let is_like = |ip: &&IpAddr| current.is_some_and(|current| current.is_ipv6() == ip.is_ipv6());
    if let Some(ip) = known.iter().find(is_like).or_else(|| known.first()) {
        tracing::info!(endpoint = endpoint.url(), address = %ip, "name resolved");
        endpoint.resolved_to(SocketAddr::new(*ip, port));
    }
}

/// The endpoint at one address of the name in `template`. It is spoken to by that name: in `Host`,
/// and in TLS.
pub(super) fn found_at(template: &config::Endpoint, ip: IpAddr, source: Source) -> Found {
    let address = SocketAddr::new(ip, template.port);
    let authority = match ip {
        _ if template.port != template.scheme.default_port() => address.to_string(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let url = format!("{}://{authority}{}", template.scheme.as_str(), template.path);
    let endpoint = config::Endpoint { url, ..template.clone() };
    Found { endpoint, address: Address::Given(address), source }
}

/// Whether a pool has what was found, and nothing that was found before.
fn holds(pool: &Pool, found: &[Found]) -> bool {
    let members = pool.members();
    let members: HashMap<&str, _> =
        members.list().iter().map(|member| (member.endpoint.url(), member)).collect();
    let is_there = |found: &Found| {
        members.get(found.endpoint.url.as_str()).is_some_and(|member| {
            let is_own = member.source == found.source;
            !is_own || member.endpoint.weight() == found.endpoint.weight
        })
    };
    let urls: HashSet<&str> = found.iter().map(|found| found.endpoint.url.as_str()).collect();
    let is_found =
        |source: Source| matches!(source, Source::Dns | Source::File | Source::Kubernetes);
    found.iter().all(is_there)
        && members.iter().all(|(url, member)| !is_found(member.source) || urls.contains(url))
}

impl ListedFile {
    fn new(path: PathBuf) -> Self {
        Self { path, seen: None, judged: None, answers: Answers::Good }
    }

    /// Reads the file if it is another than the one read last, and was the same one a look ago: a
    /// file is not read while somebody writes it.
    fn look(&mut self, server: &str, metrics: &Metrics) -> Option<Vec<Found>> {
        let stamp = Stamp::of(&self.path);
        let is_stable = std::mem::replace(&mut self.seen, stamp) == stamp;
        let Some(stamp) = stamp else {
            self.judged = None;
            // Between the old file and the new one there may be none for a moment.
            if is_stable {
                self.fails(server, metrics, "the file is not there");
            }
            return None;
        };
        if !is_stable || self.judged == Some(stamp) {
            return None;
        }
        let read = config::endpoints_file(&self.path);
        if Stamp::of(&self.path) != Some(stamp) {
            return None;
        }
        self.judged = Some(stamp);
        // Every bad version of a file is reported, not only the first in a row.
        let was_failing = std::mem::replace(&mut self.answers, Answers::Good) == Answers::Failing;
        match read {
            Ok(endpoints) => {
                if was_failing {
                    tracing::info!(server, file = %self.path.display(), "endpoints read again");
                }
                metrics.endpoints.discovery_works(server, &self.path.display().to_string());
                let found =
                    |endpoint| Found { endpoint, address: Address::OfHost, source: Source::File };
                Some(endpoints.into_iter().map(found).collect())
            }
            Err(problems) => {
                self.fails(server, metrics, &problems.to_string());
                None
            }
        }
    }

    /// The first look, which waits for a moment where the file was written just now.
    fn look_at_start(&mut self, server: &str, metrics: &Metrics) -> Option<Vec<Found>> {
        self.seen = Stamp::of(&self.path);
        let modified = std::fs::metadata(&self.path).and_then(|seen| seen.modified());
        let age =
            modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_none_or(|age| age < SETTLED) {
            thread::sleep(SETTLED / 10);
        }
        self.look(server, metrics)
    }

    fn fails(&mut self, server: &str, metrics: &Metrics, problems: &str) {
        let path = self.path.display().to_string();
        if self.answers == Answers::Good {
            tracing::warn!(
                server,
                file = path,
                "endpoints not read; the last good ones are kept\n{problems}"
            );
        }
        metrics.endpoints.discovery_fails(server, &path);
        self.answers = Answers::Failing;
    }
}

#[cfg(test)]
mod tests {
    use super::Discovery;
    use crate::config;
    use crate::telemetry::Metrics;
    use crate::upstream::resolve::tests::{NameServer, Says};
    use crate::upstream::{Fleet, now_ms};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    /// A fleet of the one server `one`, and what finds its endpoints.
    struct Stage {
        fleet: Fleet,
        metrics: Arc<Metrics>,
        discovery: Discovery,
        now_ms: u64,
    }

    impl Stage {
        fn new(name_server: &NameServer, hosts: &str, server: &str) -> Self {
            let metrics = Arc::new(Metrics::new(1, 1));
            let discovery = Discovery::by(name_server.resolver(hosts), Arc::clone(&metrics));
            let mut stage = Self { fleet: Fleet::new(), metrics, discovery, now_ms: now_ms() };
            stage.configure(server);
            stage
        }

        fn configure(&mut self, server: &str) {
            let yaml = format!(
                "listen: 127.0.0.1:1\nservers: {{ one: {{ {server} }} }}\nroutes: [{{ path: /, server: one }}]\n"
            );
            let settings = config::parse(&yaml, "test", &|_| None).expect("good settings");
            let pools = self.fleet.prepare(&settings.servers, self.now_ms);
            self.fleet.install(&pools, self.now_ms);
        }

        /// Lets this time pass and everything happen that is due then.
        async fn after(&mut self, pause: Duration) {
            self.now_ms += pause.as_millis() as u64;
            self.discovery.tick(&self.fleet, self.now_ms);
            while !self.discovery.lookups.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.discovery.tick(&self.fleet, self.now_ms);
            }
        }

        fn urls(&self) -> Vec<String> {
            let pool = self.fleet.pool("one").expect("the pool");
            let members = pool.members();
            members.endpoints().iter().map(|endpoint| endpoint.url().to_owned()).collect()
        }

        fn fails(&self) -> bool {
            let text = String::from_utf8(self.metrics.render()).expect("UTF-8");
            let line = text.lines().find(|line| line.starts_with("toolgate_discovery_failing"));
            line.is_some_and(|line| line.ends_with(" 1"))
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn every_address_of_a_name_is_an_endpoint_until_a_better_answer() {
        let says = |addresses: &[&'static str], ttl| Says::Addresses(addresses.to_vec(), ttl);
        let server = NameServer::start(says(&["10.0.0.1", "10.0.0.2"], 30)).await;
        let mut stage =
            Stage::new(&server, "", "discovery: { dns: http://replicas.example:81/mcp?a=b }");
        assert!(stage.urls().is_empty());
        stage.after(Duration::ZERO).await;
        let both = ["http://10.0.0.1:81/mcp?a=b", "http://10.0.0.2:81/mcp?a=b"];
        assert_eq!(stage.urls(), both);
        let pool = stage.fleet.pool("one").expect("the pool");
        let first = Arc::clone(&pool.members().endpoints()[0]);
        assert_eq!(first.authority(), "replicas.example:81");
        assert!(first.is_resolved() && first.name().is_none());

        *server.says.lock() = says(&["10.0.0.2", "fd00::7"], 1);
        stage.after(SECOND * 20).await;
        assert_eq!(stage.urls(), both, "the answer is good for thirty seconds");
        stage.after(SECOND * 20).await;
        let now = ["http://10.0.0.2:81/mcp?a=b", "http://[fd00::7]:81/mcp?a=b"];
        assert_eq!(stage.urls(), now);
        assert!(first.standing().is_retired());

        for says in [Says::Failure, Says::NoSuchName, Says::Nothing, Says::Silence, Says::Garbage] {
            *server.says.lock() = says.clone();
            stage.after(MINUTE).await;
            assert_eq!(stage.urls(), now, "{says:?}");
            assert!(stage.fails(), "{says:?}");
        }
        *server.says.lock() = says(&["10.0.0.1"], 1);
        stage.after(SECOND * 6).await;
        assert_eq!(stage.urls(), both[..1]);
        assert!(!stage.fails());

        stage.configure("discovery: { dns: http://replicas.example/other }");
        stage.after(Duration::ZERO).await;
        assert_eq!(stage.urls(), ["http://10.0.0.1/other"], "a reload changes what is found");
        stage.configure("endpoints: [http://10.0.0.9/mcp]");
        stage.after(Duration::ZERO).await;
        assert_eq!(stage.urls(), ["http://10.0.0.9/mcp"]);
        assert!(stage.discovery.names.is_empty());
    }

    #[tokio::test]
    async fn an_endpoint_stays_at_its_address_while_its_name_leads_there() {
        let server = NameServer::start(Says::Addresses(vec!["10.0.0.5"], 1)).await;
        let mut stage = Stage::new(&server, "", "endpoints: [http://replica.example/mcp]");
        let ip = |stage: &Stage| {
            let pool = stage.fleet.pool("one").expect("the pool");
            let ip = pool.members().endpoints()[0].ip();
            ip.map(|ip| ip.to_string())
        };
        let rows = [
            (Says::Addresses(vec!["10.0.0.5"], 1), "10.0.0.5"),
            (Says::Addresses(vec!["10.0.0.4", "10.0.0.5"], 1), "10.0.0.5"),
            (Says::Failure, "10.0.0.5"),
            (Says::Addresses(vec!["10.0.0.7", "fd00::1"], 1), "10.0.0.7"),
            (Says::Addresses(vec!["fd00::1"], 1), "fd00::1"),
            (Says::Addresses(vec!["10.0.0.7", "fd00::2"], 1), "fd00::2"),
        ];
        for (says, expected) in rows {
            *server.says.lock() = says.clone();
            stage.after(MINUTE).await;
            assert_eq!(ip(&stage).as_deref(), Some(expected), "{says:?}");
        }
    }

    #[tokio::test]
    async fn a_name_of_which_an_endpoint_fails_is_looked_up_before_its_ttl_ends() {
        let server = NameServer::start(Says::Addresses(vec!["10.0.0.1"], 300)).await;
        let mut stage = Stage::new(&server, "", "discovery: { dns: http://replicas.example/ }");
        stage.after(Duration::ZERO).await;
        *server.says.lock() = Says::Addresses(vec!["10.0.0.2"], 300);
        stage.after(SECOND * 11).await;
        assert_eq!(stage.urls(), ["http://10.0.0.1/"]);
        let pool = stage.fleet.pool("one").expect("the pool");
        pool.refused(&pool.members().endpoints()[0], stage.now_ms);
        stage.after(Duration::ZERO).await;
        assert_eq!(stage.urls(), ["http://10.0.0.2/"]);
    }

    struct File(PathBuf);

    impl File {
        fn new(text: &str) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("toolgate-endpoints-{}-{number}", std::process::id());
            let file = Self(std::env::temp_dir().join(name));
            file.write(text);
            file
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.0, text).expect("written");
        }
    }

    impl AsRef<Path> for File {
        fn as_ref(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }

    #[tokio::test]
    async fn a_file_is_taken_once_it_is_at_rest_and_only_if_it_is_good() {
        let server = NameServer::start(Says::Silence).await;
        let file = File::new("- http://10.0.0.1/\n- { url: http://10.0.0.2/, weight: 3 }\n");
        let setting = format!("discovery: {{ file: {} }}", file.0.display());
        let mut stage = Stage::new(&server, "", &setting);
        stage.after(SECOND).await;
        assert!(stage.urls().is_empty(), "it may still be written");
        stage.after(SECOND).await;
        let both = ["http://10.0.0.1/", "http://10.0.0.2/"];
        assert_eq!(stage.urls(), both);
        let pool = stage.fleet.pool("one").expect("the pool");
        assert_eq!(pool.members().endpoints()[1].weight(), 3);

        for bad in ["", "- http://10.0.0.3/\n- htt", "- 7\n", "{ a: 1 }\n", "- http://10.0.0.3/"] {
            file.write(bad);
            stage.after(SECOND).await;
            stage.after(SECOND).await;
            assert_eq!(stage.urls(), both, "{bad:?}");
            assert!(stage.fails(), "{bad:?}");
        }
        std::fs::remove_file(&file).expect("removed");
        stage.after(SECOND).await;
        stage.after(SECOND).await;
        assert_eq!(stage.urls(), both);
        assert!(stage.fails());

        file.write("[]\n");
        stage.after(SECOND).await;
        stage.after(SECOND).await;
        assert!(stage.urls().is_empty() && !stage.fails());
    }

    #[tokio::test]
    async fn what_a_host_of_a_found_endpoint_is_called_is_looked_up_too() {
        let server = NameServer::start(Says::Silence).await;
        let file = File::new("- http://replica/mcp\n");
        let setting = format!("discovery: {{ file: {} }}", file.0.display());
        let mut stage = Stage::new(&server, "10.9.9.9 replica\n", &setting);
        stage.discovery.look_now(&stage.fleet, stage.now_ms);
        assert_eq!(
            stage.urls(),
            ["http://replica/mcp"],
            "a start waits for the file to be at rest"
        );
        stage.after(SECOND).await;
        let pool = stage.fleet.pool("one").expect("the pool");
        assert!(pool.members().endpoints()[0].is_resolved());
    }
}
