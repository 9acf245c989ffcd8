//! A latency histogram in the manner of HDR: 64 buckets per power of two, so that any quantile is right within 1.6 percent.

use std::time::Duration;

const STEPS_LOG2: u32 = 6;
const STEPS: usize = 1 << STEPS_LOG2;

/// Counts of nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], total: 0, max: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max = self.max.max(ns);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The least value that at least this share of the records do not exceed, rounded up to the end of its bucket; 0 when nothing was recorded.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return bucket_end(index).min(self.max);
            }
        }
        self.max
    }
}

/// Values below 64 have a bucket each; above, the bucket is the highest bit and the six bits after it.
fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    shift as usize * STEPS + (ns >> shift) as usize
}

fn bucket_end(index: usize) -> u64 {
    let shift = (index / STEPS).saturating_sub(1);
    let step = (index - shift * STEPS) as u64;
    (step << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket_and_the_bucket_is_narrow() {
        let powers = (0..u64::BITS).map(|bit| 1 << bit);
        for ns in
            powers.flat_map(|power: u64| [power - 1, power, power + power / 3]).chain([u64::MAX])
        {
            let index = bucket(ns);
            let end = bucket_end(index);
            assert!(end >= ns && (index == 0 || bucket_end(index - 1) < ns), "{ns} ends at {end}");
            assert!(end - ns <= ns / 63, "{ns} ends at {end}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_records() {
        let check = |records: &[u64], share: f64, expected: u64| {
            let mut histogram = Histogram::default();
            records.iter().for_each(|ns| histogram.record(Duration::from_nanos(*ns)));
            assert_eq!(histogram.quantile(share), expected, "{share} of {records:?}");
        };
        check(&[], 0.5, 0);
        check(&[7], 0.0, 7);
        check(&[1, 2, 3, 4], 0.5, 2);
        check(&[1, 2, 3, 4], 0.51, 3);
        check(&[1, 2, 3, 1_000_000], 1.0, 1_000_000);
    }

    #[test]
    fn histograms_add_up() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_nanos(5));
        other.record(Duration::from_nanos(50));
        one.add(&other);
        assert_eq!((one.quantile(0.5), one.quantile(1.0)), (5, 50));
    }
}
