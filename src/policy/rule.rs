//! The static part of a rule: whom and what it is about.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::asked::Subject;
use super::condition::Condition;
use crate::config::{
    self, CallerClause, CallerPattern, Mode, Place, RuleEffect, Subjects, wildcard_matches,
};
use crate::identity::{Caller, Method};

/// One rule, ready to be asked.
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) mode: Mode,
    pub(super) effect: RuleEffect,
    pub(super) callers: Option<Vec<CallerClause>>,
    pub(super) servers: Option<Vec<String>>,
    pub(super) subjects: Subjects,
    pub(super) scopes: Vec<String>,
    pub(super) condition: Option<Condition>,
}

/// How a caller stands to a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// The rule is not about it.
    Apart,
    /// It would be, with more scopes.
    LacksScopes,
    /// The rule is about it.
    Meant,
}

impl Rule {
    pub(super) fn new(rule: &config::Rule, condition: Option<Condition>) -> Self {
        Self {
            name: rule.name.as_str().into(),
            place: rule.place,
            mode: rule.mode,
            effect: rule.effect,
            callers: rule.callers.clone(),
            servers: rule.servers.clone(),
            subjects: rule.subjects.clone(),
            scopes: rule.scopes.clone(),
            condition,
        }
    }

    /// How the caller stands to the rule. A requirement is about whom its patterns name, and is
    /// lifted from those who have its scopes.
    pub(super) fn standing(&self, caller: &Caller) -> Standing {
        let by_pattern = self.by_pattern(caller);
        let has_scopes = has_all(caller, &self.scopes);
        match self.effect {
            RuleEffect::Allow if has_scopes => by_pattern,
            RuleEffect::Allow => by_pattern.min(Standing::LacksScopes),
            RuleEffect::Deny if by_pattern == Standing::Meant => Standing::Meant,
            RuleEffect::Require if by_pattern == Standing::Meant && !has_scopes => Standing::Meant,
            RuleEffect::Deny | RuleEffect::Require => Standing::Apart,
        }
    }

    /// How the caller stands to the rule's patterns of callers.
    pub(super) fn by_pattern(&self, caller: &Caller) -> Standing {
        let Some(clauses) = &self.callers else { return Standing::Meant };
        let standings = clauses.iter().map(|clause| clause_standing(clause, caller));
        standings.max().unwrap_or(Standing::Apart)
    }

    /// All scopes that the rule asks for, where scopes are all that the caller lacks: of the clause
    /// that is nearest, and of the rule.
    pub(super) fn scopes_needed(&self, caller: &Caller) -> Vec<&str> {
        let clauses = self.callers.iter().flatten();
        let within_reach =
            clauses.filter(|clause| clause_standing(clause, caller) >= Standing::LacksScopes);
        let clause = within_reach.min_by_key(|clause| {
            let scopes = clause.0.iter().filter(|pattern| scope(pattern).is_some());
            let lacking = scopes.clone().filter(|pattern| !is_met(pattern, caller));
            (lacking.count(), scopes.count())
        });
        let of_clause = clause.into_iter().flat_map(|clause| clause.0.iter().filter_map(scope));
        of_clause.chain(self.scopes.iter().map(String::as_str)).collect()
    }

    /// Whether the rule is about anything at the server.
    pub(super) fn is_at(&self, server: &str) -> bool {
        let servers = self.servers.as_deref();
        servers.is_none_or(|servers| servers.iter().any(|name| wildcard_matches(name, server)))
    }

    /// Whether the rule is about what a message names, at a server where it [is](Self::is_at).
    pub(super) fn is_about(&self, server: &str, subject: Subject<'_>, method: &str) -> bool {
        let Subjects { tools, prompts, resources, methods } = &self.subjects;
        let named = |patterns: &Option<Vec<config::NamePattern>>, name: &str| {
            patterns.iter().flatten().any(|pattern| pattern.matches(server, name))
        };
        let fits = |patterns: &Option<Vec<String>>, text: &str| {
            patterns.iter().flatten().any(|pattern| wildcard_matches(pattern, text))
        };
        self.subjects.is_everything()
            || match subject {
                Subject::Tool(name) => named(tools, name),
                Subject::Prompt(name) => named(prompts, name),
                Subject::Resource(uri) => fits(resources, uri),
                Subject::Template(uri) if self.effect == RuleEffect::Allow => {
                    resources.iter().flatten().any(|pattern| may_meet(pattern, uri))
                }
                // Only a deny of all that it stands for is a deny of the template.
                Subject::Template(uri) => fits(resources, uri),
                Subject::Method => fits(methods, method),
            }
    }
}

/// Whether a URI template may stand for a URI that the pattern matches: as far as both are fixed
/// they must agree.
fn may_meet(pattern: &str, template: &str) -> bool {
    let fixed = |text: &str, open: &[char]| text.find(open).unwrap_or(text.len());
    let pattern = &pattern[..fixed(pattern, &['*', '?'])];
    let template = &template[..fixed(template, &['{'])];
    pattern.starts_with(template) || template.starts_with(pattern)
}

fn scope(pattern: &CallerPattern) -> Option<&str> {
    match pattern {
        CallerPattern::Scope(scope) => Some(scope),
        _ => None,
    }
}

pub(super) fn has_all(caller: &Caller, scopes: &[String]) -> bool {
    scopes.iter().all(|scope| caller.scopes().binary_search(scope).is_ok())
}

fn clause_standing(clause: &CallerClause, caller: &Caller) -> Standing {
    let standings = clause.0.iter().map(|pattern| match (is_met(pattern, caller), pattern) {
        (true, _) => Standing::Meant,
        (false, CallerPattern::Scope(_)) => Standing::LacksScopes,
        (false, _) => Standing::Apart,
    });
    standings.min().unwrap_or(Standing::Apart)
}

/// Whether the caller is what one pattern asks for.
pub(super) fn is_met(pattern: &CallerPattern, caller: &Caller) -> bool {
    let fits = |pattern: &str, text: Option<&str>| {
        text.is_some_and(|text| wildcard_matches(pattern, text))
    };
    match pattern {
        CallerPattern::Anyone => true,
        CallerPattern::Anonymous => caller.method() == Method::Anonymous,
        // Nobody proved to be called `anonymous`.
        CallerPattern::Id(id) => {
            caller.method() != Method::Anonymous && wildcard_matches(id, caller.id())
        }
        CallerPattern::Tenant(tenant) => fits(tenant, caller.tenant()),
        CallerPattern::Scope(scope) => caller.scopes().binary_search(scope).is_ok(),
        CallerPattern::Claim { name, value } => claim_says(caller.claims(), name, value),
        CallerPattern::Issuer(issuer) => fits(issuer, caller.issuer()),
        CallerPattern::Method(method) => caller.method().as_str() == *method,
    }
}

/// Whether a claim says this. Names of claims may hold dots themselves, so each dot may lead into
/// an object or belong to a name.
fn claim_says(claims: &Map<String, Value>, name: &str, value: &str) -> bool {
    let within = name.match_indices('.').any(|(dot, _)| {
        let inner = claims.get(&name[..dot]).and_then(Value::as_object);
        inner.is_some_and(|inner| claim_says(inner, &name[dot + 1..], value))
    });
    within || claims.get(name).is_some_and(|claim| says(claim, value))
}

fn says(claim: &Value, value: &str) -> bool {
    match claim {
        Value::String(text) => wildcard_matches(value, text),
        Value::Array(items) => items.iter().any(|item| !item.is_array() && says(item, value)),
        Value::Bool(claim) => value.parse() == Ok(*claim),
        Value::Number(claim) => claim.to_string() == value,
        Value::Null | Value::Object(_) => false,
    }
}
