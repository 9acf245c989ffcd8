//! Calls at once, and streams, that replicas count together: places are leased from the store, by one
//! script, and lapse with their holder.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::places::{Due, LEASE_MS, Places};
use super::slot::Slot;
use super::state::Clock;
use crate::shared::{Ask, Away, Store};

/// How often all that hold or want places are looked at: what is idle for two looks is given back.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Keys that are asked for at once.
const AT_ONCE_MAX: usize = 32;

/// A hash with a field for each holder: places, how many it wants, and until when it holds them.
/// What runs counts even where the lease had lapsed, so that others wait for its end. Who holds more
/// than an even part of the places yields to those who have less and want more, as its calls end.
const PLACES: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local most, running, want = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lease = tonumber(ARGV[5])
local held = redis.pcall('HGETALL', KEYS[1])
if held.err then
  redis.call('DEL', KEYS[1])
  held = {}
end
local mine, theirs, wanting, others = 0, 0, 1, {}
for place = 1, #held, 2 do
  local count, wants, till = string.match(held[place + 1], '^(%d+):(%d+):(%d+)$')
  count, wants, till = tonumber(count), tonumber(wants), tonumber(till)
  if not till or till <= now or till > now + 2 * lease or count > 4294967295 then
    redis.call('HDEL', KEYS[1], held[place])
  elseif held[place] == ARGV[1] then
    mine = count
  else
    theirs = theirs + count
    others[#others + 1] = {count, wants}
    if wants > 0 then wanting = wanting + 1 end
  end
end
local even, unmet = math.floor(most / wanting), 0
for _, other in ipairs(others) do
  unmet = unmet + math.max(0, math.min(other[2], math.max(even, 1)) - other[1])
end
local free = math.max(0, most - theirs)
local allowed = math.min(want, free)
if unmet > 0 and allowed > even then
  if mine > 0 then
    allowed = math.max(even, math.min(allowed, free - unmet))
  else
    allowed = math.min(allowed, math.max(even, 1))
  end
end
local count = math.max(running, allowed)
if count == 0 and want == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d:%d:%d', count, want, now + lease))
  redis.call('PEXPIRE', KEYS[1], 2 * lease)
end
return allowed
";

/// Leases of every limit of calls or streams at once.
pub(super) struct PlaceLeases {
    store: Arc<Store>,
    clock: Clock,
    fallbacks: IntCounter,
    /// Slots that hold or want places.
    listed: Mutex<Vec<Arc<Slot>>>,
}

/// A call that asks, until it does no more.
struct Asks<'p>(&'p Places);

impl PlaceLeases {
    pub(super) fn new(store: &Arc<Store>, clock: Clock, fallbacks: IntCounter) -> Self {
        Self { store: Arc::clone(store), clock, fallbacks, listed: Mutex::default() }
    }

    /// A slot for a key, which has no places yet.
    pub(super) fn slot(&self, in_flight_max: u32, id: [u8; 16]) -> Arc<Slot> {
        Arc::new(Slot::shared(in_flight_max, Places::new(id, self.clock)))
    }

    /// Asks the store for places, for a call that found none.
    pub(super) async fn ask(&self, slot: &Arc<Slot>, places: &Places) {
        // One asks for all who come meanwhile.
        let _asks = Asks::new(places);
        // Whoever asks now has an answer, or goes on without, before this is over.
        let gate = tokio::time::timeout(2 * self.store.wait(), places.gate.acquire()).await;
        let Ok(Ok(_gate)) = gate else { return };
        let (in_flight, waiting) = slot.counts();
        if waiting == 0 && in_flight < places.here() || places.is_refused() {
            return;
        }
        self.list(slot, places);
        let wanted = in_flight.saturating_add(waiting);
        let wanted = wanted.saturating_add(places.asking.load(Ordering::Relaxed));
        if self.request(slot, places, wanted).await.is_err() {
            self.fallbacks.inc();
            self.alone(slot, places);
        }
    }

    /// Renews what is in use, gives back what is not, and asks again for those that wait; for ever.
    pub(super) async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let slots = std::mem::take(&mut *self.listed.lock());
            let mut looks = FuturesUnordered::new();
            for slot in slots {
                if looks.len() >= AT_ONCE_MAX {
                    looks.next().await;
                }
                looks.push(self.look(slot));
            }
            while looks.next().await.is_some() {}
        }
    }

    async fn look(&self, slot: Arc<Slot>) {
        let Some(places) = slot.places() else { return };
        // Who asks just now says everything.
        if let Ok(_gate) = places.gate.try_acquire() {
            let (in_flight, waiting) = slot.counts();
            let due = places.look(in_flight, waiting, slot.in_flight_max);
            let is_over = match due {
                Due::Nothing => false,
                Due::Want(wanted) => {
                    let asked = self.request(&slot, places, wanted).await;
                    if asked.is_err() && (waiting > 0 || !self.store.is_up()) {
                        self.alone(&slot, places);
                    }
                    // Whatever became of it: what is not renewed lapses.
                    wanted == 0
                }
            };
            if is_over && slot.counts() == (0, 0) {
                places.hold(0, 0);
                places.is_listed.store(false, Ordering::Relaxed);
                return;
            }
        }
        self.listed.lock().push(slot);
    }

    fn list(&self, slot: &Arc<Slot>, places: &Places) {
        if !places.is_listed.swap(true, Ordering::Relaxed) {
            self.listed.lock().push(Arc::clone(slot));
        }
    }

    /// Without the store a replica has its share of the places.
    fn alone(&self, slot: &Arc<Slot>, places: &Places) {
        let share = (slot.in_flight_max / self.store.replicas()).max(1);
        places.hold(share, places.now_ms());
        places.is_alone.store(true, Ordering::Relaxed);
        slot.hand_on();
        if slot.counts().0 >= share {
            places.refuse();
        }
    }

    async fn request(&self, slot: &Arc<Slot>, places: &Places, wanted: u32) -> Result<(), Away> {
        let asked_ms = places.now_ms();
        let most = slot.in_flight_max;
        let wanted = wanted.min(most);
        places.told.store(wanted, Ordering::Relaxed);
        // Read after places were given up: who entered before is among those that run.
        let (running, _) = slot.counts();
        let ask = Ask::new("limits", PLACES)
            .of(&self.store.name("limit", &places.id, "places"))
            .with(format!("{}/{:08x}", self.store.instance(), places.number))
            .with(most)
            .with(running)
            .with(wanted)
            .with(LEASE_MS);
        let allowed: i64 = self.store.ask(&ask).await?;
        let allowed =
            u32::try_from(allowed).ok().filter(|allowed| *allowed <= wanted).ok_or(Away)?;
        places.hold(allowed, asked_ms);
        places.is_alone.store(false, Ordering::Relaxed);
        if allowed < wanted {
            places.refuse();
        }
        slot.hand_on();
        Ok(())
    }
}

impl<'p> Asks<'p> {
    fn new(places: &'p Places) -> Self {
        places.asking.fetch_add(1, Ordering::Relaxed);
        Self(places)
    }
}

impl Drop for Asks<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}
