//! Lists of tools, prompts and resources as servers answer them, less what a caller may not see.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Annotations, Era};

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listed {
    /// A tool, by its `name`.
    Tool,
    /// A prompt, by its `name`.
    Prompt,
    /// A resource, by its `uri`.
    Resource,
    /// A template of resources, by its `uriTemplate`.
    Template,
}

/// What a caller may see in lists.
pub trait Shows: Send + Sync {
    /// Whether this entry is shown. `name` is the URI of a resource, and the URI template of a
    /// template; `annotations` are those of the entry itself.
    fn shows(&self, listed: Listed, name: &str, annotations: Option<&Annotations>) -> bool;

    /// What passes of an entry that is shown, given as it stands in the list.
    fn passes(&self, _listed: Listed, _name: &str, _entry: &str) -> Passes {
        Passes::AsItIs
    }
}

/// What passes of an entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passes {
    /// The entry.
    AsItIs,
    /// This one in its place.
    Instead(Box<str>),
    /// Nothing.
    Nothing,
}

/// A list that cannot be read, and so cannot be filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenList;

impl Listed {
    /// What the answers to a method list.
    pub fn of_method(method: &str) -> Option<Self> {
        match method {
            "tools/list" => Some(Self::Tool),
            "prompts/list" => Some(Self::Prompt),
            "resources/list" => Some(Self::Resource),
            "resources/templates/list" => Some(Self::Template),
            _ => None,
        }
    }

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tools",
            Self::Prompt => "prompts",
            Self::Resource => "resources",
            Self::Template => "templates",
        }
    }

    /// What a notification of this method says has changed; templates change with resources.
    pub(super) fn changed_by(method: &[u8]) -> Option<Self> {
        match method {
            b"notifications/tools/list_changed" => Some(Self::Tool),
            b"notifications/prompts/list_changed" => Some(Self::Prompt),
            b"notifications/resources/list_changed" => Some(Self::Resource),
            _ => None,
        }
    }

    /// What the member of this name in a result lists.
    fn of_key(key: &str) -> Option<Self> {
        match key {
            "tools" => Some(Self::Tool),
            "prompts" => Some(Self::Prompt),
            "resources" => Some(Self::Resource),
            "resourceTemplates" => Some(Self::Template),
            _ => None,
        }
    }
}

/// The members of an object in their order, doubled ones too.
struct Members<'a>(Vec<(String, &'a RawValue)>);

/// What an entry of a list is shown or hidden by.
#[derive(serde::Deserialize)]
struct Entry {
    name: Option<String>,
    uri: Option<String>,
    #[serde(rename = "uriTemplate")]
    template: Option<String>,
    annotations: Option<Value>,
}

/// One place of a message that reads differently afterwards.
type Edit = (Range<usize>, Vec<u8>);

/// Hides from the lists in an answer what `shows` does not show; `None` where the answer may stay as
/// it is. Every other byte stays. An answer that was filtered for one caller is `private` to it
/// (2026-07-28 caching), and a modern one says so.
pub fn filter_list(
    answer: &[u8],
    era: Era,
    shows: &dyn Shows,
) -> Result<Option<Vec<u8>>, BrokenList> {
    let answer = std::str::from_utf8(answer).map_err(|_| BrokenList)?;
    let mut edits = Vec::new();
    match answer.trim_ascii_start().starts_with('[') {
        // Revision 2025-03-26 had batches.
        true => {
            for message in read::<Vec<&RawValue>>(answer)? {
                edit_message(message.get(), answer, era, shows, &mut edits)?;
            }
        }
        false => edit_message(answer, answer, era, shows, &mut edits)?,
    }
    Ok((!edits.is_empty()).then(|| apply(answer.as_bytes(), &edits)))
}

fn edit_message(
    message: &str,
    answer: &str,
    era: Era,
    shows: &dyn Shows,
    edits: &mut Vec<Edit>,
) -> Result<(), BrokenList> {
    let Members(members) = read(message)?;
    for (key, result) in members {
        if key == "result" && result.get().starts_with('{') {
            edit_result(result, answer, era, shows, edits)?;
        }
    }
    Ok(())
}

fn edit_result(
    result: &RawValue,
    answer: &str,
    era: Era,
    shows: &dyn Shows,
    edits: &mut Vec<Edit>,
) -> Result<(), BrokenList> {
    let Members(members) = read(result.get())?;
    let is_list = |(key, value): &(String, &RawValue)| {
        Listed::of_key(key).is_some() && value.get().starts_with('[')
    };
    if !members.iter().any(is_list) {
        return Ok(());
    }
    let mut scope_is_said = false;
    for (key, value) in &members {
        let place = place_of(value.get(), answer);
        if key == "cacheScope" {
            scope_is_said = true;
            if value.get() != r#""private""# {
                edits.push((place, br#""private""#.to_vec()));
            }
        } else if let Some(listed) = Listed::of_key(key)
            && value.get().starts_with('[')
        {
            let entries: Vec<&RawValue> = read(value.get())?;
            let (mut kept, mut differs) = (Vec::with_capacity(entries.len()), false);
            for entry in entries {
                match what_passes(entry.get(), listed, shows) {
                    Passes::AsItIs => kept.push(Cow::Borrowed(entry.get())),
                    Passes::Instead(other) => {
                        differs = true;
                        kept.push(Cow::Owned(other.into()));
                    }
                    Passes::Nothing => differs = true,
                }
            }
            if differs {
                edits.push((place, format!("[{}]", kept.join(",")).into_bytes()));
            }
        }
    }
    if era == Era::Modern && !scope_is_said {
        // The list is a member, so there is one before this.
        let end = place_of(result.get(), answer).end - 1;
        edits.push((end..end, br#","cacheScope":"private""#.to_vec()));
    }
    Ok(())
}

/// What passes of an entry. One that cannot be read does not: nobody could say what is shown.
fn what_passes(entry: &str, listed: Listed, shows: &dyn Shows) -> Passes {
    // A derived reader would take an array for an object.
    if !entry.starts_with('{') {
        return Passes::Nothing;
    }
    let Ok(Entry { name, uri, template, annotations }) = serde_json::from_str(entry) else {
        return Passes::Nothing;
    };
    let name = match listed {
        Listed::Tool | Listed::Prompt => name,
        Listed::Resource => uri,
        Listed::Template => template,
    };
    let annotations = annotations.as_ref().map(Annotations::of_json);
    match name.filter(|name| shows.shows(listed, name, annotations.as_ref())) {
        Some(name) => shows.passes(listed, &name, entry),
        None => Passes::Nothing,
    }
}

/// Where `part`, which is borrowed from `whole`, stands in it.
fn place_of(part: &str, whole: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

/// The bytes with every edit made; edits stand in order, as members are met in order.
fn apply(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut edited = Vec::with_capacity(bytes.len() + 32);
    let mut at = 0;
    for (place, instead) in edits {
        edited.extend_from_slice(&bytes[at..place.start]);
        edited.extend_from_slice(instead);
        at = place.end;
    }
    edited.extend_from_slice(&bytes[at..]);
    edited
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, BrokenList> {
    serde_json::from_str(text).map_err(|_| BrokenList)
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                text.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::{BrokenList, Listed, Shows, filter_list};
    use crate::mcp::{Annotations, Era};

    /// Shows what does not begin with `secret`, and of tools nothing that destroys.
    struct Discreet;

    impl Shows for Discreet {
        fn shows(&self, _: Listed, name: &str, annotations: Option<&Annotations>) -> bool {
            let destroys = annotations.is_some_and(|known| known.destructive == Some(true));
            !name.starts_with("secret") && !destroys
        }
    }

    fn check(era: Era, answer: &str, expected: &str) {
        let filtered = filter_list(answer.as_bytes(), era, &Discreet).expect("a list");
        let filtered = filtered.unwrap_or_else(|| answer.as_bytes().to_vec());
        assert_eq!(String::from_utf8_lossy(&filtered), expected, "{answer}");
    }

    #[test]
    fn what_is_hidden_goes_and_every_other_byte_stays() {
        for (answer, expected) in [
            (
                r#"{"result": {"tools" : [ {"name":"a", "x":1e999} , {"name":"secret"}],"nextCursor":"c"},"jsonrpc":"2.0","id":1.0}"#,
                r#"{"result": {"tools" : [{"name":"a", "x":1e999}],"nextCursor":"c"},"jsonrpc":"2.0","id":1.0}"#,
            ),
            (
                r#"{"id":1,"result":{"tools":[{"name":"a","annotations":{"destructiveHint":true}}]}}"#,
                r#"{"id":1,"result":{"tools":[]}}"#,
            ),
            (
                r#"{"id":1,"result":{"resources":[{"name":"secret","uri":"x:a"},{"name":"a","uri":"secret:a"}]}}"#,
                r#"{"id":1,"result":{"resources":[{"name":"secret","uri":"x:a"}]}}"#,
            ),
            (
                r#"{"id":1,"result":{"resourceTemplates":[{"uriTemplate":"secret:{a}"}],"_meta":{}}}"#,
                r#"{"id":1,"result":{"resourceTemplates":[],"_meta":{}}}"#,
            ),
            // What cannot be told from something hidden is hidden.
            (
                r#"{"result":{"prompts":[1,"a",["a"],{},{"name":1},{"name":"a","name":"a"},{"n\u0061me":"\u0073ecret"},{"name":"b"}]}}"#,
                r#"{"result":{"prompts":[{"name":"b"}]}}"#,
            ),
            // Neither a doubled key nor an escaped one hides a list.
            (
                r#"{"result":{"tools":[],"t\u006fols":[{"name":"secret"}]},"r\u0065sult":{"tools":[{"name":"secret"}]}}"#,
                r#"{"result":{"tools":[],"t\u006fols":[]},"r\u0065sult":{"tools":[]}}"#,
            ),
            (
                r#"[{"id":1,"result":{"tools":[{"name":"secret"}]}},{"id":2,"result":{}}]"#,
                r#"[{"id":1,"result":{"tools":[]}},{"id":2,"result":{}}]"#,
            ),
        ] {
            check(Era::Legacy, answer, expected);
        }
    }

    #[test]
    fn answers_that_list_nothing_stay() {
        for answer in [
            r#"{"id":1,"error":{"code":-32601}}"#,
            r#"{"id":1,"result":{"tools":{"name":"secret"}}}"#,
            r#"{"id":1,"result":{"content":[{"tools":[{"name":"secret"}]}],"cacheScope":"public"}}"#,
            r#"{"id":1,"result":null}"#,
        ] {
            check(Era::Modern, answer, answer);
        }
    }

    #[test]
    fn a_filtered_list_is_private_to_its_caller() {
        for (era, answer, expected) in [
            (
                Era::Modern,
                r#"{"result":{"ttlMs":5,"cacheScope":"public","tools":[{"name":"a"}]}}"#,
                r#"{"result":{"ttlMs":5,"cacheScope":"private","tools":[{"name":"a"}]}}"#,
            ),
            (
                Era::Modern,
                r#"{"result":{"tools":[{"name":"a"}] } }"#,
                r#"{"result":{"tools":[{"name":"a"}] ,"cacheScope":"private"} }"#,
            ),
            (Era::Modern, r#"{"result":{}}"#, r#"{"result":{}}"#),
            (
                Era::Legacy,
                r#"{"result":{"tools":[{"name":"a"}]}}"#,
                r#"{"result":{"tools":[{"name":"a"}]}}"#,
            ),
        ] {
            check(era, answer, expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_to_be_broken() {
        for answer in [
            &b"not found"[..],
            b"",
            b"{\"result\":{\"tools\":[{\"name\":\"a\"}}",
            b"{\"result\":{\"tools\":[{\"name\":\"a\"},]}}",
            b"{\"result\":{\"tools\":[{\"name\":\"\xff\"}]}}",
            b"\xef\xbb\xbf{\"result\":{\"tools\":[]}}",
            b"[1]",
            b"{} {}",
        ] {
            let text = String::from_utf8_lossy(answer);
            assert_eq!(filter_list(answer, Era::Legacy, &Discreet), Err(BrokenList), "{text}");
        }
        // Depth costs no stack.
        let deep = ["{\"result\":{\"tools\":[", &"[".repeat(1 << 20), &"]".repeat(1 << 20), "]}}"];
        check(Era::Legacy, &deep.concat(), r#"{"result":{"tools":[]}}"#);
    }
}
