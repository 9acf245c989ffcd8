//! What a listing of a server says of its pins: what is shown of each tool, and what became of it.

use super::{Became, Passing, Pending, Pin, ServerPins};
use crate::catalog::canonical::Digest;
use crate::catalog::difference;
use crate::catalog::offer::{Definition, Definitions};
use crate::config::OnChange;

/// Of a longer definition only the digest is kept.
const DEFINITION_BYTES_MAX: usize = 256 * 1024;

/// How much text may still be remembered, in bytes.
pub(super) struct Room(pub(super) usize);

/// A listing of one server, compared with its pins.
pub(super) struct Judging<'j> {
    pub(super) pins: &'j mut ServerPins,
    pub(super) on_change: OnChange,
    pub(super) now_s: u64,
    pub(super) room: &'j mut Room,
    pub(super) changes: Vec<(String, Became, Vec<String>)>,
}

impl Judging<'_> {
    pub(super) fn judge(&mut self, definition: &Definition, digest: Digest) -> Passing {
        let tool = &*definition.name;
        let is_known_server = self.pins.listed_s.is_some();
        let Some(pin) = self.pins.tools.get_mut(tool) else {
            let text = self.room.keep(&definition.bytes);
            let seen = Some(definition.digest);
            let (changed_s, removed_s, pending) = (None, None, None);
            let (since_s, difference) = (self.now_s, Vec::new());
            let pin =
                Pin { digest, text, since_s, changed_s, difference, pending, removed_s, seen };
            self.pins.tools.insert(tool.to_owned(), pin);
            if is_known_server {
                self.note(tool, Became::Added, Vec::new());
            }
            return Passing::AsItIs;
        };
        let is_back = pin.removed_s.take().is_some();
        if digest == pin.digest {
            pin.seen = Some(definition.digest);
            let restored = pin.pending.take().map(|_| Became::Restored);
            if let Some(what) = restored.or_else(|| is_back.then_some(Became::Added)) {
                self.note(tool, what, Vec::new());
            }
            return Passing::AsItIs;
        }
        let is_news = pin.pending.as_ref().is_none_or(|pending| pending.digest != digest);
        let (what, passing) = match (self.on_change, &pin.text) {
            (OnChange::Record, _) => (Became::Changed, Passing::AsItIs),
            (OnChange::Withhold, Some(text)) => (Became::Withheld, Passing::Instead(text.clone())),
            // What was shown was not kept.
            (OnChange::Withhold, None) => (Became::Withheld, Passing::Hidden),
            (OnChange::Refuse, _) => (Became::Refused, Passing::Hidden),
        };
        if !is_news && what != Became::Changed {
            return passing;
        }
        let difference = match &pin.text {
            Some(text) => difference::between(text.as_bytes(), &definition.bytes),
            None => vec!["the definition before was too large to be kept".to_owned()],
        };
        let pending = Pending {
            digest,
            text: self.room.keep(&definition.bytes),
            since_s: self.now_s,
            difference: self.room.keep_lines(difference.clone()),
        };
        match what {
            Became::Changed => {
                pin.pending = None;
                pin.trust(pending, self.now_s);
                pin.seen = Some(definition.digest);
            }
            _ => pin.pending = Some(pending),
        }
        self.note(tool, what, difference);
        passing
    }

    /// Notes what is listed no longer.
    pub(super) fn miss(&mut self, listed: &Definitions) {
        let mut gone = Vec::new();
        for (tool, pin) in &mut self.pins.tools {
            if pin.removed_s.is_none() && listed.find(tool).is_none() {
                pin.removed_s = Some(self.now_s);
                gone.push(tool.clone());
            }
        }
        self.changes.extend(gone.into_iter().map(|tool| (tool, Became::Removed, Vec::new())));
        self.pins.forget_removed();
    }

    /// Where changes are only recorded nothing waits, also of what waited before.
    pub(super) fn end(&mut self) {
        if self.on_change == OnChange::Record {
            self.pins.tools.values_mut().for_each(|pin| pin.pending = None);
        }
    }

    fn note(&mut self, tool: &str, what: Became, difference: Vec<String>) {
        self.changes.push((tool.to_owned(), what, difference));
    }
}

impl Room {
    fn keep(&mut self, bytes: &[u8]) -> Option<Box<str>> {
        let is_room = bytes.len() <= DEFINITION_BYTES_MAX.min(self.0);
        let text = std::str::from_utf8(bytes).ok().filter(|_| is_room)?;
        self.0 -= text.len();
        Some(text.into())
    }

    fn keep_lines(&mut self, lines: Vec<String>) -> Vec<String> {
        let length = lines.iter().map(String::len).sum::<usize>();
        match self.0.checked_sub(length) {
            Some(left) => {
                self.0 = left;
                lines
            }
            None => Vec::new(),
        }
    }
}
