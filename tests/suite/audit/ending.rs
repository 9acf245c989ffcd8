//! The record when a process ends, is killed, is upgraded, or cannot write.

use super::{Recorded, SOON, says};
use crate::support::client::Client;
use crate::support::gateway::Folder;
use crate::support::message::Message;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_record_is_closed_by_a_stop_and_not_by_a_kill() {
    for (signal, state) in [("TERM", ", closed"), ("KILL", "not closed")] {
        let mut it = Recorded::start("", "").await;
        assert_eq!(it.ask(&Message::call(1, "echo")).await.status, 200);
        it.event("call").await;
        it.gateway.signal(signal);
        it.gateway.ended().await;
        let told = it.verify();
        assert!(told.contains(state), "{signal}: {told}");
        let drains = it.lines().iter().filter(|line| line["event"] == "drain").count();
        assert_eq!(drains, usize::from(signal == "TERM"));
        if signal == "TERM" {
            let expected = json!({ "subject": "gateway", "outcome": "told to stop" });
            says(&it.event("drain").await, &expected, signal);
        }
    }
}

#[tokio::test]
async fn calls_that_never_ended_are_counted() {
    let mut it = Recorded::start(", when_full: wait", "runtime: { grace: 1s }\n").await;
    let mut client = Client::connect(it.gateway.address).await;
    let session = it.ask(&Message::initialize()).await.session();
    client.send(&Message::legacy_call(1, "endless", &session).bytes()).await;
    client.body_after_head("progress").await;
    it.gateway.signal("TERM");
    it.gateway.ended().await;
    let expected = json!({ "count": 1, "reason": "unfinished", "sink": null });
    says(&it.event("records_lost").await, &expected, "the call");
    assert!(it.verify().contains(", closed; 1 records lost"));
}

#[tokio::test]
async fn a_new_file_is_begun_on_a_signal() {
    let mut it = Recorded::start("", "").await;
    for id in 1..4 {
        let answer = it.ask(&Message::call(id, "echo")).await;
        it.line_of(&answer).await;
        it.gateway.signal("USR1");
        let began = Instant::now();
        while it.files().iter().filter(|path| !path.ends_with(".jsonl")).count() < id as usize {
            assert!(began.elapsed() < SOON, "{:?}", it.files());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    it.ask(&Message::call(4, "echo")).await;
    it.wait(4, |line| line["event"] == "call").await;
    it.gateway.signal("TERM");
    it.gateway.ended().await;
    assert!(it.verify().contains("seq 0 to 6, closed"), "{}", it.verify());
}

#[tokio::test]
async fn redacted_arguments_show_no_secret() {
    let it = Recorded::start(", arguments: redacted", "").await;
    let arguments =
        json!({ "query": "weather", "auth": { "api_key": "canary-1" }, "Cookie": "canary-2" });
    let params = json!({ "name": "echo", "arguments": arguments });
    let answer = it.ask(&Message::modern(1, "tools/call", params)).await;
    let line = it.line_of(&answer).await;
    let kept = line["gen_ai.tool.call.arguments"].to_string();
    assert!(kept.contains("weather") && kept.contains("[redacted]"), "{line:#}");
    assert!(!it.text().contains("canary"), "{line:#}");
}

#[tokio::test]
async fn with_refuse_a_full_disk_stops_calls_until_there_is_room() {
    let folder = Folder::new();
    let file = folder.path().join("audit.jsonl");
    symlink("/dev/full", &file).expect("a link");
    let audit = ", when_full: refuse, queue: { records: 4 }";
    let mut it = Recorded::start_in(folder, audit, "runtime: { streams_max: 2 }\n").await;
    let call = Message::call(1, "echo");
    for _ in 0..4 {
        assert_eq!(it.ask(&call).await.status, 200);
    }
    let answer = it.ask(&call).await;
    assert_eq!((answer.status, answer.code()), (503, 503), "{}", answer.text());
    assert!(answer.text().contains("cannot be recorded"), "{}", answer.text());
    let refused = r#"toolgate_refusals_total{reason="audit_full"} 1"#;
    it.gateway.metrics_with(refused).await;
    it.gateway.metrics_with("toolgate_audit_queue 4").await;
    // Somebody makes room.
    fs::remove_file(&file).expect("removed");
    let (began, mut refused) = (Instant::now(), 1);
    while it.ask(&call).await.status != 200 {
        refused += 1;
        assert!(began.elapsed() < SOON, "{}", it.gateway.diagnostics());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    it.wait(5, |line| line["event"] == "call").await;
    it.gateway.signal("TERM");
    it.gateway.ended().await;
    let told = it.verify();
    assert!(told.contains(&format!(", closed; {refused} records lost")), "{told}");
}

#[tokio::test]
async fn two_processes_of_an_upgrade_share_a_file() {
    let mut it = Recorded::start("", "").await;
    assert_eq!(it.ask(&Message::call(1, "echo")).await.status, 200);
    let mut successor = it.gateway.successor(&it.gateway.config());
    let socket = it.gateway.state().join("upgrade/socket");
    let began = Instant::now();
    while !socket.exists() {
        assert!(began.elapsed() < SOON, "{}", successor.diagnostics());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(it.ask(&Message::call(2, "echo")).await.status, 200);
    it.gateway.signal("QUIT");
    it.gateway.ended().await;
    assert_eq!(it.ask(&Message::call(3, "echo")).await.status, 200);
    let calls = it.wait(3, |line| line["event"] == "call").await;
    assert_eq!(calls[0]["chain"], calls[1]["chain"]);
    assert_ne!(calls[0]["chain"], calls[2]["chain"]);
    let id = successor.id().to_string();
    assert!(Command::new("kill").arg(&id).status().expect("kill").success());
    successor.ended().await;
    let drains = it.wait(2, |line| line["event"] == "drain").await;
    assert_eq!(drains[0]["outcome"], "a successor serves");
    assert_eq!(drains[1]["outcome"], "told to stop");
    assert_eq!(it.verify().matches(", closed").count(), 2, "{}", it.verify());
}
