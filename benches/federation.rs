//! What several servers cost as one: a filtered list of ten servers with fifty tools each, and whose a name is.

use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};
use toolgate::catalog::{Audience, Catalog, Kind, Offer};
use toolgate::config;
use toolgate::federation::{Federation, Found, ListAsk, SealCursors};
use toolgate::identity::{Caller, Method, Proven};
use toolgate::mcp::{Annotations, Era, Listed};
use toolgate::policy::Policy;
use toolgate::upstream::{Fleet, now_ms};

const SERVERS: usize = 10;
const TOOLS: usize = 50;

/// A list of so few is one page.
struct NoCursors;

impl SealCursors for NoCursors {
    fn seal(&self, _: &[u8]) -> Option<String> {
        None
    }

    fn open(&self, _: &str) -> Option<Vec<u8>> {
        None
    }
}

/// Ten servers on one route, half of them with a prefix, and rules that hide a tenth of their tools.
fn settings() -> config::Settings {
    let names: Vec<String> = (0..SERVERS).map(|number| format!("server{number}")).collect();
    let servers: Vec<String> = names
        .iter()
        .map(|name| format!("{name}: {{ endpoints: [http://10.0.0.1/{name}] }}"))
        .collect();
    let members: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(number, name)| match number % 2 {
            0 => format!("{{ name: {name}, prefix: {name}_ }}"),
            _ => format!("{{ name: {name} }}"),
        })
        .collect();
    let yaml = format!(
        "listen: 127.0.0.1:1
servers: {{ {} }}
routes: [{{ path: /mcp, servers: [{}] }}]
policy:
  rules:
    - {{ name: readers, allow: {{ callers: ['scope:read'], tools: ['*'], when: tool.annotations.readOnlyHint }} }}
    - {{ name: all, allow: {{ callers: ['scope:write'], tools: ['*'] }} }}
    - {{ name: no-deletes, deny: {{ tools: ['*_7'] }} }}
",
        servers.join(", "),
        members.join(", ")
    );
    config::parse(&yaml, "bench", &|_| None).expect("settings")
}

fn offer(server: usize) -> Offer {
    let tool = |number: usize| {
        json!({
            "name": format!("tool{server}_{number}"),
            "description": "Reads what is asked for and says what it has found, in a few words.",
            "inputSchema": { "type": "object", "properties": {
                "path": { "type": "string", "description": "Where to look" },
                "limit": { "type": "integer", "minimum": 1 },
            }, "required": ["path"] },
            "annotations": { "readOnlyHint": true },
        })
    };
    let tools: Vec<Value> = (0..TOOLS).map(tool).collect();
    let result = json!({ "tools": tools, "ttlMs": 60_000, "cacheScope": "public" }).to_string();
    let greeting = json!({ "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} } });
    let results = [(Kind::Tools, result.as_bytes())];
    Offer::of_results(Era::Modern, greeting.to_string().into(), &results, SystemTime::now())
        .expect("an offer")
}

fn benchmark(criterion: &mut Criterion) {
    let settings = settings();
    let fleet = Fleet::new();
    let pools: Vec<Arc<_>> = fleet.prepare(&settings.servers, now_ms());
    fleet.install(&pools, now_ms());
    let catalog = Catalog::new();
    let federation = Federation::new(&settings.routes[0], &pools, &catalog);
    for (number, server) in settings.servers.iter().enumerate() {
        assert!(catalog.put(&server.name, offer(number)), "there is room");
    }
    let names: Vec<&str> = settings.servers.iter().map(|server| server.name.as_str()).collect();
    let policy = Policy::new(&settings.policy, names.iter().copied()).expect("good conditions");
    let caller = Caller::new(Proven {
        id: "ann".to_owned(),
        issuer: None,
        tenant: None,
        scopes: ["read", "write"].map(str::to_owned).to_vec(),
        claims: serde_json::Map::new(),
        method: Method::ApiKey,
    });
    let ask = ListAsk {
        kind: Kind::Tools,
        era: Era::Modern,
        cursor: None,
        audience: Audience::Caller,
        lacks: &|_, _, _| {},
        cursors: &NoCursors,
        now: SystemTime::now(),
        now_ms: now_ms(),
    };
    let listings: Vec<_> = names.iter().map(|name| policy.listing(&caller, name, None)).collect();
    let by_policy = |member: usize, _: Kind, own: &str, annotations: &Annotations| {
        listings[member].shows(Listed::Tool, own, Some(annotations))
    };
    let everything = |_: usize, _: Kind, _: &str, _: &Annotations| true;
    let list = federation.list(&ask, &by_policy).expect("a page");
    let list: Value = serde_json::from_slice(&list).expect("JSON");
    assert_eq!(list["tools"].as_array().map(Vec::len), Some(SERVERS * (TOOLS - 1)));

    let mut group = criterion.benchmark_group("federation");
    group.bench_function("list-500-filtered", |bencher| {
        bencher.iter(|| federation.list(black_box(&ask), &by_policy));
    });
    group.bench_function("list-500", |bencher| {
        bencher.iter(|| federation.list(black_box(&ask), &everything));
    });
    for (name, shown) in [("find-prefixed", "server4_tool4_20"), ("find-plain", "tool5_20")] {
        assert!(matches!(federation.find(Kind::Tools, shown), Found::At { .. }));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                matches!(federation.find(Kind::Tools, black_box(shown)), Found::At { .. })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
