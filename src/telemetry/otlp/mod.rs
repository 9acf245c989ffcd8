//! Traces and metrics for a collector of OpenTelemetry: what is sampled is queued as bytes, and a
//! thread of its own sends it, which holds nobody back.

mod context;
mod courier;
mod exporter;
mod families;
mod span;
mod wire;

pub use context::{Claimed, SpanContext};
pub use courier::Courier;
pub use span::{Attributes, Side, Span, Spans};

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use prometheus::IntCounter;
use tokio::sync::watch;

use crate::config;
use crate::telemetry::Metrics;
use exporter::Exporter;

/// Requests whose spans may wait, and the bytes of those spans.
const QUEUE_MAX: usize = 8192;
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// The way to the collector. What it does not take in time is lost, and counted.
pub struct Otlp {
    /// Traces are kept whose id is below this, among 63 bits.
    sampled_below: u64,
    queue: Arc<Queue>,
    spans: Sender<Spans>,
    closing: watch::Sender<Option<Instant>>,
    ended: Receiver<()>,
}

/// What waits to be sent.
struct Queue {
    received: Receiver<Spans>,
    bytes: AtomicUsize,
    lost: IntCounter,
}

impl Otlp {
    /// Starts the thread that sends.
    pub fn start(settings: &config::Export, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let (spans, received) = bounded(QUEUE_MAX);
        let lost = metrics.otlp.lost("spans");
        let queue = Arc::new(Queue { received, bytes: AtomicUsize::new(0), lost });
        let (closing, closed) = watch::channel(None);
        let exporter = Exporter::new(settings, Arc::clone(&queue), Arc::clone(metrics), closed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (alive, ended): (Sender<()>, _) = bounded(0);
        thread::Builder::new().name("otlp".to_owned()).spawn(move || {
            let _alive = alive;
            runtime.block_on(exporter.run());
        })?;
        Ok(Self { sampled_below: sampled_below(settings.sample), queue, spans, closing, ended })
    }

    /// A span that begins a trace.
    pub fn root(&self) -> SpanContext {
        let trace_id = fastrand::u128(1..).to_be_bytes();
        let is_sampled = is_sampled(trace_id, self.sampled_below);
        SpanContext { trace_id, span_id: span_id(), is_sampled }
    }

    /// A span within another one, which has decided whether the trace is kept.
    pub fn child(parent: SpanContext) -> SpanContext {
        SpanContext { span_id: span_id(), ..parent }
    }

    /// Queues spans. Never waits; without room they are lost and counted.
    pub fn send(&self, spans: Spans) {
        let (length, count) = (spans.bytes.len(), spans.count);
        let before = self.queue.bytes.fetch_add(length, Ordering::Relaxed);
        if before + length > QUEUE_BYTES_MAX || self.spans.try_send(spans).is_err() {
            self.queue.bytes.fetch_sub(length, Ordering::Relaxed);
            self.queue.lost.inc_by(count);
        }
    }

    /// Sends what is left, within this time.
    pub fn close(&self, limit: Duration) {
        let until = Instant::now() + limit;
        self.closing.send_replace(Some(until));
        // Nothing is ever sent: this ends with the thread, or with the time.
        self.ended.recv_deadline(until).ok();
    }
}

impl Queue {
    /// What waits, up to this many spans and bytes.
    fn take(&self, count_max: u64, bytes_max: usize) -> Spans {
        let mut taken = Spans::default();
        while taken.count < count_max && taken.bytes.len() < bytes_max {
            let Ok(spans) = self.received.try_recv() else { break };
            self.bytes.fetch_sub(spans.bytes.len(), Ordering::Relaxed);
            taken.count += spans.count;
            match taken.bytes.is_empty() {
                true => taken.bytes = spans.bytes,
                false => taken.bytes.extend_from_slice(&spans.bytes),
            }
        }
        taken
    }

    fn len(&self) -> usize {
        self.received.len()
    }
}

/// The bound for ids of traces that are kept. All of them are below the bound for 1.
fn sampled_below(fraction: f64) -> u64 {
    (fraction * (1_u64 << 63) as f64) as u64
}

/// By the lower half of the id, as OpenTelemetry's own sampler by ratio.
fn is_sampled(trace_id: [u8; 16], below: u64) -> bool {
    (u128::from_be_bytes(trace_id) as u64) >> 1 < below
}

fn span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::{is_sampled, sampled_below};

    #[test]
    fn a_fraction_of_all_traces_is_kept() {
        let mut random = fastrand::Rng::with_seed(7);
        for (fraction, expected) in [(0.0, 0..=0), (0.01, 700..=1300), (0.5, 49_000..=51_000)] {
            let below = sampled_below(fraction);
            let mut ids = std::iter::repeat_with(|| random.u128(1..).to_be_bytes()).take(100_000);
            let kept = ids.by_ref().filter(|id| is_sampled(*id, below)).count();
            assert!(expected.contains(&kept), "{kept} of 100000 at {fraction}");
        }
        assert!(is_sampled([0xff; 16], sampled_below(1.0)));
        assert!(!is_sampled([0; 16], sampled_below(0.0)));
    }
}
