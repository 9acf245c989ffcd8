//! The command line: everything that is wrong at once, and nothing starts with it.

use crate::support::gateway::{Folder, Gateway, free_address, toolgate};
use std::net::TcpListener;
use std::process::{Command, Output};

const BAD: &str = "listen: 127.0.0.1:99999
servers:
  one:
    endpoints: [ftp://127.0.0.1/mcp]
    tiemouts: { connect: 1s }
routes:
  - { path: mcp, server: one }
  - { path: /x, server: nobody, body_bytes_max: 4 potatoes }
sessions: { keys: [short] }
";

fn run(command: &str, yaml: &str) -> (Option<i32>, String, String) {
    let folder = Folder::new();
    let config = folder.write("toolgate.yaml", yaml);
    let Output { status, stdout, stderr } =
        toolgate(&[command, "--config", &config.display().to_string()]);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn check_lists_every_problem_with_its_place() {
    let (code, stdout, stderr) = run("check", BAD);
    assert_eq!((code, stdout.as_str()), (Some(78), ""));
    for (line, word) in [
        (1, "99999"),
        (4, "ftp"),
        (5, "tiemouts"),
        (7, "mcp"),
        (8, "nobody"),
        (8, "potatoes"),
        (9, "32 characters"),
    ] {
        assert!(stderr.contains(&format!("toolgate.yaml:{line}:")), "no line {line} in\n{stderr}");
        assert!(stderr.contains(word), "no {word} in\n{stderr}");
    }
    assert!(!stderr.contains("[short]"), "a secret was shown: {stderr}");
}

#[test]
fn run_refuses_to_start_with_a_bad_configuration() {
    let (code, stdout, stderr) = run("run", BAD);
    assert_eq!((code, stdout.as_str()), (Some(78), ""));
    assert!(stderr.contains("tiemouts"), "{stderr}");
    for yaml in ["", "{", "listen: [", "\u{0}", "listen: 127.0.0.1:1\n"] {
        assert_eq!(run("run", yaml).0, Some(78), "{yaml:?}");
        assert_eq!(run("check", yaml).0, Some(78), "{yaml:?}");
    }
}

#[test]
fn what_the_machine_denies_is_failure_and_not_configuration() {
    let taken = TcpListener::bind(free_address()).expect("a port");
    let address = taken.local_addr().expect("an address");
    let folder = Folder::new();
    let good = format!(
        "listen: {address}\nservers: {{ one: {{ endpoints: [http://127.0.0.1:1/mcp] }} }}\nroutes: [{{ path: /mcp, server: one }}]\nstate_dir: {}\n",
        folder.path().display()
    );
    assert_eq!(run("check", &good).0, Some(0));
    let (code, _, stderr) = run("run", &good);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot listen on"), "{stderr}");
}

#[test]
fn certificates_that_are_none_are_found_by_check() {
    let folder = Folder::new();
    let garbage = folder.write("garbage.pem", "garbage");
    let yaml = |certificate: &str| {
        let key = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/localhost.key");
        format!(
            "listeners: [{{ address: 127.0.0.1:8443, tls: {{ certificate: {certificate}, key: {key} }} }}]\nservers: {{ one: {{ endpoints: [http://127.0.0.1:1/mcp] }} }}\nroutes: [{{ path: /mcp, server: one }}]\n"
        )
    };
    for certificate in [garbage.display().to_string(), "/no/such/file".to_owned()] {
        let (code, _, stderr) = run("check", &yaml(&certificate));
        assert_eq!(code, Some(78), "{stderr}");
        assert!(stderr.contains("toolgate.yaml:1:"), "{stderr}");
    }
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/localhost.crt");
    assert_eq!(run("check", &yaml(good)).0, Some(0));
}

#[test]
fn the_examples_are_good_and_the_schema_is_theirs() {
    for name in ["minimal.yaml", "full.yaml", "production.yaml", "federation.yaml"] {
        let path = format!("{}/conf/{name}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(env!("CARGO_BIN_EXE_toolgate"))
            .args(["check", "--config", &path])
            .env("TOOLGATE_SESSION_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
            .output()
            .expect("the command");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let output = toolgate(&["check", "--schema"]);
    assert!(output.status.success());
    let kept = include_str!("../../conf/schema.json");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), kept.trim());
}

#[test]
fn check_notes_what_replicas_would_not_share() {
    let yaml = |more: &str| {
        format!(
            "listen: 127.0.0.1:1\nservers: {{ one: {{ endpoints: [http://127.0.0.1:1/mcp] }} }}\nroutes: [{{ path: /mcp, server: one }}]\nlimits: [{{ name: few, rate: 1/s }}]\n{more}"
        )
    };
    let keys = "sessions: { keys: [replicas-of-tests-have-this-in-common] }\n";
    for (more, expected) in [
        ("", false),
        (keys, true),
        (&format!("{keys}shared: {{ redis: redis://127.0.0.1:1 }}\n"), false),
    ] {
        let (code, stdout, _) = run("check", &yaml(more));
        assert_eq!((code, stdout.contains("\nnote: ")), (Some(0), expected), "{more}: {stdout}");
    }
}

#[tokio::test]
async fn health_asks_a_gateway_whether_it_is_ready() {
    let sections = "servers: { one: { endpoints: [http://127.0.0.1:1/mcp] } }\nroutes: [{ path: /mcp, server: one }]\n";
    let gateway = Gateway::start(sections).await;
    let (folder, url) = (Folder::new(), format!("http://{}", gateway.health));
    let config = folder.write("toolgate.yaml", &gateway.config()).display().to_string();
    for way in [["--url", url.as_str()], ["--config", config.as_str()]] {
        let output = toolgate(&["health", way[0], way[1]]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n");
    }
    drop(gateway);
    for way in [["--url", url.as_str()], ["--config", config.as_str()]] {
        let output = toolgate(&["health", way[0], way[1]]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no answer"), "{output:?}");
    }
    let unprobed = folder.write("unprobed.yaml", &format!("listen: 127.0.0.1:1\n{sections}"));
    let output = toolgate(&["health", "--config", &unprobed.display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no `health`"), "{output:?}");
}

#[test]
fn version_and_usage() {
    let version = toolgate(&["version"]);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("toolgate ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for arguments in [&[][..], &["fly"], &["run"], &["check"], &["run", "--config"]] {
        assert_eq!(toolgate(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let missing = toolgate(&["run", "--config", "/no/such/file.yaml"]);
    assert_eq!(missing.status.code(), Some(78), "{}", String::from_utf8_lossy(&missing.stderr));
}
