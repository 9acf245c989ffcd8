//! The arguments of a call as a condition sees them: strictly, so that it sees what the server will.
//!
//! Which of two equal keys counts, and whether `PATH` is `path`, depends on the server's parser.
//! So arguments with a key twice are not readable at all, and where a key is written in another
//! way than the condition writes it, that condition cannot be decided.

use std::collections::BTreeSet;
use std::fmt;

use cel::common::types::{CelBool, CelDouble, CelInt, CelNull, CelString, CelUInt};
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use super::values::{Boxed, of_list, of_map};

/// Arguments that were read.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) value: Boxed,
    /// The watched keys that are written in another way somewhere.
    variants: BTreeSet<String>,
}

impl Arguments {
    /// Reads the bytes of `params.arguments`; none where they are no object, or have a key twice.
    pub(super) fn read(bytes: Option<&[u8]>, watched: &BTreeSet<String>) -> Option<Self> {
        let Some(bytes) = bytes else {
            return Some(Self { value: of_map(Vec::new()), variants: BTreeSet::new() });
        };
        let mut variants = BTreeSet::new();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let reader = Reader { watched, variants: &mut variants };
        let value = json.deserialize_map(reader).ok()?;
        json.end().ok()?;
        Some(Self { value, variants })
    }

    /// Whether every server reads these keys as we do.
    pub(super) fn are_plain(&self, keys: &BTreeSet<String>) -> bool {
        self.variants.is_disjoint(keys)
    }
}

struct Reader<'r> {
    watched: &'r BTreeSet<String>,
    variants: &'r mut BTreeSet<String>,
}

impl Reader<'_> {
    fn inner(&mut self) -> Reader<'_> {
        Reader { watched: self.watched, variants: self.variants }
    }

    fn note(&mut self, key: &str) {
        if self.watched.contains(key) {
            return;
        }
        let folded = folded(key);
        let variants = self.watched.iter().filter(|watched| folded == self::folded(watched));
        self.variants.extend(variants.cloned());
    }
}

/// What a lenient parser makes of a key: case does not matter, two letters fold to ASCII, and a NUL
/// ends it.
fn folded(key: &str) -> String {
    let characters = key.chars().take_while(|character| *character != '\0');
    let fold = |character| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    characters.map(fold).collect()
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Boxed;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Boxed, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Boxed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Boxed, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Boxed, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Boxed, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Boxed, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Box::new(CelInt::from(value)),
            Err(_) => Box::new(CelUInt::from(value)),
        })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Boxed, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Boxed, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Boxed, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(of_list(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Boxed, A::Error> {
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.note(&key);
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom("a key is there twice"));
            }
            entries.push((key, map.next_value_seed(self.inner())?));
        }
        Ok(of_map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use std::collections::BTreeSet;

    #[test]
    fn only_an_object_that_everyone_reads_alike_is_readable() {
        let watched = BTreeSet::new();
        let check = |json: &str, readable: bool| {
            let read = Arguments::read(Some(json.as_bytes()), &watched);
            assert_eq!(read.is_some(), readable, "{json}");
        };
        check("{}", true);
        check(r#"{"a":1,"b":[{"a":null},18446744073709551615,-1,1.5,"x",true]}"#, true);
        check(r#"{"a":1,"a":1}"#, false);
        check(r#"{"a":1,"\u0061":1}"#, false);
        check(r#"{"b":[{"a":1,"a":2}]}"#, false);
        for no_object in ["null", "[]", "1", "\"x\"", "", "{", "{} {}", r#"{"a":1e999}"#] {
            check(no_object, false);
        }
        let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        check(&deep, false);
        assert!(Arguments::read(None, &watched).is_some(), "no arguments are an empty object");
    }

    #[test]
    fn keys_in_another_writing_are_noticed_where_they_are_watched() {
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let watched: BTreeSet<String> = keys(&["path", "key"]);
        let check = |json: &str, asked: &[&str], plain: bool| {
            let read = Arguments::read(Some(json.as_bytes()), &watched).unwrap();
            assert_eq!(read.are_plain(&keys(asked)), plain, "{json} {asked:?}");
        };
        check(r#"{"path":1}"#, &["path"], true);
        check(r#"{"PATH":1}"#, &["path"], false);
        check(r#"{"PATH":1}"#, &["key"], true);
        check(r#"{"x":[{"Path":1}]}"#, &["path"], false);
        check(r#"{"\u212aey":1}"#, &["key"], false);
        check(r#"{"path\u0000x":1}"#, &["path"], false);
        check(r#"{"paths":1}"#, &["path"], true);
    }
}
