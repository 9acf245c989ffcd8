//! How problems look: every one at once, with its line, and without any secret.

use super::{completed, environment};
use crate::config::{Problem, Problems, parse};

fn shown(text: &str) -> String {
    parse(text, "gateway.yaml", &environment).unwrap_err().to_string()
}

const TEN_MISTAKES: &str = "\
lisen: 127.0.0.1:8080
listen: localhost:8080
runtime: { threads: many, grace: 30 }
sessions:
  keys: [hunter2-hunter2]
servers:
  everything:
    endpoints: [http://127.0.0.1:3001/mcp, 127.0.0.1:3002]
    balanse: { key: caller }
    timeouts: { connect: \"${CONNECT}\" }
routes:
  - { path: mcp, server: everithing }
";

const TEN_PROBLEMS: &str = "\
error: the key `lisen` is unknown
 --> gateway.yaml:1:1
  |
1 | lisen: 127.0.0.1:8080
  | ^
  = hint: did you mean `listen`?

error: this is not an address to listen on
 --> gateway.yaml:2:9
  |
2 | listen: localhost:8080
  |         ^
  = hint: write 127.0.0.1:8080

error: this is not a number of threads
 --> gateway.yaml:3:21
  |
3 | runtime: { threads: many, grace: 30 }
  |                     ^
  = hint: write auto, or a number from 1 to 1024

error: this is not a duration
 --> gateway.yaml:3:34
  |
3 | runtime: { threads: many, grace: 30 }
  |                                  ^
  = hint: write a whole number and a unit: 500ms, 30s, 10m, 24h

error: a session key has at least 32 characters
 --> gateway.yaml:5:10
  |
5 |   keys: [***************]
  |          ^
  = hint: make one with: openssl rand -base64 32

error: this is not an absolute URL
 --> gateway.yaml:8:44
  |
8 |     endpoints: [http://127.0.0.1:3001/mcp, 127.0.0.1:3002]
  |                                            ^
  = hint: write it like http://10.0.0.1:8000/mcp

error: the key `balanse` is unknown
 --> gateway.yaml:9:5
  |
9 |     balanse: { key: caller }
  |     ^
  = hint: did you mean `balance`?

error: the environment variable `CONNECT` is not set
  --> gateway.yaml:10:26
   |
10 |     timeouts: { connect: \"${CONNECT}\" }
   |                          ^
   = hint: set it, or give a default: ${CONNECT:-default}

error: a path begins with /
  --> gateway.yaml:12:13
   |
12 |   - { path: mcp, server: everithing }
   |             ^
   = hint: write it like /mcp

error: there is no server of this name
  --> gateway.yaml:12:26
   |
12 |   - { path: mcp, server: everithing }
   |                          ^
   = hint: did you mean `everything`?

10 problems";

#[test]
fn ten_mistakes_are_listed_at_once() {
    assert_eq!(shown(TEN_MISTAKES), TEN_PROBLEMS);
}

#[test]
fn secrets_are_never_shown() {
    // Every text holds `hunter2` as a secret, and a mistake in the same line.
    let texts = [
        "sessions: { keys: [hunter2], lifetim: 1h }\n",
        "sessions: { keys: hunter2 }\n",
        "sessions: { keys: { hunter2: x } }\n",
        "sessions: { keys: [\"x\\u0020hunter2\"] }\n",
        "sessions: { keys: [[hunter2]] }\n",
        "sessions: { keys: [\"${SHORT}\"], lifetime: \"${SHORT}\" }\n",
        "sessions: { keys: [\"${UNSET:-hunter2}\"] }\n",
        "sessions: { keys: [\"${hunter2\"] }\n",
        "sessions: { key: hunter2 }\n",
        "sessions: { secret: hunter2 }\n",
        "sessions: [{ keys: [hunter2] }]\n",
        "sesions: { keys: [hunter2] }\n",
        "session_key: hunter2\n",
        "identity: { api_keys: [hunter2] }\n",
        "identity: { api_keys: hunter2 }\n",
        "identity: { api_keys: [{ caller: a, sha256: hunter2 }] }\n",
        "identity: { api_keys: [{ caller: a, sha265: hunter2 }] }\n",
        "identity: { api_keys: [{ caller: a, token: hunter2 }] }\n",
        "admin: { listen: 127.0.0.1:1, tokens: [hunter2] }\n",
        "admin: { listen: 127.0.0.1:1, tokens: hunter2 }\n",
        "admin: { listen: 127.0.0.1:1, token: hunter2 }\n",
        "admin: { listen: 127.0.0.1:1, tokens: [{ role: read, sha256: hunter2 }] }\n",
        "admin: { listen: 127.0.0.1:1, tokens: [{ role: read, token: hunter2 }] }\n",
        "servers: { everything: { endpoints: [\"http://me:hunter2@a/\"] } }\n",
        "servers: { everything: { endpoints: [\"http://hunter2@a/\", 'http://b/${'] } }\n",
        "servers: { everything: { endpoints: [\"http://me:a, hunter2@a/\", http://me:hunter2@b/] } }\n",
        "sessions:\n  keys:\n    - correct-horse-hunter2-staple\n    - ]\n",
        "sessions: { keys: [\"correct-horse-hunter2-staple], lifetime: 1h }\n",
        "runtime: { grace: \"${SHORT}\", threads: \"${SHORT}\" }\nlisten: \"${SHORT}\"\n",
        "routes: [{ path: \"${SHORT}\", server: \"${SHORT}\", public_url: \"${SHORT}\" }]\n",
        "telemetry: { requests: \"${SHORT}\" }\n",
        "audit: { sinks: [{ otlp: { endpoint: http://a, headers: hunter2 } }] }\n",
        "audit: { sinks: [{ otlp: { endpoint: http://a, headers: { x: [hunter2] } } }] }\n",
        "audit: { sinks: [{ otlp: { endpoint: http://a, headers: { 'x y': hunter2 } } }] }\n",
        "audit: { sinks: [{ otlp: { endpoint: \"http://me:hunter2@a\" } }] }\n",
    ];
    for text in texts {
        let shown = shown(&completed(text));
        assert!(!shown.contains("hunter2"), "{text}{shown}");
    }
    let text = completed("sessions: { keys: [\"${LONG}\"] }\nidentity: { api_keys: [] }\n");
    let settings = parse(&text, "t", &environment).unwrap();
    assert!(!format!("{settings:?}").contains("horse"));
}

#[test]
fn whole_files_are_shown_without_secrets_and_comments() {
    let digest = "0a".repeat(32);
    let text = format!(
        r#"# The key before was hunter2.
listen: 127.0.0.1:8080 # hunter2

state_dir: "a # b"
sessions:
  # hunter2
  keys:
    - |
      hunter2-hunter2-hunter2-hunter2-hunter2
      hunter2-of-two-lines
    - "hunter2 hunter2
       hunter2 hunter2 hunter2 folded"
    - ${{LONG}}
    - "${{UNSET:-hunter2-hunter2-hunter2-hunter2-hunter2}}"
shared: {{ redis: "redis://me:hunter2@127.0.0.1/" }}
admin: {{ listen: 127.0.0.1:1, tokens: [{{ role: read, sha256: {digest} }}] }}
identity:
  api_keys: [{{ caller: ann, sha256: {digest} }}] # hunter2
servers:
  one:
    endpoints: ["http://127.0.0.1:1/"]
    owner: &owner hunter2
    credentials: {{ value: "Bearer hunter2", }}
  two: {{ endpoints: ["http://127.0.0.1:2/"], credentials: {{ value: *owner }} }}
  three:
    endpoints: ["http://127.0.0.1:3/"]
    credentials:
      oauth_client: {{ token_url: "https://a/", client_id: ü, client_secret: 'hunter2' }}
audit:
  sinks:
    - otlp: {{ endpoint: "http://127.0.0.1:4/", headers: {{ x-key: hunter2 }} }}
routes: [{{ path: /mcp, server: one }}]
"#
    );
    let settings = parse(&text, "gateway.yaml", &environment).unwrap();
    let files: Vec<(&str, String)> = settings.sources.texts().collect();
    let [("gateway.yaml", shown)] = &files[..] else { panic!("{files:?}") };
    for secret in ["hunter2", "folded", "two-lines", &digest, "horse", "x-key", "*****"] {
        assert!(!shown.contains(secret), "{secret} in\n{shown}");
    }
    for kept in [
        "listen: 127.0.0.1:8080\n\nstate_dir: \"a # b\"\nsessions:\n  keys:\n",
        "    - ${LONG}\n",
        "tokens: [{ role: read, sha256: **** }] }\n",
        "api_keys: [{ caller: ann, sha256: **** }]\n",
        "client_id: ü, client_secret: **** }\n",
        "credentials: { value: **** ****, }\n",
        "routes: [{ path: /mcp, server: one }]\n",
    ] {
        assert!(shown.contains(kept), "{kept} not in\n{shown}");
    }
    assert_eq!(shown.lines().count(), 30, "{shown}");
}

#[test]
fn a_fault_found_later_looks_the_same() {
    let settings = parse(&completed(""), "gateway.yaml", &environment).unwrap();
    let fault = Problem::new(settings.routes[0].place, "nothing listens there").hint("start it");
    let problems = Problems::new(settings.sources, vec![fault]);
    let expected = "\
error: nothing listens there
 --> gateway.yaml:3:18
  |
3 | routes: [{ path: /mcp, server: everything }]
  |                  ^
  = hint: start it

1 problem";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn long_and_hostile_lines_are_shown_safely() {
    let text = format!("state_dir: [{}, \"é\u{1b}[31m\"]\r\nlisen: x\n", "a".repeat(5000));
    let shown = shown(&completed(&text));
    assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
    assert!(!shown.contains(['\u{1b}', '\r']), "{shown}");
    let shown = self::shown(&completed("\"a\\e[31m\\u202e\": 1\n"));
    assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    let wide = self::shown(&completed("runtime: { ü: \"é\", thread: 1 }\n"));
    assert!(
        wide.contains("1 | runtime: { ü: ***, thread: 1 }\n  |                    ^\n"),
        "{wide}"
    );
}
