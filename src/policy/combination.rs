//! What may not follow what: after a tool of one label, no tool of another.
//!
//! A use is marked when its call is admitted, before it runs, together with the check and under the
//! lock of its caller's shard. So of two calls at once one is first, and the other sees it. The rule
//! is one of order: a tool of the second label that was admitted before may go on. A mark counts
//! while its call runs, and from its end as long as the rule says. A call that provably did not run
//! takes its own mark back and nobody else's.
//!
//! For `within: session` a use is remembered for its session. A caller who changes between calls
//! with and without a session must not escape: a call without one also sees what its caller did in
//! sessions, and a call in a session also sees what its caller did without one, both for the time of
//! `otherwise`. And since a session belongs to one server, a call in it sees for that time what its
//! caller did in sessions of other servers; two sessions of one server stay apart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::marks::{Held, Key, Scope, State};
use super::names::{NAME_BYTES_MAX, Names, Origin};
use super::question::{Question, Said};
use crate::config::{self, BySession, Mode, NamePattern};
use crate::sessions::SessionKey;
use crate::upstream::now_ms;

/// The combination rules of one configuration.
pub struct Combinations {
    list: Vec<Combination>,
    tools: HashMap<Box<str>, Names<Labels>>,
}

struct Combination {
    name: Arc<str>,
    id: u64,
    mode: Mode,
    after: Vec<NamePattern>,
    deny: Vec<NamePattern>,
    /// The servers at which it may remember something, by the numbers of their names.
    sources: Box<[u64]>,
    by_session: BySession,
    window_ms: u64,
    session_ms: u64,
}

/// What a tool is to the combinations: the indices of those that remember it, and that refuse it.
#[derive(Debug, Default)]
struct Labels {
    after: Box<[usize]>,
    deny: Box<[usize]>,
    /// The number of the server's name.
    server: u64,
}

/// Who calls which tool, as combinations see it.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// The name of the server.
    pub server: &'a str,
    /// The tool's own name.
    pub tool: &'a str,
    /// Whether the server declared the tool.
    pub origin: Origin,
    /// Who calls: [`Caller::digest`](crate::identity::Caller::digest).
    pub caller: &'a [u8; 16],
    /// The session that the call is made in.
    pub session: Option<SessionKey>,
}

/// Why a call may not follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The caller did what this rule names, and may not do this after it.
    Combination(Arc<str>),
    /// There is no room to remember the use that this rule asks for, so it must not happen.
    Full(Arc<str>),
    /// Nobody can say what the caller did at other replicas, which this rule asks for.
    Away(Arc<str>),
}

/// The marks of one admitted call. They count as running until they are dropped, or taken back.
#[derive(Debug, Default)]
pub struct Marks {
    state: Option<Arc<State>>,
    held: Vec<Held>,
    /// The rule in shadow that would have refused the call.
    pub shadow: Option<Arc<str>>,
    question: Option<Box<Question>>,
}

impl Marks {
    /// Whether the store must be asked before the use is one.
    pub fn are_unconfirmed(&self) -> bool {
        self.question.is_some()
    }

    /// Looks at what the caller did at other replicas, and lets them see this use, before it is one.
    /// Without a store, or a rule that names the tool, nothing is done.
    ///
    /// # Errors
    /// As [`Combinations::admit`]; also where the store is away and the settings close the way then.
    pub async fn confirm(mut self) -> Result<Self, Refused> {
        let (Some(question), Some(state)) = (self.question.take(), &self.state) else {
            return Ok(self);
        };
        let Some(store) = state.store() else { return Ok(self) };
        match question.put(store).await {
            Said::Marked { shadow, untils } => {
                state.stored(&self.held, &untils);
                self.shadow = self.shadow.take().or(shadow);
                Ok(self)
            }
            Said::Refused(rule) => {
                self.take_back();
                Err(Refused::Combination(rule))
            }
            Said::Nothing => match question.in_force() {
                Some(rule) if !store.is_open_when_away() => {
                    let rule = Arc::clone(rule);
                    self.take_back();
                    Err(Refused::Away(rule))
                }
                _ => Ok(self),
            },
        }
    }

    /// For a call that provably did not run.
    pub fn take_back(mut self) {
        if let Some(state) = self.state.take() {
            state.take_back(&self.held);
        }
    }
}

impl Drop for Marks {
    /// From its end on the use counts for as long as its rule says.
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.end(&self.held, now_ms());
        }
    }
}

impl Combinations {
    /// The combination rules for these servers; sessions live no longer than this.
    pub fn new<'s>(
        policy: &config::Policy,
        servers: impl IntoIterator<Item = &'s str>,
        session_lifetime: Duration,
    ) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let patterns = |label: usize| {
            policy.labels.get(label).map(|label| label.tools.clone()).unwrap_or_default()
        };
        let servers: Vec<&str> = servers.into_iter().collect();
        let sources = |label: usize| {
            let tools = policy.labels.get(label).map_or(&[][..], |label| &label.tools[..]);
            let is_source = |server: &&&str| tools.iter().any(|pattern| pattern.is_of(server));
            servers.iter().filter(is_source).map(|server| Key::id(server)).collect()
        };
        let list = policy.combinations.iter().map(|combination| Combination {
            name: combination.name.as_str().into(),
            id: Key::id(&combination.name),
            mode: combination.mode,
            after: patterns(combination.after),
            deny: patterns(combination.deny),
            sources: sources(combination.after),
            by_session: combination.by_session,
            window_ms: millis(combination.window),
            session_ms: millis(session_lifetime),
        });
        let list = list.collect();
        let tools = servers.iter().map(|server| ((*server).into(), Names::default()));
        Self { list, tools: tools.collect() }
    }

    /// Whether there is no combination rule.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Checks a use and marks it, both at once. A tool that no combination names costs a look-up.
    ///
    /// # Errors
    /// Who did something before that this may not follow, and whose use cannot be remembered.
    pub fn admit(&self, state: &Arc<State>, used: Use<'_>, now_ms: u64) -> Result<Marks, Refused> {
        if self.list.is_empty() {
            return Ok(Marks::default());
        }
        if used.tool.len() > NAME_BYTES_MAX {
            // No server has a tool of such a name, and no pattern is matched with it.
            let in_force = self.list.iter().find(|one| one.mode == Mode::Enforce);
            let refused = |one: &Combination| Err(Refused::Combination(Arc::clone(&one.name)));
            return in_force.map_or_else(|| Ok(Marks::default()), refused);
        }
        let found = || self.labels(used.server, used.tool);
        let look = |labels: &Labels| {
            if labels.after.is_empty() && labels.deny.is_empty() {
                return Ok(Marks::default());
            }
            self.check_and_mark(labels, state, used, now_ms)
        };
        match self.tools.get(used.server) {
            Some(tools) => tools.with((0, used.tool), used.origin, found, look),
            None => look(&found()),
        }
    }

    fn labels(&self, server: &str, tool: &str) -> Labels {
        let of = |patterns: fn(&Combination) -> &[NamePattern]| {
            let named = |combination: &Combination| {
                patterns(combination).iter().any(|pattern| pattern.matches(server, tool))
            };
            let all = self.list.iter().enumerate();
            all.filter(|(_, combination)| named(combination)).map(|(index, _)| index).collect()
        };
        let (after, deny) = (of(|one| &one.after), of(|one| &one.deny));
        Labels { after, deny, server: Key::id(server) }
    }

    fn check_and_mark(
        &self,
        labels: &Labels,
        state: &Arc<State>,
        used: Use<'_>,
        now_ms: u64,
    ) -> Result<Marks, Refused> {
        let mut shard = state.lock(used.caller);
        let mut shadow = None;
        for combination in labels.deny.iter().map(|index| &self.list[*index]) {
            let marked = |scope| shard.is_marked(&combination.key(scope, used), now_ms);
            let is_met =
                |(one, other): (Scope, Option<Scope>)| marked(one) && other.is_none_or(marked);
            if !combination.alternatives(used, labels.server).any(is_met) {
                continue;
            }
            match combination.mode {
                Mode::Enforce => return Err(Refused::Combination(Arc::clone(&combination.name))),
                Mode::Shadow => {
                    shadow.get_or_insert_with(|| Arc::clone(&combination.name));
                }
            }
        }
        let mut held = Vec::new();
        for combination in labels.after.iter().map(|index| &self.list[*index]) {
            for (scope, keep_ms) in combination.left(used, labels.server).into_iter().flatten() {
                match shard.mark(combination.key(scope, used), keep_ms, now_ms) {
                    Some(mark) => held.push(mark),
                    // What is not in force must not refuse either.
                    None if combination.mode == Mode::Shadow => {}
                    None => {
                        shard.take_back(&held);
                        return Err(Refused::Full(Arc::clone(&combination.name)));
                    }
                }
            }
        }
        drop(shard);
        let question = state.store().map(|_| Box::new(self.question(labels, used)));
        let state = (!held.is_empty() || question.is_some()).then(|| Arc::clone(state));
        Ok(Marks { state, held, shadow, question })
    }

    /// The same check and the same marks, for the store.
    fn question(&self, labels: &Labels, used: Use<'_>) -> Question {
        let mut question = Question::new();
        for combination in labels.deny.iter().map(|index| &self.list[*index]) {
            let key = |scope| combination.key(scope, used);
            let alternatives = combination
                .alternatives(used, labels.server)
                .map(|(one, other)| (key(one), other.map(key)));
            question.refuse((&combination.name, combination.mode), alternatives);
        }
        for combination in labels.after.iter().map(|index| &self.list[*index]) {
            for (scope, keep_ms) in combination.left(used, labels.server).into_iter().flatten() {
                let rule = (&combination.name, combination.mode);
                question.mark(rule, combination.key(scope, used), keep_ms);
            }
        }
        question
    }
}

impl Combination {
    fn key(&self, scope: Scope, used: Use<'_>) -> Key {
        Key { caller: *used.caller, combination: self.id, scope }
    }

    /// What a use must not run into: the mark of one place, or of two at once.
    fn alternatives(
        &self,
        used: Use<'_>,
        here: u64,
    ) -> impl Iterator<Item = (Scope, Option<Scope>)> {
        let session = used.session.filter(|_| self.by_session == BySession::Yes);
        let (here_or_without, at_servers) = match session {
            Some(session) => {
                ([Some(Scope::Session(session)), Some(Scope::Sessionless)], &self.sources[..])
            }
            None => ([Some(Scope::Caller), None], &[][..]),
        };
        // Every use leaves the mark of its caller: without that one there is none of a server.
        let elsewhere = at_servers.iter().filter(move |server| **server != here);
        let elsewhere = elsewhere.map(|server| (Scope::Caller, Some(Scope::Server(*server))));
        here_or_without.into_iter().flatten().map(|scope| (scope, None)).chain(elsewhere)
    }

    /// The marks that a use leaves, and how long each counts.
    fn left(&self, used: Use<'_>, here: u64) -> [Option<(Scope, u64)>; 3] {
        let caller = Some((Scope::Caller, self.window_ms));
        match (self.by_session, used.session) {
            (BySession::Yes, Some(session)) => {
                let server = Scope::Server(here);
                let session = (Scope::Session(session), self.session_ms);
                [Some(session), caller, Some((server, self.window_ms))]
            }
            (BySession::Yes, None) => [Some((Scope::Sessionless, self.window_ms)), caller, None],
            (BySession::No, _) => [caller, None, None],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Combinations, Marks, Refused, State, Use};
    use crate::config;
    use crate::policy::{MARKS_PER_CALLER_MAX, Origin};
    use crate::sessions::SessionKey;
    use crate::upstream::now_ms;
    use std::sync::Arc;
    use std::time::Duration;

    const LABELS: &str = "  labels: { secret: ['files/get_secret'], egress: ['mail/*', put] }\n";

    fn combinations(list: &str) -> Combinations {
        let text = format!(
            "listen: 127.0.0.1:8080
servers: {{ files: {{ endpoints: [http://a/] }}, mail: {{ endpoints: [http://b/] }} }}
routes: [{{ path: /, server: files }}]
policy:
{LABELS}  combinations: [{list}]\n"
        );
        let settings =
            config::parse(&text, "t", &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
        let servers = settings.servers.iter().map(|server| server.name.as_str());
        Combinations::new(&settings.policy, servers, Duration::from_secs(3600))
    }

    const IN_SESSION: &str = "{ name: s, after: secret, deny: egress, within: session }";
    const IN_TIME: &str = "{ name: w, after: secret, deny: egress, within: 10m }";
    const SECRET: (&str, &str) = ("files", "get_secret");
    const EGRESS: (&str, &str) = ("mail", "send");
    const MINUTE: u64 = 60_000;

    struct Fixture {
        rules: Combinations,
        state: Arc<State>,
        now_ms: u64,
    }

    fn key(session: u16) -> SessionKey {
        let mut key = SessionKey(Default::default());
        key.0[..2].copy_from_slice(&session.to_be_bytes());
        key
    }

    impl Fixture {
        fn new(list: &str) -> Self {
            Self { rules: combinations(list), state: Arc::default(), now_ms: now_ms() }
        }

        fn admit(
            &self,
            (server, tool): (&str, &str),
            caller: u8,
            session: Option<u16>,
        ) -> Result<Marks, Refused> {
            let session = session.map(key);
            let caller = &[caller; 16];
            let used = Use { server, tool, origin: Origin::Claimed, caller, session };
            self.rules.admit(&self.state, used, self.now_ms)
        }

        fn passes(&self, tool: (&str, &str), caller: u8, session: Option<u16>) -> bool {
            self.admit(tool, caller, session).is_ok()
        }
    }

    #[test]
    fn a_session_remembers_and_another_does_not() {
        let fixture = Fixture::new(IN_SESSION);
        assert!(fixture.passes(EGRESS, 1, Some(1)));
        assert!(fixture.passes(SECRET, 1, Some(1)));
        let refused = fixture.admit(EGRESS, 1, Some(1)).map(drop);
        assert_eq!(refused, Err(Refused::Combination("s".into())));
        assert!(!fixture.passes(("files", "put"), 1, Some(1)), "a name on any server");
        assert!(fixture.passes(("files", "read"), 1, Some(1)));
        assert!(fixture.passes(SECRET, 1, Some(1)));
        assert!(fixture.passes(("files", "put"), 1, Some(2)), "another session of the server");
        assert!(fixture.passes(EGRESS, 2, Some(1)), "another caller");
    }

    #[test]
    fn nobody_escapes_by_changing_between_eras() {
        let mut fixture = Fixture::new(IN_SESSION);
        assert!(fixture.passes(SECRET, 1, Some(1)));
        assert!(!fixture.passes(EGRESS, 1, None), "without the session, within the time");
        assert!(fixture.passes(SECRET, 2, None));
        assert!(!fixture.passes(EGRESS, 2, None));
        assert!(!fixture.passes(EGRESS, 2, Some(5)), "into a session, within the time");
        fixture.now_ms += 11 * MINUTE;
        assert!(fixture.passes(EGRESS, 1, None) && fixture.passes(EGRESS, 2, Some(5)));
        assert!(!fixture.passes(EGRESS, 1, Some(1)), "a session remembers longer");
    }

    #[test]
    fn sessions_of_several_servers_are_one_conversation_for_a_while() {
        let mut fixture = Fixture::new(IN_SESSION);
        assert!(fixture.passes(EGRESS, 1, Some(2)));
        assert!(fixture.passes(SECRET, 1, Some(1)));
        assert!(!fixture.passes(EGRESS, 1, Some(2)), "a session of another server");
        assert!(fixture.passes(("files", "put"), 1, Some(3)), "another session of this server");
        assert!(fixture.passes(EGRESS, 2, Some(4)), "another caller");
        fixture.state.session_ended(&[1; 16], key(1));
        assert!(!fixture.passes(EGRESS, 1, Some(2)), "whoever ends the session does not escape");
        fixture.now_ms += 11 * MINUTE;
        assert!(fixture.passes(EGRESS, 1, Some(2)), "the time of otherwise is over");
        // Taken back, nothing is left at any server.
        fixture.admit(SECRET, 3, Some(1)).unwrap().take_back();
        assert!(fixture.passes(EGRESS, 3, Some(2)));
    }

    #[test]
    fn a_name_that_is_none_is_refused_before_it_is_matched() {
        let long = "a".repeat(4097);
        let tool = ("mail", long.as_str());
        let refused = Fixture::new(IN_SESSION).admit(tool, 1, None).map(drop);
        assert_eq!(refused, Err(Refused::Combination("s".into())));
        let shadow = "{ name: s, mode: shadow, after: secret, deny: egress, within: session }";
        assert!(
            Fixture::new(shadow).passes(tool, 1, None) && Fixture::new("").passes(tool, 1, None)
        );
    }

    #[test]
    fn time_passes_from_the_end_of_the_call() {
        let mut fixture = Fixture::new(IN_TIME);
        let running = fixture.admit(SECRET, 1, Some(1)).unwrap();
        assert!(!fixture.passes(EGRESS, 1, Some(2)), "it runs");
        fixture.now_ms += 100 * MINUTE;
        assert!(!fixture.passes(EGRESS, 1, None), "it still runs");
        drop(running);
        fixture.now_ms = now_ms() + 9 * MINUTE;
        assert!(!fixture.passes(EGRESS, 1, None));
        fixture.now_ms += 2 * MINUTE;
        assert!(fixture.passes(EGRESS, 1, None));
        fixture.state.sweep(fixture.now_ms);
        assert!(fixture.state.is_empty());
    }

    #[test]
    fn a_call_that_did_not_run_takes_only_its_own_mark_back() {
        let mut fixture = Fixture::new(IN_TIME);
        fixture.admit(SECRET, 1, None).unwrap().take_back();
        assert!(fixture.passes(EGRESS, 1, None) && fixture.state.is_empty());
        let (one, other) = (fixture.admit(SECRET, 1, None), fixture.admit(SECRET, 1, None));
        one.unwrap().take_back();
        assert!(!fixture.passes(EGRESS, 1, None), "the other one runs");
        drop(other);
        fixture.admit(SECRET, 1, None).unwrap().take_back();
        assert!(!fixture.passes(EGRESS, 1, None), "the other one ran");
        // A mark that comes after the first one was swept is not the first one.
        let early = fixture.admit(SECRET, 2, None).unwrap();
        fixture.state.session_ended(&[2; 16], SessionKey(Default::default()));
        early.take_back();
        fixture.now_ms += MINUTE;
        assert!(fixture.passes(SECRET, 2, None) && !fixture.passes(EGRESS, 2, None));
    }

    #[test]
    fn of_two_calls_at_once_one_is_first() {
        let fixture = Fixture::new(
            "{ name: a, after: secret, deny: egress, within: 10m }, { name: b, after: egress, deny: secret, within: 10m }",
        );
        for caller in 0..50 {
            let admit = |tool| fixture.admit(tool, caller, None);
            let (one, other) = std::thread::scope(|scope| {
                let one = scope.spawn(|| admit(SECRET));
                let other = scope.spawn(|| admit(EGRESS));
                (one.join().unwrap(), other.join().unwrap())
            });
            assert!(one.is_ok() != other.is_ok(), "exactly one of them passes");
        }
    }

    #[test]
    fn what_is_in_shadow_only_tells() {
        let fixture =
            Fixture::new("{ name: s, mode: shadow, after: secret, deny: egress, within: session }");
        assert!(fixture.passes(SECRET, 1, Some(1)));
        let marks = fixture.admit(EGRESS, 1, Some(1)).unwrap();
        assert_eq!(marks.shadow.as_deref(), Some("s"));
    }

    #[test]
    fn without_room_to_remember_nothing_may_happen() {
        let mut fixture = Fixture::new(IN_SESSION);
        let mut last = None;
        for session in 0..=u16::try_from(MARKS_PER_CALLER_MAX).unwrap() {
            last = Some(fixture.admit(SECRET, 1, Some(session)).map(drop));
        }
        assert_eq!(last, Some(Err(Refused::Full("s".into()))));
        assert!(fixture.passes(SECRET, 2, None), "another caller has room");
        fixture.state.session_ended(&[1; 16], SessionKey(Default::default()));
        assert!(fixture.passes(SECRET, 1, Some(60_000)), "a session that ended left room");
        fixture.now_ms += 2 * 60 * MINUTE;
        assert!(fixture.passes(SECRET, 1, Some(60_001)), "what no longer counts is swept");
        assert!(fixture.state.len() < 10);
    }
}
