//! The thread that sends: spans as they come, in batches, and all metrics now and then.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::sync::watch;

use super::families;
use super::wire::{self, Value};
use super::{Courier, Queue};
use crate::config;
use crate::outbound::Outbound;
use crate::telemetry::{Metrics, instance};

/// How often the queue is looked at. Nobody wakes this thread, so that nobody pays for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a span waits for others.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How much leaves in one request.
const BATCH_SPANS: u64 = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Protocol Buffers over HTTP, which every collector takes.
const PROTOBUF: &str = "application/x-protobuf";

/// Sends spans and metrics.
pub(super) struct Exporter {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// Who says it (`Resource`), as bytes.
    resource: Vec<u8>,
    spans: Signal,
    points: Signal,
    interval: Duration,
    started: SystemTime,
    closed: watch::Receiver<Option<Instant>>,
}

/// What goes to one path of the collector.
struct Signal {
    courier: Courier,
    what: &'static str,
    lost: IntCounter,
    /// Losses up to here are told.
    told: u64,
    is_losing: bool,
}

impl Exporter {
    pub(super) fn new(
        settings: &config::Export,
        queue: Arc<Queue>,
        metrics: Arc<Metrics>,
        closed: watch::Receiver<Option<Instant>>,
    ) -> io::Result<Self> {
        let outbound = Outbound::new(settings.ca.as_deref()).map_err(io::Error::other)?;
        let signal = |path: &str, what| {
            let url = format!("{}{path}", settings.endpoint);
            let (headers, timeout) = (&settings.headers, settings.timeout);
            let courier = Courier::new(outbound.clone(), url, PROTOBUF, headers, timeout);
            let lost = metrics.otlp.lost(what);
            Signal { courier, what, lost, told: 0, is_losing: false }
        };
        Ok(Self {
            queue,
            spans: signal("/v1/traces", "spans"),
            points: signal("/v1/metrics", "metrics"),
            resource: resource(&instance()),
            interval: settings.metrics_interval,
            started: SystemTime::now(),
            metrics,
            closed,
        })
    }

    /// Sends until it is told to end, and then what is left.
    pub(super) async fn run(self) {
        let Self { queue, metrics, resource, spans, points, interval, started, closed } = self;
        let tracing = send_spans(&queue, &resource, spans, closed.clone());
        let measuring = async {
            if !interval.is_zero() {
                let all = Families { metrics: &metrics, resource: &resource, started };
                send_metrics(&all, points, interval, closed).await;
            }
        };
        tokio::join!(tracing, measuring);
    }
}

async fn send_spans(
    queue: &Queue,
    resource: &[u8],
    mut signal: Signal,
    mut closed: watch::Receiver<Option<Instant>>,
) {
    let mut sent_at = Instant::now();
    loop {
        let is_closed = closed.borrow().is_some();
        let is_time = is_closed || sent_at.elapsed() >= SEND_EVERY;
        let waiting = queue.len();
        if waiting > 0 && (is_time || waiting as u64 >= BATCH_SPANS) {
            let batch = queue.take(BATCH_SPANS, BATCH_BYTES);
            let mut body = Vec::with_capacity(batch.bytes.len() + 512);
            envelope(&mut body, resource, &batch.bytes);
            signal.send(body.into(), batch.count, &closed).await;
            sent_at = Instant::now();
            continue;
        }
        signal.look("there are more than can be sent");
        if is_closed {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            // Without a sender nobody can say more.
            _ = closed.changed() => {}
        }
    }
}

/// Where metrics come from, and who says them.
struct Families<'a> {
    metrics: &'a Metrics,
    resource: &'a [u8],
    started: SystemTime,
}

async fn send_metrics(
    all: &Families<'_>,
    mut signal: Signal,
    interval: Duration,
    mut closed: watch::Receiver<Option<Instant>>,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = closed.changed() => {}
        }
        let is_closed = closed.borrow().is_some();
        let families = all.metrics.gather();
        let mut scope = Vec::with_capacity(64 * 1024);
        let points = families::write(&mut scope, &families, all.started, SystemTime::now());
        let mut body = Vec::with_capacity(scope.len() + 512);
        envelope(&mut body, all.resource, &scope);
        signal.send(body.into(), points, &closed).await;
        if is_closed {
            return;
        }
    }
}

impl Signal {
    async fn send(&mut self, body: Bytes, count: u64, closed: &watch::Receiver<Option<Instant>>) {
        let pause = async |length: Duration| {
            let mut closed = closed.clone();
            if closed.borrow_and_update().is_some() {
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(length) => {}
                // Once more, and at once: there is no time left for pauses.
                _ = closed.changed() => {}
            }
            true
        };
        match self.courier.deliver(&body, pause).await {
            Ok(answer) => match wire::rejected(&answer).unwrap_or(0).min(count) {
                0 => self.regain(),
                rejected => {
                    self.lost.inc_by(rejected);
                    self.look("the collector did not take all of them");
                }
            },
            Err(why) => {
                self.lost.inc_by(count);
                self.look(&why);
            }
        }
    }

    /// Says that something is lost, when that begins.
    fn look(&mut self, why: &str) {
        let lost = self.lost.get();
        if lost > self.told && !self.is_losing {
            self.is_losing = true;
            let url = self.courier.url();
            tracing::warn!(why, url, "{} for the collector are lost", self.what);
        }
        self.told = lost;
    }

    /// Says that nothing is lost any more.
    fn regain(&mut self) {
        if self.is_losing && self.lost.get() == self.told {
            self.is_losing = false;
            tracing::info!(url = self.courier.url(), "the collector takes all {} again", self.what);
        }
    }
}

/// A request: who says it, with which part, and what. Traces and metrics have the same form.
fn envelope(out: &mut Vec<u8>, resource: &[u8], said: &[u8]) {
    wire::message(out, 1, |out| {
        wire::bytes(out, 1, resource);
        wire::message(out, 2, |out| {
            wire::message(out, 1, |out| {
                wire::text(out, 1, "toolgate");
                wire::text(out, 2, env!("CARGO_PKG_VERSION"));
            });
            out.extend_from_slice(said);
        });
    });
}

/// Who says it.
fn resource(instance: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in [
        ("service.name", "toolgate"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
    ] {
        wire::attribute(&mut out, 1, name, Value::Text(value));
    }
    out
}
