//! Assembles the gateway from its settings and runs it until it is told to stop.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::apps::http_app::{HttpServer, ServeHttp};
use pingora::listeners::tls::TlsSettings;
use pingora::listeners::{L4BufferSettings, ListenerConfig, Listeners};
use pingora::server::configuration::ServerConf;
use pingora::server::{
    RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch, UnixShutdownSignalWatch,
};
use pingora::services::ServiceWithDependents;
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use pingora::tls::{ServerConfig, load_certs_and_key_files, version};

use crate::admin::{Api, Draining, Guard, Operators, Probes, Reload, Upkeep};
use crate::config::{self, Problem, Problems, Settings};
use crate::proxy::{Edge, ProxyProtocol, Shared};
use crate::snapshot::Snapshot;
use crate::telemetry::{Format, Metrics, RequestLog};
use crate::upstream::{self, Fleet};

/// How long a connection waits for more to send: enough for a small answer with its head.
const WRITE_BUFFER_BYTES: usize = 1460;
/// What a TLS connection reads ahead: one record.
const TLS_READ_BUFFER_BYTES: usize = 16 * 1024;

/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

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
    /// Only opening the files of a listener shows that they are no certificate and key.
    #[error("{0}")]
    Settings(Problems),
}

/// Checks what only an engine can: that the files of every TLS listener are what they should be.
pub fn check(settings: &Settings) -> Result<(), Problems> {
    let problems: Vec<Problem> = settings
        .listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref())
        .filter_map(|tls| {
            let fault = certificate_fault(tls)?;
            Some(Problem::new(tls.place, fault).hint("give a PEM chain and its PEM private key"))
        })
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Problems::new(Arc::clone(&settings.sources), problems)),
    }
}

/// Runs the gateway until a signal stops it. `companions` start with it. With the `file` that the
/// settings came from they can change meanwhile.
pub fn run(
    settings: &Settings,
    file: Option<&Path>,
    companions: Vec<Box<dyn ServiceWithDependents>>,
) -> Result<(), Failure> {
    check(settings).map_err(Failure::Settings)?;
    let addresses = settings.listeners.iter().map(|listener| listener.address);
    for address in
        addresses.chain(settings.health).chain(settings.admin.as_ref().map(|admin| admin.listen))
    {
        // Pingora binds later, in a thread where a failure would be a panic that nobody sees.
        TcpListener::bind(address).map_err(|error| Failure::Listen { address, error })?;
    }
    let shared = Arc::new(share(settings)?);
    let api = match file {
        Some(file) => {
            let reload = Reload::new(file, settings, Arc::clone(&shared), check)?;
            Some(Arc::new(Api::new(Arc::new(reload))))
        }
        None => None,
    };
    let draining = Draining::default();
    let conf = server_conf(settings);
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for service in services(settings, &shared, &draining, &server.configuration) {
        server.add_boxed_service(service);
    }
    if let Some(api) = api {
        for service in operation(settings, &shared, &draining, &api)? {
            server.add_boxed_service(service);
        }
    }
    for companion in companions {
        server.add_boxed_service(companion);
    }
    for listener in &settings.listeners {
        let scheme = if listener.tls.is_some() { "https" } else { "http" };
        tracing::info!("listening on {scheme}://{}", listener.address);
    }
    let shutdown_signal = Box::new(Stop { draining });
    server.run(RunArgs { shutdown_signal });
    shared.flush();
    Ok(())
}

fn share(settings: &Settings) -> io::Result<Shared> {
    let telemetry = &settings.telemetry;
    let metrics = Arc::new(Metrics::new(telemetry.callers_max, telemetry.tools_max));
    let fleet = Fleet::new();
    let snapshot = Snapshot::new(settings, &fleet, &metrics)?;
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
    Ok(Shared::new(snapshot, fleet, metrics, request_log, idle, workers))
}

fn server_conf(settings: &Settings) -> ServerConf {
    let grace = settings.runtime.grace.as_secs();
    ServerConf {
        threads: settings.runtime.threads,
        grace_period_seconds: Some(grace),
        graceful_shutdown_timeout_seconds: Some(1),
        upgrade_sock: settings.state_dir.join("upgrade.sock").display().to_string(),
        ..ServerConf::default()
    }
}

fn services(
    settings: &Settings,
    shared: &Arc<Shared>,
    draining: &Draining,
    conf: &Arc<ServerConf>,
) -> Vec<Box<dyn ServiceWithDependents>> {
    let mut services: Vec<Box<dyn ServiceWithDependents>> = Vec::new();
    for (place, listener) in settings.listeners.iter().enumerate() {
        let connections_max = settings.runtime.connections_max;
        let edge = Edge::new(Arc::clone(shared), place, listener, connections_max, conf);
        let listeners = listen(listener);
        services.push(Box::new(Service::with_listeners(
            format!("listener {}", listener.address),
            listeners,
            edge,
        )));
    }
    if let Some(address) = settings.health {
        let probes = Probes::new(Arc::clone(shared.metrics()), draining.clone(), Guard::None);
        services.push(aside(format!("probes {address}"), address, probes));
    }
    let mut housekeeping = background_service("housekeeping", Housekeeping(Arc::clone(shared)));
    housekeeping.threads = Some(1);
    services.push(Box::new(housekeeping));
    services
}

/// What lets operators see and change a running gateway.
fn operation(
    settings: &Settings,
    shared: &Arc<Shared>,
    draining: &Draining,
    api: &Arc<Api>,
) -> io::Result<Vec<Box<dyn ServiceWithDependents>>> {
    let mut upkeep = background_service("upkeep", Upkeep::new(Arc::clone(api))?);
    upkeep.threads = Some(1);
    let mut services: Vec<Box<dyn ServiceWithDependents>> = vec![Box::new(upkeep)];
    if let Some(admin) = &settings.admin {
        let probes = |guard| Probes::new(Arc::clone(shared.metrics()), draining.clone(), guard);
        let (loopback, anywhere) = (probes(Guard::LoopbackHost), probes(Guard::None));
        let operators = Operators::new(loopback, anywhere, Arc::clone(api));
        services.push(aside(format!("admin {}", admin.listen), admin.listen, operators));
    }
    Ok(services)
}

/// A plain listener with a thread of its own, so that it answers when the workers are busy.
fn aside<A: ServeHttp + Send + Sync + 'static>(
    name: String,
    address: SocketAddr,
    app: A,
) -> Box<dyn ServiceWithDependents> {
    let mut service = Service::new(name, HttpServer::new_app(app));
    service.add_tcp(&address.to_string());
    service.threads = Some(1);
    Box::new(service)
}

fn listen(settings: &config::Listener) -> Listeners {
    let mut listeners = Listeners::new();
    let mut endpoint = ListenerConfig::tcp(settings.address.to_string());
    if let Some(tls) = &settings.tls {
        let certificate = tls.certificate.display().to_string();
        let key = tls.key.display().to_string();
        // The files were checked by `check`; between then and now only their disappearance is left.
        if let Ok(mut tls) = TlsSettings::intermediate(&certificate, &key) {
            tls.enable_h2();
            endpoint = endpoint.tls(tls);
        }
        endpoint =
            endpoint.l4_buffer(L4BufferSettings::new(TLS_READ_BUFFER_BYTES, WRITE_BUFFER_BYTES));
        if settings.proxy_protocol == config::ProxyProtocol::V2 {
            listeners.set_pre_tls_callback(Arc::new(ProxyProtocol::new(&settings.trusted_proxies)));
        }
    } else {
        // Requests are read straight into the buffer they are parsed in.
        endpoint = endpoint.l4_buffer(L4BufferSettings::new(0, WRITE_BUFFER_BYTES));
    }
    listeners.add_listener(endpoint);
    listeners
}

/// Why certificate and key cannot be used; `None` if they can.
fn certificate_fault(tls: &config::Tls) -> Option<String> {
    pingora::tls::install_default_crypto_provider();
    let (certificate, key) = (tls.certificate.display(), tls.key.display());
    let loaded = load_certs_and_key_files(&certificate.to_string(), &key.to_string());
    let (chain, key) = match loaded {
        Ok(Some(loaded)) => loaded,
        Ok(None) => return Some(format!("no certificate in {certificate} or no key in {key}")),
        Err(error) => return Some(format!("cannot read {certificate} or {key}: {error}")),
    };
    let versions = [&version::TLS12, &version::TLS13];
    ServerConfig::builder_with_protocol_versions(&versions)
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .err()
        .map(|error| format!("certificate and key do not fit: {error}"))
}

/// Turns the system's signals into Pingora's, and readiness off before anything else.
struct Stop {
    draining: Draining,
}

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        let signal = UnixShutdownSignalWatch.recv().await;
        self.draining.begin();
        signal
    }
}

/// What must be done now and then, whoever calls.
struct Housekeeping(Arc<Shared>);

#[async_trait]
impl BackgroundService for Housekeeping {
    async fn start(&self, shutdown: ShutdownWatch) {
        let mut resolved = Instant::now();
        while !*shutdown.borrow() {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.0.sweep();
            if resolved.elapsed() >= upstream::RESOLVE_EVERY {
                upstream::resolve(&self.0.snapshot().pools).await;
                resolved = Instant::now();
            }
        }
    }
}
