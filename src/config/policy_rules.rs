//! The checks of one rule: what it does, and whether everything that it names is there.

use super::identity::Identity;
use super::links::{Completeness, ServerNames, note_unknown};
use super::patterns::{CallerClause, CallerPattern, Glob, MethodPattern, NamePattern, is_plain};
use super::policy::{Mode, Rule, RuleEffect, Subjects, Surroundings, When};
use super::policy_texts::{AllowText, DenyText, RequireText, RuleText};
use super::reading::Reading;
use super::shape::{At, Field};

/// What the three forms of a rule have in common.
struct Form {
    effect: RuleEffect,
    callers: Field<Vec<Field<CallerClause>>>,
    servers: Field<Vec<Field<Glob>>>,
    tools: Field<Vec<Field<NamePattern>>>,
    prompts: Field<Vec<Field<NamePattern>>>,
    resources: Field<Vec<Field<Glob>>>,
    methods: Field<Vec<Field<MethodPattern>>>,
    scopes: Vec<String>,
    when: Field<String>,
}

impl From<AllowText> for Form {
    fn from(text: AllowText) -> Self {
        let AllowText { callers, servers, tools, prompts, resources, methods, scopes, when } = text;
        let scopes = scopes.or(Vec::new()).into_iter().filter_map(Field::value);
        let (effect, scopes) = (RuleEffect::Allow, scopes.map(|scope| scope.0).collect());
        Self { effect, callers, servers, tools, prompts, resources, methods, scopes, when }
    }
}

impl From<DenyText> for Form {
    fn from(text: DenyText) -> Self {
        let DenyText { callers, servers, tools, prompts, resources, methods, when } = text;
        let (effect, scopes) = (RuleEffect::Deny, Vec::new());
        Self { effect, callers, servers, tools, prompts, resources, methods, scopes, when }
    }
}

impl From<RequireText> for Form {
    fn from(text: RequireText) -> Self {
        let RequireText { callers, servers, tools, prompts, resources, methods, scopes, when } =
            text;
        let scopes = scopes.or(Vec::new()).into_iter().filter_map(Field::value);
        let (effect, scopes) = (RuleEffect::Require, scopes.map(|scope| scope.0).collect());
        Self { effect, callers, servers, tools, prompts, resources, methods, scopes, when }
    }
}

pub(super) fn check_rule(
    text: RuleText,
    around: &Surroundings<'_>,
    reading: &mut Reading<'_>,
) -> Option<Rule> {
    let RuleText { name, mode, allow, deny, require } = text;
    let written = [
        !matches!(allow, Field::Absent),
        !matches!(deny, Field::Absent),
        !matches!(require, Field::Absent),
    ];
    if let Some(name) = name.as_given() {
        let hint = "give each rule one of `allow`, `deny` and `require`";
        match written.into_iter().filter(|written| *written).count() {
            0 => reading.problem(name.head, "this rule does nothing", hint),
            1 => {}
            _ => reading.problem(name.head, "this rule does several things", hint),
        }
    }
    if let Some(At { head, value: RequireText { scopes: Field::Given(scopes), .. }, .. }) =
        require.as_given()
        && scopes.value.is_empty()
    {
        reading.problem(*head, "this rule requires no scope", "name one in `scopes`");
    }
    let form = allow.value().map(Form::from);
    let form = form.or_else(|| deny.value().map(Form::from));
    let form = form.or_else(|| require.value().map(Form::from))?;
    let Form { effect, callers, servers, tools, prompts, resources, methods, scopes, when } = form;
    note_unknown_callers(&callers, around, reading);
    let callers = check_list(callers, reading);
    let servers = check_servers(servers, around.servers, reading);
    let subjects = Subjects {
        tools: check_names(not_empty(tools, reading), around.servers, reading),
        prompts: check_names(not_empty(prompts, reading), around.servers, reading),
        resources: check_list(resources, reading).map(texts),
        methods: check_list(methods, reading)
            .map(|methods| methods.into_iter().map(|method| method.0).collect()),
    };
    let when = when.given().map(|when| When { text: when.value, place: when.place });
    let At { place, value: name, .. } = name.given()?;
    let mode = mode.or(Mode::default());
    Some(Rule { name: name.0, mode, effect, callers, servers, subjects, scopes, when, place })
}

fn texts(globs: Vec<Glob>) -> Vec<String> {
    globs.into_iter().map(|glob| glob.0).collect()
}

/// A list that is written and empty would match nothing, which nobody means.
fn not_empty<T>(list: Field<Vec<Field<T>>>, reading: &mut Reading<'_>) -> Field<Vec<Field<T>>> {
    if let Some(empty) = list.as_given().filter(|list| list.value.is_empty()) {
        let hint = "name something, or leave the key out";
        reading.problem(empty.head, "this list is empty, so the rule matches nothing", hint);
    }
    list
}

fn check_list<T>(list: Field<Vec<Field<T>>>, reading: &mut Reading<'_>) -> Option<Vec<T>> {
    let list = not_empty(list, reading).value()?;
    Some(list.into_iter().filter_map(Field::value).collect())
}

fn check_servers(
    list: Field<Vec<Field<Glob>>>,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Option<Vec<String>> {
    let list = not_empty(list, reading).value()?;
    let list = list.into_iter().filter_map(Field::given).map(|At { place, head, value }| {
        if is_plain(&value.0) {
            servers.resolve(&At { place, head, value: value.0.clone() }, reading);
        }
        value.0
    });
    Some(list.collect())
}

pub(super) fn check_names(
    list: Field<Vec<Field<NamePattern>>>,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Option<Vec<NamePattern>> {
    let list = list.value()?.into_iter().filter_map(Field::given);
    let list = list.map(|At { place, head, value }| {
        if is_plain(&value.server) {
            servers.resolve(&At { place, head, value: value.server.clone() }, reading);
        }
        value
    });
    Some(list.collect())
}

/// Where the configuration knows every caller, a name that it does not know is a mistake.
fn note_unknown_callers(
    clauses: &Field<Vec<Field<CallerClause>>>,
    around: &Surroundings<'_>,
    reading: &mut Reading<'_>,
) {
    let Some(known) = Known::of(around) else { return };
    let clauses = clauses.as_given().map_or(&[][..], |clauses| &clauses.value);
    for clause in clauses.iter().filter_map(Field::as_given) {
        for pattern in &clause.value.0 {
            let (name, known, message) = match pattern {
                CallerPattern::Id(id) => (id, &known.ids, "there is no caller of this name"),
                CallerPattern::Tenant(tenant) => {
                    (tenant, &known.tenants, "no caller belongs to this tenant")
                }
                _ => continue,
            };
            if is_plain(name) && !known.contains(&name.as_str()) {
                note_unknown(clause.place, name, known, message, reading);
            }
        }
    }
}

/// Every caller there can be, where the configuration lists them all.
struct Known<'s> {
    ids: Vec<&'s str>,
    tenants: Vec<&'s str>,
}

impl<'s> Known<'s> {
    fn of(around: &Surroundings<'s>) -> Option<Self> {
        if around.callers == Completeness::Partial {
            return None;
        }
        // Whoever adds another proof must say here that the callers are not all known.
        let Identity { anonymous: _, api_keys, jwt, introspection, certificates } = around.identity;
        if !(jwt.is_empty() && introspection.is_empty() && certificates.is_none()) {
            return None;
        }
        let ids = api_keys.iter().map(|key| key.caller.as_str()).collect();
        let tenants = api_keys.iter().filter_map(|key| key.tenant.as_deref()).collect();
        Some(Self { ids, tenants })
    }
}
