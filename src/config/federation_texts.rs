//! How several servers shown as one are written: the YAML shapes of `routes[].servers`.

use std::collections::BTreeMap;

use super::federation::PrefixOn;
use super::patterns::Glob;
use super::reading::Fault;
use super::scalars::{choice_schema, parse_choice};
use super::shape::{Entries, Field, Scalar, shape};

/// A longer prefix leaves no room for names.
const PREFIX_CHARS_MAX: usize = 32;
/// What clients and models take for a name.
const SHOWN_CHARS_MAX: usize = 64;

/// Patterns of names or URIs.
pub(super) type Names = Vec<Field<Glob>>;

shape! {
    /// One server of several that are shown as one.
    MemberText {
        /// The server.
        required name: String,
        /// What the names of its tools and prompts are shown with.
        optional prefix: Prefix,
        /// When names are shown with their prefix: always, or collision (when another server shows the name too).
        optional prefix_on: PrefixOn,
        /// What the schemes of its URIs are shown with, such as github+; made from a prefix that is always shown.
        optional uri_prefix: UriPrefix,
        /// The shown names that are this server's, and then it shows no others; the first that matches in the order of servers decides.
        optional r#match: MatchText,
        /// Which of its tools are shown, and how.
        optional tools: ToolsText,
        /// Which of its prompts are shown, and by which names.
        optional prompts: PromptsText,
        /// Which of its resources are shown.
        optional resources: FilterText,
    }
}

shape! {
    /// The shown names that are a server's.
    MatchText {
        /// Patterns of tools.
        optional tools: Names,
        /// Patterns of prompts.
        optional prompts: Names,
        /// Patterns of the URIs of resources.
        optional resources: Names,
    }
}

shape! {
    /// Which tools of a server are shown, and how.
    ToolsText {
        /// Patterns of own names that are shown; everything by default.
        optional allow: Names,
        /// Patterns of own names that are not shown and cannot be called.
        optional deny: Names,
        /// Shown names by own names; they get no prefix.
        optional rename: Entries<ShownName>,
        /// What is said of tools instead of what the server says, by own names.
        optional r#override: Entries<OverrideText>,
    }
}

shape! {
    /// Which prompts of a server are shown, and by which names.
    PromptsText {
        /// Patterns of own names that are shown; everything by default.
        optional allow: Names,
        /// Patterns of own names that are not shown and cannot be asked for.
        optional deny: Names,
        /// Shown names by own names; they get no prefix.
        optional rename: Entries<ShownName>,
    }
}

shape! {
    /// Which resources of a server are shown.
    FilterText {
        /// Patterns of own URIs that are shown; everything by default.
        optional allow: Names,
        /// Patterns of own URIs that are not shown and cannot be read.
        optional deny: Names,
    }
}

shape! {
    /// What is said of a tool instead of what its server says.
    OverrideText {
        /// What it does.
        optional description: String,
        /// Its name for people.
        optional title: String,
        /// What clients may think of it; policy goes by what the server declares.
        optional annotations: AnnotationsText,
    }
}

shape! {
    /// What clients may think of a tool.
    AnnotationsText {
        /// Its name for people, in annotations.
        optional title: String,
        /// Whether it changes nothing: true or false.
        optional read_only: Hint,
        /// Whether what it changes may be lost: true or false.
        optional destructive: Hint,
        /// Whether to run it twice is to run it once: true or false.
        optional idempotent: Hint,
        /// Whether it reaches beyond its server: true or false.
        optional open_world: Hint,
    }
}

impl AnnotationsText {
    /// The hints by the keys that MCP gives them, and the title.
    pub(super) fn check(self) -> (BTreeMap<&'static str, bool>, Option<String>) {
        let Self { title, read_only, destructive, idempotent, open_world } = self;
        let hints = [
            ("readOnlyHint", read_only),
            ("destructiveHint", destructive),
            ("idempotentHint", idempotent),
            ("openWorldHint", open_world),
        ];
        let given = hints.into_iter().filter_map(|(key, hint)| Some((key, hint.value()?.0)));
        (given.collect(), title.value())
    }
}

/// What tools and prompts have in common.
pub(super) struct NamingText {
    pub(super) allow: Field<Names>,
    pub(super) deny: Field<Names>,
    pub(super) rename: Field<Entries<ShownName>>,
    pub(super) overrides: Field<Entries<OverrideText>>,
}

/// Whether something holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hint(pub(super) bool);

const HINTS: &[(&str, bool)] = &[("true", true), ("false", false)];

impl Scalar for Hint {
    const NAME: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, HINTS).map(Self)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [{ "type": "boolean" }, choice_schema(HINTS)] })
    }
}

/// What shown names of tools and prompts begin with.
#[derive(Debug)]
pub(super) struct Prefix(pub(super) String);

impl Scalar for Prefix {
    const NAME: &'static str = "a prefix";

    fn parse(text: &str) -> Result<Self, Fault> {
        is_shown(text, PREFIX_CHARS_MAX).then(|| Self(text.to_owned())).ok_or_else(|| {
            let hint = format!(
                "use letters, digits, `_` and `-`, at most {PREFIX_CHARS_MAX} in all, such as github_"
            );
            Fault::new("names cannot begin like this", hint)
        })
    }
}

/// What the schemes of shown URIs begin with.
#[derive(Debug)]
pub(super) struct UriPrefix(pub(super) String);

impl Scalar for UriPrefix {
    const NAME: &'static str = "a prefix";

    fn parse(text: &str) -> Result<Self, Fault> {
        let may_follow =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
        let is_good = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.ends_with(['+', '-', '.'])
            && text.len() <= PREFIX_CHARS_MAX
            && text.bytes().all(may_follow);
        is_good.then(|| Self(text.to_owned())).ok_or_else(|| {
            let hint = format!(
                "use small letters, digits and `+`, `-` or `.` at the end, at most {PREFIX_CHARS_MAX} in all, such as github+"
            );
            Fault::new("schemes cannot begin like this", hint)
        })
    }
}

/// A name that clients see.
#[derive(Debug)]
pub(super) struct ShownName(pub(super) String);

impl Scalar for ShownName {
    const NAME: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        is_shown(text, SHOWN_CHARS_MAX).then(|| Self(text.to_owned())).ok_or_else(|| {
            let hint =
                format!("use letters, digits, `_` and `-`, at most {SHOWN_CHARS_MAX} in all");
            Fault::new("clients do not take this for a name", hint)
        })
    }
}

fn is_shown(text: &str, chars_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    !text.is_empty() && text.len() <= chars_max && text.bytes().all(allowed)
}
