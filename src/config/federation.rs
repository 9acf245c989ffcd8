//! Several servers shown as one: `routes[].servers`.

use std::collections::BTreeMap;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::federation_texts::{
    FilterText, MatchText, MemberText, Names, NamingText, OverrideText, Prefix, PromptsText,
    ShownName, ToolsText, UriPrefix,
};
use super::include::wildcard_matches;
use super::links::{ServerNames, note_duplicates};
use super::patterns::Glob;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::shape::{At, Entries, Field, Scalar};

/// Several servers, shown as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// The servers, in the order in which lists show them; at least one, all different.
    pub members: Vec<Member>,
    /// What lists show of a server that is down.
    pub when_down: WhenDown,
    /// How many definitions one page of a list holds.
    pub list_page_max: usize,
}

/// One server of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The index of the server in `Settings::servers`.
    pub server: usize,
    /// Its name there.
    pub name: String,
    /// What its tools and prompts are shown with; may be empty. No prefix begins another one.
    pub prefix: String,
    /// When they are.
    pub prefix_on: PrefixOn,
    /// What the schemes of its URIs are shown with; may be empty. None begins another one.
    pub uri_prefix: String,
    /// The shown names that are its own, and then it shows no others.
    pub claims: Option<Claims>,
    /// How its tools are shown.
    pub tools: Naming,
    /// How its prompts are shown.
    pub prompts: Naming,
    /// Which of its resources are shown.
    pub resources: Selection,
}

/// When names are shown with their prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefixOn {
    /// Each of them.
    #[default]
    Always,
    /// Those that another server shows too.
    Collision,
}

/// What lists show of a server that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenDown {
    /// What it offered last.
    #[default]
    Keep,
    /// Nothing.
    LeaveOut,
}

/// Patterns of shown names and URIs; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// Tools.
    pub tools: Vec<String>,
    /// Prompts.
    pub prompts: Vec<String>,
    /// Resources.
    pub resources: Vec<String>,
}

/// Which of what a server offers is shown, by patterns of its own names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// What is; absent means everything.
    pub allow: Option<Vec<String>>,
    /// And what of that is not.
    pub deny: Vec<String>,
}

/// How what a server offers is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Naming {
    /// Which of it.
    pub selection: Selection,
    /// Shown names by own names; they get no prefix.
    pub rename: BTreeMap<String, String>,
    /// What is said of it instead of what the server says, by own names.
    pub overrides: BTreeMap<String, Override>,
}

/// What is said instead of what the server says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Override {
    /// The description.
    pub description: Option<String>,
    /// The title.
    pub title: Option<String>,
    /// Hints by their keys in `annotations`; others stay as the server gave them.
    pub hints: BTreeMap<&'static str, bool>,
    /// `title` in `annotations`.
    pub hint_title: Option<String>,
}

impl Selection {
    /// Whether what has this own name is shown.
    pub fn shows(&self, own: &str) -> bool {
        let is_among =
            |list: &Vec<String>| list.iter().any(|pattern| wildcard_matches(pattern, own));
        self.allow.as_ref().is_none_or(is_among) && !is_among(&self.deny)
    }
}

/// What names a server in whatever clients keep, however the configuration changes: the start of the
/// SHA-256 digest of its name.
pub fn member_digest(server: &str) -> [u8; 4] {
    let mut short = [0; 4];
    short.copy_from_slice(&digest(&SHA256, server.as_bytes()).as_ref()[..4]);
    short
}

const PREFIX_ON: &[(&str, PrefixOn)] =
    &[("always", PrefixOn::Always), ("collision", PrefixOn::Collision)];

impl Scalar for PrefixOn {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, PREFIX_ON)
    }

    fn schema() -> Value {
        choice_schema(PREFIX_ON)
    }
}

const WHEN_DOWN: &[(&str, WhenDown)] =
    &[("keep", WhenDown::Keep), ("leave_out", WhenDown::LeaveOut)];

impl Scalar for WhenDown {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, WHEN_DOWN)
    }

    fn schema() -> Value {
        choice_schema(WHEN_DOWN)
    }
}

/// A member, and where what may be at odds with other members stands.
struct Checked {
    member: Member,
    name: Place,
    prefix: Place,
    uri_prefix: Place,
    /// In the order of tools, prompts and resources.
    patterns: [Vec<(Place, String)>; 3],
    renamed: [Vec<(Place, String)>; 2],
}

/// Checks the servers of one route.
pub(super) fn check(
    list: At<Vec<Field<MemberText>>>,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Option<Vec<Member>> {
    if list.value.is_empty() {
        reading.problem(list.head, "the list of servers is empty", "add `- name: NAME`");
        return None;
    }
    let count = list.value.len();
    let texts = list.value.into_iter().filter_map(Field::value);
    let checked: Vec<Checked> = texts.filter_map(|text| text.check(servers, reading)).collect();
    note_same_servers(&checked, reading);
    note_prefixes(&checked, reading);
    for kind in 0..2 {
        let names = checked.iter().flat_map(|checked| &checked.renamed[kind]);
        let names = names.map(|(place, name)| (*place, name.as_str()));
        note_duplicates(names, "something else is shown by this name", reading);
        note_foreign_names(&checked, kind, reading);
    }
    note_unreached(&checked, reading);
    // Others keep their meaning only if all are there.
    (checked.len() == count).then(|| checked.into_iter().map(|checked| checked.member).collect())
}

/// What clients keep names a server, so it stands in a route once.
fn note_same_servers(checked: &[Checked], reading: &mut Reading<'_>) {
    for (index, one) in checked.iter().enumerate() {
        let digest = member_digest(&one.member.name);
        let is_same = |other: &&Checked| member_digest(&other.member.name) == digest;
        let Some(first) = checked[..index].iter().find(is_same) else { continue };
        if first.member.name == one.member.name {
            let at = reading.texts.locate(first.name);
            let hint = format!("write all about it in one place; the first is at {at}");
            reading.problem(one.name, "this server is in the route already", hint);
        } else {
            let hint =
                format!("give one of them another name; the other is `{}`", first.member.name);
            reading.problem(one.name, "by chance clients could not tell two servers apart", hint);
        }
    }
}

/// Where one prefix begins another, a name could be taken apart in two ways.
fn note_prefixes(checked: &[Checked], reading: &mut Reading<'_>) {
    let mut note = |of: fn(&Checked) -> (Place, &str), key: &str| {
        for (index, one) in checked.iter().enumerate() {
            let (place, prefix) = of(one);
            let meets = |other: &&Checked| {
                let (_, other) = of(other);
                !other.is_empty() && (prefix.starts_with(other) || other.starts_with(prefix))
            };
            let earlier = checked[..index].iter().find(meets).filter(|_| !prefix.is_empty());
            let Some(earlier) = earlier else { continue };
            let (at, other) = of(earlier);
            let message = format!("names of `{}` could begin so too", earlier.member.name);
            let at = reading.texts.locate(at);
            let hint = format!("write a `{key}` that does not begin like `{other}` at {at}");
            reading.problem(place, message, hint);
        }
    };
    note(|checked| (checked.prefix, &checked.member.prefix), "prefix");
    note(|checked| (checked.uri_prefix, &checked.member.uri_prefix), "uri_prefix");
}

/// A new name that another server's prefix claims would hide what that server shows.
fn note_foreign_names(checked: &[Checked], kind: usize, reading: &mut Reading<'_>) {
    for one in checked {
        for (place, name) in &one.renamed[kind] {
            let owner = checked.iter().find(|other| {
                let Member { prefix, prefix_on, .. } = &other.member;
                let is_prefixed = !prefix.is_empty() && *prefix_on == PrefixOn::Always;
                other.name != one.name && is_prefixed && name.starts_with(prefix)
            });
            if let Some(owner) = owner {
                let message = format!("names that begin so are those of `{}`", owner.member.name);
                reading.problem(*place, message, "choose another name");
            }
        }
    }
}

/// The first pattern that matches decides, so a later one that says no more is a mistake.
fn note_unreached(checked: &[Checked], reading: &mut Reading<'_>) {
    for kind in 0..3 {
        let mut before: Vec<(Place, &str)> = Vec::new();
        for one in checked {
            let Member { prefix, uri_prefix, prefix_on, .. } = &one.member;
            let prefix = match (kind, prefix_on) {
                (2, _) => uri_prefix,
                (_, PrefixOn::Always) => prefix,
                (_, PrefixOn::Collision) => "",
            };
            for (place, pattern) in &one.patterns[kind] {
                if let Some((first, _)) = before.iter().find(|(_, first)| covers(first, pattern)) {
                    let at = reading.texts.locate(*first);
                    let hint = format!("all that it matches is decided at {at}");
                    reading.problem(*place, "this pattern is never reached", hint);
                } else if !(may_begin(pattern, prefix) || kind == 2 && pattern.starts_with("ui:")) {
                    let hint = format!("what clients see of this server begins with `{prefix}`");
                    reading.problem(*place, "this pattern is never reached", hint);
                }
                before.push((*place, pattern));
            }
        }
    }
}

/// Whether whatever a pattern matches is matched by another one; in doubt it is not.
fn covers(pattern: &str, other: &str) -> bool {
    // A `?` would take a `*` for one character.
    (!pattern.contains('?') || !other.contains('*')) && wildcard_matches(pattern, other)
}

/// Whether something that the pattern matches begins like this.
fn may_begin(pattern: &str, prefix: &str) -> bool {
    let fixed = pattern.split(['*', '?']).next().unwrap_or_default();
    match fixed.len() == pattern.len() {
        true => pattern.starts_with(prefix),
        false => fixed.starts_with(prefix) || prefix.starts_with(fixed),
    }
}

impl MemberText {
    fn check(self, servers: &ServerNames, reading: &mut Reading<'_>) -> Option<Checked> {
        let Self { name, prefix, prefix_on, uri_prefix, r#match, tools, prompts, resources } = self;
        let name = name.given()?;
        let server = servers.resolve(&name, reading);
        if let (Field::Absent, Field::Given(on)) = (&prefix, &prefix_on) {
            let hint = "add `prefix:`, or leave `prefix_on` out";
            reading.problem(on.head, "there is no prefix", hint);
        }
        let prefix_at = prefix.as_given().map_or(name.place, |prefix| prefix.place);
        let uri_prefix_at = uri_prefix.as_given().map_or(prefix_at, |prefix| prefix.place);
        let prefix = prefix.value().map_or_else(String::new, |Prefix(prefix)| prefix);
        let prefix_on = prefix_on.or(PrefixOn::default());
        let uri_prefix = match uri_prefix.value() {
            Some(UriPrefix(uri_prefix)) => uri_prefix,
            // What a URI is shown as must not depend on what others offer.
            None if prefix_on == PrefixOn::Collision => String::new(),
            None => derived_uri_prefix(&prefix),
        };
        if !uri_prefix.is_empty() && !uri_prefix.starts_with(|c: char| c.is_ascii_lowercase()) {
            let hint = "add `uri_prefix:`, such as files+";
            reading.problem(prefix_at, "no URI can begin like this prefix", hint);
        }
        let (claims, patterns) = check_match(r#match, reading);
        let (tools, renamed_tools) = tools
            .value()
            .map(|ToolsText { allow, deny, rename, r#override }| {
                NamingText { allow, deny, rename, overrides: r#override }.check(reading)
            })
            .unwrap_or_default();
        let (prompts, renamed_prompts) = prompts
            .value()
            .map(|PromptsText { allow, deny, rename }| {
                NamingText { allow, deny, rename, overrides: Field::Absent }.check(reading)
            })
            .unwrap_or_default();
        let resources = resources.value().map(|text| text.check(reading)).unwrap_or_default();
        let member = Member {
            server: server?,
            name: name.value,
            prefix,
            prefix_on,
            uri_prefix,
            claims,
            tools,
            prompts,
            resources,
        };
        Some(Checked {
            member,
            name: name.place,
            prefix: prefix_at,
            uri_prefix: uri_prefix_at,
            patterns,
            renamed: [renamed_tools, renamed_prompts],
        })
    }
}

/// Schemes have no `_`, and are compared in small letters.
fn derived_uri_prefix(prefix: &str) -> String {
    let mut derived = prefix.to_ascii_lowercase().replace('_', "+");
    if !derived.is_empty() && !derived.ends_with(['+', '-']) {
        derived.push('+');
    }
    derived
}

/// The patterns of a `match`, with their places.
type Patterns = [Vec<(Place, String)>; 3];

fn check_match(text: Field<MatchText>, reading: &mut Reading<'_>) -> (Option<Claims>, Patterns) {
    let Some(At { head, value: MatchText { tools, prompts, resources }, .. }) = text.given() else {
        return (None, Patterns::default());
    };
    let is_faulty =
        [&tools, &prompts, &resources].into_iter().any(|list| matches!(list, Field::Faulty));
    let placed = |list: Field<Names>| -> Vec<(Place, String)> {
        let globs = list.or(Vec::new()).into_iter().filter_map(Field::given);
        globs.map(|glob| (glob.place, glob.value.0)).collect()
    };
    let patterns = [tools, prompts, resources].map(placed);
    if patterns.iter().all(Vec::is_empty) && !is_faulty {
        let hint = "write { tools: [\"fs_*\"] }, or leave `match` out";
        reading.problem(head, "this matches nothing", hint);
    }
    let [tools, prompts, resources] = patterns
        .each_ref()
        .map(|list| list.iter().map(|(_, pattern)| pattern.clone()).collect::<Vec<_>>());
    (Some(Claims { tools, prompts, resources }), patterns)
}

impl FilterText {
    fn check(self, reading: &mut Reading<'_>) -> Selection {
        let Self { allow, deny } = self;
        check_selection(allow, deny, reading)
    }
}

fn check_selection(
    allow: Field<Names>,
    deny: Field<Names>,
    reading: &mut Reading<'_>,
) -> Selection {
    if let Some(empty) = allow.as_given().filter(|allow| allow.value.is_empty()) {
        let hint = "write patterns, or leave `allow` out for everything";
        reading.problem(empty.head, "nothing is allowed", hint);
    }
    let has_allow = !matches!(allow, Field::Absent);
    let placed = |list: Field<Names>| -> Vec<At<Glob>> {
        list.or(Vec::new()).into_iter().filter_map(Field::given).collect()
    };
    let (allow, deny) = (placed(allow), placed(deny));
    let mut note = |pattern: &At<Glob>, before: &[At<Glob>]| {
        let first = before.iter().find(|first| covers(&first.value.0, &pattern.value.0));
        if let Some(first) = first {
            let hint =
                format!("all that it matches is decided at {}", reading.texts.locate(first.place));
            reading.problem(pattern.place, "this pattern is never reached", hint);
        }
        first.is_some()
    };
    for (index, pattern) in deny.iter().enumerate() {
        note(pattern, &deny[..index]);
    }
    for (index, pattern) in allow.iter().enumerate() {
        // What is denied is decided before what is allowed.
        if !note(pattern, &deny) {
            note(pattern, &allow[..index]);
        }
    }
    let texts = |list: Vec<At<Glob>>| list.into_iter().map(|glob| glob.value.0).collect();
    Selection { allow: has_allow.then(|| texts(allow)), deny: texts(deny) }
}

impl NamingText {
    /// And the new names with their places.
    fn check(self, reading: &mut Reading<'_>) -> (Naming, Vec<(Place, String)>) {
        let Self { allow, deny, rename, overrides } = self;
        let selection = check_selection(allow, deny, reading);
        let Entries(renamed) = rename.or(Entries(Vec::new()));
        let Entries(overridden) = overrides.or(Entries(Vec::new()));
        let owns = renamed.iter().map(|(own, _)| own).chain(overridden.iter().map(|(own, _)| own));
        for own in owns {
            if !selection.shows(&own.value) {
                let hint = "allow it, or leave this out";
                reading.problem(own.place, "what has this name is not shown", hint);
            }
        }
        let (mut rename, mut places) = (BTreeMap::new(), Vec::new());
        for (own, shown) in renamed {
            let Some(At { place, value: ShownName(shown), .. }) = shown.given() else { continue };
            places.push((place, shown.clone()));
            rename.insert(own.value, shown);
        }
        let mut overrides = BTreeMap::new();
        for (own, text) in overridden {
            let Some(text) = text.value() else { continue };
            let said = text.check();
            if said == Override::default() {
                let hint = "write `description:`, `title:` or `annotations:`";
                reading.problem(own.place, "nothing is said instead", hint);
            }
            overrides.insert(own.value, said);
        }
        (Naming { selection, rename, overrides }, places)
    }
}

impl OverrideText {
    fn check(self) -> Override {
        let Self { description, title, annotations } = self;
        let (hints, hint_title) = annotations.value().map(|text| text.check()).unwrap_or_default();
        Override { description: description.value(), title: title.value(), hints, hint_title }
    }
}
