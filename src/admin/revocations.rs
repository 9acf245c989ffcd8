//! API keys that open nothing any more, whatever the configuration says: for the minutes until it does.

use std::io;
use std::path::{Path, PathBuf};

use http::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, Denial};
use super::api::{Api, Asked, Mode};
use super::registrations::{put_in_place, read, write};
use crate::config;
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
            let digest = config::sha256(digest)
                .map_err(|fault| io::Error::other(format!("{}: {fault}", path.display())))?;
            revoked.set(digest, KeyState::Revoked).map_err(io::Error::other)?;
        }
        Ok(Self(path))
    }

    /// Writes the file anew.
    pub(super) fn keep(&self, revoked: &Revoked) -> io::Result<()> {
        let digests: Vec<String> = revoked.all().iter().map(text).collect();
        let candidate = self.0.with_extension("new.json");
        write(&candidate, &digests)?;
        put_in_place(&candidate, &self.0)
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
        let digest = config::sha256(digest).map_err(Denial::bad_request)?;
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

/// The digits of a digest.
pub(super) fn text(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
