//! Pins: what counts as a change, what is shown until somebody approves, and what a restart finds.

use super::{Became, Extent, NotApproved, Passing, Pins, REMOVED_MAX};
use crate::catalog::offer::{Definition, Definitions};
use crate::catalog::page;
use crate::config::OnChange;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn tool(name: &str, description: &str) -> Value {
    json!({ "name": name, "description": description, "annotations": { "readOnlyHint": true } })
}

fn listed(tools: &[Value]) -> Definitions {
    let definition = |tool: &Value| -> Definition {
        page::definition(tool["name"].as_str().expect("a name").into(), &tool.to_string())
    };
    Definitions::new(tools.iter().map(definition).collect()).0
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Takes a whole list: what is shown, and what became of which tool.
fn take(pins: &Pins, on_change: OnChange, tools: &[Value]) -> (Vec<Value>, Vec<(String, Became)>) {
    let (shown, changes) = pins.take("s", listed(tools), (on_change, Extent::Whole), at(1_000_000));
    let shown = shown.all().iter().map(|tool| serde_json::from_slice(&tool.bytes).expect("JSON"));
    (shown.collect(), changes.into_iter().map(|change| (change.tool, change.what)).collect())
}

fn of(tool: &str, what: Became) -> Vec<(String, Became)> {
    vec![(tool.to_owned(), what)]
}

#[test]
fn the_first_list_is_trusted_and_what_is_only_written_anew_is_no_change() {
    let pins = Pins::default();
    let (old, new) = (tool("a", "old"), tool("a", "new"));
    assert_eq!(take(&pins, OnChange::Refuse, std::slice::from_ref(&old)).1, []);
    let spaced =
        r#"{ "annotations": {"readOnlyHint" :true}, "description":"\u006fld", "name":"a" }"#;
    let written = Definitions::new(vec![page::definition("a".into(), spaced)]).0;
    let (shown, changes) = pins.take("s", written, (OnChange::Refuse, Extent::Whole), at(1));
    assert!(changes.is_empty() && &shown.all()[0].bytes[..] == spaced.as_bytes());
    // A server that was listed once has another tool: it is shown, and told.
    let two = [old.clone(), tool("b", "b")];
    assert_eq!(take(&pins, OnChange::Refuse, &two), (two.to_vec(), of("b", Became::Added)));
    let (shown, changes) = take(&pins, OnChange::Record, &[new.clone(), tool("b", "b")]);
    assert_eq!((shown[0].clone(), changes), (new, of("a", Became::Changed)));
    let pin = pins.of("s").find("a").expect("a pin").clone();
    assert_eq!(pin.difference, [r#"description: "old" -> "new""#]);
    assert_eq!(pin.changed(), Some(at(1_000_000)));
    assert_eq!(pins.take_news().len(), 2, "what is new waits to be recorded");
}

#[test]
fn a_change_is_held_back_until_it_is_approved() {
    for (on_change, what) in
        [(OnChange::Withhold, Became::Withheld), (OnChange::Refuse, Became::Refused)]
    {
        let pins = Pins::default();
        let (old, new) = (tool("a", "old"), tool("a", "new"));
        take(&pins, on_change, std::slice::from_ref(&old));
        let shown = if on_change == OnChange::Withhold { vec![old.clone()] } else { vec![] };
        let one = std::slice::from_ref(&new);
        assert_eq!(take(&pins, on_change, one), (shown.clone(), of("a", what)));
        assert_eq!(take(&pins, on_change, one), (shown.clone(), vec![]), "told once");
        // Gone for a while, it waits all the same.
        assert_eq!(take(&pins, on_change, &[]).1, of("a", Became::Removed));
        assert_eq!(take(&pins, on_change, one), (shown, vec![]));
        // It goes back, and comes again.
        assert_eq!(take(&pins, on_change, std::slice::from_ref(&old)).1, of("a", Became::Restored));
        assert_eq!(take(&pins, on_change, one).1, of("a", what));

        let digest = pins.of("s").pending().next().expect("one").1.digest.to_string();
        let approve = |tool: &str, digest: Option<&str>| pins.approve("s", tool, digest, at(9));
        assert_eq!(approve("b", None), Err(NotApproved::NothingWaits));
        assert_eq!(approve("a", Some("00")), Err(NotApproved::Other));
        assert_eq!(pins.approve("t", "a", None, at(9)), Err(NotApproved::NothingWaits));
        assert_eq!(approve("a", Some(&digest)).expect("approved").what, Became::Approved);
        assert_eq!(approve("a", None), Err(NotApproved::NothingWaits));
        assert_eq!(take(&pins, on_change, one), (vec![new], vec![]));
    }
}

#[test]
fn removed_and_back_with_another_definition_is_a_change() {
    let pins = Pins::default();
    take(&pins, OnChange::Record, &[tool("a", "old")]);
    assert_eq!(take(&pins, OnChange::Record, &[]).1, of("a", Became::Removed));
    assert_eq!(take(&pins, OnChange::Record, &[tool("a", "old")]).1, of("a", Became::Added));
    take(&pins, OnChange::Record, &[]);
    assert_eq!(take(&pins, OnChange::Record, &[tool("a", "new")]).1, of("a", Became::Changed));
    let (_, changes) = pins.take("s", listed(&[]), (OnChange::Record, Extent::Part), at(1));
    assert!(changes.is_empty(), "what is missing in a part may exist");
    // What waited does so no longer where changes are only recorded.
    take(&pins, OnChange::Refuse, &[tool("a", "newer")]);
    assert_eq!(pins.of("s").pending().count(), 1);
    take(&pins, OnChange::Record, &[]);
    assert_eq!(pins.of("s").pending().count(), 0);
}

#[test]
fn lists_that_pass_show_what_is_trusted() {
    let pins = Pins::default();
    let (old, new) = (tool("a", "old").to_string(), tool("a", "new").to_string());
    take(&pins, OnChange::Refuse, &[tool("a", "old")]);
    let passing =
        |on_change, definition: &str| pins.of("s").passing(on_change, "a", definition.as_bytes());
    for on_change in [OnChange::Record, OnChange::Withhold, OnChange::Refuse] {
        assert_eq!(passing(on_change, &old), Passing::AsItIs);
        assert_eq!(passing(on_change, &format!(" {old}")), Passing::AsItIs);
    }
    assert_eq!(passing(OnChange::Record, &new), Passing::AsItIs);
    assert_eq!(passing(OnChange::Withhold, &new), Passing::Instead(old.into()));
    assert_eq!(passing(OnChange::Refuse, &new), Passing::Hidden);
    assert_eq!(pins.of("s").passing(OnChange::Refuse, "b", b"{}"), Passing::AsItIs);
}

#[test]
fn a_server_cannot_make_it_grow_without_bound() {
    let pins = Pins::default();
    let huge = "x".repeat(300 * 1024);
    take(&pins, OnChange::Withhold, &[tool("huge", &huge)]);
    let (shown, changes) = take(&pins, OnChange::Withhold, &[tool("huge", "other")]);
    assert_eq!((shown, changes), (vec![], of("huge", Became::Withheld)), "nothing old to show");
    for round in 0..5 {
        let many: Vec<_> = (0..1000).map(|n| tool(&format!("t{round}-{n}"), "x")).collect();
        take(&pins, OnChange::Record, &many);
    }
    assert!(pins.of("s").tools.len() <= 1000 + REMOVED_MAX);
    assert!(
        pins.take_news().len() < 2000,
        "each listing tells the first hundred and how many more"
    );
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("toolgate-pins-{name}-{}", std::process::id()));
    fs::remove_dir_all(&folder).ok();
    folder
}

#[test]
fn what_was_shown_is_known_after_a_restart() {
    let file = folder("kept").join("state/pins.json");
    let open = || {
        let pins = Pins::default();
        pins.open(&file);
        pins
    };
    let pins = open();
    assert!(!pins.is_unwritten() && pins.write().is_ok() && !file.exists());
    take(&pins, OnChange::Withhold, &[tool("a", "old"), tool("b", "b")]);
    take(&pins, OnChange::Withhold, &[tool("a", "new"), tool("b", "b")]);
    assert!(pins.is_unwritten());
    pins.write().expect("written");
    assert!(!pins.is_unwritten());
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let again = open();
    assert_eq!(again.of("s").pending().next().expect("it waits").0, "a");
    let (shown, changes) = take(&again, OnChange::Withhold, &[tool("a", "new"), tool("b", "b")]);
    assert_eq!((shown[0].clone(), changes), (tool("a", "old"), vec![]));
    assert!(!again.is_unwritten(), "nothing is new");
    again.approve("s", "a", None, at(5)).expect("approved");
    again.write().expect("written");
    assert_eq!(take(&open(), OnChange::Refuse, &[tool("a", "new"), tool("b", "b")]).1, []);
}

#[test]
fn a_file_of_anything_else_is_moved_aside() {
    let folder = folder("bad");
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("pins.json");
    let deep = format!("{{\"version\":1,\"servers\":{}", "[".repeat(100_000));
    for bad in
        ["", "{", "[]", r#"{"version":2,"servers":{}}"#, r#"{"version":1,"servers":5}"#, &deep]
    {
        fs::write(&file, bad).expect("written");
        let pins = Pins::default();
        pins.open(&file);
        assert!(!file.exists(), "{bad:.40}");
        assert_eq!(fs::read_to_string(folder.join("pins.json.bad")).expect("aside"), bad);
        take(&pins, OnChange::Refuse, &[tool("a", "x")]);
        pins.write().expect("written");
    }
    fs::remove_dir_all(&folder).expect("clean up");
}
