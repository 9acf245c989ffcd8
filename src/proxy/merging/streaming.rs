//! The client's side of a merged stream: begins it, gives the client what comes, and ends it.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use pingora::protocols::http::ServerSession;
use pingora::time::timeout;
use tokio::sync::watch;

use super::Ending;
use super::answering::Answering;
use super::source::{Ask, Heard, Missed, Scene, Sought, Source};
use crate::catalog::Listed;
use crate::federation::MemberId;
use crate::mcp::Filter;
use crate::proxy::pump::while_client_stays;
use crate::proxy::refusal::Refusal;
use crate::proxy::response_filter::{UpstreamHead, response_filter};
use crate::proxy::stream::{SPREAD_MS, Term};
use crate::sessions::seconds;
use crate::telemetry::Reason;

/// How long a client waits for the servers of its stream. Who is slower joins it later.
const BEGIN_MAX: Duration = Duration::from_secs(1);
/// A client that hears nothing for so long hears that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How often it is looked whether the client has ended its session elsewhere, and whether the gateway
/// has found lists changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The gateway lists a server again when it says that its lists have changed. For so long that is
/// looked for, so often: who asks at once is answered what was known before, and must be told again.
const RELISTED_WITHIN: Duration = Duration::from_secs(10);
const RELISTED_LOOK: Duration = Duration::from_millis(250);
/// How long the others wait for the rest of an event that was passed on in part.
const FLOOR_MAX: Duration = Duration::from_secs(10);
/// Changes of several servers at once are told once.
const NEWS_AFTER: Duration = Duration::from_millis(100);
/// How often at most the session is noted to be in use.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

type Next<'s> = BoxFuture<'s, (Source<'s>, Heard)>;
type Bell = BoxFuture<'static, Option<watch::Receiver<u64>>>;

/// What a merged stream has cost.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) bytes_out: u64,
    pub(super) waited: Duration,
}

/// A merged stream.
pub(super) struct Streaming<'s> {
    scene: &'s Scene<'s>,
    answering: Answering,
    /// What each source waits for. None of them is read while the client is written to.
    sources: FuturesUnordered<Next<'s>>,
    /// The source of which the client has a part of an event.
    floor: Option<Source<'s>>,
    /// How long the others have waited for it.
    floor_waited: Duration,
    /// Ring when the stream may have to end.
    bells: FuturesUnordered<Bell>,
    /// How many sources were asked and have not answered, and how many may have a stream later.
    undecided: usize,
    later: usize,
    asked: usize,
    servers: Vec<&'s str>,
    /// What each server offers, and when that was last found changed.
    lists: Vec<(&'s Listed, Option<SystemTime>)>,
    /// Until when it is likely that lists are found changed.
    relisted_until: Option<Instant>,
    tally: Tally,
    term: Term,
    /// When the client is told that lists may have changed.
    news_at: Option<Instant>,
    idle_max: Duration,
    heard_at: Instant,
    written_at: Instant,
    touched_at: Instant,
}

/// What the stream waited for.
enum Woken<'s> {
    Heard(Box<Source<'s>>, Heard),
    Bell(Option<watch::Receiver<u64>>),
    /// It is time for something.
    Time,
    /// The rest of an event does not come.
    Stuck,
}

impl<'s> Streaming<'s> {
    pub(super) fn new(scene: &'s Scene<'s>, answering: Answering, sought: Vec<Sought>) -> Self {
        let now = Instant::now();
        let is_asked = |sought: &&Sought| matches!(sought.ask, Ask::Leg(_) | Ask::Listen { .. });
        let asked = sought.iter().filter(is_asked).count();
        let later = sought.iter().filter(|sought| matches!(sought.ask, Ask::Late)).count();
        let sources: Vec<_> =
            sought.into_iter().filter_map(|sought| Source::new(scene, sought)).collect();
        let idle = sources.iter().map(|source| source.pool.timeouts().stream_idle).max();
        Self {
            scene,
            answering,
            bells: sources.iter().map(|source| bell(source.pool.bell())).collect(),
            servers: sources.iter().map(|source| source.server.name.as_str()).collect(),
            lists: sources.iter().map(|source| lists(&source.server.listed)).collect(),
            relisted_until: None,
            sources: sources.into_iter().map(next).collect(),
            floor: None,
            floor_waited: Duration::ZERO,
            undecided: asked,
            later,
            asked,
            tally: Tally::default(),
            term: Term::of(scene.ctx.record.caller.as_deref()),
            news_at: None,
            idle_max: idle.unwrap_or(Duration::MAX),
            heard_at: now,
            written_at: now,
            touched_at: now,
        }
    }

    /// Closes what is open at servers, and tells what the stream has cost.
    pub(super) fn end(self) -> Tally {
        self.tally
    }

    /// Gives the client the events of all servers, to the end.
    pub(super) async fn run(&mut self, session: &mut ServerSession) -> Ending {
        let ending = match self.begin(session).await {
            Ok(()) => self.pass_on(session).await,
            Err(ending) => Err(ending),
        };
        let last = match ending {
            Ok(last) => last,
            Err(ending) => return ending,
        };
        self.tally.bytes_out += last.len() as u64;
        match session.write_response_body(Bytes::from(last), true).await {
            Ok(()) => Ending::Clean,
            Err(_) => Ending::ClientGone,
        }
    }

    /// Waits until there is something to say, and sends the head.
    async fn begin(&mut self, session: &mut ServerSession) -> Result<(), Ending> {
        let is_legacy = matches!(self.answering, Answering::Legacy);
        let deadline = Instant::now() + BEGIN_MAX;
        let (mut begun, mut accepted, mut missed) = (Vec::new(), Vec::new(), Missed::Nothing);
        let began = Instant::now();
        while self.undecided > 0 && (!is_legacy || begun.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = while_client_stays(session, timeout(left, self.sources.next())).await;
            let (source, heard) = match heard {
                None => return Err(Ending::ClientGone),
                Some(Ok(Some(heard))) => heard,
                Some(Ok(None) | Err(_)) => break,
            };
            match heard {
                Heard::Opened { accepted: by, missed: by_it } => {
                    self.undecided -= 1;
                    accepted.extend(by);
                    missed = if by_it == Missed::Something { by_it } else { missed };
                    begun.push(source);
                    continue;
                }
                Heard::Without => self.undecided -= 1,
                Heard::Later => {
                    self.undecided -= 1;
                    self.later += 1;
                }
                Heard::Part(_) | Heard::Changed | Heard::Ended | Heard::Cut(_) => {}
            }
            self.sources.push(next(source));
        }
        self.tally.waited += began.elapsed();
        let has_none = begun.is_empty() && self.undecided + self.later == 0;
        match is_legacy {
            true if has_none => {
                return Err(Ending::Refused(Refusal::verb("POST, DELETE, OPTIONS")));
            }
            false if has_none && self.asked > 0 => {
                return Err(Ending::Refused(Reason::MethodUnknown.into()));
            }
            _ => {}
        }
        if missed == Missed::Something {
            self.news();
        }
        self.send_head(session, &accepted).await?;
        for mut source in begun {
            if let Some(passed) = source.take_passed() {
                self.write(session, passed).await?;
            }
            self.go_on(source);
        }
        Ok(())
    }

    async fn send_head(
        &mut self,
        session: &mut ServerSession,
        accepted: &[Filter],
    ) -> Result<(), Ending> {
        self.scene.gateway.close_if_draining(session);
        let fields = vec![
            (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let head = UpstreamHead { status: 200, fields, length: None };
        let head = response_filter(&head, None, session, self.scene.ctx);
        let head = head.map_err(|_| Ending::Refused(Reason::Internal.into()))?;
        if let Err(error) = session.write_response_header(head).await {
            tracing::debug!(%error, "client left before its stream");
            return Err(Ending::ClientGone);
        }
        match self.answering.acknowledge(accepted, self.undecided + self.later) {
            Some(first) => self.write(session, first).await,
            None => Ok(()),
        }
    }

    /// Passes events on until the stream must end: with these last words, or otherwise.
    async fn pass_on(&mut self, session: &mut ServerSession) -> Result<Vec<u8>, Ending> {
        // What was so before its bells could ring.
        let mut must_look = true;
        loop {
            if self.floor.is_none() {
                if must_look || self.term.is_due() {
                    must_look = false;
                    if let Some(last) = self.heed(session).await {
                        return Ok(last);
                    }
                }
                if self.news_at.is_some_and(|at| at <= Instant::now()) {
                    self.news_at = None;
                    let news = self.answering.list_changed();
                    self.write(session, news.into()).await?;
                }
            }
            let began = Instant::now();
            let woken = while_client_stays(session, self.wait()).await;
            self.tally.waited += began.elapsed();
            match woken.ok_or(Ending::ClientGone)? {
                Woken::Stuck => return Err(Ending::Cut),
                Woken::Bell(rung) => {
                    must_look = true;
                    self.bells.extend(rung.map(bell));
                }
                Woken::Time => {
                    self.note_use();
                    self.look_at_lists();
                    if self.heard_at.elapsed() >= self.idle_max {
                        return Ok(self.answering.farewell());
                    }
                    if self.written_at.elapsed() >= KEEP_ALIVE && self.floor.is_none() {
                        self.write(session, Bytes::from_static(b": ping\n\n")).await?;
                    }
                }
                Woken::Heard(source, heard) => self.take(session, *source, heard).await?,
            }
            if let Some(state) = self.scene.session
                && self.floor.is_none()
                && self.scene.ctx.snapshot.sessions.is_over(state.key)
            {
                return Ok(Vec::new());
            }
        }
    }

    async fn wait(&mut self) -> Woken<'s> {
        if let Some(source) = &mut self.floor {
            let (began, left) = (Instant::now(), FLOOR_MAX.saturating_sub(self.floor_waited));
            let Ok(heard) = timeout(left, source.hear()).await else { return Woken::Stuck };
            self.floor_waited += began.elapsed();
            return match self.floor.take() {
                Some(source) => Woken::Heard(Box::new(source), heard),
                None => Woken::Stuck,
            };
        }
        let time = self.time_left();
        tokio::select! {
            biased;
            Some(rung) = self.bells.next() => Woken::Bell(rung),
            Some((source, heard)) = self.sources.next() => Woken::Heard(Box::new(source), heard),
            () = tokio::time::sleep(time) => Woken::Time,
        }
    }

    /// Until when nothing is to be done if nothing comes.
    fn time_left(&self) -> Duration {
        let idle_s = self.scene.ctx.snapshot.session_rules.idle_s;
        let used = Duration::from_secs(idle_s.into()) / 4;
        let look = match self.relisted_until.is_some_and(|until| until > Instant::now()) {
            true => RELISTED_LOOK,
            false => LOOK_EVERY.min(used),
        };
        let alive = KEEP_ALIVE.saturating_sub(self.written_at.elapsed());
        let idle = self.idle_max.saturating_sub(self.heard_at.elapsed());
        let news = self.news_at.map(|at| at.saturating_duration_since(Instant::now()));
        let first = self.term.within(look.min(alive).min(idle));
        news.map_or(first, |news| news.min(first))
    }

    /// Takes what came of a source.
    async fn take(
        &mut self,
        session: &mut ServerSession,
        mut source: Source<'s>,
        heard: Heard,
    ) -> Result<(), Ending> {
        match heard {
            Heard::Part(part) => {
                self.heard_at = Instant::now();
                self.note_use();
                if source.has_told_of_lists() {
                    self.relisted_until = Some(Instant::now() + RELISTED_WITHIN);
                }
                self.write(session, part).await?;
            }
            Heard::Opened { missed, .. } => {
                if missed == Missed::Something {
                    self.news();
                }
                if let Some(passed) = source.take_passed() {
                    self.write(session, passed).await?;
                }
            }
            Heard::Changed => self.news(),
            Heard::Cut(before) => {
                self.write(session, before).await?;
                return Err(Ending::Cut);
            }
            Heard::Without | Heard::Later | Heard::Ended => {}
        }
        self.go_on(source);
        Ok(())
    }

    /// Lets a source go on, alone if it is in the middle of an event.
    fn go_on(&mut self, source: Source<'s>) {
        match source.is_between_events() {
            true => {
                self.floor_waited = Duration::ZERO;
                self.sources.push(next(source));
            }
            false => self.floor = Some(source),
        }
    }

    /// What the gateway finds changed is told, also of servers that say nothing.
    fn look_at_lists(&mut self) {
        let mut is_changed = false;
        for (listed, changed_at) in &mut self.lists {
            let now = listed.offer().changed_at;
            is_changed |= std::mem::replace(changed_at, now) != now;
        }
        if is_changed {
            self.news();
        }
    }

    fn news(&mut self) {
        self.news_at.get_or_insert_with(|| Instant::now() + NEWS_AFTER);
    }

    /// A stream keeps its session in use at all of its servers, also while it has nothing to say.
    fn note_use(&mut self) {
        let (Some(session), Some((_, federation))) = (self.scene.session, self.scene.route())
        else {
            return;
        };
        if self.touched_at.elapsed() < TOUCH_EVERY {
            return;
        }
        self.touched_at = Instant::now();
        let now = seconds(SystemTime::now());
        self.scene.ctx.snapshot.sessions.touch(session.key, now);
        for member in federation.members() {
            self.scene.ctx.snapshot.sessions.touch(session.key.leg(member.id.0), now);
        }
    }

    async fn write(&mut self, session: &mut ServerSession, part: Bytes) -> Result<(), Ending> {
        if part.is_empty() {
            return Ok(());
        }
        self.tally.bytes_out += part.len() as u64;
        let began = Instant::now();
        let written = session.write_response_body(part, false).await;
        self.written_at = Instant::now();
        self.tally.waited += began.elapsed();
        written.map_err(|error| {
            tracing::debug!(%error, "client left its stream");
            Ending::ClientGone
        })
    }

    /// Looks whether the stream must end; with these last words.
    async fn heed(&mut self, session: &ServerSession) -> Option<Vec<u8>> {
        let Scene { gateway, ctx, .. } = *self.scene;
        if gateway.lifecycle.is_draining() {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..SPREAD_MS))).await;
            return Some(self.answering.farewell());
        }
        let head = session.req_header();
        // Lists are not passed on, so it does not matter how much of them the caller may see.
        if !gateway.is_welcome_at(head, ctx, Some(&self.servers), |_, _, _| true) {
            return Some(self.answering.farewell());
        }
        if self.term.is_due() {
            if !gateway.is_proven(head, ctx) {
                tracing::debug!("the token of a stream has ended");
                return Some(self.answering.farewell());
            }
            self.term.postpone();
        }
        self.leads_elsewhere().then(|| {
            let mut last = self.answering.list_changed();
            last.extend(self.answering.farewell());
            last
        })
    }

    /// Whether the route leads to other servers in the configuration in force.
    fn leads_elsewhere(&self) -> bool {
        let Some((route, federation)) = self.scene.route() else { return false };
        let snapshot = self.scene.gateway.snapshot();
        let current = snapshot.routes.find(&route.path).and_then(|route| route.federation());
        let Some(current) = current else { return true };
        let ids = |members: &[crate::federation::Member]| {
            let mut ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
            ids.sort_unstable_by_key(|id| id.0);
            ids
        };
        ids(current.members()) != ids(federation.members())
    }
}

fn lists(listed: &Listed) -> (&Listed, Option<SystemTime>) {
    (listed, listed.offer().changed_at)
}

fn next(source: Source<'_>) -> Next<'_> {
    Box::pin(source.next())
}

fn bell(mut bell: watch::Receiver<u64>) -> Bell {
    // A server that was taken away rings for the last time.
    Box::pin(async move { bell.changed().await.is_ok().then_some(bell) })
}
