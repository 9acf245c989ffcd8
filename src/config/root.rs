//! The whole file: its sections brought together, and the rules between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Settings;
use super::admin::{AdminText, HealthListenerText, Registration};
use super::audit::AuditText;
use super::catalog::{Catalog, CatalogText};
use super::identity::{self, IdentityText, IncludedIdentityText};
use super::include::{self, IncludedText, RegisteredText};
use super::kubernetes::{Kubernetes, KubernetesText};
use super::limits::{self, LimitText};
use super::links::{Completeness, ServerNames};
use super::listeners::{Listener, ListenerText};
use super::place::{Place, SourceId};
use super::policy::{self, Surroundings};
use super::policy_texts::PolicyText;
use super::problem::Problems;
use super::reading::Reading;
use super::routes::{self, PublicUrls, RouteText};
use super::runtime::{Runtime, RuntimeText};
use super::servers::{self, ServerText};
use super::sessions::{Sessions, SessionsText};
use super::shape::{At, Entries, Field, shape};
use super::shared::{Shared, SharedText};
use super::telemetry::{self, TelemetryText};
use super::tree::compose;

/// Where the gateway keeps what must outlive the process, unless the file says otherwise.
const STATE_DIR: &str = ".toolgate";

shape! {
    /// The configuration of Toolgate, the MCP gateway.
    RootText {
        /// Further files with servers, routes and API keys; `*` and `?` match within a name, relative to this file.
        optional include: Vec<Field<String>>,
        /// One plain address where clients connect; short for listeners with this address.
        optional listen: SocketAddr,
        /// The addresses where clients connect.
        optional listeners: Vec<Field<ListenerText>>,
        /// The listener for probes and metrics.
        optional health: HealthListenerText,
        /// The listener for operators.
        optional admin: AdminText,
        /// What the process may use.
        optional runtime: RuntimeText,
        /// Where the gateway keeps what must outlive the process; relative to the working directory.
        optional state_dir: PathBuf,
        /// How MCP sessions are sealed, and when they end.
        optional sessions: SessionsText,
        /// What replicas of the gateway have in common, and the store that keeps it; without it each replica is alone.
        optional shared: SharedText,
        /// Whether and how often servers are asked what they offer.
        optional catalog: CatalogText,
        /// The MCP servers by name.
        optional servers: Entries<ServerText>,
        /// The public paths and what answers them.
        optional routes: Vec<Field<RouteText>>,
        /// How Kubernetes is asked for endpoints and servers; the gateway must be built with the feature `kubernetes`.
        optional kubernetes: KubernetesText,
        /// Who may call.
        optional identity: IdentityText,
        /// What callers may do.
        optional policy: PolicyText,
        /// How much is served; several limits may hold for one call.
        optional limits: Vec<Field<LimitText>>,
        /// The record of what happened; without this section there is none.
        optional audit: AuditText,
        /// What the gateway tells about itself.
        optional telemetry: TelemetryText,
    }
}

/// The files beside those that the configuration names.
#[derive(Default)]
pub(super) struct Files<'f> {
    /// The main file; a text that comes from no file has none.
    pub(super) main: Option<&'f Path>,
    /// What was registered while the gateway ran.
    pub(super) registered: Option<&'f Path>,
    /// What was discovered while it ran, in the same form.
    pub(super) discovered: Option<&'f str>,
}

impl Files<'_> {
    fn registered(&self, reading: &mut Reading<'_>) -> Field<RegisteredText> {
        let registered = self.registered;
        registered.map_or(Field::Absent, |file| include::read_registered(file, reading))
    }

    fn discovered(&self, reading: &mut Reading<'_>) -> Field<RegisteredText> {
        let discovered = self.discovered;
        discovered.map_or(Field::Absent, |text| include::read_discovered(text, reading))
    }
}

/// Makes settings of one source and what it includes, or tells everything that is wrong.
pub(super) fn settings(
    source: SourceId,
    files: &Files<'_>,
    mut reading: Reading<'_>,
) -> Result<Settings, Problems> {
    let checked =
        read(source, &mut reading).and_then(|root| root.check(source, files, &mut reading));
    let Reading { environment: _, texts, problems } = reading;
    let sources = Arc::new(texts.into_sources());
    match checked {
        Some(settings) if problems.is_empty() => Ok(Settings { sources, ..settings }),
        Some(_) | None => Err(Problems::new(sources, problems)),
    }
}

fn read(source: SourceId, reading: &mut Reading<'_>) -> Option<RootText> {
    match compose(source, reading) {
        Some(root) => Field::read(&root, reading).value(),
        None => {
            // Without a tree something is noted already, except for a text without any value.
            if reading.problems.is_empty() {
                reading.problem(
                    Place::start(source),
                    "the file is empty",
                    "begin with conf/minimal.yaml",
                );
            }
            None
        }
    }
}

impl RootText {
    fn check(
        self,
        source: SourceId,
        files: &Files<'_>,
        reading: &mut Reading<'_>,
    ) -> Option<Settings> {
        let Self {
            include,
            listen,
            listeners,
            health,
            admin,
            runtime,
            state_dir,
            sessions,
            shared,
            catalog,
            servers,
            routes,
            kubernetes,
            identity,
            limits,
            policy,
            audit,
            telemetry,
        } = self;
        let start = Place::start(source);
        let (sessions, shared) = check_sessions(sessions, shared, reading);
        let listeners = check_listeners(start, listen, listeners, reading);
        let health = health.value().and_then(HealthListenerText::check);
        let registration = Registration::new(&admin);
        let admin = admin.value().and_then(|admin| admin.check(reading));
        let others = [health.as_ref(), admin.as_ref().map(|(listen, _)| listen)];
        note_shared_addresses(&listeners, others, reading);
        let included = include::read_all(files.main, include, reading);
        let own = (servers, routes, policy);
        let mut all = Merged::new(own, included, files.registered(reading));
        let public_urls = identity::public_urls(&identity);
        let kubernetes = check_kubernetes(kubernetes, public_urls, reading);
        all.note_nothing(start, &kubernetes, reading);
        let shadowed = all.add_discovered(files.discovered(reading));
        let names = all.names();
        let catalog = catalog.value().map_or_else(Catalog::default, CatalogText::check);
        let around = (&registration, &kubernetes.cluster);
        let servers = servers::check(all.servers, around, &catalog.servers, reading);
        let routes = routes::check(all.routes, &names, public_urls, reading);
        let problems_before = reading.problems.len();
        let is_faulty = matches!(identity, Field::Faulty);
        let identity = identity::check(identity.value(), all.identities, &listeners, reading);
        let callers = match is_faulty || reading.problems.len() > problems_before {
            true => Completeness::Partial,
            false => all.completeness,
        };
        let around = Surroundings { servers: &names, identity: &identity, callers };
        let policy = policy::check(all.policies, &around, reading);
        let runtime = runtime.value().map_or_else(Runtime::default, RuntimeText::check);
        Some(Settings {
            identity,
            policy,
            limits: limits::check(limits.or(Vec::new()), &names, reading),
            listeners,
            health: health.map(|health| health.value),
            admin: admin.map(|(_, admin)| admin),
            state_dir: state_dir.or(PathBuf::from(STATE_DIR)),
            sessions,
            shared,
            catalog,
            servers,
            routes,
            shadowed,
            kubernetes,
            audit: audit.value().map(|audit| audit.check(runtime.streams_max, reading)),
            runtime,
            telemetry: telemetry::check(telemetry.value(), reading),
            sources: Arc::default(),
        })
    }
}

/// What the main file itself defines of what several may.
type Own = (Field<Entries<ServerText>>, Field<Vec<Field<RouteText>>>, Field<PolicyText>);

/// What several files may define together.
struct Merged {
    servers: Entries<ServerText>,
    routes: Vec<Field<RouteText>>,
    identities: Vec<IncludedIdentityText>,
    policies: Vec<PolicyText>,
    completeness: Completeness,
}

impl Merged {
    /// The main file's come first, as everywhere.
    fn new(
        (servers, routes, policy): Own,
        included: Vec<Field<IncludedText>>,
        registered: Field<RegisteredText>,
    ) -> Self {
        let mut merged = Self {
            servers: Entries(Vec::new()),
            routes: Vec::new(),
            identities: Vec::new(),
            policies: Vec::from_iter(policy.value()),
            completeness: Completeness::Whole,
        };
        merged.add(servers, routes);
        for file in included {
            match file {
                Field::Given(At {
                    value: IncludedText { servers, routes, identity, policy },
                    ..
                }) => {
                    merged.add(servers, routes);
                    merged.identities.extend(identity.value());
                    merged.policies.extend(policy.value());
                }
                Field::Absent => {}
                Field::Faulty => merged.completeness = Completeness::Partial,
            }
        }
        match registered {
            Field::Given(At { value: RegisteredText { servers, routes }, .. }) => {
                merged.add(servers, routes);
            }
            Field::Absent => {}
            Field::Faulty => merged.completeness = Completeness::Partial,
        }
        merged
    }

    /// Adds what was discovered, but nothing that has a name, a path or a public URL that is there
    /// already: whoever writes the configuration decides. Tells the names of servers it left out.
    fn add_discovered(&mut self, discovered: Field<RegisteredText>) -> Vec<String> {
        let Field::Given(At { value: RegisteredText { servers, routes }, .. }) = discovered else {
            return Vec::new();
        };
        let names: BTreeSet<String> =
            self.servers.0.iter().map(|(name, _)| name.value.clone()).collect();
        let known: Vec<&RouteText> = self.routes.iter().filter_map(Field::as_value).collect();
        let routes = routes.value().into_iter().flatten();
        let (own, clashing): (Vec<_>, Vec<_>) = routes.partition(|route| {
            let is_new = |route: &RouteText| !known.iter().any(|known| known.clashes(route));
            route.as_value().is_none_or(is_new)
        });
        let of = |route: &Field<RouteText>| route.as_value()?.server_name().map(str::to_owned);
        let without_route: BTreeSet<String> = clashing.iter().filter_map(of).collect();
        let servers = servers.value().into_iter().flat_map(|servers| servers.0);
        let (left_out, taken): (Vec<_>, Vec<_>) = servers.partition(|(name, _)| {
            names.contains(&name.value) || without_route.contains(&name.value)
        });
        let left_out: Vec<String> = left_out.into_iter().map(|(name, _)| name.value).collect();
        self.servers.0.extend(taken);
        let is_served =
            |route: &Field<RouteText>| of(route).is_none_or(|name| !left_out.contains(&name));
        self.routes.extend(own.into_iter().filter(is_served));
        left_out
    }

    fn names(&self) -> ServerNames {
        let names = self.servers.0.iter().map(|(name, _)| name.value.clone()).collect();
        ServerNames::new(names, self.completeness)
    }

    /// A gateway without any server or route, now or later, could answer nothing.
    fn note_nothing(&self, start: Place, kubernetes: &Kubernetes, reading: &mut Reading<'_>) {
        if self.completeness == Completeness::Partial || kubernetes.services.is_some() {
            return;
        }
        if self.servers.0.is_empty() {
            let hint = "add `servers:` with a name and its `endpoints:`";
            reading.problem(start, "no server is defined", hint);
        }
        if self.routes.is_empty() {
            let hint = "add `routes:` with `path:` and `server:`";
            reading.problem(start, "no route is defined", hint);
        }
    }

    fn add(&mut self, servers: Field<Entries<ServerText>>, routes: Field<Vec<Field<RouteText>>>) {
        if matches!(servers, Field::Faulty) || matches!(routes, Field::Faulty) {
            self.completeness = Completeness::Partial;
        }
        self.servers.0.extend(servers.value().into_iter().flat_map(|servers| servers.0));
        self.routes.extend(routes.value().into_iter().flatten());
    }
}

fn check_kubernetes(
    kubernetes: Field<KubernetesText>,
    public_urls: PublicUrls,
    reading: &mut Reading<'_>,
) -> Kubernetes {
    let kubernetes = kubernetes.value().map(|kubernetes| kubernetes.check(public_urls, reading));
    kubernetes.unwrap_or_default()
}

/// What is shared needs the keys of sessions, wherever in the file they stand.
fn check_sessions(
    sessions: Field<SessionsText>,
    shared: Field<SharedText>,
    reading: &mut Reading<'_>,
) -> (Sessions, Option<Shared>) {
    let sessions = match sessions {
        Field::Absent => Some(Sessions::default()),
        Field::Faulty => None,
        Field::Given(sessions) => Some(sessions.value.check(reading)),
    };
    let check =
        |At { head, value, .. }: At<SharedText>| value.check(head, sessions.as_ref(), reading);
    let shared = shared.given().and_then(check);
    (sessions.unwrap_or_default(), shared)
}

fn check_listeners(
    start: Place,
    listen: Field<SocketAddr>,
    listeners: Field<Vec<Field<ListenerText>>>,
    reading: &mut Reading<'_>,
) -> Vec<Listener> {
    match (&listen, &listeners) {
        (Field::Absent, Field::Absent) => {
            reading.problem(start, "no listener is defined", "add `listen: 127.0.0.1:8080`")
        }
        (Field::Given(listen), Field::Given(_)) => {
            reading.problem(
                listen.head,
                "`listen` and `listeners` are both given",
                "move the address into `listeners`",
            );
        }
        _ => {}
    }
    if let Some(empty) = listeners.as_given().filter(|listeners| listeners.value.is_empty()) {
        reading.problem(
            empty.head,
            "the list of listeners is empty",
            "add `- address: 127.0.0.1:8080`",
        );
    }
    let texts = listeners.or(Vec::new()).into_iter().filter_map(Field::value);
    let mut checked: Vec<Listener> = texts.filter_map(|text| text.check(reading)).collect();
    checked.extend(listen.given().map(|listen| Listener::at(&listen)));
    checked
}

/// Two sockets cannot share an address, and an address of all interfaces takes its port everywhere.
fn note_shared_addresses(
    listeners: &[Listener],
    others: [Option<&At<SocketAddr>>; 2],
    reading: &mut Reading<'_>,
) {
    let others = others.into_iter().flatten().map(|at| (at.place, at.value));
    let mut addresses: Vec<(Place, SocketAddr)> =
        listeners.iter().map(|listener| (listener.place, listener.address)).chain(others).collect();
    addresses.sort();
    for (index, (place, address)) in addresses.iter().enumerate() {
        if let Some((first, _)) =
            addresses[..index].iter().find(|(_, other)| collide(*address, *other))
        {
            let hint = format!("the other is at {}", reading.texts.locate(*first));
            reading.problem(*place, "another listener has this address", hint);
        }
    }
}

/// Port 0 means any free port, which is never the same twice.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() == b.port() && a.port() != 0 && overlap
}
