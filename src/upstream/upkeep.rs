//! What must be done for servers each second, whoever calls: find their endpoints, probe them, show
//! them, and renew their credentials.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Discovery, Fleet, Probing, Renewal, State, now_ms};
use crate::telemetry::{EndpointShown, Metrics};

/// The upkeep of a fleet.
pub struct Upkeep {
    discovery: Discovery,
    /// Absent once the process drains.
    probing: Option<Probing>,
    renewal: Renewal,
    metrics: Arc<Metrics>,
    /// By server and URL.
    shown: HashSet<(String, String)>,
}

impl Upkeep {
    /// Finds what can be found in a moment. To be called before the gateway listens; may take a few
    /// seconds.
    pub fn new(fleet: &Fleet, metrics: &Arc<Metrics>) -> Self {
        let mut upkeep = Self {
            discovery: Discovery::new(Arc::clone(metrics)),
            probing: Some(Probing::new(Arc::clone(metrics))),
            renewal: Renewal::default(),
            metrics: Arc::clone(metrics),
            shown: HashSet::new(),
        };
        upkeep.discovery.look_now(fleet, now_ms());
        upkeep.show(fleet, now_ms());
        upkeep
    }

    /// Does what is due. To be called each second, within a runtime.
    pub fn tick(&mut self, fleet: &Fleet) {
        self.discovery.tick(fleet, now_ms());
        if let Some(probing) = &mut self.probing {
            probing.follow(fleet);
        }
        self.renewal.tick(fleet, &self.metrics);
        self.show(fleet, now_ms());
    }

    /// Probes no more, and ends the sessions that probes have opened.
    pub async fn stop_probing(&mut self) {
        if let Some(probing) = self.probing.take() {
            probing.stop().await;
        }
    }

    fn show(&mut self, fleet: &Fleet, now_ms: u64) {
        let states = || State::ALL.into_iter().map(State::as_str);
        let mut shown = HashSet::new();
        for pool in fleet.pools().iter() {
            for endpoint in pool.members().endpoints() {
                let (server, url) = (pool.name(), endpoint.url());
                let endpoint = EndpointShown {
                    server,
                    endpoint: url,
                    state: pool.state(endpoint, now_ms).as_str(),
                    sessions: endpoint.standing().sessions_kept(now_ms),
                    in_flight: endpoint.in_flight(),
                };
                self.metrics.endpoints.show(&endpoint, states());
                shown.insert((server.to_owned(), url.to_owned()));
            }
        }
        for (server, url) in self.shown.difference(&shown) {
            self.metrics.endpoints.forget(server, url, states());
        }
        self.shown = shown;
    }
}
