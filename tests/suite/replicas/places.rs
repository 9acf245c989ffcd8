//! Calls at once that replicas count together: never too many, and no place is lost with its holder.

use super::limits::{Load, call, passed, three};
use super::{PATIENCE, replica, stands};
use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::store::Store;
use crate::support::upstream::{Step, Upstream, json_answer, result};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a call of [`busy`] runs.
const RUNS: Duration = Duration::from_millis(30);

/// A server whose calls run for a while, and when each of them began.
async fn busy() -> (Upstream, Arc<Mutex<Vec<Instant>>>) {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&begun);
    let upstream = Upstream::start(move |request| {
        noted.lock().push(Instant::now());
        let mut steps = vec![Step::Pause(RUNS)];
        steps.extend(json_answer(200, "", &result(&request.json()["id"], "done")));
        steps
    });
    (upstream.await, begun)
}

/// A server whose calls run until they are let go.
async fn patient() -> (Upstream, Arc<Semaphore>) {
    let go = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&go);
    let upstream = Upstream::start(move |request| {
        let mut steps = vec![Step::Wait(Arc::clone(&held))];
        steps.extend(json_answer(200, "", &result(&request.json()["id"], "done")));
        steps
    });
    (upstream.await, go)
}

/// The most calls that ran at once, each at least as long as it pauses.
fn most_at_once(begun: &[Instant]) -> usize {
    let runs_at = |began: &Instant, at: &Instant| at < &(*began + RUNS) && began <= at;
    let running = |at| begun.iter().filter(|began| runs_at(began, at)).count();
    begun.iter().map(running).max().unwrap_or_default()
}

/// So many calls at once, which are answered when they will; `None` those that run still.
async fn at_once(gateways: &[Gateway], each: usize, upstream: &Upstream, run: usize) -> usize {
    let mut calls = JoinSet::new();
    for gateway in gateways.iter().cycle().take(each * gateways.len()) {
        let address = gateway.address;
        calls.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send(&Message::call(5, "echo").bytes()).await;
            assert_eq!(client.answer().await.status, 429);
        });
    }
    let mut refused = 0;
    while refused < each * gateways.len() - run {
        calls.join_next().await.expect("more calls").expect("refused");
        refused += 1;
    }
    assert!(upstream.reached(run).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let reached = upstream.take().len();
    // Those that run leave with their clients.
    calls.shutdown().await;
    reached
}

#[tokio::test]
async fn all_replicas_together_have_so_many_places() {
    let store = Store::start();
    let (upstream, begun) = busy().await;
    let limits = "limits: [{ name: few, in_flight: 6 }]\n";
    let gateways = three(&store, &upstream, limits).await;
    let mut loads = Vec::new();
    for gateway in &gateways {
        let mut load = Load::new();
        load.on(gateway);
        load.on(gateway);
        loads.push(load);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = begun.lock().clone();
    assert!(most_at_once(&begun) <= 6, "{} at once", most_at_once(&begun));
    // Six places for three seconds; half of that on a machine that does other things as well.
    assert!(begun.len() >= 300, "{} calls ran", begun.len());
    for load in loads {
        let (_, statuses) = load.end();
        assert!(statuses.keys().all(|status| [200, 429].contains(status)), "{statuses:?}");
        assert!(statuses.get(&200) >= Some(&30), "one replica has hardly any: {statuses:?}");
    }
}

#[tokio::test]
async fn calls_wait_for_places_that_other_replicas_have() {
    for store in [Store::start(), Store::cluster()] {
        let (upstream, begun) = busy().await;
        let limits = "limits: [{ name: few, in_flight: 2, wait: 30s }]\n";
        let gateways = three(&store, &upstream, limits).await;
        let answers = join_all(gateways.iter().cycle().take(18).map(call)).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
        let begun = begun.lock().clone();
        assert_eq!(begun.len(), 18);
        assert!(most_at_once(&begun) <= 2, "{} at once", most_at_once(&begun));
    }
}

#[tokio::test]
async fn a_store_that_is_late_refuses_nobody() {
    let (store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let limits = "limits: [{ name: many, in_flight: 1000 }]\n";
    let gateway = replica(&store, &upstream, limits).await;
    stands(&gateway, "up, replicas: 1").await;
    store.signal("STOP");
    // All of them wait for the one that asks.
    let answers = join_all((0..30).map(|_| call(&gateway))).await;
    store.signal("CONT");
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
}

#[tokio::test]
async fn places_are_exact_with_the_store_and_shares_without() {
    let mut store = Store::start();
    let (upstream, _go) = patient().await;
    let limits = "limits: [{ name: few, in_flight: 6 }]\n";
    let gateways = three(&store, &upstream, limits).await;
    assert_eq!(at_once(&gateways, 4, &upstream, 6).await, 6);
    // Idle places are given back, and any replica may have them all.
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let address = gateways[2].address;
        calls.spawn(until_it_runs(address));
    }
    assert!(upstream.reached(6).await);
    assert!(began.elapsed() < PATIENCE);
    calls.shutdown().await;
    upstream.take();
    store.kill();
    for gateway in &gateways {
        stands(gateway, "away: ").await;
    }
    // By now each replica has seen that its calls are gone.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(at_once(&gateways, 4, &upstream, 6).await, 6, "two at each of three");
}

/// Calls again and again until it is not refused, and stays.
async fn until_it_runs(address: std::net::SocketAddr) {
    let mut client = Client::connect(address).await;
    let began = Instant::now();
    loop {
        assert!(client.send(&Message::call(5, "echo").bytes()).await);
        let Some(answer) = client.try_answer().await else { return };
        if answer.status == 200 {
            return;
        }
        assert_eq!(answer.status, 429);
        assert!(began.elapsed() < PATIENCE, "no place comes back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_places_of_a_replica_that_was_killed_come_back() {
    let store = Store::start();
    let (upstream, _go) = patient().await;
    let limits = "limits: [{ name: few, in_flight: 4 }]\n";
    let one = replica(&store, &upstream, limits).await;
    let two = replica(&store, &upstream, limits).await;
    stands(&one, "up, replicas: 2").await;
    stands(&two, "up, replicas: 2").await;
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        calls.spawn(until_it_runs(one.address));
    }
    assert!(upstream.reached(4).await);
    assert_eq!(call(&two).await.status, 429);
    one.signal("KILL");
    upstream.take();
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        calls.spawn(until_it_runs(two.address));
    }
    assert!(upstream.reached(4).await, "the lease of the dead ends");
}

#[tokio::test]
async fn a_replica_that_was_frozen_starts_nothing_on_what_has_lapsed() {
    let store = Store::start();
    let (upstream, go) = patient().await;
    let limits = "limits: [{ name: one, in_flight: 1 }]\n";
    let frozen = replica(&store, &upstream, limits).await;
    let other = replica(&store, &upstream, limits).await;
    stands(&frozen, "up, replicas: 2").await;
    stands(&other, "up, replicas: 2").await;
    let mut first = Client::connect(frozen.address).await;
    first.send(&Message::call(5, "echo").bytes()).await;
    assert!(upstream.reached(1).await);
    let mut second = Client::connect(frozen.address).await;
    frozen.signal("STOP");
    second.send(&Message::call(5, "echo").bytes()).await;
    let mut calls = JoinSet::new();
    calls.spawn(until_it_runs(other.address));
    assert!(upstream.reached(2).await, "the lease of the frozen ends");
    // The first to come is the first to go: its answer waits for the frozen one, which has its place
    // back when it wakes, and a call that waits for one.
    go.add_permits(1);
    assert!(upstream.ended(1).await);
    frozen.signal("CONT");
    let statuses = [first.answer().await.status, second.answer().await.status];
    assert_eq!((statuses, passed(&statuses)), ([200, 429], 1));
}
