//! Why something may be done or not: every rule's account of one question.

use std::fmt::Write;

use serde_json::{Value, json};

use super::asked::{Asked, Subject};
use super::authorize::{Decision, Effect, Outcome, Policy, Reason};
use super::condition::{Occasion, Question, Unknown, Verdict};
use super::rule::{Rule, Standing, has_all};
use crate::config::{Mode, Place, RuleEffect, Sources};

/// A decision, and what each rule has to do with it.
#[derive(Debug)]
pub struct Explanation<'p> {
    /// The decision.
    pub decision: Decision<'p>,
    /// Each rule's account, in the order of the files.
    pub accounts: Vec<Account<'p>>,
}

/// What one rule has to do with a decision.
#[derive(Debug)]
pub struct Account<'p> {
    /// The rule's name.
    pub rule: &'p str,
    /// Where it stands.
    pub place: Place,
    /// What it does, and whether it counts.
    pub does: &'static str,
    /// Whether it matches.
    pub matches: Matches,
    /// Why, in words.
    pub why: String,
}

/// Whether a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matches {
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl Policy {
    /// Decides, and lets every rule account for itself.
    pub fn explain(&self, asked: &Asked<'_>) -> Explanation<'_> {
        let question = Question::new(asked, &self.env, &self.watched, Occasion::Call);
        let account = |rule| account(rule, &question);
        Explanation {
            decision: self.authorize(asked),
            accounts: self.rules.iter().map(account).collect(),
        }
    }
}

fn account<'p>(rule: &'p Rule, question: &Question<'_>) -> Account<'p> {
    let (matches, why) = match static_part(rule, question.asked) {
        Err(why) => (Matches::No, why),
        Ok(()) => by_condition(rule, question),
    };
    let does = match (rule.effect, rule.mode) {
        (RuleEffect::Allow, Mode::Enforce) => "allow",
        (RuleEffect::Allow, Mode::Shadow) => "allow, in shadow",
        (RuleEffect::Deny, Mode::Enforce) => "deny",
        (RuleEffect::Deny, Mode::Shadow) => "deny, in shadow",
        (RuleEffect::Require, Mode::Enforce) => "require",
        (RuleEffect::Require, Mode::Shadow) => "require, in shadow",
    };
    Account { rule: &rule.name, place: rule.place, does, matches, why }
}

/// Why the static part of a rule does not match, if it does not.
fn static_part(rule: &Rule, asked: &Asked<'_>) -> Result<(), String> {
    if !rule.is_at(asked.server) {
        let servers = rule.servers.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        return Err(format!("it is about other servers: {}", servers.join(", ")));
    }
    if !rule.is_about(asked.server, asked.subject, asked.method) {
        let what = match asked.subject {
            Subject::Tool(_) => ("tools", listed(&rule.subjects.tools)),
            Subject::Prompt(_) => ("prompts", listed(&rule.subjects.prompts)),
            Subject::Resource(_) | Subject::Template(_) => {
                ("resources", listed(&rule.subjects.resources))
            }
            Subject::Method => ("methods", listed(&rule.subjects.methods)),
        };
        return Err(match what {
            (kind, None) => format!("it is not about {kind}"),
            (kind, Some(patterns)) => format!("it is about other {kind}: {patterns}"),
        });
    }
    let wanted = || listed(&rule.callers).unwrap_or_default();
    match (rule.by_pattern(asked.caller), rule.effect) {
        (Standing::Apart, _) => Err(format!("it is about other callers: {}", wanted())),
        (Standing::LacksScopes, RuleEffect::Deny | RuleEffect::Require) => {
            Err(format!("it is about other callers: {}", wanted()))
        }
        (_, RuleEffect::Require) if has_all(asked.caller, &rule.scopes) => {
            Err(format!("the caller has what it requires: {}", rule.scopes.join(", ")))
        }
        (_, RuleEffect::Allow) if rule.standing(asked.caller) == Standing::LacksScopes => {
            let scopes = rule.scopes_needed(asked.caller);
            Err(format!("the caller lacks some of these scopes: {}", scopes.join(", ")))
        }
        _ => Ok(()),
    }
}

fn listed<T: ToString>(patterns: &Option<Vec<T>>) -> Option<String> {
    let patterns: Vec<String> = patterns.as_ref()?.iter().map(ToString::to_string).collect();
    Some(patterns.join(", "))
}

fn by_condition(rule: &Rule, question: &Question<'_>) -> (Matches, String) {
    let Some(condition) = &rule.condition else { return (Matches::Yes, "it matches".to_owned()) };
    let text = &condition.text;
    let why = match condition.ask(question) {
        Verdict::Holds => return (Matches::Yes, format!("its condition holds: {text}")),
        Verdict::Fails => return (Matches::No, format!("its condition does not hold: {text}")),
        Verdict::Unknown(Unknown::Annotation) => "an annotation is not known".to_owned(),
        Verdict::Unknown(_) => condition.why(question),
    };
    match rule.effect {
        RuleEffect::Allow => (
            Matches::No,
            format!("its condition cannot be decided, so it does not hold: {text} ({why})"),
        ),
        RuleEffect::Deny | RuleEffect::Require => {
            (Matches::Yes, format!("its condition cannot be decided, so it holds: {text} ({why})"))
        }
    }
}

impl Explanation<'_> {
    /// Whether it may be done.
    pub fn is_allowed(&self) -> bool {
        self.decision.effect == Effect::Allowed
    }

    /// The decision in one sentence.
    fn sentence(&self) -> String {
        let Decision { effect, rule, reason, .. } = &self.decision;
        let effect = match effect {
            Effect::Allowed => "allowed".to_owned(),
            Effect::Hidden => "refused: for this caller it does not exist".to_owned(),
            Effect::Forbidden => "refused".to_owned(),
            Effect::ScopeMissing(scopes) => {
                format!("refused: it needs the scopes {}", scopes.join(", "))
            }
        };
        let why = match (reason, rule) {
            (Reason::Open, _) => "no rule is in force".to_owned(),
            (Reason::Lifecycle, _) => {
                "the method belongs to the protocol, and no rule denies it".to_owned()
            }
            (Reason::Default, _) => "no rule allows it".to_owned(),
            (Reason::NameTooLong, _) => "the name is too long".to_owned(),
            (Reason::NameMissing, _) => "it is not clear what is named".to_owned(),
            (Reason::UriNotNormal, _) => {
                "the URI is not in its normal form, so servers may read it as another".to_owned()
            }
            (Reason::Rule | Reason::Undecided, rule) => {
                format!("by rule {}", rule.map_or("", |rule| rule))
            }
            (Reason::UnknownAnnotation, rule) => {
                let rule = rule.map_or("", |rule| rule);
                format!("rule {rule} asks for an annotation that is not known")
            }
            (Reason::ConditionError, rule) => {
                let rule = rule.map_or("", |rule| rule);
                format!("the condition of rule {rule} cannot be decided")
            }
        };
        format!("{effect} ({why})")
    }

    /// What the rules in shadow would change, in one sentence.
    fn shadow_sentence(&self) -> Option<String> {
        let shadow = self.decision.shadow.as_ref()?;
        let outcome = match shadow.outcome {
            Outcome::Allowed => "allowed",
            Outcome::Refused => "refused",
            Outcome::ScopeMissing => "refused for want of scopes",
        };
        let by = shadow
            .rule
            .map_or_else(|| "no rule allows it".to_owned(), |rule| format!("by rule {rule}"));
        Some(format!("with the rules in shadow it would be {outcome} ({by})"))
    }

    /// The explanation for people.
    pub fn to_text(&self, sources: &Sources) -> String {
        let mut text = self.sentence() + "\n";
        if let Some(shadow) = self.shadow_sentence() {
            text += &format!("{shadow}\n");
        }
        for Account { rule, place, does, matches, why } in &self.accounts {
            let mark = match matches {
                Matches::Yes => '*',
                Matches::No => ' ',
            };
            let at = sources.locate(*place);
            // Writing to a String cannot fail.
            _ = writeln!(text, "{mark} {rule} ({does}, {at}): {why}");
        }
        text
    }

    /// The explanation for programs.
    pub fn to_json(&self, sources: &Sources) -> Value {
        let Decision { effect, rule, reason, shadow } = &self.decision;
        let (outcome, scopes) = match effect {
            Effect::Allowed => ("allowed", &[][..]),
            Effect::Hidden => ("hidden", &[][..]),
            Effect::Forbidden => ("forbidden", &[][..]),
            Effect::ScopeMissing(scopes) => ("scope_missing", &scopes[..]),
        };
        let account = |account: &Account<'_>| {
            json!({
                "rule": account.rule,
                "at": sources.locate(account.place),
                "does": account.does,
                "matches": account.matches == Matches::Yes,
                "why": account.why,
            })
        };
        json!({
            "decision": outcome,
            "scopes": scopes,
            "rule": rule.map(|rule| &**rule),
            "reason": reason.as_str(),
            "told": self.sentence(),
            "shadow": shadow.as_ref().map(|shadow| json!({
                "decision": shadow.outcome.as_str(),
                "rule": shadow.rule.map(|rule| &**rule),
                "reason": shadow.reason.as_str(),
            })),
            "rules": self.accounts.iter().map(account).collect::<Vec<_>>(),
        })
    }
}
