//! What single callers were shown beyond what the server shows everybody, learned from the answers
//! that pass to them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::Guard;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::offer::{Definition, Kind, Offer};

/// Who is shown it, and all that a server may make it depend on: [`crate::identity::Caller::fingerprint`].
pub type Fingerprint = [u8; 16];

/// What is learned of all callers at all servers, in bytes.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What is learned of one caller at one server, in bytes.
pub(super) const CALLER_BYTES_MAX: usize = 1024 * 1024;
/// About so many callers are expected.
const CALLERS: usize = 4096;
/// A client lists once in a session, so this is the lifetime of a session.
const LEARNED_FOR_MS: u64 = 24 * 60 * 60 * 1000;
/// What an entry takes beside its definitions.
const ENTRY_BYTES: usize = 256;

/// Everything learned; what was used least gives way.
pub(super) struct Memory(Cache<(u64, Fingerprint), Arc<Learned>, Weight>);

#[derive(Clone)]
struct Weight;

impl Weighter<(u64, Fingerprint), Arc<Learned>> for Weight {
    fn weight(&self, _key: &(u64, Fingerprint), learned: &Arc<Learned>) -> u64 {
        (ENTRY_BYTES + learned.weight) as u64
    }
}

/// What one caller was shown by one server and everybody is not.
#[derive(Clone, Default)]
pub(super) struct Learned {
    own: HashMap<(Kind, Arc<str>), Own>,
    weight: usize,
    epoch: u64,
    at_ms: u64,
}

#[derive(Clone)]
struct Own {
    definition: Arc<Definition>,
    /// The definition for everybody that it stood beside. Another one is newer than this.
    beside: Option<[u8; 16]>,
}

/// What a server offers as one caller sees it.
pub struct Seen {
    pub(super) offer: Guard<Arc<Offer>>,
    pub(super) learned: Option<Arc<Learned>>,
}

impl Seen {
    /// The definition of a kind that is asked for by this name: what the caller was shown, unless
    /// the server's own list has changed since.
    pub fn find(&self, kind: Kind, name: &str) -> Option<&Definition> {
        let everybodys = self.offer.find(kind, name);
        let own = self.learned.as_ref().and_then(|learned| learned.find(kind, name));
        match own {
            Some(own) if own.beside == everybodys.map(|known| known.digest) => {
                Some(&own.definition)
            }
            _ => everybodys,
        }
    }

    /// What the server offers everybody.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }
}

impl Learned {
    fn find(&self, kind: Kind, name: &str) -> Option<&Own> {
        self.own.get(&(kind, name) as &dyn Sought)
    }

    /// Adds what a page of a list shows that the offer does not. Tells whether that changed anything.
    fn add(&mut self, kind: Kind, page: Vec<Definition>, offer: &Offer) -> Change {
        let mut change = Change::Nothing;
        for definition in page {
            let beside = offer.find(kind, &definition.name).map(|known| known.digest);
            let key = (kind, Arc::clone(&definition.name));
            if beside == Some(definition.digest) {
                if let Some(before) = self.own.remove(&key) {
                    self.weight -= before.definition.weight();
                    change = Change::Something;
                }
                continue;
            }
            let known = self.own.get(&key);
            let is_known = known.is_some_and(|known| {
                known.beside == beside && known.definition.digest == definition.digest
            });
            let freed = known.map_or(0, |known| known.definition.weight());
            let weight = self.weight - freed + definition.weight();
            if is_known || weight > CALLER_BYTES_MAX {
                continue;
            }
            self.weight = weight;
            self.own.insert(key, Own { definition: Arc::new(definition), beside });
            change = Change::Something;
        }
        change
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Something,
    Nothing,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self(Cache::with_weighter(CALLERS, BYTES_MAX, Weight))
    }

    /// What this caller was shown by the server with this number, since the server last said that
    /// its lists have changed.
    pub(super) fn recall(
        &self,
        server: u64,
        caller: &Fingerprint,
        epoch: u64,
        now_ms: u64,
    ) -> Option<Arc<Learned>> {
        let learned = self.0.get(&(server, *caller))?;
        let is_fresh = learned.epoch == epoch && now_ms < learned.at_ms + LEARNED_FOR_MS;
        is_fresh.then_some(learned)
    }

    /// Keeps what a page shows this caller and the offer does not. Tells whether there is anything.
    pub(super) fn learn(
        &self,
        key: (u64, Fingerprint),
        (kind, page): (Kind, Vec<Definition>),
        offer: &Offer,
        (epoch, now_ms): (u64, u64),
    ) -> bool {
        let known = self.recall(key.0, &key.1, epoch, now_ms);
        let mut learned = known.as_deref().cloned().unwrap_or_default();
        let keeps = learned.add(kind, page, offer) == Change::Something || known.is_some();
        if keeps {
            self.0.insert(key, Arc::new(Learned { epoch, at_ms: now_ms, ..learned }));
        }
        keeps
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> u64 {
        self.0.weight()
    }
}

/// A kind and a name, borrowed or owned, so that a lookup makes no copy of the name.
trait Sought {
    fn key(&self) -> (Kind, &str);
}

impl Sought for (Kind, Arc<str>) {
    fn key(&self) -> (Kind, &str) {
        (self.0, &self.1)
    }
}

impl Sought for (Kind, &str) {
    fn key(&self) -> (Kind, &str) {
        *self
    }
}

impl<'a> std::borrow::Borrow<dyn Sought + 'a> for (Kind, Arc<str>) {
    fn borrow(&self) -> &(dyn Sought + 'a) {
        self
    }
}

impl std::hash::Hash for dyn Sought + '_ {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for dyn Sought + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn Sought + '_ {}
