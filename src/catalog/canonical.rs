//! One text for every way to write the same JSON, so that a definition that is only written anew is
//! no other one.
//!
//! As RFC 8785 has it: no white space, keys in the order of their UTF-16 units, strings with the
//! fewest escapes. Other than there, numbers that are equal have one text, but not always that of
//! ECMAScript, and integers up to 64 bits keep all their digits.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number, Value};

/// Integers up to here are exact as doubles, so that `1` and `1.0` are the same.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The SHA-256 digest of a definition's canonical text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a definition. What two readers could read differently (a key twice, a lone
    /// surrogate) or nests too deep counts byte for byte.
    pub fn of(definition: &[u8]) -> Self {
        let canonical = read(definition).map(|value| {
            let mut text = Vec::with_capacity(definition.len());
            write(&value, &mut text);
            text
        });
        let mut own = [0; 32];
        own.copy_from_slice(digest(&SHA256, canonical.as_deref().unwrap_or(definition)).as_ref());
        Self(own)
    }

    fn parse(digits: &str) -> Option<Self> {
        let mut own = [0; 32];
        let is_hex = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        for (place, byte) in own.iter_mut().enumerate().filter(|_| is_hex) {
            *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        is_hex.then_some(Self(own))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        Self::parse(&digits).ok_or_else(|| Error::custom("no digest"))
    }
}

/// Reads JSON that everybody reads alike, and that does not nest too deep.
pub(super) fn read(json: &[u8]) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Reading.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

struct Reading;

impl<'de> DeserializeSeed<'de> for Reading {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which no key stands twice")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Self)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(values) => {
            write_list(out, b"[]", values.iter(), write);
        }
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            write_list(out, b"{}", entries.into_iter(), |(key, value), out| {
                write_string(key, out);
                out.push(b':');
                write(value, out);
            });
        }
    }
}

fn write_list<T>(
    out: &mut Vec<u8>,
    [open, close]: &[u8; 2],
    items: impl Iterator<Item = T>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    out.push(*open);
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(*close);
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // The escapes of serde_json are those of RFC 8785; a string can always be written to memory.
    serde_json::to_writer(out, text).ok();
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    let text = match number.as_f64() {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the bounds")]
        Some(double) if number.is_f64() && double.fract() == 0.0 && double.abs() < EXACT_MAX => {
            (double as i64).to_string()
        }
        _ => number.to_string(),
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::{Digest, read, write};

    fn canonical(json: &str) -> Option<String> {
        let mut text = Vec::new();
        write(&read(json.as_bytes())?, &mut text);
        Some(String::from_utf8(text).expect("text"))
    }

    #[test]
    fn one_value_has_one_text() {
        let rows = [
            (r#" { "b" : [ 1 , true , null ] , "a" : "x" } "#, r#"{"a":"x","b":[1,true,null]}"#),
            (r#"{"a":"\u0041\/\n\u001f\u007f"}"#, "{\"a\":\"A/\\n\\u001f\u{7f}\"}"),
            // By UTF-16 units U+1F600 stands before U+FB33.
            ("{\"\u{fb33}\":1,\"\u{1f600}\":2}", "{\"\u{1f600}\":2,\"\u{fb33}\":1}"),
            ("[1.0,1e2,-0.0,0.5,1e300]", "[1,100,0,0.5,1e+300]"),
            ("[18446744073709551615,9007199254740993]", "[18446744073709551615,9007199254740993]"),
            ("{}", "{}"),
        ];
        for (json, expected) in rows {
            assert_eq!(canonical(json).as_deref(), Some(expected), "{json}");
        }
        assert_eq!(Digest::of(rows[0].0.as_bytes()), Digest::of(rows[0].1.as_bytes()));
        assert_ne!(Digest::of(b"{\"a\":1}"), Digest::of(b"{\"a\":2}"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_counts_byte_for_byte() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for json in [r#"{"a":1,"a":1}"#, r#""\ud800""#, "[1e999]", "{", "1 2", "", &deep] {
            assert_eq!(canonical(json), None, "{json:.40}");
            assert_ne!(Digest::of(json.as_bytes()), Digest::of(format!("{json} ").as_bytes()));
        }
    }

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = Digest::of(b"{}");
        let json = serde_json::to_string(&digest).expect("text");
        assert_eq!(serde_json::from_str::<Digest>(&json).ok(), Some(digest));
        for bad in ["\"\"", "\"zz\"", "1", &json.replacen(|c: char| c.is_ascii_hexdigit(), "é", 2)]
        {
            assert!(serde_json::from_str::<Digest>(bad).is_err(), "{bad}");
        }
    }
}
