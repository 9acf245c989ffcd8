//! API keys, looked up by their SHA-256: the gateway never holds a key, and the time of a look-up
//! says nothing about one.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Map;

use super::caller::{Caller, Method, Proven};
use super::revoked::Revoked;
use crate::config;

/// What the gateway's own keys begin with, so that scanners for secrets find them.
const PREFIX: &str = "toolgate_";
/// What they are made of: a double click selects the whole key.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The length of a key's name, which tells keys apart where they must not be shown.
const ID_CHARS: usize = 8;
/// 190 bits: nobody guesses them.
const SECRET_CHARS: usize = 32;
/// A CRC-32 in this alphabet.
const CHECKSUM_CHARS: usize = 6;

/// The callers by the digest of their key.
pub(super) struct ApiKeys {
    callers: HashMap<[u8; 32], Arc<Caller>>,
}

impl ApiKeys {
    /// Revoked keys are as if no configuration named them.
    pub(super) fn new(keys: &[config::ApiKey], revoked: &Revoked) -> Self {
        let revoked = revoked.all();
        let callers = keys
            .iter()
            .filter(|key| !revoked.contains(&key.sha256))
            .map(|key| {
                let config::ApiKey { caller, tenant, scopes, sha256 } = key.clone();
                let proven = Proven {
                    id: caller,
                    issuer: None,
                    tenant,
                    scopes,
                    claims: Map::new(),
                    method: Method::ApiKey,
                };
                (sha256, Arc::new(Caller::new(proven)))
            })
            .collect();
        Self { callers }
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<&Arc<Caller>> {
        if self.callers.is_empty() {
            return None;
        }
        let digest = digest(&SHA256, key);
        let digest: &[u8; 32] = digest.as_ref().try_into().ok()?;
        self.callers.get(digest)
    }
}

/// Whether a token looks like one of the gateway's own keys and cannot be one: nobody needs to be
/// asked about it. A key of any other form is as good, if the configuration has its digest.
pub(super) fn is_malformed(token: &str) -> bool {
    let Some(rest) = token.strip_prefix(PREFIX) else { return false };
    let is_whole =
        rest.split_at_checked(ID_CHARS + 1 + SECRET_CHARS).is_some_and(|(checked, checksum)| {
            checked.is_ascii() && checksum == checksum_of(checked.as_bytes())
        });
    !is_whole
}

/// A fresh key. It is shown once; only its digest is kept.
pub struct NewKey(String);

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn random() -> Result<Self, String> {
        let digits = random_digits(ID_CHARS + SECRET_CHARS)?;
        let (id, secret) = digits.split_at(ID_CHARS);
        let checked = format!("{id}_{secret}");
        let checksum = checksum_of(checked.as_bytes());
        Ok(Self(format!("{PREFIX}{checked}{checksum}")))
    }

    /// The line for `identity.api_keys`.
    pub fn line(&self, caller: &str) -> String {
        let sha256 = digest(&SHA256, self.0.as_bytes());
        let sha256: String = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        // JSON is YAML, and a name may hold what YAML would read otherwise.
        format!("- {{ caller: {}, sha256: {sha256} }}", serde_json::Value::from(caller))
    }
}

impl fmt::Display for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Digits of which each is as likely as any other.
fn random_digits(count: usize) -> Result<String, String> {
    let mut digits = String::with_capacity(count);
    while digits.len() < count {
        let mut bytes = [0; 64];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| "the system has no random bytes".to_owned())?;
        // Four times 62 fit into a byte; the rest would favour the first digits.
        let fair =
            bytes.iter().filter(|byte| **byte < 248).map(|byte| DIGITS[usize::from(byte % 62)]);
        digits.extend(fair.map(char::from).take(count - digits.len()));
    }
    Ok(digits)
}

/// The CRC-32 of a text as digits, the way GitHub's keys have it: a scanner can tell without asking.
fn checksum_of(text: &[u8]) -> String {
    let mut crc = text.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    });
    crc = !crc;
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(crc % 62) as usize];
        crc /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::{ApiKeys, NewKey, checksum_of, is_malformed};
    use crate::config;

    #[test]
    fn a_new_key_is_well_formed_and_its_line_makes_it_valid() {
        let key = NewKey::random().expect("a key");
        let text = key.to_string();
        assert_eq!(text.len(), "toolgate_".len() + 8 + 1 + 32 + 6);
        assert!(!is_malformed(&text));
        assert_ne!(text, NewKey::random().expect("a key").to_string());
        let yaml = format!(
            "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/] }} }}\n\
             routes: [{{ path: /mcp, server: s }}]\nidentity:\n  api_keys:\n  {}\n",
            key.line("Ann: \"the\" first")
        );
        let settings = config::parse(&yaml, "t", &|_| None).expect("settings");
        let keys = ApiKeys::new(&settings.identity.api_keys, &Revoked::default());
        let caller = keys.find(text.as_bytes()).expect("its caller");
        assert_eq!(caller.id(), "Ann: \"the\" first");
    }

    #[test]
    fn a_key_with_a_mistake_is_malformed_and_other_texts_are_not() {
        let good = NewKey::random().expect("a key").to_string();
        for place in "toolgate_".len()..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[place] = if bad[place] == b'x' { b'y' } else { b'x' };
            let bad = String::from_utf8(bad).expect("ASCII");
            assert!(is_malformed(&bad), "{bad}");
        }
        for bad in [&good[..good.len() - 1], "toolgate_", &format!("{good}0"), "toolgate_ä"] {
            assert!(is_malformed(bad), "{bad}");
        }
        for other in ["", "key-of-ann", "toolgate", "sk-toolgate_x", "eyJ.e30.x"] {
            assert!(!is_malformed(other), "{other}");
        }
        // The check value that every CRC-32 has: 0xcbf43926.
        assert_eq!(checksum_of(b"123456789"), "3jZRME");
    }
}
