//! The policy itself: from a question to what may be done, by which rule, and why.

use std::collections::BTreeSet;
use std::sync::Arc;

use cel::Env;

use super::Fault;
use super::asked::{Asked, Subject, is_lifecycle};
use super::bits::Bits;
use super::condition::{Condition, Occasion, Question, Unknown, Verdict, environment};
use super::names::{NAME_BYTES_MAX, Origin};
use super::rule::{Rule, Standing};
use super::table::{CallerRules, Tables};
use super::uri;
use crate::config::{self, Mode, Place, RuleEffect};

/// The rules of one configuration, ready to be asked.
pub struct Policy {
    pub(super) rules: Vec<Rule>,
    in_force: Masks,
    with_shadows: Masks,
    has_shadows: HasShadows,
    pub(super) tables: Tables,
    pub(super) env: Arc<Env>,
    /// The keys of arguments that some condition looks for.
    pub(super) watched: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HasShadows {
    Yes,
    No,
}

/// The rules that count, by what they do.
struct Masks {
    any: usize,
    deny: Bits,
    allow: Bits,
    require: Bits,
}

impl Masks {
    fn of(rules: &[Rule], counts: impl Fn(&Rule) -> bool) -> Self {
        let mask = |effect| {
            Bits::of(rules.len(), |rule| counts(&rules[rule]) && rules[rule].effect == effect)
        };
        Self {
            any: rules.iter().filter(|rule| counts(rule)).count(),
            deny: mask(RuleEffect::Deny),
            allow: mask(RuleEffect::Allow),
            require: mask(RuleEffect::Require),
        }
    }

    /// What these rules say to something that they cannot be asked about.
    fn refuse(&self, why: Reason) -> Ruling {
        match self.any {
            0 => Ruling::new(Outcome::Allowed, None, Reason::Open),
            _ => Ruling::new(Outcome::Refused, None, why),
        }
    }
}

/// What may be done, by which rule, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'p> {
    /// What may be done.
    pub effect: Effect<'p>,
    /// The rule that decided, or the one that might have allowed it, had it been decidable.
    pub rule: Option<&'p Arc<str>>,
    /// Why.
    pub reason: Reason,
    /// What would be otherwise, were the rules in shadow in force.
    pub shadow: Option<Shadow<'p>>,
}

/// What may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<'p> {
    /// It may be done.
    Allowed,
    /// What is named is not there for this caller: the answer is that of an unknown name.
    Hidden,
    /// The method may not be used.
    Forbidden,
    /// It may be done with these scopes, all of them: some are missing.
    ScopeMissing(Box<[&'p str]>),
}

/// What the rules in shadow would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow<'p> {
    /// The rule that would decide; none where no rule would allow it.
    pub rule: Option<&'p Arc<str>>,
    /// What it would be.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
}

/// What comes of a question, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It may be done.
    Allowed,
    /// It may not be done.
    Refused,
    /// It may be done with more scopes.
    ScopeMissing,
}

impl Outcome {
    /// The word of it in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::ScopeMissing => "scope_missing",
        }
    }
}

/// Why something may be done or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No rule is in force.
    Open,
    /// The method belongs to the protocol itself, and no rule denies it.
    Lifecycle,
    /// A rule matched.
    Rule,
    /// No rule allows it.
    Default,
    /// A condition reads an annotation that is not known.
    UnknownAnnotation,
    /// A condition failed.
    ConditionError,
    /// A condition reads arguments, which a list does not have.
    Undecided,
    /// What is named is longer than any name.
    NameTooLong,
    /// Nothing is named where something must be, or it is not clear what.
    NameMissing,
    /// A URI is written as no rule can compare it: servers may read it as another one.
    UriNotNormal,
}

impl Reason {
    /// The reason's name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Lifecycle => "lifecycle",
            Self::Rule => "rule",
            Self::Default => "default",
            Self::UnknownAnnotation => "unknown_annotation",
            Self::ConditionError => "condition_error",
            Self::Undecided => "undecided",
            Self::NameTooLong => "name_too_long",
            Self::NameMissing => "name_missing",
            Self::UriNotNormal => "uri_not_normal",
        }
    }
}

impl From<Unknown> for Reason {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Annotation => Self::UnknownAnnotation,
            Unknown::Arguments => Self::Undecided,
            Unknown::Error => Self::ConditionError,
        }
    }
}

/// A decision by some of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) outcome: Outcome,
    pub(super) rule: Option<usize>,
    pub(super) reason: Reason,
}

impl Ruling {
    fn new(outcome: Outcome, rule: impl Into<Option<usize>>, reason: Reason) -> Self {
        Self { outcome, rule: rule.into(), reason }
    }
}

impl Policy {
    /// Compiles the rules for these servers.
    ///
    /// # Errors
    /// Every condition that is none.
    pub fn new<'s>(
        policy: &config::Policy,
        servers: impl IntoIterator<Item = &'s str>,
    ) -> Result<Self, Vec<Fault>> {
        let env = environment();
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for rule in &policy.rules {
            match rule.when.as_ref().map(|when| Condition::new(when, &env)).transpose() {
                Ok(condition) => rules.push(Rule::new(rule, condition)),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let conditions = rules.iter().filter_map(|rule| rule.condition.as_ref());
        let watched = conditions.flat_map(|condition| condition.keys.iter().cloned()).collect();
        let in_force = Masks::of(&rules, |rule| rule.mode == Mode::Enforce);
        let with_shadows = Masks::of(&rules, |_| true);
        let has_shadows = match in_force.any == with_shadows.any {
            true => HasShadows::No,
            false => HasShadows::Yes,
        };
        let tables = Tables::new(&rules, servers.into_iter());
        Ok(Self { rules, in_force, with_shadows, has_shadows, tables, env, watched })
    }

    /// Decides. Where tables know the caller and the name, and no condition is asked, nothing is
    /// allocated.
    pub fn authorize<'p>(&'p self, asked: &Asked<'_>) -> Decision<'p> {
        if self.rules.is_empty() {
            return Decision {
                effect: Effect::Allowed,
                rule: None,
                reason: Reason::Open,
                shadow: None,
            };
        }
        let question = Question::new(asked, &self.env, &self.watched, Occasion::Call);
        let (ruling, shadow) = self.rulings(&question);
        let rule = |ruling: Ruling| ruling.rule.map(|rule| &self.rules[rule].name);
        Decision {
            effect: self.effect(ruling, &question),
            rule: rule(ruling),
            reason: ruling.reason,
            shadow: shadow.map(|shadow| Shadow {
                rule: rule(shadow),
                outcome: shadow.outcome,
                reason: shadow.reason,
            }),
        }
    }

    /// Where the rule of this name stands.
    pub fn place(&self, name: &str) -> Option<Place> {
        self.rules.iter().find(|rule| *rule.name == *name).map(|rule| rule.place)
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether some rule is in force, so that what no rule allows is denied.
    pub fn is_in_force(&self) -> bool {
        self.in_force.any > 0
    }

    /// What the rules in force say, and what all rules would say where that is something else.
    fn rulings(&self, question: &Question<'_>) -> (Ruling, Option<Ruling>) {
        let has_shadows = self.has_shadows == HasShadows::Yes;
        let rulings = match self.flaw(question) {
            Some(why) => {
                (self.in_force.refuse(why), has_shadows.then(|| self.with_shadows.refuse(why)))
            }
            None => self.with_tables(question, |met, about| {
                let ruling = self.rule_by(&self.in_force, met, about, question);
                let shadow =
                    has_shadows.then(|| self.rule_by(&self.with_shadows, met, about, question));
                (ruling, shadow)
            }),
        };
        match rulings {
            (ruling, Some(shadow)) if shadow.outcome != ruling.outcome => (ruling, Some(shadow)),
            (ruling, _) => (ruling, None),
        }
    }

    /// What the rules in force say.
    pub(super) fn ruling(&self, question: &Question<'_>) -> Ruling {
        if let Some(why) = self.flaw(question) {
            return self.in_force.refuse(why);
        }
        self.with_tables(question, |met, about| self.rule_by(&self.in_force, met, about, question))
    }

    /// Why what is named cannot be held against any rule, if so; said before a pattern is matched.
    fn flaw(&self, question: &Question<'_>) -> Option<Reason> {
        let &Asked { caller, server, subject, method, .. } = question.asked;
        if subject.name().unwrap_or(method).len() > NAME_BYTES_MAX {
            return Some(Reason::NameTooLong);
        }
        let is_normal = match subject {
            Subject::Method => return None,
            Subject::Tool("")
            | Subject::Prompt("")
            | Subject::Resource("")
            | Subject::Template("") => {
                return Some(Reason::NameMissing);
            }
            Subject::Resource(_) | Subject::Template(_) if !question.is_about_names() => true,
            Subject::Resource(uri) => uri::is_normal(uri),
            Subject::Template(template) => uri::is_normal_template(template),
            Subject::Tool(_) | Subject::Prompt(_) => true,
        };
        // Who may do everything gains nothing by another spelling, and sees it in lists.
        let is_open = || self.is_in_force() && self.listing(caller, server, None).is_open();
        (!is_normal && !is_open()).then_some(Reason::UriNotNormal)
    }

    fn with_tables<T>(
        &self,
        question: &Question<'_>,
        look: impl FnOnce(&CallerRules, &Bits) -> T,
    ) -> T {
        let &Asked { caller, server, subject, method, annotations, .. } = question.asked;
        let origin = if annotations.is_some() { Origin::Declared } else { Origin::Claimed };
        self.tables.with_caller(&self.rules, caller, |met| {
            let named = (server, subject, method);
            self.tables.with_subject(&self.rules, named, origin, |about| look(met, about))
        })
    }

    /// The whole order of a decision.
    fn rule_by(
        &self,
        masks: &Masks,
        met: &CallerRules,
        about: &Bits,
        question: &Question<'_>,
    ) -> Ruling {
        let (method, subject) = (question.asked.method, question.asked.subject);
        if masks.any == 0 {
            return Ruling::new(Outcome::Allowed, None, Reason::Open);
        }
        for rule in Bits::in_all([&masks.deny, &met.meant, about]) {
            match self.verdict(rule, question) {
                Verdict::Holds => return Ruling::new(Outcome::Refused, rule, Reason::Rule),
                Verdict::Fails | Verdict::Unknown(Unknown::Arguments) => {}
                Verdict::Unknown(why) => return Ruling::new(Outcome::Refused, rule, why.into()),
            }
        }
        let mut ruling = self.allowed(masks, met, about, question);
        if ruling.outcome == Outcome::Refused && subject == Subject::Method && is_lifecycle(method)
        {
            ruling = Ruling::new(Outcome::Allowed, None, Reason::Lifecycle);
        }
        if ruling.outcome == Outcome::Refused {
            return ruling;
        }
        for rule in Bits::in_all([&masks.require, &met.meant, about]) {
            match self.verdict(rule, question) {
                Verdict::Holds => return Ruling::new(Outcome::ScopeMissing, rule, Reason::Rule),
                Verdict::Fails | Verdict::Unknown(Unknown::Arguments) => {}
                Verdict::Unknown(why) => {
                    return Ruling::new(Outcome::ScopeMissing, rule, why.into());
                }
            }
        }
        ruling
    }

    /// Whether an allow matches, or would with more scopes.
    fn allowed(
        &self,
        masks: &Masks,
        met: &CallerRules,
        about: &Bits,
        question: &Question<'_>,
    ) -> Ruling {
        let mut otherwise = Ruling::new(Outcome::Refused, None, Reason::Default);
        let steps = [(&met.meant, Outcome::Allowed), (&met.lacking, Outcome::ScopeMissing)];
        for (standing, outcome) in steps {
            for rule in Bits::in_all([&masks.allow, standing, about]) {
                match self.verdict(rule, question) {
                    Verdict::Holds => return Ruling::new(outcome, rule, Reason::Rule),
                    Verdict::Fails => {}
                    Verdict::Unknown(Unknown::Arguments) => {
                        return Ruling::new(outcome, rule, Reason::Undecided);
                    }
                    Verdict::Unknown(why) if otherwise.rule.is_none() => {
                        otherwise = Ruling::new(Outcome::Refused, rule, why.into());
                    }
                    Verdict::Unknown(_) => {}
                }
            }
        }
        otherwise
    }

    pub(super) fn verdict(&self, rule: usize, question: &Question<'_>) -> Verdict {
        let condition = self.rules[rule].condition.as_ref();
        condition.map_or(Verdict::Holds, |condition| condition.ask(question))
    }

    /// Whether a deny or a requirement depends on arguments that a list does not have.
    pub(super) fn may_deny(&self, question: &Question<'_>) -> bool {
        self.with_tables(question, |met, about| {
            let Masks { deny, require, .. } = &self.in_force;
            let denies = Bits::in_all([deny, &met.meant, about]);
            let mut rules = denies.chain(Bits::in_all([require, &met.meant, about]));
            rules.any(|rule| self.verdict(rule, question) == Verdict::Unknown(Unknown::Arguments))
        })
    }

    fn effect(&self, ruling: Ruling, question: &Question<'_>) -> Effect<'_> {
        match (ruling.outcome, question.asked.subject) {
            (Outcome::Allowed, _) => Effect::Allowed,
            (Outcome::ScopeMissing, _) => Effect::ScopeMissing(self.scopes_needed(question)),
            (Outcome::Refused, Subject::Method) => Effect::Forbidden,
            (Outcome::Refused, _) => Effect::Hidden,
        }
    }

    /// Every scope that this needs, held or not: a token that is asked for with a part of them could
    /// lack the rest.
    fn scopes_needed(&self, question: &Question<'_>) -> Box<[&str]> {
        let &Asked { caller, .. } = question.asked;
        let mut scopes = self.with_tables(question, |met, about| {
            let requires = Bits::in_all([&self.in_force.require, about]);
            let requires = requires.map(|rule| (rule, &self.rules[rule])).filter(|(rule, asks)| {
                asks.by_pattern(caller) == Standing::Meant
                    && self.verdict(*rule, question) != Verdict::Fails
            });
            let mut scopes: Vec<&str> =
                requires.flat_map(|(_, rule)| rule.scopes.iter().map(String::as_str)).collect();
            if let Some(rule) = self.allowed(&self.in_force, met, about, question).rule {
                scopes.extend(self.rules[rule].scopes_needed(caller));
            }
            scopes
        });
        scopes.sort_unstable();
        scopes.dedup();
        scopes.into()
    }

    /// The rules in force that deny, allow and require.
    pub(super) fn masks(&self) -> [&Bits; 3] {
        [&self.in_force.deny, &self.in_force.allow, &self.in_force.require]
    }
}
