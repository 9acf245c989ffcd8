//! The record as a whole: sinks that fail, rooms that are full, and what is left in the files.

mod chains;
mod files;
mod folder;
mod rooms;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::sink::{Sink, Written, whole_lines};
use super::{Audit, Event, Record, Target};
use crate::config::{self, WhenFull};
use crate::telemetry::{AuditMetrics, Metrics};

/// Enough for a writer on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// A sink in memory that fails while it is told to.
#[derive(Clone, Default)]
struct Memory {
    lines: Arc<Mutex<Vec<u8>>>,
    fails: Arc<AtomicBool>,
    attempts: Arc<AtomicUsize>,
}

impl Sink for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn write(&mut self, lines: &[u8]) -> Written {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
        if !self.fails.load(Ordering::SeqCst) {
            self.lines.lock().extend_from_slice(lines);
            return Written::all(lines);
        }
        // A disk that fills up takes a part, of which the file keeps whole lines.
        let part = whole_lines(&lines[..lines.len() / (attempt % 3 + 2)]);
        self.lines.lock().extend_from_slice(&lines[..part]);
        Written { bytes: part, error: Some(io::ErrorKind::StorageFull.into()) }
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.lines.lock().clone()).expect("text")
    }
}

fn metrics() -> AuditMetrics {
    Metrics::new(1, 1).audit
}

fn settings(when_full: WhenFull, records: usize, bytes: usize) -> config::Audit {
    config::Audit {
        when_full,
        queue_records_max: records,
        queue_bytes_max: bytes,
        ..config::Audit::default()
    }
}

fn start(sink: &Memory, settings: &config::Audit, metrics: &AuditMetrics) -> Arc<Audit> {
    Audit::write_to(vec![Box::new(sink.clone())], settings, "c0ffee", metrics).expect("a thread")
}

fn call(tool: &str) -> Record<'_> {
    Record { target: Some(Target::Tool(tool)), method: "tools/call", ..Record::new(Event::Call) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Waits until something is so.
fn until(what: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !what() {
        assert!(began.elapsed() < LIMIT, "it never was");
        std::thread::sleep(Duration::from_millis(2));
    }
}
