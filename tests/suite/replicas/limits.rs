//! Limits that replicas have in common: one rate for all of them, whatever becomes of one or of the store.

use super::{replica, standing, stands};
use crate::support::client::{Answer, Client, exchange};
use crate::support::gateway::Gateway;
use crate::support::message::Message;
use crate::support::store::Store;
use crate::support::upstream::Upstream;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Three replicas that know of each other.
pub(super) async fn three(store: &Store, upstream: &Upstream, limits: &str) -> [Gateway; 3] {
    let start = || replica(store, upstream, limits);
    let gateways = [start().await, start().await, start().await];
    for gateway in &gateways {
        stands(gateway, "up, replicas: 3").await;
    }
    gateways
}

pub(super) async fn call(gateway: &Gateway) -> Answer {
    exchange(gateway.address, &Message::call(5, "echo").bytes()).await
}

/// What so many calls were answered, at each replica in turn.
async fn in_turn(gateways: &[Gateway], calls: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for gateway in gateways.iter().cycle().take(calls) {
        statuses.push(call(gateway).await.status);
    }
    statuses
}

pub(super) fn passed(statuses: &[u16]) -> usize {
    let other = statuses.iter().find(|status| ![200, 429].contains(status));
    assert_eq!(other, None, "neither passed nor limited");
    statuses.iter().filter(|status| **status == 200).count()
}

/// Clients that call as fast as they are answered.
pub(super) struct Load {
    began: Instant,
    clients: JoinSet<()>,
    statuses: Arc<Mutex<BTreeMap<u16, usize>>>,
}

impl Load {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), clients: JoinSet::new(), statuses: Arc::default() }
    }

    /// Two more clients, until the replica is gone.
    pub(super) fn on(&mut self, gateway: &Gateway) {
        for _ in 0..2 {
            let (address, statuses) = (gateway.address, Arc::clone(&self.statuses));
            self.clients.spawn(async move {
                let mut client = Client::connect(address).await;
                let message = Message::call(5, "echo").bytes();
                while client.send(&message).await {
                    let Some(answer) = client.try_answer().await else { return };
                    *statuses.lock().entry(answer.status).or_default() += 1;
                }
            });
        }
    }

    async fn until(&self, after: Duration) {
        tokio::time::sleep(after.saturating_sub(self.began.elapsed())).await;
    }

    /// Seconds since the beginning, and what was answered in them.
    pub(super) fn end(self) -> (f64, BTreeMap<u16, usize>) {
        drop(self.clients);
        let statuses = self.statuses.lock().clone();
        (self.began.elapsed().as_secs_f64(), statuses)
    }
}

const RATE: f64 = 200.0;
const BURST: f64 = 40.0;
const MANY: &str = "limits: [{ name: many, rate: 200/s, burst: 40 }]\n";

/// What passed is what one rate allows and not much less, and far more was offered.
fn is_one_rate(seconds: f64, statuses: &BTreeMap<u16, usize>, less: f64) {
    let count = |status| *statuses.get(&status).unwrap_or(&0) as f64;
    let told = format!("{statuses:?} in {seconds} s");
    assert_eq!(statuses.len(), 2, "{told}");
    assert!(count(200) + count(429) > 2.0 * RATE * seconds, "too little was offered: {told}");
    assert!(count(200) <= RATE * seconds + BURST + 1.0, "{told}");
    assert!(count(200) >= 0.8 * RATE * seconds - less, "{told}");
}

#[tokio::test]
async fn all_replicas_together_have_one_rate() {
    let (store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let gateways = three(&store, &upstream, MANY).await;
    let mut load = Load::new();
    gateways.iter().for_each(|gateway| load.on(gateway));
    load.until(Duration::from_secs(3)).await;
    let (seconds, statuses) = load.end();
    is_one_rate(seconds, &statuses, 0.0);
    for gateway in &gateways {
        gateway.metrics_with("\ntoolgate_shared_fallbacks_total{what=\"limits\"} 0\n").await;
    }
}

#[tokio::test]
async fn replicas_that_come_freeze_and_die_change_nothing_of_the_rate() {
    let (store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let first = replica(&store, &upstream, MANY).await;
    stands(&first, "up").await;
    let mut load = Load::new();
    load.on(&first);
    load.until(Duration::from_secs(1)).await;
    let (second, third) =
        tokio::join!(replica(&store, &upstream, MANY), replica(&store, &upstream, MANY));
    stands(&second, "up").await;
    stands(&third, "up").await;
    load.on(&second);
    load.on(&third);
    tokio::time::sleep(Duration::from_millis(700)).await;
    third.signal("STOP");
    // Longer than anything leased is good for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    third.signal("CONT");
    tokio::time::sleep(Duration::from_millis(700)).await;
    second.signal("KILL");
    third.signal("KILL");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let (seconds, statuses) = load.end();
    // What the frozen and the killed had leased for the next moment.
    is_one_rate(seconds, &statuses, BURST);
}

#[tokio::test]
async fn few_calls_are_counted_exactly_wherever_they_come() {
    let upstream = Upstream::mcp("one").await;
    let limits = "limits:
  - { name: few, key: [server], rate: 7/h }
  - { name: tools, key: [tool], rate: 5/h }
";
    for store in [Store::start(), Store::cluster()] {
        let gateways = three(&store, &upstream, limits).await;
        let statuses = in_turn(&gateways, 12).await;
        assert_eq!(statuses, [vec![200; 5], vec![429; 7]].concat());
        // What the limit of tools refused, the other one has back.
        let answer = call(&gateways[0]).await;
        let stands = answer.field("ratelimit").expect("where it stands");
        assert!(stands.starts_with("\"tools\";r=0;t="), "{stands}");
        let after: u64 = answer.field("retry-after").expect("when").parse().expect("seconds");
        assert!((600..=720).contains(&after), "a fifth of an hour, not {after} s");
    }
}

#[tokio::test]
async fn calls_wait_for_their_turn_among_those_of_all_replicas() {
    let (store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let limits = "limits: [{ name: even, rate: 20/s, burst: 1, wait: 30s }]\n";
    let gateways = three(&store, &upstream, limits).await;
    let began = Instant::now();
    let answers = join_all(gateways.iter().cycle().take(31).map(call)).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1500), "thirty of them wait for 50 ms each: {took:?}");
}

#[tokio::test]
async fn without_the_store_each_replica_has_its_share() {
    let (mut store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let gateways = three(&store, &upstream, "limits: [{ name: few, rate: 9/h }]\n").await;
    store.kill();
    assert_eq!(passed(&in_turn(&gateways, 12).await), 9, "three at each of three");
    for gateway in &gateways {
        gateway.metrics_with("\ntoolgate_shared_fallbacks_total{what=\"limits\"} 4\n").await;
    }
    store.start_again();
    for gateway in &gateways {
        stands(gateway, "up, replicas: 3").await;
    }
    // A late answer leaves a key alone for a moment.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(passed(&in_turn(&gateways, 12).await), 9, "the store has forgotten, and counts");
}

#[tokio::test]
async fn a_store_that_dies_under_load_fails_no_call() {
    let (mut store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let gateways = three(&store, &upstream, MANY).await;
    let mut load = Load::new();
    gateways.iter().for_each(|gateway| load.on(gateway));
    load.until(Duration::from_secs(1)).await;
    store.kill();
    load.until(Duration::from_secs(2)).await;
    store.start_again();
    load.until(Duration::from_secs(3)).await;
    let (seconds, statuses) = load.end();
    let passed = *statuses.get(&200).expect("some passed") as f64;
    assert!(statuses.keys().all(|status| [200, 429].contains(status)), "{statuses:?}");
    // Once the shares of all, and once what a store that is empty allows anew.
    assert!(passed <= RATE * seconds + 3.0 * BURST + 1.0, "{statuses:?} in {seconds} s");
    assert!(passed >= 0.6 * RATE * seconds, "{statuses:?} in {seconds} s");
}

#[tokio::test]
async fn what_others_wrote_in_its_place_is_replaced() {
    let (store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let gateway = replica(&store, &upstream, "limits: [{ name: few, rate: 2/h }]\n").await;
    stands(&gateway, "up").await;
    let mut connection = store.connection();
    let mut ask = |command: &[&str]| {
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query::<redis::Value>(&mut connection).expect("done")
    };
    assert_eq!(call(&gateway).await.status, 200);
    let keys: Vec<String> =
        redis::from_redis_value(ask(&["KEYS", "*{limit:*}:rate"])).expect("keys");
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    for garbage in [
        &["SADD", key, "a set"][..],
        &["SET", key, "nan"],
        &["SET", key, "-inf"],
        &["SET", key, "1e308"],
        &["SET", key, "{\"json\":1}"],
        &["SET", key, "\u{0}\u{1}"],
    ] {
        ask(&["DEL", key]);
        ask(garbage);
        // What was refused before is known here for a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let statuses = [call(&gateway).await.status, call(&gateway).await.status];
        assert_eq!((statuses, call(&gateway).await.status), ([200; 2], 429), "{garbage:?}");
    }
    assert!(standing(&gateway).await.starts_with("up"));
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("toolgate_shared_fallbacks_total{what=\"limits\"} 0\n"), "{metrics}");
}
