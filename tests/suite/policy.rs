//! What a policy says before it is in force: `explain`, `check`, and `check --against`.

use crate::support::gateway::{Folder, toolgate};

const SECTIONS: &str = "listen: 127.0.0.1:8080
servers:
  files: { endpoints: [http://127.0.0.1:1/] }
  mail: { endpoints: [http://127.0.0.1:2/] }
routes: [{ path: /files, server: files }, { path: /mail, server: mail }]
identity:
  api_keys:
    - { caller: alice, tenant: acme, scopes: [read], sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa }
    - { caller: bob, sha256: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb }
";

const POLICY: &str = "policy:
  labels: { secret: [files/get_secret], egress: ['mail/*'] }
  rules:
    - { name: readers, allow: { callers: ['scope:read'], tools: ['get_*'] } }
    - { name: look, allow: { tools: ['see_*'], when: tool.annotations.readOnlyHint } }
    - { name: mailers, allow: { callers: ['claim:dept=post'], servers: [mail] } }
    - { name: no-dotfiles, deny: { tools: ['files/*'], when: \"arguments.path.contains('/.')\" } }
    - { name: next, mode: shadow, deny: { tools: [get_old] } }
  combinations:
    - { name: no-exfiltration, after: secret, deny: egress, within: session }
";

/// What `explain` prints, and its exit code.
fn explain(words: &[&str]) -> (Option<i32>, String) {
    let folder = Folder::new();
    let config = folder.write("c.yaml", &format!("{SECTIONS}{POLICY}"));
    let config = config.display().to_string();
    let arguments = [&["explain", "--config", &config], words].concat();
    let output = toolgate(&arguments);
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).replace(&config, "c.yaml");
    (output.status.code(), told)
}

#[test]
fn explain_tells_the_rule_and_why_the_others_did_not_match() {
    let (code, told) =
        explain(&["--caller", "alice", "--tool", "files/get_x", "--arguments", r#"{"path":"/a"}"#]);
    assert_eq!(code, Some(0), "{told}");
    let expected = "allowed (by rule readers)
* readers (allow, c.yaml:13:15): it matches
  look (allow, c.yaml:14:15): it is about other tools: */see_*
  mailers (allow, c.yaml:15:15): it is about other servers: mail
  no-dotfiles (deny, c.yaml:16:15): its condition does not hold: arguments.path.contains('/.')
  next (deny, in shadow, c.yaml:17:15): it is about other tools: */get_old
";
    assert_eq!(told, expected);
}

/// What is asked, the exit code, and what is told.
const ASKED: &[(&[&str], i32, &[&str])] = &[
    (
        &["--caller", "bob", "--tool", "files/get_x"],
        1,
        &[
            "refused: for this caller it does not exist",
            "the condition of rule no-dotfiles cannot be decided",
            "cannot be decided, so it holds: arguments.path.contains('/.') (No such key: path)",
        ],
    ),
    (
        &["--caller", "bob", "--server", "mail", "--tool", "get_x"],
        1,
        &[
            "refused: it needs the scopes read (by rule readers)",
            "readers (allow, c.yaml:13:15): the caller lacks some of these scopes: read",
            "combination no-exfiltration (c.yaml:19:15): egress, so refused after secret",
        ],
    ),
    (
        &["--caller", "bob", "--scopes", "read,more", "--route", "/mail", "--tool", "get_x"],
        0,
        &["allowed (by rule readers)"],
    ),
    (
        &["--caller", "alice", "--server", "mail", "--tool", "get_old"],
        0,
        &["with the rules in shadow it would be refused (by rule next)"],
    ),
    (
        &["--caller", "bob", "--server", "mail", "--tool", "see_x"],
        1,
        &["rule look asks for an annotation that is not known"],
    ),
    (
        &[
            "--caller",
            "bob",
            "--server",
            "mail",
            "--tool",
            "see_x",
            "--annotations",
            r#"{"readOnlyHint":true}"#,
        ],
        0,
        &["its condition holds: tool.annotations.readOnlyHint"],
    ),
    (
        &[
            "--caller",
            "eve",
            "--issuer",
            "https://idp",
            "--claims",
            r#"{"dept":["post"]}"#,
            "--server",
            "mail",
            "--prompt",
            "p",
        ],
        0,
        &["allowed (by rule mailers)"],
    ),
    (
        &["--caller", "bob", "--server", "mail", "--method", "initialize"],
        0,
        &["the method belongs to the protocol"],
    ),
    (
        &["--caller", "bob", "--server", "mail", "--method", "custom/do"],
        1,
        &["refused (no rule allows it)", "readers (allow, c.yaml:13:15): it is not about methods"],
    ),
    (
        &["--caller", "bob", "--server", "mail", "--resource", "file:///x", "--json"],
        1,
        &[r#""decision": "hidden""#, r#""reason": "default""#],
    ),
    (&["--caller", "bob", "--tool", "get_x"], 1, &["name the server: files, mail"]),
    (
        &["--caller", "bob", "--server", "fils", "--tool", "x"],
        1,
        &["there is no server fils; did you mean files?"],
    ),
    (
        &["--caller", "bob", "--server", "mail", "--tool", "x", "--arguments", "{"],
        1,
        &["--arguments is no JSON"],
    ),
    (&["--caller", "bob", "--server", "mail"], 1, &["name one tool"]),
    (&["--caller", "bob", "--tool", "a", "--prompt", "b"], 2, &["cannot be used with"]),
    (
        &["--caller", "bob", "--server", "mail", "--tool", "x", "--ask", "http://127.0.0.1:1"],
        1,
        &["cannot reach the admin listener"],
    ),
];

#[test]
fn explain_exits_with_1_where_it_would_be_refused() {
    for (words, code, expected) in ASKED {
        let (found, told) = explain(words);
        assert_eq!(found, Some(*code), "{words:?}: {told}");
        for text in *expected {
            assert!(told.contains(text), "{words:?}: no {text} in\n{told}");
        }
    }
}

#[test]
fn check_points_at_conditions_that_are_none() {
    let folder = Folder::new();
    let bad = "policy:
  rules:
    - { name: a, allow: { when: caler.id == 'x' } }
    - name: b
      deny:
        when: arguments.path.contans('/')
    - { name: c, deny: { when: 'a +' } }
";
    let config = folder.write("c.yaml", &format!("{SECTIONS}{bad}")).display().to_string();
    let output = toolgate(&["check", "--config", &config]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    for text in [
        "c.yaml:12:33",
        "did you mean `caller`?",
        "c.yaml:15:15",
        "did you mean `contains`?",
        "c.yaml:16:32",
        "this is not CEL",
        "3 problems",
    ] {
        assert!(told.contains(text), "no {text} in\n{told}");
    }
}

fn against(old: &str, new: &str) -> (Option<i32>, String) {
    let folder = Folder::new();
    let write = |name: &str, policy: &str| {
        folder.write(name, &format!("{SECTIONS}{policy}")).display().to_string()
    };
    let (old, new) = (write("old.yaml", old), write("new.yaml", new));
    let output = toolgate(&["check", "--config", &new, "--against", &old]);
    let told = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&told).into_owned())
}

#[test]
fn what_a_new_policy_locks_out_and_exposes_is_shown() {
    let (code, told) = against(POLICY, &format!("# the same\n{POLICY}"));
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("locks nobody out and exposes nothing"), "{told}");

    let rows = [
        (
            "callers: ['scope:read'], tools: ['get_*']",
            "callers: ['scope:write'], tools: ['get_*']",
            &[
                "- locks out alice: tool mail/get_* (allowed -> needs scopes)",
                "+ exposes a caller who is scope:write: tool mail/get_* (needs scopes -> allowed)",
            ][..],
        ),
        (
            "allow: { tools: ['see_*'], when: tool.annotations.readOnlyHint }",
            "allow: { tools: ['see_*'] }",
            &[
                "+ exposes bob: tool mail/see_* (refused -> allowed)",
                "~ rule look has another condition",
            ],
        ),
        (
            "tools: ['files/*'], when: \"arguments.path.contains('/.')\"",
            "tools: ['files/*']",
            &[
                "- locks out alice: tool files/get_* (depends on arguments -> refused)",
                "~ rule no-dotfiles has another condition",
            ],
        ),
        (
            "mode: shadow, deny: { tools: [get_old] }",
            "deny: { tools: [get_old] }",
            &["- locks out alice: tool mail/get_old (allowed -> refused)"],
        ),
        ("within: session", "within: 10m", &["~ combination no-exfiltration is another"]),
        (
            "    - { name: readers,",
            "    - { name: all, allow: {} }\n    - { name: readers,",
            &[
                "+ exposes bob: method files/* (refused -> allowed)",
                "+ exposes bob: resource mail/* (refused -> allowed)",
            ],
        ),
    ];
    for (before, after, expected) in rows {
        assert!(POLICY.contains(before), "{before}");
        let (code, told) = against(POLICY, &POLICY.replace(before, after));
        assert_eq!(code, Some(1), "{after}: {told}");
        for text in expected {
            assert!(told.contains(text), "{after}: no {text} in\n{told}");
        }
        // And the other way round the signs are the other ones.
        let (code, told) = against(&POLICY.replace(before, after), POLICY);
        assert_eq!(code, Some(1), "{after}: {told}");
    }
    let (code, told) = against("policy: {}\n", POLICY);
    assert_eq!(code, Some(1));
    assert!(told.contains("- locks out bob: tool files/* (allowed -> refused)"), "{told}");
    let (code, told) = against("policy: { rule: [] }\n", POLICY);
    assert_eq!(code, Some(78), "{told}");
}
