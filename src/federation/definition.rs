//! A definition as clients see it: the server's own bytes, with its name and what the operator says put in their place.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::param_headers;
use super::splices::json_text;
use super::uris::shown_uri;
use crate::catalog::{Definition, Kind};
use crate::config::Override;

/// Larger definitions would crowd out those of others.
const BYTES_MAX: usize = 1024 * 1024;
/// Clients read a list as a whole, and deeper ones stop many parsers: theirs would be nobody's list.
const DEPTH_MAX: usize = 96;

/// Why a definition is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    TooLarge,
    TooDeep,
    /// It asks for headers that may not be sent.
    BadHeader,
    /// Read twice, it could say two things.
    Ambiguous,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, rename = "uriTemplate")]
    uri_template: Option<&'a RawValue>,
    #[serde(borrow)]
    title: Option<&'a RawValue>,
    #[serde(borrow)]
    description: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireMeta<'a> {
    #[serde(borrow)]
    ui: Option<&'a RawValue>,
    #[serde(borrow, rename = "ui/resourceUri")]
    page: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireUi<'a> {
    #[serde(borrow, rename = "resourceUri")]
    page: Option<&'a RawValue>,
}

/// What is put into the bytes of a definition.
struct Edits<'d> {
    bytes: &'d [u8],
    /// What stands somewhere else now, in any order.
    replaced: Vec<(Range<usize>, Vec<u8>)>,
    /// Members that the definition did not have.
    added: Vec<u8>,
}

/// Whether a definition may stand in a list beside those of others.
pub(super) fn check(kind: Kind, bytes: &[u8]) -> Result<(), Unfit> {
    if bytes.len() > BYTES_MAX {
        return Err(Unfit::TooLarge);
    }
    if depth(bytes) > DEPTH_MAX {
        return Err(Unfit::TooDeep);
    }
    match kind != Kind::Tools || param_headers::are_good(bytes) {
        true => Ok(()),
        false => Err(Unfit::BadHeader),
    }
}

/// The definition under its shown name. Without anything to change, it takes no memory of its own.
pub(super) fn shown(
    kind: Kind,
    definition: &Definition,
    name: &str,
    uri_prefix: &str,
    instead: Option<&Override>,
) -> Result<Bytes, Unfit> {
    let bytes = &definition.bytes;
    let has_pages = kind == Kind::Tools && !uri_prefix.is_empty();
    if *name == *definition.name && instead.is_none() && !has_pages {
        return Ok(bytes.clone());
    }
    let wire: Wire<'_> = serde_json::from_slice(bytes).map_err(|_| Unfit::Ambiguous)?;
    let mut edits = Edits { bytes, replaced: Vec::new(), added: Vec::new() };
    let named = match kind {
        Kind::Tools | Kind::Prompts => wire.name,
        Kind::Resources => wire.uri,
        Kind::Templates => wire.uri_template,
    };
    let named = named.ok_or(Unfit::Ambiguous)?;
    if *name != *definition.name {
        edits.replace(named, json_text(name));
    }
    if let Some(instead) = instead {
        edits.put("title", wire.title, instead.title.as_deref().map(json_text));
        edits.put("description", wire.description, instead.description.as_deref().map(json_text));
        edits.put("annotations", wire.annotations, annotations(wire.annotations, instead));
    }
    if has_pages {
        edits.pages(wire.meta, uri_prefix);
    }
    match edits.replaced.is_empty() && edits.added.is_empty() {
        true => Ok(bytes.clone()),
        false => Ok(edits.done().into()),
    }
}

impl<'d> Edits<'d> {
    fn replace(&mut self, value: &'d RawValue, by: Vec<u8>) {
        // The value was read out of these bytes, where it stands as it is.
        let start = value.get().as_ptr().addr() - self.bytes.as_ptr().addr();
        self.replaced.push((start..start + value.get().len(), by));
    }

    fn put(&mut self, key: &str, before: Option<&'d RawValue>, value: Option<Vec<u8>>) {
        match (before, value) {
            (Some(before), Some(value)) => self.replace(before, value),
            (None, Some(value)) => {
                self.added.extend(json_text(key));
                self.added.push(b':');
                self.added.extend(value);
                self.added.push(b',');
            }
            (_, None) => {}
        }
    }

    /// The pages that a tool brings along (MCP Apps, SEP-1865).
    fn pages(&mut self, meta: Option<&'d RawValue>, uri_prefix: &str) {
        let read = meta.and_then(|meta| serde_json::from_str::<WireMeta<'_>>(meta.get()).ok());
        let Some(WireMeta { ui, page }) = read else { return };
        let in_ui = ui.and_then(|ui| serde_json::from_str::<WireUi<'_>>(ui.get()).ok());
        for page in [page, in_ui.and_then(|ui| ui.page)].into_iter().flatten() {
            if let Ok(own) = serde_json::from_str::<String>(page.get()) {
                self.replace(page, json_text(&shown_uri(uri_prefix, &own)));
            }
        }
    }

    fn done(mut self) -> Vec<u8> {
        self.replaced.sort_by_key(|(range, _)| range.start);
        let longer: usize = self.replaced.iter().map(|(_, by)| by.len()).sum();
        let mut done = Vec::with_capacity(self.bytes.len() + longer + self.added.len());
        // An object that has a name opens with a brace, and is not empty.
        done.push(b'{');
        done.extend_from_slice(&self.added);
        let mut at = 1;
        for (range, by) in &self.replaced {
            done.extend_from_slice(&self.bytes[at..range.start]);
            done.extend_from_slice(by);
            at = range.end;
        }
        done.extend_from_slice(&self.bytes[at..]);
        done
    }
}

/// The server's annotations, with those set that the operator gives.
fn annotations(before: Option<&RawValue>, instead: &Override) -> Option<Vec<u8>> {
    if instead.hints.is_empty() && instead.hint_title.is_none() {
        return None;
    }
    let mut text = before.map(|before| before.get().as_bytes().to_vec()).unwrap_or_default();
    // Its depth was looked at before, with the whole definition.
    let read =
        simd_json::serde::from_slice::<serde_json::Map<String, serde_json::Value>>(&mut text);
    let mut annotations = read.unwrap_or_default();
    for (key, hint) in &instead.hints {
        annotations.insert((*key).to_owned(), (*hint).into());
    }
    if let Some(title) = &instead.hint_title {
        annotations.insert("title".to_owned(), title.as_str().into());
    }
    serde_json::to_vec(&annotations).ok()
}

/// How deep objects and lists stand in each other; the text is JSON.
pub(super) fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::{DEPTH_MAX, Unfit, check, depth, shown};
    use crate::catalog::{Definition, Kind};
    use crate::config::Override;
    use std::collections::BTreeMap;

    fn definition(name: &str, json: &str) -> Definition {
        Definition {
            name: name.into(),
            annotations: crate::mcp::Annotations::default(),
            digest: [0; 16],
            bytes: bytes::Bytes::copy_from_slice(json.as_bytes()),
        }
    }

    fn text(
        kind: Kind,
        (name, json): (&str, &str),
        to: &str,
        prefix: &str,
        instead: Option<&Override>,
    ) -> String {
        let bytes = shown(kind, &definition(name, json), to, prefix, instead).expect("fit");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn only_the_name_changes() {
        let json = r#"{ "x" : [1.0, 1e5], "nam\u0065s":"no", "name" : "a\u0062",  "description":"\u00e9 \"name\"" }"#;
        let expected = json.replace(r#""a\u0062""#, r#""g_ab""#);
        assert_eq!(text(Kind::Tools, ("ab", json), "g_ab", "", None), expected);
        assert_eq!(text(Kind::Tools, ("ab", json), "ab", "", None), json);
        let same = definition("ab", json);
        let kept = shown(Kind::Tools, &same, "ab", "g+", None).expect("fit");
        assert_eq!(kept.as_ptr(), same.bytes.as_ptr(), "it takes no memory of its own");
        let resource = r#"{"uri":"file:///a","name":"file:///a"}"#;
        assert_eq!(
            text(Kind::Resources, ("file:///a", resource), "g+file:///a", "g+", None),
            r#"{"uri":"g+file:///a","name":"file:///a"}"#
        );
        let template = r#"{"name":"t","uriTemplate":"f:{x}"}"#;
        assert_eq!(
            text(Kind::Templates, ("f:{x}", template), "g+f:{x}", "g+", None),
            r#"{"name":"t","uriTemplate":"g+f:{x}"}"#
        );
    }

    #[test]
    fn pages_of_apps_are_linked_where_they_are_shown() {
        let json = r#"{"_meta":{"ui":{"resourceUri":"ui://a","x":1},"ui/resourceUri":"ui://b","y":"ui://c"},"name":"t"}"#;
        let expected = r#"{"_meta":{"ui":{"resourceUri":"ui://g+a","x":1},"ui/resourceUri":"ui://g+b","y":"ui://c"},"name":"g_t"}"#;
        assert_eq!(text(Kind::Tools, ("t", json), "g_t", "g+", None), expected);
        for odd in [
            r#"{"_meta":5,"name":"t"}"#,
            r#"{"_meta":{"ui":"x"},"name":"t"}"#,
            r#"{"_meta":{"ui":{"resourceUri":7}},"name":"t"}"#,
            r#"{"_meta":null,"name":"t"}"#,
        ] {
            assert_eq!(text(Kind::Tools, ("t", odd), "t", "g+", None), odd);
        }
    }

    #[test]
    fn what_the_operator_says_stands_instead() {
        let instead = Override {
            description: Some("It \"reads\".".to_owned()),
            title: Some("Reader".to_owned()),
            hints: BTreeMap::from([("readOnlyHint", true)]),
            hint_title: None,
        };
        let json = r#"{"description":"old","name":"t","annotations":{"readOnlyHint":false,"z":1}}"#;
        assert_eq!(
            text(Kind::Tools, ("t", json), "t", "", Some(&instead)),
            r#"{"title":"Reader","description":"It \"reads\".","name":"t","annotations":{"readOnlyHint":true,"z":1}}"#
        );
        assert_eq!(
            text(Kind::Tools, ("t", r#"{"name":"t"}"#), "t", "", Some(&instead)),
            r#"{"title":"Reader","description":"It \"reads\".","annotations":{"readOnlyHint":true},"name":"t"}"#
        );
    }

    #[test]
    fn what_would_spoil_the_list_of_all_is_unfit() {
        let nested = |depth: usize| {
            format!(r#"{{"name":"[[[\"[","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
        };
        assert_eq!(check(Kind::Tools, nested(DEPTH_MAX - 1).as_bytes()), Ok(()));
        assert_eq!(check(Kind::Tools, nested(DEPTH_MAX).as_bytes()), Err(Unfit::TooDeep));
        assert_eq!(check(Kind::Tools, nested(400_000).as_bytes()), Err(Unfit::TooDeep));
        assert_eq!(check(Kind::Tools, &vec![b' '; 2 * 1024 * 1024]), Err(Unfit::TooLarge));
        assert_eq!(depth(br#"{"a":"]}","b":[{}]}"#), 3);
        let twice = definition("t", r#"{"name":"t","description":"a","description":"b"}"#);
        assert_eq!(shown(Kind::Tools, &twice, "g_t", "", None), Err(Unfit::Ambiguous));
    }
}
