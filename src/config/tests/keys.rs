//! Every key does what it says: one row for each, with a value that is not the default.

use std::path::Path;
use std::time::Duration;

use super::credential_keys::CREDENTIALS;
use super::export_keys::EXPORT;
use super::federation_keys::FEDERATION;
use super::identity_keys::IDENTITY;
use super::kubernetes_keys::KUBERNETES;
use super::policy_keys::POLICY;
use super::server_keys::SERVERS;
use super::shared_keys::SHARED;
use super::{completed, environment, schema_paths};
use crate::config::tests::directory::TestDirectory;
use crate::config::{
    Anonymous, ApiKey, Audit, AuditSink, Catalog, KeptArguments, KeyPart, Limit, Listener,
    ListenerLimits, Listing, ProxyProtocol, Reap, RequestLog, Role, Runtime, Sessions, Settings,
    Telemetry, Tls, Token, WhenFull, load,
};

/// The key's path, a text that sets it, and what the settings must then hold.
pub(super) type Row = (&'static str, &'static str, fn(&Settings) -> bool);

fn check(rows: &[Row]) {
    let directory = TestDirectory::new();
    directory.write("tls.crt", "");
    directory.write("tls.key", "");
    directory.write("endpoints.yaml", "[]\n");
    directory.write("keys.yaml", &format!("[{{ caller: bob, sha256: {} }}]", "ab".repeat(32)));
    directory.write("team.yaml", "servers: { files: { endpoints: [http://a/] } }");
    for (path, text, holds) in rows {
        assert!(schema_paths().iter().any(|known| known == path), "{path} is not in the schema");
        let file = directory.write("gateway.yaml", &completed(text));
        let settings =
            load(&file, &environment).unwrap_or_else(|problems| panic!("{path}: {problems}"));
        assert!(holds(&settings), "{path}: {settings:?}");
    }
}

fn listener(settings: &Settings) -> &Listener {
    &settings.listeners[0]
}

pub(super) fn tls(settings: &Settings) -> &Tls {
    listener(settings).tls.as_ref().unwrap()
}

fn tokens(settings: &Settings) -> &[Token] {
    &settings.admin.as_ref().unwrap().tokens
}

fn key(settings: &Settings) -> &ApiKey {
    &settings.identity.api_keys[0]
}

fn limit(settings: &Settings) -> &Limit {
    &settings.limits[0]
}

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const CATALOG: &[Row] = &[
    ("catalog", "catalog: {}\n", |s| s.catalog == Catalog::default()),
    ("catalog.listing", "catalog: { listing: off }\n", |s| {
        s.catalog.servers.listing == Listing::Off && s.servers[0].catalog.listing == Listing::Off
    }),
    ("catalog.refresh", "catalog: { refresh: 1m }\n", |s| {
        s.servers[0].catalog.refresh == seconds(60)
    }),
    ("catalog.ready_within", "catalog: { ready_within: 0s }\n", |s| {
        s.catalog.ready_within == seconds(0)
    }),
];

const LISTENERS: &[Row] = &[
    ("listen", "listen: '[::1]:1'\n", |s| listener(s).address.to_string() == "[::1]:1"),
    ("listeners", "listeners: [{ address: 127.0.0.1:1 }, { address: 127.0.0.1:2 }]\n", |s| {
        s.listeners.len() == 2
    }),
    ("listeners[].address", "listeners: [{ address: 127.0.0.1:1 }]\n", |s| {
        listener(s).address.port() == 1
    }),
    (
        "listeners[].tls",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificate: tls.crt, key: tls.key } }]\n",
        |s| listener(s).tls.is_some(),
    ),
    (
        "listeners[].tls.certificate",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificate: tls.crt, key: tls.key } }]\n",
        |s| tls(s).certificates[0].chain.path().ends_with("tls.crt"),
    ),
    (
        "listeners[].tls.key",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificate: tls.crt, key: tls.key } }]\n",
        |s| tls(s).certificates[0].key.path().ends_with("tls.key"),
    ),
    (
        "listeners[].tls.certificates",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificates: [{ certificate: tls.key, key: tls.crt }, { certificate: tls.crt, key: tls.key }] } }]\n",
        |s| tls(s).certificates.len() == 2,
    ),
    (
        "listeners[].tls.certificates[].certificate",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificates: [{ certificate: tls.crt, key: tls.key }] } }]\n",
        |s| tls(s).certificates[0].chain.path().ends_with("tls.crt"),
    ),
    (
        "listeners[].tls.certificates[].key",
        "listeners: [{ address: 127.0.0.1:1, tls: { certificates: [{ certificate: tls.crt, key: tls.key }] } }]\n",
        |s| tls(s).certificates[0].key.path().ends_with("tls.key"),
    ),
    (
        "listeners[].allowed_hosts",
        "listeners: [{ address: 127.0.0.1:1, allowed_hosts: [A.example] }]\n",
        |s| listener(s).allowed_hosts == ["a.example"],
    ),
    (
        "listeners[].allowed_origins",
        "listeners: [{ address: 127.0.0.1:1, allowed_origins: [HTTPS://a:1] }]\n",
        |s| listener(s).allowed_origins == ["https://a:1"],
    ),
    (
        "listeners[].trusted_proxies",
        "listeners: [{ address: 127.0.0.1:1, trusted_proxies: [10.0.0.0/8, ::1] }]\n",
        |s| format!("{:?}", listener(s).trusted_proxies) == "[10.0.0.0/8, ::1/128]",
    ),
    (
        "listeners[].proxy_protocol",
        "listeners: [{ address: 127.0.0.1:1, proxy_protocol: v2 }]\n",
        |s| listener(s).proxy_protocol == ProxyProtocol::V2,
    ),
    ("listeners[].limits", "listeners: [{ address: 127.0.0.1:1, limits: {} }]\n", |s| {
        listener(s).limits == ListenerLimits::default()
    }),
    (
        "listeners[].limits.head_bytes_max",
        "listeners: [{ address: 127.0.0.1:1, limits: { head_bytes_max: 8KiB } }]\n",
        |s| listener(s).limits.head_bytes_max == 8192,
    ),
    (
        "listeners[].limits.head_timeout",
        "listeners: [{ address: 127.0.0.1:1, limits: { head_timeout: 5s } }]\n",
        |s| listener(s).limits.head_timeout == seconds(5),
    ),
    (
        "listeners[].limits.body_timeout",
        "listeners: [{ address: 127.0.0.1:1, limits: { body_timeout: 6s } }]\n",
        |s| listener(s).limits.body_timeout == seconds(6),
    ),
    (
        "listeners[].limits.idle_timeout",
        "listeners: [{ address: 127.0.0.1:1, limits: { idle_timeout: '${MINUTES}m' } }]\n",
        |s| listener(s).limits.idle_timeout == seconds(7 * 60),
    ),
    (
        "listeners[].limits.requests_per_connection_max",
        "listeners: [{ address: 127.0.0.1:1, limits: { requests_per_connection_max: 9 } }]\n",
        |s| listener(s).limits.requests_per_connection_max == 9,
    ),
    (
        "listeners[].limits.streams_per_connection_max",
        "listeners: [{ address: 127.0.0.1:1, limits: { streams_per_connection_max: 10 } }]\n",
        |s| listener(s).limits.streams_per_connection_max == 10,
    ),
    (
        "listeners[].limits.requests_per_address",
        "listeners: [{ address: 127.0.0.1:1, limits: { requests_per_address: 11/m } }]\n",
        |s| {
            format!("{:?}", listener(s).limits.requests_per_address)
                == "Some(Rate { count: 11, period: 60s })"
        },
    ),
];

const PROCESS: &[Row] = &[
    ("health", "health: { listen: 127.0.0.1:1 }\n", |s| s.health.is_some()),
    ("health.listen", "health: { listen: 0.0.0.0:1 }\n", |s| s.health == "0.0.0.0:1".parse().ok()),
    ("admin", "admin: { listen: 127.0.0.1:1 }\n", |s| s.admin.is_some()),
    ("admin.listen", "admin: { listen: '[::1]:1' }\n", |s| {
        s.admin.as_ref().map(|admin| admin.listen) == "[::1]:1".parse().ok()
    }),
    (
        "admin.tokens",
        "admin: { listen: 0.0.0.0:1, tokens: [{ role: operate, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| tokens(s).len() == 1,
    ),
    ("admin.tokens", "admin: { listen: 127.0.0.1:1, tokens: [] }\n", |s| tokens(s).is_empty()),
    (
        "admin.tokens[].role",
        "admin: { listen: 127.0.0.1:1, tokens: [{ role: 'register:later', sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| tokens(s)[0].role == Role::Register("later".to_owned()),
    ),
    (
        "admin.tokens[].role",
        "admin: { listen: 127.0.0.1:1, tokens: [{ role: read, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| tokens(s)[0].role == Role::Read,
    ),
    (
        "admin.tokens[].role",
        "admin: { listen: 127.0.0.1:1, tokens: [{ role: operate, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| tokens(s)[0].role == Role::Operate,
    ),
    (
        "admin.tokens[].sha256",
        "admin: { listen: 127.0.0.1:1, tokens: [{ role: read, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| tokens(s)[0].sha256[30..] == [0, 255] && !format!("{:?}", s.admin).contains("255"),
    ),
    ("runtime", "runtime: {}\n", |s| s.runtime == Runtime::default()),
    ("runtime.threads", "runtime: { threads: 1000 }\n", |s| s.runtime.threads == 1000),
    ("runtime.connections_max", "runtime: { connections_max: 2 }\n", |s| {
        s.runtime.connections_max == 2
    }),
    ("runtime.streams_max", "runtime: { streams_max: 3 }\n", |s| s.runtime.streams_max == 3),
    ("runtime.upstream_idle_connections", "runtime: { upstream_idle_connections: 4 }\n", |s| {
        s.runtime.upstream_idle_connections == 4
    }),
    ("runtime.connection_age_max", "runtime: { connection_age_max: 1h }\n", |s| {
        s.runtime.connection_age_max == seconds(3600)
    }),
    ("runtime.connection_age_max", "runtime: { connection_age_max: 0s }\n", |s| {
        s.runtime.connection_age_max.is_zero()
    }),
    ("runtime.grace", "runtime: { grace: 500ms }\n", |s| {
        s.runtime.grace == Duration::from_millis(500)
    }),
    ("state_dir", "state_dir: /var/lib/toolgate\n", |s| {
        s.state_dir == Path::new("/var/lib/toolgate")
    }),
    ("telemetry", "telemetry: {}\n", |s| s.telemetry == Telemetry::default()),
    ("telemetry.requests", "telemetry: { requests: off }\n", |s| {
        s.telemetry.requests == RequestLog::Off
    }),
    ("telemetry.labels", "telemetry: { labels: {} }\n", |s| s.telemetry == Telemetry::default()),
    ("telemetry.labels.callers_max", "telemetry: { labels: { callers_max: 5 } }\n", |s| {
        s.telemetry.callers_max == 5
    }),
    ("telemetry.labels.tools_max", "telemetry: { labels: { tools_max: 6 } }\n", |s| {
        s.telemetry.tools_max == 6
    }),
];

const SESSIONS: &[Row] = &[
    ("sessions", "sessions: {}\n", |s| s.sessions == Sessions::default()),
    ("sessions.keys", "sessions: { keys: ['${LONG}'] }\n", |s| {
        s.sessions.keys[0].expose() == "correct horse battery staple and more"
    }),
    ("sessions.lifetime", "sessions: { lifetime: 1h }\n", |s| s.sessions.lifetime == seconds(3600)),
    ("sessions.idle", "sessions: { idle: 5m }\n", |s| s.sessions.idle == seconds(300)),
    ("sessions.table_max", "sessions: { table_max: 1000 }\n", |s| s.sessions.table_max == 1000),
    ("sessions.reap", "sessions: { reap: off }\n", |s| s.sessions.reap == Reap::Off),
    ("sessions.reap", "sessions: { reap: on, keys: ['${LONG}'] }\n", |s| {
        s.sessions.reap == Reap::On
    }),
];

const ROUTES_AND_IDENTITY: &[Row] = &[
    ("include", "include: [team.yaml]\n", |s| s.servers[1].name == "files"),
    (
        "routes",
        "routes: [{ path: /a, server: everything }, { path: /b, server: everything }]\n",
        |s| s.routes.len() == 2,
    ),
    ("routes[].path", "routes: [{ path: /a/b, server: everything }]\n", |s| {
        s.routes[0].path == "/a/b"
    }),
    (
        "routes[].server",
        "servers: { a: { endpoints: [http://a/] }, b: { endpoints: [http://a/] } }\nroutes: [{ path: /, server: b }]\n",
        |s| s.routes[0].servers() == [1],
    ),
    (
        "routes[].public_url",
        "routes: [{ path: /mcp, server: everything, public_url: HTTPS://A:443/b }]\n",
        |s| s.routes[0].public_url.as_deref() == Some("https://a/b"),
    ),
    (
        "routes[].body_bytes_max",
        "routes: [{ path: /mcp, server: everything, body_bytes_max: 1KiB }]\n",
        |s| s.routes[0].body_bytes_max == 1024,
    ),
    (
        "routes[].list_bytes_max",
        "routes: [{ path: /mcp, server: everything, list_bytes_max: 1KiB }]\n",
        |s| s.routes[0].list_bytes_max == 1024,
    ),
    ("identity", "identity: {}\n", |s| s.identity.anonymous == Anonymous::Allow),
    ("identity.anonymous", "listen: 0.0.0.0:1\nidentity: { anonymous: allow }\n", |s| {
        s.identity.anonymous == Anonymous::Allow
    }),
    ("identity.api_keys", "identity: { api_keys: [] }\n", |s| {
        s.identity.anonymous == Anonymous::Deny
    }),
    (
        "identity.api_keys.file",
        "identity: { anonymous: allow, api_keys: { file: keys.yaml } }\n",
        |s| {
            s.identity.anonymous == Anonymous::Allow
                && key(s).caller == "bob"
                && key(s).sha256 == [0xab; 32]
        },
    ),
    (
        "identity.api_keys[].caller",
        "identity: { api_keys: [{ caller: al, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| key(s).caller == "al",
    ),
    (
        "identity.api_keys[].tenant",
        "identity: { api_keys: [{ caller: al, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff, tenant: t }] }\n",
        |s| key(s).tenant.as_deref() == Some("t"),
    ),
    (
        "identity.api_keys[].scopes",
        "identity: { api_keys: [{ caller: al, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff, scopes: [a, b:c] }] }\n",
        |s| key(s).scopes == ["a", "b:c"],
    ),
    (
        "identity.api_keys[].sha256",
        "identity: { api_keys: [{ caller: al, sha256: 00000000000000000000000000000000000000000000000000000000000000Ff }] }\n",
        |s| key(s).sha256[30..] == [0, 255],
    ),
];

const LIMITS: &[Row] = &[
    ("limits", "limits: []\n", |s| s.limits.is_empty()),
    ("limits[].name", "limits: [{ name: a, rate: 1/s }]\n", |s| limit(s).name == "a"),
    ("limits[].key", "limits: [{ name: a, key: [tool, caller], rate: 1/s }]\n", |s| {
        limit(s).key == [KeyPart::Caller, KeyPart::Tool]
    }),
    ("limits[].rate", "limits: [{ name: a, rate: 50/m }]\n", |s| {
        let allowance = limit(s).rate.as_ref().unwrap();
        allowance.rate.period == seconds(60) && allowance.burst.get() == 50
    }),
    ("limits[].burst", "limits: [{ name: a, rate: 50/m, burst: 7 }]\n", |s| {
        limit(s).rate.as_ref().unwrap().burst.get() == 7
    }),
    (
        "limits[].cost",
        "limits: [{ name: a, rate: 50/m, cost: { 'everything/*': 3, echo: '${MINUTES}' } }]\n",
        |s| {
            let costs = &limit(s).rate.as_ref().unwrap().costs;
            costs[0].is_of("everything", "x") && costs[1].calls.get() == 7
        },
    ),
    ("limits[].in_flight", "limits: [{ name: a, in_flight: 9 }]\n", |s| {
        limit(s).in_flight.is_some_and(|max| max.get() == 9) && limit(s).rate.is_none()
    }),
    ("limits[].streams", "limits: [{ name: a, streams: 3 }]\n", |s| {
        limit(s).streams.is_some_and(|max| max.get() == 3) && limit(s).in_flight.is_none()
    }),
    ("limits[].wait", "limits: [{ name: a, in_flight: 9, wait: 50ms }]\n", |s| {
        limit(s).wait == Duration::from_millis(50)
    }),
    ("limits[].keys_max", "limits: [{ name: a, in_flight: 9, keys_max: 1000000 }]\n", |s| {
        limit(s).keys_max == 1_000_000
    }),
];

fn audit(settings: &Settings) -> &Audit {
    settings.audit.as_ref().unwrap()
}

const AUDIT: &[Row] = &[
    ("audit", "audit: { sinks: [stdout] }\n", |s| {
        *audit(s) == Audit { sinks: vec![AuditSink::Stdout], ..Audit::default() }
    }),
    ("audit.sinks", "audit: { sinks: [stdout, { file: a.jsonl }] }\n", |s| {
        audit(s).sinks.len() == 2
    }),
    ("audit.sinks[].file", "audit: { sinks: [{ file: a.jsonl }] }\n", |s| {
        matches!(&audit(s).sinks[0], AuditSink::File { path, rotate_bytes: 268_435_456, keep: None }
            if path.ends_with("a.jsonl") && path.is_absolute())
    }),
    ("audit.sinks[].rotate", "audit: { sinks: [{ file: a.jsonl, rotate: 1MiB }] }\n", |s| {
        matches!(audit(s).sinks[0], AuditSink::File { rotate_bytes: 1_048_576, .. })
    }),
    ("audit.sinks[].keep", "audit: { sinks: [{ file: a.jsonl, keep: 7 }] }\n", |s| {
        matches!(audit(s).sinks[0], AuditSink::File { keep: Some(7), .. })
    }),
    ("audit.sinks[].otlp", "audit: { sinks: [{ otlp: { endpoint: http://a:4318 } }] }\n", |s| {
        matches!(audit(s).sinks[0], AuditSink::Otlp(_))
    }),
    (
        "audit.sinks[].otlp.endpoint",
        "audit: { sinks: [{ otlp: { endpoint: HTTP://a/b/ } }] }\n",
        |s| matches!(&audit(s).sinks[0], AuditSink::Otlp(otlp) if otlp.url == "http://a/b/v1/logs"),
    ),
    (
        "audit.sinks[].otlp.headers",
        "audit: { sinks: [{ otlp: { endpoint: http://a, headers: { X-Key: '${LONG}' } } }] }\n",
        |s| {
            matches!(&audit(s).sinks[0], AuditSink::Otlp(otlp)
                if otlp.headers[0].0 == "x-key" && otlp.headers[0].1.expose().contains("horse"))
                && !format!("{:?}", s.audit).contains("horse")
        },
    ),
    (
        "audit.sinks[].otlp.timeout",
        "audit: { sinks: [{ otlp: { endpoint: http://a, timeout: 3s } }] }\n",
        |s| matches!(&audit(s).sinks[0], AuditSink::Otlp(otlp) if otlp.timeout == seconds(3)),
    ),
    ("audit.arguments", "audit: { sinks: [stdout], arguments: redacted }\n", |s| {
        audit(s).arguments == KeptArguments::Redacted
    }),
    ("audit.arguments", "audit: { sinks: [stdout], arguments: none }\n", |s| {
        audit(s).arguments == KeptArguments::None
    }),
    ("audit.redact", "audit: { sinks: [stdout], redact: ['*Key', pin] }\n", |s| {
        audit(s).redact == ["*key", "pin"]
    }),
    ("audit.arguments_bytes_max", "audit: { sinks: [stdout], arguments_bytes_max: 1KiB }\n", |s| {
        audit(s).arguments_bytes_max == 1024
    }),
    ("audit.when_full", "audit: { sinks: [stdout], when_full: wait }\n", |s| {
        audit(s).when_full == WhenFull::Wait
    }),
    ("audit.when_full", "audit: { sinks: [stdout], when_full: refuse }\n", |s| {
        audit(s).when_full == WhenFull::Refuse
    }),
    ("audit.queue", "audit: { sinks: [stdout], queue: {} }\n", |s| {
        audit(s).queue_records_max == 65_536 && audit(s).queue_bytes_max == 64 << 20
    }),
    ("audit.queue.records", "audit: { sinks: [stdout], queue: { records: 10 } }\n", |s| {
        audit(s).queue_records_max == 10
    }),
    ("audit.queue.bytes", "audit: { sinks: [stdout], queue: { bytes: 1MiB } }\n", |s| {
        audit(s).queue_bytes_max == 1 << 20
    }),
];

#[test]
fn every_key_does_what_it_says() {
    let rows = [
        LISTENERS,
        PROCESS,
        SESSIONS,
        CATALOG,
        SHARED,
        EXPORT,
        SERVERS,
        KUBERNETES,
        CREDENTIALS,
        ROUTES_AND_IDENTITY,
        IDENTITY,
        POLICY,
        LIMITS,
        AUDIT,
        FEDERATION,
    ]
    .concat();
    check(&rows);
    for path in schema_paths() {
        assert!(rows.iter().any(|(tested, ..)| *tested == path), "{path} has no row");
    }
}
