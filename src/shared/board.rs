//! What every replica has in common and any may change, as fields with a value each: merged three ways.
//!
//! A replica remembers what it and the store last agreed on. What it changed since goes to the store,
//! what the store has else is taken over; where both changed, the store of a replica that had no say
//! yet wins, else who writes last. A field that was removed stays as a mark, so that it can be told
//! from one that the store has lost, which is written again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ask::Ask;
use super::fleet::Topic;
use super::link::Away;
use super::store::Store;

/// What stays for good is written again before that.
const LASTS_US: u64 = 30 * 24 * 3600 * 1_000_000;
/// Fields of one board.
const FIELDS_MAX: usize = 50_000;
/// One value, sealed.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Two times are the same if they are so close: each replica counts from when it read the store's.
const CLOSE_US: u64 = 2_000_000;
/// The member of a value that says when it is over, by the store's clock.
const UNTIL: &str = "until_us";

const READ: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local all = redis.call('HGETALL', KEYS[1])
local found = {}
for at = 1, #all, 2 do
  local ends = tonumber(string.sub(all[at + 1], 1, 20)) or 0
  if ends > now then
    found[#found + 1] = {all[at], string.sub(all[at + 1], 21)}
  else
    redis.call('HDEL', KEYS[1], all[at])
  end
end
return {now, found}
";

const WRITE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0
    and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return redis.error_reply('the board is full')
end
local ends = tonumber(ARGV[4])
if ends == 0 then ends = now + tonumber(ARGV[5]) end
redis.call('HSET', KEYS[1], ARGV[3], string.format('%020.0f', ends) .. ARGV[6])
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[5]) / 1000))
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
redis.call('PEXPIRE', KEYS[2], math.ceil(tonumber(ARGV[5]) / 1000))
return now
";

/// Fields and their values. `null` is a field that was removed.
pub type Fields = BTreeMap<String, Value>;

/// What a replica knows of one board.
#[derive(Debug)]
pub struct Board {
    topic: Topic,
    remote: Fields,
    agreed: Fields,
    /// What could not be taken over here, so that it is not tried again and not removed there.
    refused: Fields,
    read_at: Option<(u64, i64)>,
}

/// What is to be done so that replica and store agree.
#[derive(Debug, Default, PartialEq)]
pub struct Steps {
    /// To be written to the store.
    pub put: Fields,
    /// To be taken over by the replica.
    pub take: Fields,
}

impl Board {
    /// A board that nobody has looked at yet.
    pub fn new(topic: Topic) -> Self {
        let (remote, agreed, refused) = (Fields::new(), Fields::new(), Fields::new());
        Self { topic, remote, agreed, refused, read_at: None }
    }

    /// Reads the store where it has changed, and tells what it says the time is then.
    ///
    /// # Errors
    /// When it does not answer; what was read before stays.
    pub async fn read(
        &mut self,
        store: &Store,
        is_kept: fn(&str) -> bool,
    ) -> Result<Option<u64>, Away> {
        let version = store.heard().borrow().version(self.topic);
        if self.read_at == Some(version) {
            return Ok(None);
        }
        let ask = Ask::new("board", READ).of(&store.of_fleet(self.topic.field()));
        let (now_us, found): (u64, Vec<(String, Vec<u8>)>) = store.ask(&ask).await?;
        let read = found.into_iter().take(FIELDS_MAX).filter_map(|(field, sealed)| {
            let opened = store.open(&self.name(store, &field), &sealed)?;
            let value = slim(serde_json::from_slice(&opened).ok()?, is_kept);
            Some((field, value))
        });
        self.remote = read.collect();
        self.read_at = Some(version);
        Ok(Some(now_us))
    }

    /// One value as it lies in the store, whole.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn whole(&self, store: &Store, field: &str) -> Result<Option<Value>, Away> {
        let ask = Ask::new("board", "return redis.call('HGET', KEYS[1], ARGV[1])");
        let ask = ask.of(&store.of_fleet(self.topic.field())).with(field);
        let sealed: Option<Vec<u8>> = store.ask(&ask).await?;
        let sealed = sealed.and_then(|sealed| sealed.get(20..).map(<[u8]>::to_vec));
        let opened = sealed.and_then(|sealed| store.open(&self.name(store, field), &sealed));
        Ok(opened.and_then(|opened| serde_json::from_slice(&opened).ok()))
    }

    /// Writes one value, of which `slim` is what is remembered here.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn write(
        &mut self,
        store: &Store,
        (field, slim, whole): (String, Value, &Value),
    ) -> Result<(), Away> {
        let sealed = store.seal(&self.name(store, &field), whole.to_string().as_bytes())?;
        if sealed.len() > VALUE_BYTES_MAX {
            tracing::warn!(field, "too large for the shared store; other replicas do not see it");
            self.refused.insert(field, slim);
            return Ok(());
        }
        let ask = Ask::new("board", WRITE);
        let ask = ask.of(&store.of_fleet(self.topic.field())).of(&store.versions());
        let ask = ask.with(self.topic.field()).with(FIELDS_MAX).with(&field);
        store.ask::<u64>(&ask.with(until(whole).unwrap_or(0)).with(LASTS_US).with(sealed)).await?;
        self.remote.insert(field.clone(), slim.clone());
        self.agreed.insert(field, slim);
        Ok(())
    }

    /// What it is about.
    pub fn topic(&self) -> Topic {
        self.topic
    }

    /// Lets what could not be taken over be tried again.
    pub fn retry(&mut self) {
        self.refused.clear();
    }

    /// What was taken over: from now on a change of it is this replica's.
    pub fn taken(&mut self, field: String, value: Value) {
        self.agreed.insert(field, value);
    }

    /// What was to be taken over and could not be. It is tried again when it changes.
    pub fn refuse(&mut self, field: String, value: Value) {
        self.refused.insert(field, value);
    }

    /// Compares what the replica has with the store. `now_us` is the store's time.
    pub fn compare(&mut self, local: &Fields, now_us: u64) -> Steps {
        let mut steps = Steps::default();
        let is_over = |value: &Value| until(value).is_some_and(|until| until <= now_us);
        self.remote.retain(|_, value| !is_over(value));
        self.agreed.retain(|_, value| !is_over(value));
        let fields: BTreeSet<String> = local.keys().chain(self.remote.keys()).cloned().collect();
        for field in fields {
            let (own, there) = (local.get(&field), self.remote.get(&field));
            let agreed = self.agreed.get(&field);
            let agrees = |value: &Value| agreed.is_some_and(|agreed| is_same(agreed, value));
            let step = match (own, there) {
                (None, None) => None,
                (Some(own), Some(there)) if is_same(own, there) => {
                    self.agreed.insert(field, there.clone());
                    continue;
                }
                (None, Some(Value::Null)) => {
                    self.agreed.insert(field, Value::Null);
                    continue;
                }
                (Some(own), None) => Some((&mut steps.put, own.clone())),
                (None, Some(there)) if agrees(there) => Some((&mut steps.put, Value::Null)),
                (None, Some(there)) => Some((&mut steps.take, there.clone())),
                (Some(own), Some(there)) if agreed.is_none() || agrees(own) => {
                    Some((&mut steps.take, there.clone()))
                }
                (Some(own), Some(_)) => Some((&mut steps.put, own.clone())),
            };
            if let Some((steps, value)) = step
                && self.refused.get(&field) != Some(&value)
            {
                steps.insert(field, value);
            }
        }
        steps
    }

    fn name(&self, store: &Store, field: &str) -> super::Name {
        store.of_fleet(&format!("{}/{field}", self.topic.field()))
    }
}

/// Until when a value counts, by the store's clock.
fn until(value: &Value) -> Option<u64> {
    value.get(UNTIL)?.as_u64()
}

/// The value without the members that are only read when they are needed.
pub fn slim(mut value: Value, is_kept: fn(&str) -> bool) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|name, _| is_kept(name));
    }
    value
}

/// Whether two values say the same; times may differ a little.
fn is_same(one: &Value, other: &Value) -> bool {
    let (Value::Object(own), Value::Object(others)) = (one, other) else { return one == other };
    let is_close = |name: &str, value: &Value| match (value.as_u64(), others.get(name)) {
        (Some(own), Some(other)) if name.ends_with("_us") => {
            other.as_u64().is_some_and(|other| own.abs_diff(other) <= CLOSE_US)
        }
        (_, other) => other == Some(value),
    };
    own.len() == others.len() && own.iter().all(|(name, value)| is_close(name, value))
}

#[cfg(test)]
mod tests {
    use super::{Board, Fields, Steps, Topic};
    use serde_json::{Value, json};

    fn fields(list: &[(&str, Value)]) -> Fields {
        list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn board(agreed: &[(&str, Value)], remote: &[(&str, Value)]) -> Board {
        let (agreed, remote) = (fields(agreed), fields(remote));
        Board { agreed, remote, ..Board::new(Topic::Drains) }
    }

    #[test]
    fn who_changed_something_is_followed() {
        let (a, b, c, gone) = (json!({"v": 1}), json!({"v": 2}), json!({"v": 3}), Value::Null);
        let take =
            |value: &Value| Steps { take: fields(&[("x", value.clone())]), ..Steps::default() };
        let put =
            |value: &Value| Steps { put: fields(&[("x", value.clone())]), ..Steps::default() };
        let nothing = Steps::default;
        for (agreed, own, there, expected) in [
            (None, None, None, nothing()),
            (None, Some(&a), Some(&a), nothing()),
            (None, Some(&a), None, put(&a)),
            (None, None, Some(&a), take(&a)),
            // Who had no say yet is told.
            (None, Some(&a), Some(&b), take(&b)),
            (None, Some(&a), Some(&gone), take(&gone)),
            (Some(&a), Some(&a), Some(&b), take(&b)),
            (Some(&a), Some(&a), Some(&gone), take(&gone)),
            (Some(&a), Some(&b), Some(&a), put(&b)),
            (Some(&a), None, Some(&a), put(&gone)),
            // Both changed.
            (Some(&a), Some(&b), Some(&c), put(&b)),
            (Some(&a), None, Some(&b), take(&b)),
            (Some(&gone), Some(&a), Some(&gone), put(&a)),
            (Some(&gone), None, Some(&gone), nothing()),
            // The store has lost it.
            (Some(&a), Some(&a), None, put(&a)),
            (Some(&a), None, None, nothing()),
        ] {
            let list = |value: Option<&Value>| value.map(|value| ("x", value.clone()));
            let list = |value| list(value).into_iter().collect::<Vec<_>>();
            let mut board = board(&list(agreed), &list(there));
            let found = board.compare(&fields(&list(own)), 0);
            assert_eq!(found, expected, "{agreed:?} {own:?} {there:?}");
        }
    }

    #[test]
    fn times_pass_and_are_never_quite_the_same() {
        let lease = |until_us: u64| ("x", json!({ "url": "u", "until_us": until_us }));
        let mut board = board(&[], &[lease(10_000_000)]);
        assert_eq!(board.compare(&fields(&[lease(11_000_000)]), 0), Steps::default());
        let renewed = fields(&[lease(20_000_000)]);
        assert_eq!(board.compare(&renewed, 0).put, renewed);
        // It ended by itself: nobody removed it.
        assert_eq!(board.compare(&Fields::new(), 10_000_000), Steps::default());
        assert!(board.remote.is_empty());
    }

    #[test]
    fn what_cannot_be_taken_is_neither_tried_again_nor_removed() {
        let a = ("x", json!(1));
        let mut board = board(&[], std::slice::from_ref(&a));
        assert_eq!(board.compare(&Fields::new(), 0).take, fields(std::slice::from_ref(&a)));
        board.refuse("x".to_owned(), json!(1));
        assert_eq!(board.compare(&Fields::new(), 0), Steps::default());
        board.remote = fields(&[("x", json!(2))]);
        assert_eq!(board.compare(&Fields::new(), 0).take, board.remote);
    }
}
