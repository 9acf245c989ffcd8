//! Conditions: what they may read, and what becomes of those that cannot be decided.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::{annotations, asked, caller, policy, settings, told};
use crate::mcp::Listed;
use crate::policy::Policy;

/// A policy that allows `t` where the condition holds, and everything else.
fn allow(when: &str) -> Policy {
    policy(&format!("  rules: [{{ name: a, allow: {{ when: {} }} }}]", json!(when)))
}

/// A policy that denies where the condition holds.
fn deny(when: &str) -> Policy {
    let when = json!(when);
    policy(&format!(
        "  rules: [{{ name: all, allow: {{}} }}, {{ name: d, deny: {{ when: {when} }} }}]"
    ))
}

fn with_arguments(policy: &Policy, arguments: Option<&str>) -> String {
    let caller = caller("alice tenant=acme read");
    let mut asked = asked(&caller, "files", "t");
    asked.arguments = arguments.map(str::as_bytes);
    told(&policy.authorize(&asked))
}

#[test]
fn arguments_are_read_as_the_server_reads_them() {
    let rows = [
        ("arguments.path.startsWith('/pub/')", r#"{"path":"/pub/x"}"#, Some(true)),
        ("arguments.path.startsWith('/pub/')", r#"{"path":"/etc/x"}"#, Some(false)),
        ("arguments.path.startsWith('/pub/')", r#"{"path":1}"#, None),
        ("arguments.path.startsWith('/pub/')", "{}", None),
        ("arguments.path.startsWith('/pub/')", "[]", None),
        ("arguments.path.startsWith('/pub/')", "null", None),
        ("arguments.path.startsWith('/pub/')", r#"{"path":"/pub/","path":"/pub/"}"#, None),
        ("arguments.path.startsWith('/pub/')", r#"{"path":"/pub/","PATH":"/etc"}"#, None),
        ("!has(arguments.force)", "{}", Some(true)),
        ("!has(arguments.force)", r#"{"Force":true}"#, None),
        ("!('force' in arguments)", r#"{"FORCE":true}"#, None),
        ("arguments['n'] <= 10", r#"{"n":10}"#, Some(true)),
        ("arguments.n <= 10", r#"{"n":10.5}"#, Some(false)),
        ("arguments.n <= 10", r#"{"n":18446744073709551615}"#, Some(false)),
        ("arguments.paths.all(p, !p.contains('/.'))", r#"{"paths":["/a","/b"]}"#, Some(true)),
        ("arguments.paths.all(p, !p.contains('/.'))", r#"{"paths":["/a","/.b"]}"#, Some(false)),
        ("arguments.to.lowerAscii().endsWith('@a.example')", r#"{"to":"X@A.example"}"#, Some(true)),
        ("arguments.id.matches('^[0-9]+$')", r#"{"id":"12"}"#, Some(true)),
        ("caller.tenant == 'acme' && 'read' in caller.scopes", "{}", Some(true)),
        ("caller.tenant == 'other' && arguments.x == 1", "[]", Some(false)),
        ("arguments.x", r#"{"x":"text"}"#, None),
        ("arguments.n % 0 == 1", r#"{"n":1}"#, None),
        ("-arguments.n > 0", r#"{"n":-9223372036854775808}"#, None),
    ];
    for (when, arguments, expected) in rows {
        let (allowed, denied) = match expected {
            Some(true) => ("allowed a rule", "hidden d rule"),
            Some(false) => ("hidden - default", "allowed all rule"),
            None => ("hidden a condition_error", "hidden d condition_error"),
        };
        assert_eq!(with_arguments(&allow(when), Some(arguments)), allowed, "{when} {arguments}");
        assert_eq!(with_arguments(&deny(when), Some(arguments)), denied, "{when} {arguments}");
    }
    assert_eq!(with_arguments(&allow("size(arguments) == 0"), None), "allowed a rule");
    // A loop over much would hold the call up, so nobody can say.
    let much = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(40_000));
    let loops = "arguments.a.all(x, x == 1)";
    assert_eq!(with_arguments(&allow(loops), Some(&much)), "hidden a condition_error");
    let nested = "arguments.a.all(x, x.b.exists(y, y == 1))";
    let few = r#"{"a":[{"b":[2,1]}]}"#;
    assert_eq!(with_arguments(&allow(nested), Some(few)), "allowed a rule");
}

#[test]
fn an_annotation_that_is_not_known_opens_nothing() {
    let rows = [
        ("tool.annotations.readOnlyHint", Some(json!({"readOnlyHint": true})), Some(true)),
        ("tool.annotations.readOnlyHint", Some(json!({"readOnlyHint": false})), Some(false)),
        ("tool.annotations.readOnlyHint", Some(json!({"readOnlyHint": "yes"})), None),
        ("tool.annotations.readOnlyHint == 'yes'", Some(json!({"readOnlyHint": "yes"})), None),
        ("tool.annotations.destructiveHint == true", Some(json!({"destructiveHint": 1})), None),
        ("tool.annotations.readOnlyHint", Some(json!({})), None),
        ("tool.annotations.readOnlyHint", None, None),
        ("!tool.annotations.readOnlyHint", None, None),
        ("!has(tool.annotations.readOnlyHint)", None, None),
        ("!has(tool.annotations.readOnlyHint)", Some(json!({})), Some(true)),
        (
            "tool.annotations['x.example/level'] == 3",
            Some(json!({"x.example/level": 3})),
            Some(true),
        ),
        ("tool.annotations.title == 'T'", Some(json!({"title": "T"})), Some(true)),
        ("tool.annotations.a.b == 1", Some(json!({"a": {"b": 1}})), Some(true)),
        ("caller.id == 'bob' && tool.annotations.readOnlyHint", None, Some(false)),
    ];
    for (when, declared, expected) in rows {
        let (allowed, denied) = match expected {
            Some(true) => ("allowed a rule", "hidden d rule"),
            Some(false) => ("hidden - default", "allowed all rule"),
            None => ("hidden a unknown_annotation", "hidden d unknown_annotation"),
        };
        let caller = caller("alice");
        let known = declared.clone().map(annotations);
        let mut asked = asked(&caller, "files", "t");
        asked.annotations = known.as_ref();
        assert_eq!(told(&allow(when).authorize(&asked)), allowed, "{when} {declared:?}");
        assert_eq!(told(&deny(when).authorize(&asked)), denied, "{when} {declared:?}");
    }
}

#[test]
fn everything_that_is_known_of_a_question_can_be_asked() {
    let caller = caller("alice tenant=acme issuer=https://a read dept=x org={\"unit\":[\"a\"]}");
    let mut asked = asked(&caller, "files", "t");
    asked.client = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    for when in [
        "caller.id == 'alice' && caller.tenant == 'acme' && caller.issuer == 'https://a'",
        "caller.method == 'jwt' && caller.scopes == ['read']",
        "caller.claims.dept == 'x' && 'a' in caller.claims.org.unit && !has(caller.claims.none)",
        "server == 'files' && method == 'tools/call' && tool.name == 't'",
        "prompt == null && resource == null",
        "client.address == '127.0.0.1'",
        "[caller.id].exists(id, id == 'alice') && {'alice': true}[caller.id]",
    ] {
        assert_eq!(told(&allow(when).authorize(&asked)), "allowed a rule", "{when}");
    }
    let prompt = super::asked(&caller, "files", "prompt:p");
    let when = "prompt == 'p' && tool.name == null && client.address == null";
    assert_eq!(told(&allow(when).authorize(&prompt)), "allowed a rule");
}

#[test]
fn every_function_that_may_be_named_exists() {
    for when in [
        "bool('true') && double(1) == 1.0 && int('1') == 1 && uint(1) == 1u && string(1) == '1'",
        "bytes('a') == b'a' && dyn(1) == 1 && type(1) == int && size('ab') == 2",
        "'ab'.charAt(0) == 'a' && 'ab'.contains('b') && 'ab'.startsWith('a') && 'ab'.endsWith('b')",
        "'abab'.indexOf('b') == 1 && 'abab'.lastIndexOf('b') == 3 && ['a', 'b'].join('-') == 'a-b'",
        "'A'.lowerAscii() == 'a' && 'a'.upperAscii() == 'A' && 'a'.matches('^a$')",
        "'ab'.replace('a', 'b') == 'bb' && 'ab'.reverse() == 'ba' && 'a,b'.split(',') == ['a', 'b']",
        "'abc'.substring(1) == 'bc' && ' a '.trim() == 'a' && '%s'.format(['a']) == 'a'",
    ] {
        assert_eq!(with_arguments(&allow(when), None), "allowed a rule", "{when}");
    }
}

#[test]
fn a_list_shows_what_depends_on_arguments() {
    let caller = caller("alice tenant=acme");
    let shown = |policy: &Policy, known: Option<serde_json::Value>| {
        let known = known.map(annotations);
        policy.listing(&caller, "files", None).shows(Listed::Tool, "t", known.as_ref())
    };
    assert!(shown(&allow("arguments.path == '/'"), None));
    assert!(shown(&deny("arguments.path == '/'"), None));
    assert!(!shown(&allow("caller.tenant == 'other' && arguments.path == '/'"), None));
    assert!(!shown(&deny("caller.tenant == 'acme' || arguments.path == '/'"), None));
    assert!(!shown(&allow("tool.annotations.readOnlyHint"), None));
    assert!(!shown(&deny("tool.annotations.readOnlyHint"), None));
    let both = "tool.annotations.readOnlyHint && arguments.path == 'x'";
    assert!(!shown(&allow(both), None), "no arguments will make the annotation known");
    assert!(!shown(&deny(both), None));
    assert!(shown(&allow(both), Some(json!({"readOnlyHint": true}))));
    assert!(shown(&allow("tool.annotations.readOnlyHint"), Some(json!({"readOnlyHint": true}))));
    assert!(!allow("true").listing(&caller, "files", None).is_open());
}

#[test]
fn a_condition_that_can_never_be_asked_is_a_problem() {
    let long = format!("'{}' == caller.id", "x".repeat(2048));
    let loops = "arguments.a.all(x, x.all(y, y.all(z, z == 1)))";
    let deep = format!("{}true{}", "!(".repeat(60), ")".repeat(60));
    let rows = [
        ("caller.", "this is not CEL at character", "write it like"),
        ("caler.id == 'x'", "this condition names `caler`, a variable", "did you mean `caller`?"),
        ("caller.tennant == 'x'", "names `tennant`, a part that", "did you mean `tenant`?"),
        ("tool.annotation.x", "names `annotation`, a part that", "did you mean `annotations`?"),
        ("has(caller.tenant)", "`caller.tenant` is always there", "write caller.tenant != null"),
        ("tool == 'x'", "`tool` alone has no value", "such as tool.name"),
        ("caller.id.startWith('x')", "names `startWith`, a function", "did you mean `startsWith`?"),
        ("arguments.?x == 1", "this is not CEL", ""),
        ("'text'", "a condition is true or false", "compare it"),
        ("x.y{z: 1} == 1", "this condition makes a message", "write a map"),
        (&long, "longer than 2048 bytes", "write several rules"),
        (loops, "loops in loops in loops", "write several rules"),
        (&deep, "nested too deeply", "write several rules"),
        ("arguments.a.all(x, arguments.a.all(y, x == y))", "something else than its item", "x.b"),
    ];
    for (when, message, hint) in rows {
        let text = format!("  rules:\n  - {{ name: a, allow: {{ when: {} }} }}", json!(when));
        let problems = crate::policy::problems(&settings(&text));
        assert_eq!(problems.len(), 1, "{when}");
        let told = problems[0].hint.clone().unwrap_or_default();
        assert!(problems[0].message.contains(message), "{when}: {}", problems[0].message);
        assert!(told.contains(hint), "{when}: {told}");
        assert_eq!(problems[0].place.line(), 13, "{when}");
    }
}
