//! The replicas themselves: how many there are, and that something changed for all of them.

use redis::FromRedisValue;

use super::ask::Ask;
use super::name::Name;

/// A replica that said nothing for so long is gone.
const GONE_AFTER_MS: u64 = 3000;

/// Says that this replica lives, and hears how many do and what changed.
const HEARTBEAT: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], 86400000)
local versions = {}
for place = 3, #ARGV do
  versions[place - 2] = tonumber(redis.call('HGET', KEYS[2], ARGV[place]) or '0') or 0
end
return {redis.call('ZCARD', KEYS[1]), versions}
";

const LEAVE: &str = "return redis.call('ZREM', KEYS[1], ARGV[1])";

/// Something that every replica follows. A script that changes it adds one to its version, which is a
/// field of the hash of versions: `redis.call('HINCRBY', KEYS[n], ARGV[m], 1)` with
/// [`Store::versions`](super::Store::versions) and [`Topic::field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Endpoints, servers and routes that were registered.
    Registrations,
    /// Endpoints that are drained.
    Drains,
    /// Definitions that were approved.
    Pins,
    /// Keys that open nothing any more.
    Revocations,
    /// Sessions that moved or ended.
    Sessions,
}

impl Topic {
    pub(super) const ALL: [Self; 5] =
        [Self::Registrations, Self::Drains, Self::Pins, Self::Revocations, Self::Sessions];

    /// Its field in the hash of versions.
    pub fn field(self) -> &'static str {
        match self {
            Self::Registrations => "registrations",
            Self::Drains => "drains",
            Self::Pins => "pins",
            Self::Revocations => "revocations",
            Self::Sessions => "sessions",
        }
    }
}

/// What the last heartbeat heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// How often the store was reached anew: when it changes, everything must be read again, and
    /// what this replica knows must be written again.
    pub generation: u64,
    versions: [i64; Topic::ALL.len()],
}

impl Heard {
    /// The version of a topic, within its generation.
    pub fn version(&self, topic: Topic) -> (u64, i64) {
        (self.generation, self.versions.get(topic as usize).copied().unwrap_or(0))
    }
}

/// What a heartbeat is answered: replicas, and the versions of all topics.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) replicas: u32,
    versions: [i64; Topic::ALL.len()],
}

impl Beat {
    pub(super) fn ask(replicas: &Name, versions: &Name, instance: &str) -> Ask {
        let ask = Ask::new("heartbeat", HEARTBEAT).of(replicas).of(versions);
        let ask = ask.with(instance).with(GONE_AFTER_MS);
        Topic::ALL.iter().fold(ask, |ask, topic| ask.with(topic.field()))
    }

    pub(super) fn leave(replicas: &Name, instance: &str) -> Ask {
        Ask::new("heartbeat", LEAVE).of(replicas).with(instance)
    }

    pub(super) fn heard(&self, generation: u64) -> Heard {
        Heard { generation, versions: self.versions }
    }
}

impl FromRedisValue for Beat {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        let (replicas, versions): (u32, Vec<i64>) = redis::from_redis_value(value)?;
        let versions = versions.try_into().map_err(|_| redis::ParsingError::from("versions"))?;
        Ok(Self { replicas, versions })
    }
}
