//! Discovery: endpoints come from a file or a name while the gateway runs, and a bad answer changes nothing.

use crate::support::client;
use crate::support::gateway::{Folder, Gateway};
use crate::support::message::Message;
use crate::support::upstream::Upstream;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

fn discovered(how: &str) -> String {
    format!(
        "servers: {{ one: {{ discovery: {{ {how} }}, balance: {{ algorithm: round_robin }} }} }}\nroutes: [{{ path: /mcp, server: one }}]\n"
    )
}

fn by_file(path: &Path) -> String {
    discovered(&format!("file: {}", path.display()))
}

/// Which of these servers answer calls now, each by its name.
async fn answering(gateway: &Gateway) -> Vec<String> {
    let mut names = Vec::new();
    for id in 0..6 {
        let answer = client::exchange(gateway.address, &Message::call(id, "echo").bytes()).await;
        match answer.status {
            200 => {
                let result = &answer.json()["result"];
                names.push(result["content"][0]["text"].as_str().expect("a text").to_owned());
            }
            status => names.push(status.to_string()),
        }
    }
    names.sort();
    names.dedup();
    names
}

async fn answers_come_from(gateway: &Gateway, expected: &[&str], what: &str) {
    let began = Instant::now();
    loop {
        let found = answering(gateway).await;
        if found == expected {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{what}: {found:?}\n{}",
            gateway.diagnostics()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let folder = Folder::new();
    let file = folder.write("endpoints.yaml", &format!("- {}\n", one.url()));
    let gateway = Gateway::start(&by_file(&file)).await;
    assert_eq!(answering(&gateway).await, ["one"], "found before the gateway listens");

    folder.write("endpoints.yaml", &format!("- {}\n- {}\n", one.url(), two.url()));
    answers_come_from(&gateway, &["one", "two"], "added").await;

    let bad = ["", "- http://127.0.0.1:1/\n- ht", "- http://127.0.0.1:1/", "{{{\n"];
    for (before, bad) in bad.into_iter().enumerate() {
        folder.write("endpoints.yaml", bad);
        let began = Instant::now();
        while gateway.diagnostics().matches("endpoints not read").count() == before {
            assert!(began.elapsed() < Duration::from_secs(10), "{bad:?} was not noticed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let metrics = gateway.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with("toolgate_discovery_failing"));
        assert!(line.is_some_and(|line| line.ends_with(" 1")), "{bad:?}: {line:?}");
        assert_eq!(answering(&gateway).await, ["one", "two"], "{bad:?}");
    }
    // A bad file is reported once, not with every look.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let warnings = gateway.diagnostics().matches("endpoints not read").count();
    assert_eq!(warnings, 4, "{}", gateway.diagnostics());

    folder.write("endpoints.yaml", &format!("[{}]\n", two.url()));
    answers_come_from(&gateway, &["two"], "removed").await;
    assert!(gateway.diagnostics().contains("endpoints read again"));

    folder.write("endpoints.yaml", "[]\n");
    answers_come_from(&gateway, &["503"], "no endpoint").await;
}

#[tokio::test]
async fn a_swap_of_links_is_a_change() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let folder = Folder::new();
    // As Kubernetes mounts a ConfigMap: the file is a link through a link to a folder.
    let root = folder.path();
    for (version, upstream) in [("v1", &one), ("v2", &two)] {
        std::fs::create_dir(root.join(version)).expect("a folder");
        folder.write(&format!("{version}/endpoints.yaml"), &format!("- {}\n", upstream.url()));
    }
    symlink("v1", root.join("current")).expect("a link");
    symlink("current/endpoints.yaml", root.join("endpoints.yaml")).expect("a link");
    let gateway = Gateway::start(&by_file(&root.join("endpoints.yaml"))).await;
    answers_come_from(&gateway, &["one"], "at first").await;
    symlink("v2", root.join("next")).expect("a link");
    std::fs::rename(root.join("next"), root.join("current")).expect("swapped");
    answers_come_from(&gateway, &["two"], "swapped").await;
    assert!(!gateway.diagnostics().contains("not read"), "{}", gateway.diagnostics());
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint() {
    let upstream = Upstream::mcp("one").await;
    let port = upstream.address.port();
    let gateway = Gateway::start(&discovered(&format!("dns: http://localhost:{port}/mcp"))).await;
    let state = format!(
        r#"toolgate_endpoint_state{{endpoint="http://127.0.0.1:{port}/mcp",server="one",state="#
    );
    gateway.metrics_with(&state).await;
    let answer = client::exchange(gateway.address, &Message::call(1, "echo").bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let host = format!("localhost:{port}");
    assert_eq!(upstream.take()[0].field("host"), Some(host.as_str()), "spoken to by its name");
}

#[tokio::test]
async fn a_name_that_was_never_found_is_503_and_said_once() {
    let gateway = Gateway::start(&discovered("dns: http://no-such-host.invalid:80/mcp")).await;
    let answer = client::exchange(gateway.address, &Message::call(7, "echo").bytes()).await;
    assert_eq!((answer.status, answer.json()["id"].clone()), (503, json!(7)));
    let began = Instant::now();
    let failing = r#"toolgate_discovery_failing{server="one",source="no-such-host.invalid"} 1"#;
    // The machine's name servers, if it has any, may take their time.
    while !gateway.metrics().await.contains(failing) {
        assert!(began.elapsed() < Duration::from_secs(15), "{}", gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.diagnostics().matches("name not resolved;").count(), 1);
}
