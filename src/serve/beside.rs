//! What runs beside the requests: keys, sessions, offers and connections are kept.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::ServiceWithDependents;
use pingora::services::background::{BackgroundService, background_service};
use tokio::sync::Mutex;

use crate::audit::{Event, Record, Target};
use crate::catalog::{DefinitionChange, Keeping};
use crate::proxy::Shared;
use crate::upstream::{Upkeep, now_ms};

/// How often sessions that nobody uses are looked for: an eighth of the time they may idle, within
/// these bounds.
const REAP_EVERY_MIN: Duration = Duration::from_secs(1);
const REAP_EVERY_MAX: Duration = Duration::from_secs(60);
/// How soon after its deadline a drained endpoint's streams move.
const WAKE_EVERY: Duration = Duration::from_millis(200);
/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What runs beside the requests.
pub(super) fn beside(
    shared: &Arc<Shared>,
    housekeeping: Housekeeping,
) -> [Box<dyn ServiceWithDependents>; 5] {
    let mut housekeeping = background_service("housekeeping", housekeeping);
    housekeeping.threads = Some(1);
    let mut sessions = background_service("sessions", SessionKeeping(Arc::clone(shared)));
    sessions.threads = Some(1);
    let mut keys = background_service("keys", KeyKeeping(Arc::clone(shared)));
    keys.threads = Some(1);
    let mut catalog = background_service("catalog", CatalogKeeping(Arc::clone(shared)));
    catalog.threads = Some(1);
    let mut replicas = background_service("replicas", ReplicaKeeping(Arc::clone(shared)));
    replicas.threads = Some(1);
    [
        Box::new(housekeeping),
        Box::new(sessions),
        Box::new(keys),
        Box::new(catalog),
        Box::new(replicas),
    ]
}

/// Keeps in step with the other replicas.
struct ReplicaKeeping(Arc<Shared>);

#[async_trait]
impl BackgroundService for ReplicaKeeping {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let shared = &self.0;
        let mut drained = shutdown.clone();
        let end = async move {
            // Calls ask until the last connection ends.
            drop(shutdown.changed().await);
        };
        let following = async {
            tokio::join!(shared.lasting().marks.share());
        };
        let keeping = async {
            tokio::select! {
                () = shared.store().keep(end) => {}
                () = following => {}
            }
        };
        let limiting = async {
            tokio::select! {
                // Calls hold their places while the process drains.
                () = shared.lasting().limits.share() => {}
                _ = drained.wait_for(|_| false) => {}
            }
        };
        tokio::join!(keeping, limiting);
    }
}

/// Keeps the keys of those who issue tokens.
struct KeyKeeping(Arc<Shared>);

#[async_trait]
impl BackgroundService for KeyKeeping {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let end = async move {
            // Tokens come until the last connection ends; keys that are there stay until then.
            drop(shutdown.changed().await);
        };
        self.0.snapshot().identity.authorities().keep(end).await;
    }
}

/// Ends sessions that nobody uses, and wakes those whose time at an endpoint is over.
struct SessionKeeping(Arc<Shared>);

#[async_trait]
impl BackgroundService for SessionKeeping {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let reaping = async {
            loop {
                let idle = Duration::from_secs(self.0.snapshot().session_rules.idle_s.into());
                tokio::time::sleep((idle / 8).clamp(REAP_EVERY_MIN, REAP_EVERY_MAX)).await;
                self.0.reap().await;
            }
        };
        let waking = async {
            let mut since_ms = now_ms();
            loop {
                tokio::time::sleep(WAKE_EVERY).await;
                let now_ms = now_ms();
                self.0.fleet().wake_drained(since_ms, now_ms);
                since_ms = now_ms;
            }
        };
        let leaving = async {
            self.0.lifecycle().draining().await;
            // Streams look around, and see that they should end.
            self.0.fleet().ring_all();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // It goes on while the process drains: sessions still move then.
            () = reaping => {}
            () = waking => {}
            () = self.0.share_sessions() => {}
            () = leaving => {}
            _ = shutdown.wait_for(|_| false) => {}
        }
    }
}

/// Keeps what is known of the servers' offers true.
struct CatalogKeeping(Arc<Shared>);

#[async_trait]
impl BackgroundService for CatalogKeeping {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let shared = &self.0;
        // The process waits until the sessions of listings are ended.
        let _listing = shared.lifecycle().hold();
        let catalog = Arc::clone(&shared.snapshot().catalog);
        let keeping = Keeping::new(&catalog, shared.metrics());
        let recording = async {
            loop {
                record(shared, &catalog.pins().news().await);
            }
        };
        tokio::select! {
            // A process that shuts down drains already.
            () = keeping.run(shared.fleet(), shared.lifecycle().draining()) => {}
            () = recording => {}
        }
        record(shared, &catalog.pins().take_news());
    }
}

/// Records what became of definitions.
fn record(shared: &Shared, changes: &[DefinitionChange]) {
    let Some(audit) = shared.audit() else { return };
    for DefinitionChange { server, tool, what, difference } in changes {
        audit.event(&Record {
            server,
            target: (!tool.is_empty()).then_some(Target::Tool(tool)),
            outcome: &format!("{}: {}", what.as_str(), difference.join("; ")),
            ..Record::new(Event::DefinitionChange)
        });
    }
}

/// What must be done now and then, whoever calls.
pub(super) struct Housekeeping {
    shared: Arc<Shared>,
    upkeep: Mutex<Upkeep>,
}

impl Housekeeping {
    /// Before the gateway listens: endpoints that can be found at once are found.
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let upkeep = Mutex::new(Upkeep::new(shared.fleet(), shared.metrics()));
        Self { shared: Arc::clone(shared), upkeep }
    }
}

#[async_trait]
impl BackgroundService for Housekeeping {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut upkeep = self.upkeep.lock().await;
        let lifecycle = self.shared.lifecycle();
        // The process waits until the sessions of probes are ended.
        let mut probing = Some(lifecycle.hold());
        let mut is_over = false;
        loop {
            // In this order: a process that shuts down drains already.
            is_over |= *shutdown.borrow();
            let is_draining = lifecycle.is_draining();
            if is_draining {
                upkeep.stop_probing().await;
                probing = None;
            }
            if is_over {
                break;
            }
            self.shared.sweep();
            upkeep.tick(self.shared.fleet());
            tokio::select! {
                () = tokio::time::sleep(SWEEP_EVERY) => {}
                () = lifecycle.draining(), if !is_draining => {}
                changed = shutdown.changed() => is_over = changed.is_err(),
            }
        }
        drop(probing);
    }
}
