//! The steady load: clients in sessions, clients of the modern era, and visitors that come and go, each at its own pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use crate::http2::Http2;
use crate::messages::{self, Manner, SessionState};
use crate::peer::{Answer, Fault, Peer, Request};
use crate::streams;
use crate::tally::{Asked, Tally};

/// One in so many clients with sessions is a visitor, who ends its session after a few calls and opens another.
const VISITOR_EVERY: u32 = 10;
const CALLS_OF_A_VISITOR: u32 = 20;
/// One in so many calls takes a while at the server, and one in so many is answered as a stream of one event.
const WAITING_EVERY: u64 = 20;
const EVENT_EVERY: u64 = 3;
const WAIT_MS: u64 = 50;
const CLIENTS_PER_HTTP2_CONNECTION: u32 = 10;
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How much, from whom, and to where.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The gateways, of which every client uses each in turn.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) sessions: u32,
    pub(crate) modern: u32,
    /// Clients that hold `subscriptions/listen` open.
    pub(crate) listeners: u32,
    pub(crate) calls_per_second: f64,
    /// At least so many calls are made, and more while events last.
    pub(crate) calls: u64,
    pub(crate) protocols: Protocols,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocols {
    Http1,
    /// Every second client speaks HTTP/2.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Over,
}

/// What all clients of a run share.
pub(crate) struct Load {
    pub(crate) shape: Shape,
    pub(crate) tally: Mutex<Tally>,
    ids: AtomicU64,
    calls: AtomicU64,
    ready: AtomicU64,
    stage: watch::Sender<Stage>,
}

impl Load {
    pub(crate) fn new(shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            shape,
            tally: Mutex::default(),
            ids: AtomicU64::new(1),
            calls: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            stage: watch::Sender::new(Stage::Running),
        })
    }

    /// Starts every client; the set ends when the load is over.
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        let mut http2: Vec<Http2> = Vec::new();
        for number in 0..self.shape.sessions + self.shape.modern {
            let over_http2 = self.shape.protocols == Protocols::Both && number % 2 == 1;
            if over_http2 && (number / 2) % CLIENTS_PER_HTTP2_CONNECTION == 0 {
                http2 = self.shape.addresses.iter().map(|address| Http2::new(*address)).collect();
            }
            let peers = |addresses: &[SocketAddr]| -> Vec<Peer> {
                match over_http2 {
                    true => http2.iter().map(|peer| Peer::Http2(peer.beside())).collect(),
                    false => addresses.iter().map(|address| Peer::http1(*address)).collect(),
                }
            };
            let client = Client::new(self, peers(&self.shape.addresses), number);
            match number < self.shape.sessions {
                true => {
                    let stream = peers(&self.shape.addresses).swap_remove(client.turn);
                    clients.spawn(client.in_sessions(number, stream));
                }
                false => {
                    clients.spawn(client.modern());
                }
            }
        }
        for number in 0..self.shape.listeners as usize {
            let address = self.shape.addresses[number % self.shape.addresses.len()];
            let load = Arc::clone(self);
            clients.spawn(async move {
                tokio::select! {
                    () = streams::listen(&load, Peer::http1(address)) => {}
                    () = load.over() => {}
                }
            });
        }
        clients
    }

    /// Waits until every client has its session.
    pub(crate) async fn until_ready(&self) -> std::io::Result<()> {
        let began = Instant::now();
        let wanted = u64::from(self.shape.sessions);
        while self.ready.load(Ordering::Relaxed) < wanted {
            if began.elapsed() > READY_WITHIN {
                let ready = self.ready.load(Ordering::Relaxed);
                let fault = self.tally.lock().failures.first().map(|it| it.fault.to_string());
                let fault = fault.unwrap_or_default();
                let text = format!("only {ready} of {wanted} sessions could be opened: {fault}");
                return Err(std::io::Error::other(text));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until this share of the wanted calls has been made.
    pub(crate) async fn until(&self, share: f64) {
        while (self.made() as f64) < self.shape.calls as f64 * share {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn made(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stage.send_replace(Stage::Over);
    }

    pub(crate) async fn over(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        drop(self.stage.subscribe().wait_for(|stage| *stage == Stage::Over).await);
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.stage.borrow() == Stage::Over
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

/// Who asks, and of which gateway next.
struct Client {
    load: Arc<Load>,
    peers: Vec<Peer>,
    turn: usize,
    pace: Interval,
}

impl Client {
    fn new(load: &Arc<Load>, peers: Vec<Peer>, number: u32) -> Self {
        let clients = f64::from(load.shape.sessions + load.shape.modern);
        let every = Duration::from_secs_f64(clients / load.shape.calls_per_second);
        let first = tokio::time::Instant::now() + every.mul_f64(fastrand::f64());
        let mut pace = tokio::time::interval_at(first, every);
        // A client that had to wait does not hurry afterwards.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { load: Arc::clone(load), turn: number as usize % peers.len(), peers, pace }
    }

    async fn in_sessions(mut self, number: u32, stream: Peer) {
        let load = Arc::clone(&self.load);
        let is_visitor = number % VISITOR_EVERY == VISITOR_EVERY - 1;
        // Of the others every second one listens, counted in twos so that both protocols do.
        let mut stream = (!is_visitor && (number / 2).is_multiple_of(2)).then_some(stream);
        let mut is_first = true;
        while !load.is_over() {
            self.pace.tick().await;
            let Ok(session) = self.open().await else {
                continue;
            };
            load.ready.fetch_add(u64::from(std::mem::take(&mut is_first)), Ordering::Relaxed);
            let calls = if is_visitor { CALLS_OF_A_VISITOR } else { u32::MAX };
            match stream.as_mut() {
                // The stream belongs to the session and goes when it does.
                Some(peer) => tokio::select! {
                    () = self.call_in(&session, calls) => {}
                    () = streams::watch(&load, peer, &session) => {}
                },
                None => self.call_in(&session, calls).await,
            }
            if is_visitor {
                drop(self.ask("DELETE", 0, None, &messages::end(&session), messages::ended).await);
            }
        }
    }

    async fn open(&mut self) -> Result<String, Fault> {
        let id = self.load.next_id();
        let opened = |answer: &Answer| {
            messages::result(answer, id)?;
            let missing = || Fault::Wrong("initialize gave no session id".to_owned());
            answer.head.session.clone().ok_or_else(missing)
        };
        let session = self.ask("initialize", id, None, &messages::initialize(id), opened).await?;
        let request = messages::initialized(&session);
        self.ask("notifications/initialized", 0, None, &request, messages::accepted).await?;
        let id = self.load.next_id();
        let empty = |answer: &Answer| messages::result(answer, id).map(drop);
        self.ask("logging/setLevel", id, None, &messages::set_level(&session, id), empty).await?;
        let id = self.load.next_id();
        let empty = |answer: &Answer| messages::result(answer, id).map(drop);
        self.ask("resources/subscribe", id, None, &messages::subscribe(&session, id), empty)
            .await?;
        Ok(session)
    }

    /// Calls until there are enough, the load is over, or the session is gone.
    async fn call_in(&mut self, session: &str, calls: u32) {
        // Gateways that move a session each for itself may move it to different places.
        let mut replicas = vec![None; self.peers.len()];
        for _ in 0..calls {
            self.pace.tick().await;
            if self.load.is_over() {
                return;
            }
            let id = self.load.next_id();
            let request = messages::call(session, id, manner(id));
            let gateway = self.turn;
            match self.call(id, replicas[gateway].clone(), &request).await {
                Ok(served_by) => replicas[gateway] = Some(served_by),
                // As the specification wants: a client whose session is gone opens a new one.
                Err(Fault::Status(404, _)) => return,
                Err(_) => {}
            }
        }
    }

    async fn modern(mut self) {
        while !self.load.is_over() {
            self.pace.tick().await;
            let id = self.load.next_id();
            // What came of it is in the tally.
            drop(self.call(id, None, &messages::modern_call(id, manner(id))).await);
        }
    }

    /// One `tools/call`; answers which replica ran it.
    async fn call(
        &mut self,
        id: u64,
        replica: Option<String>,
        request: &Request,
    ) -> Result<String, Fault> {
        let session = request.fields.iter().find(|(name, _)| *name == "Mcp-Session-Id");
        let session = session.map(|(_, id)| id.as_str());
        let asked = self.asked("tools/call", id, replica);
        let peer = &mut self.peers[asked.gateway];
        let answer = peer.ask(request).await.and_then(|answer| messages::told(&answer, id));
        // The time that the call was asked to take is no delay.
        let wait = Duration::from_millis(manner(id).wait_ms);
        let took = asked.sent.elapsed().saturating_sub(wait);
        self.load.calls.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.load.tally.lock();
        match answer {
            Ok(told) => {
                let state = if session.is_some() { told.state } else { SessionState::Whole };
                tally.answered(asked, session, took, state);
                Ok(told.replica)
            }
            Err(fault) => {
                tally.failed(asked, fault.clone());
                Err(fault)
            }
        }
    }

    /// Any other request; only its failure is counted.
    async fn ask<T>(
        &mut self,
        what: &'static str,
        id: u64,
        replica: Option<String>,
        request: &Request,
        read: impl FnOnce(&Answer) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let asked = self.asked(what, id, replica);
        let peer = &mut self.peers[asked.gateway];
        let read = peer.ask(request).await.and_then(|answer| read(&answer));
        read.inspect_err(|fault| self.load.tally.lock().failed(asked, fault.clone()))
    }

    fn asked(&mut self, what: &'static str, id: u64, replica: Option<String>) -> Asked {
        let gateway = self.turn;
        self.turn = (self.turn + 1) % self.peers.len();
        Asked { what, id, gateway, replica, sent: Instant::now() }
    }
}

fn manner(id: u64) -> Manner {
    Manner {
        form: if id.is_multiple_of(EVENT_EVERY) { "event" } else { "json" },
        wait_ms: if id.is_multiple_of(WAITING_EVERY) { WAIT_MS } else { 0 },
    }
}
