//! Limits: what `check` says of them, and what they let through.

use crate::policy_calls::{by, session_of, stage, willing};
use crate::support::Stage;
use crate::support::client::{Answer, Client, exchange};
use crate::support::gateway::{Folder, Gateway, free_address, toolgate};
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::upstream::{
    Step, Upstream, event, events_end, events_head, json_answer, mcp, result,
};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[test]
fn limits_that_can_never_be_met_are_told_with_their_place() {
    let folder = Folder::new();
    let config = folder.write(
        "toolgate.yaml",
        "listen: 127.0.0.1:1
servers: { one: { endpoints: [http://127.0.0.1:1/mcp] } }
routes: [{ path: /mcp, server: one }]
limits:
  - { name: dear, key: [caller], rate: 5/s, cost: { 'one/*': 6 } }
  - { name: nothing }
  - { name: dear, key: [colour], in_flight: 1 }
",
    );
    let output = toolgate(&["check", "--config", &config.display().to_string()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    for (line, word) in [
        (5, "could never be called"),
        (6, "this limits nothing"),
        (7, "a limit of this name is already defined"),
        (7, "not one of the words"),
    ] {
        assert!(told.contains(&format!("toolgate.yaml:{line}:")), "no line {line} in\n{told}");
        assert!(told.contains(word), "no {word} in\n{told}");
    }
}

fn retry_after(answer: &Answer) -> u64 {
    answer.field("retry-after").expect("when to come again").parse().expect("seconds")
}

/// The answer says that this limit is used up, and when to come again.
fn limited(answer: &Answer, message: &str, limit: &str, policy: &str) {
    assert_eq!((answer.status, answer.code()), (429, 429), "{}", answer.text());
    assert_eq!(answer.json()["error"]["message"], message);
    let after = retry_after(answer);
    assert!(after >= 1);
    assert_eq!(answer.field("ratelimit"), Some(format!("\"{limit}\";r=0;t={after}").as_str()));
    assert_eq!(answer.field("ratelimit-policy"), Some(format!("\"{limit}\";{policy}").as_str()));
}

fn echo(caller: &str) -> Message {
    by(caller, Message::call(5, "echo"))
}

#[tokio::test]
async fn every_caller_has_a_rate_of_its_own_and_is_told_when_to_come_again() {
    let limits = "limits: [{ name: few, key: [caller], rate: 3/h }]\n";
    let stage = stage(willing().await, limits).await;
    let session = session_of(&stage, "bob").await;
    for _ in 0..3 {
        assert_eq!(stage.ask(&echo("ann")).await.status, 200);
    }
    stage.upstream.take();
    let mut http2 = Http2::connect(stage.gateway.address).await;
    for answer in [stage.ask(&echo("ann")).await, http2.ask(&echo("ann")).await.expect("one")] {
        limited(&answer, "too many calls", "few", "q=3;w=3600");
        let after = retry_after(&answer);
        assert!((1000..=1200).contains(&after), "a third of an hour, not {after} s");
    }
    assert!(stage.upstream.bytes().is_empty(), "the server was asked");
    // Bob has opened a session, which counts, and has two left.
    assert_eq!(stage.ask(&echo("bob")).await.status, 200);
    let call = by("bob", Message::legacy_call(5, "echo", &session));
    assert_eq!(stage.ask(&call).await.status, 200);
    assert_eq!(stage.ask(&call).await.status, 429);
    // Who is nobody is asked who he is, and not counted.
    assert_eq!(stage.ask(&Message::call(5, "echo")).await.status, 401);
    stage.gateway.metrics_with(r#"reason="rate_limited"} 3"#).await;
}

#[tokio::test]
async fn dear_tools_use_up_more_of_it_and_the_strictest_limit_counts() {
    let limits = "limits:
  - { name: points, key: [caller], rate: 10/h, cost: { one/dear: 4 } }
  - { name: tools, key: [caller, tool], rate: 5/h }
";
    let stage = stage(willing().await, limits).await;
    let call = |tool: &str| by("ann", Message::call(5, tool));
    for _ in 0..2 {
        assert_eq!(stage.ask(&call("dear")).await.status, 200);
    }
    stage.upstream.take();
    let answer = stage.ask(&call("dear")).await;
    assert_eq!((answer.status, &answer.json()["id"]), (429, &json!(5)), "{}", answer.text());
    let standing = answer.field("ratelimit").expect("where it stands");
    assert!(standing.starts_with("\"points\";r=2;t="), "{standing}");
    assert!(stage.upstream.bytes().is_empty());
    // What was refused has cost nothing.
    for tool in ["cheap", "other"] {
        assert_eq!(stage.ask(&call(tool)).await.status, 200, "{tool}");
    }
    limited(&stage.ask(&call("cheap")).await, "too many calls", "points", "q=10;w=3600");
    for _ in 0..5 {
        assert_eq!(stage.ask(&by("bob", Message::call(5, "cheap"))).await.status, 200);
    }
    let answer = stage.ask(&by("bob", Message::call(5, "cheap"))).await;
    limited(&answer, "too many calls", "tools", "q=5;w=3600");
    // That one took nothing from the other limit: five of ten are left.
    for tool in ["a", "b", "c", "d", "e"] {
        assert_eq!(stage.ask(&by("bob", Message::call(5, tool))).await.status, 200, "{tool}");
    }
    let answer = stage.ask(&by("bob", Message::call(5, "f"))).await;
    limited(&answer, "too many calls", "points", "q=10;w=3600");
}

#[tokio::test]
async fn an_address_that_asks_too_much_is_refused_before_anyone_asks_who_it_is() {
    let upstream = Upstream::mcp("one").await;
    let address = free_address();
    let yaml = format!(
        "listeners: [{{ address: {address}, trusted_proxies: [127.0.0.0/8], limits: {{ requests_per_address: 5/h }} }}]
identity: {{ api_keys: [] }}\n{}",
        upstream.sections()
    );
    let stage = Stage { gateway: Gateway::start_at(&yaml, address).await, upstream };
    let from = |address: &str| Message::call(5, "echo").and("x-forwarded-for", address);
    for _ in 0..5 {
        assert_eq!(stage.ask(&from("203.0.113.7")).await.status, 401);
    }
    for message in [from("203.0.113.7"), from("203.0.113.7").at("/nowhere")] {
        let answer = stage.ask(&message).await;
        assert_eq!((answer.status, answer.code()), (429, 429), "{}", answer.text());
        let expected = "too many requests from this address";
        assert_eq!(answer.json()["error"]["message"], expected);
        assert!(retry_after(&answer) >= 1);
        let policy = answer.field("ratelimit-policy").expect("a policy");
        assert!(policy.ends_with(";q=5;w=3600"), "{policy}");
        assert!(answer.field("ratelimit").is_some_and(|limit| limit.contains(";r=0;t=")));
    }
    assert_eq!(stage.ask(&from("203.0.113.8")).await.status, 401, "another address");
    // An IPv6 network is one customer.
    for last in 1..=5 {
        assert_eq!(stage.ask(&from(&format!("2001:db8::{last}"))).await.status, 401);
    }
    assert_eq!(stage.ask(&from("2001:db8::ffff:1")).await.status, 429);
    assert_eq!(stage.ask(&from("2001:db8:0:1::1")).await.status, 401);
    stage.gateway.metrics_with(r#"reason="address_limited"} 3"#).await;
    assert!(stage.upstream.bytes().is_empty());
}

/// A server that answers calls of `slow` one by one as the gate lets it, and others at once.
async fn gated(gate: &Arc<Semaphore>, begun: &Arc<AtomicUsize>) -> Upstream {
    let (gate, begun) = (Arc::clone(gate), Arc::clone(begun));
    Upstream::start(move |request| {
        let message = request.json();
        let answer = json_answer(200, "", &result(&message["id"], "done"));
        match message["params"]["name"].as_str() {
            Some("slow") => {
                begun.fetch_add(1, Ordering::SeqCst);
                std::iter::once(Step::Wait(Arc::clone(&gate))).chain(answer).collect()
            }
            Some(_) => answer,
            None => mcp("one", request),
        }
    })
    .await
}

#[tokio::test]
async fn of_a_hundred_at_once_ten_run_and_none_is_refused() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let limits = "limits: [{ name: fleet, key: [server], in_flight: 10, wait: 30s }]\n";
    let stage = stage(gated(&gate, &begun).await, limits).await;
    let address = stage.gateway.address;
    let mut calls = JoinSet::new();
    for id in 0..100 {
        let bytes = by(["ann", "bob"][id % 2], Message::call(id as i64, "slow")).bytes();
        calls.spawn(async move {
            let answer = exchange(address, &bytes).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.json()["id"], id);
        });
    }
    for released in 0..100 {
        let wanted = (released + 10).min(100);
        assert!(
            stage.upstream.reached(wanted).await,
            "{} of {wanted}",
            begun.load(Ordering::SeqCst)
        );
        if released % 10 == 0 {
            // Time in which another one could come too early.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Nothing has ended but what was released.
        assert_eq!(begun.load(Ordering::SeqCst), wanted, "after {released} had ended");
        gate.add_permits(1);
    }
    while let Some(call) = calls.join_next().await {
        call.expect("200");
    }
    assert_eq!(stage.upstream.take().len(), 100);
}

/// Asks until there is a place.
async fn gets_a_place(stage: &Stage, message: &Message) {
    let began = Instant::now();
    loop {
        let answer = stage.ask(message).await;
        if answer.status == 200 {
            return;
        }
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(15), "the place is never free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_leaves_gives_its_place_back_running_or_waiting() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    for wait in ["", ", wait: 30s"] {
        let limits = format!("limits: [{{ name: one-by-one, in_flight: 1{wait} }}]\n");
        let stage = stage(gated(&gate, &begun).await, &limits).await;
        let slow = by("ann", Message::call(5, "slow")).bytes();
        let mut running = stage.connect().await;
        running.send(&slow).await;
        assert!(stage.upstream.reached(1).await);
        stage.upstream.take();
        if wait.is_empty() {
            let answer = stage.ask(&echo("bob")).await;
            let policy = r#"q=1;qu="concurrent-requests""#;
            limited(&answer, "too many calls at once", "one-by-one", policy);
        } else {
            // One that waits and leaves holds up nobody behind it.
            let mut waiting = stage.connect().await;
            waiting.send(&echo("bob").bytes()).await;
            stage.gateway.metrics_with(r#"toolgate_limit_waits_total{limit="one-by-one"} 1"#).await;
            drop(waiting);
        }
        assert!(stage.upstream.bytes().is_empty());
        drop(running);
        assert!(stage.upstream.left(1).await, "the server's part goes on");
        gets_a_place(&stage, &echo("bob")).await;
        assert_eq!(stage.upstream.take().len(), 1, "who left while it waited was never sent");
        // HTTP/2 resets its stream.
        let mut http2 = Http2::connect(stage.gateway.address).await;
        let slow = by("ann", Message::call(5, "slow"));
        tokio::select! {
            _ = http2.begin(&slow) => panic!("an answer before the gate is open"),
            reached = stage.upstream.reached(1) => assert!(reached),
        }
        assert!(stage.upstream.left(2).await);
        gets_a_place(&stage, &echo("bob")).await;
    }
}

#[tokio::test]
async fn a_stream_holds_no_place_among_the_calls() {
    let stage = stage(willing().await, "limits: [{ name: one-by-one, in_flight: 1 }]\n").await;
    let session = session_of(&stage, "ann").await;
    let mut stream = stage.connect().await;
    stream.send(&by("ann", Message::stream(&session)).bytes()).await;
    stream.body_after_head("data: {}").await;
    for _ in 0..2 {
        assert_eq!(stage.ask(&echo("ann")).await.status, 200);
    }
}

/// A server whose streams begin, and end as these gates let them: those of GET, and those that listen.
async fn streaming(gates: [&Arc<Semaphore>; 2]) -> Upstream {
    let [get, listen] = gates.map(Arc::clone);
    Upstream::start(move |request| {
        let gate = match (request.verb.as_str(), request.method().as_str()) {
            ("GET", _) => &get,
            (_, "subscriptions/listen") => &listen,
            (_, "tools/call") => {
                return json_answer(200, "", &result(&request.json()["id"], "done"));
            }
            _ => return mcp("one", request),
        };
        vec![events_head(""), event("{}"), Step::Wait(Arc::clone(gate)), events_end()]
    })
    .await
}

/// Opens a stream that must be let in, and reads its first event.
async fn open(stage: &Stage, message: &Message) -> Client {
    let mut stream = stage.connect().await;
    stream.send(&message.bytes()).await;
    stream.body_after_head("data: {}").await;
    stream
}

#[tokio::test]
async fn a_caller_holds_so_many_streams_and_calls_are_not_counted() {
    let (get, listen) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let limits = "limits: [{ name: open, key: [caller], streams: 2 }]\n";
    let stage = stage(streaming([&get, &listen]).await, limits).await;
    let session = session_of(&stage, "ann").await;
    let gets = by("ann", Message::stream(&session));
    let listens = by("ann", Message::modern(7, "subscriptions/listen", json!({})));
    let first = open(&stage, &gets).await;
    let mut second = open(&stage, &listens).await;
    stage.upstream.take();
    let mut http2 = Http2::connect(stage.gateway.address).await;
    for answer in [
        stage.ask(&gets).await,
        stage.ask(&listens).await,
        http2.ask(&gets).await.expect("a refusal"),
    ] {
        let policy = r#"q=2;qu="concurrent-requests""#;
        limited(&answer, "too many streams at once", "open", policy);
    }
    assert!(stage.upstream.bytes().is_empty(), "the server was asked");
    for _ in 0..3 {
        assert_eq!(stage.ask(&echo("ann")).await.status, 200);
        let call = by("ann", Message::legacy_call(5, "echo", &session));
        assert_eq!(stage.ask(&call).await.status, 200);
    }
    let of_bob = by("bob", Message::modern(7, "subscriptions/listen", json!({})));
    let bobs = open(&stage, &of_bob).await;
    drop(bobs);
    assert!(stage.upstream.left(1).await);
    // Who has seen the end of a stream can open another one at once.
    for _ in 0..3 {
        listen.add_permits(1);
        while second.part().await.is_some() {}
        assert!(second.body_is_whole());
        second = open(&stage, &listens).await;
    }
    assert_eq!(stage.ask(&gets).await.status, 429);
    // And who leaves one gives it back.
    drop(first);
    assert!(stage.upstream.left(2).await);
    let began = Instant::now();
    let mut third = loop {
        let mut stream = stage.connect().await;
        stream.send(&gets.bytes()).await;
        let head = stream.head().await;
        if head.status == 200 {
            break stream;
        }
        assert_eq!(head.status, 429);
        assert!(began.elapsed() < Duration::from_secs(15), "the place is never free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    third.body_with("data: {}").await;
    // Over HTTP/2 a stream has its place as well.
    drop(second);
    assert!(stage.upstream.left(3).await);
    let mut stream = loop {
        let stream = http2.begin(&listens).await.expect("a head");
        if stream.head.status == 200 {
            break stream;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the place is never free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(stream.part().await.expect("a stream").is_some());
    assert_eq!(stage.ask(&gets).await.status, 429);
    listen.add_permits(1);
    while stream.part().await.expect("a stream").is_some() {}
    let _last = open(&stage, &gets).await;
    stage.gateway.metrics_with(r#"toolgate_limited_total{limit="open",why="streams"}"#).await;
}

#[tokio::test]
async fn what_was_counted_outlives_a_reload_that_changes_something_else() {
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let limits = "limits:
  - { name: few, key: [caller], rate: 2/h }
  - { name: at-once, key: [server], in_flight: 1 }
";
    let stage = stage(gated(&gate, &begun).await, limits).await;
    assert_eq!(stage.ask(&echo("ann")).await.status, 200);
    stage.gateway.log(1).await;
    let mut running = stage.connect().await;
    running.send(&by("ann", Message::call(5, "slow")).bytes()).await;
    assert!(stage.upstream.reached(2).await);
    let file = stage.gateway.folder().join("toolgate.yaml");
    let yaml = stage.gateway.config().replacen("endpoints:", "owner: a-team, endpoints:", 1);
    std::fs::write(&file, &yaml).expect("written");
    stage.gateway.signal("HUP");
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 1"#).await;
    limited(&stage.ask(&echo("ann")).await, "too many calls", "few", "q=2;w=3600");
    let answer = stage.ask(&echo("bob")).await;
    let policy = r#"q=1;qu="concurrent-requests""#;
    limited(&answer, "too many calls at once", "at-once", policy);
    gate.add_permits(1);
    assert_eq!(running.answer().await.status, 200);
    gets_a_place(&stage, &echo("bob")).await;
    // A limit that is another one counts anew.
    std::fs::write(&file, yaml.replace("rate: 2/h", "rate: 4/h")).expect("written");
    stage.gateway.signal("HUP");
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 2"#).await;
    gets_a_place(&stage, &echo("ann")).await;
}

#[tokio::test]
async fn who_has_its_answer_has_given_its_place_back() {
    let stage = stage(willing().await, "limits: [{ name: one-by-one, in_flight: 1 }]\n").await;
    let mut connections = [stage.connect().await, stage.connect().await];
    let mut refused = 0;
    for turn in 0..300 {
        let client = &mut connections[turn % 2];
        client.send(&echo("ann").bytes()).await;
        refused += usize::from(client.answer().await.status != 200);
    }
    assert_eq!(refused, 0, "of 300 calls one after the other");
}
