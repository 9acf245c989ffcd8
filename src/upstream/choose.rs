//! Chooses an endpoint: by a consistent hash over the ring, or the less busy of two at random.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter as _, BackendSelection as _};

use super::Endpoint;

/// How a pool spreads what is not tied to an endpoint.
pub enum Chooser {
    /// The Ketama ring: equal keys meet on one endpoint, a lost endpoint moves only its own keys.
    Ring(Arc<KetamaHashing>),
    /// The less busy of two endpoints picked at random.
    LeastRequest,
}

/// Ketama gives a ring this many points for each endpoint, shared out by weight.
const POINTS_PER_ENDPOINT: usize = 160;

/// An endpoint's place in the pool, carried by its point on the ring.
#[derive(Clone, Copy)]
struct Place(usize);

impl Chooser {
    /// Builds the ring over the pool's endpoints.
    pub fn ring(endpoints: &[Arc<Endpoint>]) -> Self {
        let backends: BTreeSet<Backend> = endpoints
            .iter()
            .enumerate()
            .map(|(at, endpoint)| {
                let mut ext = pingora_load_balancing::Extensions::new();
                ext.insert(Place(at));
                Backend { addr: ring_address(endpoint), weight: endpoint.weight() as usize, ext }
            })
            .collect();
        Self::Ring(Arc::new(KetamaHashing::build(&backends)))
    }

    /// The endpoint for `key` that `usable` accepts; `random` decides where no key does.
    pub fn choose<'p>(
        &self,
        endpoints: &'p [Arc<Endpoint>],
        key: &[u8],
        random: u64,
        usable: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'p Arc<Endpoint>> {
        match self {
            Self::Ring(ring) => {
                let mut points = ring.iter(key);
                // The iterator goes round for ever; once round has seen every point.
                for _ in 0..POINTS_PER_ENDPOINT * endpoints.len() {
                    let place = points.next()?.ext.get::<Place>()?;
                    let endpoint = endpoints.get(place.0)?;
                    if usable(endpoint) {
                        return Some(endpoint);
                    }
                }
                // A small weight beside large ones rounds to no point at all.
                endpoints.iter().find(|endpoint| usable(endpoint))
            }
            Self::LeastRequest => {
                let usable: Vec<&Arc<Endpoint>> =
                    endpoints.iter().filter(|endpoint| usable(endpoint)).collect();
                let count = usable.len() as u64;
                let first = *usable.get((random % count.max(1)) as usize)?;
                let second = *usable.get(((random >> 32) % count.max(1)) as usize)?;
                Some(if second.in_flight() < first.in_flight() { second } else { first })
            }
        }
    }
}

/// A point's name on the ring. Ketama hashes socket addresses, but an endpoint's identity is its
/// URL: with an address made of the URL's digest, a name that resolves anew moves nothing.
fn ring_address(endpoint: &Endpoint) -> pingora::protocols::l4::socket::SocketAddr {
    let id = u128::from(endpoint.id());
    let address = IpAddr::V6(Ipv6Addr::from_bits(id << 64 | id));
    pingora::protocols::l4::socket::SocketAddr::Inet((address, 1).into())
}

#[cfg(test)]
mod tests {
    use super::{Chooser, Endpoint};
    use crate::config;
    use std::collections::HashMap;
    use std::sync::Arc;

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
        let server = &settings.servers[0];
        let endpoint =
            |endpoint| Arc::new(Endpoint::new(endpoint, server.protocol, &server.timeouts));
        server.endpoints.iter().map(endpoint).collect()
    }

    fn place(
        chooser: &Chooser,
        endpoints: &[Arc<Endpoint>],
        without: Option<u64>,
    ) -> HashMap<usize, u64> {
        (0..10_000)
            .map(|key: usize| {
                let chosen = chooser
                    .choose(endpoints, &key.to_le_bytes(), 0, |endpoint| {
                        Some(endpoint.id()) != without
                    })
                    .expect("an endpoint");
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
        assert!(ring.choose(&endpoints, b"key", 0, |_| false).is_none());
    }

    #[test]
    fn the_last_usable_endpoint_is_found_whatever_its_weight() {
        let endpoints = endpoints(2, 256);
        let ring = Chooser::ring(&endpoints);
        let light = endpoints[1].id();
        let found = ring.choose(&endpoints, b"key", 0, |endpoint| endpoint.id() == light);
        assert_eq!(found.map(|endpoint| endpoint.id()), Some(light));
    }

    #[test]
    fn least_request_takes_the_less_busy_of_two() {
        let endpoints = endpoints(2, 1);
        let busy = endpoints[0].enter();
        let first_then_second = 1 << 32;
        let chosen = |random| {
            Chooser::LeastRequest.choose(&endpoints, b"", random, |_| true).map(|found| found.id())
        };
        assert_eq!(chosen(first_then_second), Some(endpoints[1].id()));
        assert_eq!(chosen(0), Some(endpoints[0].id()), "both picks may be the same one");
        drop(busy);
        assert_eq!(chosen(first_then_second), Some(endpoints[0].id()));
        assert!(Chooser::LeastRequest.choose(&[], b"", 7, |_| true).is_none());
    }
}
