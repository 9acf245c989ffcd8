//! Where a list goes on: what a cursor says, which clients keep sealed.

use ring::digest::{SHA256, digest};

use super::holder::Holder;
use super::member::MemberId;
use crate::catalog::Kind;

/// A list that is not read on for so long is begun again.
const LIFETIME_S: u32 = 60 * 60;
/// Clocks of replicas differ.
const SKEW_S: u32 = 60;
const BYTES: usize = 21;

/// Seals cursors for one caller on one route, and opens what that caller sends back.
pub trait SealCursors {
    /// The cursor that clients keep; `None` if it cannot be sealed.
    fn seal(&self, content: &[u8]) -> Option<String>;
    /// What was sealed for this caller on this route.
    fn open(&self, cursor: &str) -> Option<Vec<u8>>;
}

impl SealCursors for Holder<'_> {
    fn seal(&self, content: &[u8]) -> Option<String> {
        self.seal_cursor(content)
    }

    fn open(&self, cursor: &str) -> Option<Vec<u8>> {
        self.open_cursor(cursor)
    }
}

/// The list has no such place, now or for this caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor of this list")]
pub struct BadCursor;

/// After which definition a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) made_s: u32,
    pub(super) member: MemberId,
    pub(super) kind: Kind,
    /// Its place among those of its server.
    pub(super) place: u32,
    /// What it is called there: places change.
    pub(super) own: [u8; 8],
}

impl Cursor {
    pub(super) fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&self.made_s.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.member.0);
        bytes[8] = self.kind as u8;
        bytes[9..13].copy_from_slice(&self.place.to_be_bytes());
        bytes[13..].copy_from_slice(&self.own);
        bytes
    }

    /// Reads what was opened, if it still is of use for this list.
    pub(super) fn read(bytes: &[u8], kind: Kind, now_s: u32) -> Result<Self, BadCursor> {
        let (Some((made_s, rest)), BYTES) = (bytes.split_first_chunk(), bytes.len()) else {
            return Err(BadCursor);
        };
        let Some((member, [of_kind, rest @ ..])) = rest.split_first_chunk() else {
            return Err(BadCursor);
        };
        let Some((place, own)) = rest.split_first_chunk() else { return Err(BadCursor) };
        let made_s = u32::from_be_bytes(*made_s);
        if *of_kind != kind as u8 || !is_in_time(made_s, now_s) {
            return Err(BadCursor);
        }
        let own = own.try_into().map_err(|_| BadCursor)?;
        let (member, place) = (MemberId(*member), u32::from_be_bytes(*place));
        Ok(Self { made_s, member, kind, place, own })
    }
}

/// Whether a cursor that was made then is still of use.
pub(super) fn is_in_time(made_s: u32, now_s: u32) -> bool {
    made_s <= now_s.saturating_add(SKEW_S) && now_s.saturating_sub(made_s) <= LIFETIME_S
}

/// What stands in a cursor for a name, which may be long.
pub(super) fn short(own: &str) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&digest(&SHA256, own.as_bytes()).as_ref()[..8]);
    short
}

#[cfg(test)]
mod tests {
    use super::{BadCursor, Cursor, LIFETIME_S, MemberId, SKEW_S, short};
    use crate::catalog::Kind;

    #[test]
    fn cursors_are_of_one_list_and_one_time() {
        let cursor = Cursor {
            made_s: 10_000,
            member: MemberId::of("one"),
            kind: Kind::Prompts,
            place: 7,
            own: short("name"),
        };
        let bytes = cursor.to_bytes();
        let read = |bytes: &[u8], kind, now_s| Cursor::read(bytes, kind, now_s);
        assert_eq!(read(&bytes, Kind::Prompts, 10_000), Ok(cursor));
        assert_eq!(read(&bytes, Kind::Prompts, 10_000 + LIFETIME_S), Ok(cursor));
        assert_eq!(read(&bytes, Kind::Prompts, 10_001 + LIFETIME_S), Err(BadCursor));
        assert_eq!(read(&bytes, Kind::Prompts, 10_000 - SKEW_S), Ok(cursor));
        assert_eq!(read(&bytes, Kind::Prompts, 9_999 - SKEW_S), Err(BadCursor));
        assert_eq!(read(&bytes, Kind::Tools, 10_000), Err(BadCursor));
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length], Kind::Prompts, 10_000), Err(BadCursor));
        }
        assert_eq!(read(&[&bytes[..], b"x"].concat(), Kind::Prompts, 10_000), Err(BadCursor));
    }
}
