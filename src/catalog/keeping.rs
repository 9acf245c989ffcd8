//! Keeps what is known of every server true: asks in time, and when something says that it changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::alike::{Alike, Likeness, Looking};
use super::asking::{Asked, Asking};
use super::client::{Conversation, Hearing};
use super::difference;
use super::listed::{Catalog, Listed, Signal};
use super::offer::{Kind, Offer};
use super::pins::Became;
use crate::config::Listing;
use crate::telemetry::{Metrics, Refresh};
use crate::upstream::{Fleet, Pool, now_ms};

/// How soon a server that is new, or is gone, is seen.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// A server that changes all the time is not listed more often than this.
const CHANGED_MIN: Duration = Duration::from_secs(1);
/// Names that nobody knows do not make the gateway ask more often than this.
const DOUBT_MIN: Duration = Duration::from_secs(30);
/// What a server may say of how long its lists stay as they are; less and more are taken as these.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(60 * 60);
/// The first wait after a failure; it doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Gateways that started together do not ask together: waits are longer by up to this part.
const JITTER: f64 = 0.2;
/// A server without a stream that lasts is not asked for one again before.
const DEAF_FOR: Duration = Duration::from_secs(5 * 60);
/// How soon pins are written again where that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(10);
/// Names that are alike and have a line each in the log, of one look.
const ALIKE_MAX: usize = 20;
const NAME_CHARS_MAX: usize = 128;

/// Asks every server what it offers, in the background.
pub struct Keeping {
    asking: Arc<Asking>,
    keepers: HashMap<String, Keeper>,
    tasks: JoinSet<()>,
    looking: Looking,
    /// When pins that could not be written are tried again.
    write_again: Option<Instant>,
}

/// Who keeps one server. When this is dropped it ends.
struct Keeper {
    pool: watch::Sender<Arc<Pool>>,
    listed: Arc<Listed>,
    seen: Vec<u64>,
}

/// When a server is listed next.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// When it was listed last.
    ended: Instant,
    due: Instant,
    failures: u32,
}

impl Keeping {
    /// Asks nobody yet.
    pub fn new(catalog: &Arc<Catalog>, metrics: &Arc<Metrics>) -> Self {
        let asking = Arc::new(Asking::new(Arc::clone(catalog), Arc::clone(metrics)));
        let (keepers, tasks, looking) = (HashMap::new(), JoinSet::new(), Looking::default());
        Self { asking, keepers, tasks, looking, write_again: None }
    }

    /// Keeps every server as its configuration says now.
    fn follow(&mut self, fleet: &Fleet) {
        let Asking { catalog, metrics, .. } = &*self.asking;
        let pools = fleet.pools();
        let is_listed = |pool: &&Arc<Pool>| pool.settings().catalog.listing == Listing::On;
        self.keepers.retain(|server, keeper| {
            let stays = pools.iter().filter(is_listed).any(|pool| pool.name() == server);
            if !stays {
                // Nobody would ever say again that it is otherwise.
                catalog.install(&keeper.listed, Arc::new(Offer::default())).ok();
                metrics.catalog.forget(server, Kind::ALL.into_iter().map(Kind::as_str));
                let changes = Became::ALL.into_iter().map(Became::as_str);
                let hows = Likeness::ALL.into_iter().map(Likeness::as_str);
                metrics.definitions.forget(server, changes, hows);
            }
            stays
        });
        for pool in pools.iter().filter(is_listed) {
            let seen = seen_of(pool);
            match self.keepers.get_mut(pool.name()) {
                Some(keeper) => {
                    keeper.pool.send_if_modified(|known| {
                        let is_new = !Arc::ptr_eq(known, pool);
                        *known = Arc::clone(pool);
                        is_new
                    });
                    if keeper.seen != seen {
                        keeper.seen = seen;
                        keeper.listed.signal(Signal::Changed);
                    }
                }
                None => {
                    let listed = catalog.of(pool.name());
                    let (sender, receiver) = watch::channel(Arc::clone(pool));
                    let keep = keep(Arc::clone(&self.asking), Arc::clone(&listed), receiver);
                    self.tasks.spawn(keep);
                    let keeper = Keeper { pool: sender, listed, seen };
                    self.keepers.insert(pool.name().to_owned(), keeper);
                }
            }
        }
        for (server, keeper) in &self.keepers {
            let age = keeper.listed.offer().listed_at.and_then(|at| at.elapsed().ok());
            if let Some(age) = age {
                metrics.catalog.show_age(server, age.as_secs());
            }
        }
        catalog.keep(|server| pools.iter().any(|pool| pool.name() == server));
        while self.tasks.try_join_next().is_some() {}
    }

    /// Looks which names are alike, and tells of those that were not before.
    fn compare_names(&mut self) {
        let Asking { catalog, metrics, .. } = &*self.asking;
        let offers =
            self.keepers.iter().map(|(server, keeper)| (&**server, keeper.listed.offer().clone()));
        let Some(alikes) = self.looking.look(offers) else { return };
        let alikes = Arc::new(alikes);
        let before = catalog.set_alikes(Arc::clone(&alikes));
        let mut told = 0;
        for server in self.keepers.keys() {
            let now = alikes.get(&**server).map(|alikes| &**alikes).unwrap_or_default();
            for how in Likeness::ALL {
                let count = now.iter().filter(|alike| alike.how == how).count();
                if count > 0 || before.contains_key(&**server) {
                    metrics.definitions.show_alike(server, how.as_str(), count);
                }
            }
            let known = before.get(&**server).map(|alikes| &**alikes).unwrap_or_default();
            let known: HashSet<(&str, &str)> =
                known.iter().map(|alike| (&*alike.tool, alike.how.as_str())).collect();
            let is_new = |alike: &&Alike| !known.contains(&(&*alike.tool, alike.how.as_str()));
            for alike in now.iter().filter(is_new) {
                told += 1;
                if told <= ALIKE_MAX {
                    tell_alike(server, alike);
                }
            }
        }
        if told > ALIKE_MAX {
            tracing::info!(more = told - ALIKE_MAX, "further tools have names that are alike");
        }
    }

    /// Writes down what was shown, where something is new.
    async fn write_pins(&mut self) {
        let pins = Arc::clone(self.asking.catalog.pins());
        if !pins.is_unwritten() || self.write_again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let written = tokio::task::spawn_blocking(move || pins.write()).await;
        match written.map_err(std::io::Error::other).flatten() {
            Ok(()) => self.write_again = None,
            Err(error) => {
                self.asking.metrics.definitions.write_failures.inc();
                if self.write_again.is_none() {
                    tracing::warn!(%error, "the definitions that were shown cannot be written to state_dir");
                }
                self.write_again = Some(Instant::now() + WRITE_AGAIN);
            }
        }
    }

    /// Keeps every server until `stop` ends, and then ends the sessions that were opened for it. What
    /// is known stays.
    pub async fn run(mut self, fleet: &Fleet, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.follow(fleet);
            self.compare_names();
            self.write_pins().await;
            tokio::select! {
                () = sleep(FOLLOW_EVERY) => {}
                () = &mut stop => break,
            }
        }
        self.keepers.clear();
        while self.tasks.join_next().await.is_some() {}
        self.write_again = None;
        self.write_pins().await;
    }
}

/// Lists every server once, for `within` at the most and a moment to leave. To be called before the
/// gateway listens: what did not answer by then is listed in the background. Says of each server that
/// could not be listed why.
pub fn list_first(
    catalog: &Arc<Catalog>,
    fleet: &Fleet,
    metrics: &Arc<Metrics>,
    within: Duration,
) -> std::io::Result<HashMap<String, String>> {
    let pools = fleet.pools();
    let is_listed = |pool: &&Arc<Pool>| pool.settings().catalog.listing == Listing::On;
    if within.is_zero() || !pools.iter().any(|pool| is_listed(&pool)) {
        return Ok(HashMap::new());
    }
    // Connections belong to the runtime that they were opened in, so these are its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let faults = runtime.block_on(async {
        let asking = Asking::new(Arc::clone(catalog), Arc::clone(metrics));
        let until = Instant::now() + within;
        let list = async |pool: &Arc<Pool>| {
            let listed = catalog.of(pool.name());
            let Asked { fault, conversation, .. } =
                asking.list(pool, &listed, sleep_until(until)).await?;
            if let Some(mut conversation) = conversation {
                conversation.end().await;
            }
            Some((pool.name().to_owned(), fault?.0))
        };
        join_all(pools.iter().filter(is_listed).map(list)).await
    });
    runtime.shutdown_background();
    Ok(faults.into_iter().flatten().collect())
}

/// What makes another listing needed when it is otherwise: who the endpoints are.
fn seen_of(pool: &Pool) -> Vec<u64> {
    let mut seen: Vec<u64> =
        pool.members().endpoints().iter().map(|endpoint| endpoint.id()).collect();
    seen.sort_unstable();
    seen.push(pool.changes().into());
    // Which definitions are shown is decided when they are listed.
    seen.push(pool.settings().definitions.on_change as u64);
    seen
}

fn tell_alike(server: &str, alike: &Alike) {
    let tool = difference::plain(&alike.tool, NAME_CHARS_MAX);
    let others = alike
        .others
        .iter()
        .map(|(server, tool)| format!("{server}/{}", difference::plain(tool, NAME_CHARS_MAX)));
    let (others, more) = (others.collect::<Vec<_>>().join(", "), alike.more);
    match alike.how {
        Likeness::Same => tracing::info!(server, tool, others, more, "tools have the same name"),
        Likeness::Lookalike => {
            tracing::warn!(
                server,
                tool,
                others,
                more,
                "the name of a tool looks like another one's"
            );
        }
    }
}

/// Waits until nobody wants the server kept any more.
async fn told_to_stop(mut pools: watch::Receiver<Arc<Pool>>) {
    while pools.changed().await.is_ok() {}
}

/// Keeps one server, until its sender is dropped.
async fn keep(asking: Arc<Asking>, listed: Arc<Listed>, mut pools: watch::Receiver<Arc<Pool>>) {
    let mut schedule = Schedule::first(&listed.offer(), &pools.borrow());
    let mut ears = JoinSet::new();
    let mut deaf_until = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(schedule.next(&listed)) => {}
            // The time is looked at again.
            () = listed.signalled() => continue,
            changed = pools.changed() => match changed {
                Ok(()) => continue,
                Err(_) => break,
            },
            Some(heard) = ears.join_next() => {
                match heard {
                    Ok(Some(Hearing::Deaf)) => deaf_until = Instant::now() + DEAF_FOR,
                    // What was said meanwhile is lost.
                    Ok(Some(Hearing::Over)) => listed.signal(Signal::Changed),
                    Ok(None) | Err(_) => {}
                }
                continue;
            }
        }
        let pool = Arc::clone(&pools.borrow_and_update());
        let asked = asking.list(&pool, &listed, told_to_stop(pools.clone())).await;
        let Some(Asked { outcome, conversation, .. }) = asked else { break };
        schedule.listed(outcome, listed.offer().ttl, pool.settings().catalog.refresh);
        match conversation {
            Some(conversation) if ears.is_empty() && Instant::now() >= deaf_until => {
                ears.spawn(hear(conversation, Arc::clone(&listed), pools.clone()));
            }
            Some(mut conversation) => conversation.end().await,
            None => {}
        }
    }
    // They see for themselves that they should end.
    while ears.join_next().await.is_some() {}
}

/// Hears of changes for as long as the endpoint is one to speak to. `None` if the gateway left.
async fn hear(
    mut conversation: Conversation,
    listed: Arc<Listed>,
    mut pools: watch::Receiver<Arc<Pool>>,
) -> Option<Hearing> {
    let endpoint = Arc::clone(conversation.endpoint());
    let heard = {
        let hearing = conversation.hear(|| listed.changed());
        tokio::pin!(hearing);
        loop {
            let pool = Arc::clone(&pools.borrow_and_update());
            let mut bell = pool.bell();
            let is_there = pool.by_id(endpoint.id()).is_some();
            if !is_there || pool.must_leave(&endpoint, now_ms()).is_some() {
                break Some(Hearing::Over);
            }
            tokio::select! {
                heard = &mut hearing => break Some(heard),
                changed = pools.changed() => if changed.is_err() { break None },
                rung = bell.changed() => if rung.is_err() { sleep(CHANGED_MIN).await },
            }
        }
    };
    conversation.end().await;
    heard
}

impl Schedule {
    /// What was listed before the gateway was ready need not be listed again at once, except to
    /// have somebody who hears of changes.
    fn first(offer: &Offer, pool: &Pool) -> Self {
        let now = Instant::now();
        let mut schedule = Self { ended: now, due: now, failures: 0 };
        let is_fresh = offer.listed_at.is_some_and(|at| {
            SystemTime::now().duration_since(at).is_ok_and(|age| age < BACKOFF_MAX)
        });
        if is_fresh && !offer.tells {
            schedule.listed(Refresh::Listed, offer.ttl, pool.settings().catalog.refresh);
        }
        schedule
    }

    /// Sets the time of the next listing after one.
    fn listed(&mut self, outcome: Refresh, ttl: Option<Duration>, refresh: Duration) {
        self.ended = Instant::now();
        let wait = if outcome == Refresh::Listed {
            self.failures = 0;
            ttl.map_or(refresh, |ttl| ttl.clamp(TTL_MIN, TTL_MAX))
        } else {
            self.failures = self.failures.saturating_add(1);
            BACKOFF_MIN.saturating_mul(1 << (self.failures - 1).min(16)).min(BACKOFF_MAX)
        };
        self.due = self.ended + wait.mul_f64(1.0 + JITTER * fastrand::f64());
    }

    /// When the next listing begins, with what was signalled since the last.
    fn next(&self, listed: &Listed) -> Instant {
        let mut next = self.due;
        for (signal, least) in [(Signal::Changed, CHANGED_MIN), (Signal::Doubt, DOUBT_MIN)] {
            if listed.has(signal) {
                next = next.min(self.ended + least);
            }
        }
        next
    }
}
