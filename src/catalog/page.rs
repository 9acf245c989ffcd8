//! One page of a list: its definitions, each with its own bytes, and what it says of the list.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ring::digest::{SHA256, digest};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::offer::{Audience, Definition, Kind};
use crate::mcp::Annotations;

/// A list with more definitions is not read further.
pub(super) const DEFINITIONS_MAX: usize = 10_000;
/// A definition with a longer name is none; names stand in requests, and these are URIs too.
const NAME_BYTES_MAX: usize = 4096;
/// Longer annotations are taken as none: what is not known opens nothing.
const ANNOTATIONS_BYTES_MAX: usize = 16 * 1024;
/// Longer cursors are not sent back.
const CURSOR_BYTES_MAX: usize = 16 * 1024;

/// One page.
pub(super) struct Page {
    pub(super) definitions: Vec<Definition>,
    /// Entries that define nothing: no object, no name, a name twice.
    pub(super) malformed: usize,
    /// Where the list goes on.
    pub(super) next_cursor: Option<String>,
    pub(super) ttl: Option<Duration>,
    pub(super) audience: Audience,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    tools: Option<Entries<'a>>,
    #[serde(borrow)]
    prompts: Option<Entries<'a>>,
    #[serde(borrow)]
    resources: Option<Entries<'a>>,
    #[serde(borrow, rename = "resourceTemplates")]
    templates: Option<Entries<'a>>,
    #[serde(borrow, rename = "nextCursor")]
    next_cursor: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "ttlMs")]
    ttl_ms: Option<&'a RawValue>,
    #[serde(borrow, rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
    #[serde(borrow, rename = "resultType")]
    result_type: Option<&'a RawValue>,
}

/// The entries of a list, as long as there are not too many.
struct Entries<'a>(Vec<&'a RawValue>);

#[derive(Deserialize)]
struct WireEntry<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    uri: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "uriTemplate")]
    uri_template: Option<Cow<'a, str>>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;

        impl<'de> Visitor<'de> for Reading {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {DEFINITIONS_MAX} definitions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while entries.len() < DEFINITIONS_MAX {
                    let Some(entry) = list.next_element()? else { return Ok(Entries(entries)) };
                    entries.push(entry);
                }
                match list.next_element::<IgnoredAny>()? {
                    None => Ok(Entries(entries)),
                    Some(_) => Err(serde::de::Error::invalid_length(DEFINITIONS_MAX + 1, &self)),
                }
            }
        }

        deserializer.deserialize_seq(Reading)
    }
}

impl Page {
    /// Reads the result of a list request. The error is for people.
    pub(super) fn read(kind: Kind, result: &[u8]) -> Result<Self, String> {
        let wire: Wire<'_> = serde_json::from_slice(result).map_err(|error| error.to_string())?;
        if wire.result_type.is_some_and(|of| of.get() != r#""complete""#) {
            return Err("the list is not complete: the server asks for something first".to_owned());
        }
        let entries = match kind {
            Kind::Tools => wire.tools,
            Kind::Prompts => wire.prompts,
            Kind::Resources => wire.resources,
            Kind::Templates => wire.templates,
        };
        let Entries(entries) =
            entries.ok_or_else(|| format!("a result without {}", kind.as_str()))?;
        if wire.next_cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_BYTES_MAX) {
            return Err("its cursor is too long".to_owned());
        }
        let definitions = copied(kind, &entries);
        let malformed = entries.len() - definitions.len();
        let ttl_ms = wire.ttl_ms.and_then(|ttl| ttl.get().parse().ok());
        Ok(Self {
            definitions,
            malformed,
            next_cursor: wire.next_cursor.map(Cow::into_owned),
            // Zero says that the list may have changed already, which is to say nothing.
            ttl: ttl_ms.filter(|ttl_ms| *ttl_ms > 0).map(Duration::from_millis),
            audience: match wire.cache_scope.map(RawValue::get) {
                Some(r#""private""#) => Audience::Caller,
                _ => Audience::Everyone,
            },
        })
    }
}

/// The definitions of a page, their bytes together in one place: nothing else of the page is kept.
fn copied(kind: Kind, entries: &[&RawValue]) -> Vec<Definition> {
    let mut read: Vec<(Arc<str>, Annotations, &str)> = Vec::with_capacity(entries.len());
    for raw in entries {
        let Ok(entry) = serde_json::from_str::<WireEntry<'_>>(raw.get()) else { continue };
        let name = match kind {
            Kind::Tools | Kind::Prompts => entry.name,
            Kind::Resources => entry.uri,
            Kind::Templates => entry.uri_template,
        };
        let Some(name) = name.filter(|name| name.len() <= NAME_BYTES_MAX) else { continue };
        read.push((Arc::from(&*name), annotations(entry.annotations), raw.get()));
    }
    let length = read.iter().map(|(.., bytes)| bytes.len()).sum();
    let mut whole = BytesMut::with_capacity(length);
    read.iter().for_each(|(.., bytes)| whole.extend_from_slice(bytes.as_bytes()));
    let mut whole: Bytes = whole.freeze();
    let definition = |(name, annotations, text): (Arc<str>, Annotations, &str)| {
        let bytes = whole.split_to(text.len());
        Definition { name, annotations, digest: short_digest(&bytes), bytes }
    };
    read.into_iter().map(definition).collect()
}

/// A definition that the gateway has kept as text.
pub(super) fn definition(name: Arc<str>, text: &str) -> Definition {
    let entry = serde_json::from_str::<WireEntry<'_>>(text).ok();
    let annotations = annotations(entry.and_then(|entry| entry.annotations));
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    Definition { name, annotations, digest: short_digest(&bytes), bytes }
}

/// The start of the SHA-256 digest of these bytes.
pub(super) fn short_digest(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..16]);
    short
}

fn annotations(raw: Option<&RawValue>) -> Annotations {
    let raw = raw.filter(|raw| raw.get().len() <= ANNOTATIONS_BYTES_MAX);
    let value = raw.and_then(|raw| serde_json::from_str(raw.get()).ok());
    value.map_or_else(Annotations::default, |value| Annotations::of_json(&value))
}

#[cfg(test)]
mod tests {
    use super::{DEFINITIONS_MAX, Page};
    use crate::catalog::{Audience, Kind};
    use std::time::Duration;

    #[test]
    fn definitions_keep_their_own_bytes_and_their_order() {
        let result = br#"{"tools":[ {"name" : "b\u0061","annotations":{"readOnlyHint":true}},
            {"x":[1, 2],"name":"a"} ],"nextCursor":"","ttlMs":1500,"cacheScope":"private","resultType":"complete"}"#;
        let page = Page::read(Kind::Tools, result).expect("a page");
        let names: Vec<_> = page.definitions.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, ["ba", "a"]);
        assert_eq!(&page.definitions[1].bytes[..], br#"{"x":[1, 2],"name":"a"}"#);
        assert_eq!(page.definitions[0].annotations.read_only, Some(true));
        assert_ne!(page.definitions[0].digest, page.definitions[1].digest);
        assert_eq!(page.next_cursor.as_deref(), Some(""), "an empty cursor is one");
        assert_eq!(
            (page.ttl, page.audience),
            (Some(Duration::from_millis(1500)), Audience::Caller)
        );
    }

    #[test]
    fn what_defines_nothing_is_counted_and_left_out() {
        let long = "n".repeat(5000);
        let result = format!(
            r#"{{"tools":[1,null,"a",[],{{}},{{"name":1}},{{"name":"\ud800"}},{{"name":"a","name":"b"}},{{"name":"{long}"}},{{"name":"good","annotations":[1]}}],"ttlMs":-5}}"#
        );
        let page = Page::read(Kind::Tools, result.as_bytes()).expect("a page");
        assert_eq!(page.definitions.len(), 1);
        assert_eq!(page.definitions[0].annotations, crate::mcp::Annotations::default());
        assert_eq!((page.malformed, page.ttl), (9, None));
        assert_eq!(page.audience, Audience::Everyone);
    }

    #[test]
    fn resources_and_templates_are_known_by_their_uris() {
        let result = br#"{"resources":[{"uri":"file:///a","name":"n"}],"resourceTemplates":[{"uriTemplate":"file:///{x}","name":"n"}]}"#;
        let rows = [(Kind::Resources, "file:///a"), (Kind::Templates, "file:///{x}")];
        for (kind, name) in rows {
            let page = Page::read(kind, result).expect("a page");
            assert_eq!(&*page.definitions[0].name, name);
        }
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let many = format!(r#"{{"tools":[{}0]}}"#, "0,".repeat(DEFINITIONS_MAX));
        let nested = format!(r#"{{"tools":{}}}"#, "[".repeat(100_000));
        let rows = [
            "",
            "[]",
            "{}",
            r#"{"tools":{}}"#,
            r#"{"tools":[],"tools":[]}"#,
            r#"{"tools":[],"nextCursor":5}"#,
            r#"{"tools":[],"resultType":"input_required"}"#,
            r#"{"tools":[}"#,
            &many,
            &nested,
        ];
        for result in rows {
            assert!(Page::read(Kind::Tools, result.as_bytes()).is_err(), "{:.60}", result);
        }
        let deep = format!(
            r#"{{"tools":[{{"name":"a","annotations":{}{}}}]}}"#,
            "[".repeat(1000),
            "]".repeat(1000)
        );
        assert_eq!(
            Page::read(Kind::Tools, deep.as_bytes()).map(|page| page.definitions.len()),
            Ok(1)
        );
    }
}
