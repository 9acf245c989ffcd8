//! Files of the record as people read them: verified, shown and followed.

use crate::support::gateway::{Folder, toolgate};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use toolgate::audit::{Audit, Event, Record, Target};
use toolgate::config::{self, AuditSink};
use toolgate::telemetry::Metrics;

pub(super) fn start(path: &Path) -> Arc<Audit> {
    let path = path.to_owned();
    let settings = config::Audit {
        sinks: vec![AuditSink::File { path, rotate_bytes: u64::MAX, keep: None }],
        ..config::Audit::default()
    };
    Audit::start(&settings, "", &Metrics::new(1, 1).audit).expect("a file")
}

pub(super) fn record(audit: &Audit, tools: &[&str]) {
    for tool in tools {
        let target = Some(Target::Tool(tool));
        audit.event(&Record { target, method: "tools/call", ..Record::new(Event::Call) });
    }
}

/// A folder with a file in which two chains are closed.
pub(super) fn recorded() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let path = folder.path().join("audit.jsonl");
    for tools in [&["search", "read"][..], &["write"]] {
        let audit = start(&path);
        record(&audit, tools);
        audit.close(Duration::from_secs(20));
    }
    (folder, path)
}

pub(super) fn verify(arguments: &[&str]) -> (Option<i32>, String) {
    let output = toolgate(&[&["audit", "verify"], arguments].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn verify_says_what_is_wrong_and_exits_accordingly() {
    let (folder, path) = recorded();
    let file = path.to_str().expect("a name");
    let (code, text) = verify(&[file]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches(", closed").count(), 2, "{text}");
    let whole = fs::read_to_string(&path).expect("the record");
    let rows: [(String, &str); 4] = [
        (whole.replacen("search", "serach", 1), "altered.jsonl:2: altered (seq 1)"),
        (whole.lines().skip(1).map(|line| format!("{line}\n")).collect(), "seq 0 to 0 of chain"),
        (whole[..whole.len() - 10].to_owned(), "half a line"),
        (format!("{whole}\u{0}\n"), "this is no record"),
    ];
    for (text, expected) in rows {
        let altered = folder.write("altered.jsonl", &text);
        let (code, told) = verify(&[altered.to_str().expect("a name")]);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(expected), "no {expected} in\n{told}");
    }
    // Of rotated files only the last ones may be left.
    let lines: Vec<&str> = whole.lines().collect();
    let rest = folder.write("rest.jsonl", &(lines[1..].join("\n") + "\n"));
    let rest = rest.to_str().expect("a name");
    assert_eq!(verify(&[rest]).0, Some(1));
    assert_eq!(verify(&["--part", rest]).0, Some(0));
    // A writer that was killed leaves a chain that is not closed, and is no fault.
    let killed = folder.write("killed.jsonl", &(lines[..lines.len() - 1].join("\n") + "\n"));
    let (code, text) = verify(&[killed.to_str().expect("a name")]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("not closed"), "{text}");
    assert_eq!(verify(&["/no/such/file"]).0, Some(1));
    assert_eq!(verify(&[]).0, Some(2));
}

#[test]
fn tail_shows_what_is_wanted() {
    let (_folder, path) = recorded();
    let file = path.to_str().expect("a name");
    let tail = |arguments: &[&str]| {
        let output = toolgate(&[&["audit", "tail", file], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(tail(&[]).lines().count(), 7);
    assert_eq!(tail(&["--last", "1"]).lines().count(), 1);
    let found = tail(&["--tool", "re*"]);
    assert_eq!(found.lines().count(), 1);
    assert!(found.contains("tools/call read"), "{found}");
    assert_eq!(tail(&["--caller", "ann"]), "");
    assert_eq!(toolgate(&["audit", "tail", "/no/such/file"]).status.code(), Some(1));
}

#[test]
fn tail_follows_a_file_that_is_rotated() {
    let (folder, path) = recorded();
    let mut child = Command::new(env!("CARGO_BIN_EXE_toolgate"))
        .args(["audit", "tail", "--follow", "--last", "1", "--tool", "*"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("tools/call write"));
    let audit = start(&path);
    record(&audit, &["later"]);
    assert!(next().contains("tools/call later"));
    fs::rename(&path, folder.path().join("audit.jsonl.1")).expect("renamed");
    record(&audit, &["after"]);
    assert!(next().contains("tools/call after"));
    audit.close(Duration::from_secs(20));
    child.kill().expect("killed");
    child.wait().expect("gone");
}
