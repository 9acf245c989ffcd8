//! The stream of one of several servers, as a part of a merged one: it is opened again whenever it is
//! lost, and its events are renamed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::RequestHeader;
use tokio::sync::watch;

use super::opening::{Open, Opening};
use crate::federation::{Answers, Cut, Federation, Member, Part, Passage, Passing, own_event_id};
use crate::mcp::{Filter, Unfit, data_of_events, error_code};
use crate::proxy::Gateway;
use crate::proxy::context::Context;
use crate::proxy::errands::held_leg;
use crate::proxy::plan::{Held, Key, Way};
use crate::proxy::renaming::passage;
use crate::proxy::stream::LEAVE_MS;
use crate::routes::Route;
use crate::sessions::SessionState;
use crate::telemetry::Reason;
use crate::upstream::{Pool, now_ms};

/// A stream is opened again after this time at first, and after the second at last.
const PAUSE_S: std::ops::RangeInclusive<u64> = 1..=30;
/// A stream that lived for so long was well.
const LIVED: Duration = Duration::from_secs(30);
/// How often it is looked whether a leg was opened meanwhile that the session had not.
const LATE_LOOK: Duration = Duration::from_secs(5);
/// What is read of a listen stream until it is known what the server accepts.
const PRELUDE_BYTES_MAX: usize = 256 * 1024;

/// What all sources of a stream know.
#[derive(Clone, Copy)]
pub(super) struct Scene<'s> {
    pub(super) gateway: &'s Gateway,
    pub(super) ctx: &'s Context,
    /// The head of the client's request.
    pub(super) client: &'s RequestHeader,
    /// The legacy session.
    pub(super) session: Option<&'s SessionState>,
}

/// What one server is asked for.
pub(super) struct Sought {
    pub(super) way: Way,
    pub(super) ask: Ask,
    /// The server's own id of the last event that the client saw of it.
    pub(super) resume: Option<String>,
}

/// How a server is asked.
pub(super) enum Ask {
    /// By a GET in this leg of the session.
    Leg(Box<Held>),
    /// In a leg that is not opened yet, nor is it for a stream.
    Late,
    /// By a listen request.
    Listen {
        key: Key,
        random: u64,
        body: Bytes,
        /// What it asks for, as the client knows it.
        share: Filter,
    },
    /// Not at all.
    Nothing,
}

/// One of the streams.
pub(super) struct Source<'s> {
    pub(super) scene: &'s Scene<'s>,
    pub(super) server: &'s Member,
    pub(super) pool: Arc<Pool>,
    pub(super) ask: Ask,
    pub(super) resume: Option<String>,
    /// Whether it continues what the client heard before.
    pub(super) continues: bool,
    way: Way,
    bell: watch::Receiver<u64>,
    changes: u32,
    state: State,
    /// Whether the server has said that lists of it have changed.
    told_of_lists: bool,
    /// How often in a row it was opened in vain, or not for long.
    in_vain: u32,
}

enum State {
    /// To be opened then.
    Due(Instant),
    Open(Box<Open>),
    /// The server has no stream; whether its lists change is known all the same.
    Silent,
}

/// What came of a source.
pub(super) enum Heard {
    /// Its stream is open. Of a listen stream it is known what the server accepts.
    Opened { accepted: Option<Filter>, missed: Missed },
    /// The server has no stream, and is not asked again.
    Without,
    /// It has none now.
    Later,
    /// Events, or a part of one.
    Part(Bytes),
    /// What clients can see of the server has changed.
    Changed,
    /// Its stream is over, and will be opened again.
    Ended,
    /// Its stream is over in the middle of an event; this came before that event.
    Cut(Bytes),
}

/// Whether events may have been said that the client will not hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    Nothing,
    Something,
}

impl<'s> Scene<'s> {
    /// The route with its servers.
    pub(super) fn route(&self) -> Option<(&'s Route, &'s Federation)> {
        let route = self.ctx.record.route.as_deref()?;
        Some((route, route.federation()?))
    }
}

impl<'s> Source<'s> {
    pub(super) fn new(scene: &'s Scene<'s>, sought: Sought) -> Option<Self> {
        let Sought { way, ask, resume } = sought;
        let server = scene.route()?.1.members().get(way.member)?;
        let pool = Arc::clone(&server.pool);
        let state = match ask {
            Ask::Leg(_) | Ask::Listen { .. } => State::Due(Instant::now()),
            Ask::Late | Ask::Nothing => State::Silent,
        };
        Some(Self {
            scene,
            server,
            bell: pool.bell(),
            changes: pool.changes(),
            pool,
            way,
            ask,
            resume,
            continues: scene.client.headers.contains_key(crate::mcp::LAST_EVENT_ID),
            state,
            told_of_lists: false,
            in_vain: 0,
        })
    }

    /// Whether the server has said since the last time that lists of it have changed.
    pub(super) fn has_told_of_lists(&mut self) -> bool {
        std::mem::take(&mut self.told_of_lists)
    }

    /// Whether all that it gave ends between two events.
    pub(super) fn is_between_events(&self) -> bool {
        match &self.state {
            State::Open(open) => open.events.is_between_events(),
            State::Due(_) | State::Silent => true,
        }
    }

    /// Waits for what comes next, and gives itself back with it.
    pub(super) async fn next(mut self) -> (Self, Heard) {
        let heard = self.hear().await;
        (self, heard)
    }

    /// Waits for what comes next. May be dropped while its stream is open.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            let heard = match &self.state {
                State::Due(due) => {
                    tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
                    // Boxed, so that a source that waits has no room for it.
                    Box::pin(self.begin()).await
                }
                State::Silent => self.wait_in_silence().await,
                State::Open(_) => self.listen().await,
            };
            if let Some(heard) = heard {
                return heard;
            }
        }
    }

    async fn begin(&mut self) -> Option<Heard> {
        self.renew_pool();
        let opening = match &self.ask {
            Ask::Leg(_) => self.open_leg().await,
            Ask::Listen { .. } => self.open_listening().await,
            Ask::Late | Ask::Nothing => Opening::Without,
        };
        self.continues = true;
        match opening {
            Opening::Open(open) => {
                let (missed, is_heard) = (open.missed, open.prelude.is_some());
                self.state = State::Open(open);
                // A listen stream is open once the server has said what it accepts.
                (!is_heard).then_some(Heard::Opened { accepted: None, missed })
            }
            Opening::Without => {
                self.state = State::Silent;
                Some(Heard::Without)
            }
            Opening::Later => {
                self.pause();
                Some(Heard::Later)
            }
        }
    }

    /// It is opened again after a while.
    fn pause(&mut self) {
        let pause_s = PAUSE_S.start().checked_shl(self.in_vain).unwrap_or(u64::MAX);
        self.in_vain = self.in_vain.saturating_add(1).min(u64::BITS - 1);
        let pause_ms = pause_s.min(*PAUSE_S.end()) * 1000;
        let pause = Duration::from_millis(fastrand::u64(pause_ms / 2..=pause_ms));
        self.state = State::Due(Instant::now() + pause);
    }

    async fn wait_in_silence(&mut self) -> Option<Heard> {
        let late = async {
            match self.ask {
                Ask::Late => tokio::time::sleep(LATE_LOOK).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            rung = self.bell.changed() => {
                let is_rung = rung.is_ok();
                self.heed(is_rung)
            }
            () = late => {
                let leg = held_leg(self.scene.session?.clone(), self.server, self.scene.ctx);
                let leg = Box::pin(leg).await?;
                self.ask = Ask::Leg(Box::new(leg));
                self.state = State::Due(Instant::now());
                None
            }
        }
    }

    /// Looks what the bell of its pool was rung for.
    fn heed(&mut self, is_rung: bool) -> Option<Heard> {
        self.renew_pool();
        if !is_rung {
            // The server was taken away and came back.
            self.bell = self.pool.bell();
        }
        if let State::Open(open) = &mut self.state {
            open.must_look = true;
        }
        let changes = self.pool.changes();
        let is_changed = std::mem::replace(&mut self.changes, changes) != changes;
        is_changed.then_some(Heard::Changed)
    }

    /// A reload made another pool of the same server.
    fn renew_pool(&mut self) {
        if let Some(pool) = self.scene.gateway.lasting.fleet.pool(self.pool.name()) {
            self.pool = pool;
        }
    }

    async fn listen(&mut self) -> Option<Heard> {
        let State::Open(open) = &mut self.state else { return None };
        if open.is_over {
            return Some(self.over());
        }
        if open.must_look && open.events.is_between_events() {
            open.must_look = false;
            if self.pool.must_leave(&open.endpoint, now_ms()).is_some() && self.may_leave() {
                let pause = Duration::from_millis(fastrand::u64(..LEAVE_MS));
                self.state = State::Due(Instant::now() + pause);
                return None;
            }
            return None;
        }
        let came = match open.first.take() {
            Some(first) => Ok(Some(first)),
            None => tokio::select! {
                biased;
                part = open.exchange.read_body() => part,
                rung = self.bell.changed() => {
                    let is_rung = rung.is_ok();
                    return self.heed(is_rung);
                }
            },
        };
        match came {
            Ok(Some(part)) => self.take_in(part),
            Ok(None) => Some(self.over()),
            Err(broken) => {
                tracing::debug!(server = self.server.name, ?broken, "a stream broke");
                let (pool, endpoint) = (&self.pool, &open.endpoint);
                self.scene.gateway.endpoint_failed(pool, endpoint, Reason::EndpointBroken);
                Some(self.over())
            }
        }
    }

    /// Its stream has ended.
    fn over(&mut self) -> Heard {
        let State::Open(open) = &self.state else { return Heard::Ended };
        if !open.events.is_between_events() {
            return Heard::Cut(Bytes::new());
        }
        if open.since.elapsed() >= LIVED {
            self.in_vain = 0;
        }
        let was_accepted = open.prelude.is_none();
        self.pause();
        if was_accepted { Heard::Ended } else { Heard::Later }
    }

    /// What the client gets of a part of the stream.
    fn take_in(&mut self, part: Bytes) -> Option<Heard> {
        let State::Open(open) = &mut self.state else { return None };
        let was_between = open.events.is_between_events();
        let passage = way_of(self.scene, &self.way, &self.ask)?;
        let (passing, dropped) = match open.events.pass(&part, &passage) {
            Ok(Part { passing, dropped }) => (passing, dropped),
            Err(Cut { before, fault }) => {
                tell_dropped(self.server, fault, 1);
                return Some(Heard::Cut(before.into()));
            }
        };
        match dropped {
            Some((Unfit::ForeignAnswer, _)) if matches!(self.ask, Ask::Listen { .. }) => {
                open.is_over = true;
                let says_no = |said: &Vec<u8>| error_code(said).is_some();
                if open.prelude.is_some() && data_of_events(&part).iter().any(says_no) {
                    self.state = State::Silent;
                    return Some(Heard::Without);
                }
            }
            Some((fault, count)) => tell_dropped(self.server, fault, count),
            None => {}
        }
        let passing = match passing {
            Passing::Whole => part,
            Passing::Instead(instead) => instead.into(),
        };
        self.pass_on(passing, was_between)
    }

    fn pass_on(&mut self, part: Bytes, was_between: bool) -> Option<Heard> {
        let State::Open(open) = &mut self.state else { return None };
        open.watch.saw(&part);
        for listed in open.watch.take_changed().iter() {
            let metrics = &self.scene.gateway.lasting.metrics;
            metrics.list_changed(self.pool.name(), listed.as_str());
            self.server.listed.changed();
            self.told_of_lists = true;
        }
        if let Ask::Leg(held) = &self.ask
            && let Some(id) = last_id(&part, was_between)
        {
            let own = own_event_id(id);
            self.resume = own.map(|(_, own)| own.to_owned());
            if held.is_away() {
                self.scene.ctx.snapshot.sessions.spoke(held.key());
            }
        }
        let Some(prelude) = &mut open.prelude else {
            return (!part.is_empty()).then_some(Heard::Part(part));
        };
        prelude.extend_from_slice(&part);
        let Some((message, end)) = first_message(prelude) else {
            let is_full = prelude.len() > PRELUDE_BYTES_MAX || !open.events.is_between_events();
            return is_full.then(|| {
                self.pause();
                Heard::Later
            });
        };
        let Ask::Listen { share, .. } = &self.ask else { return None };
        let (accepted, rest) = match Filter::acknowledged(&message) {
            Some(accepted) => (accepted, Bytes::copy_from_slice(&prelude[end..])),
            // Who tells of changes has accepted to do so.
            None => (share.clone(), std::mem::take(prelude).into()),
        };
        open.prelude = None;
        open.passed = Some(rest).filter(|rest| !rest.is_empty());
        Some(Heard::Opened { accepted: Some(accepted), missed: open.missed })
    }

    /// What came together with the server's acknowledgement.
    pub(super) fn take_passed(&mut self) -> Option<Bytes> {
        match &mut self.state {
            State::Open(open) => open.passed.take(),
            State::Due(_) | State::Silent => None,
        }
    }

    /// The way of its messages.
    pub(super) fn passage(&self) -> Option<Passage<'_>> {
        way_of(self.scene, &self.way, &self.ask)
    }

    /// Whether it may go on at another endpoint.
    fn may_leave(&self) -> bool {
        use crate::config::OnEndpointLoss;
        match self.ask {
            Ask::Leg(_) => self.pool.settings().on_endpoint_loss == OnEndpointLoss::Move,
            _ => true,
        }
    }
}

fn way_of<'w>(scene: &Scene<'w>, way: &'w Way, ask: &Ask) -> Option<Passage<'w>> {
    let passage = passage(scene.ctx, way)?;
    // What answers a listen request ends it, and is not for the client: the others go on. No id that
    // stands in a message is empty.
    let answers = match ask {
        Ask::Listen { .. } => Answers::To { own: "", shown: "" },
        _ => passage.answers,
    };
    Some(Passage { answers, ..passage })
}

fn tell_dropped(server: &Member, fault: Unfit, count: u32) {
    let (server, fault) = (&server.name, fault.as_str());
    tracing::warn!(server, fault, count, "messages of a server are not passed on");
}

/// The last id of an event in a part of a stream that passes.
fn last_id(part: &[u8], begins_line: bool) -> Option<&str> {
    let mut end = part.len();
    while let Some(at) = memchr::memmem::rfind(&part[..end], b"id:") {
        let is_field = match at.checked_sub(1) {
            Some(before) => matches!(part[before], b'\n' | b'\r'),
            None => begins_line,
        };
        if is_field {
            let value = &part[at + 3..];
            let stop = memchr::memchr2(b'\n', b'\r', value).unwrap_or(value.len());
            let value = &value[..stop];
            return std::str::from_utf8(value.strip_prefix(b" ").unwrap_or(value)).ok();
        }
        end = at;
    }
    None
}

/// The first message among these events, and where its event ends.
fn first_message(events: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut line_at) = (0, 0);
    while let Some(length) = memchr::memchr2(b'\n', b'\r', &events[at..]) {
        let is_blank = at + length == line_at;
        at += length + 1;
        if events[at - 1] == b'\r' && events.get(at) == Some(&b'\n') {
            at += 1;
        }
        line_at = at;
        if is_blank && let Some(message) = data_of_events(&events[..at]).pop() {
            return Some((message, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{first_message, last_id};

    #[test]
    fn the_last_id_is_that_of_a_field() {
        for (part, begins_line, expected) in [
            ("id: a\ndata: x\n\nid:b\ndata: id: c\n\n", true, Some("b")),
            ("id: a\ndata: x\n\n", false, None),
            ("data: x\r\nid: \r\n\r\n", true, Some("")),
            ("data: id: 1\n\n", true, None),
        ] {
            assert_eq!(last_id(part.as_bytes(), begins_line), expected, "{part:?}");
        }
    }

    #[test]
    fn the_first_message_is_cut_from_what_follows() {
        for (events, expected) in [
            (": ping\n\ndata: {}\n\ndata: x\n\n", Some(("{}", "data: x\n\n"))),
            ("\r\n: a\r\r\nevent: m\r\ndata: {}\r\n\r\n: b", Some(("{}", ": b"))),
            ("retry: 5\n\ndata: {}\n", None),
            ("", None),
        ] {
            let found = first_message(events.as_bytes());
            let found = found.map(|(message, end)| {
                (String::from_utf8(message).expect("text"), events[end..].to_owned())
            });
            let expected = expected.map(|(message, rest)| (message.to_owned(), rest.to_owned()));
            assert_eq!(found, expected, "{events:?}");
        }
    }
}
