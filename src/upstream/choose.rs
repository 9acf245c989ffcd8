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
    /// What to do when no endpoint that is left is in order.
    pub otherwise: Otherwise,
    /// The time.
    pub now_ms: u64,
}

/// What to do when no endpoint that is left is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// One in doubt is better than none.
    Trust,
    /// None: somebody waits for one that is in order.
    Nothing,
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
        let random = wanted.random.to_le_bytes();
        let is_warm = |endpoint: &Endpoint| {
            let warmth = endpoint.standing().warmth(wanted.now_ms, slow_start);
            let decided_by = match self {
                // The same key decides the same way until the endpoint is warmer.
                Self::Ring(_) => wanted.key,
                Self::Turn(_) | Self::LeastRequest => &random,
            };
            warmth >= 1.0 || fraction(decided_by, endpoint) < warmth
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
                let all: Vec<&Arc<Endpoint>> =
                    endpoints.iter().filter(|endpoint| usable(endpoint)).collect();
                let warm = all.iter().copied().filter(|endpoint| is_warm(endpoint));
                let warm: Vec<&Arc<Endpoint>> = warm.collect();
                let usable = if warm.is_empty() { all } else { warm };
                let count = usable.len() as u64;
                let first = *usable.get((wanted.random % count.max(1)) as usize)?;
                let second = *usable.get(((wanted.random >> 32) % count.max(1)) as usize)?;
                let (first_load, second_load) =
                    (load(first, wanted.load), load(second, wanted.load));
                let weighed = |load: usize, other: &Endpoint| load * other.weight() as usize;
                let less = weighed(second_load, first) < weighed(first_load, second);
                Some(if less { second } else { first })
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
fn fraction(key: &[u8], endpoint: &Endpoint) -> f64 {
    let seed = endpoint.id() ^ 0x9e37_79b9_7f4a_7c15;
    let mut hash = key
        .iter()
        .fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
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

#[cfg(test)]
mod tests {
    use super::{Chooser, Endpoint, Load, Otherwise, Wanted};
    use crate::config;
    use crate::upstream::Fleet;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn endpoints(count: usize, weight_of_first: u32) -> Vec<Arc<Endpoint>> {
        let yaml = (0..count)
            .map(|number| {
                let weight = if number == 0 { weight_of_first } else { 1 };
                format!("{{ url: http://10.0.0.{}:80/mcp, weight: {weight} }}", number + 1)
            })
            .collect::<Vec<_>>()
            .join(", ");
        let yaml = format!(
            "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [{yaml}] }} }}\nroutes: [{{ path: /mcp, server: s }}]"
        );
        let settings = config::parse(&yaml, "test", &|_| None).expect("settings");
        let fleet = Fleet::new();
        let pools = fleet.prepare(&settings.servers, 1);
        fleet.install(&pools, 1);
        pools[0].members().endpoints().to_vec()
    }

    fn wanted(key: &[u8], random: u64, load: Load) -> Wanted<'_> {
        Wanted { key, random, tried: &[], load, otherwise: Otherwise::Trust, now_ms: 1_000_000 }
    }

    fn choose<'e>(
        chooser: &Chooser,
        endpoints: &'e [Arc<Endpoint>],
        wanted: &Wanted<'_>,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'e Arc<Endpoint>> {
        chooser.choose(endpoints, wanted, Duration::ZERO, usable)
    }

    fn place(
        chooser: &Chooser,
        endpoints: &[Arc<Endpoint>],
        without: Option<u64>,
    ) -> HashMap<usize, u64> {
        (0..10_000)
            .map(|key: usize| {
                let key_bytes = key.to_le_bytes();
                let wanted = wanted(&key_bytes, 0, Load::Calls);
                let usable = |endpoint: &Endpoint| Some(endpoint.id()) != without;
                let chosen = choose(chooser, endpoints, &wanted, usable).expect("an endpoint");
                (key, chosen.id())
            })
            .collect()
    }

    #[test]
    fn the_ring_spreads_by_weight_and_moves_only_what_it_must() {
        let endpoints = endpoints(4, 2);
        let ring = Chooser::ring(&endpoints);
        let placed = place(&ring, &endpoints, None);
        let share = |id| placed.values().filter(|placed| **placed == id).count();
        let (heavy, light) = (share(endpoints[0].id()), share(endpoints[1].id()));
        assert!(heavy > 3_000 && heavy < 5_000, "{heavy}");
        assert!(light > 1_300 && light < 2_700, "{light}");
        let lost = endpoints[2].id();
        let after = place(&ring, &endpoints, Some(lost));
        for (key, before) in &placed {
            assert!(*before == lost || after[key] == *before, "a key moved without need");
        }
        let nobody = choose(&ring, &endpoints, &wanted(b"key", 0, Load::Calls), |_| false);
        assert!(nobody.is_none());
    }

    #[test]
    fn ten_thousand_sessions_are_spread_evenly_and_a_ninth_endpoint_takes_its_share() {
        let nine = endpoints(9, 1);
        let eight = &nine[..8];
        let place_sessions = |endpoints: &[Arc<Endpoint>], count: u64| {
            let ring = Chooser::ring(endpoints);
            for _ in 0..count {
                let key = u128::from(fastrand::u64(..)).to_le_bytes();
                let wanted = wanted(&key, 0, Load::Sessions);
                let chosen = choose(&ring, endpoints, &wanted, |_| true).expect("an endpoint");
                chosen.standing().session_came();
            }
        };
        place_sessions(eight, 10_000);
        let held: Vec<usize> = nine.iter().map(|one| one.standing().sessions()).collect();
        assert!(held[..8].iter().all(|held| *held * 8 <= 12_500), "{held:?}");
        assert_eq!(held.iter().sum::<usize>(), 10_000);
        place_sessions(&nine, 9_000);
        let ninth = nine[8].standing().sessions();
        // A ring's shares differ by a fifth or so.
        assert!(ninth >= 800, "of 9000 new sessions the ninth took {ninth}");
        for (before, endpoint) in held.iter().zip(&nine) {
            assert!(endpoint.standing().sessions() >= *before, "an existing session moved");
        }
    }

    #[test]
    fn who_is_full_gives_to_the_next_on_the_ring() {
        let endpoints = endpoints(3, 1);
        let ring = Chooser::ring(&endpoints);
        let wanted = wanted(b"one caller", 0, Load::Calls);
        let mut met = std::collections::HashSet::new();
        let mut under_way = Vec::new();
        for _ in 0..60 {
            let chosen = choose(&ring, &endpoints, &wanted, |_| true).expect("an endpoint");
            under_way.push(chosen.try_enter(&config::Breaker::default()).expect("room"));
            met.insert(chosen.id());
        }
        let most = endpoints.iter().map(|endpoint| endpoint.in_flight()).max();
        assert_eq!((met.len(), most), (3, Some(25)), "a quarter more than the mean of 20");
        drop(under_way);
        let met: std::collections::HashSet<u64> = (0..8)
            .filter_map(|_| choose(&ring, &endpoints, &wanted, |_| true))
            .map(|endpoint| endpoint.id())
            .collect();
        assert_eq!(met.len(), 1, "with little to do equal keys meet");
    }

    #[test]
    fn a_cold_endpoint_takes_a_growing_part_of_its_share() {
        let endpoints = endpoints(2, 1);
        let slow_start = Duration::from_secs(10);
        let share = |chooser: &Chooser, now_ms| {
            let taken = (0..4_000_u64).filter(|number| {
                let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
                let random = fastrand::u64(..);
                let wanted = Wanted { now_ms, random, ..wanted(&key, 0, Load::Calls) };
                let chosen = chooser.choose(&endpoints, &wanted, slow_start, |_| true);
                chosen.is_some_and(|chosen| chosen.id() == endpoints[1].id())
            });
            taken.count()
        };
        for chooser in [Chooser::ring(&endpoints), Chooser::turn(&endpoints), Chooser::LeastRequest]
        {
            endpoints[1].standing().drain(1);
            endpoints[1].standing().undrain(100_000);
            let whole = share(&chooser, 200_000);
            let (early, half) = (share(&chooser, 100_100), share(&chooser, 105_000));
            assert!((1_400..2_600).contains(&whole), "{whole}");
            assert!(early * 4 < whole && early > 0, "{early} of {whole}");
            assert!(half * 10 > whole * 3 && half * 10 < whole * 8, "{half} of {whole}");
        }
    }

    #[test]
    fn the_last_usable_endpoint_is_found_whatever_its_weight() {
        let endpoints = endpoints(2, 256);
        let light = endpoints[1].id();
        for chooser in [Chooser::ring(&endpoints), Chooser::turn(&endpoints)] {
            let wanted = wanted(b"key", 0, Load::Calls);
            let found = choose(&chooser, &endpoints, &wanted, |endpoint| endpoint.id() == light);
            assert_eq!(found.map(|endpoint| endpoint.id()), Some(light));
        }
    }

    #[test]
    fn turns_are_as_frequent_as_weights() {
        let endpoints = endpoints(3, 2);
        let turn = Chooser::turn(&endpoints);
        let mut taken = HashMap::new();
        for _ in 0..400 {
            let wanted = wanted(b"key", 0, Load::Calls);
            let chosen = choose(&turn, &endpoints, &wanted, |_| true).expect("an endpoint");
            *taken.entry(chosen.id()).or_insert(0) += 1;
        }
        let counts: Vec<i32> = endpoints.iter().map(|endpoint| taken[&endpoint.id()]).collect();
        assert_eq!(counts, [200, 100, 100]);
    }

    #[test]
    fn least_request_takes_the_less_busy_of_two() {
        let endpoints = endpoints(2, 1);
        let busy = endpoints[0].try_enter(&config::Breaker::default());
        let first_then_second = 1 << 32;
        let chosen = |random| {
            let wanted = wanted(b"", random, Load::Calls);
            let chosen = choose(&Chooser::LeastRequest, &endpoints, &wanted, |_| true);
            chosen.map(|found| found.id())
        };
        assert_eq!(chosen(first_then_second), Some(endpoints[1].id()));
        assert_eq!(chosen(0), Some(endpoints[0].id()), "both picks may be the same one");
        drop(busy);
        assert_eq!(chosen(first_then_second), Some(endpoints[0].id()));
        let wanted = wanted(b"", 7, Load::Calls);
        assert!(choose(&Chooser::LeastRequest, &[], &wanted, |_| true).is_none());
    }
}
