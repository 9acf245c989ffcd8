//! What `toolgate check --ask` says of servers that are shown as one, before anybody uses them.

use super::{Eras, Server, sections};
use crate::support::gateway::{Folder, free_address, toolgate};

fn check(yaml: &str) -> (Option<i32>, String) {
    let folder = Folder::new();
    let config = folder.write("toolgate.yaml", &format!("listen: 127.0.0.1:1\n{yaml}"));
    let output = toolgate(&["check", "--ask", "--config", &config.display().to_string()]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(left.len(), 1, "checking leaves nothing behind: {left:?}");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn eras_names_and_silence_are_told_before_anybody_calls() {
    let long = "a".repeat(80);
    let modern = Server::with_tools("modern", &["search", &long]).speaking(Eras::Modern);
    let legacy = Server::with_tools("legacy", &["search", "read me"]).speaking(Eras::Legacy);
    let (modern, legacy) = (modern.start().await, legacy.start().await);
    let urls = [("modern", modern.url()), ("legacy", legacy.url())];
    let members = "servers: [{ name: modern }, { name: legacy }]";
    let (code, said) = check(&sections(&urls, members, ""));
    assert_eq!(code, Some(1), "{said}");
    for expected in [
        "server modern: modern (2026-07-28), tools: 2, prompts: 0",
        "server legacy: legacy (2025-11-25), tools: 2",
        "warning: /mcp: modern: it speaks only modern revisions",
        "warning: /mcp: legacy: it speaks only legacy revisions",
        "warning: /mcp: tools \"search\" of modern: another server offers \"search\" too",
        "warning: /mcp: tools \"search\" of legacy: another server offers \"search\" too",
        &format!(
            "note: /mcp: tools \"{long}\" of modern: clients would not take the name, so it is shown as aaaa"
        ),
        "note: /mcp: tools \"read me\" of legacy: clients would not take the name",
    ] {
        assert!(said.contains(expected), "no {expected} in\n{said}");
    }

    let silent = [("modern", modern.url()), ("gone", format!("http://{}/mcp", free_address()))];
    let members = "servers: [{ name: modern }, { name: gone, prefix: g_ }]";
    let (code, said) = check(&sections(&silent, members, ""));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("warning: server gone: it is not known what it offers: "), "{said}");

    let alone = [("modern", modern.url())];
    let (code, said) = check(&sections(&alone, "server: modern", ""));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("warning") && said.contains("tools: 2"), "{said}");
}
