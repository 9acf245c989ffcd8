//! The calls in flight, or the streams, of one key: counted without a lock, and a queue for those that wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::keys::Tally;
use super::places::Places;

/// Who waits holds a connection and a request, so there is an end to it.
const WAITING_MAX: u32 = 1024;
const RETIRED: u64 = u64::MAX;

/// The calls of one key that are under way, or its streams, which are as calls here.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) in_flight_max: u32,
    /// What this replica may fill of them, where replicas count together.
    places: Option<Box<Places>>,
    /// Calls in flight, and above them those that wait. Who waits is counted as long as it stands in
    /// the queue, and while one is counted the slot is full: every end hands its place on.
    state: AtomicU64,
    queue: Mutex<VecDeque<oneshot::Sender<Permit>>>,
}

/// The place of one call in flight, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    /// Given away when the place is handed on.
    slot: Option<Arc<Slot>>,
}

/// How a call came to its place, or not.
#[derive(Debug)]
pub(super) enum Turn {
    /// It has one.
    Now(Permit),
    /// It gets one when those before it have theirs.
    Later(oneshot::Receiver<Permit>),
    /// It gets none.
    Never,
}

/// Whether a call may wait for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It may.
    Waits,
    /// It is refused at once.
    Leaves,
}

const ONE_IN_FLIGHT: u64 = 1;
const ONE_WAITING: u64 = 1 << 32;

fn in_flight(state: u64) -> u32 {
    (state & 0xffff_ffff) as u32
}

fn waiting(state: u64) -> u32 {
    (state >> 32) as u32
}

impl Slot {
    pub(super) fn new(in_flight_max: u32) -> Self {
        Self { in_flight_max, places: None, state: AtomicU64::new(0), queue: Mutex::default() }
    }

    /// The same for a key that replicas count together.
    pub(super) fn shared(in_flight_max: u32, places: Places) -> Self {
        Self { places: Some(Box::new(places)), ..Self::new(in_flight_max) }
    }

    /// What is leased, where replicas count together.
    pub(super) fn places(&self) -> Option<&Places> {
        self.places.as_deref()
    }

    /// Calls in flight, and those that wait.
    pub(super) fn counts(&self) -> (u32, u32) {
        match self.state.load(Ordering::SeqCst) {
            RETIRED => (0, 0),
            state => (in_flight(state), waiting(state)),
        }
    }

    /// How many places there are now.
    fn most(&self) -> u32 {
        self.places.as_ref().map_or(self.in_flight_max, |places| places.here())
    }

    /// Whether nobody may enter. Nobody passes by those that wait; where no place is leased, that
    /// does not follow from the places.
    fn is_full(&self, state: u64) -> bool {
        in_flight(state) >= self.most() || (self.places.is_some() && waiting(state) > 0)
    }

    /// Gives places that came to those that wait.
    pub(super) fn hand_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut queue = self.queue.lock();
                let enter = |state: u64| {
                    let is_room = state != RETIRED && in_flight(state) < self.most();
                    (is_room && waiting(state) > 0).then(|| state - ONE_WAITING + ONE_IN_FLIGHT)
                };
                if self.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, enter).is_err() {
                    return;
                }
                queue.pop_front()
            };
            let permit = Permit { slot: Some(Arc::clone(self)) };
            // Who gave up meanwhile leaves its place to the next.
            drop(next.map(|turn| turn.send(permit)));
        }
    }

    /// Takes a place, or one in the queue. `None` once the key is forgotten.
    pub(super) fn enter(self: &Arc<Self>, patience: Patience) -> Option<Turn> {
        match self.try_enter()? {
            Some(permit) => Some(Turn::Now(permit)),
            None if patience == Patience::Leaves => Some(Turn::Never),
            None => self.line_up(),
        }
    }

    /// The outer nothing: the key is forgotten. The inner one: the slot is full.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Option<Permit>> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state == RETIRED {
                return None;
            }
            // While some wait, the slot is full.
            if self.is_full(state) {
                return Some(None);
            }
            // Acquired, so that a call sees what the one before it left behind; and in one order with
            // what is leased.
            let next = state + ONE_IN_FLIGHT;
            match self.state.compare_exchange_weak(state, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => {
                    let permit = Permit { slot: Some(Arc::clone(self)) };
                    let entered = in_flight(next);
                    let is_still_there = self.places.as_ref().is_none_or(|places| {
                        places.used(entered);
                        // The place may have been given back this moment.
                        entered <= places.here()
                    });
                    return Some(is_still_there.then_some(permit));
                }
                Err(changed) => state = changed,
            }
        }
    }

    #[cold]
    fn line_up(self: &Arc<Self>) -> Option<Turn> {
        let mut queue = self.queue.lock();
        if queue.len() >= WAITING_MAX as usize {
            // Those that gave up still stand there.
            let before = queue.len();
            queue.retain(|waiter| !waiter.is_closed());
            let left = (before - queue.len()) as u64;
            self.state.fetch_sub(left * ONE_WAITING, Ordering::Relaxed);
        }
        loop {
            if let Some(permit) = self.try_enter()? {
                return Some(Turn::Now(permit));
            }
            let state = self.state.load(Ordering::Relaxed);
            if waiting(state) >= WAITING_MAX {
                return Some(Turn::Never);
            }
            if state == RETIRED || !self.is_full(state) {
                continue;
            }
            let next = state + ONE_WAITING;
            // Who ends from now on sees somebody waiting, and comes to the queue, which is held until
            // that somebody stands in it.
            if self
                .state
                .compare_exchange(state, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                let (turn, wait) = oneshot::channel();
                queue.push_back(turn);
                return Some(Turn::Later(wait));
            }
        }
    }

    fn leave(self: Arc<Self>) {
        let mut permit = Permit { slot: Some(self) };
        loop {
            let Some(slot) = permit.slot.take() else { return };
            let mut state = slot.state.load(Ordering::Relaxed);
            // Where fewer places are leased than are in use, nobody takes this one.
            while waiting(state) == 0 || in_flight(state) > slot.most() {
                match slot.state.compare_exchange_weak(
                    state,
                    state - ONE_IN_FLIGHT,
                    Ordering::Release,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return,
                    Err(changed) => state = changed,
                }
            }
            let next = {
                let mut queue = slot.queue.lock();
                let next = queue.pop_front();
                if next.is_some() {
                    slot.state.fetch_sub(ONE_WAITING, Ordering::Relaxed);
                }
                next
            };
            let handed_on = Permit { slot: Some(slot) };
            permit = match next {
                // Received or not, a permit that was sent is dropped by somebody.
                Some(turn) => match turn.send(handed_on) {
                    Ok(()) => return,
                    Err(back) => back,
                },
                // Others ended meanwhile and took those that waited.
                None => handed_on,
            };
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.leave();
        }
    }
}

impl Tally for Arc<Slot> {
    fn retire(&self, _now_ns: u64) -> bool {
        if self.places().is_some_and(|places| places.is_listed.load(Ordering::Relaxed)) {
            return false;
        }
        self.state.compare_exchange(0, RETIRED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn is_retired(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RETIRED
    }
}

#[cfg(test)]
mod tests {
    use super::{Patience, Permit, Places, Slot, Tally, Turn, WAITING_MAX};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn now(slot: &Arc<Slot>) -> Option<Permit> {
        match slot.enter(Patience::Leaves).expect("the key is kept") {
            Turn::Now(permit) => Some(permit),
            Turn::Later(_) | Turn::Never => None,
        }
    }

    fn later(slot: &Arc<Slot>) -> tokio::sync::oneshot::Receiver<Permit> {
        match slot.enter(Patience::Waits) {
            Some(Turn::Later(wait)) => wait,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_are_handed_on_in_order() {
        let slot = Arc::new(Slot::new(2));
        let (first, second) = (now(&slot).expect("a place"), now(&slot).expect("a place"));
        assert!(now(&slot).is_none());
        let (mut third, gave_up, mut fourth) = (later(&slot), later(&slot), later(&slot));
        drop(first);
        let third = third.try_recv().expect("its turn");
        assert!(fourth.try_recv().is_err() && now(&slot).is_none(), "nobody passes by");
        drop(gave_up);
        drop(second);
        let fourth = fourth.try_recv().expect("its turn");
        drop(third);
        let fifth = now(&slot).expect("a place");
        drop((fourth, fifth));
        assert!(Tally::retire(&slot, 0), "nobody is left");
        assert!(slot.enter(Patience::Waits).is_none());
    }

    #[test]
    fn a_permit_that_nobody_took_is_handed_on() {
        let slot = Arc::new(Slot::new(1));
        let first = now(&slot).expect("a place");
        let (second, mut third) = (later(&slot), later(&slot));
        drop(first);
        assert!(!Tally::retire(&slot, 0), "the second has a place and does not know it yet");
        drop(second);
        drop(third.try_recv().expect("its turn"));
        assert!(Tally::retire(&slot, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_those_that_gave_up_do_not_fill_it() {
        let slot = Arc::new(Slot::new(1));
        let first = now(&slot).expect("a place");
        let mut waits: Vec<_> = (0..WAITING_MAX).map(|_| later(&slot)).collect();
        assert!(matches!(slot.enter(Patience::Waits), Some(Turn::Never)));
        waits.truncate(1);
        let mut last = later(&slot);
        assert_eq!(slot.queue.lock().len(), 2);
        drop(first);
        drop(waits[0].try_recv().expect("its turn"));
        drop(last.try_recv().expect("its turn"));
        assert!(Tally::retire(&slot, 0));
    }

    #[test]
    fn threads_never_exceed_the_limit_and_leave_nothing_behind() {
        let slot = Arc::new(Slot::new(3));
        let (inside, most, served) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        let permit = match slot.enter(Patience::Waits).expect("the key is kept") {
                            Turn::Now(permit) => permit,
                            // Every third gives up.
                            Turn::Later(_) if round % 3 == 0 => continue,
                            Turn::Later(wait) => wait.blocking_recv().expect("a turn for each"),
                            Turn::Never => panic!("there is room to wait"),
                        };
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        served.fetch_add(1, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
        assert!(served.load(Ordering::SeqCst) > 8 * 1000);
        assert!(Tally::retire(&slot, 0), "{slot:?}");
    }

    #[test]
    fn a_shared_slot_fills_what_is_leased_and_hands_on_what_comes() {
        let clock = crate::limits::State::default().clock;
        let slot = Arc::new(Slot::shared(4, Places::new([0; 16], clock)));
        let hold = |count| {
            let places = slot.places().expect("it is shared");
            places.hold(count, places.now_ms());
            slot.hand_on();
        };
        assert!(now(&slot).is_none(), "nothing is leased");
        hold(2);
        let (first, second) = (now(&slot).expect("a place"), now(&slot).expect("a place"));
        let (mut third, gave_up, mut fourth) = (later(&slot), later(&slot), later(&slot));
        hold(1);
        drop(first);
        assert!(third.try_recv().is_err(), "that place is given back");
        drop(gave_up);
        hold(3);
        let (third, fourth) =
            (third.try_recv().expect("a turn"), fourth.try_recv().expect("a turn"));
        assert_eq!(slot.counts(), (3, 0));
        hold(0);
        drop((second, third, fourth));
        assert!(now(&slot).is_none() && Tally::retire(&slot, 0));
    }
}
