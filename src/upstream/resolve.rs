//! Looks up host names: in the hosts file, then at the system's name servers, whose TTL is kept.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::Pool;

/// An answer is good for no less than this, so that a TTL of 0 is not a flood of questions.
const TTL_MIN: Duration = Duration::from_secs(1);
/// And for no more than this: a name server that was wrong is believed no longer.
const TTL_MAX: Duration = Duration::from_secs(5 * 60);
/// The hosts file has no TTL, and may be edited.
const HOSTS_TTL: Duration = Duration::from_secs(10);
/// After this time without an answer a lookup has failed, however often the system would ask.
const LOOKUP_MAX: Duration = Duration::from_secs(10);
/// How long names may hold up a start.
const START_MAX: Duration = Duration::from_secs(3);
/// What the system says of names.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Answers from the hosts file and the name servers, as the system's files name them.
pub(super) struct Resolver {
    state: Mutex<Arc<State>>,
    source: ConfigSource,
}

enum ConfigSource {
    /// The system's files, which are read again when they change.
    System,
    #[cfg(test)]
    Given,
}

struct State {
    stamps: [Option<Stamp>; 2],
    hosts: Hosts,
    name_servers: Result<TokioResolver, String>,
}

/// What a lookup found: at least one address, and how long that is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Sorted, each once.
    pub(super) list: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
}

impl Stamp {
    /// The state of the file that this path leads to, through every link.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let seen = fs::metadata(path).ok()?;
        let modified_ns = (seen.mtime(), seen.mtime_nsec());
        Some(Self { device: seen.dev(), inode: seen.ino(), bytes: seen.len(), modified_ns })
    }
}

impl Resolver {
    pub(super) fn of_system() -> Self {
        Self { state: Mutex::new(Arc::new(State::of_system())), source: ConfigSource::System }
    }

    /// Looks up a name. An address family in which `known` addresses were found before, and of
    /// which the answer has none, must be said to be gone: one family's name servers failing is no
    /// reason to lose half of the endpoints.
    pub(super) async fn look_up(&self, host: &str, known: &[IpAddr]) -> Result<Addresses, String> {
        let state = self.state();
        let name = Name::from_ascii(host).map_err(|error| error.to_string())?;
        if let Some(list) = in_hosts(&state.hosts, &name) {
            return Ok(Addresses { list, ttl: HOSTS_TTL });
        }
        let name_servers = state.name_servers.as_ref().map_err(String::clone)?;
        match timeout(LOOKUP_MAX, ask(name_servers, name, known)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("the name servers did not answer in time".to_owned()),
        }
    }

    fn state(&self) -> Arc<State> {
        let mut state = self.state.lock();
        if matches!(self.source, ConfigSource::System) && state.stamps != stamps() {
            *state = Arc::new(State::of_system());
        }
        Arc::clone(&state)
    }
}

impl State {
    fn of_system() -> Self {
        let name_servers = system_conf::read_system_conf()
            .and_then(|(config, options)| name_servers(config, options))
            .map_err(|error| format!("no name servers: {error}"));
        // Without a hosts file there are no hosts.
        Self { stamps: stamps(), hosts: Hosts::from_system().unwrap_or_default(), name_servers }
    }
}

fn stamps() -> [Option<Stamp>; 2] {
    SYSTEM_FILES.map(|path| Stamp::of(Path::new(path)))
}

fn name_servers(
    config: ResolverConfig,
    mut options: ResolverOpts,
) -> Result<TokioResolver, NetError> {
    // Who asks keeps the answer for its TTL, and asks again after a failure sooner than a cache would.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let runtime = TokioRuntimeProvider::default();
    TokioResolver::builder_with_config(config, runtime).with_options(options).build()
}

fn in_hosts(hosts: &Hosts, name: &Name) -> Option<Vec<IpAddr>> {
    let of_type = |record_type| {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), record_type));
        let records = found.iter().flat_map(|found| found.answers());
        records.filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>()
    };
    let list = [of_type(RecordType::A), of_type(RecordType::AAAA)].concat();
    (!list.is_empty()).then(|| sorted(list))
}

async fn ask(
    name_servers: &TokioResolver,
    name: Name,
    known: &[IpAddr],
) -> Result<Addresses, NetError> {
    let answer = name_servers.lookup_ip(name).await?;
    let mut list: Vec<IpAddr> = answer.iter().collect();
    if list.is_empty() {
        return Err("no address".into());
    }
    for (is_of_family, record_type) in [
        (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, RecordType::A),
        (IpAddr::is_ipv6 as fn(&IpAddr) -> bool, RecordType::AAAA),
    ] {
        if known.iter().any(is_of_family) && !list.iter().any(is_of_family) {
            match name_servers.lookup(answer.query().name().clone(), record_type).await {
                Ok(more) => {
                    list.extend(more.answers().iter().filter_map(|record| record.data.ip_addr()));
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(_))) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let ttl = answer.valid_until().saturating_duration_since(Instant::now());
    Ok(Addresses { list: sorted(list), ttl: ttl.clamp(TTL_MIN, TTL_MAX) })
}

fn sorted(mut list: Vec<IpAddr>) -> Vec<IpAddr> {
    list.sort_unstable();
    list.dedup();
    list
}

/// Looks up every name that has no address yet, before the gateway listens. A name that fails is
/// tried again later: a server that is not up yet must not keep the others from being served.
pub fn resolve_now(pools: &[Arc<Pool>]) {
    let endpoints = pools.iter().flat_map(|pool| pool.members().endpoints().to_vec());
    let endpoints: Vec<_> = endpoints.filter(|endpoint| !endpoint.is_resolved()).collect();
    let names = endpoints.iter().filter_map(|endpoint| endpoint.name());
    let names: Vec<_> = names.map(|(host, port)| (host.to_owned(), port)).collect();
    for (endpoint, addresses) in endpoints.iter().zip(look_up_now(names)) {
        match addresses.first() {
            Some(address) => endpoint.resolved_to(*address),
            None => tracing::warn!(endpoint = endpoint.url(), "name not resolved yet"),
        }
    }
}

/// The addresses of each name, as far as the system finds them in a moment.
pub(super) fn look_up_now(names: Vec<(String, u16)>) -> Vec<Vec<SocketAddr>> {
    let mut found = vec![Vec::new(); names.len()];
    let (found_by, arrivals) = mpsc::channel();
    for (at, name) in names.into_iter().enumerate() {
        let found_by = found_by.clone();
        // The system's own lookup cannot be stopped: a thread that is late finds nobody waiting.
        let lookup = move || {
            let addresses = name.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
            found_by.send((at, addresses)).ok();
        };
        if let Err(error) = thread::Builder::new().name("lookup".to_owned()).spawn(lookup) {
            tracing::warn!(%error, "no thread for a lookup");
        }
    }
    drop(found_by);
    let deadline = Instant::now() + START_MAX;
    while let Ok((at, addresses)) =
        arrivals.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        found[at] = addresses;
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Addresses, ConfigSource, Resolver, State, look_up_now, name_servers};
    use hickory_resolver::Hosts;
    use hickory_resolver::config::{
        ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts,
    };
    use parking_lot::Mutex;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::UdpSocket;
    use tokio::task::JoinSet;

    /// What the name server says of every name.
    #[derive(Clone, Debug)]
    pub(in crate::upstream) enum Says {
        /// These addresses, for so many seconds.
        Addresses(Vec<&'static str>, u32),
        /// These addresses, and for questions of IPv6 that it has failed.
        HalfFailed(Vec<&'static str>),
        /// That there is no such name.
        NoSuchName,
        /// That the name has no address.
        Nothing,
        /// That it has failed.
        Failure,
        /// Nothing at all.
        Silence,
        Garbage,
    }

    /// A name server on loopback that answers over UDP.
    pub(in crate::upstream) struct NameServer {
        pub(in crate::upstream) says: Arc<Mutex<Says>>,
        address: SocketAddr,
        _task: JoinSet<()>,
    }

    impl NameServer {
        pub(in crate::upstream) async fn start(says: Says) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let address = socket.local_addr().expect("an address");
            let says = Arc::new(Mutex::new(says));
            let mut task = JoinSet::new();
            let script = Arc::clone(&says);
            task.spawn(async move {
                let mut question = [0; 1500];
                while let Ok((length, client)) = socket.recv_from(&mut question).await {
                    let says = script.lock().clone();
                    if let Some(answer) = answer(&question[..length], &says) {
                        socket.send_to(&answer, client).await.expect("sent");
                    }
                }
            });
            Self { says, address, _task: task }
        }

        /// A resolver that asks this server only.
        pub(in crate::upstream) fn resolver(&self, hosts: &str) -> Resolver {
            let mut connection = ConnectionConfig::udp();
            connection.port = self.address.port();
            let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let mut options = ResolverOpts::default();
            options.timeout = Duration::from_millis(200);
            options.attempts = 1;
            let mut table = Hosts::default();
            table.read_hosts_conf(hosts.as_bytes()).expect("hosts");
            let name_servers = name_servers(config, options).map_err(|error| error.to_string());
            let state = State { stamps: [None; 2], hosts: table, name_servers };
            Resolver { state: Mutex::new(Arc::new(state)), source: ConfigSource::Given }
        }
    }

    /// RFC 1035, section 4: a head of 12 bytes, the question as it came, the records.
    fn answer(question: &[u8], says: &Says) -> Option<Vec<u8>> {
        let name_end = 12 + question[12..].iter().position(|byte| *byte == 0)? + 1;
        let wants_ipv6 = question[name_end..name_end + 2] == [0, 28];
        let (code, addresses, ttl) = match says {
            Says::Addresses(addresses, ttl) => (0, addresses.clone(), *ttl),
            Says::HalfFailed(_) if wants_ipv6 => (2, Vec::new(), 0),
            Says::HalfFailed(addresses) => (0, addresses.clone(), 1),
            Says::NoSuchName => (3, Vec::new(), 0),
            Says::Nothing => (0, Vec::new(), 0),
            Says::Failure => (2, Vec::new(), 0),
            Says::Silence => return None,
            Says::Garbage => return Some(vec![0xff; 40]),
        };
        let mut records = Vec::new();
        let mut count = 0_u16;
        for address in addresses {
            let (record_type, bytes) = match address.parse().expect("an address") {
                IpAddr::V4(address) => (1_u16, address.octets().to_vec()),
                IpAddr::V6(address) => (28, address.octets().to_vec()),
            };
            if (record_type == 28) == wants_ipv6 {
                records.extend_from_slice(&[0xc0, 12]);
                records.extend_from_slice(&record_type.to_be_bytes());
                records.extend_from_slice(&1_u16.to_be_bytes());
                records.extend_from_slice(&ttl.to_be_bytes());
                records.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
                records.extend_from_slice(&bytes);
                count += 1;
            }
        }
        let mut answer = question[..2].to_vec();
        answer.extend_from_slice(&[0x81, 0x80 | code, 0, 1]);
        answer.extend_from_slice(&count.to_be_bytes());
        answer.extend_from_slice(&[0; 4]);
        answer.extend_from_slice(&question[12..name_end + 4]);
        answer.extend_from_slice(&records);
        Some(answer)
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().expect("an address")).collect()
    }

    #[tokio::test]
    async fn answers_are_sorted_and_keep_their_ttl_within_bounds() {
        type Row<'r> = (Says, Result<(&'r [&'r str], u64), ()>);
        let rows: [Row<'_>; 8] = [
            (
                Says::Addresses(vec!["10.0.0.2", "10.0.0.1", "10.0.0.2"], 30),
                Ok((&["10.0.0.1", "10.0.0.2"], 30)),
            ),
            (
                Says::Addresses(vec!["fd00::1", "10.0.0.1"], 3_600),
                Ok((&["10.0.0.1", "fd00::1"], 300)),
            ),
            (Says::Addresses(vec!["10.0.0.1"], 0), Ok((&["10.0.0.1"], 1))),
            (Says::NoSuchName, Err(())),
            (Says::Nothing, Err(())),
            (Says::Failure, Err(())),
            (Says::Silence, Err(())),
            (Says::Garbage, Err(())),
        ];
        let server = NameServer::start(Says::Nothing).await;
        for (says, expected) in rows {
            *server.says.lock() = says.clone();
            let answer = server.resolver("").look_up("my_servers.example", &[]).await;
            match expected {
                Err(()) => assert!(answer.is_err(), "{says:?}: {answer:?}"),
                Ok((expected, ttl)) => {
                    let Addresses { list, ttl: found } = answer.expect("an answer");
                    assert_eq!(list, addresses(expected), "{says:?}");
                    let lost = Duration::from_secs(ttl).saturating_sub(found);
                    assert!(found <= Duration::from_secs(ttl) && lost < Duration::from_secs(5));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_family_that_fails_is_not_lost() {
        let server = NameServer::start(Says::HalfFailed(vec!["10.0.0.1"])).await;
        let resolver = server.resolver("");
        let known = addresses(&["10.0.0.1", "fd00::1"]);
        let half = resolver.look_up("name.example", &[]).await.expect("half is all there is");
        assert_eq!(half.list, addresses(&["10.0.0.1"]));
        resolver.look_up("name.example", &known).await.expect_err("half of what was known");
        *server.says.lock() = Says::Addresses(vec!["10.0.0.1"], 1);
        let less = resolver.look_up("name.example", &known).await.expect("it is said to be gone");
        assert_eq!(less.list, addresses(&["10.0.0.1"]));
    }

    #[tokio::test]
    async fn the_hosts_file_comes_first_and_is_read_again_soon() {
        let server = NameServer::start(Says::Silence).await;
        let resolver = server.resolver("10.9.9.9 replicas\nfd00::9 replicas\n");
        let found = resolver.look_up("replicas", &[]).await.expect("found");
        assert_eq!(found.list, addresses(&["10.9.9.9", "fd00::9"]));
        assert_eq!(found.ttl, Duration::from_secs(10));
    }

    #[test]
    fn what_is_found_in_a_moment_is_found_for_its_own_name() {
        let names = ["127.0.0.1", "no such name", "127.0.0.2"].map(|host| (host.to_owned(), 80));
        let found = look_up_now(names.to_vec());
        assert_eq!(found[0], [SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1), 80))]);
        assert!(found[1].is_empty());
        assert_eq!(found[2], [SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 80))]);
    }
}
