//! The catalogue: the gateway lists servers itself, in either era, in time, and whatever they answer.

use crate::support::gateway::{Gateway, free_address};
use crate::support::operator::{self, Operator};
use crate::support::upstream::{
    Request, Step, Upstream, event, events_end, events_head, json_answer, plain, sections,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use toolgate::demo::Fleet;

const ON: &str = "catalog: { listing: on, refresh: 1h }\n";

/// How a server is spoken to.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    Legacy,
    Modern,
}

fn tool(name: &str) -> Value {
    json!({ "name": name, "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true } })
}

fn tools(names: &[&str]) -> Value {
    json!({ "tools": names.iter().map(|name| tool(name)).collect::<Vec<_>>() })
}

fn of(kind: &str, count: usize) -> String {
    format!(r#"toolgate_catalog_definitions{{kind="{kind}",server="one"}} {count}"#)
}

fn refreshed(outcome: &str) -> String {
    format!(r#"toolgate_catalog_refreshes_total{{outcome="{outcome}",server="one"}}"#)
}

/// What a server of an era answers: `list` gives the result of a list request, if it is one.
fn answer(era: Era, request: &Request, list: impl Fn(&str, &Value) -> Option<Value>) -> Vec<Step> {
    let message = request.json();
    let (id, method) = (&message["id"], request.method());
    let success = |fields: &str, result: Value| {
        json_answer(200, fields, &json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    };
    let capabilities = json!({ "tools": { "listChanged": true }, "prompts": {}, "resources": {} });
    match (request.verb.as_str(), method.as_str(), era) {
        ("POST", "server/discover", Era::Modern) => success(
            "",
            json!({ "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete" }),
        ),
        ("POST", "initialize", Era::Legacy) => success(
            "mcp-session-id: listing\r\n",
            json!({ "protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": { "name": "x", "version": "1" } }),
        ),
        ("POST", "notifications/initialized", Era::Legacy) => vec![plain(202, "", b"")],
        ("DELETE", ..) => vec![plain(204, "", b"")],
        ("GET", ..) => vec![plain(405, "", b"")],
        _ => match list(&method, &message["params"]) {
            Some(result) => success("", result),
            None => {
                let error = json!({ "code": -32601, "message": "no such method" });
                let status = if era == Era::Modern { 404 } else { 400 };
                json_answer(status, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
            }
        },
    }
}

async fn gateway(upstream: &Upstream, more: &str) -> Gateway {
    Gateway::start(&format!("{more}{}", upstream.sections())).await
}

/// Waits for a line of the metrics, longer than the gateway's own waits.
async fn eventually(gateway: &Gateway, line: &str) {
    let began = Instant::now();
    while !gateway.metrics().await.contains(line) {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "no {line} in {}",
            gateway.metrics().await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn servers_of_both_eras_are_listed_before_the_gateway_is_ready() {
    for era in [Era::Legacy, Era::Modern] {
        let list = |method: &str, _: &Value| match method {
            "tools/list" => Some(tools(&["a", "b"])),
            "prompts/list" => Some(json!({ "prompts": [{ "name": "p" }] })),
            "resources/list" => Some(json!({ "resources": [{ "uri": "file:///r", "name": "r" }] })),
            _ => None,
        };
        let upstream = Upstream::start(move |request| answer(era, request, list)).await;
        let admin = free_address();
        let gateway = gateway(&upstream, &format!("{ON}{}", operator::section(admin))).await;
        let metrics = gateway.metrics().await;
        for (kind, count) in [("tools", 2), ("prompts", 1), ("resources", 1), ("templates", 0)] {
            assert!(metrics.contains(&of(kind, count)), "{kind}: {metrics}");
        }
        let server = Operator::new(admin).server("one").await;
        assert_eq!(server["catalog"]["state"], "known");
        let tool = &server["tools"][1];
        assert_eq!((&tool["name"], &tool["state"]), (&json!("b"), &json!("pinned")));
        assert_eq!(tool["annotations"], json!({ "readOnlyHint": true }));

        let requests = upstream.take();
        for request in &requests {
            assert!(request.field("user-agent").expect("one").contains("(catalog)"));
        }
        let first: Vec<_> = requests.iter().map(Request::method).collect();
        let found = |method: &str| requests.iter().find(|request| request.method() == method);
        let list = found("tools/list").expect("asked");
        match era {
            Era::Legacy => {
                assert_eq!(
                    first[..3],
                    ["server/discover", "initialize", "notifications/initialized"]
                );
                assert_eq!(list.field("mcp-session-id"), Some("listing"));
                assert_eq!(list.field("mcp-protocol-version"), Some("2025-06-18"));
                assert!(requests.iter().any(|request| request.verb == "DELETE"
                    && request.field("mcp-session-id") == Some("listing")));
            }
            Era::Modern => {
                assert_eq!(first[..2], ["server/discover", "tools/list"]);
                assert_eq!(list.field("mcp-method"), Some("tools/list"));
                assert_eq!(list.field("mcp-protocol-version"), Some("2026-07-28"));
                let claims = &list.json()["params"]["_meta"];
                assert_eq!(claims["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
            }
        }
        assert!(found("resources/templates/list").is_some());
    }
}

#[tokio::test]
async fn only_what_the_capabilities_name_is_asked_for_and_nothing_if_it_is_off() {
    let upstream = Upstream::mcp("one").await;
    let quiet = gateway(&upstream, "catalog: { listing: off }\n").await;
    assert!(upstream.bytes().is_empty() && !quiet.metrics().await.contains("toolgate_catalog_"));
    drop(quiet);
    // This one answers `server/discover` with an empty result: not a modern server's.
    let gateway = gateway(&upstream, ON).await;
    eventually(&gateway, &refreshed("failed")).await;
}

#[tokio::test]
async fn pages_are_followed_also_through_an_empty_cursor() {
    let list = |method: &str, params: &Value| {
        let (name, next) = match (method, params["cursor"].as_str()) {
            ("tools/list", None) => ("a", Some("")),
            ("tools/list", Some("")) => ("b", Some("2")),
            ("tools/list", Some("2")) => ("c", None),
            _ => return None,
        };
        let mut page = tools(&[name]);
        if let Some(next) = next {
            page["nextCursor"] = json!(next);
        }
        Some(page)
    };
    let upstream = Upstream::start(move |request| answer(Era::Modern, request, list)).await;
    let gateway = gateway(&upstream, ON).await;
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains(&of("tools", 3)) && metrics.contains(&refreshed("listed")),
        "{metrics}"
    );
}

#[tokio::test]
async fn lists_without_an_end_are_cut_and_what_was_read_counts() {
    for circle in [true, false] {
        let pages = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pages);
        let list = move |method: &str, _: &Value| {
            let page = (method == "tools/list").then(|| count.fetch_add(1, Ordering::Relaxed))?;
            let mut result = tools(&[&format!("t{page}")]);
            let cursor = if circle { "same".to_owned() } else { page.to_string() };
            result["nextCursor"] = json!(cursor);
            Some(result)
        };
        let upstream = Upstream::start(move |request| answer(Era::Modern, request, &list)).await;
        let gateway = gateway(&upstream, ON).await;
        eventually(&gateway, &refreshed("partial")).await;
        let metrics = gateway.metrics().await;
        assert!(metrics.contains(&of("tools", if circle { 2 } else { 64 })), "{metrics}");
        assert!(gateway.diagnostics().contains("could not be read to its end"));
    }
}

#[tokio::test]
async fn what_is_no_definition_is_left_out_and_the_first_of_a_name_counts() {
    let list = |method: &str, _: &Value| {
        let entries = json!([tool("a"), 1, {}, { "name": 5 }, { "name": "a", "x": 1 }, tool("b")]);
        (method == "tools/list").then(|| json!({ "tools": entries }))
    };
    let upstream = Upstream::start(move |request| answer(Era::Modern, request, list)).await;
    let admin = free_address();
    let gateway = gateway(&upstream, &format!("{ON}{}", operator::section(admin))).await;
    let metrics = gateway.metrics().await;
    for (reason, count) in [("malformed", 3), ("duplicate", 1)] {
        let line = format!(
            r#"toolgate_catalog_left_out_total{{kind="tools",reason="{reason}",server="one"}} {count}"#
        );
        assert!(metrics.contains(&line), "{metrics}");
    }
    let server = Operator::new(admin).server("one").await;
    assert_eq!(server["tools"][0]["annotations"]["readOnlyHint"], true);
    assert_eq!(server["catalog"]["tools"], 2);
}

#[tokio::test]
async fn a_server_that_hangs_is_huge_or_lets_nobody_in_keeps_the_gateway_from_nothing() {
    let huge = "x".repeat(9 * 1024 * 1024);
    type Script = Box<dyn Fn(&Request) -> Vec<Step> + Send + Sync>;
    let scripts: [(&str, Script); 4] = [
        ("hangs", Box::new(|_| vec![Step::Wait(Arc::new(Semaphore::new(0)))])),
        (
            "huge",
            Box::new(move |request| {
                answer(Era::Modern, request, |method, _| {
                    (method == "tools/list").then(|| json!({ "tools": [{ "name": huge }] }))
                })
            }),
        ),
        ("lets nobody in", Box::new(|_| vec![plain(401, "", b"")])),
        ("is no MCP", Box::new(|_| vec![plain(200, "content-type: text/html\r\n", b"<p>")])),
    ];
    for (what, script) in scripts {
        let upstream = Upstream::start(script).await;
        let began = Instant::now();
        let gateway = gateway(&upstream, "catalog: { listing: on, ready_within: 500ms }\n").await;
        assert!(began.elapsed() < Duration::from_secs(15), "{what}");
        if what != "hangs" {
            let outcome = if what == "huge" { "partial" } else { "failed" };
            eventually(&gateway, &refreshed(outcome)).await;
        }
        assert!(!gateway.metrics().await.contains(&of("tools", 1)), "{what}");
        assert!(gateway.memory_kib("VmHWM") < 300 * 1024, "{what}");
    }
}

#[tokio::test]
async fn a_server_that_comes_up_later_is_listed_then() {
    let address = free_address();
    let url = format!("http://{address}/mcp");
    let gateway = Gateway::start(&format!("{ON}{}", sections(&[url], ""))).await;
    assert!(gateway.metrics().await.contains(&refreshed("failed")));
    let list = |method: &str, _: &Value| (method == "tools/list").then(|| tools(&["a"]));
    let _upstream =
        Upstream::start_at(address, move |request| answer(Era::Legacy, request, list)).await;
    eventually(&gateway, &of("tools", 1)).await;
    eventually(&gateway, &refreshed("listed")).await;
}

#[tokio::test]
async fn lists_are_read_again_when_their_time_is_over() {
    for (result, more) in [
        (json!({ "tools": [], "ttlMs": 1 }), ON),
        (json!({ "tools": [], "ttlMs": 0 }), "catalog: { listing: on, refresh: 200ms }\n"),
        (json!({ "tools": [] }), "catalog: { listing: on, refresh: 200ms }\n"),
    ] {
        let change = Arc::new(AtomicBool::new(false));
        let changed = Arc::clone(&change);
        let list = move |method: &str, _: &Value| {
            let mut result = result.clone();
            if changed.load(Ordering::Relaxed) {
                result["tools"] = json!([tool("new")]);
            }
            (method == "tools/list").then_some(result)
        };
        let upstream = Upstream::start(move |request| answer(Era::Modern, request, &list)).await;
        let gateway = gateway(&upstream, more).await;
        assert!(gateway.metrics().await.contains(&of("tools", 0)));
        change.store(true, Ordering::Relaxed);
        eventually(&gateway, &of("tools", 1)).await;
        let line = r#"toolgate_catalog_changes_total{kind="tools",server="one"} 1"#;
        assert!(gateway.metrics().await.contains(line));
    }
}

#[tokio::test]
async fn a_change_that_the_server_tells_of_is_heard_in_both_eras() {
    for era in [Era::Legacy, Era::Modern] {
        let (gate, change) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let (wait, changed) = (Arc::clone(&gate), Arc::clone(&change));
        let script = move |request: &Request| {
            if request.verb == "GET" || request.method() == "subscriptions/listen" {
                let told = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
                let end = Step::Wait(Arc::new(Semaphore::new(0)));
                return vec![events_head(""), Step::Wait(Arc::clone(&wait)), event(told), end];
            }
            let names: &[&str] = if changed.load(Ordering::Relaxed) { &["a", "b"] } else { &["a"] };
            answer(era, request, |method, _| (method == "tools/list").then(|| tools(names)))
        };
        let upstream = Upstream::start(script).await;
        let mut gateway = gateway(&upstream, ON).await;
        eventually(&gateway, &of("tools", 1)).await;
        change.store(true, Ordering::Relaxed);
        gate.add_permits(1);
        eventually(&gateway, &of("tools", 2)).await;
        gateway.signal("TERM");
        assert_eq!(gateway.ended().await, Some(0));
        let requests = upstream.take();
        let count = |verb: &str, method: &str| {
            requests
                .iter()
                .filter(|request| request.verb == verb && request.method() == method)
                .count()
        };
        if era == Era::Legacy {
            assert_eq!(count("POST", "initialize"), count("DELETE", ""), "every session is ended");
        } else {
            assert_eq!(count("POST", "subscriptions/listen"), 1);
        }
    }
}

#[tokio::test]
async fn answers_in_a_stream_are_read_past_what_the_server_asks() {
    let script = |request: &Request| {
        if request.method() != "tools/list" {
            return answer(Era::Legacy, request, |_, _| None);
        }
        let result =
            json!({ "jsonrpc": "2.0", "id": request.json()["id"], "result": tools(&["a"]) });
        vec![
            events_head(""),
            event(""),
            event(r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#),
            event(r#"{"jsonrpc":"2.0","id":99,"result":{"tools":[]}}"#),
            event(&result.to_string()),
            events_end(),
        ]
    };
    let upstream = Upstream::start(script).await;
    let gateway = gateway(&upstream, ON).await;
    assert!(gateway.metrics().await.contains(&of("tools", 1)));
}

#[tokio::test]
async fn other_endpoints_are_listed_soon_and_a_removed_server_is_forgotten() {
    let start = async |names: &'static [&'static str]| {
        Upstream::start(move |request| {
            answer(Era::Modern, request, |method, _| (method == "tools/list").then(|| tools(names)))
        })
        .await
    };
    let (one, other) = (start(&["a"]).await, start(&["a", "b", "c"]).await);
    let gateway = gateway(&one, ON).await;
    assert!(gateway.metrics().await.contains(&of("tools", 1)));
    let config = gateway.folder().join("toolgate.yaml");
    let moved = gateway.config().replace(&one.url(), &other.url());
    std::fs::write(&config, &moved).expect("written");
    gateway.signal("HUP");
    eventually(&gateway, &of("tools", 3)).await;

    std::fs::write(&config, moved.replace("one:", "two:").replace("server: one", "server: two"))
        .expect("written");
    gateway.signal("HUP");
    eventually(&gateway, r#"toolgate_catalog_definitions{kind="tools",server="two"} 3"#).await;
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains(r#"server="one"} 3"#), "{metrics}");
}

#[tokio::test]
async fn servers_of_the_official_sdk_are_listed() {
    let fleet = Fleet::bind().expect("ports");
    let urls: Vec<String> =
        fleet.endpoints()[0].1.iter().map(|at| format!("http://{at}/mcp")).collect();
    let (stop, stopped) = watch::channel(false);
    let walk = async {
        let gateway = Gateway::start(&format!("{ON}{}", sections(&urls, ""))).await;
        eventually(&gateway, &refreshed("listed")).await;
        let metrics = gateway.metrics().await;
        stop.send(true).expect("a fleet");
        metrics
    };
    let ((), metrics) = tokio::join!(fleet.serve(stopped), walk);
    assert!(!metrics.contains(&of("tools", 0)), "{metrics}");
}
