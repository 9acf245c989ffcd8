//! The peek against two other parsers and against its own rules written a second time.

#[path = "peek/generator.rs"]
mod generator;
#[path = "peek/oracle.rs"]
mod oracle;
#[path = "peek/rules.rs"]
mod rules;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::test_runner::Config;
use std::collections::BTreeMap;
use std::fmt::Write;
use toolgate::jsonrpc::FaultClass;

proptest! {
    #![proptest_config(Config { cases: 3000, ..Config::default() })]

    #[test]
    fn generated_messages_are_judged_alike(choices in vec(any::<u8>(), 0..160)) {
        _ = oracle::judge(&generator::body(&choices));
    }

    #[test]
    fn arbitrary_bytes_are_judged_alike(body in vec(any::<u8>(), 0..64)) {
        _ = oracle::judge(&body);
    }
}

/// `TOOLGATE_PEEK_CASES=5000000 cargo test --release --test peek -- --nocapture` is the long run.
#[test]
fn many_cases_are_judged_alike_and_every_class_is_met() {
    let cases = std::env::var("TOOLGATE_PEEK_CASES").map_or(20_000, |cases| cases.parse().unwrap());
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..cases {
        let mut choices = [0; 192];
        for eight in choices.chunks_exact_mut(8) {
            // Xorshift: the same cases in every run, on every machine.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            eight.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes());
        }
        let verdict = oracle::judge(&generator::body(&choices))
            .map_or_else(FaultClass::name, |()| "accepted");
        *verdicts.entry(verdict).or_default() += 1;
    }
    let mut report = format!("{cases} cases\n");
    for (verdict, count) in &verdicts {
        _ = writeln!(report, "{count:>9} {verdict}");
    }
    eprint!("{report}");
    for class in FaultClass::ALL {
        assert!(verdicts.contains_key(class.name()), "no case of {class:?}:\n{report}");
    }
    assert!(verdicts["accepted"] > cases / 5, "{report}");
}
