//! JSON as it is written: one flat object, whatever the texts hold, and none of them too long.

use super::line::HEX_DIGITS;
use crate::telemetry::{Short, write_number};

/// How many shortened texts one object names.
const SHORTENED_MAX: usize = 8;

/// A JSON object while it is written; empty texts are left out.
pub(super) struct Object<'o> {
    out: &'o mut Vec<u8>,
    shortened: [&'static str; SHORTENED_MAX],
    shortened_len: usize,
}

impl<'o> Object<'o> {
    /// Goes on with an object that is open and has a field.
    pub(super) fn resume(out: &'o mut Vec<u8>) -> Self {
        Self { out, shortened: [""; SHORTENED_MAX], shortened_len: 0 }
    }

    /// A text of the gateway's own, or one whose length is bounded.
    pub(super) fn word(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            self.key(key);
            write_string(self.out, value);
        }
    }

    /// A text of someone else, shortened where it is longer.
    pub(super) fn text(&mut self, key: &'static str, value: &str, bytes_max: usize) {
        if value.len() <= bytes_max {
            return self.word(key, value);
        }
        self.word(key, &value[..value.floor_char_boundary(bytes_max)]);
        if let Some(place) = self.shortened.get_mut(self.shortened_len) {
            *place = key;
            self.shortened_len += 1;
        }
    }

    /// A number, also where it is none.
    pub(super) fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        write_number(self.out, value);
    }

    /// A number that may be below zero.
    pub(super) fn signed(&mut self, key: &'static str, value: i64) {
        self.key(key);
        if value < 0 {
            self.out.push(b'-');
        }
        write_number(self.out, value.unsigned_abs());
    }

    /// Bytes in hexadecimal digits.
    pub(super) fn hex(&mut self, key: &'static str, bytes: &[u8]) {
        self.key(key);
        self.out.push(b'"');
        write_hex(self.out, bytes);
        self.out.push(b'"');
    }

    /// What is JSON already.
    pub(super) fn json(&mut self, key: &'static str, json: &str) {
        self.key(key);
        self.out.extend_from_slice(json.as_bytes());
    }

    /// A number or an address as a text.
    pub(super) fn short(&mut self, key: &'static str, value: Short) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    /// Says which texts were shortened. The object stays open.
    pub(super) fn leave(self) {
        if self.shortened_len == 0 {
            return;
        }
        self.out.extend_from_slice(b",\"truncated\":[");
        for (index, key) in self.shortened[..self.shortened_len].iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write_string(self.out, key);
        }
        self.out.push(b']');
    }

    fn key(&mut self, key: &'static str) {
        self.out.reserve(key.len() + 4);
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// Writes a JSON string. What steers a terminal is escaped too.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    // Looked at without a branch for each byte: hardly any text has one to escape.
    if !bytes.iter().fold(false, |any, byte| any | must_escape(*byte)) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if !must_escape(byte) {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                out.extend_from_slice(b"\\u00");
                write_hex(out, &[byte]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

fn must_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || byte == 0x7f
}

/// Writes two hexadecimal digits for each byte.
pub(super) fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(HEX_DIGITS[usize::from(byte >> 4)]);
        out.push(HEX_DIGITS[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Object, write_string};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert!(out.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
            let read: String = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(read, text);
        }

        #[test]
        fn long_texts_are_shortened_between_characters(text in "[aé€😀\"\n]{0,40}") {
            let mut out = b"{\"a\":1".to_vec();
            let mut object = Object::resume(&mut out);
            object.text("b", &text, 10);
            object.leave();
            out.push(b'}');
            let read: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            let kept = read["b"].as_str().unwrap_or_default();
            prop_assert!(text.starts_with(kept) && kept.len() <= 10);
            prop_assert_eq!(text.len() > 10, read["truncated"] == serde_json::json!(["b"]));
        }
    }

    #[test]
    fn every_control_character_is_escaped() {
        let text: String =
            (0..=0x80).map(|code| char::from_u32(code).expect("a character")).collect();
        let mut out = Vec::new();
        write_string(&mut out, &text);
        assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        assert!(!out.contains(&b'\n') && !out.contains(&0x1b));
    }
}
