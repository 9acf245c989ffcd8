//! Stopping, upgrading, scaling: a process that goes takes no request with it.

use crate::support::Stage;
use crate::support::client::{self, Client};
use crate::support::gateway::{Gateway, Successor, free_address};
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::{
    Request, Step, Upstream, event, events_end, events_head, mcp, result, sections,
};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Longer than anything here takes, and shorter than the grace period.
const SOON: Duration = Duration::from_secs(15);

/// A server whose calls wait at `gate` before their answer begins.
fn held(gate: &Arc<Semaphore>) -> impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move |request| {
        let mut steps = mcp("one", request);
        if request.method() == "tools/call" {
            steps.insert(0, Step::Wait(Arc::clone(&gate)));
        }
        steps
    }
}

/// A server whose calls and streams never come to their end.
fn endless(request: &Request) -> Vec<Step> {
    match (request.verb.as_str(), request.method().as_str()) {
        ("GET", _) | (_, "tools/call") => {
            let progress = event(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#);
            vec![events_head(""), progress, Step::Wait(Arc::new(Semaphore::new(0)))]
        }
        _ => mcp("one", request),
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_draining(gateway: &Gateway) {
    until("not ready", async || gateway.probe("/ready").await.status == 503).await;
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let Stage { mut gateway, upstream: _upstream } = Stage::mcp().await;
        let began = Instant::now();
        gateway.signal(signal);
        assert_eq!(gateway.ended().await, Some(0), "{signal}");
        assert!(began.elapsed() < SOON, "{signal}");
        assert!(!gateway.state().join("toolgate.pid").exists());
    }
}

#[tokio::test]
async fn a_call_in_flight_is_answered_and_probes_tell() {
    let gate = Arc::new(Semaphore::new(0));
    let Stage { mut gateway, upstream } = Stage::before(Upstream::start(held(&gate)).await).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&Message::call(1, "echo").bytes()).await;
    let mut other = Http2::connect(gateway.address).await;
    let call = Message::call(2, "echo");
    let release = async {
        assert!(upstream.reached(2).await);
        assert_eq!(gateway.probe("/ready").await.status, 200);
        gateway.signal("TERM");
        until_draining(&gateway).await;
        assert_eq!(gateway.probe("/live").await.status, 200);
        gate.add_permits(2);
    };
    let (over_http2, ()) = tokio::join!(other.ask(&call), release);
    assert_eq!(over_http2.expect("an answer").status, 200);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert!(client.is_closed().await);
    assert_eq!(gateway.ended().await, Some(0));
    assert!(gateway.log(2).await.iter().all(|line| line.contains(r#""outcome":"ok""#)));
}

#[tokio::test]
async fn a_kept_connection_has_its_next_request_answered() {
    let Stage { mut gateway, upstream: _upstream } = Stage::mcp().await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(gateway.address).await;
        client.send(&Message::call(1, "echo").bytes()).await;
        assert_eq!(client.answer().await.field("connection"), Some("keep-alive"));
        clients.push(client);
    }
    gateway.signal("TERM");
    until_draining(&gateway).await;
    let answer = client::exchange(gateway.address, &Message::call(2, "echo").bytes()).await;
    assert_eq!(answer.status, 200, "new connections are accepted for a while");
    let mut client = clients.remove(0);
    client.send(&Message::call(3, "echo").bytes()).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert!(client.is_closed().await);
    // The other one never asks again: it is closed, and then the process ends.
    assert!(clients.remove(0).is_closed().await);
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn streams_end_whole_and_say_when_to_come_back() {
    let upstream = Upstream::mcp("one").await;
    let mut gateway = Gateway::start(&upstream.sections()).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&Message::stream(&session(&gateway).await).bytes()).await;
    client.body_after_head("data: {}\n\n").await;
    gateway.signal("TERM");
    client.body_with("retry: ").await;
    while client.part().await.is_some() {}
    assert!(client.body_is_whole(), "the stream was cut");
    assert_eq!(gateway.ended().await, Some(0));
    assert!(!gateway.diagnostics().contains("grace period is over"));
}

#[tokio::test]
async fn the_grace_period_is_the_longest_a_stream_can_hold_the_process() {
    let upstream = Upstream::start(endless).await;
    let sections = format!("{}runtime: {{ grace: 2s }}\n", upstream.sections());
    let mut gateway = Gateway::start(&sections).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&Message::legacy_call(1, "echo", &session(&gateway).await).bytes()).await;
    client.body_after_head("progress").await;
    gateway.signal("TERM");
    until("still accepting", async || {
        tokio::net::TcpStream::connect(gateway.address).await.is_err()
    })
    .await;
    assert_eq!(gateway.ended().await, Some(0));
    assert!(gateway.diagnostics().contains("grace period is over"), "{}", gateway.diagnostics());
}

#[tokio::test]
async fn an_interrupt_does_not_wait() {
    let upstream = Upstream::start(endless).await;
    let mut gateway = Gateway::start(&upstream.sections()).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&Message::call(1, "echo").bytes()).await;
    client.body_after_head("progress").await;
    let began = Instant::now();
    gateway.signal("TERM");
    until_draining(&gateway).await;
    gateway.signal("INT");
    assert_eq!(gateway.ended().await, Some(0));
    assert!(began.elapsed() < SOON);
}

async fn session(gateway: &Gateway) -> String {
    client::exchange(gateway.address, &Message::initialize().bytes()).await.session()
}

/// Clients that call one after the other for as long as they may; each failure is counted.
#[derive(Default)]
struct Callers {
    calls: AtomicUsize,
    failures: AtomicUsize,
    enough: AtomicBool,
}

impl Callers {
    async fn over_http1(&self, address: SocketAddr) {
        let mut client = Client::connect(address).await;
        while !self.enough.load(Ordering::Relaxed) {
            client.send(&Message::call(1, "echo").bytes()).await;
            let answer = client.try_answer().await;
            let close = answer.as_ref().and_then(|answer| answer.field("connection"));
            let close = close != Some("keep-alive");
            self.count(answer.is_some_and(|answer| answer.status == 200));
            if close {
                client = Client::connect(address).await;
            }
        }
    }

    async fn over_http2(&self, address: SocketAddr) {
        let mut client = Http2::connect(address).await;
        while !self.enough.load(Ordering::Relaxed) {
            match client.ask(&Message::call(1, "echo")).await {
                // Was told to go before it asked: such a request was not looked at.
                Err(error) if error.is_go_away() => client = Http2::connect(address).await,
                answer => self.count(answer.is_ok_and(|answer| answer.status == 200)),
            }
            if !client.is_open().await {
                client = Http2::connect(address).await;
            }
        }
    }

    fn count(&self, is_good: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !is_good {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for some more calls.
    async fn go_on(&self) {
        let wanted = self.calls.load(Ordering::Relaxed) + 50;
        until("calls", async || self.calls.load(Ordering::Relaxed) >= wanted).await;
    }
}

fn serving(gateway: &Gateway) -> Option<u32> {
    fs::read_to_string(gateway.state().join("toolgate.pid")).ok()?.trim().parse().ok()
}

async fn until_waiting(gateway: &Gateway) {
    let socket = gateway.state().join("upgrade/socket");
    until("no successor", async || socket.exists()).await;
    let mode =
        fs::metadata(gateway.state().join("upgrade")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn an_upgrade_loses_no_call() {
    let Stage { mut gateway, upstream: _upstream } = Stage::mcp().await;
    let (address, health) = (gateway.address, gateway.health);
    let callers = Arc::new(Callers::default());
    let mut tasks = JoinSet::new();
    for number in 0..6 {
        let callers = Arc::clone(&callers);
        tasks.spawn(async move {
            match number {
                0..4 => callers.over_http1(address).await,
                _ => callers.over_http2(address).await,
            }
        });
    }
    let probing = Arc::clone(&callers);
    tasks.spawn(async move {
        while !probing.enough.load(Ordering::Relaxed) {
            probing.count(client::exchange(health, &client::get("/ready")).await.status == 200);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    callers.go_on().await;
    let successor = gateway.successor(&gateway.config());
    until_waiting(&gateway).await;
    callers.go_on().await;
    gateway.signal("QUIT");
    assert_eq!(gateway.ended().await, Some(0));
    assert_eq!(serving(&gateway), Some(successor.id()));
    callers.go_on().await;
    callers.enough.store(true, Ordering::Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.expect("a client");
    }
    assert_eq!(callers.failures.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn without_a_good_successor_the_process_goes_on() {
    let stage = Stage::mcp().await;
    let Stage { gateway, .. } = &stage;
    gateway.signal("QUIT");
    until("no complaint", async || gateway.diagnostics().contains("no successor waits")).await;
    assert_eq!(stage.ask(&Message::call(1, "echo")).await.status, 200);

    let mut broken = gateway.successor("listen: nonsense\n");
    assert_eq!(broken.ended().await, Some(78));

    // An address that somebody else has shows when the sockets are here already.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let admin = format!("admin: {{ listen: {} }}\n", taken.local_addr().expect("an address"));
    let mut late = gateway.successor(&(gateway.config() + &admin));
    until_waiting(gateway).await;
    gateway.signal("QUIT");
    assert_eq!(late.ended().await, Some(1));
    assert!(late.diagnostics().contains("cannot listen"), "{}", late.diagnostics());
    until("no complaint", async || gateway.diagnostics().contains("does not serve")).await;
    assert_eq!(gateway.probe("/ready").await.status, 200);
    assert_eq!(stage.ask(&Message::call(1, "echo")).await.status, 200);
}

/// The state of each endpoint by its URL, and whether its lease has time left.
async fn states(operator: &Operator) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |endpoint: Value| {
        let lease = endpoint["lease_seconds_left"].as_u64();
        (text(&endpoint["url"]), text(&endpoint["state"]), lease.is_some_and(|left| left > 0))
    };
    operator.endpoints("one").await.into_iter().map(of).collect()
}

#[tokio::test]
async fn leases_drains_and_late_registrations_go_over() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let admin = free_address();
    let sections = sections(&[one.url()], "");
    let mut gateway = Gateway::start(&format!("{sections}{}", operator::section(admin))).await;
    let operator = Operator::new(admin);
    until("no admin", async || client::try_exchange(admin, &client::get("/live")).await.is_some())
        .await;
    let own = operator.endpoints("one").await[0]["id"].as_str().expect("an id").to_owned();
    let drain = format!("/v1/servers/one/endpoints/{own}/drain");
    let lease = json!({ "url": two.url(), "weight": 2, "lease": "20m" });
    let leased = operator.ask("PUT", "/v1/servers/one/endpoints/two", &lease).await;
    assert_eq!(leased.status, 201, "{}", leased.text());
    let drained = operator.ask("POST", &drain, &json!({ "deadline": "20m" })).await;
    assert_eq!(drained.status, 200, "{}", drained.text());
    let before = states(&operator).await;
    let successor = gateway.successor(&gateway.config());
    until_waiting(&gateway).await;
    // The successor has read its configuration: this one it must read again.
    let late = json!({ "endpoints": [two.url()], "routes": [{ "path": "/late" }] });
    let registered = operator.ask("PUT", "/v1/servers/late", &late).await;
    assert_eq!(registered.status, 201, "{}", registered.text());
    gateway.signal("QUIT");
    assert_eq!(gateway.ended().await, Some(0));
    assert_eq!(serving(&gateway), Some(successor.id()));
    assert_eq!(states(&operator).await, before);
    assert_eq!((before[0].1.as_str(), before[1].2), ("draining", true));
    assert_eq!(operator.endpoints("one").await[1]["weight"], 2);
    assert!(!gateway.state().join("handover.json").exists());
    let call = Message::call(1, "echo").at("/late").bytes();
    let answer = client::exchange(gateway.address, &call).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], "two", "{}", answer.text());
    let undrain = drain.replace("/drain", "/undrain");
    assert_eq!(operator.ask("POST", &undrain, &json!({})).await.status, 200, "it may change again");
}

/// Lets a process stand still, or go on.
fn signal(successor: &Successor, name: &str) {
    let id = successor.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().expect("kill").success());
}

#[tokio::test]
async fn nothing_changes_while_a_successor_takes_its_time() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let admin = free_address();
    let sections = sections(&[one.url()], "");
    let mut gateway = Gateway::start(&format!("{sections}{}", operator::section(admin))).await;
    let operator = Operator::new(admin);
    until("no admin", async || client::try_exchange(admin, &client::get("/live")).await.is_some())
        .await;
    let path = "/v1/servers/one/endpoints/two";
    let lease = json!({ "url": two.url(), "lease": "1s" });
    let mut successor = gateway.successor(&gateway.config());
    until_waiting(&gateway).await;
    assert_eq!(operator.ask("PUT", path, &lease).await.status, 201);
    signal(&successor, "STOP");
    gateway.signal("QUIT");
    until("it never began", async || operator.ask("PUT", path, &lease).await.status == 503).await;
    for (verb, path, body) in [
        ("PUT", path, &lease),
        ("DELETE", path, &Value::Null),
        ("POST", "/v1/servers/one/endpoints/two/drain", &json!({})),
        ("PUT", "/v1/servers/new", &json!({ "endpoints": [] })),
        ("POST", "/v1/reload", &json!({})),
    ] {
        let answer = operator.ask(verb, path, body).await;
        assert_eq!(answer.status, 503, "{verb} {path}: {}", answer.text());
        assert_eq!(answer.field("retry-after"), Some("1"));
        assert!(answer.text().contains("taking over"), "{}", answer.text());
    }
    let written = gateway.state().join("handover.json");
    let mode = fs::metadata(&written).expect("it was written first").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Longer than the lease: nobody can renew it now.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(states(&operator).await.len(), 2, "reads go on, and the lease does too");
    signal(&successor, "KILL");
    successor.ended().await;
    until("never again", async || operator.ask("PUT", path, &lease).await.status == 200).await;
    assert!(!written.exists());
    assert!(gateway.diagnostics().contains("no handover"), "{}", gateway.diagnostics());
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await, Some(0));
}

#[tokio::test]
async fn connections_are_told_to_close_when_they_are_old() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = Upstream::start({
        let gate = Arc::clone(&gate);
        move |request: &Request| match request.method().as_str() {
            "tools/call" => {
                let answer = result(&request.json()["id"], "done").to_string();
                let progress = event(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#);
                let wait = Step::Wait(Arc::clone(&gate));
                vec![events_head(""), progress, wait, event(&answer), events_end()]
            }
            _ => mcp("one", request),
        }
    });
    let upstream = upstream.await;
    let sections = format!("{}runtime: {{ connection_age_max: 1s }}\n", upstream.sections());
    let gateway = Gateway::start(&sections).await;
    let mut client = Client::connect(gateway.address).await;
    let list = Message::modern(1, "tools/list", serde_json::json!({}));
    let mut answers = 0;
    until("never told to close", async || {
        client.send(&list.bytes()).await;
        answers += 1;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        answer.field("connection") == Some("close")
    })
    .await;
    assert!(client.is_closed().await);
    assert!(answers > 1, "a young connection is kept");

    let mut http2 = Http2::connect(gateway.address).await;
    let mut stream = http2.begin(&Message::call(2, "echo")).await.expect("a stream");
    assert!(http2.is_open().await);
    until("no GOAWAY", async || !http2.is_open().await).await;
    gate.add_permits(1);
    let mut body = Vec::new();
    while let Some(part) = stream.part().await.expect("a stream that ends well") {
        body.extend_from_slice(&part);
    }
    assert!(String::from_utf8_lossy(&body).contains("done"));
}

/// What the service manager hears next.
fn heard(manager: &UnixDatagram) -> String {
    let mut message = [0; 200];
    let length = manager.recv(&mut message).expect("a message");
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[tokio::test]
async fn the_script_upgrades_and_the_service_manager_is_told() {
    let Stage { mut gateway, upstream: _upstream } = Stage::mcp().await;
    until("no id", async || serving(&gateway).is_some()).await;
    let socket = gateway.state().join("manager");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(SOON)).expect("a timeout");
    let config = gateway.state().join("next.yaml");
    fs::write(&config, gateway.config()).expect("a file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/systemd/toolgate-upgrade");
    let mut upgrade = Command::new(script)
        .arg(&config)
        .arg(gateway.state())
        .env("TOOLGATE", env!("CARGO_BIN_EXE_toolgate"))
        .env("NOTIFY_SOCKET", &socket)
        .stdin(Stdio::null())
        .stdout(fs::File::create(gateway.state().join("script.out")).expect("a file"))
        .stderr(fs::File::create(gateway.state().join("script.err")).expect("a file"))
        .spawn()
        .expect("the script");
    assert_eq!(gateway.ended().await, Some(0));
    assert!(upgrade.wait().expect("the script").success());
    let successor = serving(&gateway).expect("a successor");
    assert_eq!(heard(&manager), format!("MAINPID={successor}\nREADY=1"));
    let call = Message::call(1, "echo");
    assert_eq!(client::exchange(gateway.address, &call.bytes()).await.status, 200);
    let report = fs::read_to_string(gateway.state().join("script.out")).expect("a report");
    assert!(report.contains(&format!("process {successor} serves")), "{report}");
    let stopped = Command::new("kill").arg(successor.to_string()).status().expect("kill");
    assert!(stopped.success());
    assert_eq!(heard(&manager), "STOPPING=1");
    until("did not end", async || serving(&gateway).is_none()).await;
}
