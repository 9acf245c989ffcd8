//! Keys that open nothing any more, though a configuration still names them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// More keys are an attack, or a configuration that nobody mends.
const REVOKED_MAX: usize = 10_000;

/// The digests of revoked keys. They outlive every configuration.
#[derive(Debug, Default)]
pub struct Revoked(ArcSwap<BTreeSet<[u8; 32]>>);

/// Whether a key is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It opens what the configuration says.
    Valid,
    /// It opens nothing.
    Revoked,
}

/// There are as many revoked keys as are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{REVOKED_MAX} keys are revoked already; take them out of the configuration and out of this list"
)]
pub struct TooMany;

impl Revoked {
    /// All of them.
    pub fn all(&self) -> Arc<BTreeSet<[u8; 32]>> {
        self.0.load_full()
    }

    /// Revokes the key of this digest, or lets it be valid again; tells whether that is news. It
    /// takes effect with the next snapshot.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set(&self, digest: [u8; 32], state: KeyState) -> Result<bool, TooMany> {
        let mut all = BTreeSet::clone(&self.0.load());
        let is_news = match state {
            KeyState::Valid => all.remove(&digest),
            KeyState::Revoked if all.len() >= REVOKED_MAX && !all.contains(&digest) => {
                return Err(TooMany);
            }
            KeyState::Revoked => all.insert(digest),
        };
        if is_news {
            self.0.store(Arc::new(all));
        }
        Ok(is_news)
    }
}
