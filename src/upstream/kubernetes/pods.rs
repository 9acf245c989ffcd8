//! The pods of services as endpoints: watched for each server, drained while they are being stopped.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::slices::{self, Slice, Stay};
use super::watch::{Kind, Objects, Wanted, Watch};
use crate::config;
use crate::telemetry::Metrics;
use crate::upstream::discovery::found_at;
use crate::upstream::standing::ms;
use crate::upstream::{Fleet, Found, Pool, Source, id_of};

/// The label of slices that names their service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// How long the API server may hold up a start.
const START_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Kind for EndpointSlice {}

/// What is watched for each server whose endpoints are pods.
#[derive(Default)]
pub(in crate::upstream) struct Watches {
    servers: HashMap<String, Watched>,
}

/// A pod, and whether it is going to stay.
type Seen = (SocketAddr, Stay);

struct Watched {
    pods: config::Pods,
    /// Absent until a runtime is there for it.
    watch: Option<Watch<Slice>>,
    /// The version of the slices that was taken last.
    taken: u64,
    /// Where they led.
    known: Vec<Seen>,
    /// When what is known ends, if there is no slice any more: the service is gone, and its pods may not be.
    ends_at_ms: Option<u64>,
    /// Why the slices lead to no endpoint.
    fault: Option<String>,
    is_failing: bool,
    /// The names of pods that are being stopped.
    leaving: HashSet<String>,
    /// And of those of them that are drained for that.
    drained: HashSet<String>,
}

impl Watches {
    /// Finds what can be found in a moment, before there is a runtime. May wait for a few seconds.
    pub(in crate::upstream) fn look_now(
        &mut self,
        pools: &[Arc<Pool>],
        found: &mut HashMap<String, Vec<Found>>,
        metrics: &Metrics,
        now_ms: u64,
    ) {
        if !pools.iter().any(|pool| pods_of(pool).is_some()) {
            return;
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::warn!(%error, "no runtime to find pods in");
                return;
            }
        };
        runtime.block_on(async {
            self.follow(pools, metrics);
            let began = Instant::now();
            let has_answered = |watched: &Watched| {
                watched.watch.as_ref().is_some_and(|watch| watch.has_answered())
            };
            while began.elapsed() < START_MAX && !self.servers.values().all(has_answered) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        self.take(found, metrics, now_ms);
        for watched in self.servers.values_mut() {
            // It ends with this runtime, and begins again in the one that stays.
            (watched.watch, watched.taken) = (None, 0);
        }
    }

    /// Takes what was seen since the last time. To be called within a runtime.
    pub(in crate::upstream) fn tick(
        &mut self,
        pools: &[Arc<Pool>],
        found: &mut HashMap<String, Vec<Found>>,
        metrics: &Metrics,
        now_ms: u64,
    ) {
        self.follow(pools, metrics);
        self.take(found, metrics, now_ms);
    }

    /// Drains the pods that are being stopped, once they are in their pools.
    pub(in crate::upstream) fn drain(&mut self, fleet: &Fleet, now_ms: u64) {
        for (server, watched) in &mut self.servers {
            let Watched { leaving, drained, pods, .. } = watched;
            for name in leaving.difference(drained) {
                fleet.drain(server, name, now_ms.saturating_add(ms(pods.drain)));
                tracing::info!(server, endpoint = name, "a pod is being stopped; it drains");
            }
            for name in drained.difference(leaving) {
                // One that is gone is not found, and need not be.
                fleet.undrain(server, name, now_ms);
            }
            drained.clone_from(leaving);
        }
    }

    fn follow(&mut self, pools: &[Arc<Pool>], metrics: &Metrics) {
        self.servers.retain(|server, watched| {
            let pool = pools.iter().find(|pool| pool.name() == server);
            let stays = pool
                .and_then(|pool| pods_of(pool))
                .is_some_and(|pods| is_same_service(pods, &watched.pods));
            if !stays {
                metrics.endpoints.discovery_ended(server, &source(&watched.pods));
            }
            stays
        });
        for pool in pools {
            let Some(pods) = pods_of(pool) else { continue };
            let watched = self
                .servers
                .entry(pool.name().to_owned())
                .or_insert_with(|| Watched::new(pods.clone()));
            if watched.pods != *pods {
                (watched.pods, watched.taken) = (pods.clone(), 0);
            }
            watched.watch.get_or_insert_with(|| {
                Watch::start(Wanted::<EndpointSlice, Slice> {
                    cluster: pods.cluster.clone(),
                    namespace: Some(pods.namespace.clone()),
                    label: format!("{SERVICE_LABEL}={}", pods.service),
                    keep: slices::keep,
                })
            });
        }
    }

    fn take(&mut self, found: &mut HashMap<String, Vec<Found>>, metrics: &Metrics, now_ms: u64) {
        for (server, watched) in &mut self.servers {
            if let Some(pods) = watched.news(now_ms).map(<[Seen]>::to_vec) {
                let mut leaving = HashSet::new();
                let all = pods.into_iter().map(|(address, stay)| {
                    let template = watched.pods.endpoint(address.port());
                    let found = found_at(&template, address.ip(), Source::Kubernetes);
                    if stay == Stay::Leaves {
                        leaving.insert(format!("{:016x}", id_of(&found.endpoint.url)));
                    }
                    found
                });
                found.insert(server.clone(), all.collect());
                watched.leaving = leaving;
            }
            watched.report(server, metrics);
        }
    }
}

impl Watched {
    fn new(pods: config::Pods) -> Self {
        Self {
            pods,
            watch: None,
            taken: 0,
            known: Vec::new(),
            ends_at_ms: None,
            fault: None,
            is_failing: false,
            leaving: HashSet::new(),
            drained: HashSet::new(),
        }
    }

    /// The pods, if they are others than last time.
    fn news(&mut self, now_ms: u64) -> Option<&[Seen]> {
        let port = self.pods.port.as_ref();
        let made =
            |slices: &Objects<Slice>| (slices.is_empty(), slices::pods(slices.values(), port));
        let seen = self.watch.as_ref().and_then(|watch| watch.since(self.taken, made));
        match seen {
            Some((version, (is_empty, pods))) => {
                self.taken = version;
                self.fault = pods.as_ref().err().cloned();
                let pods = pods.ok()?;
                if is_empty && !self.known.is_empty() {
                    let ends_at_ms = now_ms.saturating_add(ms(self.pods.drain));
                    self.ends_at_ms.get_or_insert(ends_at_ms);
                    self.known.iter_mut().for_each(|(_, stay)| *stay = Stay::Leaves);
                } else {
                    (self.known, self.ends_at_ms) = (pods, None);
                }
            }
            None if self.ends_at_ms.is_some_and(|at_ms| at_ms <= now_ms) => {
                (self.known, self.ends_at_ms) = (Vec::new(), None);
            }
            None => return None,
        }
        Some(&self.known)
    }

    /// Says when it begins to fail and when that ends.
    fn report(&mut self, server: &str, metrics: &Metrics) {
        let fault = self.fault.clone();
        let fault = fault.or_else(|| self.watch.as_ref().and_then(Watch::fault));
        let source = source(&self.pods);
        match fault {
            Some(fault) => {
                if !self.is_failing {
                    tracing::warn!(
                        server,
                        service = source,
                        fault,
                        "pods not found; the last good ones are kept"
                    );
                }
                metrics.endpoints.discovery_fails(server, &source);
                self.is_failing = true;
            }
            // Before the first list nobody knows.
            None if self.taken == 0 => {}
            None => {
                if self.is_failing {
                    tracing::info!(server, service = source, "pods found again");
                }
                metrics.endpoints.discovery_works(server, &source);
                self.is_failing = false;
            }
        }
    }
}

fn pods_of(pool: &Pool) -> Option<&config::Pods> {
    match &pool.settings().discovery {
        Some(config::Discovery::Kubernetes(pods)) => Some(pods),
        _ => None,
    }
}

fn is_same_service(pods: &config::Pods, other: &config::Pods) -> bool {
    (&pods.cluster, &pods.namespace, &pods.service)
        == (&other.cluster, &other.namespace, &other.service)
}

/// What metrics and logs call it.
fn source(pods: &config::Pods) -> String {
    format!("{}/{}", pods.namespace, pods.service)
}
