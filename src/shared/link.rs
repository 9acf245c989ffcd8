//! The connection to the store: bounded in time, and given up when it fails.

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
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    RedisError, ServerErrorKind, TlsCertificates, Value,
};
use tokio::sync::Notify;

use super::ask::Ask;
use super::sealed::Sealing;
use crate::config::{self, Topology, WhenAway};
use crate::telemetry::SharedMetrics;

/// How long a connection may take, with name and password.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// One late answer is chance; so many in a row are a store that is away.
const FAILURES_MAX: u32 = 3;
/// Requests to the store that may wait at once.
const WAITING_MAX: usize = 4096;

/// The way to the store, and what is known of it.
pub(super) struct Link {
    target: Target,
    pub(super) prefix: String,
    pub(super) instance: String,
    pub(super) wait: Duration,
    pub(super) combinations: WhenAway,
    pub(super) sealing: Sealing,
    pub(super) connection: ArcSwapOption<Connection>,
    pub(super) failures: AtomicU32,
    waiting: AtomicUsize,
    pub(super) replicas: AtomicU32,
    pub(super) generation: AtomicU64,
    /// Why there is no connection.
    pub(super) why: Mutex<Option<Arc<str>>>,
    pub(super) lost: Notify,
    pub(super) metrics: SharedMetrics,
}

enum Target {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// A connection to one server, or to a cluster.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// The store cannot be asked, did not answer in time, or answered what makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared store is away")]
pub struct Away;

impl Link {
    /// A link that is not made yet.
    pub(super) fn new<'s>(
        settings: &config::Shared,
        secrets: impl Iterator<Item = &'s [u8]>,
        instance: &str,
        metrics: SharedMetrics,
    ) -> io::Result<Self> {
        Ok(Self {
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
        })
    }

    pub(super) async fn connect(&self) -> Result<Connection, String> {
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

    /// Asks, and waits for the answer no longer than the settings allow.
    pub(super) async fn send(&self, connection: &Connection, ask: &Ask) -> Result<Value, Away> {
        let _waits = Waits::new(&self.waiting).ok_or_else(|| {
            self.metrics.asked(ask.what(), "busy");
            Away
        })?;
        let command = ask.command();
        let asked = connection.clone().send(&command);
        let asked = tokio::time::timeout(self.wait, asked).await;
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
    pub(super) fn failed(&self, why: &str) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
            self.lose(why);
        }
    }

    /// There is no connection, for this reason.
    pub(super) fn lose(&self, why: &str) {
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
