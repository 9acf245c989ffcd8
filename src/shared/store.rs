//! What replicas have in common, or nothing: asked by engines, kept in the background.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{FromRedisValue, Value};
use tokio::sync::watch;

use super::ask::Ask;
use super::fleet::{Beat, Heard};
use super::link::{Away, Link};
use super::name::Name;
use crate::config::{self, WhenAway};
use crate::telemetry::SharedMetrics;

/// How often replicas tell each other that they live, and look what changed.
const BEAT_EVERY: Duration = Duration::from_millis(250);

/// What replicas of this gateway have in common, or nothing.
pub struct Store {
    link: Option<Link>,
    heard: watch::Sender<Heard>,
}

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
        let link = Link::new(settings, secrets, instance, metrics)?;
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
