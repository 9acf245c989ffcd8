//! The admin API: every answer it gives, endpoints and servers that come and go, and the command that shows them.

use crate::support::client;
use crate::support::gateway::{Folder, Gateway, free_address, toolgate};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::{Upstream, sections};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A gateway with the server `one` and tokens for every role.
async fn start(upstream: &Upstream) -> (Gateway, Operator) {
    start_with(&sections(&[upstream.url()], "")).await
}

async fn start_with(sections: &str) -> (Gateway, Operator) {
    let admin = free_address();
    let gateway = Gateway::start(&format!("{sections}{}", operator::section(admin))).await;
    (gateway, ready(admin).await)
}

/// The admin listener may come up a moment after the health listener.
async fn ready(admin: std::net::SocketAddr) -> Operator {
    let began = Instant::now();
    while client::try_exchange(admin, &client::get("/live")).await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "the admin listener does not answer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Operator::new(admin)
}

/// Calls until every name has answered, and nobody else.
async fn answered_by(gateway: &Gateway, path: &str, names: &[&str]) {
    let mut missing: Vec<&str> = names.to_vec();
    let began = Instant::now();
    for id in 0.. {
        let answer =
            client::exchange(gateway.address, &Message::call(id, "echo").at(path).bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let name = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(names.contains(&name), "{answer}");
        missing.retain(|missing| *missing != name);
        if missing.is_empty() && id > 20 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "never answered: {missing:?}");
    }
}

fn leased(upstream: &Upstream) -> Value {
    json!({ "url": upstream.url(), "lease": "30s" })
}

#[tokio::test]
async fn every_refusal_has_its_status_and_changes_nothing() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let (gateway, operator) = start(&one).await;
    let own = operator.endpoints("one").await[0]["id"].as_str().expect("an id").to_owned();
    let before = operator.ask("GET", "/v1/servers/one", &Value::Null).await;
    let (new, own) = ("/v1/servers/one/endpoints/new", format!("/v1/servers/one/endpoints/{own}"));
    let (nothing, good) = (Value::Null, leased(&two));
    let configured = json!({ "url": one.url(), "lease": "30s" });
    let rows: [(&'static str, &str, &str, &Value, u16); 38] = [
        ("", "GET", "/v1/servers", &nothing, 401),
        ("wrong", "GET", "/v1/servers", &nothing, 401),
        ("", "GET", "/v1/nothing", &nothing, 401),
        ("", "PUT", new, &good, 401),
        ("read", "PUT", new, &good, 403),
        ("read", "POST", "/v1/reload", &json!({}), 403),
        ("register:one", "POST", "/v1/reload", &json!({}), 403),
        ("register:one", "PUT", "/v1/servers/new", &json!({}), 403),
        ("register:one", "PUT", "/v1/servers/two/endpoints/new", &good, 403),
        ("read", "GET", "/v1/servers/two", &nothing, 404),
        ("operate", "GET", "/v1/nothing", &nothing, 404),
        ("operate", "GET", "/v1/servers/", &nothing, 404),
        ("operate", "PUT", "/v1/servers/two/endpoints/new", &good, 404),
        ("operate", "DELETE", new, &nothing, 404),
        ("operate", "DELETE", "/v1/servers/two", &nothing, 404),
        ("operate", "POST", "/v1/servers/one/endpoints/new/drain", &json!({}), 404),
        ("operate", "POST", "/v1/servers/one/endpoints/new/undrain", &json!({}), 404),
        ("operate", "DELETE", &own, &nothing, 409),
        ("operate", "DELETE", "/v1/servers/one", &nothing, 409),
        ("operate", "PUT", "/v1/servers/one", &json!({ "endpoints": [] }), 409),
        ("register:one", "PUT", new, &configured, 409),
        ("register:one", "PUT", &own, &good, 409),
        ("operate", "POST", "/v1/servers", &json!({}), 405),
        ("operate", "POST", "/v1/servers/one", &json!({}), 405),
        ("operate", "GET", new, &nothing, 405),
        ("operate", "GET", "/v1/reload", &nothing, 405),
        ("operate", "PUT", "/v1/servers/one/endpoints/a%20b", &good, 400),
        ("operate", "PUT", new, &json!({ "lease": "30s" }), 400),
        ("operate", "PUT", new, &json!({ "url": two.url() }), 400),
        ("operate", "PUT", new, &json!({ "url": two.url(), "lease": "30s", "tiem": 1 }), 400),
        ("operate", "PUT", "/v1/servers/one/endpoints/new?dry=1", &good, 400),
        ("operate", "PUT", new, &json!({ "url": "ftp://h/", "lease": "30s" }), 422),
        ("operate", "PUT", new, &json!({ "url": two.url(), "lease": "soon" }), 422),
        ("operate", "PUT", new, &json!({ "url": two.url(), "lease": "30s", "weight": 0 }), 422),
        ("operate", "POST", &format!("{own}/drain"), &json!({ "deadline": "later" }), 422),
        ("operate", "PUT", "/v1/servers/new", &json!({ "endpoints": ["http://h:0/"] }), 422),
        (
            "operate",
            "PUT",
            "/v1/servers/new",
            &json!({ "endpoints": ["http://h/"], "tiemouts": {} }),
            422,
        ),
        (
            "operate",
            "PUT",
            "/v1/servers/new",
            &json!({ "endpoints": ["http://h/"], "routes": [{ "path": "/mcp" }] }),
            422,
        ),
    ];
    for (role, verb, path, body, status) in rows {
        let answer = operator.with(role).ask(verb, path, body).await;
        let what = format!("{role} {verb} {path} {body}: {}", answer.text());
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.json()["error"].is_string(), "{what}");
        assert_eq!(answer.field("www-authenticate").is_some(), status == 401, "{what}");
        assert_eq!(answer.field("allow").is_some(), status == 405, "{what}");
    }
    let after = operator.ask("GET", "/v1/servers/one", &nothing).await;
    assert_eq!(before.field("etag"), after.field("etag"));
    answered_by(&gateway, "/mcp", &["one"]).await;
}

#[tokio::test]
async fn bodies_that_are_none_are_refused() {
    let one = Upstream::mcp("one").await;
    let (_gateway, operator) = start(&one).await;
    let new = "/v1/servers/one/endpoints/new";
    let json = "content-type: application/json\r\n";
    let large = format!("{{\"url\":\"{}\"}}", "x".repeat(64 * 1024));
    let good = leased(&one).to_string();
    for (fields, body, status) in [
        (json, "{", 400),
        (json, "\u{0}\u{1}", 400),
        (json, "[]", 400),
        (json, "", 400),
        (json, "{\"url\":1,\"lease\":\"30s\"}", 400),
        (json, large.as_str(), 413),
        ("", good.as_str(), 415),
        ("content-type: text/plain\r\n", good.as_str(), 415),
    ] {
        let answer = operator.send("PUT", new, fields, body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let answer = operator.send("GET", "/v1/servers", json, "{}").await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let twice = "authorization: Bearer operate\r\n";
    assert_eq!(operator.send("GET", "/v1/servers", twice, "").await.status, 401);
    assert_eq!(operator.endpoints("one").await.len(), 1);
}

#[tokio::test]
async fn servers_are_listed_with_their_endpoints() {
    let one = Upstream::mcp("one").await;
    let server = ", owner: team-a, description: what it does, on_endpoint_loss: not_found";
    let (_gateway, operator) = start_with(&sections(&[one.url()], server)).await;
    let answer = operator.with("read").ask("GET", "/v1/servers", &Value::Null).await;
    let mut listed = answer.json()["servers"][0].clone();
    let time = |value: &Value| {
        let time = value.as_str().expect("a time");
        time.len() == 20 && time.starts_with("20") && time.ends_with('Z')
    };
    assert!(time(&listed["last_change"].take()) && time(&listed["endpoints"][0]["since"].take()));
    let id = listed["endpoints"][0]["id"].take();
    assert_eq!(id.as_str().map(str::len), Some(16));
    let endpoint = json!({
        "id": null, "url": one.url(), "weight": 1, "source": "configured", "state": "serving",
        "since": null, "sessions": 0, "in_flight": 0, "streams": 0, "lease_seconds_left": null,
        "drain_deadline": null, "permanent": false,
    });
    let expected = json!({
        "name": "one", "owner": "team-a", "description": "what it does", "source": "configured",
        "routes": ["/mcp"], "on_endpoint_loss": "not_found", "sessions": 0, "in_flight": 0, "streams": 0,
        "last_change": null, "endpoints": [endpoint], "catalog": {
            "state": "off", "fault": null, "listed": null, "last_change": null,
            "tools": 0, "prompts": 0, "resources": 0, "templates": 0,
        },
        "era": null, "revisions": [], "on_change": "record", "tools": [], "pending": [], "alike": [],
    });
    assert_eq!(listed, expected);
    let shown = operator.ask("GET", "/v1/servers/one", &Value::Null).await;
    let tag = shown.field("etag").expect("a tag").to_owned();
    let again = |tag: String| {
        let operator = operator.clone();
        async move {
            let fields = format!("if-none-match: {tag}\r\n");
            operator.send("GET", "/v1/servers/one", &fields, "").await.status
        }
    };
    assert_eq!(again(tag.clone()).await, 304);
    assert_eq!(again(format!("\"0\", W/{tag}")).await, 304);
    assert_eq!(again("\"0\"".to_owned()).await, 200);
}

#[tokio::test]
async fn a_change_that_was_meant_for_another_state_is_412() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let (_gateway, operator) = start(&one).await;
    let shown = operator.ask("GET", "/v1/servers/one", &Value::Null).await;
    let stale = shown.field("etag").expect("a tag").to_owned();
    let fields = |tag: &str| format!("content-type: application/json\r\nif-match: {tag}\r\n");
    let path = "/v1/servers/one/endpoints/two";
    let body = leased(&two).to_string();
    let made = operator.send("PUT", path, &fields(&stale), &body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let fresh = made.field("etag").expect("a tag").to_owned();
    assert_ne!(stale, fresh);
    let renewed = operator.send("PUT", path, &fields(&fresh), &body).await;
    assert_eq!((renewed.status, renewed.field("etag")), (200, Some(&*fresh)), "a heartbeat");
    for (verb, path, body) in [
        ("PUT", path, body.as_str()),
        ("DELETE", path, ""),
        ("POST", "/v1/servers/one/endpoints/two/drain", "{}"),
        ("POST", "/v1/servers/one/endpoints/two/undrain", "{}"),
        ("PUT", "/v1/servers/new", "{\"endpoints\":[]}"),
        ("POST", "/v1/reload", "{}"),
    ] {
        let answer = operator.send(verb, path, &fields(&stale), body).await;
        assert_eq!(answer.status, 412, "{verb} {path}: {}", answer.text());
    }
    assert_eq!(operator.endpoints("one").await.len(), 2);
    let drained =
        operator.send("POST", "/v1/servers/one/endpoints/two/drain", &fields(&fresh), "").await;
    assert_eq!(drained.status, 200, "{}", drained.text());
    assert_ne!(drained.field("etag"), Some(&*fresh));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let (gateway, operator) = start(&one).await;
    let made = operator.ask("PUT", "/v1/servers/one/endpoints/kept", &leased(&two)).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let before = operator.ask("GET", "/v1/servers", &Value::Null).await.json();
    let other = json!({ "url": "http://127.0.0.1:1/mcp", "lease": "permanent" });
    let new = json!({ "endpoints": [two.url()], "routes": [{ "path": "/new" }] });
    for (verb, path, body, status) in [
        ("PUT", "/v1/servers/one/endpoints/new", &other, 201),
        ("PUT", "/v1/servers/one/endpoints/kept", &other, 200),
        ("DELETE", "/v1/servers/one/endpoints/kept", &Value::Null, 200),
        ("POST", "/v1/servers/one/endpoints/kept/drain", &json!({}), 200),
        ("PUT", "/v1/servers/new", &new, 201),
        ("PUT", "/v1/servers/one", &new, 409),
        ("POST", "/v1/reload", &json!({}), 200),
    ] {
        let answer = operator.ask(verb, &format!("{path}?dry_run=true"), body).await;
        assert_eq!(answer.status, status, "{verb} {path}: {}", answer.text());
        assert!(status == 409 || answer.json()["dry_run"] == true, "{}", answer.text());
    }
    let strip = |mut servers: Value| {
        for endpoint in servers["servers"][0]["endpoints"].as_array_mut().expect("a list") {
            endpoint["lease_seconds_left"].take();
        }
        servers
    };
    let after = operator.ask("GET", "/v1/servers", &Value::Null).await.json();
    assert_eq!(strip(after), strip(before));
    let answer =
        client::exchange(gateway.address, &Message::call(1, "echo").at("/new").bytes()).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn a_leased_endpoint_takes_calls_until_its_lease_ends() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let balance = ", balance: { algorithm: round_robin }";
    let (gateway, operator) = start_with(&sections(&[one.url()], balance)).await;
    let registrar = operator.with("register:one");
    let path = "/v1/servers/one/endpoints/two";
    let lease = |time: &str| json!({ "url": two.url(), "weight": 3, "lease": time });
    assert_eq!(registrar.ask("PUT", path, &lease("30s")).await.status, 201);
    answered_by(&gateway, "/mcp", &["one", "two"]).await;
    let listed = operator.endpoints("one").await[1].clone();
    assert_eq!((&listed["id"], &listed["source"]), (&json!("two"), &json!("registered")));
    assert_eq!((&listed["weight"], &listed["permanent"]), (&json!(3), &json!(false)));
    assert!((1..=30).contains(&listed["lease_seconds_left"].as_u64().unwrap_or_default()));

    assert_eq!(registrar.ask("PUT", path, &lease("1s")).await.status, 200);
    let began = Instant::now();
    while operator.endpoints("one").await.len() > 1 {
        assert!(began.elapsed() < Duration::from_secs(10), "the lease does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answered_by(&gateway, "/mcp", &["one"]).await;
    assert!(gateway.diagnostics().contains("the lease has ended"));

    assert_eq!(registrar.ask("PUT", path, &lease("30s")).await.status, 201);
    assert_eq!(registrar.ask("DELETE", path, &Value::Null).await.status, 200);
    answered_by(&gateway, "/mcp", &["one"]).await;
    let log = gateway.diagnostics();
    for words in
        ["role=\"register:one\"", "what=\"register\"", "what=\"deregister\"", "of=\"one/two\""]
    {
        assert!(log.contains(words), "no {words} in\n{log}");
    }
}

#[tokio::test]
async fn what_is_registered_for_good_survives_a_restart() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let admin = free_address();
    let address = free_address();
    let balance = ", balance: { algorithm: round_robin }";
    let yaml = format!(
        "listen: {address}\n{}{}",
        sections(&[one.url()], balance),
        operator::section(admin)
    );
    let gateway = Gateway::start_at(&yaml, address).await;
    let operator = ready(admin).await;
    let permanent = json!({ "url": two.url(), "lease": "permanent" });
    let new = json!({ "owner": "x", "endpoints": [two.url()], "routes": [{ "path": "/new" }] });
    assert_eq!(operator.ask("PUT", "/v1/servers/one/endpoints/two", &permanent).await.status, 201);
    assert_eq!(operator.ask("PUT", "/v1/servers/new", &new).await.status, 201);
    let gateway = gateway.restart(&yaml).await;
    let operator = ready(operator.address).await;
    answered_by(&gateway, "/mcp", &["one", "two"]).await;
    answered_by(&gateway, "/new", &["two"]).await;
    assert_eq!(operator.endpoints("one").await[1]["permanent"], true);
    assert_eq!(operator.server("new").await["source"], "registered");

    let path = "/v1/servers/one/endpoints/two";
    assert_eq!(operator.ask("DELETE", path, &Value::Null).await.status, 200);
    assert_eq!(operator.ask("DELETE", "/v1/servers/new", &Value::Null).await.status, 200);
    let gateway = gateway.restart(&yaml).await;
    let operator = ready(operator.address).await;
    answered_by(&gateway, "/mcp", &["one"]).await;
    let listed = operator.ask("GET", "/v1/servers", &Value::Null).await.json();
    assert_eq!(listed["servers"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn a_registered_server_is_served_at_once() {
    let (one, two, three) =
        (Upstream::mcp("one").await, Upstream::mcp("two").await, Upstream::mcp("three").await);
    let (gateway, operator) = start(&one).await;
    let path = "/v1/servers/new";
    let body = |upstream: &Upstream, route: &str| json!({ "owner": "team-n", "endpoints": [upstream.url()], "routes": [{ "path": route }] });
    let made = operator.ask("PUT", path, &body(&two, "/new")).await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(
        (&made.json()["owner"], &made.json()["routes"]),
        (&json!("team-n"), &json!(["/new"]))
    );
    answered_by(&gateway, "/new", &["two"]).await;
    assert_eq!(operator.ask("PUT", path, &body(&three, "/newer")).await.status, 200);
    answered_by(&gateway, "/newer", &["three"]).await;
    let bad = operator.ask("PUT", path, &body(&three, "/mcp")).await;
    assert_eq!(bad.status, 422);
    assert!(bad.json()["error"].as_str().is_some_and(|told| told.contains("already defined")));
    answered_by(&gateway, "/newer", &["three"]).await;
    assert_eq!(operator.ask("DELETE", path, &Value::Null).await.status, 200);
    for route in ["/new", "/newer"] {
        let call = Message::call(1, "echo").at(route);
        assert_eq!(client::exchange(gateway.address, &call.bytes()).await.status, 404, "{route}");
    }
    answered_by(&gateway, "/mcp", &["one"]).await;
}

#[tokio::test]
async fn a_drained_endpoint_gets_no_new_session_until_it_is_undrained() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let balance = ", balance: { algorithm: round_robin }";
    let (gateway, operator) = start_with(&sections(&[one.url(), two.url()], balance)).await;
    let id = operator.endpoints("one").await[0]["id"].as_str().expect("an id").to_owned();
    let path = |verb: &str| format!("/v1/servers/one/endpoints/{id}/{verb}");
    answered_by(&gateway, "/mcp", &["one", "two"]).await;
    let drained = operator.ask("POST", &path("drain"), &json!({ "deadline": "1h" })).await;
    assert_eq!(drained.status, 200, "{}", drained.text());
    assert_eq!(drained.json()["state"], "draining");
    assert!(drained.json()["drain_deadline"].is_string());
    one.take();
    for _ in 0..10 {
        let opened = client::exchange(gateway.address, &Message::initialize().bytes()).await;
        assert_eq!(opened.status, 200);
    }
    answered_by(&gateway, "/mcp", &["two"]).await;
    assert!(one.take().is_empty(), "a drained endpoint got something new");
    let undrained = operator.with("register:one").ask("POST", &path("undrain"), &json!({})).await;
    assert_eq!((undrained.status, &undrained.json()["state"]), (200, &json!("serving")));
    answered_by(&gateway, "/mcp", &["one", "two"]).await;
}

#[tokio::test]
async fn without_tokens_there_is_no_api() {
    let one = Upstream::mcp("one").await;
    let admin = free_address();
    let gateway =
        Gateway::start(&format!("{}admin: {{ listen: {admin} }}\n", one.sections())).await;
    let began = Instant::now();
    let ask = |path: &str, host: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer operate\r\nconnection: close\r\n\r\n"
        );
        async move { client::try_exchange(admin, request.as_bytes()).await }
    };
    while ask("/live", "localhost").await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    for (path, host, status) in [
        ("/v1/servers", "localhost", 404),
        ("/ready", "localhost", 200),
        ("/ready", "evil.example.com", 421),
        ("/v1/servers", "evil.example.com", 421),
    ] {
        assert_eq!(
            ask(path, host).await.map(|answer| answer.status),
            Some(status),
            "{path} {host}"
        );
    }
    answered_by(&gateway, "/mcp", &["one"]).await;
}

#[tokio::test]
async fn the_command_shows_the_servers_of_a_gateway() {
    let one = Upstream::mcp("one").await;
    let (_gateway, operator) = start_with(&sections(&[one.url()], ", owner: team-a")).await;
    let folder = Folder::new();
    let token = folder.write("token", "read\n").display().to_string();
    let wrong = folder.write("wrong", "wrong").display().to_string();
    let (url, nobody) =
        (format!("http://{}", operator.address), format!("http://{}", free_address()));
    let yaml =
        format!("listen: 127.0.0.1:1\n{}{}", one.sections(), operator::section(operator.address));
    let config = folder.write("toolgate.yaml", &yaml).display().to_string();
    let without = folder.write("without.yaml", &format!("listen: 127.0.0.1:1\n{}", one.sections()));
    let without = without.display().to_string();
    let bad = folder.write("bad.yaml", "{").display().to_string();
    let rows: [(&[&str], i32, &str); 9] = [
        (&["--admin", &url, "--token-file", &token], 0, "one  /mcp  owner team-a"),
        (&["--config", &config, "--token-file", &token], 0, "serving"),
        (&["--admin", &url, "--token-file", &token, "--json"], 0, "\"on_endpoint_loss\": \"move\""),
        (&["--admin", &url, "--token-file", &wrong], 1, "does not know this token"),
        (&["--admin", &url, "--token-file", "/no/such/file"], 1, "cannot read /no/such/file"),
        (&["--admin", &nobody, "--token-file", &token], 1, "cannot reach"),
        (&["--config", &without, "--token-file", &token], 1, "no `admin` section"),
        (&["--config", &bad], 78, "problem"),
        (&["--admin", &url, "--config", &config], 2, "cannot be used with"),
    ];
    for (arguments, code, words) in rows {
        let arguments = [&["servers"], arguments].concat();
        let shown = arguments.join(" ");
        let owned: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let run = move || toolgate(&owned.iter().map(String::as_str).collect::<Vec<_>>());
        let output = tokio::task::spawn_blocking(run).await.expect("the command");
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert_eq!(output.status.code(), Some(code), "{shown}: {told}");
        assert!(told.contains(words), "{shown}: no {words} in\n{told}");
    }
}
