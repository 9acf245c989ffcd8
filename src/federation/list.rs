//! The lists of all servers as one: what is shown, page by page, and what is missing and why.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::cursor::{BadCursor, Cursor, SealCursors, short};
use super::member::Presence;
use super::splices::json_text;
use super::table::Names;
use super::{Federation, Merged};
use crate::catalog::{Audience, Kind, Offer};
use crate::mcp::{Annotations, Era};

/// What a server that is missing or old is named by in `_meta`.
const SERVERS: &str = "io.toolgate/servers";
/// Who answers.
pub(super) const SERVER_INFO: &str =
    concat!(r#"{"name":"toolgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);
/// Room for everything of a page but its definitions.
const FRAME_BYTES: usize = 1024;

/// A request for a list.
pub struct ListAsk<'a> {
    /// What is listed.
    pub kind: Kind,
    /// How the client speaks.
    pub era: Era,
    /// Where the list goes on; nothing begins it.
    pub cursor: Option<&'a str>,
    /// Whom the answer is for: one caller, if what is shown depends on who asks.
    pub audience: Audience,
    /// Is told of every server that the answer names as missing or old.
    pub lacks: &'a Lacks<'a>,
    /// Seals and opens the cursors of this caller.
    pub cursors: &'a dyn SealCursors,
    /// The time of day.
    pub now: SystemTime,
    /// The same moment on the clock of the endpoints.
    pub now_ms: u64,
}

/// Whether a definition is shown, by its member, kind, own name and annotations.
pub type ShowsOne<'a> = dyn Fn(usize, Kind, &str, &Annotations) -> bool + 'a;

/// Takes a server that a list names, how it is listed, and why so.
pub type Lacks<'a> = dyn Fn(&str, &str, &str) + 'a;

impl Federation {
    /// A page of a list: the `result`, byte for byte as the servers wrote each definition but for
    /// its name.
    ///
    /// # Errors
    /// When the cursor is of another list, caller or time.
    pub fn list(&self, ask: &ListAsk<'_>, shows: &ShowsOne<'_>) -> Result<Bytes, BadCursor> {
        let merged = self.merged();
        let names = merged.table.names(ask.kind);
        let start = match ask.cursor {
            Some(cursor) => self.place_after(cursor, ask, &merged)?,
            None => 0,
        };
        let presences = self.presences(ask, &merged);
        let mut result = Vec::with_capacity(self.page_bytes(names) + FRAME_BYTES);
        self.open_page(&mut result, ask, &merged);
        let first = result.len();
        let (mut count, mut last) = (0, None);
        for (place, shown) in names.shown.iter().enumerate().skip(start) {
            if matches!(presences[shown.member], Presence::LeftOut(_)) {
                continue;
            }
            let definition = merged.table.definition(ask.kind, shown);
            if !shows(shown.member, ask.kind, &definition.name, &definition.annotations) {
                continue;
            }
            let is_full = count >= self.list_page_max
                || (count > 0 && result.len() - first + shown.bytes.len() > self.list_bytes_max);
            if is_full {
                // There is more, so the page says where it goes on.
                self.close_page(&mut result, ask, &presences, last.map(|last| (last, &**merged)));
                return Ok(result.into());
            }
            if count > 0 {
                result.push(b',');
            }
            result.extend_from_slice(&shown.bytes);
            (count, last) = (count + 1, Some(place));
        }
        self.close_page(&mut result, ask, &presences, None);
        Ok(result.into())
    }

    fn page_bytes(&self, names: &Names) -> usize {
        names.bytes_total.min(self.list_bytes_max)
    }

    fn presences(&self, ask: &ListAsk<'_>, merged: &Merged) -> Vec<Presence> {
        let members = self.members.iter().zip(merged.offers.iter().zip(&merged.voices));
        members
            .map(|(member, (offer, voice))| {
                let presence =
                    member.presence((offer, *voice), ask.era, self.when_down, ask.now_ms);
                member.note(presence, ask.era, &self.route);
                presence
            })
            .collect()
    }

    fn open_page(&self, result: &mut Vec<u8>, ask: &ListAsk<'_>, merged: &Merged) {
        result.push(b'{');
        if ask.era == Era::Modern {
            let ttl_ms = merged.ttl_ms(ask.now);
            let audience = merged.audience(ask.audience);
            result.extend_from_slice(caching(ttl_ms, audience).as_bytes());
            result.push(b',');
        }
        result.extend_from_slice(match ask.kind {
            Kind::Tools => br#""tools":["#,
            Kind::Prompts => br#""prompts":["#,
            Kind::Resources => br#""resources":["#,
            Kind::Templates => br#""resourceTemplates":["#,
        });
    }

    fn close_page(
        &self,
        result: &mut Vec<u8>,
        ask: &ListAsk<'_>,
        presences: &[Presence],
        goes_on: Option<(usize, &Merged)>,
    ) {
        result.push(b']');
        let cursor = goes_on.and_then(|(last, merged)| {
            let names = merged.table.names(ask.kind);
            let shown = &names.shown[last];
            let place = last - names.ranges[shown.member].start;
            let cursor = Cursor {
                made_s: seconds(ask.now),
                member: self.members[shown.member].id,
                kind: ask.kind,
                place: u32::try_from(place).unwrap_or(u32::MAX),
                own: short(&merged.table.definition(ask.kind, shown).name),
            };
            ask.cursors.seal(&cursor.to_bytes())
        });
        if let Some(cursor) = cursor {
            result.extend_from_slice(br#","nextCursor":"#);
            result.extend(json_text(&cursor));
        }
        self.close_meta(result, ask, presences);
        result.push(b'}');
    }

    /// Names every server whose definitions are missing or may be old.
    fn close_meta(&self, result: &mut Vec<u8>, ask: &ListAsk<'_>, presences: &[Presence]) {
        let odd = self.members.iter().zip(presences).filter_map(|(member, presence)| {
            let (list, because) = presence.named()?;
            (ask.lacks)(&member.name, list, because);
            Some(named(&member.name, list, because))
        });
        let (odd, era): (Vec<String>, Era) = (odd.collect(), ask.era);
        if era == Era::Legacy && odd.is_empty() {
            return;
        }
        result.extend_from_slice(br#","_meta":{"#);
        if era == Era::Modern {
            result.extend_from_slice(br#""io.modelcontextprotocol/serverInfo":"#);
            result.extend_from_slice(SERVER_INFO.as_bytes());
        }
        if !odd.is_empty() {
            if era == Era::Modern {
                result.push(b',');
            }
            result.extend_from_slice(format!(r#""{SERVERS}":[{}]"#, odd.join(",")).as_bytes());
        }
        result.push(b'}');
    }

    /// The place behind the definition that a page ended with, wherever that stands now.
    fn place_after(
        &self,
        cursor: &str,
        ask: &ListAsk<'_>,
        merged: &Merged,
    ) -> Result<usize, BadCursor> {
        let opened = ask.cursors.open(cursor).ok_or(BadCursor)?;
        let cursor = Cursor::read(&opened, ask.kind, seconds(ask.now))?;
        let member = self.members.iter().position(|member| member.id == cursor.member);
        let names = merged.table.names(ask.kind);
        let range = names.ranges[member.ok_or(BadCursor)?].clone();
        let is_it = |place: &usize| {
            let definition = merged.table.definition(ask.kind, &names.shown[*place]);
            short(&definition.name) == cursor.own
        };
        let place = range.start + cursor.place as usize;
        let found = match range.contains(&place) && is_it(&place) {
            true => Some(place),
            false => range.clone().find(is_it),
        };
        // It is gone: what came after it stands in its place.
        Ok(found.map_or_else(|| place.min(range.end), |place| place + 1))
    }
}

impl Merged {
    /// How long the lists stay as they are: as long as each server says, from when it said so.
    fn ttl_ms(&self, now: SystemTime) -> u64 {
        let left = |offer: &Offer| {
            let ttl = offer.ttl?;
            let age = now.duration_since(offer.listed_at?).unwrap_or_default();
            Some(ttl.saturating_sub(age))
        };
        let left = self.offers.iter().map(|offer| left(offer).unwrap_or_default()).min();
        u64::try_from(left.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whom a list is for: the same on every page.
    fn audience(&self, asked: Audience) -> Audience {
        let is_private = |offer: &Offer| offer.audience == Audience::Caller;
        match self.offers.iter().any(|offer| is_private(offer)) {
            true => Audience::Caller,
            false => asked,
        }
    }
}

/// A server in `_meta`, how it is listed, and why so.
pub(super) fn named(server: &str, list: &str, because: &str) -> String {
    // Names of servers hold no character that JSON would escape.
    format!(r#"{{"name":"{server}","list":"{list}","because":"{because}"}}"#)
}

/// What a modern result says of how long and for whom it may be kept.
pub(super) fn caching(ttl_ms: u64, audience: Audience) -> String {
    let scope = match audience {
        Audience::Everyone => "public",
        Audience::Caller => "private",
    };
    format!(r#""resultType":"complete","ttlMs":{ttl_ms},"cacheScope":"{scope}""#)
}

fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
