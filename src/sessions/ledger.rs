//! What replicas write down of their sessions in the store, so that each finds what another has done.
//!
//! The values are sealed, so the store cannot tell one from another: whoever changes one says what it
//! has read before, and finds out when somebody was faster.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::account::{ACCOUNT_BYTES_MAX, Account, Alive, Spot};
use super::entry::{Named, Restore};
use super::table::Subscription;
use crate::shared::{Ask, Away, Name, Store, Topic, digest};

/// A claim of a replica that died holds for so long; one that lives renews it.
const CLAIM_MS: u64 = 2000;
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whether another replica has moved a session.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What waits to be written at the most.
const NOTES_MAX: usize = 16 * 1024;
/// How often a change is tried that others were faster with.
const TRIES_MAX: u32 = 4;
/// How often a session may be said to be somewhere else before it is claimed.
const CHANGES_MAX: u32 = 16;
/// What the feed keeps of what became of sessions. Who is further behind looks each of its own up.
const FEED_MAX: usize = 16 * 1024;
/// Between the two times that a replica asks about a session that seems to be used nowhere lies half
/// of this, or half of the time that it may idle.
const DOOMED_S_MIN: u32 = 4;
/// What is read of it at once.
pub(super) const FEED_BATCH: i64 = 2048;
/// The feed and its versions outlive a quiet day.
const FEED_MS: u64 = 24 * 60 * 60 * 1000;

/// Reads a value of bounded length; somebody else's value of another kind is none.
macro_rules! with_read {
    ($script:literal) => {
        concat!(
            "local function read(name)
  local value = redis.pcall('GETRANGE', name, 0, 32767)
  if type(value) ~= 'string' then return '' end
  return value
end
",
            $script
        )
    };
}

const LOOK: &str = with_read!(
    "if tonumber(ARGV[1]) > 0 then redis.pcall('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return read(KEYS[2])"
);

const CLAIM: &str = with_read!(
    "local value = read(KEYS[1])
if value ~= ARGV[1] then return {0, value} end
if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then return {1, ''} end
if read(KEYS[2]) ~= ARGV[2] then return {2, ''} end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {1, ''}"
);

const RENEW: &str = with_read!(
    "if read(KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
);

const WRITE: &str = with_read!(
    "local value = read(KEYS[1])
if value ~= ARGV[1] then return {0, value} end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if ARGV[4] ~= '' and read(KEYS[2]) == ARGV[4] then redis.call('DEL', KEYS[2]) end
return {1, ''}"
);

const END: &str = "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1";

/// A use is never forgotten earlier because of an older one.
const USED: &str = "
local left = redis.pcall('PTTL', KEYS[1])
if type(left) ~= 'number' or left < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
end
return 1";

/// A session that seems to be used nowhere is asked about twice: a replica that uses it has said so
/// meanwhile, even if the store had forgotten everything.
const REAP: &str = with_read!(
    "if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('DEL', KEYS[2])
  return {0, ''}
end
if read(KEYS[3]) ~= '' then return {2, ''} end
local left = redis.call('PTTL', KEYS[2])
if left < 0 then
  redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
  return {1, ''}
end
if left > ARGV[1] / 2 then return {1, ''} end
redis.call('SET', KEYS[3], '1', 'PX', ARGV[2])
local value = read(KEYS[5])
redis.call('SET', KEYS[4], ARGV[3], 'PX', ARGV[2])
if KEYS[5] ~= KEYS[4] then redis.call('SET', KEYS[5], ARGV[4], 'PX', ARGV[2]) end
return {3, value}"
);

const TELL: &str = "
for place = 4, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[place]) end
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[3], #ARGV - 3)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1";

const HEAR: &str = "
local version = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0') or 0
local behind = version - ARGV[2]
if behind <= 0 then return {version, {}} end
return {version, redis.call('LRANGE', KEYS[1], math.max(behind - ARGV[3], 0), behind - 1)}";

/// What becomes of a session here, and is to be written down.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Ended,
    Level(u8),
    Subscription(Box<str>, Subscription),
    Opening(Box<[u8]>),
    /// The store may have lost what the table knows.
    Anew,
}

/// What became of a session elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Ended,
    /// It lives somewhere else.
    Changed,
}

/// What the store says of a session of which nobody heard for a while here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// Another replica uses it.
    UsedElsewhere,
    /// Nobody uses it, as it seems; it is to be asked once more.
    Perhaps,
    /// Another replica ends it.
    EndedElsewhere,
    /// It is this replica's to end, and was said to live there.
    Ours(Option<Spot>),
}

/// Whose move of a session it is.
pub enum Turn {
    /// This replica's.
    Ours(Claim),
    /// Another replica has moved it already.
    Moved(Alive),
    /// It is over.
    Over,
}

/// The right to move a session, until it is used, given up or lapses.
pub struct Claim {
    named: Named,
    /// What was read of the session, as it lies in the store.
    read: Vec<u8>,
    alive: Option<Alive>,
}

impl Claim {
    /// What must be made anew, if the store knows.
    pub fn restore(&self) -> Option<&Restore> {
        self.alive.as_ref().map(|alive| &alive.restore)
    }
}

/// What replicas write down.
pub struct Ledger {
    pub(super) store: Arc<Store>,
    notes: Mutex<VecDeque<(Named, Change)>>,
    pub(super) noted: Notify,
    /// Counts what was heard of any session.
    pub(super) news: AtomicU64,
}

impl Ledger {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, notes: Mutex::default(), noted: Notify::new(), news: AtomicU64::new(0) }
    }

    /// Remembers a change until it is written. What is too much is not: the others find out when they
    /// use the session.
    pub(super) fn note(&self, named: Named, change: Change) {
        let mut notes = self.notes.lock();
        if notes.len() < NOTES_MAX {
            notes.push_back((named, change));
            drop(notes);
            self.noted.notify_one();
        }
    }

    pub(super) fn take_notes(&self, count: usize) -> Vec<(Named, Change)> {
        let mut notes = self.notes.lock();
        let count = count.min(notes.len());
        notes.drain(..count).collect()
    }

    /// What the store says of a session. It is told that the session is used, for as long as that.
    pub(super) async fn look(&self, named: Named, used_ms: u64) -> Result<Option<Account>, Away> {
        let name = self.name(named, "place");
        let ask = self.script(LOOK).of(&self.name_of_session(named, "used")).of(&name);
        let read: Vec<u8> = self.store.ask(&ask.with(used_ms)).await?;
        Ok(self.open(&name, &read))
    }

    /// Claims the move of a session away from where it is, or follows the replica that has moved it:
    /// to wherever `is_other` says that this replica can use. Waits while another one is moving it.
    ///
    /// # Errors
    /// When the store is away: then each replica moves for itself.
    pub async fn claim(
        &self,
        named: Named,
        is_other: impl Fn(&Spot) -> bool,
    ) -> Result<Turn, Away> {
        let (name, claim) = (self.name(named, "place"), self.name(named, "claim"));
        let (mut read, mut alive, mut changes) = (Vec::new(), None, 0);
        while changes < CHANGES_MAX {
            let ask = self.script(CLAIM).of(&name).of(&claim).with(&read[..]);
            let ask = ask.with(self.store.instance()).with(CLAIM_MS);
            let (answer, value): (u8, Vec<u8>) = self.store.ask(&ask).await?;
            match answer {
                0 => {
                    changes += 1;
                    alive = match self.open(&name, &value) {
                        Some(Account::Ended) => return Ok(Turn::Over),
                        Some(Account::Alive(there))
                            if there.spot.as_ref().is_some_and(&is_other) =>
                        {
                            return Ok(Turn::Moved(there));
                        }
                        Some(Account::Alive(there)) => Some(there),
                        None => None,
                    };
                    read = value;
                }
                1 => return Ok(Turn::Ours(Claim { named, read, alive })),
                2 => tokio::time::sleep(LOOK_EVERY).await,
                _ => return Err(Away),
            }
        }
        // A store that always says something else makes no sense.
        Err(Away)
    }

    /// Does the work while the claim is kept.
    pub async fn keep<T>(&self, claim: &Claim, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(RENEW_EVERY, &mut work).await {
                return done;
            }
            self.renew(claim, CLAIM_MS).await;
        }
    }

    /// Gives the claim up.
    pub async fn give_up(&self, claim: &Claim) {
        self.renew(claim, 0).await;
    }

    async fn renew(&self, claim: &Claim, ms: u64) {
        let ask = self.script(RENEW).of(&self.name(claim.named, "claim"));
        let ask = ask.with(self.store.instance()).with(ms);
        // If the store is away, the claim lapses; who comes too late notices when it writes.
        self.store.ask::<i64>(&ask).await.ok();
    }

    /// Writes where the session lives now, and lets all replicas know. Where it lives instead, if
    /// another replica was faster, because this one was frozen and its claim lapsed.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn settle(
        &self,
        claim: Claim,
        moved: &Alive,
        is_other: impl Fn(&Spot) -> bool,
        lifetime_s: u32,
    ) -> Result<Option<Account>, Away> {
        let Claim { named, mut read, alive } = claim;
        let mut moved = moved.clone();
        if let Some(Alive { restore, .. }) = alive {
            moved.restore = restore;
        }
        for _ in 0..TRIES_MAX {
            let instance = self.store.instance();
            let account = Account::Alive(moved.clone());
            match self.write(named, &read, &account, instance, lifetime_s).await {
                Ok(None) => {
                    self.tell(&[(named, News::Changed)]).await.ok();
                    return Ok(None);
                }
                Ok(Some(value)) => read = value,
                // It may have been written, only nobody heard of it in time.
                Err(Away) => continue,
            }
            match self.open(&self.name(named, "place"), &read) {
                Some(Account::Ended) => return Ok(Some(Account::Ended)),
                Some(Account::Alive(other)) => {
                    if other.spot == moved.spot {
                        self.tell(&[(named, News::Changed)]).await.ok();
                        return Ok(None);
                    }
                    if other.spot.as_ref().is_some_and(&is_other) {
                        return Ok(Some(Account::Alive(other)));
                    }
                    moved.restore = other.restore;
                }
                None => {}
            }
        }
        Err(Away)
    }

    /// Changes what the store says of a session, whatever it said before. Whether it says something
    /// else now.
    pub(super) async fn amend(
        &self,
        named: Named,
        lifetime_s: u32,
        change: impl Fn(Option<Account>) -> Option<Account>,
    ) -> Result<bool, Away> {
        let name = self.name(named, "place");
        let ask = self.script(LOOK).of(&self.name_of_session(named, "used")).of(&name);
        let mut read: Vec<u8> = self.store.ask(&ask.with(0)).await?;
        for _ in 0..TRIES_MAX {
            let Some(account) = change(self.open(&name, &read)) else { return Ok(false) };
            match self.write(named, &read, &account, "", lifetime_s).await? {
                None => return Ok(true),
                Some(value) => read = value,
            }
        }
        Ok(false)
    }

    /// What lies there instead, if it is not what was read before.
    async fn write(
        &self,
        named: Named,
        read: &[u8],
        account: &Account,
        claimed_by: &str,
        lifetime_s: u32,
    ) -> Result<Option<Vec<u8>>, Away> {
        let (name, claim) = (self.name(named, "place"), self.name(named, "claim"));
        let sealed = self.store.seal(&name, &account.write().ok_or(Away)?)?;
        let ask = self.script(WRITE).of(&name).of(&claim).with(read).with(sealed);
        let ask = ask.with(u64::from(lifetime_s) * 1000).with(claimed_by);
        let (is_written, value): (u8, Vec<u8>) = self.store.ask(&ask).await?;
        Ok((is_written == 0).then_some(value))
    }

    /// A session is over, whatever else is said of it.
    pub(super) async fn end(&self, named: Named, lifetime_s: u32) -> Result<(), Away> {
        let name = self.name(named, "place");
        let ask = self.script(END).of(&name).with(self.ended(&name)?);
        self.store.ask::<i64>(&ask.with(u64::from(lifetime_s) * 1000)).await?;
        Ok(())
    }

    /// A session is used here, and counts as used for as long as that.
    pub(super) async fn used(&self, named: Named, used_ms: u64) -> Result<(), Away> {
        let ask = self.script(USED).of(&self.name_of_session(named, "used"));
        self.store.ask::<i64>(&ask.with(used_ms)).await.map(|_| ())
    }

    /// Asks whether a session may be ended that nobody uses here, and lets it be over if so.
    pub(super) async fn reap(
        &self,
        named: Named,
        idle_s: u32,
        lifetime_s: u32,
    ) -> Result<Idle, Away> {
        let (session, name) = (self.name_of_session(named, "place"), self.name(named, "place"));
        let ask = self.script(REAP).of(&self.name_of_session(named, "used"));
        let ask = ask.of(&self.name(named, "doomed")).of(&self.name(named, "reaped"));
        let ask = ask.of(&session).of(&name);
        let ask =
            ask.with(u64::from(idle_s.max(DOOMED_S_MIN)) * 1000).with(u64::from(lifetime_s) * 1000);
        let ask = ask.with(self.ended(&session)?).with(self.ended(&name)?);
        let (answer, value): (u8, Vec<u8>) = self.store.ask(&ask).await?;
        Ok(match answer {
            0 => Idle::UsedElsewhere,
            1 => Idle::Perhaps,
            2 => Idle::EndedElsewhere,
            3 => match self.open(&name, &value) {
                Some(Account::Ended) => Idle::EndedElsewhere,
                Some(Account::Alive(alive)) => Idle::Ours(alive.spot),
                None => Idle::Ours(None),
            },
            _ => return Err(Away),
        })
    }

    /// Lets all replicas know what became of these sessions.
    pub(super) async fn tell(&self, news: &[(Named, News)]) -> Result<(), Away> {
        let feed = self.store.of_fleet("sessions");
        let ask = self.script(TELL).of(&feed).of(&self.store.versions());
        let mut ask = ask.with(FEED_MAX).with(FEED_MS).with(Topic::Sessions.field());
        for (named, news) in news {
            let mut entry = [0; 13];
            entry[0] = u8::from(*news == News::Ended);
            entry[1..].copy_from_slice(&named.key.0);
            ask = ask.with(self.store.seal(&feed, &entry)?);
        }
        self.store.ask::<i64>(&ask).await.map(|_| ())
    }

    /// What was told after that version, the oldest first; `None` for what cannot be read. And how
    /// many there are in all by now.
    pub(super) async fn hear(&self, after: i64) -> Result<(i64, Vec<Option<Told>>), Away> {
        let feed = self.store.of_fleet("sessions");
        let ask = self.script(HEAR).of(&feed).of(&self.store.versions());
        let ask = ask.with(Topic::Sessions.field()).with(after).with(FEED_BATCH);
        let (version, told): (i64, Vec<Vec<u8>>) = self.store.ask(&ask).await?;
        let read = |sealed: &Vec<u8>| {
            let opened = self.store.open(&feed, sealed)?;
            let (what, key) = opened.split_first()?;
            let key = super::SessionKey(key.try_into().ok()?);
            Some((key, if *what == 1 { News::Ended } else { News::Changed }))
        };
        Ok((version, told.iter().rev().map(read).collect()))
    }

    fn script(&self, script: &'static str) -> Ask {
        Ask::new("sessions", script)
    }

    fn ended(&self, name: &Name) -> Result<Vec<u8>, Away> {
        self.store.seal(name, &Account::Ended.write().ok_or(Away)?)
    }

    /// All of a session lies in one slot, its legs too.
    fn name(&self, named: Named, part: &str) -> Name {
        let session = digest("session", &[&named.session().0]);
        match named.leg {
            [0, 0, 0, 0] => self.store.name("session", &session, part),
            [a, b, c, d] => {
                let part = format!("{part}:{a:02x}{b:02x}{c:02x}{d:02x}");
                self.store.name("session", &session, &part)
            }
        }
    }

    fn name_of_session(&self, named: Named, part: &str) -> Name {
        self.name(named.session().into(), part)
    }

    fn open(&self, name: &Name, sealed: &[u8]) -> Option<Account> {
        if sealed.is_empty() || sealed.len() > ACCOUNT_BYTES_MAX {
            return None;
        }
        Account::read(&self.store.open(name, sealed)?)
    }
}

/// What became of which session.
pub(super) type Told = (super::SessionKey, News);
