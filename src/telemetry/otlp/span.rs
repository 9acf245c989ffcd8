//! Spans as OTLP writes them, each once and as bytes, because nobody looks at them before they leave.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::context::SpanContext;
use super::wire::{self, Value};

/// Flags of a span whose parent is known to be remote, or to be ours.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const STATUS_ERROR: u64 = 2;
/// Room for one span with its attributes.
const SPAN_BYTES: usize = 1024;

/// Which side of an operation a span tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client asked the gateway.
    Server,
    /// The gateway asked a server.
    Client,
}

/// What every span says.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Which it is.
    pub context: SpanContext,
    /// The span that it is a part of.
    pub parent: Option<[u8; 8]>,
    /// Another one that it has to do with.
    pub link: Option<SpanContext>,
    /// What vendors on the way have said.
    pub state: &'a str,
    /// Which side it tells of.
    pub side: Side,
    /// The method.
    pub method: &'a str,
    /// What the method is about, if its name is part of the span's.
    pub target: &'a str,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Why it failed, if it did.
    pub error: &'a str,
}

/// Spans that leave together.
#[derive(Debug, Default)]
pub struct Spans {
    pub(super) bytes: Vec<u8>,
    pub(super) count: u64,
}

/// The attributes of a span, while it is written.
pub struct Attributes<'o>(&'o mut Vec<u8>);

impl Spans {
    /// Adds a span; `write` says the rest of it.
    pub fn add(&mut self, span: &Span<'_>, write: impl FnOnce(&mut Attributes<'_>)) {
        self.count += 1;
        self.bytes.reserve(SPAN_BYTES);
        // Field 2 of ScopeSpans, so that a request only strings together what is here.
        wire::message(&mut self.bytes, 2, |out| {
            span.write(out);
            let mut attributes = Attributes(out);
            attributes.text("error.type", span.error);
            write(&mut attributes);
        });
    }
}

impl Attributes<'_> {
    /// Says this; nothing if there is no text.
    pub fn text(&mut self, name: &str, value: &str) {
        wire::attribute(self.0, 9, name, Value::Text(value));
    }

    /// Says this number.
    pub fn number(&mut self, name: &str, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        wire::attribute(self.0, 9, name, Value::Number(value));
    }
}

impl Span<'_> {
    /// Everything but the attributes.
    fn write(&self, out: &mut Vec<u8>) {
        wire::bytes(out, 1, &self.context.trace_id);
        wire::bytes(out, 2, &self.context.span_id);
        wire::text(out, 3, self.state);
        if let Some(parent) = &self.parent {
            wire::bytes(out, 4, parent);
        }
        match self.target {
            "" => wire::text(out, 5, self.method),
            target => wire::text(out, 5, &[self.method, target].join(" ")),
        }
        wire::number(out, 6, if self.side == Side::Server { 2 } else { 3 });
        wire::fixed64(out, 7, nanoseconds(self.began));
        wire::fixed64(out, 8, nanoseconds(self.ended.max(self.began)));
        if let Some(link) = &self.link {
            wire::message(out, 13, |out| {
                wire::bytes(out, 1, &link.trace_id);
                wire::bytes(out, 2, &link.span_id);
                wire::fixed32(out, 6, u32::from(link.is_sampled) | HAS_IS_REMOTE | IS_REMOTE);
            });
        }
        if !self.error.is_empty() {
            wire::message(out, 15, |out| wire::number(out, 3, STATUS_ERROR));
        }
        let remote = match (self.side, self.parent) {
            (Side::Server, Some(_)) => HAS_IS_REMOTE | IS_REMOTE,
            _ => HAS_IS_REMOTE,
        };
        wire::fixed32(out, 16, u32::from(self.context.is_sampled) | remote);
    }
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
