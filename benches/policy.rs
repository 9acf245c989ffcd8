//! What a decision costs: 100 rules by tables, and one that asks a condition.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Map, json};
use toolgate::config;
use toolgate::identity::{Caller, Method, Proven};
use toolgate::mcp::{Annotations, Listed};
use toolgate::policy::{Asked, Combinations, Effect, Origin, Policy, State, Subject, Use};
use toolgate::upstream::now_ms;

const CONDITION: &str = r#"{"path":"/public/report.txt","limit":10}"#;

/// A hundred rules: ninety allows for teams, nine denies, and the one that matches, last.
fn settings() -> config::Settings {
    let mut yaml = String::from(
        "listen: 127.0.0.1:1
servers: { s: { endpoints: [http://10.0.0.1/mcp] } }
routes: [{ path: /mcp, server: s }]
policy:
  labels: { secret: [s/get_secret], egress: [s/send_*] }
  combinations: [{ name: c, after: secret, deny: egress, within: session }]
  rules:
",
    );
    for team in 0..90 {
        _ = writeln!(
            yaml,
            "  - {{ name: a{team}, allow: {{ callers: ['claim:team=t{team}', 'scope:s{team}'], tools: ['s/team{team}_*', tool{team}] }} }}"
        );
    }
    for deny in 0..9 {
        _ = writeln!(yaml, "  - {{ name: d{deny}, deny: {{ tools: ['s/forbidden{deny}_*'] }} }}");
    }
    yaml.push_str("  - { name: last, allow: { callers: ['scope:read'], tools: ['s/sea*'] } }\n");
    yaml.push_str("  - { name: when, allow: { callers: ['scope:read'], tools: [open], when: \"arguments.path.startsWith('/public/')\" } }\n");
    config::parse(&yaml, "bench", &|_| None).expect("settings")
}

fn caller() -> Caller {
    Caller::new(Proven {
        id: "ann".to_owned(),
        issuer: Some("https://idp.example.com".to_owned()),
        tenant: Some("acme".to_owned()),
        scopes: ["read", "write", "mail"].map(str::to_owned).to_vec(),
        claims: json!({ "team": "t91", "email": "ann@example.com" })
            .as_object()
            .cloned()
            .unwrap_or_else(Map::new),
        method: Method::Jwt,
    })
}

fn benchmark(criterion: &mut Criterion) {
    let settings = settings();
    let policy = Policy::new(&settings.policy, ["s"]).expect("good conditions");
    let combinations = Combinations::new(&settings.policy, ["s"], Duration::from_secs(3600));
    let (caller, annotations) = (caller(), Annotations::default());
    let asked = |tool| Asked {
        caller: &caller,
        server: "s",
        method: "tools/call",
        subject: Subject::Tool(tool),
        annotations: Some(&annotations),
        arguments: Some(CONDITION.as_bytes()),
        client: None,
    };
    let mut group = criterion.benchmark_group("policy");
    let search = asked("search");
    assert_eq!(policy.authorize(&search).effect, Effect::Allowed);
    group.bench_function("100-rules", |bencher| {
        bencher.iter(|| _ = black_box(policy.authorize(black_box(&search))));
    });
    let other = asked("other");
    assert_eq!(policy.authorize(&other).effect, Effect::Hidden);
    group.bench_function("100-rules-refused", |bencher| {
        bencher.iter(|| _ = black_box(policy.authorize(black_box(&other))));
    });
    let open = asked("open");
    assert_eq!(policy.authorize(&open).effect, Effect::Allowed);
    group.bench_function("condition", |bencher| {
        bencher.iter(|| _ = black_box(policy.authorize(black_box(&open))));
    });
    let names: Vec<String> = (0..100).map(|tool| format!("tool{tool}")).collect();
    group.bench_function("list-of-100", |bencher| {
        bencher.iter(|| {
            let listing = policy.listing(&caller, "s", None);
            let shows = |name: &&String| listing.shows(Listed::Tool, name, Some(&annotations));
            black_box(names.iter().filter(shows).count())
        });
    });
    let state: Arc<State> = Arc::default();
    let mut used = Use {
        server: "s",
        tool: "search",
        origin: Origin::Declared,
        caller: caller.digest(),
        session: None,
    };
    group.bench_function("combination-unlabelled", |bencher| {
        bencher.iter(|| _ = black_box(combinations.admit(&state, black_box(used), 1)));
    });
    used.tool = "send_mail";
    let now_ms = now_ms();
    group.bench_function("combination-checked", |bencher| {
        bencher.iter(|| _ = black_box(combinations.admit(&state, black_box(used), now_ms)));
    });
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
