//! Which definitions were shown: remembered for each server and tool, so that a change of what an
//! agent may already trust is seen, and can be held back.
//!
//! A definition counts as shown when the gateway has listed it. The first of a tool is trusted.

mod adopting;
mod judging;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::canonical::Digest;
use super::offer::{Definition, Definitions};
use super::page;
use super::pin_file::{self, PinFault};
use crate::config::OnChange;
use judging::{Judging, Room};

/// What all remembered texts take at the most, in bytes; of what finds no room the digest is kept.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Tools of one server that are gone and remembered; those that went first are forgotten.
const REMOVED_MAX: usize = 1000;
/// Servers that are remembered; the one that was listed longest ago is forgotten.
const SERVERS_MAX: usize = 4096;
/// Changes of one listing that are told one by one.
const CHANGES_MAX: usize = 100;
/// Changes that wait for somebody to record them.
const NEWS_MAX: usize = 10_000;

/// The definitions that were shown.
#[derive(Default)]
pub struct Pins {
    kept: Mutex<Kept>,
    file: OnceLock<PathBuf>,
    /// How often something has changed, and how often it had when the file was written last.
    changes: AtomicU64,
    written: Mutex<u64>,
    news: Mutex<VecDeque<DefinitionChange>>,
    bell: Notify,
}

/// By server; shared, so that whoever looks keeps nobody waiting.
pub(super) type Kept = BTreeMap<String, Arc<ServerPins>>;

/// The pins of one server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ServerPins {
    /// When it was listed last with something new, in seconds; never if absent.
    listed_s: Option<u64>,
    tools: BTreeMap<String, Pin>,
}

/// What is remembered of one tool.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Pin {
    /// Of the definition that is trusted.
    pub digest: Digest,
    /// The definition itself, as far as there was room.
    text: Option<Box<str>>,
    since_s: u64,
    changed_s: Option<u64>,
    /// What was other the last time that the trusted definition changed.
    pub difference: Vec<String>,
    /// Another definition, which waits for somebody to approve it.
    pub pending: Option<Pending>,
    removed_s: Option<u64>,
    /// A digest of bytes that were found to be the trusted definition: they need no second look.
    #[serde(skip)]
    seen: Option<[u8; 16]>,
}

/// A definition that is not shown.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Pending {
    /// Of this definition.
    pub digest: Digest,
    text: Option<Box<str>>,
    since_s: u64,
    /// What is other than in the trusted one.
    pub difference: Vec<String>,
}

/// Something that became of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionChange {
    /// The server's name.
    pub server: String,
    /// The tool's own name; empty for many at once.
    pub tool: String,
    /// What became of it.
    pub what: Became,
    /// What is other, a line for each field.
    pub difference: Vec<String>,
}

/// What became of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// A known server has a tool that it did not have.
    Added,
    /// Another definition is shown.
    Changed,
    /// Another definition waits; the old one is shown.
    Withheld,
    /// Another definition waits; the tool is hidden.
    Refused,
    /// The server has gone back to the trusted definition.
    Restored,
    /// The server has the tool no longer.
    Removed,
    /// Somebody approved a definition that waited.
    Approved,
}

/// How much of a list was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// What is missing may exist.
    Part,
}

/// What may pass of a tool in a list on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passing {
    /// The definition as it is.
    AsItIs,
    /// This one in its place.
    Instead(Box<str>),
    /// Nothing.
    Hidden,
}

/// Why a definition cannot be approved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotApproved {
    /// None waits.
    NothingWaits,
    /// Another one waits by now.
    Other,
}

impl Became {
    /// Everything that can become of a definition.
    pub const ALL: [Self; 7] = [
        Self::Added,
        Self::Changed,
        Self::Withheld,
        Self::Refused,
        Self::Restored,
        Self::Removed,
        Self::Approved,
    ];

    /// Its name in metrics, logs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Withheld => "withheld",
            Self::Refused => "refused",
            Self::Restored => "restored",
            Self::Removed => "removed",
            Self::Approved => "approved",
        }
    }
}

impl Pins {
    /// Reads what was remembered, and remembers in this file from now on. To be called once, before
    /// anything is listed.
    pub fn open(&self, file: &Path) {
        let kept = match pin_file::read(file) {
            Ok(kept) => kept,
            Err(PinFault::Io(error)) => {
                tracing::warn!(%error, file = %file.display(), "the pinned definitions cannot be read; the first that are listed are trusted");
                Kept::new()
            }
            Err(PinFault::Foreign(why)) => {
                let aside = pin_file::move_aside(file);
                tracing::warn!(why, file = %file.display(), aside, "the file of pinned definitions is not what this version writes; the first definitions that are listed are trusted");
                Kept::new()
            }
        };
        *self.kept.lock() = kept;
        if self.file.set(file.to_owned()).is_err() {
            tracing::debug!("the file of pinned definitions stays where it is");
        }
    }

    /// Whether the file lacks something.
    pub(super) fn is_unwritten(&self) -> bool {
        self.file.get().is_some() && *self.written.lock() != self.changes.load(Ordering::Acquire)
    }

    /// Writes the file if it lacks something. Blocks.
    ///
    /// # Errors
    /// What the system says; it is tried again when this is called again.
    pub fn write(&self) -> std::io::Result<()> {
        let Some(file) = self.file.get() else { return Ok(()) };
        // One writer at a time; those who list do not wait for it.
        let mut written = self.written.lock();
        let (changes, kept) = {
            let kept = self.kept.lock();
            (self.changes.load(Ordering::Acquire), kept.clone())
        };
        if *written != changes {
            pin_file::write(file, &kept)?;
            *written = changes;
        }
        Ok(())
    }

    /// What is remembered of a server.
    pub fn of(&self, server: &str) -> Arc<ServerPins> {
        self.kept.lock().get(server).map(Arc::clone).unwrap_or_default()
    }

    /// Waits for changes to record.
    pub async fn news(&self) -> Vec<DefinitionChange> {
        loop {
            let news = self.take_news();
            if !news.is_empty() {
                return news;
            }
            self.bell.notified().await;
        }
    }

    /// The changes that nobody has recorded yet.
    pub fn take_news(&self) -> Vec<DefinitionChange> {
        self.news.lock().drain(..).collect()
    }

    /// A server was listed: what of it is shown, and what is new.
    pub(super) fn take(
        &self,
        server: &str,
        listed: Definitions,
        (on_change, extent): (OnChange, Extent),
        now: SystemTime,
    ) -> (Definitions, Vec<DefinitionChange>) {
        let digests = digests(&self.of(server), &listed);
        let now_s = seconds(now);
        let (passing, changes) = {
            let mut kept = self.kept.lock();
            make_place(&mut kept, server);
            let mut room =
                Room(BYTES_MAX.saturating_sub(kept.values().map(|pins| pins.weight()).sum()));
            let pins = Arc::make_mut(kept.entry(server.to_owned()).or_default());
            let mut judging =
                Judging { pins, on_change, now_s, room: &mut room, changes: Vec::new() };
            let definitions = listed.all().iter().zip(digests);
            let passing: Vec<_> =
                definitions.map(|(definition, digest)| judging.judge(definition, digest)).collect();
            if extent == Extent::Whole {
                judging.miss(&listed);
            }
            judging.end();
            let changes = judging.changes;
            if pins.listed_s.is_none() || !changes.is_empty() {
                pins.listed_s = Some(now_s);
                self.changes.fetch_add(1, Ordering::Release);
            }
            (passing, changes)
        };
        let changes: Vec<_> = changes
            .into_iter()
            .map(|(tool, what, difference)| DefinitionChange {
                server: server.to_owned(),
                tool,
                what,
                difference,
            })
            .collect();
        self.tell(&changes);
        (replaced(listed, passing), changes)
    }

    /// Trusts the definition that waits, if it is the one with this digest.
    pub(super) fn approve(
        &self,
        server: &str,
        tool: &str,
        digest: Option<&str>,
        now: SystemTime,
    ) -> Result<DefinitionChange, NotApproved> {
        let mut kept = self.kept.lock();
        let pins = kept.get_mut(server).ok_or(NotApproved::NothingWaits)?;
        pins.waiting(tool, digest)?;
        let pin = Arc::make_mut(pins).tools.get_mut(tool).ok_or(NotApproved::NothingWaits)?;
        let pending = pin.pending.take().ok_or(NotApproved::NothingWaits)?;
        let difference = pending.difference.clone();
        pin.trust(pending, seconds(now));
        self.changes.fetch_add(1, Ordering::Release);
        drop(kept);
        let (server, tool) = (server.to_owned(), tool.to_owned());
        Ok(DefinitionChange { server, tool, what: Became::Approved, difference })
    }

    fn tell(&self, changes: &[DefinitionChange]) {
        if changes.is_empty() {
            return;
        }
        let mut news = self.news.lock();
        news.extend(changes.iter().take(CHANGES_MAX).cloned());
        for what in Became::ALL {
            let rest = changes.iter().skip(CHANGES_MAX).filter(|change| change.what == what);
            let (server, more) = (&changes[0].server, rest.count());
            if more > 0 {
                let (server, tool) = (server.clone(), String::new());
                let difference = vec![format!("and {more} more tools")];
                news.push_back(DefinitionChange { server, tool, what, difference });
            }
        }
        // Nobody records: the newest say most.
        let too_many = news.len().saturating_sub(NEWS_MAX);
        news.drain(..too_many);
        drop(news);
        self.bell.notify_one();
    }
}

impl ServerPins {
    /// What is remembered of a tool.
    pub fn find(&self, tool: &str) -> Option<&Pin> {
        self.tools.get(tool)
    }

    /// The tools of which a definition waits.
    pub fn pending(&self) -> impl Iterator<Item = (&str, &Pending)> {
        self.tools.iter().filter_map(|(tool, pin)| Some((&**tool, pin.pending.as_ref()?)))
    }

    /// The definition of a tool that waits, if it is the one with this digest.
    ///
    /// # Errors
    /// When there is none, or it is another one.
    pub fn waiting(&self, tool: &str, digest: Option<&str>) -> Result<&Pending, NotApproved> {
        let pending = self.find(tool).and_then(|pin| pin.pending.as_ref());
        let pending = pending.ok_or(NotApproved::NothingWaits)?;
        match digest.is_none_or(|digest| digest == pending.digest.to_string()) {
            true => Ok(pending),
            false => Err(NotApproved::Other),
        }
    }

    /// What may pass of a tool in a list of the server itself.
    pub(super) fn passing(&self, on_change: OnChange, tool: &str, definition: &[u8]) -> Passing {
        let Some(pin) = self.find(tool).filter(|_| on_change != OnChange::Record) else {
            return Passing::AsItIs;
        };
        let is_trusted = pin.seen == Some(page::short_digest(definition))
            || pin.digest == Digest::of(definition);
        match (is_trusted, on_change, &pin.text) {
            (true, ..) => Passing::AsItIs,
            (false, OnChange::Withhold, Some(text)) => Passing::Instead(text.clone()),
            (false, ..) => Passing::Hidden,
        }
    }

    fn weight(&self) -> usize {
        self.tools.iter().map(|(tool, pin)| tool.len() + pin.weight()).sum()
    }

    /// Forgets the tools that went first, where there are too many that went.
    fn forget_removed(&mut self) {
        let mut removed: Vec<_> =
            self.tools.iter().filter_map(|(tool, pin)| Some((pin.removed_s?, tool))).collect();
        let too_many = removed.len().saturating_sub(REMOVED_MAX);
        if too_many > 0 {
            removed.sort_unstable();
            let gone: HashSet<String> =
                removed[..too_many].iter().map(|(_, tool)| (*tool).clone()).collect();
            self.tools.retain(|tool, _| !gone.contains(tool));
        }
    }
}

impl Pin {
    /// Since when the tool is known.
    pub fn since(&self) -> SystemTime {
        moment(self.since_s)
    }

    /// When the trusted definition changed last.
    pub fn changed(&self) -> Option<SystemTime> {
        self.changed_s.map(moment)
    }

    /// The trusted definition, as far as there was room to keep it.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    fn trust(&mut self, pending: Pending, now_s: u64) {
        self.digest = pending.digest;
        self.text = pending.text;
        self.difference = pending.difference;
        self.changed_s = Some(now_s);
        self.seen = None;
    }

    fn weight(&self) -> usize {
        let of = |text: &Option<Box<str>>, difference: &[String]| {
            text.as_ref().map_or(0, |text| text.len())
                + difference.iter().map(String::len).sum::<usize>()
        };
        let pending = self
            .pending
            .as_ref()
            .map_or(0, |pending| size_of::<Pending>() + of(&pending.text, &pending.difference));
        size_of::<Self>() + of(&self.text, &self.difference) + pending
    }
}

impl Pending {
    /// Since when it waits.
    pub fn since(&self) -> SystemTime {
        moment(self.since_s)
    }
}

/// Forgets a server where there is no place for another one.
fn make_place(kept: &mut Kept, server: &str) {
    if kept.len() < SERVERS_MAX || kept.contains_key(server) {
        return;
    }
    let oldest = kept.iter().min_by_key(|(_, pins)| pins.listed_s).map(|(name, _)| name.clone());
    if let Some(oldest) = oldest {
        tracing::warn!(server = oldest, "too many servers: its pinned definitions are forgotten");
        kept.remove(&oldest);
    }
}

/// The digests of what was listed; of what was looked at before it is known.
fn digests(known: &ServerPins, listed: &Definitions) -> Vec<Digest> {
    let of = |definition: &Definition| {
        let pin = known.find(&definition.name);
        match pin.filter(|pin| pin.seen == Some(definition.digest)) {
            Some(pin) => pin.digest,
            None => Digest::of(&definition.bytes),
        }
    };
    listed.all().iter().map(of).collect()
}

/// The definitions that are shown.
fn replaced(listed: Definitions, passing: Vec<Passing>) -> Definitions {
    if passing.iter().all(|passing| *passing == Passing::AsItIs) {
        return listed;
    }
    let shown = listed.into_all().into_iter().zip(passing);
    let shown = shown.filter_map(|(definition, passing)| match passing {
        Passing::AsItIs => Some(definition),
        Passing::Instead(text) => Some(page::definition(definition.name, &text)),
        Passing::Hidden => None,
    });
    Definitions::new(shown.collect()).0
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn moment(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
