//! What the gateway does for one call besides moving its bytes, step by step and together.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use ring::digest::{SHA256, digest};
use toolgate::config;
use toolgate::identity::{Audience, Authorities, Credential, Identity, Proof};
use toolgate::jsonrpc::peek;
use toolgate::mcp::{Call, Claims, Revision};
use toolgate::outbound::Outbound;
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
    let rules = Rules { idle_s: 1800, entries_max: 1 << 20, view: View::Whole };
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

criterion_group!(benches, request_path);
criterion_main!(benches);
