//! Limits on the request path: one key that everybody uses, by one thread and by several, and many keys.

use std::future::Future;
use std::hint::black_box;
use std::net::TcpListener;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use toolgate::config;
use toolgate::identity::Caller;
use toolgate::limits::{Limits, State, Subject};
use toolgate::shared::Store;
use toolgate::telemetry::Metrics;

/// Never used up, however fast the machine is.
const RATE: &str = "{ name: rate, key: [caller, tool], rate: 1000000/s, burst: 4000000000 }";
const IN_FLIGHT: &str = "{ name: in-flight, key: [caller], in_flight: 1000 }";

fn limits(text: &str) -> Limits {
    let yaml = format!(
        "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/] }} }}\nroutes: [{{ path: /mcp, server: s }}]\nlimits: [{text}]\n"
    );
    let settings =
        config::parse(&yaml, "bench", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let state = Arc::<State>::default();
    Limits::new(&settings.limits, &settings.listeners, &state, &Metrics::new(10, 10).limits)
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn admit(limits: &Limits, subject: &Subject<'_>) {
    assert!(now(limits.admit_early(black_box(subject))).is_ok());
    assert!(now(limits.admit(black_box(subject))).is_ok());
}

/// The time of all threads for `calls` calls in all.
fn together(threads: u64, calls: u64, limits: &Limits, subject: &Subject<'_>) -> Duration {
    let ready = Barrier::new(threads as usize + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    ready.wait();
                    (0..calls.div_ceil(threads)).for_each(|_| admit(limits, subject));
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        for worker in workers {
            assert!(worker.join().is_ok());
        }
        start.elapsed()
    })
}

fn one_hot_key(criterion: &mut Criterion) {
    let caller = Caller::anonymous();
    let subject = Subject {
        caller: Some(&caller),
        tool: Some("echo"),
        server: Some("s"),
        session: None,
        route: &[1; 16],
        address: None,
    };
    let mut group = criterion.benchmark_group("limits/one_hot_key");
    group.throughput(Throughput::Elements(1));
    for (name, text) in [
        ("rate", RATE.to_owned()),
        ("in_flight", IN_FLIGHT.to_owned()),
        ("both", format!("{RATE}, {IN_FLIGHT}")),
    ] {
        let limits = limits(&text);
        for threads in [1, 2, 4] {
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter_custom(|calls| together(threads, calls, &limits, &subject));
            });
        }
    }
    group.finish();
}

fn many_keys(criterion: &mut Criterion) {
    const SESSIONS: u32 = 100_000;
    let limits = limits("{ name: rate, key: [session], rate: 1000000/s, burst: 4000000000 }");
    let call = |number: u32, limits: &Limits| {
        let session = number.to_le_bytes();
        let subject = Subject {
            caller: None,
            tool: None,
            server: None,
            session: Some(&session),
            route: &[1; 16],
            address: None,
        };
        admit(limits, &subject);
    };
    (0..SESSIONS).for_each(|number| call(number, &limits));
    let mut number = 0_u32;
    criterion.bench_function("limits/100000_keys", |bencher| {
        bencher.iter(|| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            call(number % SESSIONS, &limits);
        });
    });
}

fn addresses(criterion: &mut Criterion) {
    let yaml = "listeners: [{ address: 127.0.0.1:1, limits: { requests_per_address: 1000000/s } }]\nservers: { s: { endpoints: [http://a/] } }\nroutes: [{ path: /mcp, server: s }]\n";
    let settings =
        config::parse(yaml, "bench", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let state = Arc::<State>::default();
    let metrics = Metrics::new(10, 10);
    let limits = Limits::new(&settings.limits, &settings.listeners, &state, &metrics.limits);
    let address = [192, 0, 2, 1].into();
    criterion.bench_function("limits/address", |bencher| {
        bencher.iter(|| black_box(limits.admit_address(0, black_box(address)).is_ok()));
    });
}

/// A store that ends with the measurement.
struct RedisServer(Child);

impl RedisServer {
    fn start(port: u16) -> Option<Self> {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .ok()
            .map(Self)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The same hot key where replicas count together: nearly every call is one that was leased before.
fn leased(criterion: &mut Criterion) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.map(|address| address.port()).unwrap_or_default();
    let Some(_server) = RedisServer::start(port) else {
        eprintln!("limits/leased needs redis-server");
        return;
    };
    let runtime = tokio::runtime::Runtime::new();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    let yaml = format!(
        "listen: 127.0.0.1:1\nsessions: {{ keys: [a-key-of-benches-that-is-no-secret] }}\nshared: {{ redis: \"redis://127.0.0.1:{port}\" }}\nservers: {{ s: {{ endpoints: [http://a/] }} }}\nroutes: [{{ path: /mcp, server: s }}]\nlimits: [{RATE}, {IN_FLIGHT}]\n"
    );
    let settings =
        config::parse(&yaml, "bench", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let metrics = Metrics::new(10, 10);
    let keys = settings.sessions.keys.iter().map(|key| key.expose().as_bytes());
    let Some(shared) = &settings.shared else { panic!("it is configured") };
    let store = Store::new(shared, keys, "bench", metrics.shared.clone());
    let store = Arc::new(store.unwrap_or_else(|error| panic!("{error}")));
    let state = Arc::new(State::new(&store, &metrics.shared));
    let limits = Limits::new(&settings.limits, &settings.listeners, &state, &metrics.limits);
    let keeping = {
        let (store, state) = (Arc::clone(&store), Arc::clone(&state));
        runtime.spawn(async move {
            tokio::join!(store.keep(std::future::pending()), state.share());
        })
    };
    while !store.is_up() {
        thread::sleep(Duration::from_millis(10));
    }
    let caller = Caller::anonymous();
    let subject = Subject {
        caller: Some(&caller),
        tool: Some("echo"),
        server: Some("s"),
        session: None,
        route: &[1; 16],
        address: None,
    };
    // Some find what was leased used up, and wait for the store.
    let admit = || {
        let mut admitted = pin!(limits.admit(black_box(&subject)));
        match admitted.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(admitted) => assert!(admitted.is_ok()),
            Poll::Pending => drop(runtime.block_on(admitted)),
        }
    };
    let entered = runtime.enter();
    criterion.bench_function("limits/leased", |bencher| bencher.iter(admit));
    drop(entered);
    keeping.abort();
}

criterion_group!(benches, one_hot_key, many_keys, addresses, leased);
criterion_main!(benches);
