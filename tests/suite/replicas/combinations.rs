//! What was called through one replica rules out what is called through another.

use super::{PATIENCE, replica, stands};
use crate::policy_calls::{by, identity, willing};
use crate::support::client::{Answer, Client, exchange};
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::store::Store;
use crate::support::upstream::Upstream;
use std::time::{Duration, Instant};

/// Callers by key, and a rule over what they did in the last ten minutes.
fn rules(within: &str) -> String {
    let keys = identity();
    format!(
        "{keys}policy:
  labels: {{ secret: [get_secret], egress: ['send_*'] }}
  combinations:
    - {{ name: no-leak, after: secret, deny: egress, within: {within} }}
"
    )
}

async fn replicas(store: &Store, upstream: &Upstream, within: &str) -> [Gateway; 2] {
    let rules = rules(within);
    let both = [replica(store, upstream, &rules).await, replica(store, upstream, &rules).await];
    for one in &both {
        stands(one, "up, replicas: 2").await;
    }
    both
}

async fn call(gateway: &Gateway, caller: &str, tool: &str) -> Answer {
    exchange(gateway.address, &by(caller, Message::call(5, tool)).bytes()).await
}

fn is_refused(answer: &Answer, reason: i64) {
    assert_eq!((answer.status, answer.code()), (reason as u16, reason), "{}", answer.text());
}

fn passes(answer: &Answer) {
    assert_eq!((answer.status, answer.code()), (200, 0), "{}", answer.text());
}

#[tokio::test]
async fn a_secret_read_through_one_replica_is_not_sent_through_another() {
    let (store, upstream) = (Store::start(), willing().await);
    let [one, two] = replicas(&store, &upstream, "10m").await;
    passes(&call(&two, "ann", "send_mail").await);
    passes(&call(&one, "ann", "get_secret").await);
    is_refused(&call(&two, "ann", "send_mail").await, 403);
    is_refused(&call(&one, "ann", "send_mail").await, 403);
    passes(&call(&two, "bob", "send_mail").await);
    passes(&call(&two, "ann", "echo").await);
    let more = replica(&store, &upstream, &rules("10m")).await;
    is_refused(&call(&more, "ann", "send_mail").await, 403);
}

#[tokio::test]
async fn ten_thousand_tries_in_a_millisecond_all_fail() {
    const TRIES: usize = 10_000;
    let (store, upstream) = (Store::start(), willing().await);
    let [one, two] = replicas(&store, &upstream, "session").await;
    let mut reads = Client::connect(one.address).await;
    let mut sends = Client::connect(two.address).await;
    let initialize = by("ann", Message::initialize()).bytes();
    for at in 0..TRIES {
        // What was done in a session counts in that one only, so each try begins with nothing done.
        assert!(reads.send(&initialize).await);
        let session = reads.answer().await.session();
        let in_session = |tool| by("ann", Message::legacy_call(5, tool, &session)).bytes();
        let (read, send) = (in_session("get_secret"), in_session("send_mail"));
        if at % 100 == 0 {
            assert!(sends.send(&send).await);
            passes(&sends.answer().await);
        }
        assert!(reads.send(&read).await);
        passes(&reads.answer().await);
        // Half of these leave within 22 microseconds of the answer, on this machine.
        assert!(sends.send(&send).await);
        is_refused(&sends.answer().await, 403);
        // A caller has room for so many marks; those of a session end with it.
        assert!(reads.send(&by("ann", Message::end(&session)).bytes()).await);
        assert_eq!(reads.answer().await.status, 204);
        upstream.take();
    }
}

#[tokio::test]
async fn while_the_store_is_away_the_way_is_closed_or_open_as_configured() {
    let (mut store, upstream) = (Store::start(), willing().await);
    let closed = replica(&store, &upstream, &rules("10m")).await;
    let sections = store.sections_with("wait: 1s, combinations: open");
    let open = Gateway::start(&format!("{sections}{}{}", upstream.sections(), rules("10m"))).await;
    stands(&closed, "up, replicas: 2").await;
    store.kill();
    stands(&closed, "away").await;
    stands(&open, "away").await;
    for tool in ["send_mail", "get_secret"] {
        is_refused(&call(&closed, "ann", tool).await, 503);
    }
    passes(&call(&closed, "ann", "echo").await);
    passes(&call(&open, "ann", "send_mail").await);
    passes(&call(&open, "ann", "get_secret").await);
    is_refused(&call(&open, "ann", "send_mail").await, 403);
    // What a replica remembers is written when the store is back, though it comes back empty.
    store.start_again();
    stands(&closed, "up").await;
    stands(&open, "up").await;
    let started = Instant::now();
    while call(&closed, "ann", "send_mail").await.status != 403 {
        assert!(started.elapsed() < PATIENCE, "the other replica does not know");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    passes(&call(&closed, "bob", "send_mail").await);
}

#[tokio::test]
async fn what_did_not_run_rules_out_nothing_anywhere() {
    let (store, upstream) = (Store::start(), willing().await);
    let [one, two] = replicas(&store, &upstream, "10m").await;
    let url = upstream.url();
    // Nobody listens there, so the call provably did not run.
    let nowhere = format!("http://{}/mcp", free_address());
    let sections = upstream.sections().replace(&url, &nowhere);
    let dead = Gateway::start(&format!("{}{sections}{}", store.sections(), rules("10m"))).await;
    let failed = call(&dead, "ann", "get_secret").await;
    assert!(failed.status >= 500, "{}", failed.text());
    let started = Instant::now();
    while call(&two, "ann", "send_mail").await.status != 200 {
        assert!(started.elapsed() < PATIENCE, "the mark of a call that did not run stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    passes(&call(&one, "ann", "send_mail").await);
}

#[tokio::test]
async fn in_a_cluster_too() {
    let (store, upstream) = (Store::cluster(), willing().await);
    let start = || async {
        let sections = store.sections();
        let rules = rules("session, otherwise: 10m");
        Gateway::start(&format!("{sections}{}{rules}", upstream.sections())).await
    };
    let (one, two) = (start().await, start().await);
    stands(&one, "up, replicas: 2").await;
    passes(&call(&one, "ann", "get_secret").await);
    is_refused(&call(&two, "ann", "send_mail").await, 403);
}
