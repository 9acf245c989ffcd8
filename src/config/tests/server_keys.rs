//! The keys of servers: one row for each, with a value that is not the default.

use super::keys::{Row, seconds};
use crate::config::{
    Balance, Breaker, Discovery, Ejection, HashKey, Health, Listing, OnChange, OnEndpointLoss,
    Probe, Protocol, Retries, Server, Settings, Timeouts,
};

fn server(settings: &Settings) -> &Server {
    &settings.servers[0]
}

/// URL, authority, port and path.
fn endpoints(settings: &Settings) -> Vec<(&str, &str, u16, &str)> {
    let endpoints = server(settings).endpoints.iter();
    endpoints.map(|e| (e.url.as_str(), e.authority.as_str(), e.port, e.path.as_str())).collect()
}

pub(super) const SERVERS: &[Row] = &[
    (
        "servers",
        "servers: { everything: { endpoints: [http://a/] }, b: { endpoints: [http://a/] } }\n",
        |s| s.servers[1].name == "b",
    ),
    ("servers.*.owner", "servers: { everything: { endpoints: [http://a/], owner: me } }\n", |s| {
        server(s).owner.as_deref() == Some("me")
    }),
    (
        "servers.*.description",
        "servers: { everything: { endpoints: [http://a/], description: it } }\n",
        |s| server(s).description.as_deref() == Some("it"),
    ),
    (
        "servers.*.endpoints",
        "servers: { everything: { endpoints: [HTTPS://A, http://b:1/c?d] } }\n",
        |s| endpoints(s) == [("https://a/", "a", 443, "/"), ("http://b:1/c?d", "b:1", 1, "/c?d")],
    ),
    (
        "servers.*.endpoints[].url",
        "servers: { everything: { endpoints: [{ url: 'http://[::1]:80/m' }] } }\n",
        |s| {
            server(s).endpoints[0].host == "::1"
                && endpoints(s) == [("http://[::1]/m", "[::1]", 80, "/m")]
        },
    ),
    (
        "servers.*.endpoints[].weight",
        "servers: { everything: { endpoints: [{ url: http://a/, weight: 256 }] } }\n",
        |s| server(s).endpoints[0].weight == 256,
    ),
    (
        "servers.*.balance",
        "servers: { everything: { endpoints: [http://a/], balance: {} } }\n",
        |s| server(s).balance == Balance::default(),
    ),
    (
        "servers.*.balance.algorithm",
        "servers: { everything: { endpoints: [http://a/], balance: { algorithm: least_request } } }\n",
        |s| server(s).balance == Balance::LeastRequest,
    ),
    (
        "servers.*.balance.key",
        "servers: { everything: { endpoints: [http://a/], balance: { key: caller } } }\n",
        |s| server(s).balance == Balance::ConsistentHash { key: HashKey::Caller },
    ),
    (
        "servers.*.balance.key",
        "servers: { everything: { endpoints: [http://a/], balance: { key: tenant } } }\n",
        |s| server(s).balance == Balance::ConsistentHash { key: HashKey::Tenant },
    ),
    (
        "servers.*.balance.key",
        "servers: { everything: { endpoints: [http://a/], balance: { key: tool } } }\n",
        |s| server(s).balance == Balance::ConsistentHash { key: HashKey::Tool },
    ),
    (
        "servers.*.balance.key",
        "servers: { everything: { endpoints: [http://a/], balance: { key: 'header:X-Y' } } }\n",
        |s| server(s).balance == Balance::ConsistentHash { key: HashKey::Header("x-y".to_owned()) },
    ),
    (
        "servers.*.protocol",
        "servers: { everything: { endpoints: [http://a/], protocol: http2 } }\n",
        |s| server(s).protocol == Protocol::Http2,
    ),
    ("servers.*.ca", "servers: { everything: { endpoints: [https://a/], ca: tls.crt } }\n", |s| {
        server(s).ca.as_ref().is_some_and(|ca| ca.path().ends_with("tls.crt"))
    }),
    (
        "servers.*.timeouts",
        "servers: { everything: { endpoints: [http://a/], timeouts: {} } }\n",
        |s| server(s).timeouts == Timeouts::default(),
    ),
    (
        "servers.*.timeouts.connect",
        "servers: { everything: { endpoints: [http://a/], timeouts: { connect: 2s } } }\n",
        |s| server(s).timeouts.connect == seconds(2),
    ),
    (
        "servers.*.timeouts.first_byte",
        "servers: { everything: { endpoints: [http://a/], timeouts: { first_byte: 3s } } }\n",
        |s| server(s).timeouts.first_byte == seconds(3),
    ),
    (
        "servers.*.timeouts.stream_idle",
        "servers: { everything: { endpoints: [http://a/], timeouts: { stream_idle: 4s } } }\n",
        |s| server(s).timeouts.stream_idle == seconds(4),
    ),
    (
        "servers.*.timeouts.total",
        "servers: { everything: { endpoints: [http://a/], timeouts: { total: 5s } } }\n",
        |s| server(s).timeouts.total == seconds(5),
    ),
    (
        "servers.*.endpoints",
        "servers: { everything: { endpoints: [], discovery: { dns: http://a/ } } }\n",
        |s| server(s).endpoints.is_empty(),
    ),
    (
        "servers.*.endpoints",
        "servers: { everything: { endpoints: [] } }\nadmin: { listen: 127.0.0.1:1, tokens: [{ role: 'register:everything', sha256: 00000000000000000000000000000000000000000000000000000000000000ff }] }\n",
        |s| server(s).endpoints.is_empty(),
    ),
    (
        "servers.*.endpoints",
        "servers: { everything: { endpoints: [] } }\nadmin: { listen: 127.0.0.1:1, tokens: [{ role: operate, sha256: 00000000000000000000000000000000000000000000000000000000000000ff }] }\n",
        |s| server(s).endpoints.is_empty(),
    ),
    (
        "servers.*.discovery",
        "servers: { everything: { endpoints: [http://a/], discovery: { dns: http://a/ } } }\n",
        |s| server(s).discovery.is_some() && server(s).endpoints.len() == 1,
    ),
    (
        "servers.*.discovery.dns",
        "servers: { everything: { discovery: { dns: HTTP://A:80 } } }\n",
        |s| matches!(&server(s).discovery, Some(Discovery::Dns(dns)) if dns.url == "http://a/" && dns.weight == 1),
    ),
    (
        "servers.*.discovery.file",
        "servers: { everything: { discovery: { file: endpoints.yaml } } }\n",
        |s| matches!(&server(s).discovery, Some(Discovery::File(path)) if path.is_absolute() && path.ends_with("endpoints.yaml")),
    ),
    (
        "servers.*.balance.algorithm",
        "servers: { everything: { endpoints: [http://a/], balance: { algorithm: round_robin } } }\n",
        |s| server(s).balance == Balance::RoundRobin,
    ),
    (
        "servers.*.on_endpoint_loss",
        "servers: { everything: { endpoints: [http://a/], on_endpoint_loss: not_found } }\n",
        |s| server(s).on_endpoint_loss == OnEndpointLoss::NotFound,
    ),
    (
        "servers.*.on_endpoint_loss",
        "servers: { everything: { endpoints: [http://a/], on_endpoint_loss: move } }\n",
        |s| server(s).on_endpoint_loss == OnEndpointLoss::Move,
    ),
    (
        "servers.*.slow_start",
        "servers: { everything: { endpoints: [http://a/], slow_start: 30s } }\n",
        |s| server(s).slow_start == seconds(30),
    ),
    (
        "servers.*.slow_start",
        "servers: { everything: { endpoints: [http://a/], slow_start: 0s } }\n",
        |s| server(s).slow_start.is_zero(),
    ),
    (
        "servers.*.health",
        "servers: { everything: { endpoints: [http://a/], health: {} } }\n",
        |s| server(s).health == Health::default(),
    ),
    (
        "servers.*.health.probe",
        "servers: { everything: { endpoints: [http://a/], health: { probe: tcp } } }\n",
        |s| server(s).health.probe == Probe::Tcp,
    ),
    (
        "servers.*.health.probe",
        "servers: { everything: { endpoints: [http://a/], health: { probe: http } } }\n",
        |s| server(s).health.probe == Probe::Http,
    ),
    (
        "servers.*.health.probe",
        "servers: { everything: { endpoints: [http://a/], health: { probe: mcp } } }\n",
        |s| server(s).health.probe == Probe::Mcp,
    ),
    (
        "servers.*.health.probe",
        "servers: { everything: { endpoints: [http://a/], health: { probe: off } } }\n",
        |s| server(s).health.probe == Probe::Off,
    ),
    (
        "servers.*.health.path",
        "servers: { everything: { endpoints: [http://a/], health: { probe: http, path: '/up?x=1' } } }\n",
        |s| server(s).health.path.as_deref() == Some("/up?x=1"),
    ),
    (
        "servers.*.health.interval",
        "servers: { everything: { endpoints: [http://a/], health: { interval: 6s } } }\n",
        |s| server(s).health.interval == seconds(6),
    ),
    (
        "servers.*.health.timeout",
        "servers: { everything: { endpoints: [http://a/], health: { timeout: 2s } } }\n",
        |s| server(s).health.timeout == seconds(2),
    ),
    (
        "servers.*.health.unhealthy_after",
        "servers: { everything: { endpoints: [http://a/], health: { unhealthy_after: 4 } } }\n",
        |s| server(s).health.unhealthy_after == 4,
    ),
    (
        "servers.*.health.healthy_after",
        "servers: { everything: { endpoints: [http://a/], health: { healthy_after: 2 } } }\n",
        |s| server(s).health.healthy_after == 2,
    ),
    (
        "servers.*.ejection",
        "servers: { everything: { endpoints: [http://a/], ejection: {} } }\n",
        |s| server(s).ejection == Ejection::default(),
    ),
    (
        "servers.*.ejection.consecutive_failures",
        "servers: { everything: { endpoints: [http://a/], ejection: { consecutive_failures: 0 } } }\n",
        |s| server(s).ejection.consecutive_failures == 0,
    ),
    (
        "servers.*.ejection.failure_rate",
        "servers: { everything: { endpoints: [http://a/], ejection: { failure_rate: 1 } } }\n",
        |s| (server(s).ejection.failure_rate - 1.0).abs() < f64::EPSILON,
    ),
    (
        "servers.*.ejection.requests_min",
        "servers: { everything: { endpoints: [http://a/], ejection: { requests_min: 5 } } }\n",
        |s| server(s).ejection.requests_min == 5,
    ),
    (
        "servers.*.ejection.window",
        "servers: { everything: { endpoints: [http://a/], ejection: { window: 20s } } }\n",
        |s| server(s).ejection.window == seconds(20),
    ),
    (
        "servers.*.ejection.duration",
        "servers: { everything: { endpoints: [http://a/], ejection: { duration: 10m } } }\n",
        |s| {
            server(s).ejection.duration == seconds(600)
                && server(s).ejection.duration_max == seconds(600)
        },
    ),
    (
        "servers.*.ejection.duration_max",
        "servers: { everything: { endpoints: [http://a/], ejection: { duration_max: 1h } } }\n",
        |s| server(s).ejection.duration_max == seconds(3600),
    ),
    (
        "servers.*.ejection.fraction_max",
        "servers: { everything: { endpoints: [http://a/], ejection: { fraction_max: 0.75 } } }\n",
        |s| (server(s).ejection.fraction_max - 0.75).abs() < f64::EPSILON,
    ),
    (
        "servers.*.ejection.panic_below",
        "servers: { everything: { endpoints: [http://a/], ejection: { panic_below: 0 } } }\n",
        |s| server(s).ejection.panic_below.abs() < f64::EPSILON,
    ),
    (
        "servers.*.breaker",
        "servers: { everything: { endpoints: [http://a/], breaker: {} } }\n",
        |s| server(s).breaker == Breaker::default(),
    ),
    (
        "servers.*.breaker.in_flight_max",
        "servers: { everything: { endpoints: [http://a/], breaker: { in_flight_max: 10 } } }\n",
        |s| server(s).breaker.in_flight_max == 10,
    ),
    (
        "servers.*.breaker.pending_max",
        "servers: { everything: { endpoints: [http://a/], breaker: { pending_max: 0 } } }\n",
        |s| server(s).breaker.pending_max == 0,
    ),
    (
        "servers.*.catalog",
        "catalog: { refresh: 1m }\nservers: { everything: { endpoints: [http://a/], catalog: {} } }\n",
        |s| server(s).catalog.refresh == seconds(60),
    ),
    (
        "servers.*.catalog.listing",
        "catalog: { listing: on }\nservers: { everything: { endpoints: [http://a/], catalog: { listing: off } } }\n",
        |s| server(s).catalog.listing == Listing::Off,
    ),
    (
        "servers.*.catalog.refresh",
        "servers: { everything: { endpoints: [http://a/], catalog: { refresh: 2m } } }\n",
        |s| server(s).catalog.refresh == seconds(120),
    ),
    (
        "servers.*.retries",
        "servers: { everything: { endpoints: [http://a/], retries: {} } }\n",
        |s| server(s).retries == Retries::default(),
    ),
    (
        "servers.*.retries.attempts",
        "servers: { everything: { endpoints: [http://a/], retries: { attempts: 0 } } }\n",
        |s| server(s).retries.attempts == 0,
    ),
    (
        "servers.*.retries.budget",
        "servers: { everything: { endpoints: [http://a/], retries: { budget: .5 } } }\n",
        |s| (server(s).retries.budget - 0.5).abs() < f64::EPSILON,
    ),
    (
        "servers.*.retries.tools",
        "servers: { everything: { endpoints: [http://a/], retries: { tools: ['search_*', echo] } } }\n",
        |s| server(s).retries.tools == ["search_*", "echo"],
    ),
    (
        "servers.*.definitions",
        "servers: { everything: { endpoints: [http://a/], definitions: {} } }\n",
        |s| server(s).definitions.on_change == OnChange::Record,
    ),
    (
        "servers.*.definitions.on_change",
        "servers: { everything: { endpoints: [http://a/], definitions: { on_change: withhold } } }\n",
        |s| server(s).definitions.on_change == OnChange::Withhold,
    ),
    (
        "servers.*.definitions.on_change",
        "catalog: { listing: off }\nservers: { everything: { endpoints: [http://a/], catalog: { listing: on }, definitions: { on_change: refuse } } }\n",
        |s| server(s).definitions.on_change == OnChange::Refuse,
    ),
];
