//! What an operator changes at one replica takes effect at every other.

use super::{PATIENCE, replica, stands};
use crate::definitions::Changing;
use crate::policy_calls::{by, identity, willing};
use crate::support::client::exchange;
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::store::Store;
use crate::support::upstream::Upstream;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A replica and who operates it.
struct Replica {
    gateway: Gateway,
    operator: Operator,
}

impl Replica {
    async fn start(store: &Store, upstream: &Upstream, more: &str) -> Self {
        let admin = free_address();
        let more = format!("{}{more}", operator::section(admin));
        let gateway = replica(store, upstream, &more).await;
        Self { gateway, operator: Operator::new(admin) }
    }

    async fn ask(&self, verb: &str, path: &str, body: &Value) -> u16 {
        self.operator.ask(verb, path, body).await.status
    }

    /// The state of an endpoint; nothing if there is none of this name.
    async fn state(&self, name: &str) -> Option<String> {
        let endpoints = self.operator.endpoints("one").await;
        let found = endpoints.iter().find(|endpoint| endpoint["id"] == name);
        found.map(|endpoint| endpoint["state"].as_str().expect("a state").to_owned())
    }

    /// Waits until this is the state of the endpoint.
    async fn has(&self, name: &str, expected: Option<&str>) {
        let began = Instant::now();
        while self.state(name).await.as_deref() != expected {
            assert!(began.elapsed() < PATIENCE, "{name}: {:?}", self.state(name).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a call is answered with this status.
    async fn answers(&self, message: &Message, expected: u16) {
        let began = Instant::now();
        loop {
            let answer = exchange(self.gateway.address, &message.bytes()).await;
            if answer.status == expected {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{}: {}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn two(store: &Store, upstream: &Upstream, more: &str) -> [Replica; 2] {
    let both =
        [Replica::start(store, upstream, more).await, Replica::start(store, upstream, more).await];
    for one in &both {
        stands(&one.gateway, "up, replicas: 2").await;
    }
    both
}

#[tokio::test]
async fn endpoints_come_go_and_drain_everywhere() {
    let (mut store, upstream) = (Store::start(), willing().await);
    let [a, b] = two(&store, &upstream, "").await;
    let path = "/v1/servers/one/endpoints/more";
    let url = format!("http://{}/mcp", free_address());
    let good = json!({ "url": url, "lease": "permanent" });
    assert_eq!(a.ask("PUT", path, &good).await, 201);
    b.has("more", Some("serving")).await;
    assert_eq!(b.ask("POST", &format!("{path}/drain"), &json!({ "deadline": "1m" })).await, 200);
    a.has("more", Some("draining")).await;
    assert_eq!(a.ask("POST", &format!("{path}/undrain"), &json!({})).await, 200);
    b.has("more", Some("serving")).await;

    // A replica that comes later knows, and one whose store has lost everything writes it again.
    let c = Replica::start(&store, &upstream, "").await;
    c.has("more", Some("serving")).await;
    store.kill();
    for replica in [&a, &b, &c] {
        stands(&replica.gateway, "away").await;
    }
    store.start_again();
    let d = Replica::start(&store, &upstream, "").await;
    d.has("more", Some("serving")).await;

    assert_eq!(b.ask("DELETE", path, &Value::Null).await, 200);
    for replica in [&a, &c, &d] {
        replica.has("more", None).await;
    }
}

#[tokio::test]
async fn a_lease_is_renewed_through_any_replica() {
    let (store, upstream) = (Store::start(), willing().await);
    let [a, b] = two(&store, &upstream, "").await;
    let path = "/v1/servers/one/endpoints/leased";
    let lease = json!({ "url": format!("http://{}/mcp", free_address()), "lease": "8s" });
    assert_eq!(a.ask("PUT", path, &lease).await, 201);
    b.has("leased", Some("serving")).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(12) {
        // In turn, so that neither hears of every renewal itself.
        let one = if began.elapsed().as_secs() % 8 < 4 { &b } else { &a };
        assert_eq!(one.ask("PUT", path, &lease).await, 200, "it is known everywhere");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(a.state("leased").await.is_some() && b.state("leased").await.is_some());
    }
    a.has("leased", None).await;
    b.has("leased", None).await;
}

#[tokio::test]
async fn servers_and_their_routes_are_registered_everywhere() {
    for (store, upstream) in
        [(Store::start(), willing().await), (Store::cluster(), willing().await)]
    {
        let [a, b] = two(&store, &upstream, "").await;
        let server = json!({ "endpoints": [upstream.url()], "routes": [{ "path": "/new" }] });
        assert_eq!(a.ask("PUT", "/v1/servers/new", &server).await, 201);
        let call = Message::call(5, "echo").at("/new");
        b.answers(&call, 200).await;
        assert_eq!(b.ask("DELETE", "/v1/servers/new", &Value::Null).await, 200);
        a.answers(&call, 404).await;
    }
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_anywhere() {
    let (store, upstream) = (Store::start(), willing().await);
    let [a, b] = two(&store, &upstream, &identity()).await;
    let call = by("ann", Message::call(5, "echo"));
    b.answers(&call, 200).await;
    let digest = ring::digest::digest(&ring::digest::SHA256, b"key-of-ann");
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = format!("/v1/revocations/{hex}");
    assert_eq!(a.ask("PUT", &path, &json!({})).await, 201);
    a.answers(&call, 401).await;
    b.answers(&call, 401).await;
    b.answers(&by("bob", Message::call(5, "echo")), 200).await;
    let told = b.operator.ask("GET", "/v1/revocations", &Value::Null).await.json();
    assert_eq!(told, json!({ "revocations": [hex] }));
    // It outlives the process, and whoever comes later is told.
    let config = b.gateway.config();
    let config: Vec<&str> = config.lines().filter(|line| !line.starts_with("health:")).collect();
    let config = config.join("\n");
    let b = b.gateway.restart(&config).await;
    assert_eq!(exchange(b.address, &call.bytes()).await.status, 401);
    let c = Replica::start(&store, &upstream, &identity()).await;
    c.answers(&call, 401).await;
    assert_eq!(a.ask("DELETE", &path, &Value::Null).await, 200);
    c.answers(&call, 200).await;
    for bad in ["/v1/revocations/xyz", "/v1/revocations/00"] {
        assert_eq!(a.ask("PUT", bad, &json!({})).await, 400, "{bad}");
    }
    let read = a.operator.with("read").ask("PUT", &path, &json!({})).await;
    assert_eq!(read.status, 403, "{}", read.text());
}

#[tokio::test]
async fn what_one_replica_trusts_all_do() {
    let store = Store::start();
    let changing = Changing::start().await;
    let start = || async {
        let admin = free_address();
        let more = format!("{}{}", store.sections(), crate::definitions::CATALOG);
        let sections = changing.sections("withhold");
        let gateway =
            Gateway::start(&format!("{}{more}{sections}", operator::section(admin))).await;
        Replica { gateway, operator: Operator::new(admin) }
    };
    let a = start().await;
    stands(&a.gateway, "up").await;
    changing.change();
    let waits = |replica: &Replica| {
        let operator = replica.operator.clone();
        async move {
            let began = Instant::now();
            loop {
                let server = operator.server("one").await;
                if server["pending"].as_array().is_some_and(|pending| pending.len() == 1) {
                    return server;
                }
                assert!(began.elapsed() < PATIENCE, "{server:#}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    waits(&a).await;
    // It has never seen the first definition, and yet it does not trust the second.
    let b = start().await;
    waits(&b).await;
    assert_eq!(b.ask("POST", "/v1/servers/one/definitions/approve", &json!({})).await, 200);
    let began = Instant::now();
    loop {
        let server = a.operator.server("one").await;
        if server["pending"] == json!([]) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{server:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
