//! Files that are full, renamed, shared, and read by people.

use super::folder::Folder;
use super::{LIMIT, call, metrics, runtime, settings, until};
use crate::audit::file::LineFile;
use crate::audit::sink::Sink as _;
use crate::audit::{Audit, Extent, Until, Wanted, tail, verify};
use crate::config::{self, AuditSink, WhenFull};
use std::fs;
use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;

fn audit(path: &Path, rotate_bytes: u64, keep: Option<usize>) -> Arc<Audit> {
    let sinks = vec![AuditSink::File { path: path.to_owned(), rotate_bytes, keep }];
    let settings = config::Audit { sinks, ..settings(WhenFull::Wait, 1000, 1 << 20) };
    Audit::start(&settings, "", &metrics()).unwrap_or_else(|error| panic!("{error}"))
}

fn write(audit: &Audit, calls: usize) {
    runtime().block_on(async {
        for _ in 0..calls {
            audit.reserve().await.expect("a slot").write(&call("search"));
        }
    });
}

fn calls(files: &[std::path::PathBuf]) -> usize {
    files.iter().map(|file| Folder::text(file).matches("\"event\":\"call\"").count()).sum()
}

#[test]
fn two_processes_share_a_file_and_rotate_it_without_losing_a_line() {
    let folder = Folder::new();
    let path = folder.path("audit.jsonl");
    let both = [audit(&path, 100_000, None), audit(&path, 100_000, None)];
    std::thread::scope(|scope| {
        for audit in &both {
            scope.spawn(move || {
                for _ in 0..20 {
                    write(audit, 100);
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
        }
    });
    both.iter().for_each(|audit| audit.close(LIMIT));
    let files = folder.files();
    assert!(files.len() > 2, "{files:?}");
    assert_eq!(calls(&files), 4_000);
    let report = verify(&files, Extent::Whole).expect("a report");
    assert!(report.is_good(), "{report}");
    assert_eq!(report.to_string().matches(", closed").count(), 2, "{report}");
}

#[test]
fn old_files_are_removed_and_others_are_not() {
    let folder = Folder::new();
    let path = folder.path("audit.jsonl");
    folder.write("audit.jsonl.mine", "");
    let mut file = LineFile::open(path.clone(), 10, Some(2)).expect("a file");
    for number in 0..6 {
        let line = format!("line {number}\n");
        assert_eq!(file.write(line.as_bytes()).bytes, line.len());
    }
    let files = folder.files();
    let texts: Vec<String> = files.iter().map(|file| Folder::text(file)).collect();
    assert_eq!(texts, ["line 5\n", "line 3\n", "line 4\n", ""], "{files:?}");
}

#[test]
fn a_file_that_was_moved_away_or_told_to_rotate_is_begun_again() {
    let folder = Folder::new();
    let path = folder.path("audit.jsonl");
    let audit = audit(&path, 1 << 20, None);
    write(&audit, 1);
    until(|| calls(&folder.files()) == 1);
    // As logrotate does it.
    fs::rename(&path, folder.path("audit.jsonl.1")).expect("renamed");
    write(&audit, 1);
    until(|| path.exists() && calls(from_ref(&path)) == 1);
    audit.rotate();
    until(|| folder.files().len() == 2 && !path.exists() || folder.files().len() == 3);
    write(&audit, 1);
    until(|| path.exists() && calls(from_ref(&path)) == 1);
    audit.close(LIMIT);
    let files = folder.files();
    assert_eq!((files.len(), calls(&files)), (3, 3));
    let report = verify(&files, Extent::Whole).expect("a report");
    assert!(report.is_good(), "{report}");
}

#[test]
fn what_a_full_disk_delayed_is_written_when_there_is_a_disk_again() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = Folder::new();
    let (path, real) = (folder.path("audit.jsonl"), folder.path("real"));
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    let audit = audit(&path, 1 << 20, None);
    write(&audit, 10);
    std::os::unix::fs::symlink(&real, folder.path("new")).expect("a link");
    fs::rename(folder.path("new"), &path).expect("replaced");
    write(&audit, 10);
    audit.close(LIMIT);
    assert_eq!(calls(from_ref(&real)), 20);
    assert!(verify(&[real], Extent::Whole).expect("a report").is_good());
}

#[test]
fn half_a_line_of_another_process_is_ended() {
    let folder = Folder::new();
    let path = folder.write("audit.jsonl", "half");
    let mut file = LineFile::open(path.clone(), 1 << 20, None).expect("a file");
    file.write(b"whole\n");
    file.write(b"whole\n");
    assert_eq!(Folder::text(&path), "half\nwhole\nwhole\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_told_at_the_start() {
    let folder = Folder::new();
    let path = folder.path("no/such/folder/audit.jsonl");
    let sinks = vec![AuditSink::File { path: path.clone(), rotate_bytes: 1, keep: None }];
    let settings = config::Audit { sinks, ..config::Audit::default() };
    let error = Audit::start(&settings, "", &metrics()).err().expect("an error").to_string();
    let expected = format!("cannot write audit records to {}: No such file", path.display());
    assert!(error.starts_with(&expected), "{error}");
}

#[test]
fn people_see_short_lines_of_what_they_want() {
    let folder = Folder::new();
    let line = |caller: &str, tool: &str| {
        format!(
            "{{\"ts\":\"2026-11-22T10:15:30.123456Z\",\"event\":\"call\",\"caller.id\":\"{caller}\",\"mcp.method.name\":\"tools/call\",\"gen_ai.tool.name\":\"{tool}\",\"decision\":\"deny\",\"rule\":\"r\",\"result\":\"refused\",\"error.type\":\"policy\",\"duration_us\":1500}}\n"
        )
    };
    let text =
        line("ann", "search") + &line("bob", "search\\u001b") + "garbage\n" + &line("ann", "x");
    let path = folder.write("audit.jsonl", text + "{\"half\":");
    let shown = |caller: Option<&str>, tool: Option<&str>, last| {
        let (caller, tool) = (caller.map(str::to_owned), tool.map(str::to_owned));
        let mut out = Vec::new();
        tail(&[&path], &Wanted { caller, tool, last }, Until::End, &mut out).expect("shown");
        String::from_utf8(out).expect("text")
    };
    let ann =
        "2026-11-22 10:15:30.123  ann  tools/call search  deny by r  refused (policy)  1.5 ms\n";
    assert_eq!(shown(Some("a*"), Some("search*"), None), ann);
    assert_eq!(shown(None, None, None).lines().count(), 4);
    assert!(shown(None, None, None).starts_with(ann));
    assert!(shown(Some("bob"), None, None).contains("search\\u{1b}  deny"));
    assert_eq!(shown(Some("ann"), None, Some(1)).lines().count(), 1);
    assert_eq!(shown(Some("carl"), None, None), "");
}

#[test]
fn the_files_of_several_replicas_are_shown_as_one() {
    let folder = Folder::new();
    let line = |replica: &str, second: u32| {
        format!(
            "{{\"ts\":\"2026-11-22T10:15:{second:02}.000000Z\",\"gateway.instance\":\"{replica}\",\"event\":\"call\",\"caller.id\":\"ann\"}}\n"
        )
    };
    let one = folder.write("one.jsonl", line("a/1", 1) + &line("a/1", 3) + &line("a/1", 5));
    let two = folder.write("two.jsonl", line("b/2", 2) + &line("b/2", 4));
    let shown = |last| {
        let mut out = Vec::new();
        let wanted = Wanted { last, ..Wanted::default() };
        tail(&[&one, &two], &wanted, Until::End, &mut out).expect("shown");
        String::from_utf8(out).expect("text")
    };
    let all = shown(None);
    let all: Vec<&str> = all.lines().collect();
    assert_eq!(all[0], "2026-11-22 10:15:01.000  a/1  ann  call");
    assert_eq!(all[1], "2026-11-22 10:15:02.000  b/2  ann  call");
    assert_eq!(all.len(), 5);
    assert_eq!(shown(Some(2)).lines().collect::<Vec<_>>(), all[3..]);
    let absent = tail(&["/absent"], &Wanted::default(), Until::End, &mut Vec::new());
    assert!(absent.expect_err("no file").to_string().starts_with("/absent: "));
}
