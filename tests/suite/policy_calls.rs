//! The policy on real calls: what is hidden is not there in any form, and lists show what may be used.

use crate::support::Stage;
use crate::support::client::Answer;
use crate::support::gateway::Gateway;
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, chunk, events_end, events_head, json_answer, mcp, result,
};
use serde_json::{Value, json};

/// The stand-in behind a gateway that knows ann and bob.
pub(crate) async fn stage(upstream: Upstream, more: &str) -> Stage {
    let sections = upstream.sections();
    stage_of(upstream, &format!("{sections}{more}")).await
}

/// The same with a configuration of its own.
async fn stage_of(upstream: Upstream, sections: &str) -> Stage {
    let gateway = Gateway::start(&format!("{sections}{}", identity())).await;
    Stage { gateway, upstream }
}

/// The section that knows ann and bob by their keys.
pub(crate) fn identity() -> String {
    let keys = ["ann", "bob"].map(|caller| {
        let digest = ring::digest::digest(&ring::digest::SHA256, key(caller).as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{ caller: {caller}, sha256: {hex} }}")
    });
    format!("identity: {{ api_keys: [{}] }}\n", keys.join(", "))
}

fn key(caller: &str) -> String {
    format!("key-of-{caller}")
}

/// The message, sent by this caller.
pub(crate) fn by(caller: &str, message: Message) -> Message {
    message.field("authorization", &format!("Bearer {}", key(caller)))
}

/// A legacy session of this caller; the server forgets how it was opened.
pub(crate) async fn session_of(stage: &Stage, caller: &str) -> String {
    let session = stage.ask(&by(caller, Message::initialize())).await.session();
    stage.upstream.take();
    session
}

/// A server that knows every tool, prompt and resource by any name.
pub(crate) async fn willing() -> Upstream {
    Upstream::start(|request| match request.method().as_str() {
        "tools/call" => json_answer(200, "", &result(&request.json()["id"], "done")),
        _ => mcp("one", request),
    })
    .await
}

/// Everything a client sees of an answer that is not about this one request.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let own = ["x-request-id", "date"];
    let fields = answer.fields.iter().filter(|(name, _)| !own.contains(&name.as_str()));
    (answer.status, fields.cloned().collect(), answer.text())
}

const RULES: &str = "policy:
  rules:
    - name: some
      allow: { tools: [echo, get_*], prompts: [p_*], resources: ['file:///public/*'] }
    - name: not-the-old
      deny: { tools: [get_old], prompts: [p_old], resources: ['file:///public/old'] }
    - { name: quiet, deny: { methods: ['logging/*'] } }
    - { name: next, mode: shadow, deny: { tools: [get_next] } }
";

/// Method, key of the name, what is hidden, what was never there, and what may be used.
const NAMED: &[(&str, &str, &str, &str, &str)] = &[
    ("tools/call", "name", "get_old", "nonsense", "get_new"),
    ("prompts/get", "name", "p_old", "nonsense", "p_new"),
    ("resources/read", "uri", "file:///public/old", "file:///nonsense", "file:///public/new"),
];

#[tokio::test]
async fn what_is_hidden_is_answered_like_what_was_never_there_and_the_server_hears_nothing() {
    let stage = stage(willing().await, RULES).await;
    let session = session_of(&stage, "ann").await;
    for is_legacy in [true, false] {
        for (method, key, hidden, invented, allowed) in NAMED {
            let ask = |name: &str| {
                let params = json!({ (*key): name, "arguments": {} });
                let message = match is_legacy {
                    true => Message::legacy(5, method, &params).field("mcp-session-id", &session),
                    false => Message::modern(5, method, params),
                };
                by("ann", message)
            };
            let refused = stage.ask(&ask(hidden)).await;
            assert_eq!(seen(&refused), seen(&stage.ask(&ask(invented)).await), "{method}");
            let mut http2 = Http2::connect(stage.gateway.address).await;
            let one = http2.ask(&ask(hidden)).await.expect("an answer");
            let other = http2.ask(&ask(invented)).await.expect("an answer");
            assert_eq!(seen(&one), seen(&other), "{method}");
            assert_eq!(one.body, refused.body, "{method}");

            let code = if is_legacy && *method == "resources/read" { -32002 } else { -32602 };
            assert_eq!((refused.status, refused.code()), (200, code), "{}", refused.text());
            assert_eq!(refused.json()["id"], 5);
            assert!(stage.upstream.bytes().is_empty(), "{method}: the server was asked");

            let answer = stage.ask(&ask(allowed)).await;
            assert_eq!((answer.status, answer.code()), (200, 0), "{}", answer.text());
            assert!(answer.json()["result"].is_object(), "{}", answer.text());
            assert_eq!(stage.upstream.take().len(), 1, "{method}");
        }
    }
    let log = stage.gateway.log(12).await;
    assert!(log.iter().any(|line| line.contains("policy_hidden")), "{log:?}");
}

#[tokio::test]
async fn no_other_spelling_of_a_hidden_name_and_no_other_method_reaches_it() {
    let stage = stage(willing().await, RULES).await;
    let session = session_of(&stage, "ann").await;
    let legacy = |body: &str| by("ann", Message::post(body).field("mcp-session-id", &session));
    let bodies = [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_\u006fld"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"get_old"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\u0061me":"get_old"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_new","name":"get_old"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_new","n\u0061me":"get_old"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"GET_new"}}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"get_old"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"get_old"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["get_old"]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_old"}}]"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"file:///public/old"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p_old"},"argument":{"name":"a","value":""}}}"#,
    ];
    for body in bodies {
        let answer = stage.ask(&legacy(body)).await;
        assert!(answer.code() != 0 || answer.status >= 400, "{body}: {}", answer.text());
        assert!(stage.upstream.bytes().is_empty(), "{body}: the server was asked");
    }
    let spelled = Message::call(1, "get_old").with_body(
        String::from_utf8_lossy(&Message::call(1, "get_old").body).replace("old", "\\u006fld"),
    );
    let answer = stage.ask(&by("ann", spelled)).await;
    assert_eq!(answer.code(), -32602, "{}", answer.text());
    let disguised = Message::call(1, "get_old").field("mcp-name", "get_new");
    assert_eq!(stage.ask(&by("ann", disguised)).await.status, 400);
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn methods_are_forbidden_by_name_and_unknown_ones_without_a_rule() {
    let stage = stage(willing().await, RULES).await;
    let session = session_of(&stage, "ann").await;
    let legacy = |method: &str| {
        let message = Message::legacy(5, method, &json!({ "level": "info" }));
        by("ann", message.field("mcp-session-id", &session))
    };
    for message in [
        legacy("logging/setLevel"),
        legacy("custom/do"),
        by("ann", Message::modern(5, "custom/do", json!({}))),
    ] {
        let answer = stage.ask(&message).await;
        assert_eq!((answer.status, answer.code()), (403, 403), "{}", answer.text());
        assert_eq!(answer.json()["id"], 5);
        assert_eq!(answer.field("www-authenticate"), None, "no scope would help");
    }
    assert!(stage.upstream.bytes().is_empty());
    assert_eq!(stage.ask(&legacy("ping")).await.status, 200);
    let metrics = stage.gateway.metrics_with(r#"reason="policy_forbidden"} 3"#).await;
    assert!(metrics.contains(r#"reason="policy_hidden"} 0"#), "{metrics}");
}

#[tokio::test]
async fn a_rule_in_shadow_lets_pass_and_is_told_in_the_record() {
    let stage = stage(willing().await, &format!("{RULES}audit: {{ sinks: [stdout] }}\n")).await;
    let answer = stage.ask(&by("ann", Message::call(5, "get_next"))).await;
    assert_eq!((answer.status, answer.code()), (200, 0), "{}", answer.text());
    assert_eq!(stage.upstream.take().len(), 1);
    let log = stage.gateway.log(3).await;
    let record = log.iter().find(|line| line.contains("next") && line.contains("shadow"));
    assert!(record.is_some_and(|line| line.contains("get_next")), "{log:#?}");
}

/// A page of the server's tools, as it writes it.
fn page(id: &Value, padding: usize) -> String {
    let tool =
        |name: &str| format!(r#"{{"name":"{name}", "description":"{}"}}"#, "x".repeat(padding));
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"tools":[{}, {}, {}],"cacheScope":"public","ttlMs":1000}}}}"#,
        tool("secret"),
        tool("echo"),
        tool("secret_too"),
    )
}

/// Lists as JSON, or as events where the cursor says so, and again on every stream.
fn lists(request: &Request) -> Vec<Step> {
    let message = request.json();
    let padding = message["params"]["padding"].as_u64().unwrap_or(1) as usize;
    let page = page(&message["id"], padding);
    match (request.verb.as_str(), request.method().as_str()) {
        ("GET", _) => {
            let from = request.field("last-event-id").unwrap_or_default();
            let padding = from.strip_prefix("big-").map_or(1, |size| size.parse().expect("a size"));
            let list = self::page(&json!(5), padding);
            let (first, second) = list.split_at(list.len() / 2);
            vec![
                events_head(""),
                chunk(
                    "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n",
                ),
                chunk(&format!("id: 2\nevent: message\ndata: {first}")),
                chunk(&format!("{second}\n\n")),
                chunk(
                    "id: 3\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n",
                ),
                events_end(),
            ]
        }
        ("POST", "tools/list") if message["params"]["cursor"] == "events" => vec![
            events_head(""),
            chunk("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n"),
            chunk(&format!("data: {page}\n\n")),
            events_end(),
        ],
        ("POST", "tools/list") => {
            vec![crate::support::upstream::plain(
                200,
                "content-type: application/json\r\n",
                page.as_bytes(),
            )]
        }
        _ => mcp("one", request),
    }
}

const ANN_MAY_ECHO: &str = "policy:
  rules:
    - { name: everybody, allow: { tools: [echo] } }
    - { name: bob, allow: { callers: [bob] } }
";

/// The messages of an event stream.
fn messages(stream: &str) -> Vec<Value> {
    let lines = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(|line| serde_json::from_str(line).expect("JSON in an event")).collect()
}

fn only_echo(message: &Value) {
    let tools = message["result"]["tools"].as_array().expect("a list");
    assert_eq!(tools.len(), 1, "{message}");
    assert_eq!(tools[0]["name"], "echo");
    assert_eq!(message["result"]["cacheScope"], "private", "it is for this caller only");
    assert_eq!(message["result"]["ttlMs"], 1000);
    assert_eq!(message["id"], 5);
}

#[tokio::test]
async fn lists_show_what_may_be_called_as_json_and_as_events() {
    let stage = stage(Upstream::start(lists).await, ANN_MAY_ECHO).await;
    for caller in ["ann", "bob"] {
        let session = session_of(&stage, caller).await;
        for (era, cursor) in
            [("modern", "json"), ("modern", "events"), ("legacy", "json"), ("legacy", "events")]
        {
            let params = json!({ "cursor": cursor });
            let message = match era {
                "modern" => Message::modern(5, "tools/list", params),
                _ => Message::legacy(5, "tools/list", &params).field("mcp-session-id", &session),
            };
            let message = by(caller, message);
            let mut http2 = Http2::connect(stage.gateway.address).await;
            let answers =
                [stage.ask(&message).await, http2.ask(&message).await.expect("an answer")];
            for answer in answers {
                assert_eq!(answer.status, 200);
                let text = answer.text();
                let list = match cursor {
                    "json" => answer.json(),
                    _ => messages(&text).pop().expect("a list"),
                };
                if caller == "ann" {
                    assert!(!text.contains("secret"), "{era} {cursor}: {text}");
                    only_echo(&list);
                } else {
                    assert!(text.contains(&page(&json!(5), 1)), "{era} {cursor}: {text}");
                }
                assert_eq!(text.contains("notifications/message"), cursor == "events");
            }
        }
    }
}

#[tokio::test]
async fn a_list_that_comes_again_on_a_stream_is_filtered_too() {
    let stage = stage(Upstream::start(lists).await, ANN_MAY_ECHO).await;
    for caller in ["ann", "bob"] {
        let session = session_of(&stage, caller).await;
        let stream = by(caller, Message::stream(&session).field("last-event-id", "1"));
        let answer = stage.ask(&stream).await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        let events = messages(&text);
        assert_eq!(events.len(), 3, "{text}");
        assert_eq!(events[0]["method"], "notifications/message");
        assert_eq!(events[2]["method"], "notifications/progress");
        for id in ["id: 1\n", "id: 2\n", "id: 3\n"] {
            assert!(text.contains(id), "{text}");
        }
        if caller == "ann" {
            assert!(!text.contains("secret"), "{text}");
            only_echo(&events[1]);
        } else {
            assert!(text.contains(&page(&json!(5), 1)), "{text}");
        }
    }
}

#[tokio::test]
async fn a_list_too_large_to_be_filtered_is_refused_and_never_shown() {
    let upstream = Upstream::start(lists).await;
    let mut stage = stage(upstream, ANN_MAY_ECHO).await;
    let yaml = stage.gateway.config().replacen("path: /mcp", "path: /mcp, list_bytes_max: 4KiB", 1);
    let sections: String = yaml
        .lines()
        .filter(|line| {
            !["health:", "state_dir:", "catalog:", "listen:"]
                .iter()
                .any(|own| line.starts_with(own))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    stage.gateway = Gateway::start(&sections).await;
    let list = |caller: &str, cursor: &str| {
        let params = json!({ "cursor": cursor, "padding": 5000 });
        by(caller, Message::modern(5, "tools/list", params))
    };
    let answer = stage.ask(&list("ann", "json")).await;
    assert_eq!((answer.status, answer.code()), (502, 502), "{}", answer.text());
    assert!(!answer.text().contains("secret"));
    let answer = stage.ask(&list("ann", "events")).await;
    let text = answer.text();
    assert!(!text.contains("secret"), "{text}");
    let last = messages(&text).pop().expect("an error");
    assert_eq!((&last["error"]["code"], &last["id"]), (&json!(502), &json!(5)), "{text}");

    let session = session_of(&stage, "ann").await;
    let stream = Message::stream(&session).field("last-event-id", "big-5000");
    let text = stage.ask(&by("ann", stream)).await.text();
    assert!(text.contains("notifications/message") && !text.contains("secret"), "{text}");
    stage.gateway.metrics_with(r#"reason="list_too_large"} 3"#).await;

    // Who may see everything is not told how much that may be.
    for cursor in ["json", "events"] {
        let answer = stage.ask(&list("bob", cursor)).await;
        assert!(answer.text().contains(&page(&json!(5), 5000)), "{}", answer.status);
    }
}

/// A modern server with three tools, of which one says that it only reads.
fn annotated(request: &Request) -> Vec<Step> {
    let message = request.json();
    let success = |result: Value| {
        json_answer(200, "", &json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
    };
    match request.method().as_str() {
        "server/discover" => success(json!({
            "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
            "resultType": "complete",
        })),
        "tools/list" => {
            let tool = |name: &str, annotations: Value| json!({ "name": name, "inputSchema": { "type": "object" }, "annotations": annotations });
            success(json!({ "tools": [
                tool("look", json!({ "readOnlyHint": true })),
                tool("change", json!({ "readOnlyHint": false })),
                tool("silent", json!({})),
            ] }))
        }
        "tools/call" => json_answer(200, "", &result(&message["id"], "done")),
        _ => mcp("one", request),
    }
}

#[tokio::test]
async fn a_condition_on_annotations_holds_only_for_what_the_server_declared() {
    let policy = "catalog: { listing: on, refresh: 1h }
policy:
  rules:
    - { name: readers, allow: { tools: ['*'], when: tool.annotations.readOnlyHint } }
";
    let stage = stage(Upstream::start(annotated).await, policy).await;
    stage.upstream.take();
    let call = |tool: &str| by("ann", Message::call(5, tool));
    let answer = stage.ask(&call("look")).await;
    assert_eq!((answer.status, answer.code()), (200, 0), "{}", answer.text());
    let calls = |requests: Vec<Request>| {
        requests.iter().filter(|request| request.method() == "tools/call").count()
    };
    assert_eq!(calls(stage.upstream.take()), 1);
    let hidden = stage.ask(&call("change")).await;
    assert_eq!((hidden.status, hidden.code()), (200, -32602), "{}", hidden.text());
    for tool in ["silent", "unknown", "Look"] {
        assert_eq!(seen(&stage.ask(&call(tool)).await), seen(&hidden), "{tool}");
    }
    assert_eq!(calls(stage.upstream.take()), 0);
    let list = stage.ask(&by("ann", Message::modern(5, "tools/list", json!({})))).await.json();
    let names: Vec<_> = list["result"]["tools"].as_array().expect("a list").iter().collect();
    assert_eq!(names.len(), 1, "{list}");
    assert_eq!(names[0]["name"], "look");
}

/// How a server that answers per caller sends a list.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Events,
    Replayed,
}

/// A server whose tool `look` only reads, for ann: others, and the gateway, are told nothing of it.
fn discreet(request: &Request, form: Form, scope: &str) -> Vec<Step> {
    let message = request.json();
    let is_ann = request.field("x-toolgate-caller") == Some("ann")
        || message["params"]["as"] == "ann"
        || request.verb == "GET";
    let mut tool = json!({ "name": "look", "inputSchema": { "type": "object" } });
    if is_ann {
        tool["annotations"] = json!({ "readOnlyHint": true });
    }
    let mut list = json!({ "tools": [tool] });
    if !scope.is_empty() {
        list["cacheScope"] = json!(scope);
    }
    let id = if request.verb == "GET" { json!(5) } else { message["id"].clone() };
    let answer = json!({ "jsonrpc": "2.0", "id": id, "result": list });
    let text = answer.to_string();
    let (first, second) = text.split_at(text.len() / 2);
    match (request.verb.as_str(), request.method().as_str(), form) {
        ("GET", ..) | ("POST", "tools/list", Form::Events) => vec![
            events_head(""),
            chunk(&format!("id: 1\ndata: {first}")),
            chunk(&format!("{second}\n\n")),
            events_end(),
        ],
        ("POST", "tools/list", _) => json_answer(200, "", &answer),
        _ => annotated(request),
    }
}

#[tokio::test]
async fn what_a_caller_alone_was_shown_counts_for_that_caller_however_it_was_sent() {
    let policy = "catalog: { listing: on, refresh: 1h }
policy:
  rules:
    - { name: readers, allow: { tools: ['*'], when: tool.annotations.readOnlyHint } }
";
    for (form, headers, scope) in [
        (Form::Json, "on", ""),
        (Form::Events, "on", ""),
        (Form::Replayed, "on", ""),
        (Form::Events, "off", "private"),
        (Form::Replayed, "off", "private"),
    ] {
        let upstream = Upstream::start(move |request| discreet(request, form, scope)).await;
        let told = format!("identity_headers: {headers}, endpoints:");
        let sections = upstream.sections().replacen("endpoints:", &told, 1);
        let stage = stage_of(upstream, &format!("{sections}{policy}")).await;
        let calls =
            async |caller: &str| stage.ask(&by(caller, Message::call(5, "look"))).await.code();
        assert_eq!((calls("ann").await, calls("bob").await), (-32602, -32602), "{form:?}");
        for caller in ["ann", "bob"] {
            let session = session_of(&stage, caller).await;
            let ask = match form {
                Form::Replayed if caller == "ann" => {
                    Message::stream(&session).field("last-event-id", "0")
                }
                _ => Message::modern(5, "tools/list", json!({ "as": caller })),
            };
            let answer = stage.ask(&by(caller, ask)).await;
            let shows = answer.text().contains(r#""look""#);
            assert_eq!(shows, caller == "ann", "{form:?} {headers}: {}", answer.text());
        }
        assert_eq!((calls("ann").await, calls("bob").await), (0, -32602), "{form:?} {headers}");
    }
}
