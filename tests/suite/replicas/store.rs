//! The store itself comes, goes, is a cluster, is slow, full, or answers what makes no sense.

use super::{replica, standing, stands};
use crate::support::client::exchange;
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::store::Store;
use crate::support::upstream::{Upstream, initialized, json_answer, mcp, sections};
use serde_json::json;
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
    let sections = store.sections();
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

#[tokio::test]
async fn a_store_is_spoken_to_with_tls_and_only_if_it_is_who_it_says() {
    let upstream = Upstream::mcp("one").await;
    let folder = Folder::new();
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
    let certificate = folder.write("store.crt", &certified.cert.pem());
    let key = folder.write("store.key", &certified.signing_key.serialize_pem());
    let tls = free_address().port();
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let store = Store::with(&[
        "--tls-port",
        &tls.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{tls}");
    let trusting =
        store.sections_with(&format!("wait: 1s, ca: {certificate}")).replace(&store.url(), &url);
    let gateway = Gateway::start(&format!("{trusting}{}", upstream.sections())).await;
    stands(&gateway, "up").await;
    let strict = store.sections().replace(&store.url(), &url);
    let gateway = Gateway::start(&format!("{strict}{}", upstream.sections())).await;
    let said = standing(&gateway).await;
    assert!(said.starts_with("away: "), "nobody vouches for it: {said}");
}

#[tokio::test]
async fn nothing_secret_lies_in_the_store() {
    const SECRET: &str = "the-servers-own-session-id";
    let upstream = Upstream::start(|request| match request.method().as_str() {
        "initialize" => {
            let id = &request.json()["id"];
            json_answer(200, &format!("mcp-session-id: {SECRET}\r\n"), &initialized(id))
        }
        _ => mcp("one", request),
    })
    .await;
    let store = Store::start();
    let admin = free_address();
    let dead = format!("http://{}/mcp", free_address());
    let urls = [upstream.url(), dead.clone()];
    let gateway = Gateway::start(&format!(
        "{}{}{}limits: [{{ name: all, key: [caller, session], rate: 1000/s }}]\n",
        store.sections(),
        operator::section(admin),
        sections(&urls, "")
    ))
    .await;
    stands(&gateway, "up").await;
    let operator = Operator::new(admin);
    let lease = json!({ "url": "http://of-the-secret-endpoint.internal/mcp", "lease": "1m" });
    let put = operator.ask("PUT", "/v1/servers/one/endpoints/more", &lease).await;
    assert_eq!(put.status, 201, "{}", put.text());
    let mut written = 0;
    // What a client set is kept for whoever moves its session.
    let began = std::time::Instant::now();
    while written < 3 {
        let opened = exchange(gateway.address, &Message::initialize().bytes()).await;
        let session = opened.session();
        let level = json!({ "level": "debug" });
        let level =
            Message::legacy(4, "logging/setLevel", &level).field("mcp-session-id", &session);
        exchange(gateway.address, &level.bytes()).await;
        exchange(gateway.address, &Message::legacy_call(5, "echo", &session).bytes()).await;
        let mut connection = store.connection();
        let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("names");
        written = ["session:", "limit:", "registrations"]
            .iter()
            .filter(|kind| names.iter().any(|name| name.contains(*kind)))
            .count();
        assert!(began.elapsed() < super::PATIENCE, "{names:?}");
    }
    let mut connection = store.connection();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("names");
    redis::cmd("CONFIG").arg(&["SET", "rdbcompression", "no"]).exec(&mut connection).expect("set");
    for name in names {
        assert!(name.starts_with("toolgate:1:{"), "{name}");
        let dump: Vec<u8> = redis::cmd("DUMP").arg(&name).query(&mut connection).expect("a value");
        let found = String::from_utf8_lossy(&dump);
        for secret in [SECRET, "of-the-secret-endpoint", "replicas-of-tests-have"] {
            assert!(!found.contains(secret) && !name.contains(secret), "{secret} in {name}");
        }
    }
}
