//! What `verify` finds: every flipped byte, every missing, moved and doubled line.

use super::folder::Folder;
use super::{LIMIT, Memory, call, metrics, settings, start};
use crate::audit::{Event, Extent, Record, verify};
use crate::config::WhenFull;

/// A chain of `calls` calls with its first and its last line.
fn chain(calls: usize) -> Vec<String> {
    let sink = Memory::default();
    let audit = start(&sink, &settings(WhenFull::Drop, 1000, 1 << 20), &metrics());
    for number in 0..calls {
        audit.event(&call(&format!("tool-{number}")));
    }
    audit.close(LIMIT);
    sink.text().lines().map(|line| format!("{line}\n")).collect()
}

/// The report of lines that have some fault: it is not good, and says all of this.
fn check_bad(folder: &Folder, lines: &[String], expected: &[&str]) {
    let report = folder.verify(lines.concat());
    assert!(!report.is_good(), "{report}");
    for text in expected {
        assert!(report.to_string().contains(text), "no {text:?} in\n{report}");
    }
}

#[test]
fn a_whole_chain_is_good() {
    let lines = chain(5);
    assert_eq!(lines.len(), 7);
    assert!(lines[0].contains("\"event\":\"audit_started\",\"service.version\":"));
    assert!(lines[6].contains("\"event\":\"audit_closed\""));
    let report = Folder::new().verify(lines.concat());
    assert!(report.is_good(), "{report}");
    let shown = report.to_string();
    assert!(shown.contains("seq 0 to 6, closed\nlines: 7, all as"), "{shown}");
}

#[test]
fn any_flipped_bit_is_found_and_its_line_is_named() {
    let folder = Folder::new();
    let whole = chain(2).concat().into_bytes();
    for at in 0..whole.len() {
        let line = whole[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        // One bit of each byte, another one each time.
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let report = folder.verify(&flipped);
        assert!(!report.is_good(), "byte {at}: {report}");
        let shown = report.to_string();
        assert!(shown.contains(&format!("verified:{line}:")), "byte {at} in line {line}: {shown}");
    }
}

#[test]
fn one_altered_line_is_one_fault() {
    let folder = Folder::new();
    let mut lines = chain(5);
    lines[3] = lines[3].replace("tool-2", "tool-9");
    check_bad(&folder, &lines, &["verified:4: altered (seq 3)", "lines: 7, faults: 1"]);
    // Also where it lies about its place or its chain.
    for (from, to) in [("\"seq\":3", "\"seq\":7"), ("\"chain\":\"", "\"chain\":\"x")] {
        let mut lines = chain(5);
        lines[3] = lines[3].replace(from, to);
        check_bad(&folder, &lines, &["verified:4: altered (seq 3)", "lines: 7, faults: 1"]);
    }
}

#[test]
fn a_line_with_a_new_digest_does_not_fit() {
    use crate::audit::line::{hash, open};
    let mut lines = chain(3);
    let forged = lines[2].trim_end().replace("tool-1", "tool-9");
    let content = open(forged.as_bytes()).expect("a line").0;
    let digest = hash(content);
    let digest = std::str::from_utf8(&digest).expect("digits");
    lines[2] = format!("{},\"hash\":\"{digest}\"}}\n", String::from_utf8_lossy(content));
    let expected = "verified:4: seq 3 does not follow seq 2 at";
    check_bad(&Folder::new(), &lines, &[expected, "faults: 1"]);
}

#[test]
fn missing_moved_and_doubled_lines_are_found() {
    let (folder, lines) = (Folder::new(), chain(8));
    let removed = |range: std::ops::Range<usize>| {
        let mut lines = lines.clone();
        lines.drain(range);
        lines
    };
    check_bad(&folder, &removed(3..4), &["verified:4 (seq 4): seq 3 to 3 are missing after"]);
    check_bad(&folder, &removed(2..6), &["verified:3 (seq 6): seq 2 to 5 are missing after"]);
    check_bad(&folder, &removed(0..2), &["verified:1: seq 0 to 1 of chain"]);
    let mut swapped = lines.clone();
    swapped.swap(4, 5);
    check_bad(&folder, &swapped, &["out of order: seq 5 stands before"]);
    let mut doubled = lines.clone();
    doubled.insert(5, lines[2].clone());
    check_bad(&folder, &doubled, &["seq 2 to 2 stand in the files twice"]);
    let mut half = lines.clone();
    half[9].truncate(100);
    check_bad(&folder, &half, &["verified:10: half a line"]);
    let mut alien = lines.clone();
    alien.insert(1, "{}\n".to_owned());
    check_bad(&folder, &alien, &["verified:2: altered: this is no record", "faults: 1"]);
    // The end can be missing because its gateway runs: that is said, and is no fault.
    let report = folder.verify(removed(9..10).concat());
    assert!(report.is_good(), "{report}");
    assert!(report.to_string().contains("not closed"), "{report}");
}

#[test]
fn chains_may_be_interleaved_and_spread_over_files_in_any_order() {
    let folder = Folder::new();
    let (a, b) = (chain(6), chain(6));
    let mixed: Vec<String> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    assert!(folder.verify(mixed.concat()).is_good());
    let (first, second) = mixed.split_at(7);
    let files = [folder.write("second", second.concat()), folder.write("first", first.concat())];
    let report = verify(&files, Extent::Whole).expect("a report");
    assert!(report.is_good(), "{report}");
    assert_eq!(report.to_string().matches(", closed").count(), 2);
    // A part of the record is good as a part only.
    assert!(!verify(&files[..1], Extent::Whole).expect("a report").is_good());
    assert!(verify(&files[..1], Extent::Part).expect("a report").is_good());
    assert!(verify(&[folder.path("absent")], Extent::Whole).is_err());
}

#[test]
fn a_record_says_everything_in_json_of_one_line() {
    use crate::audit::{Arguments, Ending, Target, Verdict};
    use crate::identity::Caller;
    use std::time::Duration;
    let arguments = Arguments::digest(b"{}");
    let caller = Caller::anonymous();
    let record = Record {
        request_id: "00ff",
        trace_id: "0af7651916cd43dd8448eb211c80319c",
        client: Some([127, 0, 0, 1].into()),
        user_agent: "a\"\n\u{7f}\u{1b}b",
        caller: Some(&caller),
        method: "tools/call",
        revision: "2025-11-25",
        session: Some([0xab, 1, 2, 3]),
        target: Some(Target::Tool("search")),
        rpc_id: "7",
        route: "/mcp",
        server: "files",
        endpoint: "http://10.0.0.1/mcp",
        verdict: Some(Verdict::Allow),
        policy_reason: "rule",
        rule: "readers",
        credential: "value",
        shadow: Some((Verdict::Deny, "next-quarter")),
        ending: Some(Ending::RpcError(Some(-32602))),
        status: 200,
        arguments: &arguments,
        bytes_in: 180,
        bytes_out: 250,
        duration: Duration::from_micros(900),
        overhead: Duration::from_micros(30),
        queued: Duration::from_micros(2),
        ..Record::new(Event::Call)
    };
    let sink = Memory::default();
    let audit = start(&sink, &settings(WhenFull::Drop, 10, 1 << 20), &metrics());
    audit.event(&record);
    audit.close(LIMIT);
    let line: serde_json::Value =
        serde_json::from_str(sink.text().lines().nth(1).expect("a line")).expect("JSON");
    let expected = serde_json::json!({
        "schema": 1, "event": "call", "gateway.request.id": "00ff",
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "client.address": "127.0.0.1",
        "user_agent.original": "a\"\n\u{7f}\u{1b}b", "caller.id": "anonymous",
        "caller.method": "anonymous", "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2025-11-25", "mcp.session.id": "ab010203",
        "gen_ai.tool.name": "search", "jsonrpc.request.id": "7", "http.route": "/mcp",
        "gateway.server": "files", "gateway.endpoint": "http://10.0.0.1/mcp",
        "decision": "allow", "policy.reason": "rule", "rule": "readers", "credential": "value", "shadow.decision": "deny",
        "shadow.rule": "next-quarter", "result": "jsonrpc_error", "error.type": "jsonrpc_error",
        "rpc.response.status_code": -32602, "http.response.status_code": 200,
        "arguments.sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "arguments.bytes": 2, "http.request.body.size": 180, "http.response.body.size": 250,
        "duration_us": 900, "overhead_us": 30, "queue_us": 2, "seq": 1,
    });
    let mut line = line.as_object().expect("an object").clone();
    for of_its_own in ["ts", "gateway.instance", "chain", "prev", "hash"] {
        assert!(line.remove(of_its_own).is_some(), "{of_its_own}");
    }
    assert_eq!(serde_json::Value::Object(line), expected);
}
