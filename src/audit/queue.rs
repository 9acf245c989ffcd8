//! Between the requests and the writing thread: a bounded room, and places in it that are held in advance.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use tokio::sync::{Mutex, Notify};

use super::record::{Event, Record};
use crate::config::WhenFull;
use crate::telemetry::AuditMetrics;

/// Emptied buffers that wait to be used again, and the largest that is worth keeping.
const SPARE_MAX: usize = 4096;
const SPARE_BYTES_MAX: usize = 8 * 1024;
/// What a record of a call takes, mostly.
const BODY_BYTES: usize = 1024;

/// There is no room for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for the audit record")]
pub struct Full;

/// A record on its way.
pub(super) struct Item {
    pub(super) event: Event,
    /// The line up to its place in the chain.
    pub(super) body: Vec<u8>,
}

/// What requests and the writing thread share.
pub(super) struct Queue {
    when_full: WhenFull,
    /// Bytes that are still free. Each record takes at least `share`, which bounds their number.
    room: AtomicI64,
    share: i64,
    /// With less room the writer is woken instead of waiting for its turn.
    hurry_below: i64,
    items: Sender<Item>,
    spares: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    lost: AtomicU64,
    /// Requests that hold a slot, whatever `when_full` says. One whose record comes too late stays
    /// among them.
    open: AtomicU64,
    closed: AtomicBool,
    /// Whether the writer waits for a sink to recover, so that waking it is of no use.
    pub(super) stalled: AtomicBool,
    writer: OnceLock<Thread>,
    /// Those who wait come one after the other, in their order.
    turn: Mutex<()>,
    waiting: AtomicUsize,
    freed: Notify,
    metrics: AuditMetrics,
}

/// A place for one record. Dropped without a record, it is free again.
#[must_use = "a slot holds room for a record that is to be written"]
pub struct Slot {
    queue: Arc<Queue>,
    held: i64,
    /// Whether its record came when nobody took any more.
    is_late: bool,
}

impl Queue {
    pub(super) fn new(
        when_full: WhenFull,
        share_bytes: usize,
        bytes_max: usize,
        metrics: AuditMetrics,
    ) -> (Arc<Self>, Receiver<Item>) {
        let (items, received) = unbounded();
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX / 2);
        let share = i64::try_from(share_bytes).unwrap_or(i64::MAX / 2);
        let queue = Self {
            when_full,
            room: AtomicI64::new(bytes_max),
            share,
            hurry_below: bytes_max / 2,
            items,
            spares: bounded(SPARE_MAX),
            lost: AtomicU64::new(0),
            open: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            writer: OnceLock::new(),
            turn: Mutex::new(()),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            metrics,
        };
        (Arc::new(queue), received)
    }

    /// A place for a record, as `when_full` says. Never waits where that does not say so.
    pub(super) async fn reserve(self: &Arc<Self>) -> Result<Slot, Full> {
        let held = match self.when_full {
            // Whether there is room is asked when there is a record.
            WhenFull::Drop => 0,
            WhenFull::Refuse if self.take(self.share) => self.share,
            WhenFull::Refuse => return Err(Full),
            WhenFull::Wait => {
                if self.waiting.load(Ordering::SeqCst) > 0 || !self.take(self.share) {
                    self.wait().await;
                }
                self.share
            }
        };
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(Slot { queue: Arc::clone(self), held, is_late: false })
    }

    #[cold]
    async fn wait(&self) {
        self.metrics.waits.inc();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        let _turn = self.turn.lock().await;
        while !self.take(self.share) {
            self.freed.notified().await;
        }
    }

    /// Adds a record that holds no place yet; without room it is lost, and counted.
    pub(super) fn add(&self, record: &Record<'_>) {
        if !self.write(0, record) {
            self.lose();
        }
    }

    /// Adds a record for which this room is held; whether it is in.
    fn write(&self, held: i64, record: &Record<'_>) -> bool {
        let spare = self.spares.1.try_recv();
        let mut body = spare.unwrap_or_else(|_| Vec::with_capacity(BODY_BYTES));
        record.write(&mut body, SystemTime::now());
        let weight = self.weight(body.len());
        let is_in = match held {
            0 => self.take(weight),
            // What was promised is kept, also where the record is longer than its share.
            _ => {
                self.room.fetch_sub(weight - held, Ordering::SeqCst);
                true
            }
        };
        let is_open = !self.closed.load(Ordering::Acquire);
        if is_in && is_open {
            // Counted before it can be counted as written.
            self.metrics.queue.inc();
            // The queue holds both ends of its channel, or the writer does: there is one.
            self.items.send(Item { event: record.event, body }).ok();
            return true;
        }
        if is_in {
            self.free(weight);
        }
        self.unpack(body);
        false
    }

    /// A record found no room.
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.metrics.lost("all").inc();
    }

    /// What a record of this length counts for.
    fn weight(&self, body_bytes: usize) -> i64 {
        self.share.max(i64::try_from(body_bytes).unwrap_or(i64::MAX))
    }

    fn take(&self, weight: i64) -> bool {
        let before = self.room.fetch_sub(weight, Ordering::SeqCst);
        if before - weight < self.hurry_below && !self.stalled.load(Ordering::Relaxed) {
            self.wake();
        }
        if before >= weight {
            return true;
        }
        self.room.fetch_add(weight, Ordering::SeqCst);
        false
    }

    fn free(&self, weight: i64) {
        self.room.fetch_add(weight, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// The room that a record took, counted for the writer, which gives it back by [`Self::written`].
    pub(super) fn unpack(&self, mut body: Vec<u8>) -> i64 {
        let weight = self.weight(body.len());
        if body.capacity() <= SPARE_BYTES_MAX {
            body.clear();
            // A full store of spares needs no more.
            self.spares.0.try_send(body).ok();
        }
        weight
    }

    /// These records are where they belong.
    pub(super) fn written(&self, records: u64, weight: i64) {
        self.metrics.queue.sub(i64::try_from(records).unwrap_or(i64::MAX));
        self.free(weight);
    }

    /// Takes the number of records that found no room since the last time.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// How many requests have not written their record yet, or came too late with it.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// Whoever writes is woken by this from now on.
    pub(super) fn written_by(&self, writer: Thread) {
        self.writer.get_or_init(|| writer);
    }

    pub(super) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Takes no more records.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Slot {
    /// Records what happened. Never waits.
    pub fn write(mut self, record: &Record<'_>) {
        let held = std::mem::take(&mut self.held);
        if self.queue.write(held, record) {
            return;
        }
        if self.queue.is_closed() {
            // The chain's end tells of it among those that are still open.
            self.is_late = true;
        } else {
            self.queue.lose();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.is_late {
            self.queue.open.fetch_sub(1, Ordering::SeqCst);
        }
        if self.held > 0 {
            self.queue.free(self.held);
        }
    }
}

/// Counted while it waits, also when it gives up.
struct Waiting<'q>(&'q AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
