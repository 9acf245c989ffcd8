//! A session with several servers: its id carries a leg for each, where that server's own session is.
//!
//! A leg is a session of its own to everything else here: it has a key, lives at an endpoint, moves
//! and is reaped alone. What names the server is a digest of its name, so that a configuration may
//! put its servers in another order.

use super::seal::{SessionKey, SessionState};
use crate::mcp::Revision;

/// What names the server of a leg.
pub type LegId = [u8; 4];

/// Server, endpoint, revision, length of the server's own id.
const FIXED_BYTES: usize = 4 + 8 + 1 + 2;

/// A leg of a session that begins.
#[derive(Clone, Copy, Debug)]
pub struct NewLeg<'a> {
    /// Whose it is.
    pub id: LegId,
    /// The endpoint that holds it, by the digest of its URL.
    pub endpoint: u64,
    /// The revision that was agreed on with this server.
    pub revision: Option<Revision>,
    /// The server's own session id; empty if it gives none.
    pub upstream_id: &'a [u8],
}

/// What a session's id says of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// It was opened with the session.
    Opened,
    /// Its server has no sessions: any endpoint will do.
    Stateless,
    /// It was not there when the session began; it is opened when it is needed.
    Late,
}

/// The legs as an id carries them, in place of a server's own id. One that is too long for any id is
/// left out, and will be late.
pub fn write_legs(legs: &[NewLeg<'_>]) -> Vec<u8> {
    let room = legs.iter().map(|leg| FIXED_BYTES + leg.upstream_id.len()).sum();
    let mut bytes = Vec::with_capacity(room);
    for leg in legs {
        let Ok(length) = u16::try_from(leg.upstream_id.len()) else { continue };
        bytes.extend_from_slice(&leg.id);
        bytes.extend_from_slice(&leg.endpoint.to_le_bytes());
        bytes.push(leg.revision.map_or(0, |revision| revision as u8));
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(leg.upstream_id);
    }
    bytes
}

impl SessionKey {
    /// The name of a leg of this session. It begins as the session's own does, so that the lines of
    /// both are joined.
    #[must_use]
    pub fn leg(mut self, id: LegId) -> Self {
        for (byte, of_leg) in self.0[4..8].iter_mut().zip(id) {
            *byte ^= of_leg;
        }
        self
    }
}

impl SessionState {
    /// The session as one leg of it: what the id says of that server. An id of a route that had one
    /// server then has no legs, and all of them are late.
    #[must_use]
    pub fn into_leg(mut self, id: LegId) -> (Self, Leg) {
        self.key = self.key.leg(id);
        self.leg = id;
        let found = self.legs().find(|leg| leg.id == id);
        self.has_legs = false;
        let Some(Written { endpoint, revision, upstream_id: place, .. }) = found else {
            self.endpoint = 0;
            self.upstream_id = (0, 0);
            return (self, Leg::Late);
        };
        self.endpoint = endpoint;
        self.revision = revision.or(self.revision);
        self.upstream_id = place;
        let leg = if place.0 == place.1 { Leg::Stateless } else { Leg::Opened };
        (self, leg)
    }

    /// Whether the id carries legs, and not a single server's session.
    pub fn has_legs(&self) -> bool {
        self.has_legs
    }

    /// The ids of the legs that the id carries.
    pub fn leg_ids(&self) -> impl Iterator<Item = LegId> {
        self.legs().map(|leg| leg.id)
    }

    fn legs(&self) -> impl Iterator<Item = Written> {
        let (mut at, end) = self.upstream_id;
        if !self.has_legs {
            at = end;
        }
        std::iter::from_fn(move || {
            let (fixed, _) = self.opened.get(at..end)?.split_first_chunk::<FIXED_BYTES>()?;
            let [i0, i1, i2, i3, e0, e1, e2, e3, e4, e5, e6, e7, revision, l0, l1] = *fixed;
            let begins = at + FIXED_BYTES;
            at = begins + usize::from(u16::from_le_bytes([l0, l1]));
            (at <= end).then_some(Written {
                id: [i0, i1, i2, i3],
                endpoint: u64::from_le_bytes([e0, e1, e2, e3, e4, e5, e6, e7]),
                revision: Revision::from_byte(revision),
                upstream_id: (begins, at),
            })
        })
    }
}

/// A leg as it stands in an id.
struct Written {
    id: LegId,
    endpoint: u64,
    revision: Option<Revision>,
    upstream_id: (usize, usize),
}

#[cfg(test)]
mod tests {
    use super::{Leg, NewLeg, write_legs};
    use crate::mcp::Revision;
    use crate::sessions::{Binding, NewSession, Seal, SessionKey};
    use std::time::{Duration, SystemTime};

    const BINDING: Binding<'static> = Binding { route: &[1; 16], caller: &[2; 16] };

    fn leg(id: u8, upstream_id: &'static [u8]) -> NewLeg<'static> {
        let revision = Some(Revision::V2025_06_18);
        NewLeg { id: [id; 4], endpoint: u64::from(id) + 100, revision, upstream_id }
    }

    #[test]
    fn every_leg_is_found_and_what_is_not_there_is_late() {
        let secret = [&b"a secret of at least thirty-two b"[..]];
        let seal = Seal::new(secret.into_iter(), Duration::from_secs(60));
        let legs = write_legs(&[leg(1, b"one"), leg(2, b""), leg(3, b"three")]);
        let new = NewSession {
            endpoint: 0,
            revision: Some(Revision::V2025_11_25),
            upstream_id: &legs,
            opening: b"{\"a\":1}",
        };
        let now = SystemTime::now();
        let sealed = seal.seal_legs(BINDING, new, now).expect("sealed");
        let open = || seal.open(BINDING, sealed.token.as_bytes(), now).expect("opened");
        assert!(open().leg_ids().eq([[1; 4], [2; 4], [3; 4]]));
        for (id, expected, own, endpoint) in [
            (1, Leg::Opened, &b"one"[..], 101),
            (2, Leg::Stateless, b"", 102),
            (3, Leg::Opened, b"three", 103),
            (4, Leg::Late, b"", 0),
        ] {
            let (state, leg) = open().into_leg([id; 4]);
            assert_eq!((leg, state.upstream_id(), state.endpoint), (expected, own, endpoint));
            assert_eq!(state.opening(), b"{\"a\":1}");
            let revision =
                if leg == Leg::Late { Revision::V2025_11_25 } else { Revision::V2025_06_18 };
            assert_eq!(state.revision, Some(revision));
            assert_eq!(state.key, sealed.key.leg([id; 4]));
            assert_eq!(state.key.short(), sealed.key.short());
        }
    }

    #[test]
    fn an_id_without_legs_has_none() {
        let secret = [&b"a secret of at least thirty-two b"[..]];
        let seal = Seal::new(secret.into_iter(), Duration::from_secs(60));
        let new = NewSession { endpoint: 7, revision: None, upstream_id: &[1; 60], opening: b"{}" };
        let now = SystemTime::now();
        let sealed = seal.seal(BINDING, new, now).expect("sealed");
        let state = seal.open(BINDING, sealed.token.as_bytes(), now).expect("opened");
        assert_eq!(state.leg_ids().count(), 0);
        assert_eq!(state.into_leg([1; 4]).1, Leg::Late);
    }

    #[test]
    fn legs_of_one_session_have_names_of_their_own() {
        let key = SessionKey([9; 12]);
        assert_ne!(key.leg([1; 4]), key.leg([2; 4]));
        assert_eq!(key.leg([1; 4]).leg([1; 4]), key);
    }
}
