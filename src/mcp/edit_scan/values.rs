//! The strings, numbers and words of a message that are read, and the values that are passed by.

use std::borrow::Cow;
use std::ops::Range;

use super::{EditScan, Place, Role, is_id, is_text};
use crate::jsonrpc::{Match, find};
use crate::mcp::edits::{Edit, Rewrite, Subject, Unfit};
use crate::mcp::places::{Level, Then, Watched};
use crate::mcp::skim::{Cut, bracket_or_quote, pass_text};

/// A longer key where keys are read is no key of anyone.
const KEY_BYTES_MAX: usize = 4 * 1024;
/// The longest value that can be read; one of its characters may be six bytes.
const VALUE_BYTES_MAX: usize = 256 * 1024;

impl EditScan {
    /// A key, or what is here of it, from its quote on or from where it was cut.
    pub(super) fn key(&mut self, rest: &[u8], from: usize) -> Result<usize, Unfit> {
        let mut token = std::mem::take(&mut self.token);
        let read = match pass_text(rest, from) {
            Ok(end) if token.is_empty() => {
                self.key_is(&rest[..end])?;
                end
            }
            Ok(end) => {
                token.extend_from_slice(&rest[..end]);
                self.key_is(&token)?;
                end
            }
            Err(cut) => {
                token.extend_from_slice(rest);
                self.place = Place::ReadKey(cut);
                rest.len()
            }
        };
        if token.len() > KEY_BYTES_MAX {
            return Err(Unfit::TooLong);
        }
        self.token = token;
        Ok(read)
    }

    pub(super) fn key_is(&mut self, literal: &[u8]) -> Result<(), Unfit> {
        if literal.len() > KEY_BYTES_MAX {
            return Err(Unfit::TooLong);
        }
        let literal = std::str::from_utf8(literal).map_err(|_| Unfit::NotText)?;
        let inner = literal.get(1..literal.len() - 1).unwrap_or_default();
        let (sought, top) = (self.sought, self.top());
        let is_sought = |watched: &Watched| watched.holds.meets(sought);
        top.is_empty = false;
        self.then = match find(inner, top.level.keys()) {
            Match::Exact(watched) if is_sought(&watched) => {
                if top.seen & watched.bit != 0 {
                    return Err(Unfit::DuplicateKey);
                }
                top.seen |= watched.bit;
                Some(watched.then)
            }
            Match::Variant(watched) if is_sought(&watched) => return Err(Unfit::KeyVariant),
            Match::NotText => return Err(Unfit::NotText),
            _ => top.level.others(),
        };
        self.place = Place::Colon;
        let role = match self.then {
            Some(Then::Method | Then::Params) => Role::Asks,
            Some(Then::Response(_)) => Role::Answers,
            _ => return Ok(()),
        };
        if *self.role.get_or_insert(role) != role {
            return Err(Unfit::BadShape);
        }
        Ok(())
    }

    /// A string that is read, or what is here of it.
    pub(super) fn text(
        &mut self,
        rest: &[u8],
        from: usize,
        here: usize,
        rewrite: &dyn Rewrite,
    ) -> Result<usize, Unfit> {
        let mut token = std::mem::take(&mut self.token);
        let read = match pass_text(rest, from) {
            Ok(end) if token.is_empty() => {
                self.value_is(&rest[..end], here + end, rewrite)?;
                end
            }
            Ok(end) => {
                token.extend_from_slice(&rest[..end]);
                self.value_is(&token, here + end, rewrite)?;
                end
            }
            Err(cut) => {
                token.extend_from_slice(rest);
                self.place = Place::Read(cut);
                rest.len()
            }
        };
        if token.len() > VALUE_BYTES_MAX {
            return Err(Unfit::TooLong);
        }
        self.token = token;
        Ok(read)
    }

    /// A number, `true`, `false` or `null`, or what is here of it.
    pub(super) fn literal(
        &mut self,
        rest: &[u8],
        here: usize,
        rewrite: &dyn Rewrite,
    ) -> Result<usize, Unfit> {
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
        let end = rest.iter().position(ends);
        // What ends it may stand elsewhere: in the next line of an event.
        if end != Some(0) {
            self.end = here + end.unwrap_or(rest.len());
        }
        let is_read = matches!(self.then, Some(Then::Id | Then::Token(_)));
        let mut token = std::mem::take(&mut self.token);
        if is_read {
            token.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            if token.len() > KEY_BYTES_MAX {
                return Err(Unfit::TooLong);
            }
        }
        match end {
            None => self.place = Place::Literal,
            Some(_) if is_read => self.value_is(&token, self.end, rewrite)?,
            Some(_) => self.passed(self.end, rewrite)?,
        }
        self.token = token;
        Ok(end.unwrap_or(rest.len()))
    }

    /// A value that is read is over.
    pub(super) fn value_is(
        &mut self,
        literal: &[u8],
        end: usize,
        rewrite: &dyn Rewrite,
    ) -> Result<(), Unfit> {
        self.place = Place::Comma;
        if literal.len() > VALUE_BYTES_MAX {
            return Err(Unfit::TooLong);
        }
        let literal = std::str::from_utf8(literal).map_err(|_| Unfit::NotText)?;
        if literal.bytes().any(|byte| byte < b' ') {
            return Err(Unfit::Broken);
        }
        let place = self.start..end;
        match self.then {
            Some(Then::Id) => {
                self.id = Some(place);
                self.id_literal.clear();
                self.id_literal.extend_from_slice(literal.as_bytes());
            }
            Some(Then::Method) => {
                let method: Cow<'_, str> = match literal.contains('\\') {
                    false => literal.trim_matches('"').into(),
                    true => serde_json::from_str::<String>(literal).unwrap_or_default().into(),
                };
                self.params = Level::of_params(&method);
            }
            Some(Then::Token(subject)) if is_text(literal) || subject.is_id() && is_id(literal) => {
                self.rewrite(subject, literal, place, rewrite)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn rewrite(
        &mut self,
        subject: Subject,
        literal: &str,
        place: Range<usize>,
        rewrite: &dyn Rewrite,
    ) -> Result<(), Unfit> {
        if let Some(instead) = rewrite.instead(subject, literal)? {
            self.edits.push(Edit { place, instead });
        }
        Ok(())
    }

    /// A value that is not read is over.
    pub(super) fn passed(&mut self, end: usize, rewrite: &dyn Rewrite) -> Result<(), Unfit> {
        self.place = Place::Comma;
        let place = self.start..end;
        match self.then {
            Some(Then::Instead(subject)) => self.rewrite(subject, "", place, rewrite),
            // What is no object cannot say who asks.
            Some(Then::Object(Level::AskMeta)) => self.name_asker(place, ["{", "}"], rewrite),
            _ => Ok(()),
        }
    }

    /// Passes a container by.
    pub(super) fn skip(
        &mut self,
        rest: &[u8],
        here: usize,
        rewrite: &dyn Rewrite,
    ) -> Result<usize, Unfit> {
        let mut at = 0;
        loop {
            at = bracket_or_quote(rest, at);
            let Some(byte) = rest.get(at) else { return Ok(rest.len()) };
            at += 1;
            match byte {
                b'"' => match pass_text(rest, at) {
                    Ok(after) => at = after,
                    Err(cut) => {
                        self.place = Place::SkipText(cut);
                        return Ok(rest.len());
                    }
                },
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.passed(here + at, rewrite)?;
                        return Ok(at);
                    }
                }
                _ => {}
            }
        }
    }

    /// Passes a string by.
    pub(super) fn skip_text(
        &mut self,
        rest: &[u8],
        from: usize,
        here: usize,
        rewrite: &dyn Rewrite,
    ) -> Result<usize, Unfit> {
        match pass_text(rest, from) {
            Ok(end) if self.depth == 0 => self.passed(here + end, rewrite).map(|()| end),
            Ok(end) => {
                self.place = Place::Skip;
                Ok(end)
            }
            Err(cut) => {
                self.place = Place::SkipText(cut);
                Ok(rest.len())
            }
        }
    }
}

/// Where a string goes on that was cut: a byte after a backslash has no meaning of its own.
pub(super) fn from(cut: Cut) -> usize {
    match cut {
        Cut::InText => 0,
        Cut::AfterBackslash => 1,
    }
}
