//! Files: what is included, what is read beside the main file, and the bounds of all of them.

use std::path::Path;

use super::{completed, environment};
use crate::config::tests::directory::TestDirectory;
use crate::config::{Beside, Settings, endpoints_file, load, load_with, parse};

const MAIN: &str = "include: [teams/*.yaml]\n";
const KEY: &str = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";

/// Loads `gateway.yaml` of these files; problems are told as `file:line:column message (hint)`.
fn load_files(files: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let directory = TestDirectory::new();
    for (name, text) in files {
        directory.write(name, text);
    }
    let root = format!("{}/", directory.path().display());
    load(&directory.path().join("gateway.yaml"), &environment).map_err(|problems| {
        let told = problems.list().iter().map(|problem| {
            let hint = problem.hint.as_deref().unwrap_or_default();
            format!("{} {} ({hint})", problems.sources().locate(problem.place), problem.message)
                .replace(&root, "")
        });
        told.collect()
    })
}

fn check(files: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(load_files(files).map(|_| ()).unwrap_err(), *expected, "{files:?}");
}

#[test]
fn included_files_add_servers_routes_and_keys() {
    let keys = format!("- {{ caller: b, sha256: {} }}\n", "ab".repeat(32));
    let own = format!("identity: {{ api_keys: [{{ caller: a, sha256: {KEY} }}] }}\n");
    let settings = load_files(&[
        ("gateway.yaml", &completed(&(MAIN.to_owned() + &own))),
        ("teams/b.yaml", "servers: { b: { endpoints: [http://b/] } }\nroutes: [{ path: /b, server: everything }]\n"),
        ("teams/a.yaml", "routes: [{ path: /a, server: b }]\nidentity: { api_keys: { file: ../keys.yaml } }\n"),
        ("teams/empty.yaml", "# nothing yet\n"),
        ("keys.yaml", &keys),
    ])
    .unwrap();
    let routes: Vec<_> =
        settings.routes.iter().map(|route| (route.path.as_str(), route.servers()[0])).collect();
    assert_eq!(routes, [("/mcp", 0), ("/a", 1), ("/b", 0)]);
    let callers: Vec<_> =
        settings.identity.api_keys.iter().map(|key| key.caller.as_str()).collect();
    assert_eq!(callers, ["a", "b"]);
    assert!(settings.sources.locate(settings.servers[1].place).ends_with("teams/b.yaml:1:12"));
}

#[test]
fn everything_may_be_included_and_the_main_file_includes_no_loop() {
    let parts = [
        ("gateway.yaml", "include: ['*.yaml', team.yaml]\nlisten: 127.0.0.1:8080\n"),
        (
            "team.yaml",
            "servers: { a: { endpoints: [http://a/] } }\nroutes: [{ path: /, server: a }]\n",
        ),
    ];
    assert_eq!(load_files(&parts).unwrap().servers.len(), 1);
}

#[test]
fn a_name_belongs_to_the_file_that_defines_it() {
    check(
        &[
            ("gateway.yaml", &completed(MAIN)),
            ("teams/a.yaml", "servers: { everything: { endpoints: [http://b/] } }\n"),
            ("teams/b.yaml", "routes: [{ path: /mcp, server: everything }]\n"),
        ],
        &[
            "teams/a.yaml:1:12 a server of this name is already defined (the first is at gateway.yaml:3:12)",
            "teams/b.yaml:1:18 a route of this path is already defined (the first is at gateway.yaml:4:18)",
        ],
    );
}

#[test]
fn included_files_hold_only_what_teams_own() {
    check(
        &[
            ("gateway.yaml", &completed(MAIN)),
            ("teams/a.yaml", "runtime: {}\ninclude: [b.yaml]\nidentity: { anonymous: allow }\n"),
            ("teams/b.yaml", "servers: [\n"),
            ("teams/c.yaml", "routes: [{ path: /c, server: c }]\n"),
        ],
        &[
            "teams/a.yaml:1:1 the key `runtime` is unknown (known here: servers, routes, identity, policy)",
            "teams/a.yaml:2:1 the key `include` is unknown (known here: servers, routes, identity, policy)",
            "teams/a.yaml:3:13 the key `anonymous` is unknown (known here: api_keys)",
            "teams/b.yaml:1:10 this is not YAML: unclosed bracket '[' (look at the indentation, quotes and brackets here and just above)",
        ],
    );
}

#[test]
fn files_of_keys_are_checked_like_lists_in_place() {
    let twice = format!("- {{ caller: b, sha256: {KEY} }}\n- {{ caler: c, sha256: {KEY} }}\n");
    check(
        &[
            ("gateway.yaml", &completed("identity: { api_keys: { file: keys.yaml } }\n")),
            ("keys.yaml", &twice),
        ],
        &[
            "keys.yaml:2:3 the key `caller` is missing (add `caller:`)",
            "keys.yaml:2:5 the key `caler` is unknown (did you mean `caller`?)",
            &format!(
                "keys.yaml:2:23 this API key is already defined (the first is at keys.yaml:1:{})",
                24
            ),
        ],
    );
}

fn registered_at(file: &Path) -> Beside<'_> {
    Beside { registered: Some(file), discovered: None }
}

#[test]
fn what_was_discovered_takes_nothing_from_the_configuration() {
    let directory = TestDirectory::new();
    let main = directory.write("gateway.yaml", &completed(""));
    let discovered = r#"{
        "servers": {
            "everything": { "discovery": { "kubernetes": { "service": "b/taken-name" } } },
            "a.path": { "discovery": { "kubernetes": { "service": "a/taken-path" } } },
            "a.new": { "discovery": { "kubernetes": { "service": "a/new" } } }
        },
        "routes": [
            { "path": "/services/b/everything", "server": "everything" },
            { "path": "/mcp", "server": "a.path" },
            { "path": "/services/a/new", "server": "a.new" }
        ]
    }"#;
    let beside = Beside { registered: None, discovered: Some(discovered) };
    let settings = load_with(&main, &environment, beside).unwrap();
    let names: Vec<_> = settings.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["everything", "a.new"]);
    assert_eq!(settings.servers[0].endpoints.len(), 1, "its own");
    let routes: Vec<_> =
        settings.routes.iter().map(|route| (route.path.as_str(), route.servers()[0])).collect();
    assert_eq!(routes, [("/mcp", 0), ("/services/a/new", 1)]);
    let mut shadowed = settings.shadowed.clone();
    shadowed.sort();
    assert_eq!(shadowed, ["a.path", "everything"]);
    let before = settings.sources.digest();
    let nothing = load_with(&main, &environment, Beside::default()).unwrap();
    assert_ne!(nothing.sources.digest(), before, "another one is another configuration");
    assert!(nothing.shadowed.is_empty());
}

#[test]
fn what_was_registered_comes_last() {
    let directory = TestDirectory::new();
    let main = directory.write("gateway.yaml", &completed(""));
    let registered = directory.path().join("registered.yaml");
    let names = || {
        let settings = load_with(&main, &environment, registered_at(&registered));
        settings
            .map(|settings| {
                let names = settings.servers.into_iter().map(|server| server.name);
                names.chain(settings.routes.into_iter().map(|route| route.path)).collect()
            })
            .map_err(|problems| {
                let told = problems.list().iter().map(|problem| {
                    let root = format!("{}/", directory.path().display());
                    let at = problems.sources().locate(problem.place).replace(&root, "");
                    format!("{at} {}", problem.message)
                });
                told.collect()
            })
    };
    let check = |text: Option<&str>, expected: Result<&[&str], &[&str]>| {
        if let Some(text) = text {
            directory.write("registered.yaml", text);
        }
        let names: Result<Vec<String>, Vec<String>> = names();
        match (&names, expected) {
            (Ok(names), Ok(expected)) => assert_eq!(names, expected, "{text:?}"),
            (Err(told), Err(expected)) => assert_eq!(told, expected, "{text:?}"),
            _ => panic!("{text:?}: {names:?}"),
        }
    };
    check(None, Ok(&["everything", "/mcp"]));
    check(Some(""), Ok(&["everything", "/mcp"]));
    check(
        Some("servers: { b: { endpoints: [http://b/] } }\nroutes: [{ path: /b, server: b }]\n"),
        Ok(&["everything", "b", "/mcp", "/b"]),
    );
    check(
        Some("servers: { everything: { endpoints: [http://b/] } }\nidentity: {}\n"),
        Err(&[
            "registered.yaml:1:12 a server of this name is already defined",
            "registered.yaml:2:1 the key `identity` is unknown",
        ]),
    );
    check(
        Some("servers: {"),
        Err(&["registered.yaml:1:10 this is not YAML: unclosed bracket '{'"]),
    );
}

#[test]
fn every_file_that_matters_is_told() {
    let directory = TestDirectory::new();
    let main = "include: [teams/*.yaml, 'more/?/*.yaml', one.yaml]\nsessions: { keys: ['file:session'] }\nidentity: { api_keys: { file: keys.yaml } }\n";
    directory.write("gateway.yaml", &completed(main));
    directory.write("teams/a.yaml", "identity: { api_keys: { file: a.keys } }\n");
    directory.write("teams/a.keys", &format!("- {{ caller: a, sha256: {KEY} }}\n"));
    directory.write("more/1/b.yaml", "");
    directory.write("one.yaml", "");
    directory.write("session", "0123456789abcdef0123456789abcdef");
    directory.write("keys.yaml", "[]\n");
    directory.write("registered.yaml", "");
    let path = directory.path();
    let check = |registered: &str, expected: &[&str]| {
        let registered = path.join(registered);
        let (Ok(sources) | Err(sources)) =
            load_with(&path.join("gateway.yaml"), &environment, registered_at(&registered))
                .map(|settings| settings.sources.as_ref().clone())
                .map_err(|problems| problems.sources().clone());
        let files: Vec<_> = sources
            .files()
            .map(|file| file.strip_prefix(path).unwrap().display().to_string())
            .collect();
        assert_eq!(files, expected);
    };
    let mut files = vec![
        "gateway.yaml",
        "keys.yaml",
        "more",
        "more/1",
        "more/1/b.yaml",
        "one.yaml",
        "registered.yaml",
        "session",
        "teams",
        "teams/a.keys",
        "teams/a.yaml",
    ];
    check("registered.yaml", &files);
    files.retain(|file| *file != "registered.yaml");
    check("absent.yaml", &files);
    // A file that is missing is watched for too.
    std::fs::remove_file(path.join("session")).unwrap();
    check("absent.yaml", &files);
}

#[test]
fn files_of_endpoints_are_whole_or_told() {
    let directory = TestDirectory::new();
    let check = |text: &str, expected: Result<&[(&str, u32)], &[&str]>| {
        let path = directory.write("endpoints.yaml", text);
        match (endpoints_file(&path), expected) {
            (Ok(endpoints), Ok(expected)) => {
                let endpoints: Vec<_> =
                    endpoints.iter().map(|e| (e.url.as_str(), e.weight)).collect();
                assert_eq!(endpoints, expected, "{text}");
            }
            (Err(problems), Err(expected)) => {
                let told: Vec<_> = problems
                    .list()
                    .iter()
                    .map(|problem| {
                        let (line, column) = (problem.place.line(), problem.place.column());
                        format!("{line}:{column} {}", problem.message)
                    })
                    .collect();
                assert_eq!(told, expected, "{text}");
            }
            (endpoints, _) => panic!("{text}: {endpoints:?}"),
        }
    };
    check("[]", Ok(&[]));
    check("[]\n", Ok(&[]));
    check(
        "- http://a\n- { url: HTTP://B:80/c, weight: 3 }\n",
        Ok(&[("http://a/", 1), ("http://b/c", 3)]),
    );
    // Programs write JSON, often without a last line break.
    check(
        r#"[{"url": "http://a/mcp", "weight": 2}, "http://b/mcp"]"#,
        Ok(&[("http://a/mcp", 2), ("http://b/mcp", 1)]),
    );
    check("", Err(&["1:1 the file is empty"]));
    check("# nothing\n", Err(&["1:1 the file is empty"]));
    check("[http://a/mcp, http://b", Err(&["1:1 this is not YAML: unclosed bracket '['"]));
    check(
        "- http://10.0.0.1:8000/mcp\n- http://10.0.0.2:80",
        Err(&["1:1 the file does not end with a line break, so it may be half written"]),
    );
    check(
        "- http://a/mcp\n- { url: a, weight: 0 }\n- http://a/mcp\n- { weight: 2 }\n-\n",
        Err(&[
            "2:10 this is not an absolute URL",
            "2:21 a weight is a number from 1 to 256",
            "3:3 this endpoint is already in the list",
            "4:3 the key `url` is missing",
            "5:2 nothing is written here",
        ]),
    );
    check("endpoints: []\n", Err(&["1:1 a list is expected here, this is a map"]));
    check("- ${HOST}\n", Err(&["1:3 the environment variable `HOST` is not set"]));
    let problems = endpoints_file(&directory.path().join("absent.yaml")).unwrap_err();
    assert!(
        problems.list()[0]
            .message
            .ends_with("absent.yaml cannot be read: No such file or directory (os error 2)")
    );
}

#[test]
fn secrets_may_stand_in_files() {
    let secret = "0123456789abcdef0123456789abcdef";
    let main = completed("sessions: { keys: ['file:keys/session'] }\n");
    let settings =
        load_files(&[("gateway.yaml", &main), ("keys/session", &format!("{secret}\r\n"))]).unwrap();
    assert_eq!(settings.sessions.keys[0].expose(), secret);
    check(
        &[("gateway.yaml", &main), ("keys/session", "short\n")],
        &[
            "gateway.yaml:1:20 a session key has at least 32 characters (make one with: openssl rand -base64 32)",
        ],
    );
    check(
        &[("gateway.yaml", &main), ("keys/session", &"x".repeat(70_000))],
        &[
            "gateway.yaml:1:20 keys/session cannot be read: it is larger than 65536 bytes (paths are relative to the file that names them)",
        ],
    );
}

#[test]
fn files_that_cannot_be_read_are_told() {
    check(
        &[],
        &[
            "gateway.yaml gateway.yaml cannot be read: No such file or directory (os error 2) (check the path and who may read it)",
        ],
    );
    check(
        &[("gateway.yaml", &"#\n".repeat(600_000))],
        &[
            "gateway.yaml gateway.yaml cannot be read: it is larger than 1048576 bytes (check the path and who may read it)",
        ],
    );
    check(
        &[("gateway.yaml", "# empty\n")],
        &["gateway.yaml:1:1 the file is empty (begin with conf/minimal.yaml)"],
    );
    check(
        &[("gateway.yaml", "")],
        &["gateway.yaml:1:1 the file is empty (begin with conf/minimal.yaml)"],
    );
    let directory = TestDirectory::new();
    let path = directory.write("gateway.yaml", &completed(MAIN));
    std::fs::create_dir(directory.path().join("teams")).unwrap();
    std::os::unix::fs::symlink("absent", directory.path().join("teams/a.yaml")).unwrap();
    let problems = load(&path, &environment).unwrap_err();
    assert!(
        problems.list()[0]
            .message
            .ends_with("teams/a.yaml cannot be read: No such file or directory (os error 2)")
    );
    std::fs::write(&path, b"listen: \xff\n").unwrap();
    let problems = load(&path, &environment).unwrap_err();
    assert!(problems.to_string().contains("it is not UTF-8 text"), "{problems}");
}

#[test]
fn hostile_yaml_is_bounded() {
    let check = |text: &str, expected: &str| {
        let problems = parse(text, "t", &environment).unwrap_err();
        assert!(problems.to_string().starts_with(expected), "{problems}");
    };
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    check(&bomb, "error: the file stands for more than 200000 values\n --> t:6:");
    check(&"[".repeat(100_000), "error: this is not YAML: ");
    check(&"- ".repeat(100_000), "error: this is not YAML: ");
    check(&"{a: ".repeat(100_000), "error: this is not YAML: ");
    check("a: 1\n---\nb: 2\n", "error: a second document begins here\n --> t:2:1");
    check("%YAML 1.1\n---\na: 1\n", "error: this is not YAML: ");
    check(
        "\u{feff}lisen: 1\n",
        "error: the key `lisen` is unknown\n --> t:1:1\n  |\n1 | lisen: 1\n",
    );
}
