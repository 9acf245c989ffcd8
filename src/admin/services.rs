//! Services of Kubernetes become servers: those that carry the label, where the configuration approves
//! their namespace, and nothing that the configuration has itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::discovered::{Became, Discovered, Reported};
use super::reload::{Reload, Trigger};
use crate::config::{self, Kubernetes};
use crate::telemetry::Metrics;
use crate::upstream::{Fleet, Service, Services, now_ms};

/// The annotations that are read, less their `toolgate.dev/`.
const ANNOTATIONS: [&str; 4] = ["name", "path", "port", "scheme"];
/// The port of an MCP server where a service has several.
const PORT: &str = "mcp";
/// More servers than that are a mistake; the rest is left out.
const SERVERS_MAX: usize = 1_000;

/// The services that are followed, and the servers they are.
pub(super) struct Following {
    services: Services,
    /// What was seen last.
    seen: Vec<Service>,
    /// By name.
    servers: BTreeMap<String, Served>,
    /// What was said in the log of services that are no servers.
    told: BTreeSet<(String, String, String)>,
}

/// A service that is a server.
#[derive(Clone, Debug, PartialEq)]
struct Served {
    namespace: String,
    service: String,
    path: String,
    server: Value,
    route: Value,
    /// When it is taken out, if its service is gone.
    leaves_at_ms: Option<u64>,
}

impl Discovered {
    /// Takes the services that can be found in a moment, before there is a runtime.
    pub(super) fn look_now(&self, reload: &Reload) {
        let mut following = self.following.lock();
        let settings = reload.settings();
        let seen = following.services.look_now(&settings.kubernetes);
        following.take(seen, self, reload);
    }

    /// Takes what was seen since the last time. To be called each second, within a runtime; blocks.
    pub(super) fn follow(&self, reload: &Reload) {
        let mut following = self.following.lock();
        let seen = following.services.tick(&reload.settings().kubernetes);
        following.take(seen, self, reload);
    }
}

impl Following {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            services: Services::new(metrics),
            seen: Vec::new(),
            servers: BTreeMap::new(),
            told: BTreeSet::new(),
        }
    }

    fn take(&mut self, seen: Option<Vec<Service>>, discovered: &Discovered, reload: &Reload) {
        let now_ms = now_ms();
        let is_over = |served: &Served| served.leaves_at_ms.is_some_and(|at| at <= now_ms);
        if seen.is_none() && !self.servers.values().any(is_over) {
            return;
        }
        if let Some(seen) = seen {
            self.seen = seen;
        }
        let settings = reload.settings();
        let (servers, mut reports) = judge(&self.seen, &settings.kubernetes);
        self.merge(servers, &settings.kubernetes, reload.shared().fleet(), now_ms);
        let leaving = self.servers.iter().filter(|(_, served)| served.leaves_at_ms.is_some());
        reports.extend(leaving.map(|(name, served)| Reported {
            namespace: served.namespace.clone(),
            name: served.service.clone(),
            became: Became::Leaving { name: name.clone(), path: served.path.clone() },
        }));
        self.tell(&reports);
        if discovered.replace(text(&self.servers), reports) {
            // What came of it is in the log and the metrics.
            drop(reload.reload(Trigger::Discovery));
            for name in &reload.settings().shadowed {
                tracing::warn!(
                    server = name,
                    "a service is left out: the configuration has its name or its path"
                );
            }
        }
    }

    /// Makes the servers those that were found; one that is gone stays for its sessions.
    fn merge(
        &mut self,
        found: BTreeMap<String, Served>,
        settings: &Kubernetes,
        fleet: &Fleet,
        now_ms: u64,
    ) {
        let drain = settings.services.as_ref().map(|services| services.drain).unwrap_or_default();
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        self.servers.retain(|name, served| match (found.get(name), served.leaves_at_ms) {
            (Some(_), None) => true,
            (Some(_), Some(_)) => {
                fleet.stay(name, now_ms);
                true
            }
            (None, Some(at_ms)) => at_ms > now_ms,
            (None, None) => {
                let at_ms = now_ms.saturating_add(drain_ms);
                fleet.leave(name, at_ms);
                served.leaves_at_ms = Some(at_ms);
                tracing::info!(server = name, "its service is gone; it drains");
                true
            }
        });
        self.servers.extend(found);
    }

    /// Says once of each service why it is no server.
    fn tell(&mut self, reports: &[Reported]) {
        let mut told = BTreeSet::new();
        for Reported { namespace, name, became } in reports {
            let Became::Nothing(why) = became else { continue };
            let entry = (namespace.clone(), name.clone(), why.clone());
            if !self.told.contains(&entry) {
                tracing::warn!(namespace, service = name, why, "a service is no server");
            }
            told.insert(entry);
        }
        self.told = told;
    }
}

/// Which services are servers, by their names, and what became of every one that was seen.
fn judge(seen: &[Service], settings: &Kubernetes) -> (BTreeMap<String, Served>, Vec<Reported>) {
    let mut servers: BTreeMap<String, Served> = BTreeMap::new();
    let mut reports = Vec::new();
    // Who was there first keeps a name.
    let mut seen: Vec<&Service> = seen.iter().collect();
    seen.sort_by_key(|service| (service.created, &service.namespace, &service.name));
    for service in seen {
        let became = match server(service, settings) {
            Ok((name, _)) if servers.contains_key(&name) => {
                Became::Nothing(format!("another service of its namespace is {name} already"))
            }
            Ok(_) if servers.len() >= SERVERS_MAX => {
                Became::Nothing(format!("{SERVERS_MAX} services are servers already"))
            }
            Ok((name, served)) => {
                let path = served.path.clone();
                servers.insert(name.clone(), served);
                Became::Server { name, path }
            }
            Err(why) => Became::Nothing(why),
        };
        let Service { namespace, name, .. } = service;
        reports.push(Reported { namespace: namespace.clone(), name: name.clone(), became });
    }
    (servers, reports)
}

/// The server that a service asks to be, as the configuration would write it, or why it is none.
fn server(service: &Service, settings: &Kubernetes) -> Result<(String, Served), String> {
    let Service { namespace, name: service_name, created: _, annotations, ports } = service;
    let Some(approved) = &settings.services else {
        return Err("no namespace is approved".to_owned());
    };
    if !approved.namespaces.contains(namespace) {
        return Err("its namespace is not approved by kubernetes.services.namespaces".to_owned());
    }
    if let Some(unknown) = annotations.keys().find(|key| !ANNOTATIONS.contains(&key.as_str())) {
        return Err(format!("the annotation toolgate.dev/{unknown} is unknown"));
    }
    // The environment is the operator's who started the gateway.
    if annotations.values().any(|value| value.contains("${")) {
        return Err("an annotation cannot read the environment by ${…}".to_owned());
    }
    let own_name = annotations.get("name").unwrap_or(service_name);
    // A namespace holds no dot, so no service can take the name that another namespace has: rules of
    // the policy go by names.
    let name = format!("{namespace}.{own_name}");
    let mut pods = Map::new();
    pods.insert("service".to_owned(), format!("{namespace}/{service_name}").into());
    let port = annotations
        .get("port")
        .cloned()
        .map_or_else(|| usual_port(ports), |port| Ok(Some(port)))?;
    pods.extend(port.map(|port| ("port".to_owned(), port.into())));
    for key in ["path", "scheme"] {
        pods.extend(annotations.get(key).map(|value| (key.to_owned(), value.as_str().into())));
    }
    let path = format!("{}/{namespace}/{own_name}", approved.path);
    let mut route = json!({ "path": path, "server": name });
    if let Some(url) = &approved.public_url {
        route["public_url"] = format!("{url}{path}").into();
    }
    let server = json!({ "discovery": { "kubernetes": pods } });
    check(&name, &server, &route)?;
    let (namespace, service) = (namespace.clone(), service_name.clone());
    Ok((name, Served { namespace, service, path, server, route, leaves_at_ms: None }))
}

/// The port where none is named: the one that says it is, or the only one.
fn usual_port(ports: &[String]) -> Result<Option<String>, String> {
    match ports {
        _ if ports.iter().any(|port| port == PORT) => Ok(Some(PORT.to_owned())),
        [] => Err("it has no port".to_owned()),
        // Nothing is called by no name.
        [only] => Ok(Some(only.clone()).filter(|only| !only.is_empty())),
        _ => Err(format!(
            "it has several ports, and none is called {PORT}; say which by toolgate.dev/port"
        )),
    }
}

/// Whether the configuration would take it; the words are the configuration's.
fn check(name: &str, server: &Value, route: &Value) -> Result<(), String> {
    let alone = json!({ "listen": "127.0.0.1:1", "servers": { name: server }, "routes": [route] });
    let checked = config::parse(&alone.to_string(), "service", &|_| None);
    checked.map(|_| ()).map_err(|problems| {
        problems.list().first().map_or_else(String::new, |problem| problem.message.clone())
    })
}

/// All of them as the configuration reads them.
fn text(servers: &BTreeMap<String, Served>) -> Option<Arc<str>> {
    let routes: Vec<&Value> = servers.values().map(|served| &served.route).collect();
    let by_name: BTreeMap<_, _> =
        servers.iter().map(|(name, served)| (name, &served.server)).collect();
    let text = json!({ "servers": by_name, "routes": routes });
    (!servers.is_empty()).then(|| Arc::from(format!("{text:#}\n")))
}

#[cfg(test)]
mod tests {
    use super::{Became, judge, text};
    use crate::config;
    use crate::upstream::Service;

    fn service(namespace: &str, name: &str, annotations: &[(&str, &str)]) -> Service {
        let own = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            created: 1,
            annotations: own.collect(),
            ports: vec!["http".to_owned()],
        }
    }

    fn kubernetes(services: &str) -> config::Kubernetes {
        let yaml = format!("listen: 127.0.0.1:1\nkubernetes: {{ services: {{ {services} }} }}\n");
        config::parse(&yaml, "test", &|_| None).expect("good settings").kubernetes
    }

    #[test]
    fn what_a_service_becomes() {
        let settings = kubernetes("namespaces: [team-a, team-b], path: /teams");
        let ports = |ports: &[&str]| Service {
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            ..service("team-a", "search", &[])
        };
        let good = [
            (service("team-a", "search", &[]), "team-a.search", "/teams/team-a/search"),
            (service("team-a", "search", &[("name", "find")]), "team-a.find", "/teams/team-a/find"),
            (
                service("team-b", "s", &[("port", "8000"), ("path", "/x"), ("scheme", "https")]),
                "team-b.s",
                "/teams/team-b/s",
            ),
            (ports(&[""]), "team-a.search", "/teams/team-a/search"),
            (ports(&["metrics", "mcp"]), "team-a.search", "/teams/team-a/search"),
        ];
        for (service, name, path) in good {
            let (servers, reports) = judge(std::slice::from_ref(&service), &settings);
            let expected = Became::Server { name: name.to_owned(), path: path.to_owned() };
            assert_eq!(reports[0].became, expected, "{service:?}");
            assert_eq!(servers.keys().collect::<Vec<_>>(), [name]);
        }
        let bad = [
            (service("team-c", "search", &[]), "not approved"),
            (service("team-a", "search", &[("nmae", "x")]), "toolgate.dev/nmae is unknown"),
            (service("team-a", "search", &[("path", "/${HOME:-x}")]), "environment"),
            (service("team-a", "search", &[("name", "a/b")]), "not a name"),
            (service("team-a", "search", &[("name", "..")]), ". or .. segment"),
            (service("team-a", "search", &[("path", "x")]), "begins with /"),
            (service("team-a", "search", &[("scheme", "ftp")]), "not one of the words"),
            (service("team-a", "search", &[("port", "0")]), "no port"),
            (ports(&[]), "no port"),
            (ports(&["a", "b"]), "several ports"),
        ];
        for (service, part) in bad {
            let (servers, reports) = judge(std::slice::from_ref(&service), &settings);
            let Became::Nothing(why) = &reports[0].became else { panic!("{service:?}") };
            assert!(why.contains(part) && servers.is_empty(), "{why}");
        }
    }

    #[test]
    fn a_name_stays_with_whom_it_belongs_to() {
        let settings = kubernetes("namespaces: [team, team-a]");
        // Without the dot both would be team-a-b.
        let (servers, _) =
            judge(&[service("team-a", "b", &[]), service("team", "a-b", &[])], &settings);
        assert_eq!(servers.keys().collect::<Vec<_>>(), ["team-a.b", "team.a-b"]);
        let younger = Service { created: 2, ..service("team", "a", &[("name", "search")]) };
        let (servers, reports) = judge(&[younger, service("team", "search", &[])], &settings);
        assert_eq!(servers["team.search"].service, "search");
        assert!(matches!(&reports[1].became, Became::Nothing(why) if why.contains("already")));
    }

    #[test]
    fn the_configuration_reads_what_was_found() {
        let settings = kubernetes("namespaces: [team-a], public_url: 'https://mcp.example.com/x/'");
        let (servers, _) = judge(&[service("team-a", "search", &[("port", "9")])], &settings);
        let text = text(&servers).expect("a text");
        let yaml = format!("{{ \"listen\": \"127.0.0.1:1\", {}", &text[1..]);
        let read = config::parse(&yaml, "test", &|_| None).expect("good settings");
        assert_eq!(
            read.routes[0].public_url.as_deref(),
            Some("https://mcp.example.com/x/services/team-a/search")
        );
        let Some(config::Discovery::Kubernetes(pods)) = &read.servers[0].discovery else {
            panic!()
        };
        assert_eq!((pods.service.as_str(), &pods.port), ("search", &Some(config::Port::Number(9))));
        assert_eq!(super::text(&super::BTreeMap::new()), None);
    }
}
