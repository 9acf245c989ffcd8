//! Services that carry the label which makes them servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1;
use kube::ResourceExt as _;

use super::watch::{Kind, Objects, Wanted, Watch};
use crate::config::{self, Cluster, Kubernetes, Watched};
use crate::telemetry::Metrics;

/// What the annotations begin with.
const ANNOTATIONS: &str = "toolgate.dev/";
/// How long the API server may hold up a start.
const START_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A longer annotation means nothing here.
const ANNOTATION_BYTES_MAX: usize = 1024;

impl Kind for v1::Service {}

/// A service, as far as it matters for becoming a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Seconds of its birth: who was there first keeps a name.
    pub created: i64,
    /// What is said under `toolgate.dev/`.
    pub annotations: BTreeMap<String, String>,
    /// The names of its TCP ports; the name may be empty.
    pub ports: Vec<String>,
}

/// The services of all namespaces that are looked at.
pub struct Services {
    metrics: Arc<Metrics>,
    wanted: Option<(Cluster, config::Services)>,
    watches: Vec<Followed>,
}

/// One namespace, or all of them.
struct Followed {
    namespace: Option<String>,
    /// Absent until a runtime is there for it.
    watch: Option<Watch<Service>>,
    taken: u64,
    /// The last good list; `None` until there is one.
    known: Option<Vec<Service>>,
    is_failing: bool,
}

impl Services {
    /// Nothing is known yet.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), wanted: None, watches: Vec::new() }
    }

    /// Looks for services before there is a runtime. May wait for a few seconds.
    pub fn look_now(&mut self, settings: &Kubernetes) -> Option<Vec<Service>> {
        settings.services.as_ref()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let services = runtime.block_on(async {
            self.follow(settings);
            let began = Instant::now();
            let has_answered = |followed: &Followed| {
                followed.watch.as_ref().is_some_and(|watch| watch.has_answered())
            };
            while began.elapsed() < START_MAX && !self.watches.iter().all(has_answered) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.tick(settings)
        });
        for followed in &mut self.watches {
            // It ends with this runtime, and begins again in the one that stays.
            (followed.watch, followed.taken) = (None, 0);
        }
        services
    }

    /// Every service that is known, if that is other than last time. To be called within a runtime.
    pub fn tick(&mut self, settings: &Kubernetes) -> Option<Vec<Service>> {
        let mut has_changed = self.follow(settings);
        for followed in &mut self.watches {
            has_changed |= followed.take();
            followed.report(&self.metrics);
        }
        let known = self.watches.iter().filter_map(|followed| followed.known.as_ref());
        has_changed.then(|| known.flatten().cloned().collect())
    }

    /// Watches what the settings ask for; tells whether that is something else now.
    fn follow(&mut self, settings: &Kubernetes) -> bool {
        let wanted = settings.services.as_ref().map(|services| {
            // Where it stands in its file means nothing.
            let services = config::Services { place: config::Place::default(), ..services.clone() };
            (settings.cluster.clone(), services)
        });
        let is_new = wanted != self.wanted;
        if is_new {
            let mut known = Vec::new();
            for followed in self.watches.drain(..) {
                self.metrics.endpoints.discovery_ended("", &followed.source());
                known.extend(followed.known.into_iter().flatten());
            }
            let namespaces = match &wanted {
                None => Vec::new(),
                Some((_, services)) => match services.watch {
                    Watched::Cluster => vec![None],
                    Watched::Namespaces => services.namespaces.iter().cloned().map(Some).collect(),
                },
            };
            let followed = |namespace| Followed::new(namespace, &known);
            self.watches = namespaces.into_iter().map(followed).collect();
            self.wanted = wanted;
        }
        if let Some((cluster, services)) = &self.wanted {
            for followed in &mut self.watches {
                followed.watch.get_or_insert_with(|| {
                    Watch::start(Wanted::<v1::Service, Service> {
                        cluster: cluster.clone(),
                        namespace: followed.namespace.clone(),
                        label: services.label.clone(),
                        keep,
                    })
                });
            }
        }
        is_new
    }
}

impl Followed {
    /// What was known of it before counts until its first list.
    fn new(namespace: Option<String>, known: &[Service]) -> Self {
        let is_own = |service: &&Service| {
            namespace.as_ref().is_none_or(|namespace| service.namespace == *namespace)
        };
        let known: Vec<Service> = known.iter().filter(is_own).cloned().collect();
        let known = (!known.is_empty()).then_some(known);
        Self { namespace, watch: None, taken: 0, known, is_failing: false }
    }

    fn take(&mut self) -> bool {
        let all = |services: &Objects<Service>| services.values().cloned().collect::<Vec<_>>();
        let Some((version, services)) =
            self.watch.as_ref().and_then(|watch| watch.since(self.taken, all))
        else {
            return false;
        };
        self.taken = version;
        let is_new = self.known.as_ref() != Some(&services);
        self.known = Some(services);
        is_new
    }

    fn report(&mut self, metrics: &Metrics) {
        let source = self.source();
        match self.watch.as_ref().and_then(Watch::fault) {
            Some(fault) => {
                if !self.is_failing {
                    tracing::warn!(source, fault, "services not seen; the last good list is kept");
                }
                metrics.endpoints.discovery_fails("", &source);
                self.is_failing = true;
            }
            None if self.taken == 0 => {}
            None => {
                if self.is_failing {
                    tracing::info!(source, "services seen again");
                }
                metrics.endpoints.discovery_works("", &source);
                self.is_failing = false;
            }
        }
    }

    /// What metrics and logs call it.
    fn source(&self) -> String {
        format!("{}/services", self.namespace.as_deref().unwrap_or("*"))
    }
}

fn keep(service: &v1::Service) -> Option<Service> {
    let own = |(key, value): (&String, &String)| {
        let key = key.strip_prefix(ANNOTATIONS)?;
        (value.len() <= ANNOTATION_BYTES_MAX).then(|| (key.to_owned(), value.clone()))
    };
    let spec = service.spec.as_ref()?;
    let is_tcp =
        |port: &&v1::ServicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let ports = spec.ports.iter().flatten().filter(is_tcp);
    Some(Service {
        namespace: service.namespace()?,
        name: service.name_any(),
        created: service.creation_timestamp().map_or(i64::MAX, |at| at.0.as_second()),
        annotations: service.annotations().iter().filter_map(own).collect(),
        ports: ports.map(|port| port.name.clone().unwrap_or_default()).collect(),
    })
}
