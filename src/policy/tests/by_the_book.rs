//! The tables decide as a reader of the rules would: rule by rule, without any table.

use proptest::prelude::*;

use super::{asked, caller, settings};
use crate::config::{self, CallerPattern, Mode, RuleEffect, wildcard_matches};
use crate::identity::Caller;
use crate::policy::{Effect, Outcome, Policy};

const TOOLS: [&str; 4] = ["read", "read_all", "write", "x"];
const SERVERS: [&str; 2] = ["files", "mail"];
const CALLERS: [&str; 6] =
    ["alice", "alice s1", "bob tenant=acme", "bob tenant=acme s1 s2", "carol s2", "anonymous"];

fn is_one(pattern: &CallerPattern, caller: &Caller) -> bool {
    match pattern {
        CallerPattern::Anyone => true,
        CallerPattern::Anonymous => caller.id() == "anonymous",
        CallerPattern::Id(id) => caller.id() != "anonymous" && wildcard_matches(id, caller.id()),
        CallerPattern::Tenant(tenant) => caller.tenant() == Some(tenant),
        CallerPattern::Scope(scope) => caller.scopes().contains(scope),
        _ => false,
    }
}

/// The caller as if it had every scope.
fn with_all_scopes(caller: &Caller) -> Caller {
    let words = format!("{} s1 s2 s3", caller.id());
    let tenant = caller.tenant().map(|tenant| format!(" tenant={tenant}")).unwrap_or_default();
    if caller.id() == "anonymous" {
        return Caller::new(crate::identity::Proven {
            id: "anonymous".to_owned(),
            issuer: None,
            tenant: None,
            scopes: ["s1", "s2", "s3"].map(str::to_owned).to_vec(),
            claims: serde_json::Map::new(),
            method: crate::identity::Method::Anonymous,
        });
    }
    super::caller(&(words + &tenant))
}

fn matches(rule: &config::Rule, caller: &Caller, server: &str, tool: &str) -> bool {
    let by_caller = rule.callers.as_ref().is_none_or(|clauses| {
        clauses.iter().any(|clause| clause.0.iter().all(|pattern| is_one(pattern, caller)))
    });
    let by_server = rule
        .servers
        .as_ref()
        .is_none_or(|servers| servers.iter().any(|name| wildcard_matches(name, server)));
    let by_tool = rule.subjects.is_everything()
        || rule.subjects.tools.iter().flatten().any(|pattern| {
            wildcard_matches(&pattern.server, server) && wildcard_matches(&pattern.name, tool)
        });
    let by_condition = rule.when.as_ref().is_none_or(|when| when.text == "true");
    by_caller && by_server && by_tool && by_condition
}

fn has_scopes(rule: &config::Rule, caller: &Caller) -> bool {
    rule.scopes.iter().all(|scope| caller.scopes().contains(scope))
}

/// What the rules say, read from top to bottom.
fn by_the_book(rules: &[&config::Rule], caller: &Caller, server: &str, tool: &str) -> Outcome {
    if rules.is_empty() {
        return Outcome::Allowed;
    }
    let of = |effect: RuleEffect| rules.iter().filter(move |rule| rule.effect == effect);
    if of(RuleEffect::Deny).any(|rule| matches(rule, caller, server, tool)) {
        return Outcome::Refused;
    }
    let mut allows = of(RuleEffect::Allow);
    let allowed =
        allows.any(|rule| matches(rule, caller, server, tool) && has_scopes(rule, caller));
    let more = with_all_scopes(caller);
    let within_reach = of(RuleEffect::Allow).any(|rule| matches(rule, &more, server, tool));
    if !allowed && !within_reach {
        return Outcome::Refused;
    }
    let lacks = of(RuleEffect::Require)
        .any(|rule| matches(rule, caller, server, tool) && !has_scopes(rule, caller));
    if allowed && !lacks { Outcome::Allowed } else { Outcome::ScopeMissing }
}

fn rule() -> impl Strategy<Value = String> {
    let list = |words: &'static [&'static str]| {
        prop::option::of(prop::sample::subsequence(words, 1..=2)).prop_map(|words| words)
    };
    let callers =
        &["alice", "'b*'", "anonymous", "'tenant:acme'", "'scope:s1'", "['b*', 'scope:s2']"];
    let tools = &["read", "'read*'", "'files/*'", "'m*/w?ite'", "'mail/x'"];
    (
        prop::sample::select(vec!["allow", "allow", "deny", "require"]),
        prop::sample::select(vec!["enforce", "shadow"]),
        list(callers),
        list(&["files", "'m*'"]),
        list(tools),
        prop::sample::subsequence(vec!["s1", "s2", "s3"], 0..=2),
        prop::option::of(prop::sample::select(vec!["true", "false"])),
    )
        .prop_map(|(effect, mode, callers, servers, tools, scopes, when)| {
            let mut keys = Vec::new();
            for (key, words) in [("callers", callers), ("servers", servers), ("tools", tools)] {
                keys.extend(words.map(|words| format!("{key}: [{}]", words.join(", "))));
            }
            match effect {
                "require" if scopes.is_empty() => keys.push("scopes: [s1]".to_owned()),
                "deny" => {}
                _ => keys.push(format!("scopes: [{}]", scopes.join(", "))),
            }
            keys.extend(when.map(|when| format!("when: '{when}'")));
            format!("mode: {mode}, {effect}: {{ {} }}", keys.join(", "))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_decide_by_the_book(rules in prop::collection::vec(rule(), 0..90)) {
        let mut text = "  rules:\n  - { name: first, allow: { callers: [alice], tools: [x] } }".to_owned();
        for (index, rule) in rules.iter().enumerate() {
            text += &format!("\n  - {{ name: r{index}, {rule} }}");
        }
        let settings = settings(&text);
        let policy = Policy::new(&settings.policy, SERVERS).expect("good conditions");
        let all: Vec<&config::Rule> = settings.policy.rules.iter().collect();
        let enforced: Vec<&config::Rule> =
            all.iter().copied().filter(|rule| rule.mode == Mode::Enforce).collect();
        for who in CALLERS {
            let caller = caller(who);
            for server in SERVERS {
                for tool in TOOLS {
                    let decision = policy.authorize(&asked(&caller, server, tool));
                    let outcome = match decision.effect {
                        Effect::Allowed => Outcome::Allowed,
                        Effect::ScopeMissing(_) => Outcome::ScopeMissing,
                        Effect::Hidden | Effect::Forbidden => Outcome::Refused,
                    };
                    let expected = by_the_book(&enforced, &caller, server, tool);
                    prop_assert_eq!(outcome, expected, "{} {} {}", who, server, tool);
                    let with_shadows = by_the_book(&all, &caller, server, tool);
                    let shadow = decision.shadow.map_or(outcome, |shadow| shadow.outcome);
                    prop_assert_eq!(shadow, with_shadows, "{} {} {}", who, server, tool);
                }
            }
        }
    }
}
