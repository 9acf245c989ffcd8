//! The request path: one file per phase of Pingora's proxy, named as the phase.

mod admission;
mod answer;
mod body;
mod claiming;
mod context;
mod deliver;
mod early_request_filter;
mod edge;
mod endpoint_outcome;
mod errands;
mod task_lists;
mod exchange;
mod finding;
mod head;
mod hosts;
mod http1;
mod idle;
mod legs;
mod listing;
mod merging;
mod identity_headers;
mod logging;
mod moving;
mod own_request;
mod parked;
mod placing;
mod plan;
mod proxy_protocol;
mod proxy_upstream_filter;
mod pump;
mod reaping;
mod recording;
mod refusal;
mod remembering;
mod renaming;
mod request_filter;
mod response_body_filter;
mod response_filter;
mod spans;
mod stream;
mod strict;
mod trace;
mod upstream_peer;
mod upstream_request_filter;

pub use edge::Edge;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::modules::http::HttpModules;
use pingora::protocols::http::ServerSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::audit::Audit;
use crate::lifecycle::Lifecycle;
use crate::shared::Store;
use crate::snapshot::{Lasting, Snapshot};
use crate::telemetry::{Metrics, Otlp, Reason, Repeats, RequestLog};
use crate::upstream::{Fleet, now_ms};
use context::Context;
use exchange::Connections;
use moving::Moves;
use reaping::Reaper;
use refusal::Refusal;

/// How long the last records may take to be written.
const AUDIT_CLOSE_MAX: Duration = Duration::from_secs(5);
/// How long the last spans and metrics may take to be sent; nobody's record depends on them.
const OTLP_CLOSE_MAX: Duration = Duration::from_secs(2);

/// What all listeners share.
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    lasting: Lasting,
    moves: Moves,
    reaper: Reaper,
    repeats: Repeats,
    audit: Option<Arc<Audit>>,
    request_log: Option<RequestLog>,
    otlp: Option<Otlp>,
    connections: Connections,
    request_ids: RequestIds,
    lifecycle: Arc<Lifecycle>,
}

/// The gateway as one listener sees it.
pub struct Gateway {
    shared: Arc<Shared>,
    listener: usize,
}

impl Shared {
    /// Everything that outlives a request.
    pub fn new(
        snapshot: Snapshot,
        lasting: Lasting,
        (request_log, audit, otlp): (Option<RequestLog>, Option<Arc<Audit>>, Option<Otlp>),
        upstream_idle_connections: usize,
        workers: usize,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        lasting.fleet.install(&snapshot.pools, now_ms());
        snapshot.identity.install();
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            lasting,
            moves: Moves::default(),
            reaper: Reaper::default(),
            repeats: Repeats::new(fastrand::u64(..)),
            audit,
            request_log,
            otlp,
            connections: Connections::new(upstream_idle_connections, workers),
            request_ids: RequestIds::new(),
            lifecycle,
        }
    }

    /// The configuration in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Lets a new configuration take effect: requests that have begun keep the one they began with.
    pub fn install(&self, snapshot: Snapshot) {
        self.lasting.fleet.install(&snapshot.pools, now_ms());
        snapshot.identity.install();
        self.snapshot.store(Arc::new(snapshot));
        // Streams that were woken before have looked at the configuration of before.
        self.lasting.fleet.ring_all();
    }

    /// What outlives every configuration.
    pub fn lasting(&self) -> &Lasting {
        &self.lasting
    }

    /// What all replicas have in common.
    pub fn store(&self) -> &Arc<Store> {
        &self.lasting.store
    }

    /// Every server and its endpoints.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.lasting.fleet
    }

    /// The metrics of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.lasting.metrics
    }

    /// Where the process stands between its start and its end.
    pub fn lifecycle(&self) -> &Arc<Lifecycle> {
        &self.lifecycle
    }

    /// Closes connections to servers that nobody has used for a while, and forgets what limits have
    /// counted where it is over.
    pub fn sweep(&self) {
        self.connections.sweep();
        self.lasting.limits.sweep();
        self.lasting.marks.sweep(now_ms());
        self.lasting.metrics.policy.marks.set(self.lasting.marks.len() as i64);
    }

    /// The record of what happens, if there is one.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.audit.as_ref()
    }

    /// Ends the record, and waits until it, the request log and the last spans have left the process.
    pub fn flush(&self) {
        if let Some(log) = &self.request_log {
            log.flush();
        }
        if let Some(audit) = &self.audit {
            audit.close(AUDIT_CLOSE_MAX);
        }
        if let Some(otlp) = &self.otlp {
            otlp.close(OTLP_CLOSE_MAX);
        }
    }
}

impl Gateway {
    /// The gateway behind the listener at this place in the settings.
    pub fn new(shared: Arc<Shared>, listener: usize) -> Self {
        Self { shared, listener }
    }

    /// Lets the answer whose head is sent next say `Connection: close`, if the process drains.
    fn close_if_draining(&self, session: &mut ServerSession) {
        if self.lifecycle.is_draining() {
            session.set_keepalive(None);
        }
    }
}

impl std::ops::Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.snapshot.load_full(), self.request_ids.next())
    }

    /// No modules: answers pass as the server sent them.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let snapshot = Arc::clone(&ctx.snapshot);
        early_request_filter::early_request_filter(
            session,
            ctx,
            &snapshot.listeners[self.listener],
        );
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        match self.decide(session, ctx).await {
            Ok(plan) => {
                ctx.plan(plan);
                Ok(false)
            }
            Err(refusal) => answer::refuse(session.as_mut(), ctx, &refusal).await.map(|()| true),
        }
    }

    /// Every request is answered here, so Pingora's own pipeline never starts.
    async fn proxy_upstream_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        self.carry_out(session, ctx).await.map(|()| false)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "every request is answered before this phase")
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let dead = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::WriteTimedout
        );
        if !dead {
            tracing::error!(%error, "request failed");
            let refusal = Refusal::from(Reason::Internal);
            if let Err(error) = answer::refuse(session.as_mut(), ctx, &refusal).await {
                tracing::debug!(%error, "client left before its refusal");
            }
        }
        FailToProxy { error_code: ctx.record.status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        if !ctx.is_handed_over() {
            self.log(session.req_header(), ctx);
        }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }
}

/// Makes request ids: a random start for the process, then a counter, scrambled so that ids of
/// neighbouring requests differ early and tell nobody how many there were.
struct RequestIds {
    key: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        Self { key: fastrand::u64(..), next: AtomicU64::new(fastrand::u64(..)) }
    }

    fn next(&self) -> [u8; 16] {
        let mut id = self.next.fetch_add(1, Ordering::Relaxed) ^ self.key;
        // The finalizer of SplitMix64: a bijection, so no two requests share an id.
        id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        id ^= id >> 31;
        std::array::from_fn(|place| {
            let nibble = (id >> (60 - 4 * place)) & 0xf;
            b"0123456789abcdef"[nibble as usize]
        })
    }
}
