//! What is kept of a call's arguments: nothing, their digest, or the arguments less some values.

use ring::digest::{SHA256, digest};

use super::text::Object;
use crate::config::{self, KeptArguments, wildcard_matches};

/// What stands where a value was.
const REDACTED: &[u8] = b"\"[redacted]\"";
/// Messages nested deeper do not pass the gateway; a line of this depth is still read by everyone.
const DEPTH_MAX: usize = 128;

/// What is kept of the arguments of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Arguments {
    /// Nothing.
    #[default]
    Absent,
    /// Their digest.
    Digest {
        /// SHA-256 of the bytes as they were sent: the order of keys and the spaces count.
        sha256: [u8; 32],
        /// How many bytes.
        bytes: usize,
        /// Whether this stands for redacted arguments that are too long.
        omitted: bool,
    },
    /// The arguments without some values.
    Redacted {
        /// JSON in one line.
        json: Box<str>,
        /// How many bytes were sent.
        bytes: usize,
    },
}

/// How arguments are kept; part of a snapshot.
#[derive(Clone, Debug)]
pub struct Keeping {
    kept: KeptArguments,
    redact: Vec<String>,
    bytes_max: usize,
}

impl Keeping {
    /// As the settings say.
    pub fn new(settings: &config::Audit) -> Self {
        Self {
            kept: settings.arguments,
            redact: settings.redact.clone(),
            bytes_max: settings.arguments_bytes_max,
        }
    }

    /// Keeps what is to be kept of `params.arguments` as they were sent.
    pub fn keep(&self, raw: &[u8]) -> Arguments {
        match self.kept {
            KeptArguments::None => Arguments::Absent,
            KeptArguments::Digest => Arguments::digest(raw),
            KeptArguments::Redacted => match redact(raw, &self.redact, self.bytes_max) {
                Some(json) => Arguments::Redacted { json: json.into(), bytes: raw.len() },
                None => match Arguments::digest(raw) {
                    Arguments::Digest { sha256, bytes, omitted: _ } => {
                        Arguments::Digest { sha256, bytes, omitted: true }
                    }
                    other => other,
                },
            },
        }
    }
}

impl Arguments {
    /// The digest of arguments as they were sent.
    pub fn digest(raw: &[u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, raw).as_ref());
        Self::Digest { sha256, bytes: raw.len(), omitted: false }
    }

    pub(super) fn write(&self, object: &mut Object<'_>) {
        match self {
            Self::Absent => {}
            Self::Digest { sha256, bytes, omitted } => {
                object.hex("arguments.sha256", sha256);
                object.number("arguments.bytes", *bytes as u64);
                if *omitted {
                    object.json("arguments.omitted", "true");
                }
            }
            Self::Redacted { json, bytes } => {
                object.json("gen_ai.tool.call.arguments", json);
                object.number("arguments.bytes", *bytes as u64);
            }
        }
    }
}

/// Copies strict JSON without spaces and without the values of keys that match. `None`: it is too
/// long, too deep, or was no JSON after all.
fn redact(raw: &[u8], keys: &[String], bytes_max: usize) -> Option<String> {
    let mut copying = Copying { raw, at: 0, out: Vec::new(), open: Vec::new(), bytes_max };
    let mut is_key = false;
    while let Some(&byte) = raw.get(copying.at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => copying.at += 1,
            b'"' => {
                let text = copying.string()?;
                copying.put(text)?;
                if is_key && matches_any(text, keys) {
                    copying.replace_value()?;
                }
                is_key = false;
            }
            b'{' | b'[' => {
                is_key = byte == b'{';
                copying.open(byte)?;
            }
            b'}' | b']' => {
                is_key = false;
                copying.open.pop()?;
                copying.step()?;
            }
            b',' => {
                is_key = copying.open.last() == Some(&b'{');
                copying.step()?;
            }
            _ => copying.step()?,
        }
    }
    if !copying.open.is_empty() {
        return None;
    }
    String::from_utf8(copying.out).ok()
}

struct Copying<'r> {
    raw: &'r [u8],
    at: usize,
    out: Vec<u8>,
    /// The brackets that are open here.
    open: Vec<u8>,
    bytes_max: usize,
}

impl<'r> Copying<'r> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        if self.out.len() + bytes.len() > self.bytes_max {
            return None;
        }
        self.out.extend_from_slice(bytes);
        Some(())
    }

    /// Copies one byte.
    fn step(&mut self) -> Option<()> {
        let byte = *self.raw.get(self.at)?;
        self.at += 1;
        self.put(&[byte])
    }

    fn open(&mut self, bracket: u8) -> Option<()> {
        if self.open.len() == DEPTH_MAX {
            return None;
        }
        self.open.push(bracket);
        self.step()
    }

    /// Passes the string that begins here; with its quotes.
    fn string(&mut self) -> Option<&'r [u8]> {
        let start = self.at;
        self.at += 1;
        loop {
            match *self.raw.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.raw.get(start..self.at)
    }

    /// Passes the colon and the value after it, and writes something else.
    fn replace_value(&mut self) -> Option<()> {
        self.spaces();
        if *self.raw.get(self.at)? != b':' {
            return None;
        }
        self.step()?;
        self.spaces();
        let mut depth = 0_usize;
        loop {
            match *self.raw.get(self.at)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                // The end of what the value is in: a number or a word ended here.
                b'}' | b']' => break,
                b',' if depth == 0 => break,
                _ => self.at += 1,
            }
            if depth == 0 && matches!(self.raw.get(self.at), Some(b',' | b'}' | b']')) {
                break;
            }
        }
        self.put(REDACTED)
    }

    fn spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.raw.get(self.at) {
            self.at += 1;
        }
    }
}

/// Whether a key, with its quotes, is one of those. An escape does not hide it.
fn matches_any(key: &[u8], keys: &[String]) -> bool {
    match serde_json::from_slice::<String>(key) {
        Ok(key) => {
            let key = key.to_lowercase();
            keys.iter().any(|pattern| wildcard_matches(pattern, &key))
        }
        // What cannot be read may be anything.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::{Arguments, Keeping, redact};
    use crate::config::{self, KeptArguments};
    use serde_json::{Value, json};

    fn redacted(raw: &str) -> Option<String> {
        let keys = ["*password*".to_owned(), "token".to_owned()];
        redact(raw.as_bytes(), &keys, 200)
    }

    #[test]
    fn values_of_some_keys_are_not_shown() {
        let rows = [
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (
                r#"{ "a" : [ 1 , "x y" ] , "token" : "t" }"#,
                r#"{"a":[1,"x y"],"token":"[redacted]"}"#,
            ),
            (r#"{"Token":{"a":[1,{"b":"}"}]},"c":2}"#, r#"{"Token":"[redacted]","c":2}"#),
            (
                r#"{"a":[{"myPassword1":[1,2]},{"b":null}]}"#,
                r#"{"a":[{"myPassword1":"[redacted]"},{"b":null}]}"#,
            ),
            (
                r#"{"pass\u0077ord":-1.5e3 ,"x":"password"}"#,
                r#"{"pass\u0077ord":"[redacted]","x":"password"}"#,
            ),
            (r#"{"token":true}"#, r#"{"token":"[redacted]"}"#),
            (r#"{"token":"a\"b\\","y":"token"}"#, r#"{"token":"[redacted]","y":"token"}"#),
            (r#"{"tokens":1e400,"k":[]}"#, r#"{"tokens":1e400,"k":[]}"#),
            (r#""just text""#, r#""just text""#),
            ("[1, 2]", "[1,2]"),
            ("null", "null"),
        ];
        for (raw, expected) in rows {
            assert_eq!(redacted(raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn what_is_too_long_or_broken_is_left_out() {
        for raw in [
            format!("{{\"a\":\"{}\"}}", "x".repeat(300)),
            format!("{}{}", "[".repeat(150), "]".repeat(150)),
            r#"{"token""#.to_owned(),
            r#"{"token":"#.to_owned(),
            r#"{"a":"b"#.to_owned(),
            "]".to_owned(),
        ] {
            assert_eq!(redacted(&raw), None, "{raw}");
        }
    }

    #[test]
    fn settings_say_what_is_kept() {
        let keeping = |arguments| {
            Keeping::new(&config::Audit {
                arguments,
                arguments_bytes_max: 40,
                ..Default::default()
            })
        };
        let raw = br#"{"api_key":"sk-1","q":"x"}"#;
        assert_eq!(keeping(KeptArguments::None).keep(raw), Arguments::Absent);
        let Arguments::Digest { bytes: 26, omitted: false, sha256 } =
            keeping(KeptArguments::Digest).keep(raw)
        else {
            panic!("a digest");
        };
        assert_eq!(sha256[..2], ring::digest::digest(&ring::digest::SHA256, raw).as_ref()[..2]);
        let Arguments::Redacted { json, .. } = keeping(KeptArguments::Redacted).keep(raw) else {
            panic!("arguments");
        };
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json, json!({ "api_key": "[redacted]", "q": "x" }));
        let long = format!("[\"{}\"]", "x".repeat(50));
        let Arguments::Digest { omitted: true, .. } =
            keeping(KeptArguments::Redacted).keep(long.as_bytes())
        else {
            panic!("a digest");
        };
    }
}
