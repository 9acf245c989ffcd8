//! Calls on a route with several servers: each reaches its own server as it was sent.

use super::{Pair, Server, by, forged, heard, methods, names, said, success};
use crate::support::client::Client;
use crate::support::message::Message;
use crate::support::upstream::{Request, Step, Upstream, event, events_end, events_head};
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const SLOW: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_call_is_as_it_was_sent_but_for_the_name() {
    let members = "servers: [
    { name: github, prefix: github_, tools: { rename: { old: fresh } } },
    { name: files, match: { tools: [fs_*] } }]";
    let github = Server::with_tools("github", &["search", "old"]).start().await;
    let files = Server::with_tools("files", &["fs_read"]).start().await;
    let pair = Pair::with(github, files, members, "").await;
    let session = pair.open_session().await;
    let arguments = r#"{ "name" :"github_search",
        "a":[ 1.0e+2 , "\u00e9\/", "ü" ], "name2":	"x", "b":{"requestState":"s","uri":"github+a:b"} , "n":123456789012345678901234567890 }"#;
    for (written, shown, own, is_github) in [
        (r#""github_search""#, "github_search", "search", true),
        (r#""github_\u0073earch""#, "github_search", "search", true),
        (r#""fresh""#, "fresh", "old", true),
        (r#""fs_read""#, "fs_read", "fs_read", false),
        // Nobody has listed it, and it can be of only one server.
        (r#""fs_unlisted""#, "fs_unlisted", "fs_unlisted", false),
        (r#""github_unlisted""#, "github_unlisted", "unlisted", true),
    ] {
        for is_modern in [true, false] {
            let claims = match is_modern {
                true => {
                    r#""_meta" : {"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{} , "progressToken" : 7}"#
                }
                false => r#""_meta":{ "progressToken" : 7 }"#,
            };
            let body = |name: &str| {
                format!(
                    "{{\"jsonrpc\" : \"2.0\",\n \"params\":{{ {claims}, \"arguments\": {arguments} , \"name\" : {name} }},\"method\":\"tools/call\",\"id\" : \"a\\u0062\"}} "
                )
            };
            let message = Message::post(body(written)).field("x-own", "kept");
            let message = match is_modern {
                true => message
                    .field("mcp-protocol-version", "2026-07-28")
                    .field("mcp-method", "tools/call")
                    .field("mcp-name", shown),
                false => message.field("mcp-session-id", &session),
            };
            let answer = pair.ask(&message).await;
            let server = if is_github { "github" } else { "files" };
            assert_eq!(said(&answer), format!("{server}: {:?}", own), "{}", answer.text());
            let (at, other) = match is_github {
                true => (&pair.github, &pair.files),
                false => (&pair.files, &pair.github),
            };
            assert!(heard(other).is_empty());
            let heard = heard(at);
            assert_eq!(methods(&heard), ["tools/call"], "{heard:?}");
            let expected = match shown == own {
                true => body(written),
                false => body(&format!("\"{own}\"")),
            };
            assert_eq!(String::from_utf8_lossy(&heard[0].body), expected);
            assert_eq!(heard[0].field("x-own"), Some("kept"));
            let (name, id) = match is_modern {
                true => (Some(own), None),
                false => (None, Some(format!("{server}-session"))),
            };
            assert_eq!(heard[0].field("mcp-name"), name);
            assert_eq!(heard[0].field("mcp-session-id"), id.as_deref());
        }
    }
}

#[tokio::test]
async fn what_is_nobodys_or_anybodys_is_unknown() {
    let members = "servers: [{ name: github, tools: { deny: [hidden] } }, { name: files }]";
    let github = Server::with_tools("github", &["same", "hidden", "search"])
        .and("prompts", r#"[{"name":"p"}]"#)
        .and("resources", r#"[{"uri":"file:///a","name":"a"}]"#)
        .start()
        .await;
    let files = Server::with_tools("files", &["same", "read"]).start().await;
    let policy = "policy: { rules: [{ name: most, allow: {} }, { name: no, deny: { tools: [files/read] } }] }\n";
    let pair = Pair::with(github, files, members, policy).await;
    let session = pair.open_session().await;
    let listed = pair.ask(&Message::modern(1, "tools/list", json!({}))).await;
    assert_eq!(names(&listed, "tools"), ["search"], "{}", listed.text());
    let mut texts = Vec::new();
    for tool in ["same", "hidden", "read", "nonsense", "github_search", ""] {
        for message in [Message::call(5, tool), Message::legacy_call(5, tool, &session)] {
            let answer = pair.ask(&message).await;
            if tool.is_empty() && answer.status == 400 {
                continue;
            }
            assert_eq!((answer.status, answer.code()), (200, -32602), "{tool}: {}", answer.text());
            assert_eq!(answer.json()["id"], 5);
            texts.push(answer.text());
        }
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    for (method, params) in [
        ("prompts/get", json!({ "name": "q" })),
        ("resources/read", json!({ "uri": "file:///b" })),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "q" }, "argument": { "name": "a", "value": "b" } }),
        ),
    ] {
        let answer = pair.ask(&Message::modern(5, method, params)).await;
        assert_eq!((answer.status, answer.code()), (200, -32602), "{method}: {}", answer.text());
    }
    let answer = pair.ask(&Message::modern(5, "invented/method", json!({}))).await;
    assert_eq!((answer.status, answer.code()), (404, -32601), "{}", answer.text());
    let invented =
        Message::legacy(5, "invented/method", &json!({})).field("mcp-session-id", &session);
    assert_eq!(pair.ask(&invented).await.code(), -32601);
    pair.nobody_heard("unknown names");
    assert_eq!(said(&pair.ask(&Message::call(1, "search")).await), "github: \"search\"");
}

/// Two servers with prompts, resources and templates.
async fn with_resources() -> (Upstream, Upstream) {
    let uris = |request: &Request| match request.method().as_str() {
        "resources/read" => {
            let uri = &request.json()["params"]["uri"];
            let contents = json!([{ "uri": uri, "text": "it" }]);
            Some(success(
                request,
                "",
                json!({ "contents": contents, "resultType": "complete", "ttlMs": 0, "cacheScope": "private" }),
            ))
        }
        "tools/call" => {
            let content = json!([
                { "type": "resource_link", "uri": "file:///linked", "name": "l" },
                { "type": "resource", "resource": { "uri": "ui://page", "text": "file:///text" } },
            ]);
            let result = json!({ "content": content, "structuredContent": { "uri": "file:///own" }, "resultType": "complete" });
            Some(success(request, "", result))
        }
        _ => None,
    };
    let github = Server::with_tools("github", &["search"])
        .and("prompts", r#"[{"name":"review"}]"#)
        .and("resources", r#"[{"uri":"file:///a","name":"a"}]"#)
        .and("resourceTemplates", r#"[{"uriTemplate":"repo://{owner}/{name}","name":"repo"}]"#)
        .start_with(uris)
        .await;
    let files = Server::with_tools("files", &["read"])
        .and("prompts", r#"[{"name":"explain"}]"#)
        .and("resources", r#"[{"uri":"file:///b","name":"b"}]"#)
        .and("resourceTemplates", r#"[{"uriTemplate":"dir://{+path}","name":"dir"}]"#)
        .start_with(uris)
        .await;
    (github, files)
}

/// What is asked for, what its server is asked for, and which of the two that is.
fn named() -> Vec<(&'static str, Value, Value, usize)> {
    let complete = |kind: &str, key: &str, name: &str| json!({ "ref": { "type": kind, key: name }, "argument": { "name": "owner", "value": "b" } });
    vec![
        ("prompts/get", json!({ "name": "github_review" }), json!({ "name": "review" }), 0),
        ("prompts/get", json!({ "name": "explain" }), json!({ "name": "explain" }), 1),
        ("resources/read", json!({ "uri": "github+file:///a" }), json!({ "uri": "file:///a" }), 0),
        (
            "resources/read",
            json!({ "uri": "github+file:///never/listed" }),
            json!({ "uri": "file:///never/listed" }),
            0,
        ),
        ("resources/read", json!({ "uri": "ui://github+page" }), json!({ "uri": "ui://page" }), 0),
        ("resources/read", json!({ "uri": "file:///b" }), json!({ "uri": "file:///b" }), 1),
        ("resources/read", json!({ "uri": "dir://a/b" }), json!({ "uri": "dir://a/b" }), 1),
        (
            "completion/complete",
            complete("ref/prompt", "name", "github_review"),
            complete("ref/prompt", "name", "review"),
            0,
        ),
        (
            "completion/complete",
            complete("ref/prompt", "name", "explain"),
            complete("ref/prompt", "name", "explain"),
            1,
        ),
        (
            "completion/complete",
            complete("ref/resource", "uri", "github+repo://{owner}/{name}"),
            complete("ref/resource", "uri", "repo://{owner}/{name}"),
            0,
        ),
        (
            "completion/complete",
            complete("ref/resource", "uri", "dir://{+path}"),
            complete("ref/resource", "uri", "dir://{+path}"),
            1,
        ),
    ]
}

#[tokio::test]
async fn prompts_completions_and_resources_find_their_server() {
    let (github, files) = with_resources().await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    for (method, params, own, at) in named() {
        for is_modern in [true, false] {
            let message = match is_modern {
                true => Message::modern(5, method, params.clone()),
                false => Message::legacy(5, method, &params).field("mcp-session-id", &session),
            };
            let answer = pair.ask(&message).await;
            assert_eq!(
                (answer.status, answer.code()),
                (200, 0),
                "{method} {params}: {}",
                answer.text()
            );
            let upstream = if at == 0 { &pair.github } else { &pair.files };
            let heard = heard(upstream);
            assert_eq!(methods(&heard), [method]);
            let mut sent = heard[0].json()["params"].clone();
            sent.as_object_mut().expect("params").remove("_meta");
            assert_eq!(sent, own);
            if is_modern && method != "completion/complete" {
                let name = own["name"].as_str().or_else(|| own["uri"].as_str());
                assert_eq!(heard[0].field("mcp-name"), name);
            }
            if method == "resources/read" {
                assert_eq!(answer.json()["result"]["contents"][0]["uri"], params["uri"]);
            }
        }
    }
    let answer = pair.ask(&Message::call(5, "github_search")).await;
    let result = &answer.json()["result"];
    assert_eq!(result["content"][0]["uri"], "github+file:///linked");
    assert_eq!(result["content"][1]["resource"]["uri"], "ui://github+page");
    assert_eq!(result["content"][1]["resource"]["text"], "file:///text");
    assert_eq!(result["structuredContent"]["uri"], "file:///own");
    let answer = pair.ask(&Message::call(5, "read")).await;
    assert_eq!(answer.json()["result"]["content"][0]["uri"], "file:///linked");
}

#[tokio::test]
async fn the_state_of_a_call_goes_back_to_its_server_for_its_caller() {
    let asks = |request: &Request| {
        if request.method() != "tools/call" {
            return None;
        }
        let params = &request.json()["params"];
        Some(match params["requestState"].as_str() {
            None => {
                let asked = json!({ "who": { "method": "elicitation/create", "params": {
                    "mode": "form", "message": "Who?", "requestedSchema": { "type": "object", "properties": {} } } } });
                let state = "the \"server's\" own \u{e9}";
                success(
                    request,
                    "",
                    json!({ "resultType": "input_required", "inputRequests": asked, "requestState": state }),
                )
            }
            Some(state) => {
                let content = json!([{ "type": "text", "text": state }]);
                success(request, "", json!({ "resultType": "complete", "content": content }))
            }
        })
    };
    let github = Server::with_tools("github", &["ask"]).start_with(asks).await;
    let files = Server::with_tools("files", &["ask2"]).start_with(asks).await;
    let pair = Pair::of(github, files, "").await;
    let call = |caller: &str, tool: &str, state: Option<&str>| {
        let mut params = json!({ "name": tool, "arguments": {} });
        if let Some(state) = state {
            params["requestState"] = json!(state);
            params["inputResponses"] = json!({ "who": { "action": "accept", "content": {} } });
        }
        by(caller, Message::modern(5, "tools/call", params))
    };
    let asked = pair.ask(&call("ann", "github_ask", None)).await;
    let result = &asked.json()["result"];
    assert_eq!(result["resultType"], "input_required", "{}", asked.text());
    let asker = &result["inputRequests"]["who"]["params"]["_meta"]["io.toolgate/server"];
    assert_eq!(asker, "github", "who asks is said: {}", asked.text());
    let state = result["requestState"].as_str().expect("a state").to_owned();
    assert!(!state.contains("own"), "{state}");
    pair.forget();
    let answer = pair.ask(&call("ann", "github_ask", Some(&state))).await;
    assert_eq!(said(&answer), "the \"server's\" own \u{e9}");
    let heard = heard(&pair.github);
    assert_eq!(heard[0].json()["params"]["inputResponses"]["who"]["action"], "accept");
    let forged = forged(&state);
    for (caller, tool, state) in [
        ("bob", "github_ask", state.as_str()),
        ("ann", "ask2", &state),
        ("ann", "github_ask", "the server's own"),
        ("ann", "github_ask", &forged),
        ("ann", "github_ask", ""),
    ] {
        let answer = pair.ask(&call(caller, tool, Some(state))).await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, -32602),
            "{caller} {tool}: {}",
            answer.text()
        );
        assert_eq!(answer.json()["id"], 5);
    }
    pair.nobody_heard("a foreign state");
}

#[tokio::test]
async fn a_slow_server_slows_nobody_else() {
    let slow = |request: &Request| match request.method().as_str() {
        "tools/call" => Some(vec![Step::Pause(SLOW), Step::Close]),
        "initialize" | "logging/setLevel" => Some(vec![Step::Pause(SLOW), Step::Close]),
        _ => None,
    };
    let github = Server::with_tools("github", &["search"]).start_with(slow).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let began = Instant::now();
    let mut waiting = Client::connect(pair.gateway.address).await;
    waiting.send(&Message::call(1, "github_search").bytes()).await;
    assert!(pair.github.reached(1).await);
    for message in [Message::call(1, "read"), Message::modern(1, "tools/list", json!({}))] {
        assert_eq!(pair.ask(&message).await.status, 200);
    }
    assert!(began.elapsed() < SLOW / 2, "{:?}", began.elapsed());
    // A session waits only a short while, and calls of others in it do not wait at all.
    let session = pair.open_session().await;
    assert!(began.elapsed() < SLOW, "{:?}", began.elapsed());
    let began = Instant::now();
    let call = Message::legacy_call(1, "read", &session);
    assert_eq!(said(&pair.ask(&call).await), "files: \"read\"");
    let list = Message::legacy(1, "tools/list", &json!({})).field("mcp-session-id", &session);
    assert_eq!(names(&pair.ask(&list).await, "tools"), ["github_search", "read"]);
    assert!(began.elapsed() < SLOW / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn answers_in_events_pass_and_a_client_that_leaves_cancels() {
    let never = Arc::new(Semaphore::new(0));
    let script = move |request: &Request| {
        let id = request.json()["id"].clone();
        let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": 7, "progress": 1 } });
        match request.json()["params"]["name"].as_str() {
            Some("streams") => {
                let log = json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": "x" } });
                let result = json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete", "content": [
                    { "type": "resource_link", "uri": "file:///a", "name": "a" }] } });
                Some(vec![
                    events_head(""),
                    event(&progress.to_string()),
                    event(&log.to_string()),
                    event(&result.to_string()),
                    events_end(),
                ])
            }
            Some("hangs") => Some(vec![
                events_head(""),
                event(&progress.to_string()),
                Step::Wait(Arc::clone(&never)),
            ]),
            Some("lies") => Some(crate::support::upstream::json_answer(
                200,
                "",
                &json!({ "jsonrpc": "2.0", "id": "another", "result": {} }),
            )),
            _ => None,
        }
    };
    let github =
        Server::with_tools("github", &["streams", "hangs", "lies"]).start_with(script).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let answer = pair.ask(&Message::call(5, "github_streams")).await;
    let text = answer.text();
    assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    assert!(
        text.contains(r#""progressToken":7"#) && text.contains("notifications/message"),
        "{text}"
    );
    assert!(text.contains("github+file:///a"), "{text}");
    let mut client = Client::connect(pair.gateway.address).await;
    client.send(&Message::call(5, "github_hangs").bytes()).await;
    client.body_after_head("progressToken").await;
    drop(client);
    assert!(pair.github.left(1).await, "the server is told by the end of the connection");
    let answer = pair.ask(&Message::call(5, "github_lies")).await;
    assert_eq!((answer.status, answer.json()["id"].clone()), (502, json!(5)), "{}", answer.text());
}

#[tokio::test]
async fn records_limits_rules_and_metrics_know_the_server_and_both_names() {
    let folder = crate::support::gateway::Folder::new();
    let file = folder.path().join("audit.jsonl");
    let more = format!(
        "audit: {{ sinks: [{{ file: {} }}] }}
limits: [{{ name: dear, key: [caller], rate: 10/h, cost: {{ github/search: 6 }} }}]
policy:
  labels: {{ secret: [files/secret], egress: [github/send] }}
  rules: [{{ name: most, allow: {{}} }}, {{ name: no-drops, deny: {{ tools: [github/drop] }} }}]
  combinations: [{{ name: no-leak, after: secret, deny: egress, within: 10m }}]
",
        file.display()
    );
    let github = Server::with_tools("github", &["search", "send", "drop"]).start().await;
    let files = Server::with_tools("files", &["read", "secret"]).start().await;
    let pair = Pair::of(github, files, &more).await;
    let ask = async |tool: &str| {
        let answer = pair.ask(&by("ann", Message::call(5, tool))).await;
        let id = answer.field("x-request-id").expect("an id").to_owned();
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut lines =
                whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            if let Some(line) = lines.find(|line| line["gateway.request.id"] == *id) {
                return (answer, line);
            }
            assert!(began.elapsed() < Duration::from_secs(15), "no line in\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    for (tool, own, server, status, reason) in [
        ("github_search", json!("search"), "github", 200, Value::Null),
        ("github_search", json!("search"), "github", 429, json!("rate_limited")),
        ("read", Value::Null, "files", 200, Value::Null),
        ("github_drop", json!("drop"), "github", 200, json!("policy_hidden")),
        ("secret", Value::Null, "files", 200, Value::Null),
        ("github_send", json!("send"), "github", 403, json!("combination_forbidden")),
    ] {
        let (answer, line) = ask(tool).await;
        assert_eq!(answer.status, status, "{tool}: {}", answer.text());
        assert_eq!(line["gen_ai.tool.name"], tool, "{line:#}");
        assert_eq!(line["gateway.own_name"], own, "{tool}: {line:#}");
        assert_eq!(line["gateway.server"], server, "{tool}: {line:#}");
        assert_eq!(line["reason"], reason, "{tool}: {line:#}");
    }
    for (server, tool) in [("github", "github_search"), ("files", "read")] {
        let label = format!(r#"outcome="ok",route="/mcp",server="{server}",tool="{tool}"}} 1"#);
        pair.gateway.metrics_with(&label).await;
    }
}
