//! The keys of `shared`: one row for each, with a value that is not the default, and what is refused.

use std::time::Duration;

use super::completed;
use super::keys::Row;
use crate::config::{Settings, Shared, Topology, WhenAway, parse};

macro_rules! with {
    ($rest:literal) => {
        concat!(
            "sessions: { keys: [an-example-of-a-key-that-everybody-knows] }\nshared: { ",
            $rest,
            " }\n"
        )
    };
}

fn shared(settings: &Settings) -> &Shared {
    settings.shared.as_ref().unwrap()
}

pub(super) const SHARED: &[Row] = &[
    ("shared", with!("redis: redis://a"), |s| shared(s).prefix == "toolgate"),
    ("shared.redis", with!("redis: valkeys://:secret@store:1"), |s| {
        shared(s).redis.expose() == "rediss://:secret@store:1"
    }),
    ("shared.topology", with!("redis: redis://a, topology: cluster"), |s| {
        shared(s).topology == Topology::Cluster
    }),
    ("shared.ca", with!("redis: rediss://a, ca: tls.crt"), |s| {
        shared(s).ca.as_ref().is_some_and(|ca| ca.ends_with("tls.crt"))
    }),
    ("shared.wait", with!("redis: redis://a, wait: 5ms"), |s| {
        shared(s).wait == Duration::from_millis(5)
    }),
    ("shared.prefix", with!("redis: redis://a, prefix: a.b"), |s| shared(s).prefix == "a.b"),
    ("shared.combinations", with!("redis: redis://a, combinations: open"), |s| {
        shared(s).combinations == WhenAway::Open
    }),
];

#[test]
fn what_cannot_be_shared_is_told() {
    for (text, expected) in [
        ("shared: {}\n", "the key `redis` is missing"),
        ("shared: { redis: redis://a }\n", "replicas share nothing without a key in common"),
        (with!("redis: http://a"), "this is no address of a store"),
        (with!("redis: redis://"), "this is no address of a store"),
        (with!("redis: redis://a, wait: 2s"), "the wait is 1ms to 1s"),
        (with!("redis: redis://a, prefix: 'a b'"), "this cannot begin a key"),
        (with!("redis: redis://a, prefix: '{a}'"), "this cannot begin a key"),
        (with!("redis: redis://a, topology: sentinel"), "single"),
    ] {
        let problems = parse(&completed(text), "t", &|_| None).expect_err(text).to_string();
        assert!(problems.contains(expected), "{text}: {problems}");
    }
    let secret = with!("redis: hunter2");
    let problems = parse(&completed(secret), "t", &|_| None).expect_err(secret).to_string();
    assert!(!problems.contains("hunter2"), "{problems}");
}

#[test]
fn what_replicas_would_not_share_is_told() {
    let note = |text: &str| parse(&completed(text), "t", &|_| None).unwrap().unshared();
    assert_eq!(note(""), None);
    assert_eq!(note(with!("redis: redis://a")), None);
    let keys = "sessions: { keys: [an-example-of-a-key-that-everybody-knows] }\n";
    assert!(note(keys).unwrap().ends_with("each has its own moves and last use of sessions"));
    let limits = format!("{keys}limits: [{{ name: a, key: [caller], rate: 1/s }}]\n");
    assert!(note(&limits).unwrap().contains("its own limits, moves"), "{:?}", note(&limits));
}

#[test]
fn a_running_process_keeps_its_store() {
    let settings = |text: &str| parse(&completed(text), "t", &|_| None).unwrap();
    let (alone, one) = (settings(""), settings(with!("redis: redis://a")));
    let other = settings(with!("redis: redis://b"));
    assert_eq!(alone.immovable_changes(&one), ["shared"]);
    assert_eq!(one.immovable_changes(&other), ["shared"]);
    assert_eq!(one.immovable_changes(&one), [""; 0]);
}
