//! How YAML becomes values: a shape reads a node, notes every problem in it, and describes itself as JSON Schema.

use std::rc::Rc;

use serde_json::{Value, json};

use super::place::Place;
use super::problem::nearest;
use super::reading::{Fault, Reading};
use super::tree::{Key, Kind, Node, hide};

/// Names that other gateways use or that users guess, and what they are called here.
const RENAMED: &[(&str, &str)] = &[
    ("upstreams", "servers"),
    ("backends", "servers"),
    ("upstream", "server"),
    ("backend", "server"),
    ("bind", "listen"),
    ("targets", "endpoints"),
    ("urls", "endpoints"),
    ("cert", "certificate"),
    ("private_key", "key"),
    ("workers", "threads"),
    ("max_body_size", "body_bytes_max"),
    ("ttl", "lifetime"),
    ("health_check", "health"),
    ("outlier_detection", "ejection"),
    ("circuit_breaker", "breaker"),
    ("retry", "retries"),
    ("idle_timeout", "idle"),
    ("rate_limits", "limits"),
    ("concurrency", "in_flight"),
];

/// A value that YAML can hold.
pub(super) trait Shape: Sized {
    /// The value, or `None` after noting what is wrong with it.
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self>;
    /// What editors are told.
    fn schema() -> Value;
}

/// A value that is written as one piece of text.
pub(super) trait Scalar: Sized {
    /// What it is called where something else is found.
    const NAME: &'static str;
    /// Reads the text.
    fn parse(text: &str) -> Result<Self, Fault>;
    /// What editors are told.
    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

/// A value with its place and the place of the key that names it.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) place: Place,
    pub(super) head: Place,
    pub(super) value: T,
}

/// A key's value: not written, written wrongly (and noted), or read.
#[derive(Debug, Clone)]
pub(super) enum Field<T> {
    Absent,
    Faulty,
    Given(At<T>),
}

/// A map whose keys are chosen by the user, in the order of the file.
#[derive(Debug)]
pub(super) struct Entries<T>(pub(super) Vec<(At<String>, Field<T>)>);

impl<T: Shape> Field<T> {
    pub(super) fn read(node: &Node, reading: &mut Reading<'_>) -> Self {
        match node.kind {
            Kind::Faulty => Self::Faulty,
            Kind::Nothing => {
                reading.problem(
                    node.place,
                    "nothing is written here",
                    "give a value, or leave it out",
                );
                Self::Faulty
            }
            Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => T::read(node, reading)
                .map_or(Self::Faulty, |value| {
                    Self::Given(At { place: node.place, head: node.head, value })
                }),
        }
    }
}

impl<T> Field<T> {
    pub(super) fn given(self) -> Option<At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Faulty => None,
        }
    }

    pub(super) fn value(self) -> Option<T> {
        self.given().map(|at| at.value)
    }

    /// A faulty value gives the default too: its problem is noted, and the settings will not be used.
    pub(super) fn or(self, default: T) -> T {
        self.value().unwrap_or(default)
    }

    pub(super) fn as_value(&self) -> Option<&T> {
        self.as_given().map(|at| &at.value)
    }

    /// Where its key is, if it was read.
    pub(super) fn written(&self) -> Option<Place> {
        self.as_given().map(|at| at.head)
    }

    pub(super) fn as_given(&self) -> Option<&At<T>> {
        match self {
            Self::Given(at) => Some(at),
            Self::Absent | Self::Faulty => None,
        }
    }
}

impl<T: Scalar> Shape for T {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        let Kind::Scalar(text) = &node.kind else { return unexpected(T::NAME, node, reading) };
        T::parse(text).map_err(|fault| reading.fault(node.place, fault)).ok()
    }

    fn schema() -> Value {
        <T as Scalar>::schema()
    }
}

impl<T: Shape> Shape for Vec<Field<T>> {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        let Kind::List(items) = &node.kind else { return unexpected("a list", node, reading) };
        Some(items.iter().map(|item| Field::read(item, reading)).collect())
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Shape> Shape for Entries<T> {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            return unexpected("a map from names to values", node, reading);
        };
        let entry = |(key, value): &(Key, Rc<Node>)| {
            (
                At { place: key.place, head: key.place, value: key.text.clone() },
                Field::read(value, reading),
            )
        };
        Some(Self(entries.iter().map(entry).collect()))
    }

    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
}

/// Notes that something else was expected.
pub(super) fn unexpected<T>(expected: &str, node: &Node, reading: &mut Reading<'_>) -> Option<T> {
    let (found, hint) = match &node.kind {
        Kind::Nothing | Kind::Faulty => ("nothing", "give a value"),
        Kind::Scalar(_) => ("text", "a list is written [a, b], a map { key: value }"),
        Kind::List(_) => ("a list", "remove the brackets or the dash"),
        Kind::Map(_) => {
            ("a map", "a map is written { key: value }; look at the colon and the indentation")
        }
    };
    reading.problem(node.place, format!("{expected} is expected here, this is {found}"), hint);
    None
}

/// A map whose keys are known; reading begins by noting the unknown ones.
pub(super) struct KnownKeys<'n> {
    head: Place,
    entries: &'n [(Key, Rc<Node>)],
}

impl<'n> KnownKeys<'n> {
    pub(super) fn open(
        node: &'n Node,
        known: &[&'static str],
        reading: &mut Reading<'_>,
    ) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else { return unexpected("a map", node, reading) };
        for (key, value) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            unknown_key(key, value, known, reading);
        }
        Some(Self { head: node.head, entries })
    }

    pub(super) fn optional<T: Shape>(&self, key: &str, reading: &mut Reading<'_>) -> Field<T> {
        let entry = self.entries.iter().find(|(known, _)| known.text == key);
        entry.map_or(Field::Absent, |(_, value)| Field::read(value, reading))
    }

    pub(super) fn required<T: Shape>(&self, key: &str, reading: &mut Reading<'_>) -> Field<T> {
        let field = self.optional(key, reading);
        if matches!(field, Field::Absent) {
            reading.problem(
                self.head,
                format!("the key `{key}` is missing"),
                format!("add `{key}:`"),
            );
        }
        field
    }
}

fn unknown_key(key: &Key, value: &Node, known: &[&str], reading: &mut Reading<'_>) {
    let text = &key.text;
    let renamed = RENAMED.iter().find(|(old, new)| old == text && known.contains(new));
    let meant = renamed.map(|(_, new)| *new).or_else(|| nearest(text, known.iter().copied()));
    // Under a name nobody knows there may be a secret.
    if meant.is_none_or(|meant| {
        matches!(meant, "keys" | "sha256" | "tokens" | "value" | "client_secret" | "redis")
    }) {
        hide(value, reading);
    }
    let hint = match (renamed, meant) {
        (Some((_, new)), _) => format!("it is called `{new}` here"),
        (None, Some(meant)) => format!("did you mean `{meant}`?"),
        (None, None) => format!("known here: {}", known.join(", ")),
    };
    reading.problem(key.place, format!("the key `{text}` is unknown"), hint);
}

/// Declares the YAML shape of a map: each key is `required` or `optional`, its comment is what editors show.
macro_rules! shape {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $key_about:literal])+ $need:ident $key:ident: $shape:ty,)+ }) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub(super) struct $name { $($(#[doc = $key_about])+ pub(super) $key: $crate::config::shape::Field<$shape>,)+ }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::tree::Node, reading: &mut $crate::config::reading::Reading<'_>) -> Option<Self> {
                let keys = $crate::config::shape::KnownKeys::open(node, &[$($crate::config::shape::key_name(stringify!($key))),+], reading)?;
                Some(Self { $($key: keys.$need($crate::config::shape::key_name(stringify!($key)), reading)),+ })
            }

            fn schema() -> serde_json::Value {
                $crate::config::shape::map_schema(concat!($($about),+), &[$((
                    $crate::config::shape::key_name(stringify!($key)),
                    stringify!($need),
                    concat!($($key_about),+),
                    <$shape as $crate::config::shape::Shape>::schema(),
                )),+])
            }
        }
    };
}
pub(super) use shape;

/// The key as users write it: one that is a word of Rust stands raw in a shape.
pub(super) fn key_name(written: &'static str) -> &'static str {
    written.strip_prefix("r#").unwrap_or(written)
}

/// The schema of a map with known keys, given as name, need, comment and schema.
pub(super) fn map_schema(about: &str, keys: &[(&str, &str, &str, Value)]) -> Value {
    let property = |(key, _, about, schema): &(&str, &str, &str, Value)| {
        let mut schema = schema.clone();
        schema["description"] = json!(about.trim());
        ((*key).to_owned(), schema)
    };
    let required: Vec<&str> =
        keys.iter().filter(|(_, need, ..)| *need == "required").map(|(key, ..)| *key).collect();
    json!({
        "type": "object",
        "description": about.trim(),
        "properties": keys.iter().map(property).collect::<serde_json::Map<_, _>>(),
        "required": required,
        "additionalProperties": false,
    })
}
