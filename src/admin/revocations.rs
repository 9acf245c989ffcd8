//! API keys that open nothing any more, whatever the configuration says: for the minutes until it does.

use std::io;
use std::path::{Path, PathBuf};

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Denial};
use super::api::{Api, Asked, Mode};
use super::registrations::{read, write};
use crate::identity::{KeyState, Revoked};

/// The digests of revoked keys, a JSON list.
const FILE: &str = "revoked.json";

/// The file that keeps them.
pub(super) struct RevocationFile(PathBuf);

impl RevocationFile {
    /// Reads the file, which need not exist.
    pub(super) fn open(state_dir: &Path, revoked: &Revoked) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let digests: Vec<String> = read(&path)?;
        for digest in &digests {
            let digest = parse(digest)
                .ok_or_else(|| io::Error::other(format!("{} holds no digests", path.display())))?;
            revoked.set(digest, KeyState::Revoked).map_err(io::Error::other)?;
        }
        Ok(Self(path))
    }

    /// Writes the file anew.
    pub(super) fn keep(&self, revoked: &Revoked) -> io::Result<()> {
        let digests: Vec<String> = revoked.all().iter().map(text).collect();
        let candidate = self.0.with_extension("new.json");
        write(&candidate, &digests)?;
        std::fs::rename(candidate, &self.0)
    }
}

impl Api {
    /// The digests of all revoked keys.
    pub(super) fn revocations(&self) -> Answer {
        let revoked = self.revoked().all();
        let digests: Vec<String> = revoked.iter().map(text).collect();
        Answer::ok(json!({ "revocations": digests }))
    }

    /// Revokes a key, by the digest that the configuration has of it, or lets it be valid again.
    pub(super) fn revoke(
        &self,
        asked: &Asked,
        digest: &str,
        state: KeyState,
    ) -> Result<Answer, Denial> {
        let digest = parse(digest)
            .ok_or_else(|| Denial::bad_request("a key is named by its SHA-256, in hexadecimal"))?;
        let mut turn = self.turn()?;
        if asked.mode == Mode::DryRun {
            return Ok(Answer::ok(json!({ "dry_run": true })));
        }
        let is_news = self
            .reload()
            .set_key(&mut turn, digest, state)
            .map_err(|error| Denial::internal(&error))?;
        if is_news {
            let what = match state {
                KeyState::Revoked => "revoke",
                KeyState::Valid => "unrevoke",
            };
            self.note(asked, what, &text(&digest), "", "");
        }
        let status = match (is_news, state) {
            (true, KeyState::Revoked) => StatusCode::CREATED,
            _ => StatusCode::OK,
        };
        Ok(Answer::new(status, Value::Object(serde_json::Map::new())))
    }

    fn revoked(&self) -> &Revoked {
        self.reload().shared().lasting().authorities.revoked()
    }
}

/// The digest that these digits mean.
pub(super) fn parse(digits: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let pairs = digits.as_bytes().chunks_exact(2);
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

/// The digits of a digest.
pub(super) fn text(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{parse, text};

    #[test]
    fn a_digest_is_64_digits() {
        let digits = "0f".repeat(32);
        assert_eq!(parse(&digits).map(|digest| text(&digest)), Some(digits.clone()));
        assert_eq!(parse(&digits.to_uppercase()), parse(&digits));
        for bad in ["", &digits[1..], &"+f".repeat(32), &"é".repeat(32), &digits.replace('f', "g")]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
