//! What live operation needs in the background: SIGHUP, changed files, leases that end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::api::Api;
use super::reload::Trigger;
use crate::upstream::now_ms;

/// How often files and leases are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The background of live operation.
pub struct Upkeep(Arc<Api>);

impl Upkeep {
    /// Keeps this up. From now on SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// When signals cannot be heard.
    pub fn new(api: Arc<Api>) -> io::Result<Self> {
        // The first listener changes what the signal does for good; those who act come later.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        drop(signal(SignalKind::hangup())?);
        Ok(Self(api))
    }

    /// Reads files and looks names up, which must not keep signals from being heard.
    async fn blocking(&self, work: impl FnOnce(&Api) + Send + 'static) {
        let api = Arc::clone(&self.0);
        if let Err(error) = tokio::task::spawn_blocking(move || work(&api)).await {
            tracing::error!(%error, "live operation failed");
        }
    }
}

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(signal) => Some(signal),
            Err(error) => {
                tracing::error!(%error, "SIGHUP cannot be heard");
                None
            }
        };
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut sharing = std::pin::pin!(Arc::clone(&self.0).share());
        while !*shutdown.borrow() {
            tokio::select! {
                () = &mut sharing => {}
                _ = shutdown.changed() => {}
                () = heard(&mut hangup) => self.blocking(|api| reload(api, Trigger::Signal)).await,
                _ = looks.tick() => self.blocking(look).await,
            }
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

fn look(api: &Api) {
    let fleet = api.reload().shared().fleet();
    let bequest = api.reload().bequest();
    // While a successor takes over nobody can renew a lease.
    if !bequest.is_under_way() {
        for (server, endpoint) in fleet.expire_leases(now_ms()) {
            api.note_expired(&server, &endpoint);
        }
    }
    bequest.drain_found(fleet);
    if api.reload().is_due() {
        reload(api, Trigger::Files);
    }
    #[cfg(feature = "kubernetes")]
    api.reload().discovered().follow(api.reload());
    api.take_note();
}

fn reload(api: &Api, trigger: Trigger) {
    // What came of it is in the log and the metrics, where nobody waits for an answer.
    drop(api.reload().reload(trigger));
}
