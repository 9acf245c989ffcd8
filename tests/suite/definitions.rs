//! Definitions that servers change: recorded, withheld, refused, approved, and remembered over restarts.

use crate::support::client::exchange;
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::{Request, Step, Upstream, json_answer, sections};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) const CATALOG: &str = "catalog: { listing: on, refresh: 100ms }\n";

/// A server whose tool says something else with each step of the counter.
pub(crate) struct Changing {
    upstream: Upstream,
    step: Arc<AtomicUsize>,
}

impl Changing {
    pub(crate) async fn start() -> Self {
        let step = Arc::new(AtomicUsize::new(0));
        let now = Arc::clone(&step);
        let upstream =
            Upstream::start(move |request| answer(request, now.load(Ordering::Relaxed))).await;
        Self { upstream, step }
    }

    pub(crate) fn sections(&self, on_change: &str) -> String {
        let server = format!(", definitions: {{ on_change: {on_change} }}");
        sections(&[self.upstream.url()], &server)
    }

    pub(crate) fn change(&self) {
        self.step.fetch_add(1, Ordering::Relaxed);
    }
}

fn answer(request: &Request, step: usize) -> Vec<Step> {
    let result = match request.method().as_str() {
        "server/discover" => json!({
            "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} }, "resultType": "complete",
        }),
        "tools/list" => {
            let send = json!({ "name": "send", "description": format!("Sends, {step}."), "inputSchema": { "type": "object" } });
            let read = json!({ "inputSchema": { "type": "object" }, "name": "read" });
            json!({ "tools": [send, read], "resultType": "complete" })
        }
        _ => json!({ "resultType": "complete" }),
    };
    json_answer(200, "", &json!({ "jsonrpc": "2.0", "id": request.json()["id"], "result": result }))
}

/// What the admin API says of the server, once it is as wanted.
async fn server_with(operator: &Operator, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let server = operator.server("one").await;
        if wanted(&server) {
            return server;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{server:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn state(server: &Value, tool: &str) -> String {
    let tools = server["tools"].as_array().expect("a list");
    let found = tools.iter().find(|found| found["name"] == tool);
    found.and_then(|found| found["state"].as_str()).unwrap_or("hidden").to_owned()
}

async fn start(changing: &Changing, on_change: &str, admin: SocketAddr, more: &str) -> Gateway {
    let operator = operator::section(admin);
    let sections = changing.sections(on_change);
    Gateway::start(&format!("{CATALOG}{operator}{more}{sections}")).await
}

fn change_metric(change: &str) -> String {
    format!(r#"toolgate_definitions_changes_total{{change="{change}",server="one"}} 1"#)
}

#[tokio::test]
async fn a_change_is_recorded_and_shown() {
    let changing = Changing::start().await;
    let folder = Folder::new();
    let record = folder.path().join("audit.jsonl");
    let audit = format!("audit: {{ sinks: [{{ file: {} }}] }}\n", record.display());
    let admin = free_address();
    let gateway = start(&changing, "record", admin, &audit).await;
    let operator = Operator::new(admin);
    let before = operator.server("one").await;
    assert_eq!(state(&before, "send"), "pinned");
    assert_eq!((&before["era"], &before["revisions"]), (&json!("modern"), &json!(["2026-07-28"])));
    changing.change();
    let after = server_with(&operator, |server| state(server, "send") == "changed").await;
    let send = &after["tools"][0];
    assert_eq!(send["difference"], json!([r#"description: "Sends, 0." -> "Sends, 1.""#]));
    assert_ne!(send["digest"], before["tools"][0]["digest"]);
    assert_eq!((state(&after, "read"), &after["pending"]), ("pinned".to_owned(), &json!([])));
    gateway.metrics_with(&change_metric("changed")).await;
    assert!(gateway.diagnostics().contains("a server changed a definition"));
    let line = recorded(&record, "definition_change").await;
    assert_eq!(
        (&line["gateway.server"], &line["gen_ai.tool.name"]),
        (&json!("one"), &json!("send"))
    );
    assert!(
        line["outcome"].as_str().expect("text").starts_with("changed: description: "),
        "{line}"
    );
}

/// The configuration as a gateway is started with it.
fn without_health(gateway: &Gateway) -> String {
    let whole = gateway.config();
    let lines = whole.lines().filter(|line| !line.starts_with("health:"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The first line of the record about this event.
async fn recorded(file: &Path, event: &str) -> Value {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(line) = lines.into_iter().find(|line| line["event"] == event) {
            return line;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no {event} in {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_change_waits_for_an_operator() {
    for (on_change, shown) in [("withhold", "withheld"), ("refuse", "hidden")] {
        let changing = Changing::start().await;
        let admin = free_address();
        let gateway = start(&changing, on_change, admin, "").await;
        let operator = Operator::new(admin);
        let old = operator.server("one").await["tools"][0]["digest"].clone();
        changing.change();
        let waits = |server: &Value| server["pending"].as_array().is_some_and(|all| all.len() == 1);
        let held = |server: &Value| waits(server) && state(server, "send") == shown;
        let server = server_with(&operator, held).await;
        let pending = &server["pending"][0];
        assert_eq!((&pending["tool"], &pending["shown_digest"]), (&json!("send"), &old));
        assert_eq!(pending["difference"], json!([r#"description: "Sends, 0." -> "Sends, 1.""#]));
        gateway.metrics_with(r#"toolgate_definitions_pending{server="one"} 1"#).await;

        let path = "/v1/servers/one/definitions/send/approve";
        let refused = |token| {
            let operator = operator.with(token);
            async move { operator.ask("POST", path, &json!({})).await.status }
        };
        assert_eq!(
            refused("register:one").await,
            403,
            "who registers it may not say that it is good"
        );
        let rows = [
            ("/v1/servers/two/definitions/send/approve", json!({}), 404),
            ("/v1/servers/one/definitions/read/approve", json!({}), 404),
            (path, json!({ "digest": "00" }), 409),
            (path, json!({ "sum": 1 }), 400),
        ];
        for (path, body, status) in rows {
            assert_eq!(operator.ask("POST", path, &body).await.status, status, "{path} {body}");
        }
        assert_eq!(operator.ask("GET", path, &Value::Null).await.status, 405);
        let rehearsed = operator.ask("POST", &format!("{path}?dry_run=true"), &json!({})).await;
        assert_eq!(rehearsed.status, 200);
        assert!(waits(&operator.server("one").await), "nothing has changed");
        let body = json!({ "digest": pending["digest"] });
        let approved = operator.ask("POST", path, &body).await;
        assert_eq!((approved.status, &approved.json()["pending"]), (200, &json!([])));
        let server = server_with(&operator, |server| state(server, "send") == "changed").await;
        assert_eq!(server["tools"][0]["digest"], pending["digest"]);
        gateway.metrics_with(&change_metric("approved")).await;

        // All at once.
        changing.change();
        server_with(&operator, waits).await;
        let all = operator.ask("POST", "/v1/servers/one/definitions/approve", &json!({})).await;
        assert_eq!(all.status, 200, "{}", all.text());
        server_with(&operator, |server| state(server, "send") == "changed").await;
    }
}

/// What a client is shown of `send`, and the status and code of a call of it.
async fn met(gateway: &Gateway) -> (Option<String>, u16, i64) {
    let list = Message::modern(1, "tools/list", json!({}));
    let list = exchange(gateway.address, &list.bytes()).await.json();
    let tools = list["result"]["tools"].as_array().expect("a list").clone();
    assert!(tools.iter().any(|tool| tool["name"] == "read"), "{list:#}");
    let send = tools.iter().find(|tool| tool["name"] == "send");
    let shown = send.map(|send| send["description"].as_str().expect("text").to_owned());
    let call = exchange(gateway.address, &Message::call(2, "send").bytes()).await;
    (shown, call.status, call.code())
}

#[tokio::test]
async fn clients_meet_what_was_approved() {
    for (on_change, meanwhile) in [
        ("record", (Some("Sends, 1.".to_owned()), 200, 0)),
        ("withhold", (Some("Sends, 0.".to_owned()), 200, 0)),
        ("refuse", (None, 403, 403)),
    ] {
        let changing = Changing::start().await;
        let admin = free_address();
        let gateway = start(&changing, on_change, admin, "").await;
        let operator = Operator::new(admin);
        assert_eq!(met(&gateway).await, (Some("Sends, 0.".to_owned()), 200, 0), "{on_change}");
        changing.change();
        server_with(&operator, |server| state(server, "send") != "pinned").await;
        assert_eq!(met(&gateway).await, meanwhile, "{on_change}");
        if on_change == "record" {
            continue;
        }
        let path = "/v1/servers/one/definitions/send/approve";
        assert_eq!(operator.ask("POST", path, &json!({})).await.status, 200);
        server_with(&operator, |server| state(server, "send") == "changed").await;
        assert_eq!(met(&gateway).await, (Some("Sends, 1.".to_owned()), 200, 0), "{on_change}");
    }
}

#[tokio::test]
async fn what_was_shown_is_known_after_a_restart() {
    let changing = Changing::start().await;
    let admin = free_address();
    let gateway = start(&changing, "refuse", admin, "").await;
    let file = gateway.state().join("pins.json");
    let began = Instant::now();
    while !file.exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    changing.change();
    let yaml = without_health(&gateway);
    let gateway = gateway.restart(&yaml).await;
    let operator = Operator::new(admin);
    // It changed while nobody looked.
    let held = |server: &Value| {
        server["pending"][0]["tool"] == "send" && state(server, "send") == "hidden"
    };
    server_with(&operator, held).await;

    // A file of anything else is moved out of the way, and what is listed then is trusted.
    let written = std::fs::read_to_string(&file).expect("the file");
    assert!(written.starts_with(r#"{"version":1,"#), "{written}");
    drop(gateway);
    let gateway = start(&changing, "refuse", admin, "").await;
    let file = gateway.state().join("pins.json");
    let gateway = {
        let yaml = without_health(&gateway);
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::write(&file, "{\"version\":99}").expect("written");
        gateway.restart(&yaml).await
    };
    assert!(gateway.diagnostics().contains("pins.json.bad"), "{}", gateway.diagnostics());
    let server = Operator::new(admin).server("one").await;
    assert_eq!((state(&server, "send"), &server["pending"]), ("pinned".to_owned(), &json!([])));
}

#[tokio::test]
async fn names_that_are_alike_are_reported() {
    let named = |name: &'static str| {
        Upstream::start(move |request| {
            if request.method() != "tools/list" {
                return answer(request, 0);
            }
            let result = json!({ "tools": [{ "name": name }, { "name": "same" }], "resultType": "complete" });
            json_answer(
                200,
                "",
                &json!({ "jsonrpc": "2.0", "id": request.json()["id"], "result": result }),
            )
        })
    };
    let (one, two) = (named("read_file").await, named("re\u{0430}d_\u{200b}file").await);
    let admin = free_address();
    let (operator, one_url, two_url) = (operator::section(admin), one.url(), two.url());
    let gateway = Gateway::start(&format!(
        "{CATALOG}{operator}servers:\n  one: {{ owner: files-team, endpoints: ['{one_url}'] }}\n  two: {{ endpoints: ['{two_url}'] }}\nroutes: [{{ path: /mcp, server: one }}, {{ path: /two, server: two }}]\n"
    ))
    .await;
    let operator = Operator::new(admin);
    let found =
        server_with(&operator, |server| server["alike"].as_array().is_some_and(|a| a.len() == 2))
            .await;
    let other = json!([{ "server": "two", "tool": "re\u{0430}d_\u{200b}file" }]);
    assert_eq!(
        found["alike"][0],
        json!({ "tool": "read_file", "how": "lookalike", "others": other, "more": 0 })
    );
    assert_eq!(
        (&found["alike"][1]["tool"], &found["alike"][1]["how"]),
        (&json!("same"), &json!("same_name"))
    );
    gateway.metrics_with(r#"toolgate_definitions_alike{how="lookalike",server="one"} 1"#).await;
    assert!(gateway.diagnostics().contains("looks like another one's"));

    let shown = Command::new(env!("CARGO_BIN_EXE_toolgate"))
        .args(["servers", "--admin", &format!("http://{admin}")])
        .env("TOOLGATE_ADMIN_TOKEN", "read")
        .output()
        .expect("the command");
    let text = String::from_utf8_lossy(&shown.stdout);
    for part in [
        "one  /mcp  owner files-team  era modern  tools 2",
        "  tools read_file, same",
        r"lookalike read_file: two/reаd_\u{200b}file",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}
