//! Whether a use may follow what its caller did through any replica: one question to the store, which
//! marks the use in the same step.
//!
//! In the store a mark is a sorted set: the replicas where it counts, and until when. Each replica
//! renews what runs there ([`LEASE_US`]); one that dies leaves marks that end by themselves.

use std::sync::Arc;

use super::marks::{Key, Scope};
use crate::config::Mode;
use crate::shared::{Ask, Name, Store, digest};

/// What a mark of a running call outlives its last renewal by, in microseconds.
pub(super) const LEASE_US: u64 = 6_000_000;

/// `KEYS`: what is looked at, then what is marked. `ARGV`: the replica, how many are looked at, how
/// many marked and how long each counts; then for each alternative the place of its rule, whether
/// that is in force, and the places of one or two marks that must both be there.
/// Answers with the first rule in force that is met, or 0, the first in shadow, and until when what was
/// marked counts. Where a rule in force is met nothing is marked.
const SCRIPT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local looks, marks = tonumber(ARGV[2]), tonumber(ARGV[3])
local counts = {}
for place = 1, looks do
  local found = redis.call('ZCOUNT', KEYS[place], string.format('(%.0f', now), '+inf')
  counts[place] = found > 0
end
local shadow = 0
for at = 4 + marks, #ARGV, 4 do
  local rule, enforced = tonumber(ARGV[at]), ARGV[at + 1] == '1'
  local one, other = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if counts[one] and (other == 0 or counts[other]) then
    if enforced then return {rule, 0, {}} end
    if shadow == 0 then shadow = rule end
  end
end
local untils = {}
for place = 1, marks do
  local key, ends = KEYS[looks + place], now + tonumber(ARGV[3 + place])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
  redis.call('ZADD', key, 'GT', string.format('%.0f', ends), ARGV[1])
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIRE', key, math.ceil((last - now) / 1000))
  untils[place] = ends
end
return {0, shadow, untils}
";

/// Lets a mark count longer, or takes it back where it is still the one that was left.
const RENEW: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if ARGV[2] == 'back' then
  local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if score and tonumber(score) == tonumber(ARGV[3]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
  return 0
end
local ends = now + tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', ends), ARGV[1])
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIRE', KEYS[1], math.ceil((last - now) / 1000))
return ends
";

/// What the store is asked of one use.
#[derive(Debug)]
pub(super) struct Question {
    rules: Vec<(Arc<str>, Mode)>,
    looks: Vec<Key>,
    alternatives: Vec<[usize; 4]>,
    marks: Vec<(Key, u64)>,
}

/// What the store says of a use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A rule is met: the use must not be.
    Refused(Arc<str>),
    /// It may be, and each of its marks counts until then; a rule in shadow would have refused it.
    Marked { shadow: Option<Arc<str>>, untils: Vec<u64> },
    /// Nothing, or nothing that makes sense.
    Nothing,
}

impl Question {
    pub(super) fn new() -> Self {
        Self { rules: Vec::new(), looks: Vec::new(), alternatives: Vec::new(), marks: Vec::new() }
    }

    /// One more rule that refuses the use where all marks of one of its alternatives are there.
    pub(super) fn refuse(
        &mut self,
        rule: (&Arc<str>, Mode),
        alternatives: impl Iterator<Item = (Key, Option<Key>)>,
    ) {
        self.rules.push((Arc::clone(rule.0), rule.1));
        for (one, other) in alternatives {
            let one = self.look(one);
            let other = other.map_or(0, |other| self.look(other));
            let is_enforced = usize::from(rule.1 == Mode::Enforce);
            self.alternatives.push([self.rules.len(), is_enforced, one, other]);
        }
    }

    /// One more rule that remembers the use.
    pub(super) fn mark(&mut self, rule: (&Arc<str>, Mode), key: Key, keep_ms: u64) {
        self.rules.push((Arc::clone(rule.0), rule.1));
        self.marks.push((key, keep_ms));
    }

    /// The rule in force that cannot be followed while the store is away.
    pub(super) fn in_force(&self) -> Option<&Arc<str>> {
        self.rules.iter().find(|(_, mode)| *mode == Mode::Enforce).map(|(name, _)| name)
    }

    /// Asks the store, and waits for it as long as a request may.
    pub(super) async fn put(&self, store: &Store) -> Said {
        let names = self.looks.iter().chain(self.marks.iter().map(|(key, _)| key));
        let ask = Ask::new("combinations", SCRIPT);
        let ask = names.fold(ask, |ask, key| ask.of(&name(store, key)));
        let ask = ask.with(store.instance()).with(self.looks.len()).with(self.marks.len());
        let lease = |keep_ms: u64| keep_ms.saturating_mul(1000).saturating_add(LEASE_US);
        let ask = self.marks.iter().fold(ask, |ask, (_, keep_ms)| ask.with(lease(*keep_ms)));
        let ask = self.alternatives.iter().fold(ask, |ask, alternative| ask.with(&alternative[..]));
        let Ok((refused, shadow, untils)) = store.ask::<(usize, usize, Vec<u64>)>(&ask).await
        else {
            return Said::Nothing;
        };
        let rule =
            |place: usize| self.rules.get(place.wrapping_sub(1)).map(|(name, _)| Arc::clone(name));
        match (refused, rule(refused)) {
            (0, _) if untils.len() == self.marks.len() => {
                Said::Marked { shadow: rule(shadow), untils }
            }
            (_, Some(rule)) => Said::Refused(rule),
            _ => Said::Nothing,
        }
    }

    /// The place of a mark among those that are looked at, from one.
    fn look(&mut self, key: Key) -> usize {
        let known = self.looks.iter().position(|look| *look == key);
        let place = known.unwrap_or_else(|| {
            self.looks.push(key);
            self.looks.len() - 1
        });
        place + 1
    }
}

/// Lets a mark of this replica count for so long from now.
pub(super) async fn renew(store: &Store, key: &Key, keep_ms: u64) -> Option<u64> {
    let keep_us = keep_ms.saturating_mul(1000).saturating_add(LEASE_US);
    let ask = Ask::new("combinations", RENEW).of(&name(store, key));
    store.ask(&ask.with(store.instance()).with("renew").with(keep_us)).await.ok()
}

/// Takes back a mark of this replica, unless it was marked anew.
pub(super) async fn take_back(store: &Store, key: &Key, until_us: u64) -> Option<()> {
    let ask = Ask::new("combinations", RENEW).of(&name(store, key));
    let taken = store.ask::<i64>(&ask.with(store.instance()).with("back").with(until_us)).await;
    taken.ok().map(drop)
}

/// All marks of one caller lie in one slot.
fn name(store: &Store, key: &Key) -> Name {
    let (kind, place): (&[u8], &[u8]) = match &key.scope {
        Scope::Session(session) => (b"session", &session.0),
        Scope::Server(server) => (b"server", &server.to_le_bytes()),
        Scope::Sessionless => (b"sessionless", b""),
        Scope::Caller => (b"caller", b""),
    };
    let id = digest("mark", &[&key.combination.to_le_bytes(), kind, place]);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    store.name("marks", &key.caller, &id)
}
