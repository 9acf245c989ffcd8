//! Rules without conditions, row by row.

use super::{annotations, asked, caller, policy, told};
use crate::mcp::Listed;
use crate::policy::Policy;

fn check(policy: &Policy, rows: &[(&str, &str, &str, &str)]) {
    for (who, server, what, expected) in rows {
        let caller = caller(who);
        // Twice, because the second answer comes from the tables.
        for _ in 0..2 {
            let decision = policy.authorize(&asked(&caller, server, what));
            assert_eq!(told(&decision), *expected, "{who} {server} {what}");
        }
    }
}

#[test]
fn without_a_rule_in_force_everything_is_allowed() {
    let open = policy("  rules: []");
    check(&open, &[("anonymous", "files", "read", "allowed - open")]);
    let shadow = policy("  rules: [{ name: a, mode: shadow, deny: { tools: [read] } }]");
    check(
        &shadow,
        &[
            ("alice", "files", "read", "allowed - open | refused a rule"),
            ("alice", "files", "write", "allowed - open | refused - default"),
            ("alice", "files", "method:ping", "allowed - open"),
        ],
    );
}

#[test]
fn a_deny_wins_over_an_allow_in_any_order() {
    for text in [
        "  rules: [{ name: a, allow: { tools: ['files/*'] } }, { name: d, deny: { tools: [rm] } }]",
        "  rules: [{ name: d, deny: { tools: [rm] } }, { name: a, allow: { tools: ['files/*'] } }]",
    ] {
        check(
            &policy(text),
            &[
                ("alice", "files", "read", "allowed a rule"),
                ("alice", "files", "rm", "hidden d rule"),
                ("alice", "mail", "read", "hidden - default"),
                ("alice", "nowhere", "read", "hidden - default"),
                ("alice", "files", "prompt:x", "hidden - default"),
                ("alice", "files", "method:custom/do", "forbidden - default"),
            ],
        );
    }
}

#[test]
fn callers_are_told_apart_by_what_they_proved() {
    let rows = [
        ("alice", "alice tenant=acme", "bob"),
        ("\"al*\"", "alice", "bob"),
        ("anonymous", "anonymous", "alice"),
        ("\"an*\"", "anna", "anonymous"),
        ("\"*\"", "anonymous", ""),
        ("\"tenant:acme\"", "x tenant=acme", "x tenant=other"),
        ("\"tenant:acme\"", "x tenant=acme", "x"),
        ("\"claim:org.unit=a*\"", r#"x org={"unit":["b","ab"]}"#, r#"x org={"unit":"b"}"#),
        ("\"claim:org.unit=a\"", "x org.unit=a", "x org=a"),
        ("\"claim:admin=true\"", "x admin=true", "x admin=false"),
        ("\"claim:level=3\"", "x level=3", "x level=\"30\""),
        ("\"issuer:https://a/*\"", "x issuer=https://a/b", "x"),
        ("\"method:jwt\"", "x issuer=https://a", "x"),
        ("[\"tenant:acme\", \"method:api_key\"]", "x tenant=acme", "x tenant=acme issuer=i"),
    ];
    for (pattern, meant, other) in rows {
        let policy =
            policy(&format!("  rules: [{{ name: a, allow: {{ callers: [{pattern}] }} }}]"));
        check(&policy, &[(meant, "files", "t", "allowed a rule")]);
        if !other.is_empty() {
            check(&policy, &[(other, "files", "t", "hidden - default")]);
        }
    }
}

#[test]
fn lifecycle_is_open_to_every_caller_until_a_rule_denies_it() {
    let closed = policy("  rules: [{ name: a, allow: { callers: [alice], tools: [t] } }]");
    for method in [
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "notifications/initialized",
        "GET",
        "DELETE",
        "tasks/get",
        "logging/setLevel",
    ] {
        let what = format!("method:{method}");
        check(&closed, &[("bob", "files", &what, "allowed - lifecycle")]);
    }
    check(&closed, &[("bob", "files", "method:tasks/list", "forbidden - default")]);
    let denied = policy(
        "  rules: [{ name: a, allow: { methods: ['x/*'] } }, { name: d, deny: { methods: ['tasks/*'] } }, { name: b, deny: { callers: [bob] } }]",
    );
    check(
        &denied,
        &[
            ("alice", "files", "method:x/y", "allowed a rule"),
            ("alice", "files", "method:tasks/get", "forbidden d rule"),
            ("root", "files", "method:tasks/list", "forbidden d rule"),
            ("alice", "files", "method:ping", "allowed - lifecycle"),
            ("bob", "files", "method:initialize", "forbidden b rule"),
        ],
    );
}

#[test]
fn resources_and_prompts_have_rules_like_tools() {
    let policy = policy(
        "  rules: [{ name: a, allow: { servers: [files], resources: ['file:///pub/*'], prompts: ['files/p*'] } }, { name: d, deny: { resources: ['*.key'] } }]",
    );
    check(
        &policy,
        &[
            ("x", "files", "resource:file:///pub/a", "allowed a rule"),
            ("x", "files", "resource:file:///pub/a.key", "hidden d rule"),
            ("x", "files", "resource:file:///etc", "hidden - default"),
            ("x", "mail", "resource:file:///pub/a", "hidden - default"),
            ("x", "files", "template:file:///{path}", "allowed a rule"),
            ("x", "files", "template:http://{path}", "hidden - default"),
            ("x", "files", "prompt:plan", "allowed a rule"),
            ("x", "mail", "prompt:plan", "hidden - default"),
        ],
    );
}

#[test]
fn who_lacks_only_scopes_is_told_all_of_them() {
    let policy = policy(
        "  rules:
    - { name: r, allow: { callers: ['scope:read', ['tenant:acme', 'scope:lent']], tools: ['get_*'] } }
    - { name: w, allow: { callers: [alice], tools: ['put_*'], scopes: [read, write] } }
    - { name: all, allow: { callers: [root] } }
    - { name: step, require: { tools: ['*_secret'], scopes: [vault, audit] } }",
    );
    check(
        &policy,
        &[
            ("bob read", "files", "get_x", "allowed r rule"),
            ("bob", "files", "get_x", "needs read r rule"),
            ("bob tenant=acme lent", "files", "get_x", "allowed r rule"),
            ("alice read", "files", "put_x", "needs read+write w rule"),
            ("alice read write", "files", "put_x", "allowed w rule"),
            ("bob", "files", "put_x", "hidden - default"),
            ("root", "files", "get_secret", "needs audit+vault step rule"),
            ("root vault", "files", "get_secret", "needs audit+vault step rule"),
            ("root audit vault", "files", "get_secret", "allowed all rule"),
            ("bob", "files", "get_secret", "needs audit+read+vault step rule"),
            ("bob", "files", "put_secret", "hidden - default"),
        ],
    );
}

#[test]
fn shadow_rules_are_told_and_change_nothing() {
    let policy = policy(
        "  rules:
    - { name: a, allow: { tools: [t, u] } }
    - { name: sd, mode: shadow, deny: { tools: [u] } }
    - { name: sa, mode: shadow, allow: { tools: [v] } }
    - { name: sr, mode: shadow, require: { tools: [t], scopes: [s] } }",
    );
    check(
        &policy,
        &[
            ("x s", "files", "t", "allowed a rule"),
            ("x", "files", "t", "allowed a rule | scope_missing sr rule"),
            ("x", "files", "u", "allowed a rule | refused sd rule"),
            ("x", "files", "v", "hidden - default | allowed sa rule"),
            ("x", "files", "w", "hidden - default"),
        ],
    );
}

#[test]
fn names_that_are_no_names_are_refused_and_cost_nothing() {
    let policy = policy("  rules: [{ name: a, allow: {} }]");
    let long = "a".repeat(4097);
    check(&policy, &[("x", "files", &long, "hidden - name_too_long")]);
    let method = format!("method:{long}");
    check(&policy, &[("x", "files", &method, "forbidden - name_too_long")]);
    let invented: Vec<String> = (0..3000).map(|name| format!("tool-{name}")).collect();
    for name in &invented {
        check(&policy, &[("x", "files", name, "allowed a rule")]);
    }
}

#[test]
fn what_servers_may_read_as_another_name_is_refused() {
    let policy = policy(
        "  rules:
    - { name: a, allow: { resources: ['*'], prompts: ['*'], tools: ['*'] } }
    - { name: root, allow: { callers: [root] } }
    - { name: d, deny: { callers: [alice], resources: ['file:///etc/*'], prompts: [secret] } }
    - { name: r, require: { callers: [bob], resources: ['file:///etc/*'], scopes: [s] } }",
    );
    check(
        &policy,
        &[
            ("alice", "files", "resource:file:///etc/passwd", "hidden d rule"),
            ("alice", "files", "resource:file:///pub/a", "allowed a rule"),
            ("alice", "files", "resource:file:///pub/../etc/passwd", "hidden - uri_not_normal"),
            ("alice", "files", "resource:file:///%65tc/passwd", "hidden - uri_not_normal"),
            ("alice", "files", "resource:FILE:///etc/passwd", "hidden - uri_not_normal"),
            ("alice", "files", "resource:file://localhost/etc/passwd", "hidden - uri_not_normal"),
            ("alice", "files", "template:file:///pub/../{x}", "hidden - uri_not_normal"),
            ("alice", "files", "template:file:///{x}", "allowed a rule"),
            ("bob", "files", "resource:file:/etc/passwd", "hidden - uri_not_normal"),
            // Who may do everything gains nothing by another spelling.
            ("root", "files", "resource:FILE:///etc/passwd", "allowed a rule"),
            // A completion that is for two things, or for none.
            ("alice", "files", "prompt:", "hidden - name_missing"),
            ("root", "files", "prompt:", "hidden - name_missing"),
        ],
    );
    let shows = |who: &str, listed, name: &str| {
        policy.listing(&caller(who), "files", None).shows(listed, name, None)
    };
    assert!(shows("alice", Listed::Resource, "file:///pub/a"));
    assert!(!shows("alice", Listed::Resource, "file:///pub/./a"));
    assert!(!shows("alice", Listed::Template, "File:///pub/{a}"));
    assert!(!shows("alice", Listed::Tool, ""));
    assert!(shows("root", Listed::Resource, "file:///pub/./a"));
    let shadow = super::policy("  rules: [{ name: s, mode: shadow, allow: { tools: [t] } }]");
    check(
        &shadow,
        &[("x", "files", "resource:file:/a", "allowed - open | refused - uri_not_normal")],
    );
}

#[test]
fn lists_show_what_could_be_called() {
    let policy = policy(
        "  rules:
    - { name: a, allow: { callers: ['scope:read'], servers: [files], tools: ['get_*'], resources: ['file:*'] } }
    - { name: root, allow: { callers: [root] } }
    - { name: d, deny: { callers: [bob], servers: [mail] } }
    - { name: r, require: { tools: [get_secret], scopes: [vault] } }",
    );
    let shown = |who: &str, server: &str, listed, name: &str| {
        let caller = caller(who);
        policy.listing(&caller, server, None).shows(listed, name, None)
    };
    assert!(shown("x read", "files", Listed::Tool, "get_a"));
    assert!(shown("x", "files", Listed::Tool, "get_a"), "a challenge tells how to get it");
    assert!(shown("x", "files", Listed::Tool, "get_secret"));
    assert!(!shown("x read", "files", Listed::Tool, "put_a"));
    assert!(!shown("x read", "files", Listed::Prompt, "get_a"));
    assert!(!shown("x read", "mail", Listed::Tool, "get_a"));
    assert!(shown("x read", "files", Listed::Resource, "file:///a"));
    assert!(shown("x read", "files", Listed::Template, "file:///{a}"));
    assert!(!shown("x read", "files", Listed::Template, "http://{a}"));
    let open = |who: &str, server: &str| policy.listing(&caller(who), server, None).is_open();
    assert!(open("root", "files") && !open("x read", "files") && !open("bob", "mail"));
    assert!(super::policy("  rules: []").listing(&caller("x"), "files", None).is_open());
}

#[test]
fn a_declared_name_finds_room_when_invented_ones_fill_theirs() {
    let policy = policy("  rules: [{ name: a, allow: { tools: ['t*'] } }]");
    let caller = caller("x");
    for name in 0..2000 {
        let name = format!("t{name}");
        policy.authorize(&asked(&caller, "files", &name));
    }
    let declared = annotations(serde_json::json!({}));
    let mut known = asked(&caller, "files", "treasure");
    known.annotations = Some(&declared);
    let allocations = allocation_counter::measure(|| {
        policy.authorize(&known);
    });
    assert!(allocations.count_total > 0, "the first time it is worked out");
    let allocations = allocation_counter::measure(|| {
        policy.authorize(&known);
    });
    assert_eq!(allocations.count_total, 0, "a known name at a known caller allocates nothing");
}
