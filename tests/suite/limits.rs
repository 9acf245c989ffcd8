//! Limits: what `check` says of them.

use crate::support::gateway::{Folder, toolgate};

#[test]
fn limits_that_can_never_be_met_are_told_with_their_place() {
    let folder = Folder::new();
    let config = folder.write(
        "toolgate.yaml",
        "listen: 127.0.0.1:1
servers: { one: { endpoints: [http://127.0.0.1:1/mcp] } }
routes: [{ path: /mcp, server: one }]
limits:
  - { name: dear, key: [caller], rate: 5/s, cost: { 'one/*': 6 } }
  - { name: nothing }
  - { name: dear, key: [colour], in_flight: 1 }
",
    );
    let output = toolgate(&["check", "--config", &config.display().to_string()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    for (line, word) in [
        (5, "could never be called"),
        (6, "this limits nothing"),
        (7, "a limit of this name is already defined"),
        (7, "not one of the words"),
    ] {
        assert!(told.contains(&format!("toolgate.yaml:{line}:")), "no line {line} in\n{told}");
        assert!(told.contains(word), "no {word} in\n{told}");
    }
}
