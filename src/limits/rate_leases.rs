//! Rates that replicas have in common: calls are leased from the store in batches, by one script.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::Notify;

use super::gcra::Exhausted;
use super::leased::{ASKING_MAX, Granted, LEASE_MAX, Leased, Word};
use super::state::Clock;
use crate::shared::{Ask, Away, Store};

/// How often those that run low are looked for, if nobody rings.
const ROUND_EVERY: Duration = Duration::from_millis(20);
/// How often those that nobody uses are looked for.
const SETTLE_EVERY_NS: u64 = 100_000_000;
/// Keys that are asked for ahead in one round, and at once.
const ROUND_MAX: usize = 256;
const AT_ONCE_MAX: usize = 32;
/// No limit waits longer than a year for its next call.
const NEXT_MAX_US: i64 = 366 * 24 * 60 * 60 * 1_000_000;

/// The same algorithm as in `gcra.rs`, in microseconds of the store's clock since 2023, so that parts
/// of them are exact. What is found and is no such time, or one that no limit could have left there,
/// is replaced. A batch takes a quarter of what is available at most: there are other replicas.
const RATE: &str = "
local time = redis.call('TIME')
local now = (time[1] - 1700000000) * 1000000 + time[2]
local interval, returned = tonumber(ARGV[1]), tonumber(ARGV[3])
local whole = interval * ARGV[2]
local need, want, wait = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local found = redis.pcall('GET', KEYS[1])
local at = type(found) == 'string' and tonumber(found) or now
if not (at >= now and at <= now + whole + 61000000) then at = now end
at = math.max(at - returned * interval, now)
local available = math.floor((now + whole - at) / interval + 0.02)
local granted, turn = 0, 0
if available >= need then
  granted = math.max(need, math.min(want, math.floor(available / 4)))
elseif at + need * interval <= now + whole + wait then
  granted = need
  turn = math.max(0, at + need * interval - now - whole)
end
local later = math.max(0, at + math.max(need, 1) * interval - now - whole - wait)
at = at + granted * interval
if at > now then
  local lasts = math.ceil((at - now) / 1000) + 1000
  redis.call('SET', KEYS[1], string.format('%.3f', at), 'PX', string.format('%d', lasts))
elseif found then
  redis.call('DEL', KEYS[1])
end
return {granted, math.ceil(turn), math.ceil(later), math.max(0, available - granted)}
";

/// Leases of every rate.
pub(super) struct RateLeases {
    store: Arc<Store>,
    clock: Clock,
    fallbacks: IntCounter,
    /// Keys that run low or have something to give back, each once, first come first served.
    queued: Mutex<VecDeque<Arc<Leased>>>,
    /// Keys that hold something.
    listed: Mutex<Vec<Arc<Leased>>>,
    wake: Notify,
}

/// What a call costs, and how long it may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) calls: u32,
    pub(super) wait_max_ns: u64,
}

/// What is known of a call at once.
pub(super) enum Known {
    /// Its turn comes in so many nanoseconds, or it is refused.
    Decided(Result<u64, Exhausted>),
    /// The store must be asked.
    Ask(Arc<Leased>),
}

impl RateLeases {
    pub(super) fn new(store: &Arc<Store>, clock: Clock, fallbacks: IntCounter) -> Self {
        Self {
            store: Arc::clone(store),
            clock,
            fallbacks,
            queued: Mutex::default(),
            listed: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Decides by what is here, as nearly every call is. `None` once the key is forgotten.
    pub(super) fn take(&self, key: &Arc<Leased>, need: Need, now_ns: u64) -> Option<Known> {
        let decided = match key.take(need.calls, now_ns)? {
            Word::Yes => {
                if key.runs_low(now_ns) {
                    self.queue(key);
                }
                Ok(0)
            }
            Word::No(exhausted) => Err(exhausted),
            Word::Unknown if self.store.is_up() => return Some(Known::Ask(Arc::clone(key))),
            Word::Unknown | Word::Alone => self.take_alone(key, need, now_ns),
        };
        Some(Known::Decided(decided))
    }

    /// Asks the store, or goes by what others were told meanwhile.
    pub(super) async fn ask(&self, key: &Arc<Leased>, need: Need) -> Result<u64, Exhausted> {
        let wait = self.store.wait();
        // Who may wait has a turn of its own, and the store gives them in order. Of others one asks
        // for all that come meanwhile.
        let asking = if need.wait_max_ns == 0 { ASKING_MAX } else { 1 };
        let gate = tokio::time::timeout(wait, key.gate.acquire_many(asking)).await;
        let now_ns = self.clock.now_ns();
        let Ok(Ok(_gate)) = gate else { return self.take_alone(key, need, now_ns) };
        match key.take(need.calls, now_ns) {
            Some(Word::Yes) => return Ok(0),
            Some(Word::No(exhausted)) => return Err(exhausted),
            Some(Word::Alone) => return self.take_alone(key, need, now_ns),
            Some(Word::Unknown) | None => {}
        }
        key.hand_over(now_ns);
        let ahead = if need.wait_max_ns == 0 { key.wanted(now_ns) } else { 0 };
        let granted = self.request(key, need, need.calls.saturating_add(ahead)).await;
        let answered_ns = self.clock.now_ns();
        let Ok(granted) = granted else {
            key.unheard(answered_ns);
            return self.take_alone(key, need, answered_ns);
        };
        let refused =
            (granted.calls < need.calls).then(|| key.refuse(&granted, need.calls, answered_ns));
        key.fill(&granted, need.calls, now_ns, answered_ns);
        self.list(key);
        refused.map_or(Ok(granted.turn_ns), Err)
    }

    /// Gives back what a call took that did not run.
    pub(super) fn give_back(&self, key: &Arc<Leased>, need: Need) {
        key.give_back(need.calls, need.wait_max_ns, self.clock.now_ns());
        self.list(key);
    }

    /// Asks ahead for keys that run low, and gives back what nobody uses, for ever.
    pub(super) async fn keep(&self) {
        let mut settled_ns = 0;
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(ROUND_EVERY) => {}
            }
            self.ask_ahead().await;
            let now_ns = self.clock.now_ns();
            if now_ns.saturating_sub(settled_ns) >= SETTLE_EVERY_NS {
                settled_ns = now_ns;
                self.settle(now_ns);
            }
        }
    }

    async fn ask_ahead(&self) {
        let mut asks = FuturesUnordered::new();
        // Those that come meanwhile have their turn in the next round.
        let count = self.queued.lock().len().min(ROUND_MAX);
        for _ in 0..count {
            let Some(key) = self.queued.lock().pop_front() else { break };
            if asks.len() >= AT_ONCE_MAX {
                asks.next().await;
            }
            asks.push(self.top_up(key));
        }
        while asks.next().await.is_some() {}
        if !self.queued.lock().is_empty() {
            self.wake.notify_one();
        }
    }

    async fn top_up(&self, key: Arc<Leased>) {
        let now_ns = self.clock.now_ns();
        let want = key.wanted(now_ns);
        let has_more = want > 0 || key.returned.load(Ordering::Relaxed) > 0;
        // Somebody who asks now asks for more as well.
        if let Ok(_gate) = key.gate.try_acquire_many(ASKING_MAX)
            && has_more
            && self.store.is_up()
        {
            let none = Need { calls: 0, wait_max_ns: 0 };
            match self.request(&key, none, want).await {
                Ok(granted) => {
                    key.fill(&granted, 0, now_ns, self.clock.now_ns());
                    self.list(&key);
                }
                Err(Away) => key.unheard(self.clock.now_ns()),
            }
        }
        key.is_queued.store(false, Ordering::Relaxed);
    }

    fn settle(&self, now_ns: u64) {
        let mut keys = std::mem::take(&mut *self.listed.lock());
        keys.retain(|key| {
            let (tells, stays) = key.settle(now_ns);
            if tells {
                self.queue(key);
            }
            if !stays {
                key.is_listed.store(false, Ordering::Relaxed);
            }
            stays
        });
        self.listed.lock().append(&mut keys);
    }

    #[cold]
    fn queue(&self, key: &Arc<Leased>) {
        if !key.is_queued.swap(true, Ordering::Relaxed) {
            self.queued.lock().push_back(Arc::clone(key));
            self.wake.notify_one();
        }
    }

    fn list(&self, key: &Arc<Leased>) {
        if key.holds() && !key.is_listed.swap(true, Ordering::Relaxed) {
            self.listed.lock().push(Arc::clone(key));
        }
    }

    #[cold]
    fn take_alone(&self, key: &Leased, need: Need, now_ns: u64) -> Result<u64, Exhausted> {
        self.fallbacks.inc();
        key.take_alone(need.calls, need.wait_max_ns, self.store.replicas(), now_ns)
    }

    async fn request(&self, key: &Leased, need: Need, want: u32) -> Result<Granted, Away> {
        let want = want.min(LEASE_MAX).max(need.calls);
        let wait_max_us = need.wait_max_ns / 1000;
        let interval_us = format!("{}.{:03}", key.interval_ns / 1000, key.interval_ns % 1000);
        let ask = Ask::new("limits", RATE)
            .of(&self.store.name("limit", &key.id, "rate"))
            .with(interval_us)
            .with(key.burst)
            .with(key.returned.swap(0, Ordering::Relaxed))
            .with(need.calls)
            .with(want)
            .with(wait_max_us);
        let answer: (i64, i64, i64, i64) = self.store.ask(&ask).await?;
        Granted::new(answer, need.calls, want, wait_max_us).ok_or(Away)
    }
}

impl Granted {
    /// What the script says, if it can have said that.
    fn new(
        (calls, turn_us, next_us, left): (i64, i64, i64, i64),
        need: u32,
        want: u32,
        wait_max_us: u64,
    ) -> Option<Self> {
        let calls = u32::try_from(calls)
            .ok()
            .filter(|calls| *calls <= want && (*calls == 0 || *calls >= need))?;
        let turn_us = u64::try_from(turn_us).ok().filter(|turn_us| *turn_us <= wait_max_us + 1)?;
        let next_us = u64::try_from(next_us.min(NEXT_MAX_US)).ok()?;
        let left = u32::try_from(left).ok()?;
        Some(Self { calls, turn_ns: turn_us * 1000, next_ns: next_us * 1000, left })
    }
}

#[cfg(test)]
mod tests {
    use super::Granted;

    #[test]
    fn an_answer_that_makes_no_sense_is_none() {
        let read = |answer| Granted::new(answer, 2, 5, 1000);
        let fine = Granted { calls: 3, turn_ns: 9000, next_ns: 0, left: 7 };
        assert_eq!(read((3, 9, 0, 7)), Some(fine));
        let refused = read((0, 0, i64::MAX, 1)).expect("a refusal");
        assert_eq!(refused.next_ns, 366 * 24 * 60 * 60 * 1_000_000_000);
        for garbage in [
            (6, 0, 0, 0),
            (1, 0, 0, 0),
            (-1, 0, 0, 0),
            (3, 1002, 0, 0),
            (3, -1, 0, 0),
            (0, 0, -1, 0),
            (0, 0, 0, -1),
            (i64::MAX, i64::MAX, i64::MAX, i64::MAX),
        ] {
            assert_eq!(read(garbage), None, "{garbage:?}");
        }
    }
}
