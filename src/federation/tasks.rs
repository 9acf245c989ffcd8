//! The tasks of all servers as one list. Nobody but the servers knows them, so each of them is asked.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::cursor::{BadCursor, SealCursors, is_in_time};
use super::list::{Lacks, named};
use super::member::{Member, MemberId};
use super::message::{Passage, to_client};
use super::splices::json_text;
use crate::catalog::Offer;

/// The code of a method that a server does not know.
const METHOD_NOT_FOUND: i64 = -32601;
/// How a server is listed whose tasks are missing.
const LEFT_OUT: &str = "left_out";
/// Where cursors of other lists say which list they are of, those of this one say that they are not.
const MARK: [u8; 5] = [0, 0, 0, 0, u8::MAX];

/// Whether the server has said that it lists tasks; one that has not said anything may.
pub(super) fn lists_tasks(offer: &Offer) -> bool {
    #[derive(Deserialize)]
    struct Greeting {
        capabilities: Capabilities,
    }
    #[derive(Deserialize)]
    struct Capabilities {
        tasks: Option<Tasks>,
    }
    #[derive(Deserialize)]
    struct Tasks {
        list: Option<IgnoredAny>,
    }
    if offer.greeting.is_empty() {
        return true;
    }
    let said = serde_json::from_slice(&offer.greeting);
    said.is_ok_and(|Greeting { capabilities }| capabilities.tasks.is_some_and(|t| t.list.is_some()))
}

/// Where a list of tasks goes on: at which servers, and with what cursor of their own.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TaskPlaces(Vec<(MemberId, String)>);

impl TaskPlaces {
    /// Reads the cursor of such a list.
    ///
    /// # Errors
    /// When it is of another list, caller or time.
    pub fn open(cursor: &str, cursors: &dyn SealCursors, now_s: u32) -> Result<Self, BadCursor> {
        let opened = cursors.open(cursor).ok_or(BadCursor)?;
        let (made_s, rest) = opened.split_first_chunk().ok_or(BadCursor)?;
        let mut rest = rest.strip_prefix(&MARK).ok_or(BadCursor)?;
        if !is_in_time(u32::from_be_bytes(*made_s), now_s) {
            return Err(BadCursor);
        }
        let mut places = Vec::new();
        while !rest.is_empty() {
            let (member, after) = rest.split_first_chunk().ok_or(BadCursor)?;
            let (length, after) = after.split_first_chunk().ok_or(BadCursor)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (own, after) = after.split_at_checked(length).ok_or(BadCursor)?;
            let own = String::from_utf8(own.to_vec()).map_err(|_| BadCursor)?;
            places.push((MemberId(*member), own));
            rest = after;
        }
        Ok(Self(places))
    }

    /// The server's own cursor, if its list goes on.
    pub fn of(&self, member: MemberId) -> Option<&str> {
        self.0.iter().find(|(id, _)| *id == member).map(|(_, own)| own.as_str())
    }

    fn to_bytes(&self, now_s: u32) -> Vec<u8> {
        let mut bytes = [&now_s.to_be_bytes()[..], &MARK].concat();
        for (member, own) in &self.0 {
            // Longer ones were not taken.
            let length = u16::try_from(own.len()).unwrap_or_default();
            bytes.extend_from_slice(&member.0);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&own.as_bytes()[..usize::from(length)]);
        }
        bytes
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<Tasks<'a>>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Tasks<'a> {
    #[serde(borrow)]
    tasks: Vec<&'a RawValue>,
    #[serde(rename = "nextCursor")]
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Fault {
    code: i64,
}

/// A page of the tasks of several servers.
#[derive(Default)]
pub struct TaskPage<'f> {
    tasks: Vec<u8>,
    goes_on: TaskPlaces,
    /// Servers whose tasks are missing, and why.
    odd: Vec<(&'f str, &'static str)>,
    /// Of the servers that go on.
    names: Vec<&'f str>,
}

impl<'f> TaskPage<'f> {
    /// Takes what a server answered to the cursor that it was asked with.
    pub fn add(
        &mut self,
        member: &'f Member,
        passage: &Passage<'_>,
        answer: &[u8],
        asked: Option<&str>,
    ) {
        let Ok(renamed) = to_client(passage, answer) else {
            return self.lacks(member, "unreadable");
        };
        match serde_json::from_slice(renamed.as_deref().unwrap_or(answer)) {
            Ok(Answer { result: Some(page), error: None }) => self.take(member, page, asked),
            // It has none.
            Ok(Answer { error: Some(Fault { code: METHOD_NOT_FOUND }), .. }) => {}
            Ok(Answer { error: Some(_), .. }) => self.lacks(member, "error"),
            _ => self.lacks(member, "unreadable"),
        }
    }

    /// Says that the tasks of a server are missing, or those after the ones here, and why.
    pub fn lacks(&mut self, member: &'f Member, because: &'static str) {
        self.odd.push((&member.name, because));
    }

    fn take(&mut self, member: &'f Member, page: Tasks<'_>, asked: Option<&str>) {
        for task in page.tasks {
            if !self.tasks.is_empty() {
                self.tasks.push(b',');
            }
            self.tasks.extend_from_slice(task.get().as_bytes());
        }
        match page.next_cursor {
            None => {}
            Some(next) if Some(next.as_str()) == asked || next.len() > usize::from(u16::MAX) => {
                self.lacks(member, "cursor");
            }
            Some(next) => {
                self.goes_on.0.push((member.id, next));
                self.names.push(&member.name);
            }
        }
    }

    /// The `result`; `lacks` is told of every server that it names.
    pub fn close(mut self, cursors: &dyn SealCursors, now_s: u32, lacks: &Lacks<'_>) -> Bytes {
        let mut result = br#"{"tasks":["#.to_vec();
        result.append(&mut self.tasks);
        result.push(b']');
        while !self.goes_on.0.is_empty() {
            if let Some(cursor) = cursors.seal(&self.goes_on.to_bytes(now_s)) {
                result.extend_from_slice(br#","nextCursor":"#);
                result.extend(json_text(&cursor));
                break;
            }
            // The longest has no room, and its list ends here.
            let lengths = self.goes_on.0.iter().map(|(_, own)| own.len()).enumerate();
            let longest = lengths.max_by_key(|(_, length)| *length).map_or(0, |(at, _)| at);
            self.goes_on.0.swap_remove(longest);
            self.odd.push((self.names.swap_remove(longest), "cursor"));
        }
        if !self.odd.is_empty() {
            result.extend_from_slice(br#","_meta":{"io.toolgate/servers":["#);
            let odd = self.odd.iter().map(|(server, because)| {
                lacks(server, LEFT_OUT, because);
                named(server, LEFT_OUT, because)
            });
            result.extend_from_slice(odd.collect::<Vec<_>>().join(",").as_bytes());
            result.extend_from_slice(b"]}");
        }
        result.push(b'}');
        result.into()
    }
}

#[cfg(test)]
mod tests {
    use super::{MemberId, TaskPlaces};
    use crate::federation::{BadCursor, SealCursors};

    /// Seals nothing.
    struct Open;

    impl SealCursors for Open {
        fn seal(&self, content: &[u8]) -> Option<String> {
            Some(content.iter().map(|byte| format!("{byte:02x}")).collect())
        }

        fn open(&self, cursor: &str) -> Option<Vec<u8>> {
            let byte = |at| u8::from_str_radix(cursor.get(at..at + 2)?, 16).ok();
            (0..cursor.len()).step_by(2).map(byte).collect()
        }
    }

    #[test]
    fn a_cursor_says_where_each_server_goes_on() {
        let of = |name| MemberId::of(name);
        let places = TaskPlaces(vec![(of("one"), "a\u{e9}".into()), (of("two"), String::new())]);
        let bytes = places.to_bytes(1_000);
        let sealed = Open.seal(&bytes).expect("sealed");
        let opened = TaskPlaces::open(&sealed, &Open, 1_060).expect("its own");
        assert_eq!(opened, places);
        let found = ["one", "two", "three"].map(|name| opened.of(of(name)));
        assert_eq!(found, [Some("a\u{e9}"), Some(""), None]);
        assert_eq!(TaskPlaces::open(&sealed, &Open, 1_000_000), Err(BadCursor));
        // What is cut is no cursor, unless it is cut where a server begins.
        let whole = [9, 9 + 4 + 2 + 3, bytes.len()];
        for length in 0..=bytes.len() {
            let cut = Open.seal(&bytes[..length]).expect("sealed");
            let is_read = TaskPlaces::open(&cut, &Open, 1_000).is_ok();
            assert_eq!(is_read, whole.contains(&length), "{length}");
        }
        let mut other = bytes;
        other[8] = 0;
        let other = Open.seal(&other).expect("sealed");
        assert_eq!(TaskPlaces::open(&other, &Open, 1_000), Err(BadCursor));
    }
}
