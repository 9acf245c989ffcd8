//! What a running process cannot change is told, and nothing else.

use super::{completed, environment};
use crate::config::tests::directory::TestDirectory;
use crate::config::{Settings, load, parse};

const OLD: &str = "\
listeners: [{ address: 127.0.0.1:1 }, { address: 127.0.0.1:2, tls: { certificate: a, key: b } }]
health: { listen: 127.0.0.1:3 }
admin: { listen: 127.0.0.1:4 }
runtime: { threads: 2 }
";

/// Puts `to` in the place of `from`: that, and the way back, is refused for these keys.
fn check(from: &str, to: &str, expected: &[&str]) {
    let directory = TestDirectory::new();
    for name in ["a", "b", "c"] {
        directory.write(name, "");
    }
    let settings = |text: &str| -> Settings {
        let path = directory.write("gateway.yaml", &completed(text));
        load(&path, &environment).unwrap_or_else(|problems| panic!("{problems}"))
    };
    assert!(OLD.contains(from), "{from}");
    let (old, newer) = (settings(OLD), settings(&OLD.replace(from, to)));
    assert_eq!(old.immovable_changes(&newer), expected, "{to}");
    assert_eq!(newer.immovable_changes(&old), expected, "{to}");
}

#[test]
fn what_cannot_change_is_told() {
    check("", "", &[]);
    check("127.0.0.1:1", "127.0.0.1:5", &["listeners.address"]);
    check("{ address: 127.0.0.1:1 }, ", "", &["listeners.address", "listeners.tls"]);
    check("certificate: a, key: b", "certificates: [{ certificate: c, key: a }]", &[]);
    check("key: b", "key: b, client_ca: a, client_crl: b", &[]);
    check(", tls: { certificate: a, key: b }", "", &["listeners.tls"]);
    check("127.0.0.1:1 }", "127.0.0.1:1, proxy_protocol: v2 }", &["listeners.proxy_protocol"]);
    check(
        "127.0.0.1:1 }",
        "127.0.0.1:1, allowed_hosts: [a], allowed_origins: [], trusted_proxies: [10.0.0.0/8], limits: { body_timeout: 1s, requests_per_address: 5/s } }",
        &[],
    );
    for limit in [
        "head_bytes_max: 8KiB",
        "head_timeout: 1s",
        "idle_timeout: 1s",
        "requests_per_connection_max: 1",
        "streams_per_connection_max: 1",
    ] {
        let limits = format!("127.0.0.1:1, limits: {{ {limit} }} }}");
        check("127.0.0.1:1 }", &limits, &["listeners.limits"]);
    }
    check(
        "127.0.0.1:1 }",
        "127.0.0.1:1, proxy_protocol: v2, trusted_proxies: [10.0.0.0/8] }",
        &["listeners.proxy_protocol", "listeners.trusted_proxies"],
    );
    check("127.0.0.1:3", "127.0.0.1:5", &["health.listen"]);
    check("health: { listen: 127.0.0.1:3 }\n", "", &["health.listen"]);
    check("127.0.0.1:4", "127.0.0.1:5", &["admin.listen"]);
    check(
        "127.0.0.1:4 }",
        "127.0.0.1:4, tokens: [{ role: read, sha256: 3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7 }] }",
        &[],
    );
    check("threads: 2", "threads: 3", &["runtime.threads"]);
    check(
        "threads: 2",
        "threads: 2, upstream_idle_connections: 2",
        &["runtime.upstream_idle_connections"],
    );
    check("threads: 2", "threads: 2, connections_max: 2", &["runtime.connections_max"]);
    check("threads: 2", "threads: 2, connection_age_max: 0s", &["runtime.connection_age_max"]);
    check("threads: 2", "threads: 2, grace: 1s", &["runtime.grace"]);
    check("threads: 2", "threads: 2, streams_max: 2", &[]);
    check("runtime", "state_dir: other\nruntime", &["state_dir"]);
    for (section, key) in [
        ("requests: off", "telemetry.requests"),
        ("labels: { callers_max: 1 }", "telemetry.labels"),
        ("labels: { tools_max: 1 }", "telemetry.labels"),
        ("otlp: { endpoint: http://a:4318, sample: 0.5 }", "telemetry.otlp"),
    ] {
        check("runtime", &format!("telemetry: {{ {section} }}\nruntime"), &[key]);
    }
    check(
        "runtime",
        "sessions: { idle: 1m }\nservers: { b: { endpoints: [http://b/] }, everything: { endpoints: [] , discovery: { dns: http://c/ } } }\nruntime",
        &[],
    );
}

#[test]
fn what_of_the_record_cannot_change_is_told() {
    let settings = |section: &str| {
        let text = match section {
            "" => String::new(),
            section => format!("audit: {{ {section} }}\n"),
        };
        parse(&completed(&text), "t", &environment).unwrap_or_else(|problems| panic!("{problems}"))
    };
    let old = settings("sinks: [stdout]");
    for (section, expected) in [
        ("", &["audit.sinks", "audit.when_full", "audit.queue"][..]),
        ("sinks: [stdout], arguments: none, redact: [a], arguments_bytes_max: 1B", &[]),
        ("sinks: [stdout], when_full: wait", &["audit.when_full"]),
        ("sinks: [stdout], queue: { records: 1 }", &["audit.queue"]),
        ("sinks: [{ file: b }]", &["audit.sinks"]),
    ] {
        let newer = settings(section);
        assert_eq!(old.immovable_changes(&newer), expected, "{section}");
        assert_eq!(newer.immovable_changes(&old), expected, "{section}");
    }
}
