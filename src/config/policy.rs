//! What callers may do: `policy`.

use std::time::Duration;

use serde_json::Value;

use super::identity::Identity;
use super::links::{Completeness, ServerNames, note_duplicates, note_unknown};
use super::patterns::{CallerClause, NamePattern};
use super::place::Place;
use super::policy_rules::{check_names, check_rule};
use super::policy_texts::{CombinationText, PolicyText, RuleText, Within};
use super::reading::{Fault, Reading};
use super::scalars::{check_name, choice_schema, parse_choice};
use super::shape::{At, Entries, Field, Scalar};

/// How long a use counts where `within: session` meets a caller without a session.
const OTHERWISE: Duration = Duration::from_secs(10 * 60);

/// What callers may do. Without a rule that is enforced everything is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Names for sets of tools, all different.
    pub labels: Vec<Label>,
    /// The rules in the order of the files, which means nothing; their names are all different.
    pub rules: Vec<Rule>,
    /// What may not follow what.
    pub combinations: Vec<Combination>,
}

impl Policy {
    /// Every scope that a rule about one of these servers asks for.
    pub fn scopes_at(&self, servers: &[&str]) -> Vec<String> {
        let is_here = |rule: &&Rule| {
            rule.mode == Mode::Enforce
                && rule.effect != RuleEffect::Deny
                && rule
                    .servers
                    .as_ref()
                    .is_none_or(|of| of.iter().any(|of| servers.contains(&of.as_str())))
        };
        let rules = self.rules.iter().filter(is_here);
        let asked = rules.flat_map(|rule| {
            let clauses = rule.callers.iter().flatten();
            let of_callers = clauses.flat_map(CallerClause::scopes);
            rule.scopes.iter().map(String::as_str).chain(of_callers)
        });
        let mut scopes: Vec<String> = asked.map(str::to_owned).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// A name for a set of tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The name.
    pub name: String,
    /// The tools; at least one pattern.
    pub tools: Vec<NamePattern>,
    /// Where its name stands.
    pub place: Place,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, by which decisions are told.
    pub name: String,
    /// Whether it counts.
    pub mode: Mode,
    /// What it does to what it matches.
    pub effect: RuleEffect,
    /// Whom it is about: anyone who fulfils one of these; absent means everyone.
    pub callers: Option<Vec<CallerClause>>,
    /// Which servers it is about; absent means every server.
    pub servers: Option<Vec<String>>,
    /// What it is about.
    pub subjects: Subjects,
    /// The scopes that an allow asks for beside, or that a requirement asks for.
    pub scopes: Vec<String>,
    /// What must hold besides, in CEL.
    pub when: Option<When>,
    /// Where its name stands.
    pub place: Place,
}

/// Whether a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// What it would decide is recorded, and it lets pass.
    Shadow,
}

/// What a rule does to what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleEffect {
    /// It may be done, unless a deny matches too.
    Allow,
    /// It may not be done.
    Deny,
    /// It may be done only with the rule's scopes, by whom another rule allows it.
    Require,
}

/// What a rule is about. All absent means everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subjects {
    /// Tools, by their own names.
    pub tools: Option<Vec<NamePattern>>,
    /// Prompts, by their own names.
    pub prompts: Option<Vec<NamePattern>>,
    /// Resources, by URI.
    pub resources: Option<Vec<String>>,
    /// Methods that name none of these.
    pub methods: Option<Vec<String>>,
}

impl Subjects {
    /// Whether nothing is named, so that everything is meant.
    pub fn is_everything(&self) -> bool {
        let Self { tools, prompts, resources, methods } = self;
        tools.is_none() && prompts.is_none() && resources.is_none() && methods.is_none()
    }
}

/// A condition in CEL, which the engine compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    /// The expression.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// After a tool of one label, no tool of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combination {
    /// Its name, by which refusals are told.
    pub name: String,
    /// Whether it counts.
    pub mode: Mode,
    /// The index in `labels` of the tools that are remembered.
    pub after: usize,
    /// The index in `labels` of the tools that are then refused.
    pub deny: usize,
    /// Whether uses are remembered for the session they happen in, where there is one.
    pub by_session: BySession,
    /// How long a use is remembered for its caller, where it is not remembered for a session.
    pub window: Duration,
    /// Where its name stands.
    pub place: Place,
}

/// Whether uses are remembered for their session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BySession {
    /// They are, as long as it lives; without a session for the caller.
    Yes,
    /// They are remembered for the caller.
    No,
}

const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];

impl Scalar for Mode {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, MODES)
    }

    fn schema() -> Value {
        choice_schema(MODES)
    }
}

/// What the rest of the configuration says, that rules may name.
pub(super) struct Surroundings<'s> {
    pub(super) servers: &'s ServerNames,
    pub(super) identity: &'s Identity,
    /// Whether every caller of the configuration could be read.
    pub(super) callers: Completeness,
}

/// Checks the policies of all files as one.
pub(super) fn check(
    texts: Vec<PolicyText>,
    around: &Surroundings<'_>,
    reading: &mut Reading<'_>,
) -> Policy {
    let (mut labels, mut rules, mut combinations) = (Vec::new(), Vec::new(), Vec::new());
    let mut completeness = around.callers;
    for PolicyText { labels: label_texts, rules: rule_texts, combinations: texts } in texts {
        if matches!(label_texts, Field::Faulty) {
            completeness = Completeness::Partial;
        }
        labels.extend(label_texts.value().into_iter().flat_map(|Entries(entries)| entries));
        rules.extend(rule_texts.or(Vec::new()).into_iter().filter_map(Field::value));
        combinations.extend(texts.or(Vec::new()).into_iter().filter_map(Field::value));
    }
    note_name_clashes(&labels, &rules, &combinations, reading);
    let names: Vec<String> = labels.iter().map(|(name, _)| name.value.clone()).collect();
    // A label with a problem keeps its index, so that others mean what they name.
    let labels = labels
        .into_iter()
        .map(|(name, tools)| check_label(name, tools, around.servers, reading))
        .collect();
    let rules: Vec<Rule> =
        rules.into_iter().filter_map(|rule| check_rule(rule, around, reading)).collect();
    note_closed_policy(&rules, reading);
    let combinations = combinations
        .into_iter()
        .filter_map(|text| check_combination(text, &names, completeness, reading))
        .collect();
    Policy { labels, rules, combinations }
}

/// A label's name, and the tools that have it.
type LabelText = (At<String>, Field<Vec<Field<NamePattern>>>);

fn note_name_clashes(
    labels: &[LabelText],
    rules: &[RuleText],
    combinations: &[CombinationText],
    reading: &mut Reading<'_>,
) {
    let names = labels.iter().map(|(name, _)| (name.place, name.value.as_str()));
    note_duplicates(names, "a label of this name is already defined", reading);
    let rules = rules.iter().map(|rule| &rule.name);
    let combinations = combinations.iter().map(|combination| &combination.name);
    let names = rules.chain(combinations).filter_map(Field::as_given);
    let names = names.map(|name| (name.place, name.value.0.as_str()));
    note_duplicates(names, "a rule of this name is already defined", reading);
}

fn check_label(
    name: At<String>,
    tools: Field<Vec<Field<NamePattern>>>,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Label {
    if let Err(fault) = check_name(&name.value) {
        reading.fault(name.place, fault);
    }
    if tools.as_given().is_some_and(|tools| tools.value.is_empty()) {
        let hint = "write server/tool patterns, such as [\"vault/*\"], or leave it out";
        reading.problem(name.place, "no tool has this label", hint);
    }
    let tools = check_names(tools, servers, reading).unwrap_or_default();
    Label { name: name.value, tools, place: name.place }
}

/// A default deny without any allow is a mistake: nobody could call anything.
fn note_closed_policy(rules: &[Rule], reading: &mut Reading<'_>) {
    let mut enforced = rules.iter().filter(|rule| rule.mode == Mode::Enforce).peekable();
    let Some(first) = enforced.peek().map(|rule| rule.place) else { return };
    if !enforced.any(|rule| rule.effect == RuleEffect::Allow) {
        let hint = "what no rule allows is denied; add one such as { name: rest, allow: {} }";
        reading.problem(first, "no rule that is enforced allows anything", hint);
    }
}

fn check_combination(
    text: CombinationText,
    labels: &[String],
    completeness: Completeness,
    reading: &mut Reading<'_>,
) -> Option<Combination> {
    let CombinationText { name, mode, after, deny, within, otherwise } = text;
    let mut label = |label: Field<String>| {
        let label = label.given()?;
        let index = labels.iter().position(|name| *name == label.value);
        if index.is_none() && completeness == Completeness::Whole {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let message = "no tool has this label";
            note_unknown(label.place, &label.value, &labels, message, reading);
        }
        index
    };
    let (after, deny) = (label(after), label(deny));
    let (by_session, window) = match within.value() {
        Some(Within::Window(window)) => {
            if let Some(otherwise) = otherwise.as_given() {
                let hint = "leave it out; it goes with `within: session`";
                reading.problem(otherwise.head, "`otherwise` has no meaning here", hint);
            }
            (BySession::No, window)
        }
        Some(Within::Session) | None => (BySession::Yes, otherwise.or(OTHERWISE)),
    };
    let At { place, value: name, .. } = name.given()?;
    let mode = mode.or(Mode::default());
    Some(Combination { name: name.0, mode, after: after?, deny: deny?, by_session, window, place })
}
