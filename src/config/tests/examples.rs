//! The example files: they are accepted, they show every key, and the defaults they state are the real ones.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::schema_paths;
use crate::config::reading::Reading;
use crate::config::tree::{Kind, Node, compose};
use crate::config::{
    Anonymous, Audit, Export, Sessions, Settings, Shared, Target, Telemetry, load, parse, schema,
};

const FULL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/full.yaml");
const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/minimal.yaml");
const FEDERATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/federation.yaml");
const TEAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/teams/files.yaml");

fn settings(path: &str) -> Settings {
    load(Path::new(path), &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The line where each key of a file is first written, by path.
fn keys(path: &str) -> BTreeMap<String, u32> {
    let mut reading = Reading::new(&|_| None);
    let source = reading.open(Path::new(path), None).unwrap();
    let mut keys = BTreeMap::new();
    collect_keys(&compose(source, &mut reading).unwrap(), "", &mut keys);
    keys
}

fn collect_keys(node: &Node, path: &str, keys: &mut BTreeMap<String, u32>) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, value) in entries {
                let is_chosen = path == "servers" || path.ends_with(".override");
                let name = if is_chosen { "*" } else { &key.text };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                keys.entry(path.clone()).or_insert_with(|| key.place.line());
                collect_keys(value, &path, keys);
            }
        }
        Kind::List(items) => {
            items.iter().for_each(|item| collect_keys(item, &format!("{path}[]"), keys))
        }
        Kind::Nothing | Kind::Scalar(_) | Kind::Faulty => {}
    }
}

#[test]
fn the_examples_are_accepted() {
    let minimal = settings(MINIMAL);
    assert_eq!(minimal.identity.anonymous, Anonymous::Allow);
    let full = settings(FULL);
    let names: Vec<&str> = full.servers.iter().map(|server| server.name.as_str()).collect();
    let names = names.join(" ");
    assert_eq!(names, "everything search mail crm blobs sheets drive files");
    assert_eq!(full.identity.api_keys.len(), 2);
    assert!(full.listeners.iter().any(|listener| listener.tls.is_some()));
    assert_eq!(settings(FEDERATION).routes[0].servers(), [0, 1, 2, 3]);
}

#[test]
fn full_shows_every_key_with_a_sentence() {
    let full = keys(FULL);
    // These exclude what full.yaml shows instead, so they stand in the other examples.
    let elsewhere = [("listen", MINIMAL), ("identity.api_keys.file", TEAM)];
    let text = std::fs::read_to_string(FULL).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for path in schema_paths() {
        if let Some((_, file)) = elsewhere.iter().find(|(key, _)| *key == path) {
            assert!(keys(file).contains_key(&path), "{path} is missing in {file}");
            continue;
        }
        let line = full.get(&path).unwrap_or_else(|| panic!("{path} is missing in full.yaml"));
        let above = lines[*line as usize - 2].trim();
        assert!(above.starts_with("# "), "{path} has no sentence in full.yaml");
    }
}

#[test]
fn full_states_the_real_defaults() {
    let (minimal, full) = (settings(MINIMAL), settings(FULL));
    let (by_default, stated) = (&minimal.listeners[0], &full.listeners[0]);
    assert_eq!(stated.address, by_default.address);
    assert_eq!(stated.allowed_hosts, by_default.allowed_hosts);
    assert_eq!(stated.allowed_origins, by_default.allowed_origins);
    assert_eq!(stated.trusted_proxies, by_default.trusted_proxies);
    assert_eq!(stated.proxy_protocol, by_default.proxy_protocol);
    assert_eq!(stated.limits, by_default.limits);
    assert_eq!(full.runtime, minimal.runtime);
    assert_eq!(full.state_dir, minimal.state_dir);
    let keys = full.sessions.keys.clone();
    assert_eq!(full.sessions, Sessions { keys, ..minimal.sessions });
    let least = "listen: 127.0.0.1:1\nsessions: { keys: [kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk] }\nshared: { redis: redis://a }\nservers: { a: { endpoints: [http://a/] } }\nroutes: [{ path: /, server: a }]\n";
    let by_default = parse(least, "least", &|_| None).unwrap().shared.unwrap();
    let stated = full.shared.unwrap();
    let Shared { redis, ca, place, .. } = stated.clone();
    assert_eq!(stated, Shared { redis, ca, place, ..by_default });
    let (by_default, stated) = (&minimal.servers[0], &full.servers[0]);
    assert_eq!(stated.balance, by_default.balance);
    assert_eq!(stated.on_endpoint_loss, by_default.on_endpoint_loss);
    assert_eq!(stated.slow_start, by_default.slow_start);
    assert_eq!(stated.health, by_default.health);
    assert_eq!(stated.ejection, by_default.ejection);
    assert_eq!(stated.breaker, by_default.breaker);
    assert_eq!(stated.retries, by_default.retries);
    assert_eq!(stated.protocol, by_default.protocol);
    assert_eq!(stated.timeouts, by_default.timeouts);
    assert_eq!(stated.endpoints[0].weight, by_default.endpoints[0].weight);
    assert_eq!(full.routes[0].body_bytes_max, minimal.routes[0].body_bytes_max);
    let one = "listen: 127.0.0.1:1\nservers: { a: { endpoints: [http://a/] } }\nroutes: [{ path: /, servers: [{ name: a, prefix: a_ }] }]\n";
    let by_default = parse(one, "one", &|_| None).unwrap();
    let (Target::Servers(by_default), Target::Servers(stated)) =
        (&by_default.routes[0].target, &full.routes[1].target)
    else {
        panic!("several servers");
    };
    assert_eq!(stated.when_down, by_default.when_down);
    assert_eq!(stated.list_page_max, by_default.list_page_max);
    assert_eq!(stated.members[0].prefix_on, by_default.members[0].prefix_on);
    assert_eq!(full.limits[0].keys_max, full.limits[1].keys_max);
    let audit = full.audit.unwrap();
    assert_eq!(audit, Audit { sinks: audit.sinks.clone(), ..Audit::default() });
    let least = "listen: 127.0.0.1:1\nservers: { a: { endpoints: [http://a/] } }\nroutes: [{ path: /, server: a }]\ntelemetry: { otlp: { endpoint: http://a:4318 } }\n";
    let by_default = parse(least, "least", &|_| None).unwrap().telemetry.otlp.unwrap();
    let stated = full.telemetry.otlp.clone().unwrap();
    let Export { endpoint, headers, ca, .. } = stated.clone();
    assert_eq!(stated, Export { endpoint, headers, ca, ..by_default });
    assert_eq!(Telemetry { otlp: None, ..full.telemetry }, minimal.telemetry);
}

#[test]
fn editors_find_the_current_schema() {
    let text = std::fs::read_to_string(FULL).unwrap();
    assert_eq!(text.lines().next(), Some("# yaml-language-server: $schema=schema.json"));
    let kept =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/schema.json")).unwrap();
    // Compared as values, because the order of keys depends on features that other crates choose.
    let (kept, made): (Value, Value) =
        (serde_json::from_str(&kept).unwrap(), serde_json::from_str(&schema()).unwrap());
    assert!(kept == made, "write it anew: toolgate check --schema > conf/schema.json");
    assert_eq!(made["$schema"], "https://json-schema.org/draft/2020-12/schema");
}
