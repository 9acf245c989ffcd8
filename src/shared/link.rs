//! The connection to the store: bounded in time, given up when it fails, made again in the background.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, RedisError, ServerErrorKind, TlsCertificates, Value,
};
use tokio::sync::{Notify, watch};

use super::ask::Ask;
use super::fleet::{Beat, Heard};
use super::name::Name;
use super::sealed::Sealing;
use crate::config::{self, Topology, WhenAway};
use crate::telemetry::SharedMetrics;

/// How often replicas tell each other that they live, and look what changed.
const BEAT_EVERY: Duration = Duration::from_millis(250);
/// How long a connection may take, with name and password.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// One late answer is chance; so many in a row are a store that is away.
const FAILURES_MAX: u32 = 3;
/// Requests to the store that may wait at once.
const WAITING_MAX: usize = 4096;

/// What replicas of this gateway have in common, or nothing.
pub struct Store {
    link: Option<Link>,
    heard: watch::Sender<Heard>,
}

struct Link {
    target: Target,
    prefix: String,
    instance: String,
    wait: Duration,
    combinations: WhenAway,
    sealing: Sealing,
    connection: ArcSwapOption<Connection>,
    failures: AtomicU32,
    waiting: AtomicUsize,
    replicas: AtomicU32,
    generation: AtomicU64,
    /// Why there is no connection.
    why: Mutex<Option<Arc<str>>>,
    lost: Notify,
    metrics: SharedMetrics,
}

enum Target {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// The store cannot be asked, did not answer in time, or answered what makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared store is away")]
pub struct Away;

/// How it stands with the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none: this gateway is alone.
    Alone,
    /// It answers, and so many replicas use it.
    Up(u32),
    /// It was not asked yet.
    Starting,
    /// It does not answer.
    Away(Arc<str>),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone => f.write_str("none"),
            Self::Starting => f.write_str("starting"),
            Self::Up(replicas) => write!(f, "up, replicas: {replicas}"),
            Self::Away(why) => write!(f, "away: {why}"),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("standing", &self.standing()).finish_non_exhaustive()
    }
}

impl Store {
    /// No store: everything stays in this process.
    pub fn alone() -> Self {
        Self { link: None, heard: watch::Sender::default() }
    }

    /// The store of the settings, which is not asked before [`Store::keep`] runs.
    ///
    /// # Errors
    /// When the address or the certificate is none.
    pub fn new<'s>(
        settings: &config::Shared,
        secrets: impl Iterator<Item = &'s [u8]>,
        instance: &str,
        metrics: SharedMetrics,
    ) -> io::Result<Self> {
        let link = Link {
            target: target(settings).map_err(io::Error::other)?,
            prefix: settings.prefix.clone(),
            // Of two processes on one machine each is a replica of its own.
            instance: format!("{instance}/{:016x}", fastrand::u64(..)),
            wait: settings.wait,
            combinations: settings.combinations,
            sealing: Sealing::new(secrets),
            connection: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            replicas: AtomicU32::new(1),
            generation: AtomicU64::new(0),
            why: Mutex::new(None),
            lost: Notify::new(),
            metrics,
        };
        Ok(Self { link: Some(link), heard: watch::Sender::default() })
    }

    /// Whether there is a store, be it away or not.
    pub fn is_configured(&self) -> bool {
        self.link.is_some()
    }

    /// Whether it can be asked now.
    pub fn is_up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.connection.load().is_some())
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        match &self.link {
            None => Standing::Alone,
            Some(link) if link.connection.load().is_some() => Standing::Up(self.replicas()),
            Some(link) => link.why.lock().clone().map_or(Standing::Starting, Standing::Away),
        }
    }

    /// How many replicas there were when the store was last heard, this one among them.
    pub fn replicas(&self) -> u32 {
        self.link.as_ref().map_or(1, |link| link.replicas.load(Ordering::Relaxed)).max(1)
    }

    /// The name that this process goes by in the store; no other process has it.
    pub fn instance(&self) -> &str {
        self.link.as_ref().map_or("", |link| &link.instance)
    }

    /// How long a request may wait for the store.
    pub fn wait(&self) -> Duration {
        self.link.as_ref().map_or(Duration::ZERO, |link| link.wait)
    }

    /// Whether calls that combination rules look at go by what this replica knows while the store is away.
    pub fn is_open_when_away(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.combinations == WhenAway::Open)
    }

    /// What the last heartbeat heard, and every later one that hears something else.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// The name of a part of what has this id among its kind.
    pub fn name(&self, kind: &str, id: &[u8; 16], part: &str) -> Name {
        Name::new(self.prefix(), kind, id, part)
    }

    /// The name of something of which there is one for all replicas. All of these lie in one slot.
    pub fn of_fleet(&self, part: &str) -> Name {
        Name::of_fleet(self.prefix(), part)
    }

    /// The hash of the versions of every [`Topic`](super::Topic).
    pub fn versions(&self) -> Name {
        self.of_fleet("versions")
    }

    /// Seals a value that is to lie under this name.
    pub fn seal(&self, name: &Name, value: &[u8]) -> Result<Vec<u8>, Away> {
        self.link.as_ref().and_then(|link| link.sealing.seal(name, value)).ok_or(Away)
    }

    /// What was sealed under this name. What others wrote there, or an older format, is as if nothing
    /// lay there, and is counted.
    pub fn open(&self, name: &Name, sealed: &[u8]) -> Option<Vec<u8>> {
        let link = self.link.as_ref()?;
        let opened = link.sealing.open(name, sealed);
        if opened.is_none() {
            link.metrics.unreadable.inc();
        }
        opened
    }

    /// Asks the store, and waits for the answer no longer than the settings allow.
    ///
    /// # Errors
    /// When there is no answer of this form in time; whoever asks goes on without it.
    pub async fn ask<T: FromRedisValue>(&self, ask: &Ask) -> Result<T, Away> {
        let link = self.link.as_ref().ok_or(Away)?;
        let Some(connection) = link.connection.load_full() else {
            link.metrics.asked(ask.what(), "away");
            return Err(Away);
        };
        let value = link.send(&connection, ask).await?;
        redis::from_redis_value(value).map_err(|error| {
            link.metrics.asked(ask.what(), "garbled");
            tracing::debug!(what = ask.what(), %error, "the shared store answers what makes no sense");
            Away
        })
    }

    /// Keeps the connection and tells the other replicas that this one lives, until the end.
    pub async fn keep(&self, end: impl Future<Output = ()>) {
        let Some(link) = &self.link else { return end.await };
        let keeping = async {
            loop {
                self.beat(link).await;
                tokio::select! {
                    () = tokio::time::sleep(BEAT_EVERY) => {}
                    // It may be back at once, and if not this waits in connecting.
                    () = link.lost.notified() => {}
                }
            }
        };
        tokio::select! {
            () = keeping => {}
            () = end => {
                let leave = Beat::leave(&self.of_fleet("replicas"), &link.instance);
                self.ask::<Value>(&leave).await.ok();
            }
        }
    }

    async fn beat(&self, link: &Link) {
        let ask = Beat::ask(&self.of_fleet("replicas"), &self.versions(), &link.instance);
        let known = link.connection.load_full();
        let connection = match &known {
            Some(connection) => Arc::clone(connection),
            None => match link.connect().await {
                Ok(connection) => Arc::new(connection),
                Err(why) => return link.lose(&why),
            },
        };
        let answer = link.send(&connection, &ask).await;
        let beat = answer.ok().and_then(|value| redis::from_redis_value::<Beat>(value).ok());
        let Some(beat) = beat else {
            // Somebody who waited for an answer has said more, if it is lost already.
            if known.is_none() {
                link.lose("it does not answer as a store should");
                tokio::time::sleep(BEAT_EVERY).await;
            } else {
                link.failed("heartbeats fail");
            }
            return;
        };
        link.replicas.store(beat.replicas, Ordering::Relaxed);
        link.metrics.replicas.set(beat.replicas.into());
        if known.is_none() {
            link.generation.fetch_add(1, Ordering::Relaxed);
            link.failures.store(0, Ordering::Relaxed);
            link.connection.store(Some(connection));
            link.metrics.up.set(1);
            tracing::info!(replicas = beat.replicas, "the shared store is there");
        }
        let heard = beat.heard(link.generation.load(Ordering::Relaxed));
        self.heard.send_if_modified(|last| std::mem::replace(last, heard) != heard);
    }

    fn prefix(&self) -> &str {
        self.link.as_ref().map_or("", |link| &link.prefix)
    }
}

impl Link {
    async fn connect(&self) -> Result<Connection, String> {
        let connecting = async {
            match &self.target {
                Target::Single(client) => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(CONNECT_WITHIN))
                        // Every request has its own time.
                        .set_response_timeout(None);
                    let connection = client.get_multiplexed_async_connection_with_config(&config);
                    connection.await.map(Connection::Single)
                }
                Target::Cluster(client) => {
                    client.get_async_connection().await.map(Connection::Cluster)
                }
            }
        };
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(connected) => connected.map_err(|error| plain(&error)),
            Err(_) => Err("it cannot be reached in time".to_owned()),
        }
    }

    async fn send(&self, connection: &Connection, ask: &Ask) -> Result<Value, Away> {
        let _waits = Waits::new(&self.waiting).ok_or_else(|| {
            self.metrics.asked(ask.what(), "busy");
            Away
        })?;
        let asked = tokio::time::timeout(self.wait, connection.clone().send(&ask.command())).await;
        let outcome = match asked {
            Ok(Ok(value)) => {
                self.failures.store(0, Ordering::Relaxed);
                self.metrics.asked(ask.what(), "ok");
                return Ok(value);
            }
            Ok(Err(error)) if is_of_request(&error) => {
                tracing::debug!(what = ask.what(), %error, "the shared store refuses");
                "refused"
            }
            Ok(Err(error)) => {
                if error.is_unrecoverable_error() {
                    self.lose(&plain(&error));
                } else {
                    self.failed(&plain(&error));
                }
                "failed"
            }
            Err(_) => {
                self.failed("it answers too late");
                "late"
            }
        };
        self.metrics.asked(ask.what(), outcome);
        Err(Away)
    }

    /// One request failed in a way that says something of the store.
    fn failed(&self, why: &str) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
            self.lose(why);
        }
    }

    fn lose(&self, why: &str) {
        let was_up = self.connection.swap(None).is_some();
        *self.why.lock() = Some(why.into());
        if was_up {
            self.metrics.up.set(0);
            tracing::warn!(why, "the shared store is away; this replica goes on by itself");
            self.lost.notify_one();
        }
    }
}

impl Connection {
    async fn send(self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Single(mut connection) => connection.req_packed_command(command).await,
            Self::Cluster(mut connection) => connection.req_packed_command(command).await,
        }
    }
}

/// A place among those who wait for the store.
struct Waits<'w>(&'w AtomicUsize);

impl<'w> Waits<'w> {
    fn new(waiting: &'w AtomicUsize) -> Option<Self> {
        if waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(waiting))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the store says no to this request and would not to another: somebody else's value lies
/// under the name, or the script failed.
fn is_of_request(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::CrossSlot) => true,
        ErrorKind::Extension => error.code() == Some("WRONGTYPE"),
        _ => false,
    }
}

/// What went wrong, without what may be secret: the library shows no password in its errors.
fn plain(error: &RedisError) -> String {
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(200));
    text
}

fn target(settings: &config::Shared) -> Result<Target, String> {
    let info: ConnectionInfo = settings
        .redis
        .expose()
        .into_connection_info()
        .map_err(|error| format!("shared.redis: {}", plain(&error)))?;
    let ca = match &settings.ca {
        None => None,
        Some(path) => {
            Some(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?)
        }
    };
    let certificates = ca.map(|ca| TlsCertificates { client_tls: None, root_cert: Some(ca) });
    let target = match (settings.topology, certificates) {
        (Topology::Single, None) => Client::open(info).map(Box::new).map(Target::Single),
        (Topology::Single, Some(certificates)) => {
            Client::build_with_tls(info, certificates).map(Box::new).map(Target::Single)
        }
        (Topology::Cluster, certificates) => {
            let builder = ClusterClientBuilder::new([info])
                .retries(1)
                .connection_timeout(CONNECT_WITHIN)
                .response_timeout(settings.wait);
            let builder = match certificates {
                Some(certificates) => builder.certs(certificates),
                None => builder,
            };
            builder.build().map(Box::new).map(Target::Cluster)
        }
    };
    target.map_err(|error| format!("shared.redis: {}", plain(&error)))
}
