//! The tokens whose signature was checked: each is checked once, and looked up from then on.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

use super::issuer::Issuer;
use super::vouched::Vouched;

/// The bytes of all tokens together; what they say takes a few times as much.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How many that are, if they have an ordinary length.
const TOKENS: usize = 8 * 1024;
/// A token ends with its signature: nothing else in it is as random.
const HASHED_BYTES: usize = 64;

/// The tokens that were checked, by their bytes.
pub(super) struct Verified {
    tokens: Cache<Box<[u8]>, Arc<Entry>, Bytes, EndHash, Lifecycle>,
}

type Lifecycle = DefaultLifecycle<Box<[u8]>, Arc<Entry>>;

/// One token that was true.
pub(super) struct Entry {
    pub(super) vouched: Vouched,
    pub(super) issuer: Arc<Issuer>,
    /// The number of the keys that it was checked with.
    pub(super) keys: u64,
}

impl Verified {
    pub(super) fn new() -> Self {
        let (hash, lifecycle) =
            (EndHash(DefaultHashBuilder::default()), DefaultLifecycle::default());
        Self { tokens: Cache::with(TOKENS, BYTES_MAX, Bytes, hash, lifecycle) }
    }

    /// What was found out about this token, to the byte, if it is still true: its issuer is one of
    /// these, and has the same keys.
    pub(super) fn find(
        &self,
        token: &[u8],
        issuers: &[Arc<Issuer>],
        now_s: u64,
    ) -> Option<Arc<Entry>> {
        let entry = self.tokens.get(token)?;
        let is_true = entry.vouched.holds(now_s)
            && issuers.iter().any(|issuer| Arc::ptr_eq(issuer, &entry.issuer))
            && entry.issuer.still_has(entry.keys);
        is_true.then_some(entry)
    }

    pub(super) fn keep(&self, token: &[u8], entry: Arc<Entry>) {
        self.tokens.insert(token.into(), entry);
    }
}

/// Weighs a token by its length.
#[derive(Clone)]
struct Bytes;

impl Weighter<Box<[u8]>, Arc<Entry>> for Bytes {
    fn weight(&self, token: &Box<[u8]>, _: &Arc<Entry>) -> u64 {
        token.len() as u64
    }
}

/// A keyed hash over the end of a token; the rest is compared.
#[derive(Clone)]
struct EndHash(DefaultHashBuilder);

struct EndHasher(<DefaultHashBuilder as BuildHasher>::Hasher);

impl BuildHasher for EndHash {
    type Hasher = EndHasher;

    fn build_hasher(&self) -> EndHasher {
        EndHasher(self.0.build_hasher())
    }
}

impl Hasher for EndHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(&bytes[bytes.len().saturating_sub(HASHED_BYTES)..]);
    }

    fn write_usize(&mut self, length: usize) {
        self.0.write_usize(length);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}
