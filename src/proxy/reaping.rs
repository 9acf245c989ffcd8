//! Ends sessions at their servers that nobody will use again.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http::{HeaderValue, Method};
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use pingora::time::timeout;

use super::Shared;
use super::exchange::Exchange;
use super::own_request::{OwnRequest, Unsaid};
use super::placing::place_at;
use crate::mcp::MCP_PROTOCOL_VERSION;
use crate::sessions::{Abandoned, IdleHere, Rules, Table, View, seconds};
use crate::telemetry::Reason;
use crate::upstream::{Subject, now_ms};

/// What waits to be ended at the most; the servers end the rest by themselves.
const WAITING_MAX: usize = 64 * 1024;
/// What is looked through at once.
const BATCH: usize = 16 * 1024;
/// How long one may take to end.
const END_MAX: Duration = Duration::from_secs(5);
/// Answers to `initialize` that are waited for at the most: each has a connection of its own.
const LATE_MAX: usize = 1024;
/// How long one is waited for. A server that takes longer keeps its session.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// How long all of them are listened to at a time.
const HEAR_MAX: Duration = Duration::from_millis(200);
/// What is ended at once.
const CONCURRENT: usize = 16;

/// Until when a session waits to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Until it is due, or nothing runs at its endpoint.
    Quiet,
    /// Until it is due: other replicas may still use it.
    Due,
}

/// The sessions that wait to be ended.
#[derive(Default)]
pub(super) struct Reaper {
    waiting: Mutex<Vec<(Instant, Until, Abandoned)>>,
    late: Mutex<Vec<Late>>,
}

/// An `initialize` for which nobody waits any more.
struct Late {
    exchange: Exchange,
    session: Abandoned,
    until: Instant,
}

/// A session that is being opened. Unless it is claimed, it is ended as soon as its server names it.
pub(super) struct Unclaimed<'r> {
    reaper: &'r Reaper,
    /// What is known of it.
    pub(super) session: Option<Abandoned>,
    /// Where its server is asked for it.
    pub(super) exchange: Option<Exchange>,
}

impl<'r> Unclaimed<'r> {
    /// A session that is asked for at this endpoint.
    pub(super) fn new(reaper: &'r Reaper, session: Abandoned) -> Self {
        Self { reaper, session: Some(session), exchange: None }
    }

    /// No session at all.
    pub(super) fn nothing(reaper: &'r Reaper) -> Self {
        Self { reaper, session: None, exchange: None }
    }

    /// It is used.
    pub(super) fn claim(mut self) {
        self.session = None;
    }
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        match self.exchange.take().filter(|_| session.place.upstream_id.is_none()) {
            Some(exchange) => self.reaper.wait_for(exchange, session),
            None => self.reaper.add(session, Instant::now()),
        }
    }
}

impl Reaper {
    /// Adds a session that may be ended once `due`.
    pub(super) fn add(&self, session: Abandoned, due: Instant) {
        self.wait(session, Until::Quiet, due);
    }

    /// The same for one that other replicas may use until then.
    pub(super) fn add_for_all(&self, session: Abandoned, due: Instant) {
        self.wait(session, Until::Due, due);
    }

    fn wait(&self, session: Abandoned, until: Until, due: Instant) {
        let mut waiting = self.waiting.lock();
        if session.place.upstream_id.is_some() && waiting.len() < WAITING_MAX {
            waiting.push((due, until, session));
        }
    }

    /// Waits for what a server says to an `initialize` for which nobody else does.
    fn wait_for(&self, exchange: Exchange, session: Abandoned) {
        let mut late = self.late.lock();
        if late.len() < LATE_MAX {
            late.push(Late { exchange, session, until: Instant::now() + ANSWER_MAX });
        }
    }

    /// Takes those that may be ended now: they are due, or nothing runs at their endpoint.
    fn take_due(&self) -> Vec<Abandoned> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *waiting).into_iter().partition(|(due, until, session)| {
                let endpoint = &session.place.endpoint;
                let is_quiet = endpoint.in_flight() + endpoint.streams() == 0;
                *due <= now || (*until == Until::Quiet && is_quiet)
            });
        *waiting = later;
        due.into_iter().map(|(_, _, session)| session).collect()
    }
}

impl Shared {
    /// Forgets sessions that nobody used for too long and ends them at their servers; makes room in
    /// the table if it is full.
    pub async fn reap(&self) {
        let snapshot = self.snapshot();
        let (sessions, rules) = (&snapshot.sessions, snapshot.session_rules);
        let now = seconds(SystemTime::now());
        sessions.make_room(now, rules);
        self.hear_late().await;
        self.end_all(self.reaper.take_due()).await;
        // A process that drains does not see what its successor's clients use.
        while !self.lifecycle.is_draining() {
            if rules.view == View::Shared {
                self.reap_shared(sessions, rules, now).await;
                break;
            }
            let abandoned = sessions.sweep(now, rules, BATCH);
            let count = abandoned.len();
            if rules.view == View::Whole {
                self.lasting.metrics.sessions.abandoned.inc_by(count as u64);
                self.end_all(abandoned).await;
            }
            if count < BATCH {
                break;
            }
        }
        self.lasting.metrics.sessions.tracked.set(sessions.len() as i64);
    }

    /// Hears which sessions were opened too late, so that they are ended.
    async fn hear_late(&self) {
        let late = std::mem::take(&mut *self.reaper.late.lock());
        let hear = async |mut late: Late| match timeout(HEAR_MAX, late.exchange.read_head(1024))
            .await
        {
            Ok(Ok(head)) => {
                late.session.place.upstream_id = head.session_id().map(|id| id.as_bytes().to_vec());
                self.reaper.add(late.session, Instant::now());
            }
            Ok(Err(_)) => {}
            Err(_) if late.until > Instant::now() => self.reaper.late.lock().push(late),
            Err(_) => {}
        };
        stream::iter(late).for_each_concurrent(None, hear).await;
    }

    /// Ends the sessions that no replica uses, each by one of them.
    async fn reap_shared(&self, sessions: &Table, rules: Rules, now: u32) {
        let idle = sessions.idle_here(now, rules, BATCH);
        stream::iter(idle)
            .for_each_concurrent(CONCURRENT, async |idle: IdleHere| {
                let Some(spot) = sessions.reap_idle(&idle, now, rules).await else { return };
                let pools = self.lasting.fleet.pools();
                let place =
                    spot.and_then(|spot| pools.iter().find_map(|pool| place_at(pool, &spot)));
                let IdleHere { named, place: known, revision } = idle;
                let place = place.unwrap_or(known);
                self.lasting.metrics.sessions.abandoned.inc();
                self.end(Abandoned { key: named.key, caller: None, place, revision }).await;
                sessions.tell_reaped(named).await;
            })
            .await;
    }

    /// Keeps in step with the sessions of the other replicas, for ever.
    pub async fn share_sessions(&self) {
        self.lasting.sessions.share(|| self.snapshot().session_rules).await;
    }

    async fn end_all(&self, sessions: Vec<Abandoned>) {
        stream::iter(sessions).for_each_concurrent(CONCURRENT, |session| self.end(session)).await;
    }

    /// Ends one session at its server. What fails is the server's to clean up.
    async fn end(&self, session: Abandoned) {
        let Abandoned { place, revision, .. } = &session;
        let pools = self.lasting.fleet.pools();
        let id = place.endpoint.id();
        let pool = pools.iter().find(|pool| pool.by_id(id).is_some()).or_else(|| pools.first());
        let (Some(pool), Some(upstream_id)) = (pool, &place.upstream_id) else { return };
        let Ok(mut head) = RequestHeader::build_no_case(Method::DELETE, b"/", Some(4)) else {
            return;
        };
        if let Some(revision) = revision {
            let version = HeaderValue::from_static(revision.as_str());
            if head.insert_header(MCP_PROTOCOL_VERSION, version).is_err() {
                return;
            }
        }
        let request_id = self.request_ids.next();
        // Whom the server does not let in can end nothing there.
        let Ok(credential) = pool.credentials().of(Subject::Gateway).await else { return };
        let request = OwnRequest {
            head: &head,
            session: Some(upstream_id),
            request_id: std::str::from_utf8(&request_id).unwrap_or_default(),
            client_address: None,
            body: Bytes::new(),
            credential: credential.as_ref(),
            told: None,
            method: "",
            trace: None,
        };
        let endpoint = &place.endpoint;
        let standing = endpoint.standing();
        if standing.is_unreachable(now_ms()) || standing.is_ejected(now_ms()) {
            return;
        }
        match timeout(END_MAX, self.ask_endpoint(pool, endpoint, request)).await {
            Ok(Ok(_)) => {
                self.lasting.metrics.sessions.reaped.inc();
                let id = std::str::from_utf8(&request_id).unwrap_or_default();
                self.record_reaped(id, pool.name(), &session);
            }
            Ok(Err(Unsaid::Unreachable)) => {
                self.endpoint_refused(pool, endpoint, Reason::EndpointUnreachable);
            }
            // A server that hangs must not keep the others' sessions from being ended.
            Ok(Err(Unsaid::Broken | Unsaid::Refused)) | Err(_) => {
                self.endpoint_failed(pool, endpoint, Reason::EndpointTimeout);
            }
        }
    }
}
