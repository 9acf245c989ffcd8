//! Rooms that are full, and a writer that fails and recovers.

use super::folder::Folder;
use super::{LIMIT, Memory, call, metrics, runtime, settings, start, until};
use crate::audit::{Audit, Event, Full, Record};
use crate::config::WhenFull;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const KIB: usize = 1024;

/// Calls in the lines, and losses that they tell of.
fn tally(text: &str) -> (u64, u64) {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.fold((0, 0), |(calls, lost), line| match line["event"].as_str() {
        Some("call") => (calls + 1, lost),
        Some("records_lost") => (calls, lost + line["count"].as_u64().expect("a number")),
        _ => (calls, lost),
    })
}

#[test]
fn a_hundred_thousand_calls_are_all_accounted_for_while_the_writer_fails_and_recovers() {
    const CALLS: u64 = 100_000;
    let (sink, metrics) = (Memory::default(), metrics());
    let audit = start(&sink, &settings(WhenFull::Drop, 5_000, 4096 * KIB), &metrics);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (audit, sink) = (&audit, &sink);
            scope.spawn(move || {
                for number in 0..CALLS / 4 {
                    if worker == 0 && number == CALLS / 16 {
                        sink.fails.store(true, Ordering::SeqCst);
                    }
                    if worker == 0 && number == CALLS / 8 {
                        let before = sink.attempts.load(Ordering::SeqCst);
                        until(|| sink.attempts.load(Ordering::SeqCst) > before);
                        sink.fails.store(false, Ordering::SeqCst);
                    }
                    let slot = futures::executor::block_on(audit.reserve()).expect("a slot");
                    slot.write(&call("search"));
                }
            });
        }
    });
    audit.close(LIMIT);
    let text = sink.text();
    let (calls, lost) = tally(&text);
    assert_eq!(calls + lost, CALLS);
    assert_eq!(metrics.lost("all").get(), lost);
    assert_eq!(metrics.records("call").get(), calls);
    assert!(lost > 0, "the room was never full");
    assert!(metrics.write_errors("memory").get() > 0, "the writer never failed");
    assert_eq!(metrics.queue.get(), 0);
    let report = Folder::new().verify(&text);
    assert!(report.is_good(), "{report}");
    assert!(report.to_string().contains(&format!("; {lost} records lost")), "{report}");
    assert!(report.to_string().contains(", closed"), "{report}");
}

#[test]
fn with_refuse_no_call_runs_without_room_for_its_record() {
    let (sink, metrics) = (Memory::default(), metrics());
    sink.fails.store(true, Ordering::SeqCst);
    let audit = start(&sink, &settings(WhenFull::Refuse, 10, 64 * KIB), &metrics);
    let reserve = || futures::executor::block_on(audit.reserve());
    let slots: Vec<_> = (0..10).map(|_| reserve().expect("a slot")).collect();
    assert_eq!(reserve().err(), Some(Full));
    // What holds no place finds none, and is counted.
    audit.event(&Record::new(Event::Reload));
    assert_eq!(metrics.lost("all").get(), 1);
    let mut slots = slots.into_iter();
    // Given back without a record.
    drop(slots.next());
    let slot = reserve().expect("a slot");
    slot.write(&call("a"));
    // A record that is longer than its share is written all the same.
    let long = "x".repeat(20 * KIB);
    let long = Record { outcome: &long, subject: &long, user_agent: &long, ..call("b") };
    slots.for_each(|slot| slot.write(&long));
    assert_eq!(reserve().err(), Some(Full));
    sink.fails.store(false, Ordering::SeqCst);
    until(|| reserve().is_ok());
    audit.close(LIMIT);
    let text = sink.text();
    assert_eq!(tally(&text), (10, 1));
    assert!(text.lines().all(|line| line.len() < 8 * KIB));
    let truncated = "\"truncated\":[\"user_agent.original\",\"subject\",\"outcome\"]";
    assert_eq!(text.matches(truncated).count(), 9);
    assert!(Folder::new().verify(&text).is_good());
}

#[test]
fn with_wait_calls_wait_in_their_order_until_there_is_room() {
    let (sink, metrics) = (Memory::default(), metrics());
    sink.fails.store(true, Ordering::SeqCst);
    let audit = start(&sink, &settings(WhenFull::Wait, 4, 64 * KIB), &metrics);
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    runtime().block_on(async {
        for _ in 0..4 {
            audit.reserve().await.expect("a slot").write(&call("before"));
        }
        let wait = |number: usize| {
            let (audit, order): (Arc<Audit>, _) = (Arc::clone(&audit), Arc::clone(&order));
            async move {
                let slot = audit.reserve().await.expect("a slot");
                order.lock().push(number);
                slot.write(&call("after"));
            }
        };
        // A caller whose time is over gives up, and is in nobody's way.
        let impatient = tokio::time::timeout(Duration::from_millis(30), wait(99)).await;
        assert!(impatient.is_err());
        let waiting = futures::future::join_all((0..50).map(wait));
        let recovery = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(order.lock().is_empty());
            sink.fails.store(false, Ordering::SeqCst);
        };
        let both = async { tokio::join!(waiting, recovery) };
        tokio::time::timeout(LIMIT, both).await.expect("room");
    });
    audit.close(LIMIT);
    assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    assert_eq!(tally(&sink.text()), (54, 0));
    assert_eq!(metrics.waits.get(), 51);
}

#[test]
fn requests_that_have_not_ended_are_counted_at_the_end() {
    for when_full in [WhenFull::Drop, WhenFull::Wait, WhenFull::Refuse] {
        let (sink, metrics) = (Memory::default(), metrics());
        let audit = start(&sink, &settings(when_full, 100, 64 * KIB), &metrics);
        let reserve = || futures::executor::block_on(audit.reserve()).expect("a slot");
        let mut slots: Vec<_> = (0..7).map(|_| reserve()).collect();
        slots.pop().expect("a slot").write(&call("in time"));
        drop(slots.pop());
        audit.close(LIMIT);
        // Too late, and told already.
        slots.pop().expect("a slot").write(&call("late"));
        let text = sink.text();
        let last = text.lines().rev().take(2).collect::<Vec<_>>();
        assert!(last[0].contains(r#""event":"audit_closed""#), "{when_full:?}: {text}");
        let told = r#""event":"records_lost","count":5,"reason":"unfinished""#;
        assert!(last[1].contains(told), "{when_full:?}: {text}");
        assert_eq!(tally(&text), (1, 5), "{when_full:?}");
        assert_eq!(metrics.lost("all").get(), 5, "{when_full:?}");
        let report = Folder::new().verify(&text);
        assert!(report.is_good(), "{report}");
        assert!(report.to_string().contains(", closed; 5 records lost"), "{report}");
    }
}

#[test]
fn requests_that_have_not_ended_are_counted_where_no_sink_takes_it() {
    let (sink, metrics) = (Memory::default(), metrics());
    let audit = start(&sink, &settings(WhenFull::Wait, 100, 64 * KIB), &metrics);
    let slots: Vec<_> =
        (0..3).map(|_| futures::executor::block_on(audit.reserve()).expect("a slot")).collect();
    until(|| !sink.text().is_empty());
    sink.fails.store(true, Ordering::SeqCst);
    audit.close(Duration::from_millis(300));
    assert_eq!(metrics.lost("all").get(), 3);
    drop(slots);
}

#[test]
fn a_sink_that_stays_broken_does_not_keep_the_process() {
    let (sink, metrics) = (Memory::default(), metrics());
    sink.fails.store(true, Ordering::SeqCst);
    let audit = start(&sink, &settings(WhenFull::Drop, 100, 64 * KIB), &metrics);
    for _ in 0..50 {
        audit.event(&call("a"));
    }
    let began = std::time::Instant::now();
    audit.close(Duration::from_millis(300));
    assert!(began.elapsed() < LIMIT / 2);
    // Too late: nobody writes any more, and it is counted.
    audit.event(&call("b"));
    assert!(metrics.lost("all").get() > 0);
    let report = Folder::new().verify(sink.text()).to_string();
    assert!(!report.contains(", closed"), "{report}");
}
