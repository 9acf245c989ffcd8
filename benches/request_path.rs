//! What the gateway does for one call besides moving its bytes, step by step and together.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt as _;
use ring::digest::{SHA256, digest};
use toolgate::audit::{Audit, Ending, Event, Keeping, Record, Target, Verdict};
use toolgate::config;
use toolgate::identity::{Audience, Authorities, Credential, Identity, Proof};
use toolgate::jsonrpc::peek;
use toolgate::limits::{Limits, Subject};
use toolgate::mcp::{Annotations, Call, Claims, Revision};
use toolgate::outbound::Outbound;
use toolgate::policy::{self, Asked, Effect, Policy};
use toolgate::sessions::{Binding, NewSession, Place, Rules, Seal, Seen, Table, View, seconds};
use toolgate::telemetry::{Format, Labels, Line, Metrics, Outcome, RequestLog};
use toolgate::upstream::{Fleet, Load, Otherwise, Wanted, now_ms};

const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1234,"method":"tools/call","params":{"name":"search","arguments":{"query":"the quick brown fox jumps over the lazy dog","limit":10},"_meta":{"progressToken":"p-1234"}}}"#;
/// What a client of ordinary length says in `initialize`.
const OPENING: &[u8] = br#"{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{},"elicitation":{"form":{},"url":{}}},"clientInfo":{"name":"some-agent","title":"Some Agent","version":"1.42.0","websiteUrl":"https://agent.example.com"}}"#;
const ROUTE: [u8; 16] = [1; 16];

fn settings() -> config::Settings {
    let sha256: String = digest(&SHA256, b"key").as_ref().iter().map(hex).collect();
    let yaml = format!(
        "listen: 127.0.0.1:1\n\
         servers: {{ s: {{ endpoints: [http://10.0.0.1/mcp, http://10.0.0.2/mcp, http://10.0.0.3/mcp] }} }}\n\
         routes: [{{ path: /mcp, server: s }}]\n\
         identity: {{ api_keys: [{{ caller: ann, sha256: \"{sha256}\" }}] }}\n"
    );
    config::parse(&yaml, "bench", &|_| None).expect("settings")
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

fn labels() -> Labels<'static> {
    Labels { route: "/mcp", server: "s", method: "tools/call", caller: "ann", tool: "search" }
}

fn line() -> Line<'static> {
    Line {
        id: "0123456789abcdef",
        verb: "POST",
        path: "/mcp",
        server: "s",
        endpoint: "http://10.0.0.1/mcp",
        caller: "ann",
        method: "tools/call",
        target: "search",
        session: Some([1, 2, 3, 4]),
        moved: None,
        client: Some([127, 0, 0, 1].into()),
        status: 200,
        outcome: Outcome::Ok,
        reason: None,
        rule: "",
        bytes_in: 180,
        bytes_out: 250,
        duration: Duration::from_micros(900),
        overhead: Duration::from_micros(30),
    }
}

#[expect(clippy::too_many_lines, reason = "one list of steps, in their order")]
fn request_path(c: &mut Criterion) {
    let settings = settings();
    let metrics = Arc::new(Metrics::new(1000, 1000));
    let outbound = Outbound::new(None).expect("a client");
    let authorities = Arc::new(Authorities::new(outbound, Arc::clone(&metrics)));
    let identity = Identity::new(&settings.identity, &authorities);
    let audience = Audience::new(None);
    let fleet = Fleet::new();
    let pools = fleet.prepare(&settings.servers, now_ms());
    fleet.install(&pools, now_ms());
    let pool = &pools[0];
    let home = Arc::clone(&pool.members().endpoints()[0]);
    let seal = Seal::new(
        std::iter::once(&b"a secret of more than thirty-two bytes"[..]),
        Duration::from_secs(86_400),
    );
    let key = Credential { authorization: Some(b"Bearer key"), certificate: None };
    let known = |credential| match identity.authenticate(credential, &audience, SystemTime::now()) {
        Proof::Known(caller) => caller,
        Proof::Refused(_) | Proof::Ask(_) => panic!("a caller who is known"),
    };
    let caller = known(key);
    let binding = Binding { route: &ROUTE, caller: caller.digest() };
    let id = b"3f9c2b1e-1234-4000-8000-0123456789ab";
    let new = NewSession {
        endpoint: home.id(),
        revision: Some(Revision::V2025_11_25),
        upstream_id: id,
        opening: OPENING,
    };
    let now = SystemTime::now();
    let sealed = seal.seal(binding, new, now).expect("sealed");
    let token = sealed.token;
    let (sessions, now_s) = (Table::new(seconds(now)), seconds(now));
    let rules = Rules { idle_s: 1800, entries_max: 1 << 20, lifetime_s: 86_400, view: View::Whole };
    let at_home = Place { endpoint: Arc::clone(&home), upstream_id: Some(id.to_vec()) };
    // As many sessions as a busy gateway has.
    let others = (0..100_000).filter_map(|_| seal.seal(binding, new, now));
    for key in others.map(|other| other.key).chain([sealed.key]) {
        sessions.came(key, &at_home, new.revision, None, now_s, rules);
    }
    metrics.count(labels(), Outcome::Ok, 0.001, true);
    let log = RequestLog::start(Format::Json, Box::new(io::sink()), metrics.log_lines_lost.clone());
    let claims = Claims { version: Some("2025-11-25"), ..Claims::default() };

    let read = || Call::read(claims, peek(black_box(CALL)).expect("a message")).expect("a call");
    let prove = || known(black_box(key));
    let open = || seal.open(binding, black_box(token.as_bytes()), now).expect("a session");
    let find = || {
        let seen = sessions.used(black_box(sealed.key), now_s, now_s, rules);
        assert!(matches!(seen, Seen::AtHome));
        let endpoint = pool.by_id(home.id()).expect("its endpoint");
        assert!(pool.must_leave(&endpoint, now_ms()).is_none());
        endpoint
    };
    let place = || {
        let key = black_box(b"0123456789abcdef");
        let (load, otherwise) = (Load::Calls, Otherwise::Trust);
        let wanted = Wanted { key, random: 7, tried: &[], load, otherwise, now_ms: now_ms() };
        pool.choose(&wanted).expect("an endpoint")
    };
    let count = || metrics.count(black_box(labels()), Outcome::Ok, 0.001, true);
    let write = || log.write(black_box(&line()));

    c.bench_function("read the call", |b| b.iter(|| drop(black_box(read()))));
    c.bench_function("prove the caller", |b| b.iter(prove));
    c.bench_function("open the session", |b| b.iter(open));
    c.bench_function("find where the session lives", |b| b.iter(find));
    c.bench_function("place a request", |b| b.iter(place));
    c.bench_function("count the request", |b| b.iter(count));
    // A log that is full loses lines for next to nothing; it is emptied outside the measured time.
    let with_log = |iterations: u64, step: &dyn Fn()| {
        let began = Instant::now();
        for _ in 0..10_000 {
            step();
        }
        let measured = began.elapsed();
        log.flush();
        measured.mul_f64(iterations as f64 / 10_000.0)
    };
    let mut group = c.benchmark_group("with the log");
    group.sample_size(10).warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_millis(300));
    group.bench_function("log the request", |b| b.iter_custom(|n| with_log(n, &write)));
    let all = || {
        black_box(prove());
        drop(black_box(read()));
        black_box(open());
        black_box(find());
        count();
        write();
    };
    group.bench_function("all of a call in a session", |b| b.iter_custom(|n| with_log(n, &all)));
    group.finish();
    assert_eq!(metrics.log_lines_lost.get(), 0, "a lost line costs nothing");
}

/// Calls between two looks at the clock; the record has room for them.
const ROUND: u64 = 20_000;

/// Twenty rules, of which the last one lets the call pass; two limits; the record of every call.
fn guarded_settings(record: &Path) -> config::Settings {
    let mut yaml = String::from(
        "listen: 127.0.0.1:1
servers: { s: { endpoints: [http://10.0.0.1/mcp] } }
routes: [{ path: /mcp, server: s }]
limits:
  - { name: rate, key: [caller, tool], rate: 1000000/s, burst: 4000000000 }
  - { name: at-once, key: [caller], in_flight: 1000 }
policy:
  rules:
",
    );
    for team in 0..16 {
        _ = writeln!(
            yaml,
            "  - {{ name: a{team}, allow: {{ callers: ['scope:s{team}'], tools: ['s/team{team}_*'] }} }}"
        );
    }
    for deny in 0..3 {
        _ = writeln!(yaml, "  - {{ name: d{deny}, deny: {{ tools: ['s/forbidden{deny}_*'] }} }}");
    }
    yaml.push_str("  - { name: last, allow: { callers: [ann], tools: ['s/sea*'] } }\n");
    _ = writeln!(
        yaml,
        "audit: {{ sinks: [{{ file: {}, rotate: 64MiB, keep: 1 }}] }}",
        record.display()
    );
    let sha256: String = digest(&SHA256, b"key").as_ref().iter().map(hex).collect();
    _ = writeln!(yaml, "identity: {{ api_keys: [{{ caller: ann, sha256: \"{sha256}\" }}] }}");
    config::parse(&yaml, "bench", &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The processor time that all threads of this process have used.
fn processor_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let time_ns = |thread: io::Result<std::fs::DirEntry>| -> u64 {
        let text = std::fs::read_to_string(thread.expect("a thread").path().join("schedstat"));
        let text = text.unwrap_or_default();
        text.split(' ').next().and_then(|time_ns| time_ns.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(threads.map(time_ns).sum())
}

/// What guarding adds to a call: who calls, 20 rules, two limits, and the line of the record, with
/// the thread that seals and writes it, all as processor time.
#[expect(clippy::too_many_lines, reason = "one list of steps, in their order")]
fn guarded(c: &mut Criterion) {
    let folder = std::env::temp_dir().join(format!("toolgate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let settings = guarded_settings(&folder.join("audit.jsonl"));
    let metrics = Arc::new(Metrics::new(1000, 1000));
    let outbound = Outbound::new(None).expect("a client");
    let authorities = Arc::new(Authorities::new(outbound, Arc::clone(&metrics)));
    let identity = Identity::new(&settings.identity, &authorities);
    let audience = Audience::new(None);
    let policy = Policy::new(&settings.policy, ["s"]).expect("a policy");
    let state = Arc::default();
    let limits = Limits::new(&settings.limits, &settings.listeners, &state, &metrics.limits);
    let of_audit = settings.audit.as_ref().expect("a record");
    let keeping = Keeping::new(of_audit);
    let audit = Audit::start(of_audit, "", &metrics.audit).expect("a file");
    let claims = Claims { version: Some("2025-11-25"), ..Claims::default() };
    let annotations = Annotations::default();
    let call = || {
        let slot = black_box(&audit).reserve().now_or_never().expect("no wait").expect("room");
        let key = Credential { authorization: Some(b"Bearer key"), certificate: None };
        let proof = identity.authenticate(black_box(key), &audience, SystemTime::now());
        let Proof::Known(caller) = proof else { panic!("a caller who is known") };
        let subject = Subject {
            caller: Some(&caller),
            tool: Some("search"),
            server: Some("s"),
            session: None,
            route: &ROUTE,
            address: None,
        };
        limits.admit_early(&subject).now_or_never().expect("no wait").expect("room");
        let call = Call::read(claims, peek(black_box(CALL)).expect("a message")).expect("a call");
        let arguments = call.envelope.params.arguments.unwrap_or_default();
        let decision = policy.authorize(&Asked {
            caller: &caller,
            server: "s",
            method: "tools/call",
            subject: policy::Subject::Tool("search"),
            annotations: Some(&annotations),
            arguments: Some(arguments.as_bytes()),
            client: None,
        });
        assert_eq!(decision.effect, Effect::Allowed);
        let permits = limits.admit(&subject).now_or_never().expect("no wait").expect("room");
        let kept = keeping.keep(arguments.as_bytes());
        drop(permits);
        slot.write(&Record {
            request_id: "0123456789abcdef",
            client: Some([127, 0, 0, 1].into()),
            user_agent: "some-agent/1.42.0 (linux; x86_64)",
            caller: Some(&caller),
            method: "tools/call",
            revision: "2025-11-25",
            session: Some([1, 2, 3, 4]),
            target: Some(Target::Tool("search")),
            rpc_id: "1234",
            route: "/mcp",
            server: "s",
            endpoint: "http://10.0.0.1/mcp",
            verdict: Some(Verdict::Allow),
            rule: decision.rule.map(|rule| &**rule).unwrap_or_default(),
            ending: Some(Ending::Ok),
            status: 200,
            arguments: &kept,
            bytes_in: 180,
            bytes_out: 250,
            duration: Duration::from_micros(900),
            overhead: Duration::from_micros(30),
            ..Record::new(Event::Call)
        });
    };
    let bare = || {
        let call = Call::read(claims, peek(black_box(CALL)).expect("a message")).expect("a call");
        black_box(call.target());
    };
    let rounds = |calls: u64, step: &dyn Fn()| {
        let began = processor_time();
        for _ in 0..calls.div_ceil(ROUND) {
            (0..ROUND).for_each(|_| step());
            // The writer's time counts: it has to have come to its end.
            while metrics.audit.queue.get() > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let spent = processor_time().saturating_sub(began);
        spent.mul_f64(calls as f64 / (calls.div_ceil(ROUND) * ROUND) as f64)
    };
    let mut group = c.benchmark_group("processor time of a call");
    group.sample_size(10).warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group.bench_function("read only", |b| b.iter_custom(|calls| rounds(calls, &bare)));
    group.bench_function("guarded and recorded", |b| b.iter_custom(|calls| rounds(calls, &call)));
    group.finish();
    assert_eq!(metrics.audit.lost("all").get(), 0, "a lost record costs nothing");
    audit.close(Duration::from_secs(10));
    std::fs::remove_dir_all(&folder).expect("removed");
}

criterion_group!(benches, request_path, guarded);
criterion_main!(benches);
