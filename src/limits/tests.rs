//! Tests of the whole module: what is counted apart, what waits, what is given back, what outlives a reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Map;

use super::{Limits, Refused, State, Subject, Why};
use crate::config::{self, Settings};
use crate::identity::{Caller, Method, Proven};
use crate::telemetry::Metrics;

fn settings(limits: &str) -> Settings {
    let yaml = format!(
        "listeners: [{{ address: 127.0.0.1:1, limits: {{ requests_per_address: 2/h }} }}]\nservers: {{ s: {{ endpoints: [http://a/] }} }}\nroutes: [{{ path: /mcp, server: s }}]\nlimits: [{limits}]\n"
    );
    config::parse(&yaml, "test", &|_| None).unwrap_or_else(|problems| panic!("{problems}"))
}

fn limits(text: &str, state: &Arc<State>, metrics: &Metrics) -> Limits {
    let settings = settings(text);
    Limits::new(&settings.limits, &settings.listeners, state, &metrics.limits)
}

/// Limits of their own.
fn alone(text: &str) -> Limits {
    limits(text, &Arc::<State>::default(), &Metrics::new(10, 10))
}

fn caller(id: &str, tenant: Option<&str>) -> Caller {
    Caller::new(Proven {
        id: id.to_owned(),
        issuer: None,
        tenant: tenant.map(str::to_owned),
        scopes: Vec::new(),
        claims: Map::new(),
        method: Method::ApiKey,
    })
}

const NOBODY: Subject<'_> = Subject {
    caller: None,
    tool: None,
    server: Some("s"),
    session: None,
    route: &[1; 16],
    address: None,
};

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(future)
}

/// Which of the calls are admitted, each by both steps, one after the other.
fn admitted(limits: &Limits, subjects: &[Subject<'_>]) -> Vec<bool> {
    block_on(async {
        let mut admitted = Vec::new();
        for subject in subjects {
            let early = limits.admit_early(subject).await;
            admitted.push(early.is_ok() && limits.admit(subject).await.is_ok());
        }
        admitted
    })
}

#[test]
fn every_part_of_a_key_is_counted_apart() {
    let (al, bo) = (caller("al", Some("t")), caller("bo", Some("t")));
    let (cy, di) = (caller("cy", None), caller("di", None));
    let check = |key: &str, one: Subject<'_>, other: Subject<'_>, apart: bool| {
        let limits = alone(&format!("{{ name: a, key: [{key}], rate: 1/h }}"));
        let expected = [true, apart, false];
        assert_eq!(admitted(&limits, &[one, other, one]), expected, "{key} {one:?} {other:?}");
    };
    let by = |caller| Subject { caller: Some(caller), ..NOBODY };
    let called = |tool| Subject { tool: Some(tool), ..NOBODY };
    let from = |address: &str| Subject { address: address.parse().ok(), ..NOBODY };
    check("caller", by(&al), by(&bo), true);
    check("caller", by(&al), Subject { tool: Some("x"), ..by(&al) }, false);
    check("tenant", by(&al), by(&bo), false);
    check("tenant", by(&al), by(&cy), true);
    check("tenant", by(&cy), by(&di), false);
    check("tool", called("x"), called("y"), true);
    check(
        "tool, caller",
        Subject { tool: Some("x"), ..by(&al) },
        Subject { tool: Some("x"), ..by(&bo) },
        true,
    );
    check("server", NOBODY, Subject { server: Some("t"), ..NOBODY }, true);
    check("route", NOBODY, Subject { route: &[2; 16], ..NOBODY }, true);
    check(
        "session",
        Subject { session: Some(b"1"), ..by(&al) },
        Subject { session: Some(b"2"), ..by(&al) },
        true,
    );
    check("session", Subject { session: Some(b"1"), ..by(&al) }, by(&al), true);
    check("session", by(&al), by(&bo), true);
    check("session", by(&al), Subject { tool: Some("x"), ..by(&al) }, false);
    check("address", from("192.0.2.1"), from("192.0.2.2"), true);
    check("address", from("2001:db8::1"), from("2001:db8::2"), false);
    check("address", from("2001:db8::1"), NOBODY, true);
    check("", by(&al), Subject { tool: Some("x"), ..by(&bo) }, false);
}

#[test]
fn a_limit_of_tools_holds_for_calls_of_tools_only() {
    let limits =
        alone("{ name: a, key: [tool], rate: 1/h }, { name: b, key: [tool], in_flight: 1 }");
    let call = Subject { tool: Some("x"), ..NOBODY };
    assert_eq!(
        admitted(&limits, &[NOBODY, NOBODY, call, NOBODY, call]),
        [true, true, true, true, false]
    );
}

#[test]
fn some_tools_cost_more() {
    let limits = alone("{ name: a, rate: 10/h, cost: { s/big: 6, big: 2, 's*/mid*': 3 } }");
    let call = |server, tool| Subject { tool: Some(tool), server: Some(server), ..NOBODY };
    // 6, then 5 left are not enough, then 3, then 1.
    let calls = [call("s", "big"), call("s", "big"), call("s2", "middle"), NOBODY, NOBODY];
    assert_eq!(admitted(&limits, &calls), [true, false, true, true, false]);
    let elsewhere = alone("{ name: a, rate: 10/h, cost: { s/big: 6, big: 2 } }");
    assert_eq!(admitted(&elsewhere, &[call("t", "big"); 6]), [true, true, true, true, true, false]);
}

#[test]
fn a_refused_call_takes_nothing() {
    let limits =
        alone("{ name: wide, key: [server], rate: 3/h }, { name: narrow, key: [tool], rate: 1/h }");
    let call = |tool| Subject { tool: Some(tool), ..NOBODY };
    let calls = [call("x"), call("x"), call("x"), call("x"), call("y"), call("z"), call("zz")];
    assert_eq!(admitted(&limits, &calls), [true, false, false, false, true, true, false]);
    let refused: Refused = block_on(limits.admit(&call("x"))).expect_err("used up");
    assert_eq!((&*refused.limit, refused.why), ("wide", Why::Rate));
    assert!((1100..=1200).contains(&refused.retry_after_s()), "{refused:?}");

    let limits = alone("{ name: places, in_flight: 1 }, { name: calls, key: [tool], rate: 1/h }");
    assert_eq!(admitted(&limits, &[call("x"), call("x"), call("y")]), [true, false, true]);
}

#[test]
fn who_leaves_while_it_waits_gives_back_what_it_took() {
    let limits = alone("{ name: a, rate: 1/m, wait: 60s }");
    block_on(async {
        limits.admit_early(&NOBODY).await.expect("the first");
        for _ in 0..3 {
            let leaves =
                tokio::time::timeout(Duration::from_millis(1), limits.admit_early(&NOBODY));
            assert!(leaves.await.is_err(), "it waited, and there was room to wait again");
        }
        let waits = limits.admit_early(&NOBODY);
        let mut waits = std::pin::pin!(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        assert_eq!(limits.admit_early(&NOBODY).await.expect_err("a minute is full").why, Why::Rate);
    });
}

#[test]
fn a_hundred_calls_at_once_pass_ten_by_ten_in_order() {
    let limits = alone("{ name: a, key: [server], in_flight: 10, wait: 30s }");
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let order = parking_lot::Mutex::new(Vec::new());
    block_on(join_all((0..100).map(|number| {
        let (limits, inside, most, order) = (&limits, &inside, &most, &order);
        async move {
            let permits = limits.admit(&NOBODY).await.expect("none is refused");
            order.lock().push(number);
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            drop(permits);
        }
    })));
    assert_eq!(most.load(Ordering::SeqCst), 10);
    assert_eq!(order.into_inner(), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_short_burst_is_spread_and_not_refused() {
    let limits = alone("{ name: a, rate: 100/s, burst: 5, wait: 1s }");
    let start = Instant::now();
    let outcomes = block_on(join_all((0..25).map(|_| limits.admit_early(&NOBODY))));
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(start.elapsed() >= Duration::from_millis(190), "20 of them waited for 10 ms each");
}

#[test]
fn who_waits_too_long_is_refused() {
    let limits =
        alone("{ name: a, in_flight: 1, wait: 10ms }, { name: b, key: [tool], in_flight: 1 }");
    block_on(async {
        let first = limits.admit(&NOBODY).await.expect("a place");
        assert_eq!(limits.admit(&NOBODY).await.expect_err("no place").why, Why::InFlight);
        drop(first);
        let _again = limits.admit(&NOBODY).await.expect("a place again");
    });
}

#[test]
fn a_reload_keeps_what_unchanged_limits_have_counted() {
    const KEPT: &str = "{ name: kept, key: [caller], rate: 2/h }";
    let (state, metrics) = (Arc::<State>::default(), Metrics::new(10, 10));
    let call = Subject { tool: Some("x"), ..NOBODY };
    let before =
        limits(&format!("{KEPT}, {{ name: changed, key: [tool], rate: 2/h }}"), &state, &metrics);
    assert_eq!(admitted(&before, &[call]), [true]);
    let held = block_on(before.admit(&call)).map(|_| ());
    assert!(held.is_ok(), "the second of changed");
    // In another order, and `changed` allows more: it begins anew. Waiting and cost are no change.
    let after = limits(
        "{ name: changed, key: [tool], rate: 3/h, wait: 1ms }, { name: kept, key: [caller], rate: 2/h, wait: 1ms }",
        &state,
        &metrics,
    );
    drop(before);
    assert_eq!(admitted(&after, &[call, call]), [true, false], "one is left of kept");
    let changed = block_on(async {
        [
            after.admit(&call).await.is_ok(),
            after.admit(&call).await.is_ok(),
            after.admit(&call).await.is_ok(),
        ]
    });
    assert_eq!(changed, [true, true, false], "one of three was taken since");
    let address = "192.0.2.1".parse().expect("an address");
    let requests = [&after, &limits("", &state, &metrics), &after]
        .map(|limits| limits.admit_address(0, address).is_ok());
    assert_eq!(requests, [true, true, false], "the same address at the same listener");
}

#[test]
fn streams_are_counted_apart_from_calls() {
    let limits = alone("{ name: a, key: [caller], in_flight: 1, streams: 2 }");
    let (al, bo) = (caller("al", None), caller("bo", None));
    let by = |caller| Subject { caller: Some(caller), ..NOBODY };
    block_on(async {
        let call = limits.admit(&by(&al)).await.expect("a place among the calls");
        let first = limits.admit_stream(&by(&al)).await.expect("one of two");
        let _second = limits.admit_stream(&by(&al)).await.expect("two of two");
        let refused = limits.admit_stream(&by(&al)).await.expect_err("two are open");
        assert_eq!((refused.why, refused.retry_after_s()), (Why::Streams, 1));
        assert_eq!(refused.fields().policy, r#""a";q=2;qu="concurrent-requests""#);
        assert!(limits.admit_stream(&by(&bo)).await.is_ok(), "another caller");
        assert_eq!(limits.admit(&by(&al)).await.expect_err("one runs").why, Why::InFlight);
        drop(call);
        assert!(limits.admit(&by(&al)).await.is_ok(), "streams hold up no call");
        drop(first);
        assert!(limits.admit_stream(&by(&al)).await.is_ok(), "one has ended");
    });
}

#[test]
fn a_stream_that_a_rate_refuses_takes_no_place() {
    let limits = alone("{ name: open, streams: 1 }, { name: calls, key: [server], rate: 1/h }");
    block_on(async {
        assert!(limits.admit_stream(&NOBODY).await.is_ok());
        for _ in 0..2 {
            assert_eq!(limits.admit_stream(&NOBODY).await.expect_err("no more").why, Why::Rate);
        }
    });
}

#[test]
fn a_stream_may_wait_for_its_turn() {
    let limits = alone("{ name: a, streams: 1, wait: 60s }");
    block_on(async {
        let first = limits.admit_stream(&NOBODY).await.expect("a place");
        let mut second = std::pin::pin!(limits.admit_stream(&NOBODY));
        assert!(futures::poll!(second.as_mut()).is_pending());
        drop(first);
        assert!(second.await.is_ok());
    });
}

#[test]
fn places_are_counted_over_a_reload() {
    const LIMIT: &str = "{ name: a, in_flight: 1, streams: 1 }";
    let (state, metrics) = (Arc::<State>::default(), Metrics::new(10, 10));
    let before = limits(LIMIT, &state, &metrics);
    let held = block_on(before.admit(&NOBODY)).expect("a place");
    let stream = block_on(before.admit_stream(&NOBODY)).expect("a place");
    let after = limits(LIMIT, &state, &metrics);
    drop(before);
    assert_eq!(block_on(after.admit(&NOBODY)).expect_err("it is taken").why, Why::InFlight);
    assert_eq!(block_on(after.admit_stream(&NOBODY)).expect_err("it is taken").why, Why::Streams);
    drop(held);
    assert!(block_on(after.admit(&NOBODY)).is_ok());
    state.sweep();
    assert!(block_on(after.admit_stream(&NOBODY)).is_err(), "it is open still");
    drop(stream);
    assert!(block_on(after.admit_stream(&NOBODY)).is_ok());
}

#[test]
fn a_full_limit_refuses_new_keys_and_says_so() {
    let (state, metrics) = (Arc::<State>::default(), Metrics::new(10, 10));
    let full = limits("{ name: a, key: [session], rate: 5/h, keys_max: 2 }", &state, &metrics);
    let session = |id: &'static [u8]| Subject { session: Some(id), ..NOBODY };
    let calls = [session(b"1"), session(b"2"), session(b"3"), session(b"1")];
    assert_eq!(admitted(&full, &calls), [true, true, false, true]);
    let refused = block_on(full.admit(&session(b"3"))).expect_err("no room");
    assert_eq!((refused.why, refused.retry_after_s()), (Why::KeysFull, 1));
    state.sweep();
    let shown = String::from_utf8(metrics.render()).expect("text");
    for line in [
        r#"toolgate_limit_keys{limit="a"} 2"#,
        r#"toolgate_limit_keys_full_total{limit="a"} 2"#,
        r#"toolgate_limited_total{limit="a",why="rate"} 0"#,
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    drop(full);
    state.sweep();
    let shown = String::from_utf8(metrics.render()).expect("text");
    assert!(shown.contains(r#"toolgate_limit_keys{limit="a"} 0"#), "nobody holds it any more");
}
