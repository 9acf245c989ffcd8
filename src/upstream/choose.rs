//! Chooses an endpoint: along the Ketama ring, in turn, or the less busy of two at random.
//!
//! The ring and the turn are `pingora-load-balancing`'s. Ours are the bound (no endpoint takes more
//! than [`LOAD_FACTOR`] times its share), the choice of two, and the slow start.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{
    BackendIter as _, BackendSelection as _, RoundRobin, weighted::Weighted,
};

use super::Endpoint;

/// No endpoint holds more than this times its share of what is placed by a hash.
const LOAD_FACTOR: f64 = 1.25;
/// Calls that an endpoint takes whatever the bound says: equal keys should meet on one endpoint
/// while there is little to do.
const CALLS_FREE: usize = 8;
/// Ketama gives a ring this many points for each endpoint, shared out by weight.
const POINTS_PER_ENDPOINT: usize = 160;

/// How a pool spreads what is not tied to an endpoint.
pub enum Chooser {
    /// The Ketama ring: equal keys meet on one endpoint, a lost endpoint moves only its own keys.
    Ring(Arc<KetamaHashing>),
    /// Each in turn, as often as its weight says.
    Turn(Arc<Weighted<RoundRobinTurn>>),
    /// The less busy of two endpoints picked at random.
    LeastRequest,
}

type RoundRobinTurn = pingora_load_balancing::selection::algorithms::RoundRobin;

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What is hashed where the pool hashes.
    pub key: &'a [u8],
    /// Decides where no key does.
    pub random: u64,
    /// Endpoints that were tried in vain.
    pub tried: &'a [u64],
    /// What an endpoint's load is.
    pub load: Load,
    /// The time.
    pub now_ms: u64,
}

/// What is placed, and so what counts as load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A session, which stays.
    Sessions,
    /// A call, which ends soon.
    Calls,
}

/// An endpoint's place in the pool, carried by its point on the ring.
#[derive(Clone, Copy)]
struct Place(usize);

impl Chooser {
    /// Builds the ring over the pool's endpoints.
    pub fn ring(endpoints: &[Arc<Endpoint>]) -> Self {
        Self::Ring(Arc::new(KetamaHashing::build(&backends(endpoints))))
    }

    /// Begins to take turns.
    pub fn turn(endpoints: &[Arc<Endpoint>]) -> Self {
        Self::Turn(Arc::new(RoundRobin::build(&backends(endpoints))))
    }

    /// The endpoint for `wanted` among those that are `usable`.
    pub fn choose<'p>(
        &self,
        endpoints: &'p [Arc<Endpoint>],
        wanted: &Wanted<'_>,
        slow_start: Duration,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'p Arc<Endpoint>> {
        let is_warm = |endpoint: &Endpoint| {
            let warmth = endpoint.standing().warmth(wanted.now_ms, slow_start);
            // The same key decides the same way until the endpoint is warmer.
            warmth >= 1.0 || fraction(wanted, endpoint) < warmth
        };
        match self {
            Self::Ring(ring) => {
                let bound = Bound::new(endpoints, wanted.load, &usable);
                let mut first_usable = None;
                let mut points = ring.iter(wanted.key);
                // The iterator goes round for ever; once round has seen every point.
                for _ in 0..POINTS_PER_ENDPOINT * endpoints.len() {
                    let place = points.next()?.ext.get::<Place>()?;
                    let endpoint = endpoints.get(place.0)?;
                    if !usable(endpoint) {
                        continue;
                    }
                    if bound.admits(endpoint) && is_warm(endpoint) {
                        return Some(endpoint);
                    }
                    first_usable.get_or_insert(endpoint);
                }
                // A small weight beside large ones rounds to no point at all.
                first_usable.or_else(|| endpoints.iter().find(|endpoint| usable(endpoint)))
            }
            Self::Turn(turn) => {
                let mut turns = turn.iter(wanted.key);
                let mut first_usable = None;
                for _ in 0..2 * endpoints.len() {
                    let place = turns.next()?.ext.get::<Place>()?;
                    let endpoint = endpoints.get(place.0)?;
                    if usable(endpoint) && is_warm(endpoint) {
                        return Some(endpoint);
                    }
                    if usable(endpoint) {
                        first_usable.get_or_insert(endpoint);
                    }
                }
                first_usable.or_else(|| endpoints.iter().find(|endpoint| usable(endpoint)))
            }
            Self::LeastRequest => {
                let usable: Vec<&Arc<Endpoint>> =
                    endpoints.iter().filter(|endpoint| usable(endpoint)).collect();
                let count = usable.len() as u64;
                let first = *usable.get((wanted.random % count.max(1)) as usize)?;
                let second = *usable.get(((wanted.random >> 32) % count.max(1)) as usize)?;
                let (first_load, second_load) = (load(first, wanted.load), load(second, wanted.load));
                let weighed = |load: usize, other: &Endpoint| load * other.weight() as usize;
                let less = weighed(second_load, first) < weighed(first_load, second);
                let (chosen, other) = if less { (second, first) } else { (first, second) };
                Some(if is_warm(chosen) { chosen } else { other })
            }
        }
    }
}

/// How much each endpoint may hold: its share of what there is with the new one, and a quarter more.
struct Bound {
    per_weight: f64,
    load: Load,
}

impl Bound {
    fn new(endpoints: &[Arc<Endpoint>], of: Load, usable: &impl Fn(&Endpoint) -> bool) -> Self {
        let (mut total, mut weights) = (1, 0);
        for endpoint in endpoints.iter().filter(|endpoint| usable(endpoint)) {
            total += load(endpoint, of);
            weights += endpoint.weight();
        }
        Self { per_weight: LOAD_FACTOR * total as f64 / f64::from(weights.max(1)), load: of }
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        let holds = load(endpoint, self.load);
        (self.load == Load::Calls && holds < CALLS_FREE)
            || (holds + 1) as f64 <= (self.per_weight * f64::from(endpoint.weight())).max(1.0)
    }
}

fn load(endpoint: &Endpoint, of: Load) -> usize {
    match of {
        Load::Sessions => endpoint.standing().sessions(),
        Load::Calls => endpoint.in_flight(),
    }
}

/// A number from 0 to 1 that follows from the key and the endpoint.
fn fraction(wanted: &Wanted<'_>, endpoint: &Endpoint) -> f64 {
    let seed = endpoint.id() ^ 0x9e37_79b9_7f4a_7c15;
    let mut hash = wanted.key.iter().fold(seed, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 32;
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// The endpoints as `pingora-load-balancing` knows them.
fn backends(endpoints: &[Arc<Endpoint>]) -> BTreeSet<Backend> {
    let backend = |(at, endpoint): (usize, &Arc<Endpoint>)| {
        let mut ext = pingora_load_balancing::Extensions::new();
        ext.insert(Place(at));
        Backend { addr: ring_address(endpoint.id()), weight: endpoint.weight() as usize, ext }
    };
    endpoints.iter().enumerate().map(backend).collect()
}

/// A point on the ring. Ketama hashes socket addresses, but an endpoint's identity is its URL: with
/// an address made of the URL's digest, a name that resolves anew moves nothing.
pub(super) fn ring_address(id: u64) -> pingora::protocols::l4::socket::SocketAddr {
    let id = u128::from(id);
    let address = IpAddr::V6(Ipv6Addr::from_bits(id << 64 | id));
    pingora::protocols::l4::socket::SocketAddr::Inet((address, 1).into())
}
