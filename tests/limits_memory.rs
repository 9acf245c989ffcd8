//! What limits cost in memory: nothing for a key that is known, and a bounded much for a million keys; a
//! binary of its own, because the counter is a global allocator.

use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use toolgate::config;
use toolgate::limits::{Limits, State, Subject, Why};
use toolgate::telemetry::Metrics;

const NOBODY: Subject<'_> = Subject {
    caller: None,
    tool: None,
    server: Some("s"),
    session: None,
    route: &[1; 16],
    address: None,
};

fn limits(text: &str) -> Limits {
    let yaml = format!(
        "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/] }} }}\nroutes: [{{ path: /mcp, server: s }}]\nlimits: [{text}]\n"
    );
    let settings =
        config::parse(&yaml, "test", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    let state = Arc::<State>::default();
    Limits::new(&settings.limits, &settings.listeners, &state, &Metrics::new(10, 10).limits)
}

/// Nothing here waits.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// The memory of the process that is really there.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[test]
fn a_known_key_allocates_nothing() {
    let limits = limits(
        "{ name: a, key: [caller, route], rate: 1000/s }, { name: b, key: [caller, tool, session], rate: 1000/s, burst: 2000, cost: { 's/x*': 2 }, wait: 50ms }, { name: c, key: [server], in_flight: 10, wait: 50ms }",
    );
    let call = Subject { tool: Some("xyz"), session: Some(b"0123456789"), ..NOBODY };
    let admit = || {
        let early = now(limits.admit_early(&call));
        let permits = now(limits.admit(&call));
        assert!(early.is_ok() && permits.is_ok());
    };
    admit();
    let allocations = measure(|| (0..100).for_each(|_| admit()));
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn a_million_keys_stay_under_150_mb_and_the_next_is_refused() {
    const KEYS: u32 = 1_000_000;
    let limits = limits("{ name: a, key: [session], rate: 1/h, keys_max: 1000000 }");
    let admit = |number: u32| {
        let session = number.to_le_bytes();
        now(limits.admit(&Subject { session: Some(&session), ..NOBODY }))
            .map_err(|refused| refused.why)
    };
    let before = resident_bytes();
    let allocated = measure(|| {
        for number in 0..KEYS {
            assert!(admit(number).is_ok(), "{number}");
        }
    });
    let resident = resident_bytes().saturating_sub(before);
    assert!(allocated.bytes_max < 150_000_000, "{allocated:?}");
    assert!(resident < 150_000_000, "{resident}");
    for number in [0, KEYS / 2, KEYS - 1] {
        assert_eq!(admit(number).map(|_| ()), Err(Why::Rate), "{number} is known and used up");
    }
    for number in KEYS..KEYS + 100 {
        assert_eq!(admit(number).map(|_| ()), Err(Why::KeysFull), "{number} is new");
    }
}
