//! What happened? One JSON line per call and event, sealed into a chain that shows every change.
//!
//! A request holds a [`Slot`] and writes its [`Record`] at its end; a thread of its own seals the
//! lines into the chain, and keeps each until every sink has it. Nothing here is on the request path
//! but formatting one line into a used buffer.

mod arguments;
mod file;
mod line;
mod otlp;
mod queue;
mod record;
mod sink;
mod tail;
mod text;
mod verify;
mod writer;
#[cfg(test)]
mod tests;

pub use arguments::{Arguments, Keeping};
pub use queue::{Full, Slot};
pub use record::{Ending, Event, Record, Target, Verdict};
pub use tail::{Until, Wanted, tail};
pub use verify::{Extent, Report, verify};

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::{self, AuditSink};
use crate::telemetry::{AuditMetrics, instance};
use file::LineFile;
use line::Chain;
use otlp::Collector;
use queue::Queue;
use sink::{Sink, Stdout};
use writer::{Orders, Writer};

/// The record of one process. It outlives every configuration.
pub struct Audit {
    queue: Arc<Queue>,
    orders: Arc<Orders>,
    /// Disconnected when the writing thread has ended.
    ended: Receiver<()>,
}

/// A sink cannot be written to.
#[derive(Debug, thiserror::Error)]
#[error("cannot write audit records to {sink}: {error}")]
pub struct CannotWrite {
    sink: String,
    error: io::Error,
}

impl Audit {
    /// Opens the sinks and begins a chain, whose first record names the digest of the configuration.
    ///
    /// # Errors
    /// The sink that cannot be opened.
    pub fn start(
        settings: &config::Audit,
        config_digest: &str,
        metrics: &AuditMetrics,
    ) -> Result<Arc<Self>, CannotWrite> {
        let sinks = settings.sinks.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Self::write_to(sinks, settings, config_digest, metrics)
            .map_err(|error| CannotWrite { sink: "any sink".to_owned(), error })
    }

    fn write_to(
        sinks: Vec<Box<dyn Sink>>,
        settings: &config::Audit,
        config_digest: &str,
        metrics: &AuditMetrics,
    ) -> io::Result<Arc<Self>> {
        let (share, bytes) = (settings.place_bytes(), settings.queue_bytes_max);
        let (queue, received) = Queue::new(settings.when_full, share, bytes, metrics.clone());
        let orders = Arc::new(Orders::default());
        let chain = Chain::new(fastrand::u128(..).to_be_bytes(), instance());
        let writer = Writer::new(
            Arc::clone(&queue),
            received,
            chain,
            sinks,
            Arc::clone(&orders),
            metrics.clone(),
        );
        let (alive, ended): (Sender<()>, _) = bounded(0);
        let config_digest = config_digest.to_owned();
        thread::Builder::new().name("audit".to_owned()).spawn(move || {
            let _alive = alive;
            writer.run(&config_digest);
        })?;
        Ok(Arc::new(Self { queue, orders, ended }))
    }

    /// A place for the record of a call, before it runs. With `when_full: wait` this waits until
    /// there is room, for as long as its caller lets it; it may be dropped.
    ///
    /// # Errors
    /// With `when_full: refuse`, when there is no room.
    pub async fn reserve(&self) -> Result<Slot, Full> {
        self.queue.reserve().await
    }

    /// Records what no request holds a place for. Never waits; without room it is lost and counted.
    pub fn event(&self, record: &Record<'_>) {
        self.queue.add(record);
    }

    /// Begins new files, unless someone else did: for SIGUSR1.
    pub fn rotate(&self) {
        self.orders.rotate.store(true, Ordering::Relaxed);
        self.queue.wake();
    }

    /// Ends the chain with what was recorded so far, and with the number of requests that hold a slot
    /// and come too late. Returns when all of it is written, or the time is over.
    pub fn close(&self, limit: Duration) {
        *self.orders.until.lock() = Some(Instant::now() + limit);
        self.queue.close();
        // Nothing is ever sent: this ends with the thread, or with the time.
        self.ended.recv_timeout(limit).ok();
    }
}

fn open(settings: &AuditSink) -> Result<Box<dyn Sink>, CannotWrite> {
    let (sink, opened): (String, io::Result<Box<dyn Sink>>) = match settings {
        AuditSink::File { path, rotate_bytes, keep } => {
            let file = LineFile::open(path.clone(), *rotate_bytes, *keep);
            (path.display().to_string(), file.map(|file| Box::new(file) as Box<dyn Sink>))
        }
        AuditSink::Stdout => (
            "standard output".to_owned(),
            Stdout::open().map(|stdout| Box::new(stdout) as Box<dyn Sink>),
        ),
        AuditSink::Otlp(otlp) => {
            (otlp.url.clone(), Collector::start(otlp).map(|it| Box::new(it) as Box<dyn Sink>))
        }
    };
    opened.map_err(|error| CannotWrite { sink, error })
}
