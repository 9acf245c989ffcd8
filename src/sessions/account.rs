//! What the store says of a session, in bytes.
//!
//! Format, what follows, and that: nothing, or where the session lives and what must be made anew where
//! it moves to. What reads otherwise was written by another version, and says nothing.

use super::entry::{BESIDE_BYTES_MAX, Place, Restore, level_byte, level_of};
use crate::mcp::Revision;

/// The longest account that is written or read, sealed.
pub(super) const ACCOUNT_BYTES_MAX: usize = 2 * BESIDE_BYTES_MAX;

const FORMAT: u8 = 1;
const ENDED: u8 = 0;
const ALIVE: u8 = 1;
/// The length that says that there is nothing, not even an empty text.
const NOTHING: u16 = u16::MAX;

/// What the store says of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// It is over: its id opens nothing any more.
    Ended,
    /// It lives.
    Alive(Alive),
}

/// What the id of a session that lives does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// Where it lives, if not where its id says.
    pub spot: Option<Spot>,
    /// The revision that it speaks there.
    pub revision: Option<Revision>,
    /// What must be made anew where it moves to.
    pub restore: Restore,
}

/// A [`Place`] as every replica names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The endpoint, by the digest of its URL.
    pub endpoint: u64,
    /// The server's own session id; `None` if it gives none.
    pub upstream_id: Option<Vec<u8>>,
}

impl From<&Place> for Spot {
    fn from(place: &Place) -> Self {
        Self { endpoint: place.endpoint.id(), upstream_id: place.upstream_id.clone() }
    }
}

impl Account {
    /// The account as it is sealed. `None` if it is too long to be kept.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let Self::Alive(Alive { spot, revision, restore }) = self else {
            return Some(vec![FORMAT, ENDED]);
        };
        let revision = revision.map_or(0, |revision| revision as u8);
        let level = restore.level.map_or(0, level_byte);
        let mut bytes = vec![FORMAT, ALIVE, revision, level, u8::from(spot.is_some())];
        if let Some(Spot { endpoint, upstream_id }) = spot {
            bytes.extend_from_slice(&endpoint.to_le_bytes());
            write_text(&mut bytes, upstream_id.as_deref())?;
        }
        write_text(&mut bytes, restore.opening.as_deref())?;
        for uri in &restore.subscriptions {
            write_text(&mut bytes, Some(uri.as_bytes()))?;
        }
        (bytes.len() <= ACCOUNT_BYTES_MAX - 64).then_some(bytes)
    }

    /// What was written so; `None` whatever is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let ([FORMAT, what], rest) = bytes.split_first_chunk()? else { return None };
        match *what {
            ENDED if rest.is_empty() => return Some(Self::Ended),
            ALIVE => {}
            _ => return None,
        }
        let ([revision, level, has_spot], mut rest) = rest.split_first_chunk()?;
        let spot = match has_spot {
            0 => None,
            _ => {
                let (endpoint, after) = rest.split_first_chunk()?;
                rest = after;
                let upstream_id = read_text(&mut rest)?.map(<[u8]>::to_vec);
                Some(Spot { endpoint: u64::from_le_bytes(*endpoint), upstream_id })
            }
        };
        let opening = read_text(&mut rest)?.map(Box::from);
        let mut subscriptions = Vec::new();
        while !rest.is_empty() {
            subscriptions.push(std::str::from_utf8(read_text(&mut rest)??).ok()?.into());
        }
        let restore = Restore { level: level_of(*level), subscriptions, opening };
        Some(Self::Alive(Alive { spot, revision: Revision::from_byte(*revision), restore }))
    }
}

fn write_text(bytes: &mut Vec<u8>, text: Option<&[u8]>) -> Option<()> {
    let length = match text {
        None => NOTHING,
        Some(text) => u16::try_from(text.len()).ok().filter(|length| *length != NOTHING)?,
    };
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.unwrap_or_default());
    Some(())
}

/// The next text; the inner `None` is one that is not there.
fn read_text<'b>(bytes: &mut &'b [u8]) -> Option<Option<&'b [u8]>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = u16::from_le_bytes(*length);
    if length == NOTHING {
        *bytes = rest;
        return Some(None);
    }
    let (text, rest) = rest.split_at_checked(usize::from(length))?;
    *bytes = rest;
    Some(Some(text))
}

#[cfg(test)]
mod tests {
    use super::{Account, Alive, Spot};
    use crate::mcp::Revision;
    use crate::sessions::Restore;

    fn full() -> Account {
        let restore = Restore {
            level: Some("warning"),
            subscriptions: vec!["file:///a".into(), "".into()],
            opening: Some(Box::from(&b"{}"[..])),
        };
        let spot = Spot { endpoint: 7, upstream_id: Some(vec![0, 255]) };
        let revision = Some(Revision::V2025_06_18);
        Account::Alive(Alive { spot: Some(spot), revision, restore })
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let stateless = Spot { endpoint: 1, upstream_id: None };
        let stateless = Alive { spot: Some(stateless), ..Alive::default() };
        for account in
            [Account::Ended, full(), Account::Alive(stateless), Account::Alive(Alive::default())]
        {
            let bytes = account.write().expect("short");
            assert_eq!(Account::read(&bytes), Some(account));
        }
    }

    #[test]
    fn what_is_cut_or_of_another_format_says_nothing() {
        let Account::Alive(mut alive) = full() else { panic!("it lives") };
        alive.restore.subscriptions.clear();
        let bytes = Account::Alive(alive).write().expect("short");
        for length in 0..bytes.len() {
            assert_eq!(Account::read(&bytes[..length]), None, "{length}");
        }
        assert_eq!(Account::read(&[&bytes[..], b"x"].concat()), None);
        for first in [0, 2, 255] {
            let mut other = bytes.clone();
            other[0] = first;
            assert_eq!(Account::read(&other), None);
        }
        assert_eq!(Account::read(&[1, 0, 0]), None, "more than an end");
        assert_eq!(Account::read(&[1, 2]), None);
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let subscriptions = vec!["x".repeat(20_000).into(), "y".repeat(20_000).into()];
        let restore = Restore { subscriptions, ..Restore::default() };
        assert_eq!(Account::Alive(Alive { restore, ..Alive::default() }).write(), None);
        let restore = Restore { opening: Some(vec![0; 70_000].into()), ..Restore::default() };
        assert_eq!(Account::Alive(Alive { restore, ..Alive::default() }).write(), None);
    }
}
