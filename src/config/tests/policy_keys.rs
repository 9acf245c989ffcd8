//! One row for each key of `policy`, with a value that is not the default.

use super::keys::{Row, seconds};
use crate::config::{BySession, CallerClause, Mode, Rule, RuleEffect, Settings};

fn rule(settings: &Settings) -> &Rule {
    &settings.policy.rules[1]
}

fn clauses(rule: &Rule) -> String {
    let clauses = rule.callers.iter().flatten().map(CallerClause::to_string);
    clauses.collect::<Vec<_>>().join("; ")
}

/// The rule follows an allow, without which nothing could be called.
macro_rules! rule_row {
    ($path:literal, $rule:literal, $holds:expr) => {
        (
            $path,
            concat!("policy: { rules: [{ name: first, allow: {} }, { name: r, ", $rule, " }] }\n"),
            $holds,
        )
    };
}

const SET: &str = "policy: { labels: { a: [x], b: ['everything/y*'] }, combinations: [{ name: c, after: a, deny: b, within: session }] }\n";

pub(super) const POLICY: &[Row] = &[
    ("policy", "policy: {}\n", |s| s.policy.rules.is_empty()),
    ("policy.labels", SET, |s| {
        let tools = &s.policy.labels[1].tools[0];
        (tools.server.as_str(), tools.name.as_str()) == ("everything", "y*")
    }),
    rule_row!("policy.rules", "deny: {}", |s| s.policy.rules.len() == 2),
    rule_row!("policy.rules[].name", "deny: {}", |s| rule(s).name == "r"),
    rule_row!("policy.rules[].mode", "mode: shadow, deny: {}", |s| rule(s).mode == Mode::Shadow),
    rule_row!("policy.rules[].allow", "allow: {}", |s| rule(s).effect == RuleEffect::Allow
        && rule(s).subjects.is_everything()),
    rule_row!(
        "policy.rules[].allow.callers",
        "allow: { callers: ['scope:a', ['b*', 'tenant:c*']] }",
        |s| clauses(rule(s)) == "scope:a; b* and tenant:c*"
    ),
    rule_row!("policy.rules[].allow.servers", "allow: { servers: [every*] }", |s| {
        rule(s).servers.as_deref() == Some(&["every*".to_owned()])
    }),
    rule_row!("policy.rules[].allow.tools", "allow: { tools: [a, everything/b] }", |s| {
        let tools = rule(s).subjects.tools.iter().flatten();
        tools.map(ToString::to_string).collect::<Vec<_>>() == ["*/a", "everything/b"]
    }),
    rule_row!("policy.rules[].allow.prompts", "allow: { prompts: [p] }", |s| {
        rule(s).subjects.prompts.as_ref().is_some_and(|list| list[0].name == "p")
    }),
    rule_row!("policy.rules[].allow.resources", "allow: { resources: ['file:*'] }", |s| {
        rule(s).subjects.resources.as_ref().is_some_and(|list| list[0] == "file:*")
    }),
    rule_row!("policy.rules[].allow.methods", "allow: { methods: ['x/*'] }", |s| {
        rule(s).subjects.methods.as_ref().is_some_and(|list| list[0] == "x/*")
    }),
    rule_row!("policy.rules[].allow.scopes", "allow: { scopes: [a, b] }", |s| {
        rule(s).scopes == ["a", "b"]
    }),
    rule_row!("policy.rules[].allow.when", "allow: { when: 'true' }", |s| {
        rule(s).when.as_ref().is_some_and(|when| when.text == "true" && when.place.line() == 1)
    }),
    rule_row!("policy.rules[].deny", "deny: {}", |s| rule(s).effect == RuleEffect::Deny),
    rule_row!("policy.rules[].deny.callers", "deny: { callers: [anonymous] }", |s| {
        clauses(rule(s)) == "anonymous"
    }),
    rule_row!("policy.rules[].deny.servers", "deny: { servers: [everything] }", |s| {
        rule(s).servers.as_ref().is_some_and(|list| list[0] == "everything")
    }),
    rule_row!("policy.rules[].deny.tools", "deny: { tools: [a] }", |s| {
        rule(s).subjects.tools.as_ref().is_some_and(|list| list[0].matches("x", "a"))
    }),
    rule_row!("policy.rules[].deny.prompts", "deny: { prompts: [p] }", |s| {
        rule(s).subjects.prompts.as_ref().is_some_and(|list| list[0].name == "p")
    }),
    rule_row!("policy.rules[].deny.resources", "deny: { resources: ['*.key'] }", |s| {
        rule(s).subjects.resources.as_ref().is_some_and(|list| list[0] == "*.key")
    }),
    rule_row!("policy.rules[].deny.methods", "deny: { methods: [ping] }", |s| {
        rule(s).subjects.methods.as_ref().is_some_and(|list| list[0] == "ping")
    }),
    rule_row!("policy.rules[].deny.when", "deny: { when: 'x' }", |s| rule(s).when.is_some()),
    rule_row!("policy.rules[].require", "require: { scopes: [a] }", |s| {
        rule(s).effect == RuleEffect::Require
    }),
    rule_row!(
        "policy.rules[].require.callers",
        "require: { callers: ['method:jwt'], scopes: [a] }",
        |s| clauses(rule(s)) == "method:jwt"
    ),
    rule_row!(
        "policy.rules[].require.servers",
        "require: { servers: [everything], scopes: [a] }",
        |s| rule(s).servers.is_some()
    ),
    rule_row!("policy.rules[].require.tools", "require: { tools: [a], scopes: [a] }", |s| {
        rule(s).subjects.tools.is_some()
    }),
    rule_row!("policy.rules[].require.prompts", "require: { prompts: [a], scopes: [a] }", |s| {
        rule(s).subjects.prompts.is_some()
    }),
    rule_row!(
        "policy.rules[].require.resources",
        "require: { resources: [a], scopes: [a] }",
        |s| rule(s).subjects.resources.is_some()
    ),
    rule_row!("policy.rules[].require.methods", "require: { methods: [a], scopes: [a] }", |s| {
        rule(s).subjects.methods.is_some()
    }),
    rule_row!("policy.rules[].require.scopes", "require: { scopes: [a, b] }", |s| {
        rule(s).scopes == ["a", "b"]
    }),
    rule_row!("policy.rules[].require.when", "require: { scopes: [a], when: 'true' }", |s| {
        rule(s).when.is_some()
    }),
    ("policy.combinations", SET, |s| s.policy.combinations.len() == 1),
    ("policy.combinations[].name", SET, |s| s.policy.combinations[0].name == "c"),
    (
        "policy.combinations[].mode",
        "policy: { labels: { a: [x] }, combinations: [{ name: c, mode: shadow, after: a, deny: a, within: 1m }] }\n",
        |s| s.policy.combinations[0].mode == Mode::Shadow,
    ),
    ("policy.combinations[].after", SET, |s| s.policy.combinations[0].after == 0),
    ("policy.combinations[].deny", SET, |s| s.policy.combinations[0].deny == 1),
    (
        "policy.combinations[].within",
        "policy: { labels: { a: [x] }, combinations: [{ name: c, after: a, deny: a, within: 1m }] }\n",
        |s| {
            let combination = &s.policy.combinations[0];
            combination.by_session == BySession::No && combination.window == seconds(60)
        },
    ),
    (
        "policy.combinations[].otherwise",
        "policy: { labels: { a: [x] }, combinations: [{ name: c, after: a, deny: a, within: session, otherwise: 5m }] }\n",
        |s| {
            let combination = &s.policy.combinations[0];
            combination.by_session == BySession::Yes && combination.window == seconds(300)
        },
    ),
];
