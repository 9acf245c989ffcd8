//! Lists of several servers as one, and what they say of themselves together.

use super::{Eras, ON, Pair, Server, by, forged, heard, names, said, sections};
use crate::support::client;
use crate::support::gateway::{Gateway, free_address};
use crate::support::http2::Http2;
use crate::support::message::Message;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SERVERS: &str = "io.toolgate/servers";

/// The message in either era; `session` is of the legacy one.
fn list(method: &str, params: Value, session: Option<&str>) -> Message {
    match session {
        Some(session) => Message::legacy(7, method, &params).field("mcp-session-id", session),
        None => Message::modern(7, method, params),
    }
}

#[tokio::test]
async fn lists_are_merged_in_order_and_keep_each_servers_own_bytes() {
    let odd = r#"[ { "x" : 1.0e1 , "name" : "search",  "inputSchema":{"type" :"object"},"description":"\u0061 \/" } ,{"inputSchema":{"type":"object"},"name":"open"}]"#;
    let github = Server::with_tools("github", &[])
        .and("resources", r#"[{"uri":"file:///a", "name":"a"},{"uri":"ui://page","name":"p"}]"#)
        .and("resourceTemplates", r#"[{"uriTemplate":"repo://{owner}/{name}","name":"repo"}]"#)
        .and("prompts", r#"[ {"name":"review"} ]"#);
    let github = Server { lists: github.lists.into_iter().skip(1).collect(), ..github };
    let github = github.and("tools", odd).start().await;
    let files = Server::with_tools("files", &["read"])
        .and("resources", r#"[{"uri":"file:///b","name":"b"}]"#)
        .start()
        .await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    for session in [None, Some(session.as_str())] {
        let answer = pair.ask(&list("tools/list", json!({}), session)).await;
        assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(7)), "{}", answer.text());
        assert_eq!(names(&answer, "tools"), ["github_search", "github_open", "read"]);
        let shown = odd.replace("\"search\"", "\"github_search\"");
        let first = shown[1..].split(" ,{").next().expect("the first").trim();
        assert!(answer.text().contains(first), "{first} in {}", answer.text());
        let result = &answer.json()["result"];
        assert_eq!(result["_meta"][SERVERS], Value::Null);
        if session.is_none() {
            assert_eq!(
                (&result["resultType"], &result["cacheScope"]),
                (&json!("complete"), &json!("public"))
            );
            let ttl_ms = result["ttlMs"].as_u64().expect("a time");
            assert!((1..=3_600_000).contains(&ttl_ms), "{ttl_ms}");
        } else {
            assert_eq!(result["resultType"], Value::Null);
        }
        for (method, key, expected) in [
            ("prompts/list", "prompts", &["github_review"][..]),
            ("resources/list", "resources", &["github+file:///a", "ui://github+page", "file:///b"]),
            ("resources/templates/list", "resourceTemplates", &["github+repo://{owner}/{name}"]),
        ] {
            let answer = pair.ask(&list(method, json!({}), session)).await;
            assert_eq!(names(&answer, key), expected, "{}", answer.text());
        }
    }
    pair.nobody_heard("lists come from the catalogue");
}

#[tokio::test]
async fn every_caller_sees_what_it_may_use() {
    let policy = "policy: { rules: [
  { name: ann, allow: { callers: [ann], tools: [github/search, files/*] } },
  { name: bob, allow: { callers: [bob], tools: [open] } } ] }\n";
    let pair = Pair::plain(policy).await;
    for (caller, expected) in
        [("ann", &["github_search", "read", "write"][..]), ("bob", &["github_open"])]
    {
        let opened = pair.ask(&by(caller, Message::initialize())).await;
        assert_eq!(opened.status, 200, "{}", opened.text());
        let session = opened.session();
        for session in [None, Some(session.as_str())] {
            let answer = pair.ask(&by(caller, list("tools/list", json!({}), session))).await;
            assert_eq!(names(&answer, "tools"), expected);
            if session.is_none() {
                assert_eq!(answer.json()["result"]["cacheScope"], "private");
            }
        }
    }
    let nobody = pair.ask(&list("tools/list", json!({}), None)).await;
    assert!(names(&nobody, "tools").is_empty(), "{}", nobody.text());
}

#[tokio::test]
async fn pages_go_on_where_they_ended_for_whom_they_were_made() {
    let members = "servers: [{ name: github, prefix: github_ }, { name: files }], list_page_max: 2";
    let github = Server::with_tools("github", &["a", "b", "c"])
        .and("prompts", r#"[{"name":"p"},{"name":"q"},{"name":"r"}]"#);
    let files = Server::with_tools("files", &["d", "e"]).start().await;
    let pair = Pair::with(github.start().await, files, members, "").await;
    let of_ann = pair.ask(&by("ann", Message::initialize())).await.session();
    for session in [None, Some(of_ann.as_str())] {
        let (mut cursor, mut seen, mut cursors) = (None, Vec::new(), Vec::new());
        loop {
            let params = match &cursor {
                Some(cursor) => json!({ "cursor": cursor }),
                None => json!({}),
            };
            let answer = pair.ask(&by("ann", list("tools/list", params, session))).await;
            let page = names(&answer, "tools");
            assert!((1..=2).contains(&page.len()), "{}", answer.text());
            seen.extend(page);
            cursor = answer.json()["result"]["nextCursor"].as_str().map(str::to_owned);
            match &cursor {
                Some(cursor) => cursors.push(cursor.clone()),
                None => break,
            }
        }
        assert_eq!(seen, ["github_a", "github_b", "github_c", "d", "e"]);
        assert_eq!(cursors.len(), 2);
        let of_bob = pair.ask(&by("bob", Message::initialize())).await.session();
        let of_bob = session.map(|_| of_bob.as_str());
        let cursor = cursors[0].as_str();
        let forged = forged(cursor);
        for (caller, method, cursor, session) in [
            ("bob", "tools/list", cursor, of_bob),
            ("ann", "prompts/list", cursor, session),
            ("ann", "tools/list", &forged, session),
            ("ann", "tools/list", "2", session),
            ("ann", "tools/list", "", session),
        ] {
            let ask = list(method, json!({ "cursor": cursor }), session);
            let answer = pair.ask(&by(caller, ask)).await;
            assert_eq!(
                (answer.code(), &answer.json()["id"]),
                (-32602, &json!(7)),
                "{caller} {method} {cursor}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn what_all_say_of_themselves_is_one_greeting() {
    let github = Server::with_tools("github", &["a"]).and("prompts", "[]").start().await;
    let files = Server::with_tools("files", &["b"]).and("resources", "[]").start().await;
    let pair = Pair::of(github, files, "").await;
    let legacy = pair.ask(&Message::initialize()).await;
    let modern = pair.ask(&Message::modern(1, "server/discover", json!({}))).await;
    for answer in [&legacy, &modern] {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let result = &answer.json()["result"];
        let expected = json!({ "tools": {}, "prompts": {}, "resources": { "subscribe": true }, "logging": {} });
        assert_eq!(result["capabilities"], expected);
        assert_eq!(result["instructions"], "# github\nI am github.\n\n# files\nI am files.");
    }
    assert_eq!(legacy.json()["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(legacy.json()["result"]["serverInfo"]["name"], "toolgate");
    let result = &modern.json()["result"];
    assert_eq!(result["resultType"], "complete");
    let versions = result["supportedVersions"].as_array().expect("versions");
    assert!(versions.contains(&json!("2026-07-28")) && versions.contains(&json!("2025-11-25")));
    pair.forget();
    assert_eq!(pair.ask(&Message::modern(1, "server/discover", json!({}))).await.status, 200);
    pair.nobody_heard("server/discover");
}

#[tokio::test]
async fn a_server_that_was_never_there_is_named_and_harms_nobody() {
    let github = Server::with_tools("github", &["search"]).start().await;
    let away = free_address();
    let servers = [("github", github.url()), ("files", format!("http://{away}/mcp"))];
    let gateway = Gateway::start(&sections(&servers, super::MEMBERS, "")).await;
    let ask = async |message: &Message| client::exchange(gateway.address, &message.bytes()).await;
    let session = ask(&Message::initialize()).await.session();
    for session in [None, Some(session.as_str())] {
        let answer = ask(&list("tools/list", json!({}), session)).await;
        assert_eq!(names(&answer, "tools"), ["github_search"]);
        let missing = &answer.json()["result"]["_meta"][SERVERS][0];
        assert_eq!((&missing["name"], &missing["list"]), (&json!("files"), &json!("left_out")));
    }
    assert_eq!(said(&ask(&Message::call(1, "github_search")).await), "github: \"search\"");
    // Only this server can have it, and it may come back at any time: the call is tried.
    let answer = ask(&Message::call(1, "read")).await;
    assert!([502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
    let call = Message::legacy_call(1, "read", &session);
    let answer = ask(&call).await;
    assert!([502, 503].contains(&answer.status), "{} {}", answer.status, answer.text());
    // Then it is there, and its leg is opened late.
    let files = Server::with_tools("files", &["read"]).start_at(away).await;
    let began = Instant::now();
    let answer = loop {
        let answer = ask(&call).await;
        if answer.status == 200 {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(said(&answer), "files: \"read\"");
    let heard = heard(&files);
    let own: Vec<_> = heard.iter().filter(|request| request.method() == "tools/call").collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].field("mcp-session-id"), Some("files-session"));
}

#[tokio::test]
async fn a_server_that_goes_down_stays_in_the_list_or_is_left_out() {
    for (when_down, expected, shown) in [
        ("keep", "kept", &["github_search", "read"][..]),
        ("leave_out", "left_out", &["github_search"]),
    ] {
        let github = Server::with_tools("github", &["search"]).start().await;
        let files = Server::with_tools("files", &["read"]).start().await;
        let members = format!("{}, when_down: {when_down}", super::MEMBERS);
        let Pair { gateway, files, github: _github } =
            Pair::with(github, files, &members, ON).await;
        let ask =
            async |message: &Message| client::exchange(gateway.address, &message.bytes()).await;
        drop(files);
        let began = Instant::now();
        let answer = loop {
            assert_eq!(ask(&Message::call(1, "github_search")).await.status, 200);
            let failed = ask(&Message::call(1, "read")).await;
            assert!([502, 503].contains(&failed.status), "{}", failed.text());
            let answer = ask(&list("tools/list", json!({}), None)).await;
            if !answer.json()["result"]["_meta"][SERVERS].is_null() {
                break answer;
            }
            assert!(began.elapsed() < Duration::from_secs(15), "{}", answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let odd = &answer.json()["result"]["_meta"][SERVERS];
        assert_eq!(*odd, json!([{ "name": "files", "list": expected, "because": "down" }]));
        assert_eq!(names(&answer, "tools"), shown);
        ask(&list("tools/list", json!({}), None)).await;
        let counted = format!(
            "toolgate_lists_lacking_total{{list=\"{expected}\",reason=\"down\",server=\"files\"}} 2"
        );
        gateway.metrics_with(&counted).await;
        // The log says it once, not with every list.
        let logged = gateway.diagnostics();
        assert_eq!(logged.matches("lists lack a server").count(), 1, "{logged}");
    }
}

#[tokio::test]
async fn a_server_of_the_other_era_is_named_and_its_names_are_nobodys() {
    let github = Server::with_tools("github", &["search"]).speaking(Eras::Legacy).start().await;
    let files = Server::with_tools("files", &["read"]).speaking(Eras::Modern).start().await;
    let pair = Pair::of(github, files, "").await;
    let session = pair.open_session().await;
    for (session, shown, missing) in
        [(None, "read", "github"), (Some(session.as_str()), "github_search", "files")]
    {
        let answer = pair.ask(&list("tools/list", json!({}), session)).await;
        assert_eq!(names(&answer, "tools"), [shown]);
        let odd = &answer.json()["result"]["_meta"][SERVERS];
        assert_eq!(*odd, json!([{ "name": missing, "list": "left_out", "because": "era" }]));
    }
    assert_eq!(said(&pair.ask(&Message::call(1, "read")).await), "files: \"read\"");
    let call = |tool| Message::legacy_call(1, tool, &session);
    assert_eq!(said(&pair.ask(&call("github_search")).await), "github: \"search\"");
    pair.forget();
    for message in [Message::call(1, "github_search"), call("read")] {
        assert_eq!(pair.ask(&message).await.code(), -32602);
    }
    pair.nobody_heard("a server of the other era");
}

#[tokio::test]
async fn a_modern_client_learns_that_all_servers_are_legacy() {
    let github = Server::with_tools("github", &["search"]).speaking(Eras::Legacy).start().await;
    let files = Server::with_tools("files", &["read"]).speaking(Eras::Legacy).start().await;
    let pair = Pair::of(github, files, "").await;
    for message in [
        Message::modern(1, "server/discover", json!({})),
        Message::modern(1, "tools/list", json!({})),
        Message::call(1, "read"),
    ] {
        let answer = pair.ask(&message).await;
        assert_eq!((answer.status, answer.code()), (400, -32022), "{}", answer.text());
        let supported = &answer.json()["error"]["data"]["supported"];
        assert!(supported.as_array().is_some_and(|all| all.contains(&json!("2025-11-25"))));
        assert!(!supported.to_string().contains("2026"));
    }
    pair.nobody_heard("a probe");
    let session = pair.open_session().await;
    let answer = pair.ask(&list("tools/list", json!({}), Some(&session))).await;
    assert_eq!(names(&answer, "tools"), ["github_search", "read"]);
    assert_eq!(answer.json()["result"]["_meta"], Value::Null);
}

#[tokio::test]
async fn it_is_the_same_over_http2() {
    let pair = Pair::plain("").await;
    let mut http2 = Http2::connect(pair.gateway.address).await;
    let opened = http2.ask(&Message::initialize()).await.expect("an answer");
    let session = opened.session();
    for message in [
        list("tools/list", json!({}), None),
        list("tools/list", json!({}), Some(&session)),
        Message::modern(1, "server/discover", json!({})),
        Message::call(1, "github_search"),
        Message::legacy_call(1, "read", &session),
        Message::call(1, "nonsense"),
    ] {
        let one = http2.ask(&message).await.expect("an answer");
        let other = pair.ask(&message).await;
        let strip = |text: String| text.split("\"ttlMs\":").next().map(str::to_owned);
        assert_eq!((one.status, strip(one.text())), (other.status, strip(other.text())));
    }
    let ended = http2.ask(&Message::end(&session)).await.expect("an answer");
    assert_eq!(ended.status, 200);
    assert_eq!(
        http2.ask(&Message::legacy_call(1, "read", &session)).await.expect("one").status,
        404
    );
}
