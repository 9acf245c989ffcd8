//! What clients are told to become somebody, or somebody with more scopes: challenges and metadata.

use crate::support::Stage;
use crate::support::client::{Answer, exchange};
use crate::support::gateway::Gateway;
use crate::support::http2::Http2;
use crate::support::idp::{Idp, Key, PUBLIC_URL};
use crate::support::message::Message;
use crate::support::upstream::{Upstream, json_answer, mcp, result};
use serde_json::{Value, json};

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource/mcp";
const METADATA: &str =
    r#"resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp""#;

const POLICY: &str = "policy:
  rules:
    - { name: readers, allow: { tools: ['get_*', 'set_*'], scopes: [read] } }
    - { name: writing, require: { tools: ['set_*'], scopes: [write, confirm] } }
    - { name: open, allow: { tools: [echo, 'drop_*'] } }
    - { name: dropping, require: { tools: [drop_all], scopes: [drop] } }
    - { name: never, deny: { tools: [set_never] } }
";

/// A gateway whose callers have tokens of a provider.
async fn stage(idp: &Idp) -> Stage {
    let upstream = Upstream::start(|request| match request.method().as_str() {
        "tools/call" => json_answer(200, "", &result(&request.json()["id"], "done")),
        _ => mcp("one", request),
    })
    .await;
    let public = format!("path: /mcp, public_url: {PUBLIC_URL}");
    let sections = upstream.sections().replacen("path: /mcp", &public, 1);
    let identity = format!("identity: {{ {} }}\n", idp.jwt(""));
    let gateway = Gateway::start(&format!("{sections}{identity}{POLICY}")).await;
    Stage { gateway, upstream }
}

fn token(idp: &Idp, key: &Key, scope: &str) -> String {
    let mut claims = idp.claims("ann");
    claims["scope"] = json!(scope);
    key.sign(&claims)
}

fn call(tool: &str, token: &str) -> Message {
    Message::call(5, tool).field("authorization", &format!("Bearer {token}"))
}

/// The value of a parameter of the answer's one challenge.
fn parameter(answer: &Answer, name: &str) -> Option<String> {
    let challenge = answer.field("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer "), "{challenge}");
    let (_, rest) = challenge.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

#[tokio::test]
async fn who_is_nobody_is_told_where_to_become_somebody() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let stage = stage(&idp).await;
    let mut http2 = Http2::connect(stage.gateway.address).await;
    let bare = Message::call(5, "get_x");
    let missing = format!(r#"Bearer {METADATA}, scope="confirm drop read write""#);
    let invalid =
        format!(r#"Bearer error="invalid_token", {METADATA}, scope="confirm drop read write""#);
    let mut other = idp.claims("ann");
    other["aud"] = json!("https://mcp.example.com/other");
    let foreign = call("get_x", &key.sign(&other));
    for (message, challenge) in
        [(&bare, &missing), (&call("get_x", "nonsense"), &invalid), (&foreign, &invalid)]
    {
        let answers = [stage.ask(message).await, http2.ask(message).await.expect("an answer")];
        for answer in answers {
            assert_eq!((answer.status, answer.code()), (401, 401), "{}", answer.text());
            assert_eq!(answer.field("www-authenticate"), Some(challenge.as_str()));
        }
    }
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn the_metadata_is_served_to_everybody_at_the_path_inserted_address() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let stage = stage(&idp).await;
    let ask = |verb: &'static str, path: &str| {
        let message = Message { verb, ..Message::post("").without("content-type").at(path) };
        message.field("accept", "application/json")
    };
    let expected = json!({
        "resource": PUBLIC_URL,
        "authorization_servers": [idp.issuer()],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["confirm", "drop", "read", "write"],
    });
    let whole = stage.ask(&ask("GET", WELL_KNOWN)).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    assert_eq!(whole.json(), expected);
    assert_eq!(whole.field("content-type"), Some("application/json"));
    let mut http2 = Http2::connect(stage.gateway.address).await;
    let same = http2.ask(&ask("GET", WELL_KNOWN)).await.expect("an answer");
    assert_eq!((same.status, same.json()), (200, expected.clone()));
    // Whatever a client sends along, this is not where it is looked at.
    let stale = ask("GET", WELL_KNOWN).and("authorization", "Bearer stale");
    assert_eq!(stage.ask(&stale).await.json(), expected);
    let queried = format!("{WELL_KNOWN}?x=y");
    assert_eq!(stage.ask(&ask("GET", &queried)).await.json(), expected);

    // HEAD has the same head and no body: the next answer follows on the same connection.
    let mut client = stage.connect().await;
    client.send(&ask("HEAD", WELL_KNOWN).bytes()).await;
    let head = client.head().await;
    let length = whole.body.len().to_string();
    assert_eq!((head.status, head.field("content-length")), (200, Some(length.as_str())));
    client.send(&ask("GET", WELL_KNOWN).bytes()).await;
    assert_eq!(client.answer().await.json(), expected);

    let post = stage.ask(&ask("POST", WELL_KNOWN)).await;
    assert_eq!((post.status, post.field("allow")), (405, Some("GET, HEAD, OPTIONS")));
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/other",
        "/mcp/.well-known/oauth-protected-resource",
    ] {
        let answer = exchange(stage.gateway.address, &ask("GET", path).bytes()).await;
        assert!([401, 404].contains(&answer.status), "{path}: {}", answer.text());
    }
    assert!(stage.upstream.bytes().is_empty());
}

#[tokio::test]
async fn who_lacks_scopes_is_told_all_of_them_and_passes_with_them() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let stage = stage(&idp).await;
    // Tool, the scopes of the token, and those that the challenge names; none where it passes.
    let rows: &[(&str, &str, Option<&str>)] = &[
        ("get_x", "", Some("read")),
        ("get_x", "read", None),
        ("set_x", "", Some("confirm read write")),
        ("set_x", "read", Some("confirm read write")),
        ("set_x", "read write", Some("confirm read write")),
        ("set_x", "write confirm", Some("confirm read write")),
        ("set_x", "read write confirm", None),
        ("set_x", "READ write confirm", Some("confirm read write")),
        ("echo", "", None),
        ("drop_one", "", None),
        ("drop_all", "read", Some("drop")),
        ("drop_all", "drop", None),
    ];
    for (tool, scope, needed) in rows {
        let answer = stage.ask(&call(tool, &token(&idp, &key, scope))).await;
        let what = format!("{tool} with {scope}: {}", answer.text());
        let Some(needed) = needed else {
            assert_eq!((answer.status, answer.code()), (200, 0), "{what}");
            assert_eq!(stage.upstream.take().len(), 1, "{what}");
            continue;
        };
        assert_eq!((answer.status, answer.code()), (403, 403), "{what}");
        assert_eq!(answer.json()["id"], 5, "{what}");
        assert_eq!(parameter(&answer, "error").as_deref(), Some("insufficient_scope"), "{what}");
        assert!(answer.field("www-authenticate").expect("one").contains(METADATA), "{what}");
        let named = parameter(&answer, "scope").expect("scopes");
        let mut named: Vec<&str> = named.split(' ').collect();
        named.sort_unstable();
        assert_eq!(named.join(" "), *needed, "{what}");
        assert!(stage.upstream.bytes().is_empty(), "{what}");
    }
    // What no scope opens is not there, and nobody is sent for more scopes.
    for tool in ["set_never", "nonsense"] {
        let answer = stage.ask(&call(tool, &token(&idp, &key, "read write confirm"))).await;
        assert_eq!((answer.status, answer.code()), (200, -32602), "{}", answer.text());
        assert_eq!(answer.field("www-authenticate"), None);
        let answer = stage.ask(&call(tool, &token(&idp, &key, ""))).await;
        assert_eq!((answer.status, answer.code()), (200, -32602), "{}", answer.text());
    }
    let refused = [r#"reason="scope_missing"} 7"#, r#"reason="policy_hidden"} 4"#];
    stage.gateway.metrics_with_all(&refused).await;
}

#[tokio::test]
async fn lists_show_what_more_scopes_would_open() {
    let key = Key::new("a");
    let idp = Idp::start(&[&key]).await;
    let mut stage = stage(&idp).await;
    let tools =
        ["get_x", "set_x", "set_never", "echo", "nonsense"].map(|name| json!({ "name": name }));
    let list = json!({ "tools": tools });
    let upstream = Upstream::start(move |request| {
        let id = request.json()["id"].clone();
        json_answer(200, "", &json!({ "jsonrpc": "2.0", "id": id, "result": list }))
    })
    .await;
    let address = |upstream: &Upstream| upstream.address.to_string();
    let yaml = stage.gateway.config().replace(&address(&stage.upstream), &address(&upstream));
    std::fs::write(stage.gateway.folder().join("toolgate.yaml"), yaml).expect("written");
    stage.gateway.signal("HUP");
    stage.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 1"#).await;
    stage.upstream = upstream;
    let ask = Message::modern(5, "tools/list", json!({}));
    let ask = ask.field("authorization", &format!("Bearer {}", token(&idp, &key, "")));
    let list: Value = stage.ask(&ask).await.json();
    let shown = list["result"]["tools"].as_array().expect("a list");
    let names: Vec<_> = shown.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["get_x", "set_x", "echo"]);
}
