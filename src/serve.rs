//! Assembles the gateway from its settings and runs it until it is told to stop.

mod beside;
mod survey;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::listeners::{L4BufferSettings, ListenerConfig, Listeners};
use pingora::server::configuration::ServerConf;
use pingora::server::{
    ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use pingora::services::background::background_service;
use pingora::services::listening::Service;
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::admin::{self, Api, Guard, Operators, Probes, Reload};
use crate::audit::Audit;
use crate::catalog;
use crate::config::{self, Problem, Problems, Settings};
use crate::lifecycle::{self, Belongings, Handover, HandoverFault, Lifecycle, Signals};
use crate::policy;
use crate::proxy::{Edge, Shared};
use crate::snapshot::{Lasting, Snapshot};
use crate::telemetry::{Format, Metrics, Otlp, RequestLog};
use crate::tls;

use beside::{Housekeeping, beside};

pub use survey::{Reported, Survey, Surveyed, survey};

/// How long a connection waits for more to send: enough for a small answer with its head.
const WRITE_BUFFER_BYTES: usize = 1460;
/// What a TLS connection reads ahead: one record.
const TLS_READ_BUFFER_BYTES: usize = 16 * 1024;

/// How soon the file that tells who serves is written again where it failed.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// Where a process begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With listening sockets of its own.
    Afresh,
    /// With those of the process that serves now, which hands them over when it gets SIGQUIT.
    Upgrade,
}

/// Why the gateway did not come up.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The machine did not give what the settings need.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    /// The process that serves did not hand over; it goes on.
    #[error("cannot take over: {0}")]
    Handover(#[from] HandoverFault),
    /// What serves ended although nobody told it to.
    #[error("the server ended by itself")]
    Ended,
    /// Only opening the files of a listener shows that they are no certificate and key.
    #[error("{0}")]
    Settings(Problems),
}

/// Checks what only an engine can: that the files of TLS are what they should be.
pub fn check(settings: &Settings) -> Result<(), Problems> {
    let problems: Vec<Problem> =
        tls::problems(settings).into_iter().chain(policy::problems(settings)).collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Problems::new(Arc::clone(&settings.sources), problems)),
    }
}

/// The same, and that this program has everything the settings ask for.
fn check_to_run(settings: &Settings) -> Result<(), Problems> {
    check(settings)?;
    let problems = match cfg!(feature = "kubernetes") {
        true => Vec::new(),
        false => of_kubernetes(settings),
    };
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Problems::new(Arc::clone(&settings.sources), problems)),
    }
}

/// What of the settings cannot be had without the feature.
fn of_kubernetes(settings: &Settings) -> Vec<Problem> {
    let is_pods = |server: &&config::Server| {
        matches!(server.discovery, Some(config::Discovery::Kubernetes(_)))
    };
    let servers = settings.servers.iter().filter(is_pods).map(|server| server.place);
    let services = settings.kubernetes.services.iter().map(|services| services.place);
    let problem = |place| {
        Problem::new(place, "this gateway was built without the feature `kubernetes`").hint(
            "build it with --features kubernetes, as the image is, or find endpoints by `dns`",
        )
    };
    servers.chain(services).map(problem).collect()
}

/// Runs the gateway until a signal stops it. `companions` start with it. With the `file` that the
/// settings came from they can change meanwhile.
pub fn run(
    settings: &Settings,
    file: Option<&Path>,
    companions: Vec<Box<dyn ServiceWithDependents>>,
    start: Start,
) -> Result<(), Failure> {
    check_to_run(settings).map_err(Failure::Settings)?;
    let lifecycle = Lifecycle::new();
    let shared = Arc::new(share(settings, &lifecycle)?);
    fetch_keys(&shared)?;
    let listeners = settings.listeners.iter().map(|listener| listener.address);
    let addresses: Vec<_> = listeners
        .chain(settings.health)
        .chain(settings.admin.as_ref().map(|admin| admin.listen))
        .collect();
    let handover = Handover::new(&settings.state_dir);
    let housekeeping = Housekeeping::new(&shared);
    if start == Start::Upgrade {
        list_first(settings, &shared)?;
        // Last of all that can fail: until here the process that serves knows nothing of this one.
        handover.receive(&addresses)?;
    }
    for &address in addresses.iter().filter(|address| !handover.has(**address)) {
        // Pingora binds later, in a thread where a failure would be a panic that nobody sees.
        TcpListener::bind(address).map_err(|error| Failure::Listen { address, error })?;
    }
    if start == Start::Afresh {
        list_first(settings, &shared)?;
    }
    let reload = file.map(|file| Reload::new(file, settings, Arc::clone(&shared), check_to_run));
    let reload = reload.transpose()?.map(Arc::new);
    #[cfg(feature = "kubernetes")]
    if let Some(reload) = &reload {
        reload.discover_now();
    }
    let inherited = reload.as_deref().filter(|_| start == Start::Upgrade);
    if let Some(reload) = inherited {
        reload.take_over();
    }
    let handover = handover.with(reload.clone().map(|reload| reload as Arc<dyn Belongings>));
    let mut server = Server::new_with_opt_and_conf(None, server_conf(settings));
    server.bootstrap();
    for service in services(settings, &shared, &handover, &server.configuration) {
        server.add_boxed_service(service);
    }
    for service in beside(&shared, housekeeping) {
        server.add_boxed_service(service);
    }
    if let Some(reload) = inherited {
        reload.taken_over();
    }
    if let Some(reload) = &reload {
        let api = Arc::new(Api::new(Arc::clone(reload)));
        for service in operation(settings, &shared, &handover, &api)? {
            server.add_boxed_service(service);
        }
    }
    for companion in companions {
        server.add_boxed_service(companion);
    }
    let ended = serve(server, settings, &shared, &handover, &addresses);
    shared.flush();
    handover.leave();
    ended
}

/// Lets Pingora accept and serve in a thread of its own, and stays until the process may end.
fn serve(
    server: Server,
    settings: &Settings,
    shared: &Shared,
    handover: &Handover,
    addresses: &[SocketAddr],
) -> Result<(), Failure> {
    let lifecycle = shared.lifecycle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lived = runtime.block_on(async {
        let signals = Signals::listen()?;
        let rotate = signal(SignalKind::user_defined1())?;
        let (alive, dead) = oneshot::channel::<()>();
        let shutdown_signal = Box::new(Refusing(Arc::clone(lifecycle)));
        thread::Builder::new().name("pingora".to_owned()).spawn(move || {
            // Dropped when the server ends, also by a panic.
            let _alive = alive;
            server.run(RunArgs { shutdown_signal });
        })?;
        let living = async {
            handover.listening(addresses).await;
            for listener in &settings.listeners {
                let scheme = if listener.tls.is_some() { "https" } else { "http" };
                tracing::info!("listening on {scheme}://{}", listener.address);
            }
            lifecycle::notify(lifecycle::State::Ready);
            // Serving matters more than being able to be upgraded; a predecessor waits for it, though.
            while let Err(error) = handover.serve() {
                tracing::warn!(%error, "cannot write toolgate.pid; an upgrade will not find it");
                tokio::time::sleep(WRITE_AGAIN).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = signals.obey(lifecycle, handover, settings.runtime.grace) => Ok(()),
            _ = dead => Err(Failure::Ended),
            () = living => Ok(()),
            () = keep_record(shared, rotate) => Ok(()),
        }
    });
    runtime.shutdown_background();
    lived
}

/// Records that the process drains, and begins new files where whoever keeps them asks for it.
async fn keep_record(shared: &Shared, mut rotate: Signal) {
    let draining = async {
        shared.lifecycle().draining().await;
        shared.record_drain();
        std::future::pending::<()>().await;
    };
    let rotating = async {
        while rotate.recv().await.is_some() {
            if let Some(audit) = shared.audit() {
                audit.rotate();
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::join!(draining, rotating);
}

fn share(settings: &Settings, lifecycle: &Arc<Lifecycle>) -> io::Result<Shared> {
    let telemetry = &settings.telemetry;
    let metrics = Metrics::new(telemetry.callers_max, telemetry.tools_max);
    let metrics = Arc::new(match telemetry.otlp {
        Some(_) => metrics.with_operations(),
        None => metrics,
    });
    let lasting = Lasting::new(settings, &metrics)?;
    lasting.catalog.pins().open(&settings.state_dir.join("pins.json"));
    let snapshot = Snapshot::new(settings, &lasting)?;
    tls::note(settings, &metrics, SystemTime::now());
    let format = match telemetry.requests {
        config::RequestLog::Json => Some(Format::Json),
        config::RequestLog::Text => Some(Format::Text),
        config::RequestLog::Off => None,
    };
    let request_log = format.map(|format| {
        RequestLog::start(format, Box::new(io::stdout()), metrics.log_lines_lost.clone())
    });
    let idle = settings.runtime.upstream_idle_connections;
    // Every listener has workers of its own.
    let workers = settings.runtime.threads * settings.listeners.len();
    let lifecycle = Arc::clone(lifecycle);
    let audit = match &settings.audit {
        Some(audit) => Some(
            Audit::start(audit, &hex(&settings.sources.digest()), &metrics.audit)
                .map_err(io::Error::other)?,
        ),
        None => None,
    };
    let otlp = telemetry.otlp.as_ref().map(|otlp| Otlp::start(otlp, &metrics)).transpose()?;
    Ok(Shared::new(snapshot, lasting, (request_log, audit, otlp), idle, workers, lifecycle))
}

/// The digits of a digest.
fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fetches the keys of all issuers, so that the first tokens can be checked.
fn fetch_keys(shared: &Shared) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(shared.snapshot().identity.authorities().fetch());
    Ok(())
}

fn server_conf(settings: &Settings) -> ServerConf {
    ServerConf {
        threads: settings.runtime.threads,
        // Pingora sleeps for so long, open connections or not; the process ends before that.
        grace_period_seconds: Some(settings.runtime.grace.as_secs() + 1),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn services(
    settings: &Settings,
    shared: &Arc<Shared>,
    handover: &Handover,
    conf: &Arc<ServerConf>,
) -> Vec<Box<dyn ServiceWithDependents>> {
    let mut services: Vec<Box<dyn ServiceWithDependents>> = Vec::new();
    for (place, listener) in settings.listeners.iter().enumerate() {
        let edge = Edge::new(Arc::clone(shared), place, listener, &settings.runtime, conf);
        let name = format!("listener {}", listener.address);
        let service = Service::with_listeners(name, listen(listener), edge);
        services.push(Box::new(Listening { service, sockets: handover.sockets(), until: None }));
    }
    if let Some(address) = settings.health {
        let probes = probes(shared, Guard::None);
        services.push(aside(format!("probes {address}"), address, probes, shared, handover));
    }
    services
}

/// Asks the servers what they offer, before anybody asks the gateway.
fn list_first(settings: &Settings, shared: &Shared) -> io::Result<()> {
    let within = settings.catalog.ready_within;
    catalog::list_first(&shared.snapshot().catalog, shared.fleet(), shared.metrics(), within)?;
    Ok(())
}

/// What lets operators see and change a running gateway.
fn operation(
    settings: &Settings,
    shared: &Arc<Shared>,
    handover: &Handover,
    api: &Arc<Api>,
) -> io::Result<Vec<Box<dyn ServiceWithDependents>>> {
    let mut upkeep = background_service("upkeep", admin::Upkeep::new(Arc::clone(api))?);
    upkeep.threads = Some(1);
    let mut services: Vec<Box<dyn ServiceWithDependents>> = vec![Box::new(upkeep)];
    if let Some(admin) = &settings.admin {
        let (loopback, anywhere) =
            (probes(shared, Guard::LoopbackHost), probes(shared, Guard::None));
        let operators = Operators::new(loopback, anywhere, Arc::clone(api));
        let name = format!("admin {}", admin.listen);
        services.push(aside(name, admin.listen, operators, shared, handover));
    }
    Ok(services)
}

fn probes(shared: &Arc<Shared>, guard: Guard) -> Probes {
    let store = Arc::clone(shared.store());
    Probes::new(Arc::clone(shared.metrics()), Arc::clone(shared.lifecycle()), store, guard)
}

/// A plain listener with a thread of its own, so that it answers when the workers are busy, and
/// until the process ends or its successor answers.
fn aside<A: ServeHttp + Send + Sync + 'static>(
    name: String,
    address: SocketAddr,
    app: A,
    shared: &Shared,
    handover: &Handover,
) -> Box<dyn ServiceWithDependents> {
    let until = Some(shared.lifecycle().handed_over());
    let mut service = Service::new(name, HttpServer::new_app(app));
    service.add_tcp(&address.to_string());
    service.threads = Some(1);
    Box::new(Listening { service, sockets: handover.sockets(), until })
}

/// The edge ends TLS, so that its certificates can change while it listens.
fn listen(settings: &config::Listener) -> Listeners {
    let mut listeners = Listeners::new();
    let read_bytes = match settings.tls {
        Some(_) => TLS_READ_BUFFER_BYTES,
        // Requests are read straight into the buffer they are parsed in.
        None => 0,
    };
    let buffer = L4BufferSettings::new(read_bytes, WRITE_BUFFER_BYTES);
    let endpoint = ListenerConfig::tcp(settings.address.to_string()).l4_buffer(buffer);
    listeners.add_listener(endpoint);
    listeners
}

/// A listening service of Pingora's, on sockets that may come from a predecessor.
struct Listening<A> {
    service: Service<A>,
    sockets: ListenFds,
    /// Probes are answered until there is a successor to answer them, or the process ends.
    until: Option<ShutdownWatch>,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServiceWithDependents for Listening<A> {
    async fn start_service(
        &mut self,
        _sockets: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        let sockets = Some(ListenFds::clone(&self.sockets));
        let until = self.until.take().unwrap_or(shutdown);
        let service: &mut dyn ServiceWithDependents = &mut self.service;
        service.start_service(sockets, until, listeners_per_fd, ready).await;
    }

    fn name(&self) -> &str {
        ServiceWithDependents::name(&self.service)
    }

    fn threads(&self) -> Option<usize> {
        ServiceWithDependents::threads(&self.service)
    }
}

/// Tells Pingora to stop when no connection is accepted any more; what is open goes on.
struct Refusing(Arc<Lifecycle>);

#[async_trait]
impl ShutdownSignalWatch for Refusing {
    async fn recv(&self) -> ShutdownSignal {
        self.0.refusing().await;
        ShutdownSignal::GracefulTerminate
    }
}

#[cfg(test)]
mod tests {
    use super::{config, of_kubernetes};

    #[test]
    fn what_needs_the_feature_is_told_where_it_stands() {
        let yaml = "listen: 127.0.0.1:1
servers:
  a: { endpoints: [http://a/] }
  b: { discovery: { kubernetes: { service: mcp/b } } }
routes: [{ path: /, server: a }]
kubernetes: { api: https://k8s, services: { namespaces: [team] } }
";
        let settings = config::parse(yaml, "test", &|_| None).expect("good settings");
        let lines: Vec<u32> =
            of_kubernetes(&settings).iter().map(|problem| problem.place.line()).collect();
        assert_eq!(lines, [4, 6]);
        let without = yaml.replace("kubernetes: { service: mcp/b }", "dns: http://b/");
        let without = without.replace(", services: { namespaces: [team] }", "");
        let settings = config::parse(&without, "test", &|_| None).expect("good settings");
        assert!(of_kubernetes(&settings).is_empty(), "where it is asked for nothing");
    }
}
