//! The store itself comes, goes, is a cluster, is slow, full, or answers what makes no sense.

use super::{replica, standing, stands};
use crate::support::gateway::Gateway;
use crate::support::store::Store;
use crate::support::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn replicas_find_each_other_and_leave() {
    let (store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let one = replica(&store, &upstream, "").await;
    stands(&one, "up, replicas: 1").await;
    let mut two = replica(&store, &upstream, "").await;
    stands(&one, "up, replicas: 2").await;
    two.signal("TERM");
    assert_eq!(two.ended().await, Some(0));
    stands(&one, "up, replicas: 1").await;
    let metrics = one.probe("/metrics").await.text();
    assert!(metrics.contains("\ntoolgate_shared_up 1\n"), "{metrics}");
    assert!(metrics.contains("\ntoolgate_shared_replicas 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_store_that_goes_and_comes_back_is_noticed() {
    let (mut store, upstream) = (Store::start(), Upstream::mcp("one").await);
    let gateway = replica(&store, &upstream, "").await;
    stands(&gateway, "up").await;
    store.kill();
    stands(&gateway, "away: ").await;
    store.start_again();
    stands(&gateway, "up").await;
    store.signal("STOP");
    stands(&gateway, "away: ").await;
    store.signal("CONT");
    stands(&gateway, "up").await;
}

#[tokio::test]
async fn a_cluster_is_a_store_too() {
    let (store, upstream) = (Store::cluster(), Upstream::mcp("one").await);
    let sections = store.sections_with("wait: 1s, topology: cluster");
    let gateway = Gateway::start(&format!("{sections}{}", upstream.sections())).await;
    stands(&gateway, "up, replicas: 1").await;
}

#[tokio::test]
async fn a_store_that_is_full_or_wants_a_password_says_so() {
    let upstream = Upstream::mcp("one").await;
    let full = Store::with(&["--maxmemory", "1b", "--maxmemory-policy", "noeviction"]);
    let gateway = replica(&full, &upstream, "").await;
    let said = standing(&gateway).await;
    assert!(said.starts_with("away: "), "{said}");
    let locked = Store::with(&["--requirepass", "sesame"]);
    let gateway = replica(&locked, &upstream, "").await;
    let said = standing(&gateway).await;
    assert!(said.starts_with("away: ") && !said.contains("sesame"), "{said}");
    let url = locked.url().replace("redis://", "redis://:sesame@");
    let sections = locked.sections().replace(&locked.url(), &url);
    let gateway = Gateway::start(&format!("{sections}{}", upstream.sections())).await;
    stands(&gateway, "up").await;
}

#[tokio::test]
async fn whoever_answers_garbage_is_no_store() {
    let upstream = Upstream::mcp("one").await;
    for garbage in ["HTTP/1.1 400 Bad Request\r\n\r\n", "*1000000000\r\n", "$-7\r\n", ":1\r\n"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let answering = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("the gateway");
                let mut asked = [0; 4096];
                while stream.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
                    if stream.write_all(garbage.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        };
        let checking = async {
            let sections = format!(
                "sessions: {{ keys: [replicas-of-tests-have-this-in-common] }}\nshared: {{ redis: \"redis://{address}\", wait: 1s }}\n{}",
                upstream.sections()
            );
            let gateway = Gateway::start(&sections).await;
            let said = standing(&gateway).await;
            assert!(said.starts_with("away: "), "{garbage:?}: {said}");
        };
        tokio::select! {
            () = answering => {}
            () = checking => {}
        }
    }
}
