//! The limit of an address before its caller is known: memory that does not grow, whatever is sent.
//!
//! Addresses are chosen by strangers, so they are not kept but counted in the sketch of
//! `pingora-limits`, which may count one too high, never too low. Its `Rate` is not used: it reads the
//! clock itself, and asserts that no thread ever stood still for a second.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use pingora_limits::estimator::Estimator;

use crate::config::Rate;

/// An address is counted too high only where all of its counters are shared.
const HASHES: usize = 4;
/// A megabyte in all: a hundred thousand other requests in a period count for about seven.
const COUNTERS: usize = 16 * 1024;

/// Requests by address in this period and the one before it.
pub(super) struct AddressSketch {
    count_max: u32,
    period_ns: u64,
    period: AtomicU64,
    counts: [Estimator; 2],
}

/// This address has sent enough; the time until it should try again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood {
    pub(super) retry_after_ns: u64,
}

/// The address as it is counted: of IPv6 the network of one customer.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl AddressSketch {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            count_max: rate.count.get(),
            period_ns: u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX).max(1),
            period: AtomicU64::new(0),
            counts: [Estimator::new(HASHES, COUNTERS), Estimator::new(HASHES, COUNTERS)],
        }
    }

    /// Counts a request, unless the last whole period held as many as it may: of the period before
    /// this one, the part that still belongs to it is taken to be like the whole.
    pub(super) fn admit(&self, address: IpAddr, now_ns: u64) -> Result<(), Flood> {
        let address = network(address);
        let (current, before) = self.turn(now_ns);
        let left_ns = self.period_ns - now_ns % self.period_ns;
        let seen = count(before.get(address)) * u128::from(left_ns) / u128::from(self.period_ns);
        // Two at once may both pass as the last one: this is an estimate anyway.
        if seen + count(current.get(address)) >= u128::from(self.count_max) {
            let one_more_ns = self.period_ns / u64::from(self.count_max);
            return Err(Flood { retry_after_ns: one_more_ns });
        }
        current.incr(address, 1);
        Ok(())
    }

    /// The counts of this period, and of the one before it.
    fn turn(&self, now_ns: u64) -> (&Estimator, &Estimator) {
        let period = now_ns / self.period_ns;
        let known = self.period.load(Ordering::Relaxed);
        let [even, odd] = &self.counts;
        let (current, before) = if period.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        if period > known
            && self
                .period
                .compare_exchange(known, period, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            current.reset();
            if period > known + 1 {
                before.reset();
            }
        }
        (current, before)
    }
}

fn count(estimate: isize) -> u128 {
    u128::try_from(estimate).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{AddressSketch, Flood, IpAddr, network};
    use crate::config::Rate;
    use std::num::NonZeroU32;
    use std::time::Duration;

    const SECOND_NS: u64 = 1_000_000_000;

    fn sketch(count: u32) -> AddressSketch {
        let count = NonZeroU32::new(count).expect("from 1");
        AddressSketch::new(Rate { count, period: Duration::from_secs(1) })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_has_its_rate_and_others_theirs() {
        let sketch = sketch(100);
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let admitted = |who, second: u64| {
            let offers = (0..1000).map(|offer| second * SECOND_NS + offer * 1_000_000);
            offers.filter(|now| sketch.admit(who, *now).is_ok()).count()
        };
        assert_eq!(admitted(one, 0), 100);
        for second in 1..5 {
            let admitted = admitted(one, second);
            assert!((95..=105).contains(&admitted), "{admitted} in second {second}");
        }
        assert_eq!(admitted(other, 5), 100);
        assert_eq!(admitted(one, 9), 100, "what is long ago is forgotten");
        assert_eq!(
            sketch.admit(one, 10 * SECOND_NS - 1),
            Err(Flood { retry_after_ns: SECOND_NS / 100 })
        );
    }

    #[test]
    fn strangers_do_not_take_the_place_of_each_other() {
        let sketch = sketch(20);
        for number in 0..100_000_u32 {
            assert!(sketch.admit(IpAddr::from(number.to_be_bytes()), 5).is_ok(), "{number}");
        }
        let admitted = (0..100).filter(|_| sketch.admit(address("2001:db8::1"), 5).is_ok()).count();
        assert!((5..=20).contains(&admitted), "{admitted}");
    }

    #[test]
    fn an_ipv6_address_counts_with_its_network() {
        assert_eq!(network(address("2001:db8:1:2:3:4:5:6")), address("2001:db8:1:2::"));
        assert_ne!(network(address("2001:db8:1:3::1")), address("2001:db8:1:2::"));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
