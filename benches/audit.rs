//! What the record costs a call: its slot, its line, and the digest of its arguments.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use toolgate::audit::{Arguments, Audit, Ending, Event, Keeping, Record, Target, Verdict};
use toolgate::config::{self, AuditSink, KeptArguments, WhenFull};
use toolgate::identity::Caller;
use toolgate::telemetry::Metrics;

/// Records between two pauses in which the writer catches up; fewer than the queue holds.
const ROUND: u64 = 20_000;
const ARGUMENTS: &[u8] = br#"{"query":"the quick brown fox jumps over the lazy dog","limit":10,"filter":{"kind":"report","owner":"finance","password":"correct horse battery staple"},"fields":["title","author","summary","updated_at","tags"],"cursor":"eyJvZmZzZXQiOjEyMzQ1Njc4OTB9"}"#;

fn record<'a>(caller: &'a Caller, arguments: &'a Arguments) -> Record<'a> {
    Record {
        request_id: "0123456789abcdef",
        trace_id: "0af7651916cd43dd8448eb211c80319c",
        client: Some([10, 0, 0, 7].into()),
        user_agent: "some-agent/1.42.0 (linux; x86_64)",
        caller: Some(caller),
        method: "tools/call",
        revision: "2025-11-25",
        session: Some([1, 2, 3, 4]),
        target: Some(Target::Tool("search")),
        rpc_id: "1234",
        route: "/mcp",
        server: "everything",
        endpoint: "http://10.0.0.1:8000/mcp",
        verdict: Some(Verdict::Allow),
        rule: "readers",
        ending: Some(Ending::Ok),
        status: 200,
        arguments,
        bytes_in: 330,
        bytes_out: 250,
        duration: Duration::from_micros(900),
        overhead: Duration::from_micros(30),
        ..Record::new(Event::Call)
    }
}

fn settings(when_full: WhenFull) -> config::Audit {
    let path = "/dev/null".into();
    config::Audit {
        sinks: vec![AuditSink::File { path, rotate_bytes: u64::MAX, keep: None }],
        when_full,
        ..config::Audit::default()
    }
}

fn audit(c: &mut Criterion) {
    let keeping = |arguments| Keeping::new(&config::Audit { arguments, ..Default::default() });
    let (digest, redacted) = (keeping(KeptArguments::Digest), keeping(KeptArguments::Redacted));
    c.bench_function("digest 250 bytes of arguments", |b| {
        b.iter(|| digest.keep(black_box(ARGUMENTS)));
    });
    c.bench_function("redact 250 bytes of arguments", |b| {
        b.iter(|| redacted.keep(black_box(ARGUMENTS)));
    });
    let (caller, arguments) = (Caller::anonymous(), digest.keep(ARGUMENTS));
    let mut group = c.benchmark_group("record a call");
    for (name, when_full) in [("drop", WhenFull::Drop), ("wait", WhenFull::Wait)] {
        for threads in [1, 2, 4] {
            let metrics = Metrics::new(1, 1).audit;
            let audit = Audit::start(&settings(when_full), "", &metrics).expect("/dev/null");
            let record = record(&caller, &arguments);
            group.bench_function(format!("{name}, {threads} threads"), |b| {
                b.iter_custom(|calls| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..calls.div_ceil(ROUND) {
                        spent += round(&audit, &record, threads);
                        // The writer's time is not the call's.
                        while metrics.queue.get() > 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    spent.mul_f64(calls as f64 / (calls.div_ceil(ROUND) * ROUND) as f64)
                });
            });
            assert_eq!(metrics.lost("all").get(), 0, "a lost record costs nothing");
            audit.close(Duration::from_secs(10));
        }
    }
    group.finish();
}

/// One round of calls by all threads together; the time it took.
fn round(audit: &Arc<Audit>, record: &Record<'_>, threads: u64) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..ROUND / threads {
                    let slot = futures::executor::block_on(audit.reserve()).expect("room");
                    slot.write(black_box(record));
                }
            });
        }
    });
    began.elapsed()
}

criterion_group!(benches, audit);
criterion_main!(benches);
