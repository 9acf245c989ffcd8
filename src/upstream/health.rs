//! Asks endpoints now and then whether they work, so that one that fails is known before a call finds out.
//!
//! `pingora-load-balancing` counts what the probes find and tells when an endpoint has changed; what
//! is asked, and when, is ours. Every endpoint has its own moment in the interval, chosen at random,
//! and each probe comes a little earlier or later than that: neither endpoints nor gateways beat in
//! step.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::Method;
use parking_lot::Mutex;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::HealthCheck;
use pingora_load_balancing::{Backend, Backends, Extensions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::choose::ring_address;
use super::probe::{Asked, Connectors, Fault, Question};
use super::probe_mcp::{self, Manner};
use super::standing::Probed;
use super::{Endpoint, Fleet, Now, Pool, Subject, now_ms};
use crate::config::{Health, Probe};
use crate::telemetry::Metrics;

/// The part of its time in the interval by which a probe may be early or late.
const JITTER: f64 = 0.1;
/// How long the end of a probe's session may take.
const END_MAX: Duration = Duration::from_secs(1);

/// All active probes of the process.
pub struct Probing {
    watches: HashMap<String, Watch>,
    tasks: JoinSet<()>,
    connectors: Arc<Connectors>,
    metrics: Arc<Metrics>,
}

/// The probes of one server. When this is dropped they end.
struct Watch {
    watched: Arc<Watched>,
    settings: watch::Sender<Health>,
}

/// What the probes of one server share.
struct Watched {
    pool: ArcSwap<Pool>,
    patients: Mutex<HashMap<u64, Arc<Patient>>>,
    connectors: Arc<Connectors>,
    metrics: Arc<Metrics>,
}

/// One endpoint that is probed.
struct Patient {
    endpoint: Mutex<Arc<Endpoint>>,
    /// Its moment in the interval, from 0 to 1.
    moment: f64,
    manner: Mutex<Manner>,
    fault: Mutex<String>,
}

/// Which endpoint a backend of `pingora-load-balancing` stands for.
#[derive(Clone, Copy)]
struct EndpointId(u64);

impl Probing {
    /// Probes nobody yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let connectors = Arc::new(Connectors::new());
        Self { watches: HashMap::new(), tasks: JoinSet::new(), connectors, metrics }
    }

    /// Probes every server as its configuration says now. To be called each second, within a runtime.
    pub fn follow(&mut self, fleet: &Fleet) {
        let pools = fleet.pools();
        let is_probed = |pool: &&Arc<Pool>| pool.settings().health.probe != Probe::Off;
        self.watches.retain(|server, _| {
            let pool = pools.iter().find(|pool| pool.name() == server);
            let stays = pool.is_some_and(|pool| is_probed(&pool));
            // Nobody would ever say again that an endpoint is healthy.
            if let Some(pool) = pool.filter(|_| !stays) {
                trust(pool.members().endpoints());
            }
            stays
        });
        for pool in pools.iter().filter(is_probed) {
            match self.watches.get(pool.name()) {
                Some(watch) => watch.follow(pool),
                None => {
                    let watch = self.begin(pool);
                    self.watches.insert(pool.name().to_owned(), watch);
                }
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Ends every probe, and the sessions that probes have opened.
    pub async fn stop(mut self) {
        self.watches.clear();
        while self.tasks.join_next().await.is_some() {}
    }

    fn begin(&mut self, pool: &Arc<Pool>) -> Watch {
        let watched = Arc::new(Watched {
            pool: ArcSwap::new(Arc::clone(pool)),
            patients: Mutex::default(),
            connectors: Arc::clone(&self.connectors),
            metrics: Arc::clone(&self.metrics),
        });
        let (settings, changes) = watch::channel(pool.settings().health.clone());
        self.tasks.spawn(probe_until_told(Arc::clone(&watched), changes));
        Watch { watched, settings }
    }
}

impl Watch {
    fn follow(&self, pool: &Arc<Pool>) {
        self.watched.pool.store(Arc::clone(pool));
        self.settings.send_if_modified(|settings| {
            let is_new = *settings != pool.settings().health;
            if is_new {
                settings.clone_from(&pool.settings().health);
            }
            is_new
        });
    }
}

fn trust(endpoints: &[Arc<Endpoint>]) {
    for endpoint in endpoints {
        endpoint.standing().probed(Probed::Healthy, now_ms());
    }
}

/// Probes a server's endpoints, each once in every interval.
async fn probe_until_told(watched: Arc<Watched>, mut settings: watch::Receiver<Health>) {
    let mut backends = Backends::new(Box::new(Shared(Arc::clone(&watched))));
    backends.set_health_check(Box::new(Shared(Arc::clone(&watched))));
    loop {
        let health = settings.borrow_and_update().clone();
        if health.probe != Probe::Mcp {
            watched.end_sessions(watched.patients()).await;
        }
        let began = Instant::now();
        let round = async {
            watched.admit().await;
            if let Err(error) = backends.update(|_| {}).await {
                tracing::error!(%error, "members of a pool not taken");
            }
            backends.run_health_check(true).await;
            sleep_until(began + health.interval).await;
        };
        // A round that is left ends its probes; what they had found so far counts.
        tokio::select! {
            () = round => {}
            changed = settings.changed() => if changed.is_err() { break },
        }
    }
    watched.end_sessions(watched.patients()).await;
}

impl Watched {
    fn patients(&self) -> Vec<Arc<Patient>> {
        self.patients.lock().values().map(Arc::clone).collect()
    }

    /// Takes endpoints that are new, and discharges those that left.
    async fn admit(&self) {
        let pool = self.pool.load_full();
        let mut left = Vec::new();
        {
            let members = pool.members();
            let mut patients = self.patients.lock();
            patients.retain(|id, patient| {
                let stays = members.by_id(*id).is_some();
                if !stays {
                    left.push(Arc::clone(patient));
                }
                stays
            });
            for endpoint in members.endpoints() {
                let patient = patients.entry(endpoint.id()).or_insert_with(|| {
                    // Pingora believes so of whom it does not know, and tells only of changes.
                    trust(std::slice::from_ref(endpoint));
                    Arc::new(Patient::new(endpoint))
                });
                *patient.endpoint.lock() = Arc::clone(endpoint);
            }
        }
        self.end_sessions(left).await;
    }

    async fn end_sessions(&self, patients: Vec<Arc<Patient>>) {
        let mut ends = JoinSet::new();
        for patient in patients {
            let manner = std::mem::take(&mut *patient.manner.lock());
            let endpoint = patient.endpoint();
            let connectors = Arc::clone(&self.connectors);
            let credential = match self.pool.load().credentials().now(Subject::Gateway) {
                Now::Known(field) => Some(field),
                Now::Nothing | Now::Unknown => None,
            };
            ends.spawn(timeout(END_MAX, async move {
                let (connectors, endpoint) = (&*connectors, &*endpoint);
                let asked = Asked { connectors, endpoint, credential: credential.as_ref() };
                probe_mcp::end(&asked, &manner).await;
            }));
        }
        ends.join_all().await;
    }

    fn patient(&self, backend: &Backend) -> Option<Arc<Patient>> {
        let EndpointId(id) = backend.ext.get()?;
        self.patients.lock().get(id).map(Arc::clone)
    }

    async fn probe(&self, patient: &Patient, health: &Health) -> Result<(), Fault> {
        let endpoint = patient.endpoint();
        let connectors = &*self.connectors;
        let credential = match self.pool.load().credentials().now(Subject::Gateway) {
            Now::Nothing => None,
            Now::Known(field) => Some(field),
            // Where the gateway is not let in, only the connection tells.
            Now::Unknown if health.probe != Probe::Off => {
                return connectors.connect(&endpoint).await;
            }
            Now::Unknown => None,
        };
        let asked = Asked { connectors, endpoint: &endpoint, credential: credential.as_ref() };
        match health.probe {
            Probe::Off => Ok(()),
            Probe::Tcp => connectors.connect(&endpoint).await,
            Probe::Http => {
                let question = Question {
                    method: Method::GET,
                    path: health.path.as_deref().unwrap_or_else(|| endpoint.path()),
                    fields: vec![("accept", "*/*")],
                    body: bytes::Bytes::new(),
                };
                match asked.ask(&question).await?.status {
                    200..300 => Ok(()),
                    status => Err(Fault(format!("answered with status {status}"))),
                }
            }
            Probe::Mcp => probe_mcp::probe(&asked, &patient.manner).await,
        }
    }
}

impl Patient {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Mutex::new(Arc::clone(endpoint)),
            moment: fastrand::f64(),
            manner: Mutex::default(),
            fault: Mutex::default(),
        }
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint.lock())
    }
}

/// How long to wait in an interval until an endpoint's moment, so that its probe still ends in it.
fn wait(health: &Health, moment: f64, jitter: f64) -> Duration {
    let room = health.interval.saturating_sub(health.timeout).max(health.interval / 2);
    room.mul_f64((moment * (1.0 - JITTER) + jitter * JITTER).clamp(0.0, 1.0))
}

/// The form in which Pingora owns what the probes share.
struct Shared(Arc<Watched>);

#[async_trait]
impl ServiceDiscovery for Shared {
    async fn discover(&self) -> pingora::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let backend = |id: &u64| {
            let mut ext = Extensions::new();
            ext.insert(EndpointId(*id));
            Backend { addr: ring_address(*id), weight: 1, ext }
        };
        let backends = self.0.patients.lock().keys().map(backend).collect();
        Ok((backends, HashMap::new()))
    }
}

#[async_trait]
impl HealthCheck for Shared {
    async fn check(&self, target: &Backend) -> pingora::Result<()> {
        let Some(patient) = self.0.patient(target) else { return Ok(()) };
        let health = self.0.pool.load().settings().health.clone();
        sleep(wait(&health, patient.moment, fastrand::f64())).await;
        let endpoint = patient.endpoint();
        // Of who has left meanwhile, and of who has no address yet, there is nothing to find out.
        if endpoint.standing().is_retired() || !endpoint.is_resolved() {
            return Ok(());
        }
        let found = match timeout(health.timeout, self.0.probe(&patient, &health)).await {
            Ok(found) => found,
            Err(_) => Err(Fault("did not answer in time".to_owned())),
        };
        if endpoint.standing().is_retired() {
            return Ok(());
        }
        let pool = self.0.pool.load();
        self.0.metrics.endpoints.probed(pool.name(), endpoint.url(), &found);
        found.map_err(|fault| {
            tracing::debug!(server = pool.name(), endpoint = endpoint.url(), %fault, "probe");
            *patient.fault.lock() = fault.to_string();
            pingora::Error::explain(pingora::ErrorType::Custom("probe"), fault.to_string())
        })
    }

    async fn health_status_change(&self, target: &Backend, healthy: bool) {
        let Some(patient) = self.0.patient(target) else { return };
        let (pool, endpoint) = (self.0.pool.load(), patient.endpoint());
        let (server, url) = (pool.name(), endpoint.url());
        if healthy {
            endpoint.standing().probed(Probed::Healthy, now_ms());
            self.0.metrics.endpoints.became_healthy(server, url);
            tracing::info!(server, endpoint = url, "endpoint is healthy again");
        } else {
            endpoint.standing().probed(Probed::Unhealthy, now_ms());
            self.0.metrics.endpoints.became_unhealthy(server, url);
            let fault = patient.fault.lock().clone();
            tracing::warn!(server, endpoint = url, fault, "endpoint is unhealthy");
            // Sessions leave it, and so do their streams.
            pool.ring_bell();
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        let pool = self.0.pool.load();
        let Health { unhealthy_after, healthy_after, .. } = &pool.settings().health;
        (if success { *healthy_after } else { *unhealthy_after }) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::{Probing, wait};
    use crate::config::{self, Health};
    use crate::telemetry::Metrics;
    use crate::upstream::{Fleet, State, now_ms};
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    fn configure(fleet: &Fleet, servers: &str) {
        let yaml = format!(
            "listen: 127.0.0.1:1\nservers: {{ other: {{ endpoints: [http://127.0.0.1:1/] }}{servers} }}\nroutes: [{{ path: /, server: other }}]\n"
        );
        let settings = config::parse(&yaml, "test", &|_| None).expect("good settings");
        let pools = fleet.prepare(&settings.servers, now_ms());
        fleet.install(&pools, now_ms());
    }

    fn states(fleet: &Fleet) -> Vec<State> {
        let pool = fleet.pool("one").expect("the pool");
        let members = pool.members();
        members.endpoints().iter().map(|endpoint| pool.state(endpoint, now_ms())).collect()
    }

    async fn until(fleet: &Fleet, expected: &[State]) {
        let reached = async {
            while states(fleet) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(20), reached).await;
        assert!(in_time.is_ok(), "{:?} and not {expected:?}", states(fleet));
    }

    #[tokio::test]
    async fn probes_follow_the_configuration_and_what_they_found_outlives_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let well = listener.local_addr().expect("an address");
        let mut accepting = JoinSet::new();
        accepting.spawn(async move { while listener.accept().await.is_ok() {} });
        // A port that is bound and not listened on refuses, and nobody else gets it.
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let away = socket.local_addr().expect("an address");
        let one = |urls: &str, probe: &str, interval: &str| {
            format!(
                ", one: {{ endpoints: [{urls}], health: {{ probe: {probe}, interval: {interval}, unhealthy_after: 2 }} }}"
            )
        };
        let both = format!("http://{well}/, http://{away}/");
        let fleet = Fleet::new();
        let mut probing = Probing::new(Arc::new(Metrics::new(1, 1)));
        configure(&fleet, &one(&both, "tcp", "20ms"));
        probing.follow(&fleet);
        let found = [State::Serving, State::Unhealthy];
        until(&fleet, &found).await;

        // With such an interval no probe could find it out again.
        configure(&fleet, &one(&both, "tcp", "1h"));
        probing.follow(&fleet);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(states(&fleet), found, "a reload forgets nothing");

        // What was away comes back, and the new interval is kept to at once.
        let listening = socket.listen(1024).expect("a listener");
        configure(&fleet, &one(&both, "tcp", "20ms"));
        probing.follow(&fleet);
        until(&fleet, &[State::Serving, State::Serving]).await;
        drop(listening);
        until(&fleet, &found).await;

        configure(&fleet, &one(&both, "off", "20ms"));
        probing.follow(&fleet);
        assert_eq!(states(&fleet), [State::Serving, State::Serving], "nobody says otherwise");

        configure(&fleet, &one(&both, "tcp", "20ms"));
        probing.follow(&fleet);
        until(&fleet, &found).await;
        configure(&fleet, &one(&format!("http://{well}/"), "tcp", "20ms"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        configure(&fleet, &one(&both, "tcp", "20ms"));
        until(&fleet, &found).await;

        configure(&fleet, "");
        probing.follow(&fleet);
        assert!(probing.watches.is_empty());
        let ended = timeout(Duration::from_secs(20), probing.stop()).await;
        assert!(ended.is_ok());
    }

    #[test]
    fn probes_are_spread_over_the_interval_and_end_in_it() {
        let seconds = Duration::from_secs_f64;
        let rows = [
            ((5.0, 1.0), (0.0, 0.0), 0.0),
            ((5.0, 1.0), (1.0, 1.0), 4.0),
            ((5.0, 1.0), (0.5, 0.0), 1.8),
            ((5.0, 1.0), (0.5, 1.0), 2.2),
            ((2.0, 10.0), (1.0, 1.0), 1.0),
        ];
        for ((interval, timeout), (moment, jitter), expected) in rows {
            let (interval, timeout) = (seconds(interval), seconds(timeout));
            let health = Health { interval, timeout, ..Health::default() };
            let waited = wait(&health, moment, jitter).as_secs_f64();
            assert!((waited - expected).abs() < 1e-6, "{waited} and not {expected}");
        }
    }
}
