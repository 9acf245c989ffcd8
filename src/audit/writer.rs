//! The thread that writes: it seals records into the chain and keeps each until every sink has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::line::{self, Chain};
use super::queue::{Item, Queue};
use super::record::Event;
use super::sink::{Sink, Written};
use super::text::Object;
use crate::telemetry::AuditMetrics;

/// How long a record may wait when there are few.
const POLL: Duration = Duration::from_millis(20);
/// A batch is written when it is this long.
const BATCH_BYTES: usize = 256 * 1024;
/// From one attempt to the next, while a sink fails.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A sink that goes on losing lines is recorded this often.
const SINK_LOSS_EVERY: Duration = Duration::from_secs(10);
/// Of the time to end, what sinks with threads of their own may have.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What others tell the writing thread.
#[derive(Default)]
pub(super) struct Orders {
    pub(super) rotate: AtomicBool,
    /// When the thread must give up; set once it is to end.
    pub(super) until: Mutex<Option<Instant>>,
}

pub(super) struct Writer {
    queue: Arc<Queue>,
    received: Receiver<Item>,
    chain: Chain,
    outputs: Vec<Output>,
    orders: Arc<Orders>,
    batch: Batch,
    metrics: AuditMetrics,
    /// By event.
    records: Vec<IntCounter>,
}

/// A sink, and how much of the batch it has.
struct Output {
    sink: Box<dyn Sink>,
    done: usize,
    is_failing: bool,
    lost: u64,
    told_loss_at: Option<Instant>,
    errors: IntCounter,
}

/// Sealed lines that some sink does not have yet.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    records: u64,
    weight: i64,
    by_event: Vec<u64>,
}

impl Batch {
    fn count(&mut self, event: Event) {
        self.by_event.resize(Event::ALL.len(), 0);
        self.by_event[event as usize] += 1;
    }
}

impl Writer {
    pub(super) fn new(
        queue: Arc<Queue>,
        received: Receiver<Item>,
        chain: Chain,
        sinks: Vec<Box<dyn Sink>>,
        orders: Arc<Orders>,
        metrics: AuditMetrics,
    ) -> Self {
        let output = |sink: Box<dyn Sink>| Output {
            errors: metrics.write_errors(sink.kind()),
            sink,
            done: 0,
            is_failing: false,
            lost: 0,
            told_loss_at: None,
        };
        Self {
            queue,
            received,
            chain,
            outputs: sinks.into_iter().map(output).collect(),
            orders,
            batch: Batch::default(),
            records: Event::ALL.iter().map(|event| metrics.records(event.as_str())).collect(),
            metrics,
        }
    }

    /// Writes until the queue is closed and empty. `config` is the digest of the settings.
    pub(super) fn run(mut self, config: &str) {
        self.queue.written_by(thread::current());
        self.own(Event::AuditStarted, |object| {
            object.word("service.version", env!("CARGO_PKG_VERSION"));
            object.word("gateway.config", config);
        });
        let (mut pause, mut rest) = (RETRY_MIN, Instant::now());
        loop {
            if self.orders.rotate.swap(false, Ordering::Relaxed) {
                self.rotate();
            }
            let closed = self.queue.is_closed();
            if closed {
                pause = RETRY_MIN;
            } else {
                // Who found the queue open just before it closed is about to add a record.
                rest = Instant::now();
            }
            if self.batch.lines.is_empty() {
                self.fill();
            }
            if self.batch.lines.is_empty() {
                if closed && rest.elapsed() > POLL {
                    break;
                }
                thread::park_timeout(POLL);
            } else if self.write() {
                pause = RETRY_MIN;
            } else if self.must_end() {
                return self.give_up();
            } else {
                self.stall(pause);
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
        self.end();
    }

    /// Seals what waits, up to the length of a batch. Losses come first: they are older.
    fn fill(&mut self) {
        let lost = self.queue.take_lost();
        if lost > 0 {
            self.own(Event::RecordsLost, |object| object.number("count", lost));
        }
        self.fill_sink_losses();
        while self.batch.lines.len() < BATCH_BYTES {
            let Ok(Item { event, body }) = self.received.try_recv() else { break };
            let start = self.batch.lines.len();
            self.batch.lines.extend_from_slice(&body);
            self.chain.seal(&mut self.batch.lines, start);
            self.batch.count(event);
            self.batch.records += 1;
            self.batch.weight += self.queue.unpack(body);
        }
    }

    /// What a sink took and lost is recorded for the others, and not all the time: the line itself
    /// may be the next that it loses.
    fn fill_sink_losses(&mut self) {
        let mut told = Vec::new();
        for output in &mut self.outputs {
            let lost = output.sink.take_lost();
            output.lost += lost;
            if lost > 0 {
                self.metrics.lost(output.sink.kind()).inc_by(lost);
            }
            let is_time = output.told_loss_at.is_none_or(|at| at.elapsed() > SINK_LOSS_EVERY);
            if output.lost > 0 && (is_time || self.queue.is_closed()) {
                output.told_loss_at = Some(Instant::now());
                told.push((output.sink.kind(), std::mem::take(&mut output.lost)));
            }
        }
        for (sink, lost) in told {
            self.own(Event::RecordsLost, |object| {
                object.number("count", lost);
                object.word("sink", sink);
            });
        }
    }

    /// A record of the record itself.
    fn own(&mut self, event: Event, say: impl FnOnce(&mut Object<'_>)) {
        let start = self.batch.lines.len();
        line::begin(&mut self.batch.lines, SystemTime::now(), event.as_str());
        let mut object = Object::resume(&mut self.batch.lines);
        say(&mut object);
        object.leave();
        self.chain.seal(&mut self.batch.lines, start);
        self.batch.count(event);
    }

    /// Whether every sink has the batch now.
    fn write(&mut self) -> bool {
        let mut complete = true;
        for output in &mut self.outputs {
            complete &= output.write(&self.batch.lines);
        }
        if !complete {
            return false;
        }
        for (counter, records) in self.records.iter().zip(&self.batch.by_event) {
            counter.inc_by(*records);
        }
        self.queue.written(self.batch.records, self.batch.weight);
        self.batch.lines.clear();
        self.batch.by_event.fill(0);
        (self.batch.records, self.batch.weight) = (0, 0);
        self.outputs.iter_mut().for_each(|output| output.done = 0);
        true
    }

    /// Waits before the next attempt; only the order to end is heard meanwhile.
    fn stall(&self, pause: Duration) {
        self.queue.stalled.store(true, Ordering::Relaxed);
        let again_at = Instant::now() + pause;
        let was_closed = self.queue.is_closed();
        while let Some(left) = again_at.checked_duration_since(Instant::now())
            && self.queue.is_closed() == was_closed
        {
            thread::park_timeout(left);
        }
        self.queue.stalled.store(false, Ordering::Relaxed);
    }

    fn must_end(&self) -> bool {
        self.orders.until.lock().is_some_and(|until| Instant::now() + RETRY_MIN >= until)
    }

    fn rotate(&mut self) {
        for output in &mut self.outputs {
            if let Err(error) = output.sink.rotate() {
                output.errors.inc();
                tracing::warn!(%error, sink = output.sink.name(), "cannot rotate");
            }
        }
    }

    /// The last records: what is missing because its requests had not ended, and that the chain ends
    /// here, which so can be told from a cut.
    fn end(mut self) {
        let lost = self.queue.take_lost();
        if lost > 0 {
            self.own(Event::RecordsLost, |object| object.number("count", lost));
        }
        let open = self.queue.open();
        if open > 0 {
            self.metrics.lost("all").inc_by(open);
            self.own(Event::RecordsLost, |object| {
                object.number("count", open);
                object.word("reason", "unfinished");
            });
        }
        self.own(Event::AuditClosed, |_| {});
        while !self.write() {
            if self.must_end() {
                return self.leave(open + lost);
            }
            self.stall(RETRY_MIN);
        }
        let limit = self.time_left().min(LAST_WORDS);
        self.outputs.iter_mut().for_each(|output| output.sink.close(limit));
    }

    fn time_left(&self) -> Duration {
        let until = *self.orders.until.lock();
        until.map_or(LAST_WORDS, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Nothing more can be done for what is left; the chain stays open and shows it.
    fn give_up(self) {
        let open = self.queue.open();
        self.metrics.lost("all").inc_by(open);
        self.leave(open);
    }

    /// Leaves behind what no sink took, and as many records as were lost already and are nowhere told.
    fn leave(mut self, untold: u64) {
        let left = self.received.try_iter().count() as u64 + self.batch.records;
        let lost = left + untold + self.queue.take_lost();
        self.metrics.lost("all").inc_by(left);
        tracing::error!(records = lost, "the audit record could not be finished");
        self.outputs.iter_mut().for_each(|output| output.sink.close(Duration::ZERO));
    }
}

impl Output {
    /// Whether the sink has all of it now.
    fn write(&mut self, lines: &[u8]) -> bool {
        if self.done == lines.len() {
            return true;
        }
        let Written { bytes, error } = self.sink.write(&lines[self.done..]);
        self.done += bytes;
        match error {
            None if self.is_failing => {
                self.is_failing = false;
                tracing::info!(sink = self.sink.name(), "audit records are written again");
            }
            None => {}
            Some(error) => {
                self.errors.inc();
                if !self.is_failing {
                    self.is_failing = true;
                    tracing::error!(%error, sink = self.sink.name(), "cannot write audit records");
                }
            }
        }
        self.done == lines.len()
    }
}
