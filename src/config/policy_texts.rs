//! The YAML shapes of `policy`.

use std::time::Duration;

use serde_json::{Value, json};

use super::identity::Scope;
use super::patterns::{CallerClause, Glob, MethodPattern, NamePattern};
use super::policy::Mode;
use super::reading::Fault;
use super::scalars::check_name;
use super::shape::{Entries, Field, Scalar, shape};

shape! {
    /// What callers may do. Order does not matter: a matching deny wins, else a matching allow, else it is denied, as soon as one rule is enforced.
    PolicyText {
        /// Names for sets of tools, for combinations: patterns server/tool, or tool on any server; `*` stands for any characters.
        optional labels: Entries<Vec<Field<NamePattern>>>,
        /// The rules.
        optional rules: Vec<Field<RuleText>>,
        /// What may not follow what.
        optional combinations: Vec<Field<CombinationText>>,
    }
}

shape! {
    /// One rule: one of allow, deny and require.
    RuleText {
        /// Its name, by which decisions are told.
        required name: RuleName,
        /// Whether it counts: enforce, or shadow (what it would decide is recorded, and it lets pass).
        optional mode: Mode,
        /// What may be done, unless a deny matches too; {} is everything.
        optional allow: AllowText,
        /// What may not be done.
        optional deny: DenyText,
        /// What may be done only with certain scopes, by whom an allow lets do it; without them the answer is a challenge that names them.
        optional require: RequireText,
    }
}

shape! {
    /// What may be done, and by whom.
    AllowText {
        /// Whom it is about, any of: *, ID, tenant:T, scope:S, claim:NAME=VALUE, issuer:URL, method:M, anonymous; a list in the list asks for all of its items.
        optional callers: Vec<Field<CallerClause>>,
        /// Which servers it is about.
        optional servers: Vec<Field<Glob>>,
        /// Tools: server/own_name, or own_name on any server.
        optional tools: Vec<Field<NamePattern>>,
        /// Prompts: server/own_name, or own_name on any server.
        optional prompts: Vec<Field<NamePattern>>,
        /// Resources, by URI.
        optional resources: Vec<Field<Glob>>,
        /// Methods that name no tool, prompt or resource.
        optional methods: Vec<Field<MethodPattern>>,
        /// Scopes that the caller needs besides, all of them; who lacks only scopes is told which.
        optional scopes: Vec<Field<Scope>>,
        /// A condition in CEL over caller, server, tool, prompt, resource, method, arguments and client; it is asked last.
        optional when: String,
    }
}

shape! {
    /// What may not be done, and by whom.
    DenyText {
        /// Whom it is about; everyone by default.
        optional callers: Vec<Field<CallerClause>>,
        /// Which servers it is about.
        optional servers: Vec<Field<Glob>>,
        /// Tools: server/own_name, or own_name on any server.
        optional tools: Vec<Field<NamePattern>>,
        /// Prompts: server/own_name, or own_name on any server.
        optional prompts: Vec<Field<NamePattern>>,
        /// Resources, by URI.
        optional resources: Vec<Field<Glob>>,
        /// Methods that name no tool, prompt or resource.
        optional methods: Vec<Field<MethodPattern>>,
        /// A condition in CEL; one that cannot be decided holds here.
        optional when: String,
    }
}

shape! {
    /// What needs certain scopes.
    RequireText {
        /// Whom it is about; everyone by default.
        optional callers: Vec<Field<CallerClause>>,
        /// Which servers it is about.
        optional servers: Vec<Field<Glob>>,
        /// Tools: server/own_name, or own_name on any server.
        optional tools: Vec<Field<NamePattern>>,
        /// Prompts: server/own_name, or own_name on any server.
        optional prompts: Vec<Field<NamePattern>>,
        /// Resources, by URI.
        optional resources: Vec<Field<Glob>>,
        /// Methods that name no tool, prompt or resource.
        optional methods: Vec<Field<MethodPattern>>,
        /// The scopes, all of them.
        required scopes: Vec<Field<Scope>>,
        /// A condition in CEL; one that cannot be decided holds here.
        optional when: String,
    }
}

shape! {
    /// After a tool of one label, no tool of another.
    CombinationText {
        /// Its name, by which refusals are told.
        required name: RuleName,
        /// Whether it counts: enforce or shadow.
        optional mode: Mode,
        /// The label of the tools whose use is remembered when it begins.
        required after: String,
        /// The label of the tools that are then refused before they run.
        required deny: String,
        /// How long: session (as long as the session lives), or a time for the caller.
        required within: Within,
        /// How long, with `within: session`, for a caller without a session, as in revision 2026-07-28.
        optional otherwise: Duration,
    }
}

/// The name of a rule: it stands in logs, metrics and answers to operators.
#[derive(Debug, Clone)]
pub(super) struct RuleName(pub(super) String);

impl Scalar for RuleName {
    const NAME: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_name(text).map(|()| Self(text.to_owned()))
    }
}

/// How long a use is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) enum Within {
    Session,
    Window(Duration),
}

impl Scalar for Within {
    const NAME: &'static str = "a duration";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "session" => Ok(Self::Session),
            _ => <Duration as Scalar>::parse(text)
                .map(Self::Window)
                .map_err(|fault| Fault::new(fault.message, "write session, or a time such as 10m")),
        }
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^(session|[0-9]+(ms|s|m|h)|.*\$\{.*)$" })
    }
}
