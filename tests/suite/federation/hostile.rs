//! Servers and clients that want to break it: what is odd is bounded, and harms only itself.

use super::{Pair, Server, by, error, heard, methods, names, said, sections, success};
use crate::support::client;
use crate::support::gateway::Gateway;
use crate::support::http2::Http2;
use crate::support::message::Message;
use crate::support::upstream::{
    Request, Step, Upstream, event, events_end, events_head, json_answer, plain,
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

fn in_session(session: &str, message: Message) -> Message {
    message.field("mcp-session-id", session)
}

#[tokio::test]
async fn names_that_are_too_long_or_odd_are_fitted_and_found_again() {
    let long = "x".repeat(100);
    let odd = ["b\u{fc}ro.suche", "with space", "a/b", long.as_str(), "fine-1"];
    let github = Server::with_tools("github", &odd).start().await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    let shown = names(&pair.ask(&Message::modern(1, "tools/list", json!({}))).await, "tools");
    assert_eq!(shown.len(), odd.len() + 1, "{shown:?}");
    for (shown, own) in shown.iter().zip(odd) {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        assert!(shown.len() <= 64 && shown.bytes().all(fits), "{shown}");
        for message in [Message::call(1, shown), Message::legacy_call(1, shown, &session)] {
            let answer = pair.ask(&message).await;
            assert_eq!(said(&answer), format!("github: {}", json!(own)), "{shown}");
            let heard = heard(&pair.github);
            assert_eq!(heard[0].json()["params"]["name"], own);
            if let Some(name) = heard[0].field("mcp-name") {
                let is_plain = own.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                assert_eq!(name == own, is_plain, "{name}");
                assert!(is_plain || name.starts_with("=?base64?"), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn large_answers_pass_with_every_uri_in_them() {
    let bulk = "x".repeat(3 * 1024 * 1024);
    let text = bulk.clone();
    let script = move |request: &Request| {
        let link = json!({ "type": "resource_link", "uri": "file:///a", "name": "a" });
        let content = json!([link, { "type": "text", "text": text }, link]);
        let result = json!({ "resultType": "complete", "content": content });
        let answer = json!({ "jsonrpc": "2.0", "id": request.json()["id"], "result": result });
        match request.json()["params"]["name"].as_str() {
            Some("whole") => Some(json_answer(200, "", &answer)),
            Some("events") => Some(vec![events_head(""), event(&answer.to_string()), events_end()]),
            _ => None,
        }
    };
    let github = Server::with_tools("github", &["whole", "events"]).start_with(script).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "").await;
    let whole = pair.ask(&Message::call(5, "github_whole")).await;
    assert_eq!(whole.status, 200);
    let events = pair.ask(&Message::call(5, "github_events")).await;
    let event = events.text();
    let event = event.split("data: ").nth(1).expect("an event").trim();
    for answer in [whole.json(), serde_json::from_str(event).expect("JSON")] {
        let content = &answer["result"]["content"];
        assert_eq!(content[0]["uri"], "github+file:///a");
        assert_eq!(content[1]["text"].as_str().map(str::len), Some(bulk.len()));
        assert_eq!(content[2]["uri"], "github+file:///a");
    }
    let mut http2 = Http2::connect(pair.gateway.address).await;
    let answer = http2.ask(&Message::call(5, "github_whole")).await.expect("an answer");
    assert_eq!(answer.body, whole.body);
}

#[tokio::test]
async fn what_a_server_answers_oddly_is_its_own_fault() {
    let foreign = json!({ "jsonrpc": "2.0", "id": "another", "result": {} });
    let script = move |request: &Request| {
        let id = request.json()["id"].clone();
        let right = json!({ "jsonrpc": "2.0", "id": id, "result": { "resultType": "complete", "content": [{ "type": "text", "text": "right" }] } });
        match request.json()["params"]["name"].as_str()? {
            "coded" => Some(json_answer(200, "content-encoding: gzip\r\n", &right)),
            "twice" => Some(vec![
                events_head(""),
                event(&foreign.to_string()),
                event(&right.to_string()),
                events_end(),
            ]),
            "sneaky" => Some(vec![plain(
                200,
                "content-type: application/json\r\n",
                format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}},"id":"another"}}"#).as_bytes(),
            )]),
            "broken" => {
                Some(vec![plain(200, "content-type: application/json\r\n", b"{\"jsonrpc\":")])
            }
            "session" => Some(json_answer(200, "mcp-session-id: leaked\r\n", &right)),
            "fails" => Some(vec![plain(500, "content-type: text/plain\r\n", b"oops")]),
            "says-no" => Some(error(request, 200, -32000)),
            _ => None,
        }
    };
    let tools = ["coded", "twice", "sneaky", "broken", "session", "fails", "says-no"];
    let github = Server::with_tools("github", &tools).start_with(script).await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let servers = [("github", github.url()), ("files", files.url())];
    // Nothing here is about ejection.
    let yaml = sections(&servers, super::MEMBERS, "").replacen(
        "github: { ",
        "github: { ejection: { consecutive_failures: 0, failure_rate: 1 }, ",
        1,
    );
    let gateway = Gateway::start(&yaml).await;
    let pair = Pair { gateway, github, files };
    let session = pair.open_session().await;
    for (tool, status) in [
        ("coded", 502),
        ("twice", 200),
        ("sneaky", 502),
        ("broken", 502),
        ("session", 200),
        ("fails", 500),
        ("says-no", 200),
    ] {
        let shown = format!("github_{tool}");
        for message in [Message::call(5, &shown), Message::legacy_call(5, &shown, &session)] {
            let answer = pair.ask(&message).await;
            assert_eq!(answer.status, status, "{tool}: {}", answer.text());
            assert_eq!(answer.field("mcp-session-id"), None, "{tool}");
            match tool {
                "twice" => {
                    assert!(!answer.text().contains("another"), "{}", answer.text());
                    assert!(answer.text().contains("right"), "{}", answer.text());
                }
                "says-no" => assert_eq!(answer.code(), -32000),
                "fails" => assert_eq!(answer.text(), "oops"),
                _ if status == 502 => assert_eq!(answer.json()["id"], 5, "{tool}"),
                _ => {}
            }
        }
        assert_eq!(said(&pair.ask(&Message::call(1, "read")).await), "files: \"read\"");
    }
}

#[tokio::test]
async fn session_ids_of_any_length_have_room() {
    for length in [300, 1500, 3000, 9000] {
        let script = move |request: &Request| {
            let id = "s".repeat(length);
            match request.method().as_str() {
                "initialize" => Some(success(
                    request,
                    &format!("mcp-session-id: {id}\r\n"),
                    json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "x", "version": "1" } }),
                )),
                "tools/call" if request.field("mcp-session-id") != Some(&id) => {
                    Some(error(request, 404, -32001))
                }
                _ => None,
            }
        };
        let github = Server::with_tools("github", &["search"]).start_with(script).await;
        let files = Server::with_tools("files", &["read"]).start_with(script).await;
        let pair = Pair::of(github, files, "").await;
        let session = pair.open_session().await;
        assert!(session.len() <= 2048, "{}", session.len());
        for tool in ["github_search", "read"] {
            let answer = pair.ask(&Message::legacy_call(5, tool, &session)).await;
            assert_eq!(answer.status, 200, "{length} {tool}: {}", answer.text());
        }
        assert_eq!(pair.ask(&Message::end(&session)).await.status, 200);
        let last = heard(&pair.files).pop().expect("its end");
        let id_bytes = last.field("mcp-session-id").map(str::len);
        assert_eq!((last.verb.as_str(), id_bytes), ("DELETE", Some(length)));
    }
}

#[tokio::test]
async fn clients_that_answer_nothing_or_ask_strangely_are_refused() {
    let pair = Pair::plain("").await;
    let session = pair.open_session().await;
    let post = |body: &str| in_session(&session, Message::post(body));
    for body in [
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tasks/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":7}}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{}}"#,
    ] {
        let answer = pair.ask(&post(body)).await;
        assert!(
            answer.status >= 400 || answer.code() != 0,
            "{body}: {} {}",
            answer.status,
            answer.text()
        );
        assert!(answer.status < 500, "{body}: {} {}", answer.status, answer.text());
    }
    pair.nobody_heard("nonsense");
    assert_eq!(pair.ask(&Message::legacy_call(5, "read", &session)).await.status, 200);
}

#[tokio::test]
async fn nothing_is_known_yet_and_names_that_tell_their_server_work() {
    let github = Server::with_tools("github", &["search"]).start().await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github, files, "catalog: { listing: off }\n").await;
    let session = pair.open_session().await;
    for (tool, expected) in [("github_search", "github: \"search\""), ("read", "files: \"read\"")] {
        for message in [Message::call(1, tool), Message::legacy_call(1, tool, &session)] {
            assert_eq!(said(&pair.ask(&message).await), expected);
        }
    }
    let list = pair.ask(&Message::modern(1, "tools/list", json!({}))).await;
    let odd = &list.json()["result"]["_meta"]["io.toolgate/servers"];
    assert_eq!(odd.as_array().map(Vec::len), Some(2), "{}", list.text());
    // Where any server could have a name, nobody is asked.
    let github = Server::with_tools("github", &["search"]);
    let waits = |request: &Request| {
        let never = Step::Wait(Arc::new(Semaphore::new(0)));
        (request.method() == "tools/list").then(|| vec![never])
    };
    let slow = Server::with_tools("files", &["read"]);
    let slow =
        Upstream::start(move |request| waits(request).unwrap_or_else(|| slow.answer(request)))
            .await;
    let members = "servers: [{ name: github }, { name: files }]";
    let on = "catalog: { listing: on, ready_within: 500ms }\n";
    let pair = Pair::with(github.start().await, slow, members, on).await;
    assert_eq!(said(&pair.ask(&Message::call(1, "search")).await), "github: \"search\"");
    let answer = pair.ask(&Message::call(1, "read")).await;
    assert_eq!((answer.status, answer.code()), (503, 503), "{}", answer.text());
    assert!(answer.field("retry-after").is_some());
}

#[tokio::test]
async fn tasks_lead_back_to_their_server_and_caller() {
    let script = |request: &Request| {
        let task = json!({ "taskId": "t-1", "status": "working", "createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttl": 1000 });
        let is_modern = request.field("mcp-protocol-version") == Some("2026-07-28");
        match request.method().as_str() {
            "tools/call" if is_modern => {
                let mut result = task;
                result["resultType"] = json!("task");
                Some(success(request, "", result))
            }
            "tools/call" => Some(success(request, "", json!({ "task": task }))),
            "tasks/get" => Some(success(request, "", task)),
            _ => None,
        }
    };
    let github = Server::with_tools("github", &["long"]).start_with(script).await;
    let files = Server::with_tools("files", &["long2"]).start_with(script).await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.ask(&by("ann", Message::initialize())).await.session();
    let of_bob = pair.ask(&by("bob", Message::initialize())).await.session();
    for (tool, is_github) in [("github_long", true), ("long2", false)] {
        for is_modern in [true, false] {
            let message = match is_modern {
                true => Message::call(5, tool),
                false => Message::legacy_call(5, tool, &session),
            };
            let begun = pair.ask(&by("ann", message)).await;
            let result = begun.json()["result"].clone();
            let id = if is_modern { &result["taskId"] } else { &result["task"]["taskId"] };
            let id = id.as_str().unwrap_or_else(|| panic!("{}", begun.text())).to_owned();
            assert_ne!(id, "t-1");
            pair.forget();
            let ask = |session: &str, id: &str| match is_modern {
                true => Message::modern(6, "tasks/get", json!({ "taskId": id })),
                false => {
                    in_session(session, Message::legacy(6, "tasks/get", &json!({ "taskId": id })))
                }
            };
            let got = pair.ask(&by("ann", ask(&session, &id))).await;
            assert_eq!(got.json()["result"]["taskId"], id, "{}", got.text());
            let upstream = if is_github { &pair.github } else { &pair.files };
            let heard = heard(upstream);
            assert_eq!(methods(&heard), ["tasks/get"]);
            assert_eq!(heard[0].json()["params"]["taskId"], "t-1");
            if is_modern {
                assert_eq!(heard[0].field("mcp-name"), Some("t-1"));
            }
            for (caller, session, id) in
                [("bob", &of_bob, id.as_str()), ("ann", &session, "t-1"), ("ann", &session, "")]
            {
                let answer = pair.ask(&by(caller, ask(session, id))).await;
                assert!(answer.code() != 0, "{caller} {id}: {}", answer.text());
            }
            pair.nobody_heard("another's task");
        }
    }
}

#[tokio::test]
async fn in_one_session_rules_and_limits_count_at_all_servers_together() {
    let more = "policy:
  labels: { secret: [files/secret], egress: [github/send] }
  rules: [{ name: all, allow: {} }]
  combinations: [{ name: no-leak, after: secret, deny: egress, within: session }]
limits: [{ name: few, key: [session], rate: 4/h }]
";
    let github = Server::with_tools("github", &["send"]).start().await;
    let files = Server::with_tools("files", &["secret"]).start().await;
    let pair = Pair::of(github, files, more).await;
    let session = pair.open_session().await;
    let call = |tool| Message::legacy_call(5, tool, &session);
    assert_eq!(pair.ask(&call("github_send")).await.status, 200);
    assert_eq!(pair.ask(&call("secret")).await.status, 200);
    pair.forget();
    let answer = pair.ask(&call("github_send")).await;
    assert_eq!((answer.status, answer.code()), (403, 403), "{}", answer.text());
    pair.nobody_heard("what may not follow");
    let mut left = 0;
    while pair.ask(&call("secret")).await.status == 200 {
        left += 1;
        assert!(left < 4, "the session's limit counts at each server alone");
    }
    let other = pair.open_session().await;
    let answer = pair.ask(&Message::legacy_call(5, "secret", &other)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn what_may_run_twice_is_told_by_the_servers_own_name() {
    let cut = |request: &Request| (request.method() == "tools/call").then(|| vec![Step::Close]);
    let tools = ["delete_all", "get_all"];
    let replicas = [
        Server::with_tools("github", &tools).start_with(cut).await,
        Server::with_tools("github", &tools).start_with(cut).await,
    ];
    let files = Server::with_tools("files", &["read"]).start().await;
    let members = "servers: [
        { name: github, tools: { rename: { delete_all: get_fresh, get_all: drop_all } } }, { name: files }]";
    let urls = replicas.each_ref().map(Upstream::url).join(", ");
    let servers = [("github", urls), ("files", files.url())];
    let policy = "github: { retries: { tools: [get_*], budget: 1 }, ejection: { consecutive_failures: 0, failure_rate: 1 }, ";
    let yaml = sections(&servers, members, "").replacen("github: { ", policy, 1);
    let gateway = Gateway::start(&yaml).await;
    for upstream in &replicas {
        upstream.take();
    }
    for (shown, own, times) in [("get_fresh", "delete_all", 1), ("drop_all", "get_all", 2)] {
        let answer = client::exchange(gateway.address, &Message::call(1, shown).bytes()).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        let heard: Vec<Request> = replicas.iter().flat_map(heard).collect();
        let ran = heard.iter().filter(|request| request.json()["params"]["name"] == own).count();
        assert_eq!(ran, times, "{own}");
    }
}

#[tokio::test]
async fn a_plain_route_may_become_one_of_several_servers_and_back() {
    let github = Server::with_tools("github", &["search"]).start().await;
    let files = Server::with_tools("files", &["read"]).start().await;
    let address = crate::support::gateway::free_address();
    let servers = [("github", github.url()), ("files", files.url())];
    let yaml = |members: &str| format!("listen: {address}\n{}", sections(&servers, members, ""));
    let ask = async |message: &Message| client::exchange(address, &message.bytes()).await;
    let gateway = Gateway::start_at(&yaml("server: github"), address).await;
    let plain = ask(&Message::initialize()).await.session();
    let gateway = gateway.restart(&yaml(super::MEMBERS)).await;
    let several = ask(&Message::initialize()).await.session();
    for (session, tool, expected) in [
        (&plain, "read", "files: \"read\""),
        (&plain, "github_search", "github: \"search\""),
        (&several, "read", "files: \"read\""),
    ] {
        let answer = ask(&Message::legacy_call(1, tool, session)).await;
        assert_eq!(said(&answer), expected);
    }
    let _gateway = gateway.restart(&yaml("server: github")).await;
    for session in [&plain, &several] {
        let answer = ask(&Message::legacy_call(1, "search", session)).await;
        assert_eq!(said(&answer), "github: \"search\"");
    }
}

#[tokio::test]
async fn a_thousand_tools_and_nonsense_between_them_harm_nobody() {
    let mut tools: Vec<Value> = (0..1000).map(|n| super::definition(&format!("t{n}"))).collect();
    let control = json!({ "name": "a\u{1}b\n", "inputSchema": { "type": "object" } });
    let nameless = json!({ "inputSchema": {} });
    let deep = format!(
        r#"{{"name":"deep","inputSchema":{{"type":"object","x":{}{}}}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    tools.extend([control, nameless, json!(7), super::definition("t1")]);
    let mut list = json!(tools).to_string();
    list.truncate(list.len() - 1);
    let huge = format!(
        r#",{{"name":"huge","inputSchema":{{"type":"object"}},"description":"{}"}}"#,
        "d".repeat(3 << 20)
    );
    let list = format!("{list},{deep}{huge}]");
    let github = Server { name: "github", eras: super::Eras::Both, lists: vec![("tools", list)] };
    let files = Server::with_tools("files", &["read"]).start().await;
    let pair = Pair::of(github.start().await, files, "").await;
    let mut cursor: Option<String> = None;
    let mut seen = Vec::new();
    for _ in 0..100 {
        let params =
            cursor.as_ref().map_or_else(|| json!({}), |cursor| json!({ "cursor": cursor }));
        let answer = pair.ask(&Message::modern(1, "tools/list", params)).await;
        assert_eq!(answer.status, 200);
        seen.extend(names(&answer, "tools"));
        cursor = answer.json()["result"]["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert!(cursor.is_none(), "the list ends");
    assert!(seen.contains(&"read".to_owned()), "{}", seen.len());
    let of_github = seen.iter().filter(|name| name.starts_with("github_t")).count();
    assert!([0, 1000].contains(&of_github), "{of_github}");
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    assert!(seen.iter().all(|name| name.len() <= 64 && name.bytes().all(fits)));
    assert!(pair.gateway.memory_kib("VmHWM") < 300 * 1024);
    assert_eq!(said(&pair.ask(&Message::call(1, "read")).await), "files: \"read\"");
    assert_eq!(said(&pair.ask(&Message::call(1, "github_t7")).await), "github: \"t7\"");
}
