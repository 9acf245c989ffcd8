//! What came of asking a server for its lists, and the offer that it makes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::offer::{Audience, Definition, Definitions, Kind, Offer, State};
use super::page::{DEFINITIONS_MAX, Page};
use super::pins::Extent;
use crate::mcp::Era;

/// What a server said.
pub(super) struct Told {
    pub(super) era: Era,
    pub(super) greeting: Bytes,
    /// Whether the server has said that it tells of changes.
    pub(super) tells: bool,
    /// One for each kind, in the order of [`Kind::ALL`].
    pub(super) lists: Vec<List>,
}

/// What it said of one kind.
#[derive(Default)]
pub(super) struct List {
    pub(super) definitions: Vec<Definition>,
    pub(super) malformed: usize,
    pub(super) ttl: Option<Duration>,
    pub(super) audience: Audience,
    /// Why the list is not whole.
    pub(super) fault: Option<String>,
}

/// How one kind differs from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: Kind,
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) changed: usize,
}

/// An offer, and what must be said about it.
pub(super) struct Made {
    pub(super) offer: Offer,
    pub(super) differences: Vec<Difference>,
    /// Entries that define nothing, and definitions of a name that is taken.
    pub(super) left_out: Vec<(Kind, usize, usize)>,
}

impl List {
    /// Takes the next page, as far as there is room.
    pub(super) fn add(&mut self, page: Page) -> Result<(), String> {
        self.malformed += page.malformed;
        self.ttl = sooner(self.ttl, page.ttl);
        if page.audience == Audience::Caller {
            self.audience = Audience::Caller;
        }
        let room = DEFINITIONS_MAX.saturating_sub(self.definitions.len());
        let is_too_long = page.definitions.len() > room;
        self.definitions.extend(page.definitions.into_iter().take(room));
        match is_too_long {
            true => Err(format!("it has more than {DEFINITIONS_MAX} definitions")),
            false => Ok(()),
        }
    }
}

impl Told {
    /// The offer that follows on another one. Of a kind whose list broke off, what was known stays;
    /// where nothing was known, a part is better. `pin` says what is shown of the tools that the
    /// server lists.
    pub(super) fn make(
        self,
        before: &Offer,
        now: SystemTime,
        mut pin: impl FnMut(Definitions, Extent) -> Definitions,
    ) -> Made {
        let mut offer = before.clone();
        let mut made = (Vec::new(), Vec::new());
        let (mut faults, mut ttl, mut audience) = (Vec::new(), None, Audience::Everyone);
        for (kind, list) in Kind::ALL.into_iter().zip(self.lists) {
            let (mut definitions, doubled) = Definitions::new(list.definitions);
            if list.malformed + doubled > 0 {
                made.1.push((kind, list.malformed, doubled));
            }
            let extent = if list.fault.is_none() { Extent::Whole } else { Extent::Part };
            if let Some(fault) = list.fault {
                faults.push(format!("{}: {fault}", kind.as_str()));
                if !before.list(kind).all().is_empty() {
                    continue;
                }
            }
            if kind == Kind::Tools {
                definitions = pin(definitions, extent);
            }
            ttl = sooner(ttl, list.ttl);
            if list.audience == Audience::Caller {
                audience = Audience::Caller;
            }
            if !definitions.is_as(before.list(kind)) {
                made.0.push(Difference::between(kind, before.list(kind), &definitions));
                offer.lists[kind as usize] = Arc::new(definitions);
            }
        }
        if !made.0.is_empty() {
            offer.changed_at = Some(now);
        }
        offer.state = match faults.is_empty() {
            true => State::Known,
            false => State::Stale(faults.join("; ").into()),
        };
        let (differences, left_out) = made;
        let (era, tells) = (Some(self.era), self.tells);
        // The same bytes again need no second place.
        let greeting = match before.greeting == self.greeting {
            true => before.greeting.clone(),
            false => self.greeting,
        };
        let offer = Offer { era, greeting, tells, audience, ttl, listed_at: Some(now), ..offer };
        Made { offer, differences, left_out }
    }
}

impl Offer {
    /// The offer of a server whose lists are known otherwise than by asking it: the results of its
    /// list requests, one for each kind that it offers. The error is for people.
    ///
    /// # Errors
    /// When a result is none of such a request.
    pub fn of_results(
        era: Era,
        greeting: Bytes,
        results: &[(Kind, &[u8])],
        now: SystemTime,
    ) -> Result<Self, String> {
        let mut lists = Vec::with_capacity(Kind::ALL.len());
        for kind in Kind::ALL {
            let mut list = List::default();
            for (_, result) in results.iter().filter(|(of, _)| *of == kind) {
                list.add(Page::read(kind, result)?)?;
            }
            lists.push(list);
        }
        let told = Told { era, greeting, tells: false, lists };
        Ok(told.make(&Self::default(), now, |tools, _| tools).offer)
    }

    /// The same offer after a try that failed.
    pub(super) fn after_failure(&self, fault: &str) -> Self {
        let state = match &self.state {
            State::Unknown => State::Unknown,
            State::Known | State::Stale(_) => State::Stale(fault.into()),
        };
        Self { state, ..self.clone() }
    }
}

impl Difference {
    fn between(kind: Kind, before: &Definitions, after: &Definitions) -> Self {
        let mut difference = Self { kind, added: 0, removed: 0, changed: 0 };
        for definition in after.all() {
            match before.find(&definition.name) {
                None => difference.added += 1,
                Some(known) if known.digest != definition.digest => difference.changed += 1,
                Some(_) => {}
            }
        }
        let is_gone = |known: &&Definition| after.find(&known.name).is_none();
        difference.removed = before.all().iter().filter(is_gone).count();
        difference
    }
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
