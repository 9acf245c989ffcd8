//! What is other in a new configuration, in words, and whose clients can see it.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{self, Settings};

/// The difference between two configurations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// What changed, a few words each.
    pub(super) changes: Vec<String>,
    /// The servers on whose open streams it must be announced.
    pub(super) announced: BTreeSet<String>,
}

impl Difference {
    /// What is other in `new`.
    pub(super) fn between(old: &Settings, new: &Settings) -> Self {
        let mut difference = Self::default();
        difference.tls(old, new);
        difference.servers(old, new);
        difference.routes(old, new);
        if difference.changes.is_empty() && old.sources.digest() != new.sources.digest() {
            difference.changes.push("other settings changed".to_owned());
        }
        difference
    }

    fn tls(&mut self, old: &Settings, new: &Settings) {
        for (before, listener) in old.listeners.iter().zip(&new.listeners) {
            let address = listener.address;
            let (Some(before), Some(now)) = (&before.tls, &listener.tls) else { continue };
            if before.certificates != now.certificates {
                self.changes.push(format!("certificates of {address} changed"));
            }
            if before.clients != now.clients {
                self.changes.push(format!("what clients of {address} must show changed"));
            }
        }
    }

    fn servers(&mut self, old: &Settings, new: &Settings) {
        let by_name = |settings: &Settings| -> BTreeMap<String, config::Server> {
            let servers = settings.servers.iter();
            servers.map(|server| (server.name.clone(), placeless(server))).collect()
        };
        let (old, new) = (by_name(old), by_name(new));
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            self.changes.push(format!("server {name} removed"));
        }
        for (name, server) in &new {
            let Some(before) = old.get(name) else {
                self.changes.push(format!("server {name} added"));
                continue;
            };
            let (gone, come) = (urls(before, server), urls(server, before));
            let only_endpoints =
                config::Server { endpoints: before.endpoints.clone(), ..server.clone() };
            if only_endpoints != *before || (before != server && gone.is_empty() && come.is_empty())
            {
                self.changes.push(format!("server {name} changed"));
            }
            self.changes.extend(gone.iter().map(|url| format!("endpoint {url} of {name} removed")));
            self.changes.extend(come.iter().map(|url| format!("endpoint {url} of {name} added")));
            // Where nothing stayed, it may be another program with other tools.
            if !come.is_empty() && !gone.is_empty() && gone.len() == before.endpoints.len() {
                self.announced.insert(name.clone());
            }
        }
    }

    fn routes(&mut self, old: &Settings, new: &Settings) {
        let (old, new) = (Leads::by_path(old), Leads::by_path(new));
        for path in old.keys().filter(|path| !new.contains_key(*path)) {
            self.changes.push(format!("route {path} removed"));
        }
        for (path, leads) in &new {
            let servers = leads.servers.join(", ");
            match old.get(path) {
                None => self.changes.push(format!("route {path} to {servers} added")),
                Some(before) if before.servers != leads.servers => {
                    let before_servers = before.servers.join(", ");
                    self.changes
                        .push(format!("route {path} leads to {servers}, not {before_servers}"));
                    self.announced.extend(before.servers.iter().chain(&leads.servers).cloned());
                }
                Some(before) if before.shown_as != leads.shown_as => {
                    self.changes.push(format!("route {path} shows {servers} in another way"));
                    self.announced.extend(leads.servers.iter().cloned());
                }
                Some(_) => {}
            }
        }
    }
}

/// What answers a route: the names of its servers, and how several are shown as one.
struct Leads<'s> {
    servers: Vec<String>,
    shown_as: Option<Vec<&'s config::Member>>,
}

impl<'s> Leads<'s> {
    fn by_path(settings: &'s Settings) -> BTreeMap<&'s str, Self> {
        let leads = |route: &'s config::Route| {
            let of = |server: usize| settings.servers.get(server).map(|of| of.name.clone());
            let servers = route.servers().into_iter().filter_map(of).collect();
            let shown_as = match &route.target {
                config::Target::Server(_) => None,
                config::Target::Servers(several) => Some(several.members.iter().collect()),
            };
            (route.path.as_str(), Self { servers, shown_as })
        };
        settings.routes.iter().map(leads).collect()
    }
}

/// The URLs of a server's own endpoints that the other one lacks.
fn urls(server: &config::Server, other: &config::Server) -> Vec<String> {
    let lacks = |url: &str| !other.endpoints.iter().any(|endpoint| endpoint.url == url);
    let urls = server.endpoints.iter().map(|endpoint| endpoint.url.clone());
    urls.filter(|url| lacks(url)).collect()
}

/// The same server wherever it is written: a comment above it changes nothing.
pub(super) fn placeless(server: &config::Server) -> config::Server {
    let mut server = server.clone();
    server.place = config::Place::default();
    let endpoints = server.endpoints.iter_mut();
    endpoints.for_each(|endpoint| endpoint.place = config::Place::default());
    if let Some(config::Discovery::Dns(endpoint)) = &mut server.discovery {
        endpoint.place = config::Place::default();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::Difference;
    use crate::config::{self, Settings};

    fn settings(sections: &str) -> Settings {
        let text = format!("listen: 127.0.0.1:8080\n{sections}");
        config::parse(&text, "t", &|_| None).expect("good settings")
    }

    const BEFORE: &str = "servers:
  a: { endpoints: [http://a1/, http://a2/] }
  b: { endpoints: [http://b1/] }
routes: [{ path: /a, server: a }, { path: /b, server: b }]
";

    #[test]
    fn what_changed_is_told_and_what_clients_see_is_announced() {
        let check = |after: &str, changes: &[&str], announced: &[&str]| {
            let found = Difference::between(&settings(BEFORE), &settings(after));
            assert_eq!(found.changes, changes, "{after}");
            assert_eq!(found.announced.iter().collect::<Vec<_>>(), announced, "{after}");
        };
        check(BEFORE, &[], &[]);
        check(&format!("# a comment\n{BEFORE}"), &["other settings changed"], &[]);
        let one_of_two = BEFORE.replace("http://a2/", "http://a3/");
        let told = ["endpoint http://a2/ of a removed", "endpoint http://a3/ of a added"];
        check(&one_of_two, &told, &[]);
        let all = BEFORE.replace("http://b1/", "http://b2/");
        let told = ["endpoint http://b1/ of b removed", "endpoint http://b2/ of b added"];
        check(&all, &told, &["b"]);
        let owned = BEFORE.replace("b: { ", "b: { owner: x, ");
        check(&owned, &["server b changed"], &[]);
        let weighted = BEFORE.replace("[http://b1/]", "[{ url: http://b1/, weight: 2 }]");
        check(&weighted, &["server b changed"], &[]);
        let led = BEFORE.replace("path: /b, server: b", "path: /b, server: a");
        check(&led, &["route /b leads to a, not b"], &["a", "b"]);
        let fewer = "servers: { a: { endpoints: [http://a1/, http://a2/] } }
routes: [{ path: /a, server: a }, { path: /c, server: a }]
";
        let told = ["server b removed", "route /b removed", "route /c to a added"];
        check(fewer, &told, &[]);
    }
}
