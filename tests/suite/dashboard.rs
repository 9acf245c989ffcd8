//! The dashboard: a page that holds nothing and may do little, and the two answers that fill it.

use crate::policy_calls::{by, identity, willing};
use crate::support::client::{self, Answer};
use crate::support::gateway::{Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The answer of an admin listener, which may come up a moment after the gateway.
async fn asked(address: SocketAddr, verb: &str, path: &str, host: &str) -> Answer {
    let request = format!(
        "{verb} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let began = Instant::now();
    loop {
        if let Some(answer) = client::try_exchange(address, request.as_bytes()).await {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the admin listener does not answer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The counts of the row in which `key` is `name`, by outcome.
fn counts(live: &Value, list: &str, key: &str, name: &str) -> Value {
    let rows = live["calls"][list]["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row[key] == name);
    let row = row.unwrap_or_else(|| panic!("no {name} in {list}: {rows:?}"));
    let outcomes = live["calls"]["outcomes"].as_array().expect("outcomes");
    outcomes
        .iter()
        .zip(row["counts"].as_array().expect("counts"))
        .filter(|(_, count)| **count != 0)
        .map(|(outcome, count)| (outcome.as_str().expect("a word").to_owned(), count.clone()))
        .collect()
}

#[tokio::test]
async fn the_page_may_do_nothing_but_what_stands_in_it() {
    let upstream = willing().await;
    let admin = free_address();
    let sections = format!("{}{}", upstream.sections(), operator::section(admin));
    let _gateway = Gateway::start(&sections).await;
    for path in ["/", "/dashboard"] {
        let page = asked(admin, "GET", path, "admin.internal:9901").await;
        assert_eq!(page.status, 200, "{}", page.text());
        let text = page.text();
        let policy = page.field("content-security-policy").expect("a policy");
        for (element, directive) in [("script", "script-src"), ("style", "style-src")] {
            let (_, inside) = text.split_once(&format!("<{element}>")).expect("it begins");
            let (inside, _) = inside.split_once(&format!("</{element}>")).expect("it ends");
            let hash = STANDARD.encode(digest(&SHA256, inside.as_bytes()));
            let wanted = format!("{directive} 'sha256-{hash}'");
            assert!(policy.split("; ").any(|one| one == wanted), "{wanted} in {policy}");
        }
        for wanted in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|one| one == wanted), "{wanted} in {policy}");
        }
        for (name, value) in [
            ("content-type", "text/html; charset=utf-8"),
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(page.field(name), Some(value), "{name}");
        }
        assert!(text.contains("data-api=\"on\""));
        assert!(!text.contains(&upstream.url()), "it holds nothing");
    }
    let posted = asked(admin, "POST", "/", "admin.internal:9901").await;
    assert_eq!((posted.status, posted.field("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn without_tokens_the_page_says_so_to_this_machine_only() {
    let upstream = willing().await;
    let admin = free_address();
    let sections = format!("{}admin: {{ listen: {admin} }}\n", upstream.sections());
    let _gateway = Gateway::start(&sections).await;
    let page = asked(admin, "GET", "/", &admin.to_string()).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("data-api=\"off\""));
    assert_eq!(asked(admin, "GET", "/", "rebound.example.com").await.status, 421);
    for path in ["/v1/live", "/v1/config"] {
        assert_eq!(asked(admin, "GET", path, &admin.to_string()).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn live_counts_calls_by_every_name_and_what_refused_them() {
    let upstream = willing().await;
    let admin = free_address();
    let policy = "policy:
  rules:
    - { name: open, allow: {} }
    - { name: no-shell, deny: { tools: [shell] } }
    - { name: trial, mode: shadow, deny: { tools: [beta] } }
limits: [{ name: slow, key: [caller, tool], rate: 2/h }]
";
    let gateway = Gateway::start(&format!(
        "{}{}{policy}{}",
        upstream.sections(),
        identity(),
        operator::section(admin)
    ))
    .await;
    for (caller, tool, status) in [
        ("ann", "alpha", 200),
        ("ann", "alpha", 200),
        ("bob", "beta", 200),
        ("bob", "shell", 200),
        ("ann", "dear", 200),
        ("ann", "dear", 200),
        ("ann", "dear", 429),
    ] {
        let message = by(caller, Message::call(1, tool));
        let answer = client::exchange(gateway.address, &message.bytes()).await;
        assert_eq!(answer.status, status, "{tool}: {}", answer.text());
    }
    gateway.log(7).await;
    asked(admin, "GET", "/live", "x").await;
    let operator = Operator::new(admin);
    for (role, status) in [("", 401), ("wrong", 401), ("read", 200), ("register:one", 200)] {
        let answer = operator.with(role).ask("GET", "/v1/live", &Value::Null).await;
        assert_eq!(answer.status, status, "{role}: {}", answer.text());
    }
    assert_eq!(operator.ask("POST", "/v1/live", &json!({})).await.status, 405);
    let live = operator.with("read").ask("GET", "/v1/live", &Value::Null).await.json();
    assert_eq!(counts(&live, "tools", "tool", "alpha"), json!({ "ok": 2 }));
    assert_eq!(counts(&live, "tools", "tool", "dear"), json!({ "ok": 2, "refused": 1 }));
    assert_eq!(counts(&live, "callers", "caller", "bob"), json!({ "ok": 1, "refused": 1 }));
    assert_eq!(counts(&live, "servers", "server", "one"), json!({ "ok": 5, "refused": 2 }));
    assert_eq!(counts(&live, "routes", "route", "/mcp"), json!({ "ok": 5, "refused": 2 }));
    let rules = json!([{ "rule": "no-shell", "reason": "policy_hidden", "value": 1.0 }]);
    assert_eq!(live["policy"]["denials"], rules);
    assert_eq!(live["policy"]["shadow"][0]["rule"], "trial");
    let limited = live["limits"]["limited"].as_array().expect("limits");
    let slow = limited.iter().find(|row| row["limit"] == "slow" && row["why"] == "rate");
    assert_eq!(slow.map(|row| &row["value"]), Some(&json!(1.0)));
    let refused = live["calls"]["refused"]["rows"].as_array().expect("rows");
    assert!(refused.iter().any(|row| row["caller"] == "ann" && row["tool"] == "dear"), "{live}");
    assert_eq!(live["latency"]["routes"]["rows"][0]["count"], 7);
    assert_eq!(live["overhead"]["rows"][0]["name"], "/mcp");
    assert_eq!((&live["role"], &live["shared"]["configured"]), (&json!("read"), &json!(false)));
    let again = operator.ask("GET", "/v1/live", &Value::Null).await.json();
    assert!(again["clock_ms"].as_u64() >= live["clock_ms"].as_u64());
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets() {
    let upstream = willing().await;
    let admin = free_address();
    let server = "credentials: { header: x-key, value: hidden-credential-value }";
    let sections = format!(
        "{}{}{}# hidden-in-a-comment
sessions: {{ keys: [hidden-session-key-of-thirty-two-characters] }}
shared: {{ redis: 'redis://me:hidden-password@127.0.0.1:1/' }}
",
        crate::support::upstream::sections(&[upstream.url()], &format!(", {server}")),
        identity(),
        operator::section(admin),
    );
    let _gateway = Gateway::start(&sections).await;
    asked(admin, "GET", "/live", "x").await;
    let operator = Operator::new(admin).with("read");
    assert_eq!(operator.with("").ask("GET", "/v1/config", &Value::Null).await.status, 401);
    let answer = operator.ask("GET", "/v1/config", &Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let of_key = digest(&SHA256, b"key-of-ann");
    let of_key: String = of_key.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in ["hidden", of_key.as_str(), "redis://"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let shown = answer.json();
    let shown = shown["files"][0]["text"].as_str().expect("a text");
    for kept in ["caller: ann, sha256: ****", "redis: ****", "keys: [****]", "value: ****"] {
        assert!(shown.contains(kept), "{kept} not in {shown}");
    }
    let live = operator.ask("GET", "/v1/live", &Value::Null).await.json();
    assert_eq!(answer.field("etag"), Some(live["configuration"].to_string().as_str()));
    let standing = live["shared"]["standing"].as_str().expect("a standing");
    assert!(!standing.contains("hidden"), "{standing}");
}
