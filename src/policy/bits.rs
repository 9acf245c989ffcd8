//! Sets of rules, a bit for each.

/// A set of rules, by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    /// The empty set of so many rules.
    pub(super) fn none(rules: usize) -> Self {
        Self(vec![0; rules.div_ceil(64)].into())
    }

    /// The rules that fulfil something.
    pub(super) fn of(rules: usize, fulfils: impl Fn(usize) -> bool) -> Self {
        let mut bits = Self::none(rules);
        (0..rules).filter(|rule| fulfils(*rule)).for_each(|rule| bits.insert(rule));
        bits
    }

    pub(super) fn insert(&mut self, rule: usize) {
        self.0[rule / 64] |= 1 << (rule % 64);
    }

    pub(super) fn contains(&self, rule: usize) -> bool {
        self.0[rule / 64] & (1 << (rule % 64)) != 0
    }

    /// The rules that are in all of these sets, in order; nothing is allocated.
    pub(super) fn in_all<'b, const N: usize>(
        sets: [&'b Self; N],
    ) -> impl Iterator<Item = usize> + use<'b, N> {
        let words = sets.map(|set| set.0.len()).into_iter().min().unwrap_or(0);
        (0..words).flat_map(move |word| {
            let mut left = sets.iter().fold(u64::MAX, |all, set| all & set.0[word]);
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(word * 64 + bit)
            })
        })
    }

    /// Whether some rule is in all of these sets.
    pub(super) fn meet<const N: usize>(sets: [&Self; N]) -> bool {
        Self::in_all(sets).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn intersections_come_in_order() {
        let all = Bits::of(130, |_| true);
        let even = Bits::of(130, |rule| rule % 2 == 0);
        let late = Bits::of(130, |rule| rule >= 63);
        assert_eq!(Bits::in_all([&all]).count(), 130);
        let found: Vec<usize> = Bits::in_all([&all, &even, &late]).collect();
        assert_eq!(found, (64..130).step_by(2).collect::<Vec<_>>());
        assert!(!Bits::meet([&late, &Bits::of(130, |rule| rule < 63)]));
        assert!(Bits::meet([&even, &Bits::of(130, |rule| rule == 0)]));
        assert!(late.contains(129) && !late.contains(0));
        assert_eq!(Bits::in_all([&Bits::none(0)]).count(), 0);
    }
}
