//! Sessions that many replicas have in common: moves, last use and ends.

use super::{PATIENCE, stands};
use crate::support::client::{self, Answer, Client};
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{Operator, section};
use crate::support::store::Store;
use crate::support::upstream::{
    Request, Step, Upstream, events_head, initialized, json_answer, mcp, plain, sections,
};
use parking_lot::Mutex;
use redis::Commands as _;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A server that knows the sessions it opened itself, until they are ended or it forgets them.
struct Server {
    upstream: Upstream,
    sessions: Arc<Sessions>,
}

#[derive(Default)]
pub(super) struct Sessions {
    known: Mutex<HashSet<String>>,
    opened: AtomicUsize,
    /// How often each was ended.
    pub(super) ended: Mutex<HashMap<String, usize>>,
}

impl Sessions {
    pub(super) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

async fn server(name: &'static str) -> Server {
    let sessions = Arc::new(Sessions::default());
    let of_script = Arc::clone(&sessions);
    let script = move |request: &Request| answer(name, &of_script, request);
    Server { upstream: Upstream::start(script).await, sessions }
}

/// What the server of this name answers.
pub(super) fn answer(name: &str, sessions: &Sessions, request: &Request) -> Vec<Step> {
    let id = &request.json()["id"];
    if request.method() == "initialize" {
        let number = sessions.opened.fetch_add(1, Ordering::Relaxed);
        let session = format!("{name}-{number}");
        let field = format!("mcp-session-id: {session}\r\n");
        sessions.known.lock().insert(session);
        return json_answer(200, &field, &initialized(id));
    }
    let session = request.field("mcp-session-id").unwrap_or_default();
    if request.verb == "DELETE" {
        *sessions.ended.lock().entry(session.to_owned()).or_default() += 1;
        sessions.known.lock().remove(session);
        return vec![plain(204, "", b"")];
    }
    if !sessions.known.lock().contains(session) {
        let error = json!({ "code": -32001, "message": "Session not found" });
        return json_answer(404, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }));
    }
    if request.verb == "GET" {
        return vec![events_head(""), Step::Wait(Arc::new(Semaphore::new(0)))];
    }
    mcp(name, request)
}

/// Two servers of one name, many gateways in front of them, and a session in one of the servers.
struct Stage {
    store: Store,
    gateways: Vec<Gateway>,
    /// Further keys of `sessions`, and everything else.
    keys: &'static str,
    yaml: String,
    home: Server,
    other: Server,
    session: String,
}

impl Stage {
    async fn new(count: usize, keys: &'static str) -> Self {
        let (store, a, b) = (Store::start(), server("a").await, server("b").await);
        let urls = [a.upstream.url(), b.upstream.url()];
        let mut stage = Self {
            gateways: Vec::new(),
            keys,
            yaml: sections(&urls, ""),
            home: a,
            other: b,
            session: String::new(),
            store,
        };
        for _ in 0..count {
            stage.join().await;
        }
        stage.session = stage.ask(0, &Message::initialize()).await.session();
        if stage.home.sessions.opened() == 0 {
            std::mem::swap(&mut stage.home, &mut stage.other);
        }
        stage
    }

    /// One more gateway.
    async fn join(&mut self) -> usize {
        let gateway = Gateway::start(&self.yaml_of_one()).await;
        stands(&gateway, "up").await;
        self.gateways.push(gateway);
        self.gateways.len() - 1
    }

    fn yaml_of_one(&self) -> String {
        // The keys of sessions are in one section.
        let opening = format!("sessions: {{ {}", self.keys);
        format!("{}{}", self.store.sections().replace("sessions: {", &opening), self.yaml)
    }

    async fn ask(&self, gateway: usize, message: &Message) -> Answer {
        client::exchange(self.gateways[gateway].address, &message.bytes()).await
    }

    /// A call in the session; who answered it.
    async fn call(&self, gateway: usize) -> String {
        let answer = self.ask(gateway, &Message::legacy_call(7, "echo", &self.session)).await;
        assert_eq!(answer.status, 200, "gateway {gateway}: {}", answer.text());
        said(&answer)
    }

    /// Calls by all gateways at once; all of them succeed.
    async fn call_at_once(&self, count: usize) {
        let calls = (0..count).map(|turn| self.call(turn % self.gateways.len()));
        futures::future::join_all(calls).await;
    }

    /// The server where the session lives goes away.
    async fn kill_home(&mut self) {
        let gone = server("gone").await;
        drop(std::mem::replace(&mut self.home, gone));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn said(answer: &Answer) -> String {
    let text = answer.json()["result"]["content"][0]["text"].as_str().map(str::to_owned);
    text.unwrap_or_else(|| panic!("no result: {}", answer.text()))
}

/// Waits until this is so.
pub(super) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_session_that_moved_is_found_where_it_is_by_every_replica() {
    let mut stage = Stage::new(3, "").await;
    for gateway in 0..3 {
        stage.call(gateway).await;
    }
    stage.kill_home().await;
    let moved_to = stage.call(0).await;
    for turn in 0..6 {
        assert_eq!(stage.call(turn % 3).await, moved_to);
    }
    let late = stage.join().await;
    assert_eq!(stage.call(late).await, moved_to);
    assert_eq!(stage.other.sessions.opened(), 1);
    // A gateway that lost what it knew finds it again.
    let gateway = stage.gateways.remove(0);
    let yaml = format!("listen: {}\n{}", gateway.address, stage.yaml_of_one());
    let gateway = gateway.restart(&yaml).await;
    stands(&gateway, "up").await;
    stage.gateways.push(gateway);
    stage.call_at_once(8).await;
    assert_eq!(stage.other.sessions.opened(), 1, "one new session for all");
}

#[tokio::test]
async fn calls_that_find_their_session_homeless_at_all_replicas_at_once_open_one() {
    let mut stage = Stage::new(3, "").await;
    stage.call_at_once(3).await;
    stage.kill_home().await;
    stage.call_at_once(48).await;
    assert_eq!(stage.other.sessions.opened(), 1);
}

#[tokio::test]
async fn a_server_that_forgot_the_session_opens_one_for_all_replicas() {
    let stage = Stage::new(3, "").await;
    stage.call_at_once(3).await;
    let opened = || stage.home.sessions.opened() + stage.other.sessions.opened();
    for expected in 2..5 {
        stage.home.sessions.known.lock().clear();
        stage.other.sessions.known.lock().clear();
        match expected {
            // One after the other, or all at once.
            2 => {
                for gateway in 0..3 {
                    stage.call(gateway).await;
                }
            }
            _ => stage.call_at_once(24).await,
        }
        assert_eq!(opened(), expected);
    }
}

#[tokio::test]
async fn a_drained_endpoint_moves_its_session_once_for_all_replicas() {
    let admin = free_address();
    let stage = Stage::new(2, "").await;
    let yaml = format!("{}{}", section(admin), stage.yaml_of_one());
    let drains = Gateway::start(&yaml).await;
    stands(&drains, "up").await;
    stage.call_at_once(4).await;
    let operator = Operator::new(admin);
    let url = stage.home.upstream.url();
    let endpoints = operator.endpoints("one").await;
    let id = endpoints.iter().find(|endpoint| endpoint["url"] == url.as_str());
    let id =
        id.unwrap_or_else(|| panic!("{endpoints:?}"))["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/servers/one/endpoints/{id}/drain");
    let drained = operator.ask("POST", &path, &json!({ "deadline": "100ms" })).await;
    assert_eq!(drained.status, 200, "{}", drained.text());
    let call = Message::legacy_call(7, "echo", &stage.session).bytes();
    eventually("the session left", async || {
        let answer = client::exchange(drains.address, &call).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        stage.other.sessions.opened() == 1
    })
    .await;
    let there = said(&client::exchange(drains.address, &call).await);
    for gateway in 0..2 {
        eventually("the others follow", async || stage.call(gateway).await == there).await;
    }
    assert_eq!((stage.home.sessions.opened(), stage.other.sessions.opened()), (1, 1));
}

#[tokio::test]
async fn what_a_client_set_through_one_replica_is_made_anew_by_another() {
    let mut stage = Stage::new(2, "").await;
    let held = |message: Message| message.field("mcp-session-id", &stage.session);
    let level = held(Message::legacy(3, "logging/setLevel", &json!({ "level": "warning" })));
    assert_eq!(stage.ask(0, &level).await.status, 200);
    for (gateway, uri) in [(0, "file:///a"), (1, "file:///b")] {
        let subscribe = Message::legacy(3, "resources/subscribe", &json!({ "uri": uri }));
        assert_eq!(stage.ask(gateway, &held(subscribe)).await.status, 200);
    }
    let wanted = ["logging/setLevel", "resources/subscribe", "resources/subscribe"];
    // What was set is written down a moment later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.kill_home().await;
    stage.call(1).await;
    let seen: Vec<String> = stage.other.upstream.take().iter().map(Request::method).collect();
    assert_eq!(seen[2..5], wanted, "{seen:?}");
}

#[tokio::test]
async fn a_session_that_was_ended_through_one_replica_opens_nothing_at_any() {
    let mut stage = Stage::new(2, "").await;
    stage.call_at_once(4).await;
    // The server would go on with it.
    assert_eq!(stage.ask(0, &Message::end(&stage.session)).await.status, 204);
    let id = stage.home.sessions.ended.lock().keys().next().cloned().expect("an id");
    stage.home.sessions.known.lock().insert(id);
    let call = Message::legacy_call(7, "echo", &stage.session);
    let ended = Instant::now();
    eventually("it ends", async || stage.ask(1, &call).await.status == 404).await;
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    let late = stage.join().await;
    for message in [call, Message::stream(&stage.session), Message::end(&stage.session)] {
        for gateway in [0, 1, late] {
            assert_eq!(stage.ask(gateway, &message).await.status, 404, "gateway {gateway}");
        }
    }
    assert_eq!(stage.other.sessions.opened(), 0);
}

#[tokio::test]
async fn a_session_that_nobody_uses_is_ended_once_and_one_that_anybody_uses_is_not() {
    let stage = Stage::new(2, "idle: 2s,").await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let session = stage.ask(0, &Message::initialize()).await.session();
        let call = Message::legacy_call(7, "echo", &session);
        assert_eq!(stage.ask(1, &call).await.status, 200);
        idle.push(call);
    }
    let ended = || {
        let of = |server: &Server| server.sessions.ended.lock().clone();
        of(&stage.home).into_iter().chain(of(&stage.other)).collect::<Vec<_>>()
    };
    // Opened through one replica, it is used through the other.
    eventually("nobody uses them", async || {
        stage.call(1).await;
        ended().len() == 4
    })
    .await;
    // Longer than a session may idle, which the first replica sees no use of.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        stage.call(1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = ended();
    assert!(ended.len() == 4 && ended.iter().all(|(_, times)| *times == 1), "{ended:?}");
    for call in &idle {
        for gateway in 0..2 {
            assert_eq!(stage.ask(gateway, call).await.status, 404);
        }
    }
    stage.call(0).await;
}

#[tokio::test]
async fn calls_go_on_when_the_store_is_killed_in_the_middle() {
    let mut stage = Stage::new(2, "").await;
    stage.call_at_once(4).await;
    stage.store.kill();
    stage.call_at_once(8).await;
    stage.kill_home().await;
    stage.call_at_once(8).await;
    assert_eq!(stage.other.sessions.opened(), 2, "each moves it for itself");
    stage.store.start_again();
    for gateway in &stage.gateways {
        stands(gateway, "up").await;
    }
    // They agree again, and a new one follows them.
    stage.call_at_once(8).await;
    eventually("what is known is written", async || {
        let mut connection = stage.store.connection();
        let names: Vec<String> = connection.keys("*:place").expect("names");
        !names.is_empty()
    })
    .await;
    let late = stage.join().await;
    stage.call(late).await;
    stage.call_at_once(8).await;
    assert_eq!(stage.other.sessions.opened(), 2);
}

#[tokio::test]
async fn what_others_wrote_into_the_store_is_as_if_it_were_not_there() {
    for garbage in ["string", "list", "long", "another's"] {
        let mut stage = Stage::new(1, "").await;
        stage.kill_home().await;
        stage.call(0).await;
        let mut connection = stage.store.connection();
        let names: Vec<String> = connection.keys("*:place").expect("names");
        assert_eq!(names.len(), 1, "{names:?}");
        let sealed: Vec<u8> = connection.get(&names[0]).expect("a value");
        assert!(!sealed.windows(2).any(|part| part == b"b-"), "nothing lies there in the clear");
        let (): () = match garbage {
            "string" => connection.set(&names[0], "garbage").expect("set"),
            "long" => connection.set(&names[0], vec![1; 100_000]).expect("set"),
            "another's" => connection.set(&names[0], &sealed[1..]).expect("set"),
            _ => {
                let _: () = connection.del(&names[0]).expect("deleted");
                connection.lpush(&names[0], "garbage").expect("set")
            }
        };
        let feed: Vec<String> = connection.keys("*:sessions").expect("names");
        for name in feed {
            let _: () = connection.del(&name).expect("deleted");
            let _: () = connection.set(&name, "garbage").expect("set");
        }
        let late = stage.join().await;
        stage.call(late).await;
        stage.call(late).await;
        assert_eq!(stage.other.sessions.opened(), 2, "{garbage}: it moves it for itself");
        stage.call(0).await;
    }
}

#[tokio::test]
async fn a_stream_follows_its_session_to_where_another_replica_moved_it() {
    let mut stage = Stage::new(2, "").await;
    let mut listener = Client::connect(stage.gateways[1].address).await;
    listener.send(&Message::stream(&stage.session).bytes()).await;
    assert_eq!(listener.head().await.status, 200);
    stage.kill_home().await;
    stage.call(0).await;
    eventually("the stream is there", async || {
        let seen = stage.other.upstream.take();
        seen.iter().any(|request| request.verb == "GET")
    })
    .await;
    assert_eq!(stage.other.sessions.opened(), 1);
}

#[tokio::test]
async fn a_cluster_keeps_sessions_too() {
    let (store, a, b) = (Store::cluster(), server("a").await, server("b").await);
    let urls = [a.upstream.url(), b.upstream.url()];
    let keys = store.sections();
    let yaml = format!("{keys}{}", sections(&urls, ""));
    let gateways = [Gateway::start(&yaml).await, Gateway::start(&yaml).await];
    for gateway in &gateways {
        stands(gateway, "up").await;
    }
    let opened = client::exchange(gateways[0].address, &Message::initialize().bytes()).await;
    let call = Message::legacy_call(7, "echo", &opened.session()).bytes();
    let (home, other) = if a.sessions.opened() == 1 { (a, b) } else { (b, a) };
    drop(home);
    for gateway in [0, 1, 0, 1] {
        let answer = client::exchange(gateways[gateway].address, &call).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(other.sessions.opened(), 1);
    let end = Message::end(&opened.session()).bytes();
    assert_eq!(client::exchange(gateways[0].address, &end).await.status, 204);
    eventually("it is over", async || {
        client::exchange(gateways[1].address, &call).await.status == 404
    })
    .await;
}
