//! What one policy locks out or exposes against another, found by asking both the same questions.
//!
//! The questions come from the rules themselves. A pattern stands for what it matches: `read_*`, taken
//! as a name, is matched by itself and by what is wider. So every pattern of either policy is asked as
//! a name, every clause of callers as a caller, and `*` stands for whatever no pattern names.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value, json};

use super::asked::{Asked, Subject};
use super::authorize::{Outcome, Policy, Reason};
use super::condition::{Occasion, Question};
use super::rule::{Rule, is_met};
use crate::config::{self, Anonymous, CallerClause, CallerPattern, Settings};
use crate::identity::{Caller, Method, Proven};
use crate::mcp::Annotations;

/// What is other in a new policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A caller may do more.
    Exposes(Change),
    /// A caller may do less.
    LocksOut(Change),
    /// A rule says something else, of which nobody can say whom it meets.
    Differs(String),
}

/// For whom and what a decision changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The caller.
    pub caller: String,
    /// The server, and what is named there.
    pub subject: String,
    /// What was said.
    pub before: Access,
    /// What is said now.
    pub after: Access,
}

/// How far something is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Not at all.
    Refused,
    /// With more scopes.
    NeedsScopes,
    /// It depends on the arguments.
    Depends,
    /// Wholly.
    Allowed,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::NeedsScopes => "needs scopes",
            Self::Depends => "depends on arguments",
            Self::Allowed => "allowed",
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, verb, change) = match self {
            Self::Exposes(change) => ('+', "exposes", change),
            Self::LocksOut(change) => ('-', "locks out", change),
            Self::Differs(told) => return write!(f, "~ {told}"),
        };
        let Change { caller, subject, before, after } = change;
        write!(f, "{sign} {verb} {caller}: {subject} ({before} -> {after})")
    }
}

/// What `new` locks out or exposes against `old`, in the order of callers.
pub fn differences(
    (old, old_policy): (&Settings, &Policy),
    (new, new_policy): (&Settings, &Policy),
) -> Vec<Difference> {
    let mut found = Vec::new();
    let rules = || old_policy.rules.iter().chain(&new_policy.rules);
    let subjects = Named::of(rules(), [old, new]);
    let hypotheses = hypotheses(rules());
    for (name, caller) in callers(rules(), [old, new]) {
        for (server, subject) in subjects.at(&servers([old, new])) {
            let mut plain = None;
            for (told, annotations) in &hypotheses {
                let ask = |policy: &Policy, settings: &Settings| {
                    // A server that is not there is not open.
                    let is_there = settings.servers.iter().any(|known| known.name == *server);
                    match is_there {
                        true => access(policy, &caller, &server, &subject, annotations.as_ref()),
                        false => Access::Refused,
                    }
                };
                let (before, after) = (ask(old_policy, old), ask(new_policy, new));
                // What holds whatever is known is said once.
                let is_said = *plain.get_or_insert((before, after)) == (before, after);
                if before == after || (is_said && annotations.is_some()) {
                    continue;
                }
                let subject = format!("{} {server}/{}{told}", subject.kind, subject.name);
                let change = Change { caller: name.clone(), subject, before, after };
                found.push(if after > before {
                    Difference::Exposes(change)
                } else {
                    Difference::LocksOut(change)
                });
            }
        }
    }
    found.extend(changed_texts(old, new));
    found
}

fn access(
    policy: &Policy,
    caller: &Caller,
    server: &str,
    named: &Name,
    annotations: Option<&Annotations>,
) -> Access {
    let (method, subject) = named.asked();
    let annotations = annotations.filter(|_| matches!(subject, Subject::Tool(_)));
    let asked =
        Asked { caller, server, method, subject, annotations, arguments: None, client: None };
    let question = Question::new(&asked, &policy.env, &policy.watched, Occasion::Sample);
    let ruling = policy.ruling(&question);
    match (ruling.outcome, ruling.reason) {
        (Outcome::Refused, _) => Access::Refused,
        (Outcome::ScopeMissing, _) => Access::NeedsScopes,
        (Outcome::Allowed, Reason::Undecided) => Access::Depends,
        // A deny that depends on arguments makes what is allowed depend on them.
        (Outcome::Allowed, _) if policy.may_deny(&question) => Access::Depends,
        (Outcome::Allowed, _) => Access::Allowed,
    }
}

fn servers(both: [&Settings; 2]) -> BTreeSet<String> {
    both.iter().flat_map(|settings| &settings.servers).map(|server| server.name.clone()).collect()
}

/// What is named by the rules of both policies.
struct Named(BTreeSet<Name>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    kind: &'static str,
    /// A pattern of servers.
    server: String,
    name: String,
}

impl Name {
    fn asked(&self) -> (&str, Subject<'_>) {
        match self.kind {
            "tool" => ("tools/call", Subject::Tool(&self.name)),
            "prompt" => ("prompts/get", Subject::Prompt(&self.name)),
            "resource" => ("resources/read", Subject::Resource(&self.name)),
            _ => (&self.name, Subject::Method),
        }
    }
}

impl Named {
    fn of<'r>(rules: impl Iterator<Item = &'r Rule>, both: [&Settings; 2]) -> Self {
        let name = |kind, server: &str, name: &str| Name {
            kind,
            server: server.to_owned(),
            name: name.to_owned(),
        };
        let mut names = BTreeSet::new();
        for kind in ["tool", "prompt", "resource", "method"] {
            names.insert(name(kind, "*", "*"));
        }
        names.insert(name("method", "*", "initialize"));
        for rule in rules {
            let config::Subjects { tools, prompts, resources, methods } = &rule.subjects;
            for (kind, patterns) in [("tool", tools), ("prompt", prompts)] {
                let patterns = patterns.iter().flatten();
                names.extend(patterns.map(|pattern| name(kind, &pattern.server, &pattern.name)));
            }
            for (kind, patterns) in [("resource", resources), ("method", methods)] {
                names.extend(patterns.iter().flatten().map(|pattern| name(kind, "*", pattern)));
            }
        }
        let labels = both.iter().flat_map(|settings| &settings.policy.labels);
        let labelled = labels.flat_map(|label| &label.tools);
        names.extend(labelled.map(|pattern| name("tool", &pattern.server, &pattern.name)));
        Self(names)
    }

    /// Each name at each server that it may be at.
    fn at(&self, servers: &BTreeSet<String>) -> BTreeSet<(String, Name)> {
        let at = |name: &Name| {
            let fitting = servers
                .iter()
                .filter(|server| config::wildcard_matches(&name.server, server))
                .cloned();
            let any = Name { server: String::new(), ..name.clone() };
            fitting.map(move |server| (server, any.clone())).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(at).collect()
    }
}

/// What may be known of a tool: nothing, and where a rule asks for it, that it reads or that it writes.
fn hypotheses<'r>(
    mut rules: impl Iterator<Item = &'r Rule>,
) -> Vec<(&'static str, Option<Annotations>)> {
    let mut list = vec![("", None)];
    let conditions = |rule: &'r Rule| rule.condition.as_ref();
    if rules.any(|rule| conditions(rule).is_some_and(|when| when.text.contains("annotations"))) {
        let hints = |reads: bool| {
            Annotations::of_json(&json!({
                "readOnlyHint": reads,
                "destructiveHint": !reads,
                "idempotentHint": reads,
                "openWorldHint": !reads,
            }))
        };
        list.push((", if it only reads", Some(hints(true))));
        list.push((", if it destroys", Some(hints(false))));
    }
    list
}

/// Every caller that either policy may tell from others: the holders of keys, everybody where
/// everybody may call, and one for each clause of a rule.
fn callers<'r>(
    rules: impl Iterator<Item = &'r Rule>,
    both: [&Settings; 2],
) -> Vec<(String, Caller)> {
    let mut list: Vec<(String, Caller)> = Vec::new();
    let mut add = |name: String, caller: Caller| {
        if !list.iter().any(|(_, known)| known.fingerprint() == caller.fingerprint()) {
            list.push((name, caller));
        }
    };
    for settings in both {
        if settings.identity.anonymous == Anonymous::Allow {
            add("anonymous".to_owned(), Caller::anonymous());
        }
        for key in &settings.identity.api_keys {
            let caller = Caller::new(Proven {
                id: key.caller.clone(),
                issuer: None,
                tenant: key.tenant.clone(),
                scopes: key.scopes.clone(),
                claims: Map::new(),
                method: Method::ApiKey,
            });
            add(key.caller.clone(), caller);
        }
    }
    for clause in rules.flat_map(|rule| rule.callers.iter().flatten()) {
        if let Some(caller) = witness(clause) {
            add(format!("a caller who is {clause}"), caller);
        }
    }
    list
}

/// A caller who is just what a clause asks for; none where it asks for what excludes itself.
fn witness(clause: &CallerClause) -> Option<Caller> {
    let mut proven = Proven {
        id: "*".to_owned(),
        issuer: None,
        tenant: None,
        scopes: Vec::new(),
        claims: Map::new(),
        method: Method::Jwt,
    };
    for pattern in &clause.0 {
        match pattern {
            CallerPattern::Anyone => {}
            CallerPattern::Anonymous => {
                "anonymous".clone_into(&mut proven.id);
                proven.method = Method::Anonymous;
            }
            CallerPattern::Id(id) => proven.id.clone_from(id),
            CallerPattern::Tenant(tenant) => proven.tenant = Some(tenant.clone()),
            CallerPattern::Scope(scope) => proven.scopes.push(scope.clone()),
            CallerPattern::Issuer(issuer) => proven.issuer = Some(issuer.clone()),
            CallerPattern::Claim { name, value } => {
                // As a text and as what it may stand for, so that either way of asking finds it.
                let plain = serde_json::from_str(value)
                    .ok()
                    .filter(|plain: &Value| plain.is_boolean() || plain.is_number());
                let value = plain.unwrap_or_else(|| json!(value));
                proven.claims.insert(name.clone(), value);
            }
            CallerPattern::Method(method) => {
                let methods = [
                    Method::Anonymous,
                    Method::ApiKey,
                    Method::Jwt,
                    Method::Introspection,
                    Method::Certificate,
                ];
                proven.method = methods.into_iter().find(|known| known.as_str() == *method)?;
            }
        }
    }
    let caller = Caller::new(proven);
    clause.0.iter().all(|pattern| is_met(pattern, &caller)).then_some(caller)
}

/// What changed where questions do not reach: conditions, and combination rules.
fn changed_texts(old: &Settings, new: &Settings) -> Vec<Difference> {
    let mut told = Vec::new();
    for rule in &new.policy.rules {
        let text = |rule: &config::Rule| rule.when.as_ref().map(|when| when.text.clone());
        let before = old.policy.rules.iter().find(|before| before.name == rule.name);
        if before.is_some_and(|before| text(before) != text(rule)) {
            told.push(format!("rule {} has another condition", rule.name));
        }
    }
    let whole = |settings: &Settings, combination: &config::Combination| {
        let label = |index: usize| settings.policy.labels[index].tools.clone();
        let config::Combination { name, mode, after, deny, by_session, window, place: _ } =
            combination;
        (name.clone(), *mode, label(*after), label(*deny), *by_session, *window)
    };
    let all = |settings: &Settings| {
        let combinations = settings.policy.combinations.iter();
        combinations.map(|combination| whole(settings, combination)).collect::<Vec<_>>()
    };
    let (before, after) = (all(old), all(new));
    for combination in before.iter().filter(|one| !after.iter().any(|other| other.0 == one.0)) {
        told.push(format!("combination {} is gone, so less is refused", combination.0));
    }
    for combination in &after {
        match before.iter().find(|other| other.0 == combination.0) {
            None => told.push(format!("combination {} is new, so more is refused", combination.0)),
            Some(other) if other != combination => {
                told.push(format!("combination {} is another", combination.0));
            }
            Some(_) => {}
        }
    }
    told.into_iter().map(Difference::Differs).collect()
}
