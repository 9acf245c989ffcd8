//! The record: what a gateway writes of what happens, what `verify` finds in files, and what `tail` shows.

mod ending;
mod files;

use crate::support::client::{self, Answer, Client};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::{
    Request, Step, Upstream, event, events_head, initialized, json_answer, mcp, plain, sections,
};
use files::verify;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Longer than anything here takes.
const SOON: Duration = Duration::from_secs(15);

/// A gateway in front of one server, and the file of its record, which outlives it.
struct Recorded {
    gateway: Gateway,
    upstream: Upstream,
    folder: Folder,
}

/// A server with tools that go wrong in every way.
fn moody(request: &Request) -> Vec<Step> {
    let message = request.json();
    let progress = || event(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#);
    let never = || Step::Wait(Arc::new(Semaphore::new(0)));
    match message["params"]["name"].as_str() {
        Some("fails") => {
            let result = json!({ "content": [], "isError": true });
            json_answer(
                200,
                "",
                &json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }),
            )
        }
        Some("sick") => vec![plain(500, "", b"")],
        Some("cut") => vec![events_head(""), progress(), Step::Close],
        Some("endless") => vec![events_head(""), progress(), never()],
        _ => mcp("one", request),
    }
}

/// The section of a record in this file.
fn audit_section(file: &Path, more: &str) -> String {
    format!("audit: {{ sinks: [{{ file: {} }}]{more} }}\n", file.display())
}

impl Recorded {
    async fn start(audit: &str, more: &str) -> Self {
        Self::start_in(Folder::new(), audit, more).await
    }

    async fn start_in(folder: Folder, audit: &str, more: &str) -> Self {
        let upstream = Upstream::start(moody).await;
        let audit = audit_section(&folder.path().join("audit.jsonl"), audit);
        let gateway = Gateway::start(&format!("{}{audit}{more}", upstream.sections())).await;
        Self { gateway, upstream, folder }
    }

    async fn ask(&self, message: &Message) -> Answer {
        client::exchange(self.gateway.address, &message.bytes()).await
    }

    /// Every file of the record, older ones first.
    fn files(&self) -> Vec<String> {
        let found = fs::read_dir(self.folder.path()).expect("the folder");
        let found = found.map(|entry| entry.expect("an entry").path().display().to_string());
        let mut found: Vec<String> = found.filter(|path| path.contains("/audit.jsonl")).collect();
        // The current one has no time in its name.
        found.sort_by_key(|path| (path.ends_with(".jsonl"), path.clone()));
        found
    }

    fn text(&self) -> String {
        let read = |path: &String| fs::read_to_string(path).expect("the record");
        self.files().iter().map(read).collect()
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        // Half a line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Waits until `count` lines are as wanted.
    async fn wait(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let found: Vec<Value> = self.lines().into_iter().filter(|line| wanted(line)).collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "{found:#?}");
                return found;
            }
            assert!(began.elapsed() < SOON, "{count} wanted, {}:\n{}", found.len(), self.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn event(&self, name: &str) -> Value {
        self.wait(1, |line| line["event"] == name).await.remove(0)
    }

    /// The one line of the request that got this answer.
    async fn line_of(&self, answer: &Answer) -> Value {
        let id = answer.field("x-request-id").expect("an id").to_owned();
        self.wait(1, |line| line["gateway.request.id"] == *id).await.remove(0)
    }

    fn verify(&self) -> String {
        let files = self.files();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let (code, told) = verify(&files);
        assert_eq!(code, Some(0), "{told}");
        told
    }
}

/// A line says all of this; where `null` is expected it says nothing.
fn says(line: &Value, expected: &Value, what: &str) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&line[key], value, "{what}: {key} in {line:#}");
    }
}

fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two callers, of whom one may do everything that nobody is forbidden.
fn callers() -> String {
    format!(
        "identity: {{ anonymous: deny, api_keys: [{{ caller: ann, tenant: acme, scopes: [all], sha256: {} }}, {{ caller: bob, sha256: {} }}] }}
policy:
  rules:
    - {{ name: all, allow: {{ callers: ['scope:all'] }} }}
    - {{ name: pings, allow: {{ callers: [bob], methods: [ping] }} }}
    - {{ name: never, deny: {{ tools: [forbidden] }} }}
    - {{ name: soon, mode: shadow, deny: {{ tools: [fails] }} }}
",
        sha256("ann"),
        sha256("bob")
    )
}

fn by(caller: &str, message: Message) -> Message {
    message.field("authorization", &format!("Bearer {caller}")).field("user-agent", "suite/1")
}

/// What one sends, and what its line says.
type Row = (&'static str, Message, Value);

/// Calls of ann's, which are let in.
fn let_in() -> Vec<Row> {
    let file = json!({ "uri": "file:///a" });
    let greet = json!({ "name": "greet" });
    let good = json!({
        "event": "call", "mcp.method.name": "tools/call", "gen_ai.tool.name": "echo",
        "jsonrpc.request.id": "1", "result": "ok", "error.type": null, "reason": null,
        "arguments.bytes": 2, "arguments.sha256": sha256("{}"),
        "http.response.status_code": 200, "shadow.rule": null, "credential": null,
    });
    let failed = json!({
        "event": "call", "result": "tool_error", "error.type": "tool_error", "reason": null,
        "shadow.decision": "deny", "shadow.rule": "soon",
    });
    let unknown = json!({
        "event": "call", "result": "jsonrpc_error", "error.type": "jsonrpc_error",
        "rpc.response.status_code": -32602, "http.response.status_code": 200,
    });
    let sick = json!({ "event": "call", "result": "http_error", "http.response.status_code": 500 });
    let read = json!({ "event": "resource_read", "mcp.resource.uri": "file:///a", "result": "ok" });
    let greeted = json!({ "event": "prompt_get", "gen_ai.prompt.name": "greet", "result": "ok" });
    let listed = json!({ "event": "list", "mcp.method.name": "tools/list", "result": "ok" });
    vec![
        ("ann", Message::call(1, "echo"), good),
        ("ann", Message::call(2, "fails"), failed),
        ("ann", Message::call(3, "unknown"), unknown),
        ("ann", Message::call(4, "sick"), sick),
        ("ann", Message::modern(5, "resources/read", file), read),
        ("ann", Message::modern(6, "prompts/get", greet), greeted),
        ("ann", Message::modern(7, "tools/list", json!({})), listed),
    ]
}

/// Calls that are refused.
fn refused() -> Vec<Row> {
    let hidden = json!({
        "reason": "policy_hidden", "policy.reason": "rule", "rule": "never", "caller.id": "ann",
        "error.type": "policy_hidden", "gen_ai.tool.name": "forbidden",
    });
    let scope = json!({
        "reason": "scope_missing", "policy.reason": "rule", "rule": "all", "caller.id": "bob",
        "http.response.status_code": 403,
    });
    let nobody = json!({
        "reason": "unauthenticated", "policy.reason": null, "rule": null, "caller.id": null,
        "http.response.status_code": 401,
    });
    let nowhere = json!({
        "reason": "route_unknown", "http.route": "/nowhere", "http.response.status_code": 404,
    });
    vec![
        ("ann", Message::call(8, "forbidden"), hidden),
        ("bob", Message::call(9, "echo"), scope),
        ("eve", Message::call(10, "echo"), nobody),
        ("ann", Message::call(11, "echo").at("/nowhere"), nowhere),
    ]
}

#[tokio::test]
async fn every_call_and_every_refusal_is_one_line() {
    let it = Recorded::start("", &callers()).await;
    let of_ann = json!({
        "caller.id": "ann", "caller.tenant": "acme", "caller.method": "api_key",
        "client.address": "127.0.0.1", "user_agent.original": "suite/1", "http.route": "/mcp",
        "gateway.server": "one", "mcp.protocol.version": "2026-07-28", "decision": "allow",
        "policy.reason": "rule", "rule": "all", "gateway.endpoint": it.upstream.url(),
    });
    let no = json!({
        "event": "refusal", "decision": "deny", "result": "refused", "gateway.endpoint": null,
    });
    let (let_in, refused) = (let_in(), refused());
    let count = let_in.len() + refused.len();
    let let_in = let_in.into_iter().map(|row| (row, &of_ann));
    let refused = refused.into_iter().map(|row| (row, &no));
    for ((caller, message, expected), all) in let_in.chain(refused) {
        let what = String::from_utf8_lossy(&message.body).into_owned();
        let line = it.line_of(&it.ask(&by(caller, message)).await).await;
        says(&line, &expected, &what);
        says(&line, all, &what);
        assert!(line["duration_us"].as_u64() >= line["overhead_us"].as_u64(), "{line:#}");
        if line["decision"] == "allow" {
            assert!(line["http.request.body.size"].as_u64() > Some(50), "{line:#}");
        }
    }
    // Nothing else was said.
    assert_eq!(it.lines().len(), count + 1);
    assert!(it.verify().contains("not closed"));
}

#[tokio::test]
async fn a_limit_and_a_credential_are_named() {
    let secret = "canary-of-the-server";
    let upstream = Upstream::mcp("one").await;
    let folder = Folder::new();
    let server = format!(", credentials: {{ value: {secret} }}");
    let sections = sections(&[upstream.url()], &server);
    let audit = audit_section(&folder.path().join("audit.jsonl"), "");
    let limits = "limits: [{ name: few, rate: 1/h }]\n";
    let gateway = Gateway::start(&format!("{sections}{audit}{limits}")).await;
    let it = Recorded { gateway, upstream, folder };
    let first = it.line_of(&it.ask(&Message::call(1, "echo")).await).await;
    says(&first, &json!({ "result": "ok", "credential": "value", "limit": null }), "let in");
    let answer = it.ask(&Message::call(2, "echo")).await;
    assert_eq!(answer.status, 429);
    let refused = json!({
        "event": "refusal", "decision": "deny", "reason": "rate_limited", "limit": "few",
        "credential": null, "http.response.status_code": 429, "policy.reason": null,
    });
    says(&it.line_of(&answer).await, &refused, "limited");
    assert!(!it.text().contains(secret));
}

#[tokio::test]
async fn an_address_that_floods_is_recorded() {
    let upstream = Upstream::mcp("one").await;
    let folder = Folder::new();
    let audit = audit_section(&folder.path().join("audit.jsonl"), "");
    let address = free_address();
    let listener =
        format!("listeners: [{{ address: {address}, limits: {{ requests_per_address: 1/h }} }}]\n");
    let yaml = format!("{listener}{}{audit}", upstream.sections());
    let gateway = Gateway::start_at(&yaml, address).await;
    let it = Recorded { gateway, upstream, folder };
    assert_eq!(it.ask(&Message::call(1, "echo")).await.status, 200);
    let answer = it.ask(&Message::call(2, "echo")).await;
    assert_eq!(answer.status, 429, "{}", answer.text());
    let refused = json!({
        "event": "refusal", "decision": "deny", "reason": "address_limited", "result": "refused",
        "http.response.status_code": 429, "client.address": "127.0.0.1",
    });
    says(&it.line_of(&answer).await, &refused, "address");
}

#[tokio::test]
async fn a_session_is_recorded_from_its_start_to_its_end() {
    let (a, b) = (Upstream::mcp("a").await, Upstream::mcp("b").await);
    let folder = Folder::new();
    let audit = audit_section(&folder.path().join("audit.jsonl"), "");
    let gateway = Gateway::start(&(sections(&[a.url(), b.url()], "") + &audit)).await;
    let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
    let session = opened.session();
    let (home, other) = if a.take().is_empty() { (b, a) } else { (a, b) };
    let home_url = home.url();
    drop(home);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let it = Recorded { gateway, upstream: other, folder };
    let start = it.line_of(&opened).await;
    let expected = json!({
        "event": "session_start", "mcp.method.name": "initialize", "gateway.endpoint": home_url,
        "result": "ok", "decision": "allow",
    });
    says(&start, &expected, "start");
    let id = start["mcp.session.id"].clone();
    assert!(id.as_str().is_some_and(|id| id.len() == 8), "{start:#}");

    let called = it.ask(&Message::legacy_call(7, "echo", &session)).await;
    assert_eq!(called.status, 200, "{}", called.text());
    let moved = it.event("session_move").await;
    let there = it.upstream.url();
    let why = json!({ "session.moved": "unreachable", "mcp.session.id": id });
    says(&moved, &why, "move");
    says(&moved, &json!({ "gateway.endpoint": there, "gateway.server": "one" }), "move");
    let call = it.wait(1, |line| line["event"] == "call").await.remove(0);
    says(&call, &why, "call");
    says(&call, &json!({ "gateway.endpoint": there, "result": "ok" }), "call");
    assert_eq!(call["gateway.request.id"], moved["gateway.request.id"]);

    let ended = it.ask(&Message::end(&session)).await;
    let end = json!({ "event": "session_end", "mcp.session.id": id, "mcp.method.name": "DELETE" });
    says(&it.line_of(&ended).await, &end, "end");
    assert!(!it.text().contains(&session), "the id itself");
}

/// A server of an older revision than its clients ask for.
async fn elder() -> Upstream {
    Upstream::start(|request| {
        let mut answer = initialized(&request.json()["id"]);
        answer["result"]["protocolVersion"] = json!("2025-06-18");
        match request.method().as_str() {
            "initialize" => json_answer(200, "mcp-session-id: elder-session\r\n", &answer),
            _ => mcp("elder", request),
        }
    })
    .await
}

#[tokio::test]
async fn sessions_that_the_gateway_ends_are_recorded_as_what_they_were() {
    let (a, b) = (elder().await, elder().await);
    let (folder, admin) = (Folder::new(), free_address());
    let audit = audit_section(&folder.path().join("audit.jsonl"), "");
    let more = format!("{}sessions: {{ idle: 6s }}\n", operator::section(admin));
    let gateway = Gateway::start(&(sections(&[a.url(), b.url()], "") + &audit + &more)).await;
    let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
    let session = opened.session();
    let (home, other) = if a.take().is_empty() { (b, a) } else { (a, b) };
    let it = Recorded { gateway, upstream: other, folder };
    let start = it.line_of(&opened).await;
    let revision = json!({ "mcp.protocol.version": "2025-06-18" });
    says(&start, &revision, "what was agreed, and not what was asked for");
    let id = json!({ "mcp.session.id": start["mcp.session.id"] });

    // It moves away from an endpoint that is drained, which then need not keep it.
    let operator = Operator::new(admin);
    let endpoints = operator.endpoints("one").await;
    let home_url = home.url();
    let drained = endpoints.iter().find(|endpoint| endpoint["url"] == json!(home_url));
    let name = drained.and_then(|endpoint| endpoint["id"].as_str()).expect("the endpoint");
    let path = format!("/v1/servers/one/endpoints/{name}/drain");
    assert_eq!(operator.ask("POST", &path, &json!({ "deadline": "1s" })).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let call = Message::legacy_call(7, "echo", &session);
    let call = call.field("mcp-protocol-version", "2025-06-18");
    assert_eq!(it.ask(&call).await.status, 200);
    let ended_at = |url: String| {
        move |line: &Value| line["event"] == "session_end" && line["gateway.endpoint"] == json!(url)
    };
    let end = it.wait(1, ended_at(home_url)).await.remove(0);
    says(&end, &id, "left behind");
    says(&end, &revision, "left behind");
    says(&end, &json!({ "caller.id": "anonymous", "gateway.server": "one" }), "left behind");

    // And then nobody uses it.
    let end = it.wait(1, ended_at(it.upstream.url())).await.remove(0);
    says(&end, &id, "abandoned");
    says(&end, &revision, "abandoned");
    assert_eq!(end["caller.id"], Value::Null, "the record of the start says who it was");
}

#[tokio::test]
async fn streams_are_recorded_when_they_end() {
    let it = Recorded::start("", "").await;
    let mut client = Client::connect(it.gateway.address).await;
    client.send(&Message::call(1, "cut").bytes()).await;
    let cut = client.head().await;
    while client.part().await.is_some() {}
    let expected = json!({ "event": "call", "result": "failed", "decision": "allow" });
    says(&it.line_of(&cut).await, &expected, "the server cut it");

    let mut client = Client::connect(it.gateway.address).await;
    client.send(&Message::call(2, "endless").bytes()).await;
    let head = client.head().await;
    client.body_with("progress").await;
    drop(client);
    let line = it.line_of(&head).await;
    says(&line, &json!({ "event": "call", "result": "cancelled" }), "the client left");
    assert!(line["http.response.body.size"].as_u64() > Some(10), "{line:#}");
}

#[tokio::test]
async fn what_operators_change_is_recorded() {
    let admin = free_address();
    let it = Recorded::start("", &operator::section(admin)).await;
    let operator = Operator::new(admin);
    let path = "/v1/servers/one/endpoints/two";
    let lease = json!({ "url": "http://127.0.0.1:1/mcp", "lease": "20m" });
    assert_eq!(operator.with("register:one").ask("PUT", path, &lease).await.status, 201);
    let line = it.event("registration").await;
    says(&line, &json!({ "subject": "one/two", "client.address": "127.0.0.1" }), "register");
    let outcome = line["outcome"].as_str().unwrap_or_default();
    assert!(outcome.starts_with("register by register:one: "), "{outcome}");

    let brief = json!({ "url": "http://127.0.0.1:2/mcp", "lease": "1s" });
    let of_three = path.replace("two", "three");
    assert_eq!(operator.ask("PUT", &of_three, &brief).await.status, 201);
    let expired = |line: &Value| line["outcome"] == "deregistered: its lease has ended";
    let line = it.wait(1, expired).await.remove(0);
    says(&line, &json!({ "event": "registration", "subject": "one/three" }), "the lease");

    let drain = operator.ask("POST", &format!("{path}/drain"), &json!({ "deadline": "20m" })).await;
    assert_eq!(drain.status, 200, "{}", drain.text());
    let line = it.event("drain").await;
    let outcome = line["outcome"].as_str().unwrap_or_default();
    assert!(outcome.starts_with("drain by operate: "), "{outcome}");

    let config = it.gateway.folder().join("toolgate.yaml");
    fs::write(&config, it.gateway.config() + "limits: [{ name: few, rate: 9/s }]\n")
        .expect("written");
    it.gateway.signal("HUP");
    let line = it.event("reload").await;
    says(&line, &json!({ "subject": "configuration" }), "reload");
    let outcome = line["outcome"].as_str().unwrap_or_default();
    assert!(outcome.starts_with("installed ("), "{outcome}");

    assert_eq!(operator.ask("POST", "/v1/reload", &json!({})).await.status, 200);
    says(&it.event("admin_change").await, &json!({ "subject": "configuration" }), "by the API");
    assert!(it.verify().contains("not closed"));
}
