//! What limits have counted: it outlives the configuration, as long as their rules stay as they are.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use prometheus::IntGauge;

use super::address::AddressSketch;
use super::gcra::Gcra;
use super::keys::Keys;
use super::leased::Leased;
use super::place_leases::PlaceLeases;
use super::rate_leases::RateLeases;
use super::slot::Slot;
use crate::config::{KeyPart, Limit, Rate};
use crate::shared::Store;
use crate::telemetry::SharedMetrics;

/// The tallies of every limit in use. Snapshots hold them; what no snapshot holds is forgotten.
pub struct State {
    pub(super) clock: Clock,
    /// Random, so that nobody outside can find two keys that share a tally.
    pub(super) seed: std::hash::RandomState,
    kept: Mutex<Kept>,
    /// What replicas have in common, if they have a store.
    sharing: Option<Sharing>,
}

/// Who leases from the store.
struct Sharing {
    rates: Arc<RateLeases>,
    places: Arc<PlaceLeases>,
}

#[derive(Default)]
struct Kept {
    tallies: Vec<(Meaning, Weak<Tallies>)>,
    sketches: Vec<(SocketAddr, Rate, Weak<AddressSketch>)>,
}

/// The tallies of one limit.
pub(super) struct Tallies {
    pub(super) rates: Rates,
    pub(super) calls: Keys<Arc<Slot>>,
    pub(super) streams: Keys<Arc<Slot>>,
    /// Who leases the places of both, if replicas count together.
    pub(super) leases: Option<Arc<PlaceLeases>>,
    shown: IntGauge,
}

/// Who counts calls in a time.
pub(super) enum Rates {
    /// This process.
    Own(Keys<Gcra>),
    /// All replicas together.
    Shared {
        /// What this one has leased.
        keys: Keys<Arc<Leased>>,
        /// From whom.
        leases: Arc<RateLeases>,
    },
}

/// What tallies mean: where this differs, they begin anew.
#[derive(PartialEq, Eq)]
struct Meaning {
    name: String,
    key: Vec<KeyPart>,
    rate: Option<(Rate, NonZeroU32)>,
    in_flight: Option<NonZeroU32>,
    streams: Option<NonZeroU32>,
    keys_max: u32,
}

/// Nanoseconds since the state began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn now_ns(self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            clock: Clock { start: Instant::now() },
            seed: std::hash::RandomState::new(),
            kept: Mutex::default(),
            sharing: None,
        }
    }
}

impl State {
    /// What is counted together with every replica that uses this store, if it is one.
    pub fn new(store: &Arc<Store>, metrics: &SharedMetrics) -> Self {
        let alone = Self::default();
        let sharing = store.is_configured().then(|| {
            let fallbacks = metrics.fallbacks("limits");
            Sharing {
                rates: Arc::new(RateLeases::new(store, alone.clock, fallbacks.clone())),
                places: Arc::new(PlaceLeases::new(store, alone.clock, fallbacks)),
            }
        });
        Self { sharing, ..alone }
    }

    /// Keeps in step with the other replicas, for ever.
    pub async fn share(&self) {
        match &self.sharing {
            Some(Sharing { rates, places }) => {
                tokio::select! {
                    () = rates.keep() => {}
                    () = places.keep() => {}
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Forgets keys that nobody uses; to be called about once a second.
    pub fn sweep(&self) {
        let now_ns = self.clock.now_ns();
        for tallies in self.in_use() {
            tallies.rates.sweep(now_ns);
            tallies.calls.sweep(now_ns);
            tallies.streams.sweep(now_ns);
            let keys = tallies.rates.len().max(tallies.calls.len()).max(tallies.streams.len());
            tallies.shown.set(i64::try_from(keys).unwrap_or(i64::MAX));
        }
    }

    /// The tallies of a limit: those it has, if it means the same as before.
    pub(super) fn tallies(&self, limit: &Limit, shown: &IntGauge) -> Arc<Tallies> {
        let meaning = Meaning::of(limit);
        let mut kept = self.kept.lock();
        kept.tallies.retain(|(_, tallies)| tallies.strong_count() > 0);
        let known = kept.tallies.iter().find(|(known, _)| *known == meaning);
        if let Some(tallies) = known.and_then(|(_, tallies)| tallies.upgrade()) {
            return tallies;
        }
        let keys_max = limit.keys_max as usize;
        let tallies = Arc::new(Tallies {
            rates: Rates::new(keys_max, self.sharing.as_ref()),
            calls: Keys::new(keys_max),
            streams: Keys::new(keys_max),
            leases: self.sharing.as_ref().map(|sharing| Arc::clone(&sharing.places)),
            shown: shown.clone(),
        });
        kept.tallies.push((meaning, Arc::downgrade(&tallies)));
        tallies
    }

    /// The same for the addresses that speak to one listener.
    pub(super) fn sketch(&self, listener: SocketAddr, rate: Rate) -> Arc<AddressSketch> {
        let mut kept = self.kept.lock();
        kept.sketches.retain(|(.., sketch)| sketch.strong_count() > 0);
        let known = kept.sketches.iter().find(|known| (known.0, known.1) == (listener, rate));
        if let Some(sketch) = known.and_then(|(.., sketch)| sketch.upgrade()) {
            return sketch;
        }
        let sketch = Arc::new(AddressSketch::new(rate));
        kept.sketches.push((listener, rate, Arc::downgrade(&sketch)));
        sketch
    }

    /// Not under the lock: a snapshot that is dropped meanwhile may be the last to hold one.
    fn in_use(&self) -> Vec<Arc<Tallies>> {
        self.kept.lock().tallies.iter().filter_map(|(_, tallies)| tallies.upgrade()).collect()
    }
}

impl Rates {
    fn new(keys_max: usize, sharing: Option<&Sharing>) -> Self {
        match sharing {
            Some(Sharing { rates, .. }) => {
                Self::Shared { keys: Keys::new(keys_max), leases: Arc::clone(rates) }
            }
            None => Self::Own(Keys::new(keys_max)),
        }
    }

    fn sweep(&self, now_ns: u64) {
        match self {
            Self::Own(keys) => keys.sweep(now_ns),
            Self::Shared { keys, .. } => keys.sweep(now_ns),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own(keys) => keys.len(),
            Self::Shared { keys, .. } => keys.len(),
        }
    }
}

impl Drop for Tallies {
    fn drop(&mut self) {
        // A limit of the same name that goes on says so within a second.
        self.shown.set(0);
    }
}

impl Meaning {
    fn of(limit: &Limit) -> Self {
        // What a call costs, and how long it may wait, is asked of each call and leaves nothing behind.
        let Limit { name, key, rate, in_flight, streams, wait: _, keys_max, place: _ } = limit;
        Self {
            name: name.clone(),
            key: key.clone(),
            rate: rate.as_ref().map(|allowance| (allowance.rate, allowance.burst)),
            in_flight: *in_flight,
            streams: *streams,
            keys_max: *keys_max,
        }
    }
}
