//! Where a request stands in which trace, and what servers are told of that.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderName;
use parking_lot::Mutex;
use pingora::http::RequestHeader;

use super::Gateway;
use super::context::Context;
use crate::jsonrpc::Envelope;
use crate::telemetry::{Claimed, Otlp, Reason, SpanContext};
use crate::upstream::{Endpoint, Pool};

/// W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// How many exchanges of the gateway's own a request has spans for.
const OWN_MAX: usize = 64;
/// How much baggage goes on to a server (W3C Baggage: a platform passes on that much).
pub(super) const BAGGAGE_BYTES_MAX: usize = 8192;

/// Where a request stands in which trace. What is not sampled allocates nothing, unless its message
/// itself says `tracestate`.
pub(super) struct Trace {
    /// The span of the request.
    pub(super) span: SpanContext,
    pub(super) parent: Option<[u8; 8]>,
    /// What the head says, where the message says something else.
    pub(super) link: Option<SpanContext>,
    pub(super) state: State,
    /// The exchange with a server that is under way, or was the last.
    pub(super) asked: Option<Asked>,
    /// Those before it, if the trace is sampled.
    pub(super) in_vain: Vec<InVain>,
    /// What the gateway itself asked for it, if the trace is sampled.
    pub(super) own: Mutex<Vec<Own>>,
}

/// Which `tracestate` belongs to the parent.
pub(super) enum State {
    /// What the head says.
    OfHead,
    /// What the message says, if it says any.
    OfMessage(Option<Box<str>>),
}

/// An exchange with a server.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) span_id: [u8; 8],
    pub(super) began: Instant,
}

/// One that came to nothing, so that the request went elsewhere.
pub(super) struct InVain {
    pub(super) asked: Asked,
    pub(super) ended: Instant,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) why: &'static str,
}

/// An exchange of the gateway's own.
pub(super) struct Own {
    pub(super) asked: Asked,
    pub(super) ended: Instant,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) server: Box<str>,
    pub(super) method: Box<str>,
    pub(super) error: String,
}

/// What a server is told of the trace.
#[derive(Clone, Copy)]
pub(super) struct Onward<'a> {
    /// The span of the exchange with it.
    pub(super) traceparent: [u8; 55],
    /// What goes with it instead of what the client sent; `None` leaves that.
    pub(super) tracestate: Option<&'a str>,
}

impl Trace {
    fn new(otlp: &Otlp, head: &RequestHeader, claimed: Option<Claimed>) -> Self {
        let ambient = single(head, &TRACEPARENT).and_then(SpanContext::parse);
        let (parent, link, state) = match (claimed, ambient) {
            (Some(Claimed { parent, state }), link) => {
                (Some(parent), link, State::OfMessage(state))
            }
            (None, Some(parent)) => (Some(parent), None, State::OfHead),
            // Without a parent it belongs to nothing.
            (None, None) => (None, None, State::OfMessage(None)),
        };
        let span = parent.map_or_else(|| otlp.root(), Otlp::child);
        let parent = parent.map(|parent| parent.span_id);
        Self { span, parent, link, state, asked: None, in_vain: Vec::new(), own: Mutex::default() }
    }

    /// The id of the trace.
    pub(super) fn id(&self) -> [u8; 32] {
        self.span.trace_id_text()
    }

    /// An exchange with a server begins.
    fn ask(&mut self) {
        self.asked = Some(self.ask_oneself());
    }

    /// An exchange of the gateway's own begins; there may be several at once.
    pub(super) fn ask_oneself(&self) -> Asked {
        let SpanContext { span_id, .. } = Otlp::child(self.span);
        Asked { span_id, began: Instant::now() }
    }

    /// It is over, with this error if `why` says one.
    pub(super) fn asked_oneself(
        &self,
        asked: Asked,
        (pool, endpoint): (&Pool, &Arc<Endpoint>),
        method: &str,
        why: impl FnOnce() -> Option<String>,
    ) {
        if !self.span.is_sampled {
            return;
        }
        let mut own = self.own.lock();
        if own.len() < OWN_MAX {
            own.push(Own {
                asked,
                ended: Instant::now(),
                endpoint: Arc::clone(endpoint),
                server: pool.name().into(),
                method: method.into(),
                error: why().unwrap_or_default(),
            });
        }
    }

    /// It came to nothing, and another one follows.
    fn asked_in_vain(&mut self, endpoint: &Arc<Endpoint>, why: &'static str) {
        if let Some(asked) = self.asked.take().filter(|_| self.span.is_sampled) {
            let (ended, endpoint) = (Instant::now(), Arc::clone(endpoint));
            self.in_vain.push(InVain { asked, ended, endpoint, why });
        }
    }

    /// What the server is told that gets the request.
    pub(super) fn onward(&self) -> Onward<'_> {
        self.onward_from(self.asked.as_ref())
    }

    /// What a server is told in this exchange.
    pub(super) fn onward_from(&self, asked: Option<&Asked>) -> Onward<'_> {
        let span_id = asked.map_or(self.span.span_id, |asked| asked.span_id);
        let tracestate = match &self.state {
            State::OfHead => None,
            State::OfMessage(state) => Some(state.as_deref().unwrap_or_default()),
        };
        Onward { traceparent: SpanContext { span_id, ..self.span }.traceparent(), tracestate }
    }
}

impl Onward<'_> {
    /// Whether a field of the client's does not go on.
    pub(super) fn replaces(&self, name: &HeaderName) -> bool {
        name == TRACEPARENT || (self.tracestate.is_some() && name == TRACESTATE)
    }

    /// The fields that go on instead.
    pub(super) fn each(&self, mut emit: impl FnMut(&str, &[u8])) {
        emit(TRACEPARENT.as_str(), &self.traceparent);
        if let Some(state) = self.tracestate.filter(|state| !state.is_empty()) {
            emit(TRACESTATE.as_str(), state.as_bytes());
        }
    }
}

impl Context {
    /// An exchange with a server begins.
    pub(super) fn asks(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.ask();
        }
    }

    /// It came to nothing, and the request may go elsewhere.
    pub(super) fn asked_in_vain(&mut self, endpoint: &Arc<Endpoint>, why: Reason) {
        if let Some(trace) = &mut self.trace {
            trace.asked_in_vain(endpoint, why.as_str());
        }
    }
}

impl Gateway {
    /// Finds out where the request stands, once: by its message, or else by its head.
    pub(super) fn trace(
        &self,
        head: &RequestHeader,
        envelope: Option<&Envelope<'_>>,
        ctx: &mut Context,
    ) {
        let Some(otlp) = self.otlp.as_ref().filter(|_| ctx.trace.is_none()) else { return };
        let claimed = envelope.and_then(|envelope| Claimed::read(envelope.params.meta.literal));
        ctx.trace = Some(Trace::new(otlp, head, claimed));
    }
}

/// The value of a field that may be there once.
pub(super) fn single<'h>(head: &'h RequestHeader, name: &HeaderName) -> Option<&'h str> {
    let mut values = head.headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}
