//! Asks for credentials before they end, and looks after the files that hold some.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Credentials;
use crate::config::CredentialSource;
use crate::telemetry::Metrics;
use crate::upstream::{Fleet, now_ms};

/// How many callers' credentials of one server are renewed in one second.
const CALLERS_MAX: usize = 64;

/// The credentials that are asked for now.
#[derive(Default)]
pub struct Renewal {
    tasks: JoinSet<()>,
}

impl Renewal {
    /// Renews what is due. To be called each second, within a runtime.
    pub fn tick(&mut self, fleet: &Fleet, metrics: &Metrics) {
        while self.tasks.try_join_next().is_some() {}
        for pool in fleet.pools().iter() {
            let credentials = pool.credentials();
            let (issued, denied) = credentials.take_counts();
            metrics.credentials.count(pool.name(), issued, denied);
            let Some(settings) = &credentials.settings else { continue };
            match &settings.source {
                CredentialSource::Value(_) => {}
                CredentialSource::TokenFile(path) => credentials.read_file(path),
                CredentialSource::TokenExchange(_) => {
                    if !credentials.is_per_caller() {
                        self.renew_kept(credentials);
                    }
                    self.renew_callers(credentials);
                }
                _ => self.renew_kept(credentials),
            }
        }
    }

    fn renew_kept(&mut self, credentials: &Arc<Credentials>) {
        if credentials.kept.is_due(now_ms()) {
            let credentials = Arc::clone(credentials);
            self.tasks.spawn(async move {
                credentials.kept.renew(|| credentials.ask(None)).await;
            });
        }
    }

    fn renew_callers(&mut self, credentials: &Arc<Credentials>) {
        for (key, token) in credentials.callers.take_waiting(CALLERS_MAX) {
            let credentials = Arc::clone(credentials);
            self.tasks.spawn(async move {
                let asked = credentials.ask(Some(token.expose())).await;
                credentials.callers.renewed(key, asked);
            });
        }
    }
}
