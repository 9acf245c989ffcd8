//! Whether a caller has made the same call a short while ago, which is how retry spikes of agents show.

use std::sync::atomic::{AtomicU64, Ordering};

/// For this long a call is remembered.
const REMEMBERED_S: u64 = 300;
/// Calls that can be remembered at once; beyond, the oldest of a few is forgotten. 512 KiB.
const PLACES: usize = 1 << 16;
/// A call may lie in one of so many places, which share a cache line.
const WAYS: usize = 8;
/// Bits of a place that hold the time in seconds. It comes round after 97 days.
const TIME_BITS: u32 = 23;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// The calls of the last minutes, as fingerprints, in memory that never grows and without a lock.
///
/// It may forget, and two threads may overwrite one another: it counts, and decides nothing. Another
/// call is taken for the same with a chance of eight in 2^41.
pub struct Repeats {
    seed: u64,
    places: Box<[AtomicU64]>,
}

/// A call as far as it must be the same again.
#[derive(Clone, Copy, Debug)]
pub struct CallKey<'a> {
    /// Who calls: the digest of the caller.
    pub caller: &'a [u8],
    /// The server's name.
    pub server: &'a str,
    /// The tool's name.
    pub tool: &'a str,
    /// The arguments as they came, or their digest.
    pub arguments: &'a [u8],
}

impl Repeats {
    /// Remembers nothing yet. The seed is random, so that nobody can plan what is forgotten.
    pub fn new(seed: u64) -> Self {
        Self { seed, places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Notes a call; whether it was made in the 5 minutes before. `now_s` is any clock in seconds
    /// that only goes forward.
    pub fn saw(&self, call: &CallKey<'_>, now_s: u64) -> bool {
        let fingerprint = self.fingerprint(call);
        let row = (fingerprint as usize % (PLACES / WAYS)) * WAYS;
        // An empty place is zero, so that no fingerprint is.
        let tag = fingerprint & !TIME_MASK | 1 << 63;
        let noted = tag | now_s & TIME_MASK;
        let (mut oldest, mut oldest_age) = (row, 0);
        for (place, known) in self.places[row..row + WAYS].iter().enumerate() {
            let value = known.load(Ordering::Relaxed);
            let age = now_s.wrapping_sub(value) & TIME_MASK;
            if value & !TIME_MASK == tag {
                known.store(noted, Ordering::Relaxed);
                return age <= REMEMBERED_S;
            }
            let age = if value == 0 { u64::MAX } else { age };
            if age >= oldest_age {
                (oldest, oldest_age) = (row + place, age);
            }
        }
        self.places[oldest].store(noted, Ordering::Relaxed);
        false
    }

    fn fingerprint(&self, call: &CallKey<'_>) -> u64 {
        let mut hash = self.seed;
        for part in [call.caller, call.server.as_bytes(), call.tool.as_bytes(), call.arguments] {
            hash = mix(hash, part);
        }
        // The row takes the low bits and the tag the high ones, of the same hash but for the time.
        fold(hash ^ self.seed.rotate_left(32), 0x9e37_79b9_7f4a_7c15)
    }
}

/// Mixes bytes in, eight at once; the length tells where a part ends.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let mut hash = fold(hash ^ bytes.len() as u64, 0xa076_1d64_78bd_642f);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), 0xe703_7ed1_a0b4_28db);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash ^ u64::from_le_bytes(last), 0x8ebc_6af0_9c88_c6e3)
}

/// Multiplies to twice the width and folds the halves: every bit of the result hangs on every one of
/// the operand. Adding first keeps an operand of zero from making all that follows zero.
fn fold(value: u64, by: u64) -> u64 {
    let wide = u128::from(value ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(by);
    (wide as u64 ^ (wide >> 64) as u64).wrapping_add(value)
}

#[cfg(test)]
mod tests {
    use super::{CallKey, PLACES, Repeats};

    const CALL: CallKey<'_> =
        CallKey { caller: &[1; 16], server: "files", tool: "read", arguments: br#"{"path":"/a"}"# };

    #[test]
    fn a_call_is_a_repeat_for_five_minutes() {
        let repeats = Repeats::new(7);
        for (now_s, expected) in [
            (1_000, false),
            (1_000, true),
            (1_300, true),
            (1_600, true),
            (1_901, false),
            (1_902, true),
        ] {
            assert_eq!(repeats.saw(&CALL, now_s), expected, "at {now_s}");
        }
    }

    #[test]
    fn another_call_is_none() {
        let repeats = Repeats::new(7);
        assert!(!repeats.saw(&CALL, 5));
        for other in [
            CallKey { caller: &[2; 16], ..CALL },
            CallKey { server: "file", tool: "sread", ..CALL },
            CallKey { tool: "write", ..CALL },
            CallKey { arguments: b"", ..CALL },
            CallKey { arguments: b"\0", ..CALL },
            CallKey { arguments: br#"{"path":"/b"}"#, ..CALL },
        ] {
            assert!(!repeats.saw(&other, 5), "{other:?}");
        }
        assert!(repeats.saw(&CALL, 5));
    }

    #[test]
    fn among_many_calls_few_are_forgotten_and_none_is_invented() {
        let repeats = Repeats::new(7);
        let see = |number: u32, now_s| {
            repeats.saw(&CallKey { arguments: &number.to_le_bytes(), ..CALL }, now_s)
        };
        let count = PLACES as u32 / 2;
        assert_eq!((0..count).filter(|number| see(*number, 10)).count(), 0);
        let known = (0..count).filter(|number| see(*number, 20)).count() as u32;
        assert!(known > count / 10 * 9, "{known} of {count} are known");
        // With more calls than there is room for, memory stays and the newest are known.
        for number in 0..4 * PLACES as u32 {
            see(number, 30 + u64::from(number >> 14));
        }
        let last = 4 * PLACES as u32 - 1000;
        let known = (last..last + 1000).filter(|number| see(*number, 60)).count();
        assert!(known > 900, "{known} of the last 1000 are known");
    }
}
