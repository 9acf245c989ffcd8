//! Seals what the gateway must remember of a session into the id that the client holds.
//!
//! The id is base64url of a nonce and an AES-256-GCM box. Route and caller are the box's associated
//! data: an id of another route or caller fails to open exactly like a forged one, so there is
//! nothing to learn from the difference.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, Digest, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::legs::LegId;
use crate::mcp::Revision;

/// The longest session id that can be one of ours; a longer one is not even decoded.
pub const TOKEN_BYTES_MAX: usize = 2048;
/// The layout below. A box of another layout does not open.
const FORMAT: u8 = 2;
/// The same, with legs where the server's own id stands.
const FORMAT_OF_LEGS: u8 = 3;
/// Layout, revision, creation time, endpoint, length of the server's own id.
const FIXED_BYTES: usize = 1 + 1 + 4 + 8 + 2;
const TAG_BYTES: usize = 16;

/// The keys that session ids are sealed with: the first seals, all open.
pub struct Seal {
    keys: Vec<LessSafeKey>,
    random: SystemRandom,
    lifetime: Duration,
}

/// What a session belongs to; it opens for nobody else.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The digest of the route's path.
    pub route: &'a [u8; 16],
    /// The digest of the caller.
    pub caller: &'a [u8; 16],
}

/// The name of a session within the gateway: the nonce of its id, which is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(pub [u8; NONCE_LEN]);

impl SessionKey {
    /// How the session's id begins: what joins the lines of a session, and opens nothing.
    pub fn short(self) -> [u8; 4] {
        let mut short = [0; 4];
        // Three bytes are exactly four characters.
        URL_SAFE_NO_PAD.encode_slice(&self.0[..3], &mut short).ok();
        short
    }
}

/// A session that begins.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<'a> {
    /// The endpoint that holds it, by the digest of its URL.
    pub endpoint: u64,
    /// The revision that `initialize` agreed on, if the gateway could read it.
    pub revision: Option<Revision>,
    /// The server's own session id.
    pub upstream_id: &'a [u8],
    /// What the client said in `initialize`: its `params`, as they came.
    pub opening: &'a [u8],
}

/// An id made for a client.
#[derive(Debug)]
pub struct Sealed {
    /// The id.
    pub token: String,
    /// The session's name.
    pub key: SessionKey,
    /// Whether what the client said in `initialize` is in it.
    pub opening: Opening,
}

/// Where the client's `initialize` is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// In the id.
    Sealed,
    /// It had no room there.
    Beside,
}

/// What a session id carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The session's name.
    pub key: SessionKey,
    /// The endpoint that held the session when it was opened, by the digest of its URL.
    pub endpoint: u64,
    /// The revision that `initialize` agreed on, if the gateway could read it.
    pub revision: Option<Revision>,
    /// When it was opened, in seconds since 1970.
    pub made_at: u32,
    /// Which leg of a session it is; zero for what is none.
    pub(super) leg: LegId,
    pub(super) opened: Vec<u8>,
    pub(super) upstream_id: (usize, usize),
    pub(super) has_legs: bool,
    opening: (usize, usize),
}

impl SessionState {
    /// The server's own session id, as it was when the session was opened.
    pub fn upstream_id(&self) -> &[u8] {
        &self.opened[self.upstream_id.0..self.upstream_id.1]
    }

    /// The `params` of the client's `initialize`; empty if they had no room.
    pub fn opening(&self) -> &[u8] {
        &self.opened[self.opening.0..self.opening.1]
    }
}

impl Seal {
    /// Takes the secrets of the configuration, in their order. Secrets shorter than 32 bytes are
    /// the configuration's business to refuse.
    pub fn new<'s>(secrets: impl Iterator<Item = &'s [u8]>, lifetime: Duration) -> Self {
        let keys =
            secrets.filter_map(|secret| cipher(b"toolgate session key 1\0", secret)).collect();
        Self { keys, random: SystemRandom::new(), lifetime }
    }

    /// Seals a new session. `None` if the server's own id leaves no room, or without randomness.
    pub fn seal(
        &self,
        binding: Binding<'_>,
        session: NewSession<'_>,
        now: SystemTime,
    ) -> Option<Sealed> {
        self.seal_as(FORMAT, binding, session, now)
    }

    /// Seals a new session with several servers: in place of a server's own id stand its legs
    /// ([`super::write_legs`]).
    pub fn seal_legs(
        &self,
        binding: Binding<'_>,
        session: NewSession<'_>,
        now: SystemTime,
    ) -> Option<Sealed> {
        self.seal_as(FORMAT_OF_LEGS, binding, session, now)
    }

    fn seal_as(
        &self,
        format: u8,
        binding: Binding<'_>,
        session: NewSession<'_>,
        now: SystemTime,
    ) -> Option<Sealed> {
        let fits = |opening: &[u8]| {
            let sealed = FIXED_BYTES + session.upstream_id.len() + opening.len() + TAG_BYTES;
            (NONCE_LEN + sealed).div_ceil(3) * 4 <= TOKEN_BYTES_MAX
        };
        let opening = if fits(session.opening) { Opening::Sealed } else { Opening::Beside };
        let kept = if opening == Opening::Sealed { session.opening } else { b"" };
        if !fits(kept) {
            return None;
        }
        let NewSession { endpoint, revision, upstream_id, opening: _ } = session;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let room = FIXED_BYTES + upstream_id.len() + kept.len() + TAG_BYTES;
        let mut sealed = Vec::with_capacity(room);
        sealed.push(format);
        sealed.push(revision.map_or(0, |revision| revision as u8));
        sealed.extend_from_slice(&seconds(now).to_le_bytes());
        sealed.extend_from_slice(&endpoint.to_le_bytes());
        sealed.extend_from_slice(&u16::try_from(upstream_id.len()).ok()?.to_le_bytes());
        sealed.extend_from_slice(upstream_id);
        sealed.extend_from_slice(kept);
        self.keys
            .first()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated(binding)),
                &mut sealed,
            )
            .ok()?;
        let mut token = URL_SAFE_NO_PAD.encode(nonce);
        URL_SAFE_NO_PAD.encode_string(&sealed, &mut token);
        Some(Sealed { token, key: SessionKey(nonce), opening })
    }

    /// Opens an id that a client sent. `None` whatever is wrong with it.
    pub fn open(
        &self,
        binding: Binding<'_>,
        token: &[u8],
        now: SystemTime,
    ) -> Option<SessionState> {
        // The nonce is twelve bytes, so its text ends on a whole group and the two parts decode
        // as one.
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (last, others) = self.keys.split_last()?;
        // A key that does not fit spoils what it tried on, so all but the last try on a copy.
        for key in others {
            let mut copy = token.clone();
            if let Some(end) = unlock(key, binding, &mut copy) {
                return self.read(copy, end, now);
            }
        }
        let end = unlock(last, binding, &mut token)?;
        self.read(token, end, now)
    }

    fn read(&self, opened: Vec<u8>, end: usize, now: SystemTime) -> Option<SessionState> {
        let (nonce, rest) = opened.get(..end)?.split_first_chunk::<NONCE_LEN>()?;
        let ([format, revision], rest) = rest.split_first_chunk()?;
        let (made_at, rest) = rest.split_first_chunk()?;
        let (endpoint, rest) = rest.split_first_chunk()?;
        let (id_bytes, rest) = rest.split_first_chunk()?;
        let id_bytes = usize::from(u16::from_le_bytes(*id_bytes));
        let made_at = u32::from_le_bytes(*made_at);
        let age = seconds(now).saturating_sub(made_at);
        let has_legs = *format == FORMAT_OF_LEGS;
        let is_known = has_legs || *format == FORMAT;
        if !is_known || u64::from(age) > self.lifetime.as_secs() || rest.len() < id_bytes {
            return None;
        }
        let id_begins = end - rest.len();
        Some(SessionState {
            key: SessionKey(*nonce),
            endpoint: u64::from_le_bytes(*endpoint),
            revision: Revision::from_byte(*revision),
            made_at,
            leg: LegId::default(),
            upstream_id: (id_begins, id_begins + id_bytes),
            has_legs,
            opening: (id_begins + id_bytes, end),
            opened,
        })
    }
}

/// Opens a decoded id in place; tells where the opened part ends.
fn unlock(key: &LessSafeKey, binding: Binding<'_>, token: &mut [u8]) -> Option<usize> {
    let (nonce, sealed) = token.split_first_chunk_mut::<NONCE_LEN>()?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = key.open_in_place(nonce, Aad::from(associated(binding)), sealed).ok()?;
    Some(NONCE_LEN + opened.len())
}

/// A key of the right length from a secret of any: one SHA-256 over a name for the purpose and the
/// secret, which is uniform because the secret is (at least 32 characters, checked at `check`).
pub(super) fn derive(purpose: &[u8], secret: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(purpose);
    context.update(secret);
    context.finish()
}

pub(super) fn cipher(purpose: &[u8], secret: &[u8]) -> Option<LessSafeKey> {
    let key = derive(purpose, secret);
    UnboundKey::new(&AES_256_GCM, key.as_ref()).ok().map(LessSafeKey::new)
}

pub(super) fn associated(binding: Binding<'_>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(binding.route);
    bytes[16..].copy_from_slice(binding.caller);
    bytes
}

/// Seconds since 1970; enough for this format until 2106.
pub fn seconds(now: SystemTime) -> u32 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Binding, NewSession, Opening, Seal, Sealed};
    use crate::mcp::Revision;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    const ROUTE: [u8; 16] = [1; 16];
    const CALLER: [u8; 16] = [2; 16];
    const BINDING: Binding<'static> = Binding { route: &ROUTE, caller: &CALLER };
    const OLD: &[u8] = b"an old secret of thirty-two bytes";
    const NEW: &[u8] = b"a new secret of thirty-two bytes.";

    fn seal(secrets: &[&'static [u8]]) -> Seal {
        Seal::new(secrets.iter().copied(), Duration::from_secs(60))
    }

    const ID: &[u8] = b"3f9c2b1e-0000-4000-8000-000000000000";
    const SESSION: NewSession<'static> = NewSession {
        endpoint: 0xfeed,
        revision: Some(Revision::V2025_11_25),
        upstream_id: ID,
        opening: br#"{"protocolVersion":"2025-11-25","capabilities":{}}"#,
    };

    fn opens(seal: &Seal, sealed: &Sealed, now: SystemTime) -> bool {
        let Some(state) = seal.open(BINDING, sealed.token.as_bytes(), now) else { return false };
        assert_eq!(state.upstream_id(), SESSION.upstream_id);
        assert_eq!(state.opening(), SESSION.opening);
        assert_eq!((state.endpoint, state.revision), (SESSION.endpoint, SESSION.revision));
        assert_eq!(state.key, sealed.key);
        assert_eq!(&state.key.short()[..], &sealed.token.as_bytes()[..4]);
        true
    }

    #[test]
    fn what_is_sealed_opens_with_every_key_of_the_list() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let sealed = seal(&[OLD]).seal(BINDING, SESSION, now).expect("sealed");
        assert!(sealed.token.len() < 240, "{}", sealed.token.len());
        assert!(sealed.token.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(opens(&seal(&[OLD]), &sealed, now));
        assert!(opens(&seal(&[NEW, OLD]), &sealed, now));
        assert!(opens(&seal(&[OLD, NEW]), &sealed, now));
        assert!(!opens(&seal(&[NEW]), &sealed, now));
    }

    #[test]
    fn no_other_binding_time_or_byte_opens_it() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seal = seal(&[OLD]);
        let token = seal.seal(BINDING, SESSION, now).expect("sealed").token;
        let other = [3; 16];
        for binding in [Binding { route: &other, ..BINDING }, Binding { caller: &other, ..BINDING }]
        {
            assert_eq!(seal.open(binding, token.as_bytes(), now), None);
        }
        let later = now + Duration::from_secs(61);
        assert_eq!(seal.open(BINDING, token.as_bytes(), later), None);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open(BINDING, &bytes, now), None, "byte {at}");
            assert_eq!(seal.open(BINDING, &token.as_bytes()[..at], now), None, "cut at {at}");
        }
        for garbage in ["", "A", "not a token!", &"A".repeat(3000)] {
            assert_eq!(seal.open(BINDING, garbage.as_bytes(), now), None);
        }
    }

    #[test]
    fn what_has_no_room_is_kept_beside_or_not_sealed() {
        let opening = vec![b'x'; 3000];
        let session = NewSession { opening: &opening, ..SESSION };
        let sealed = seal(&[OLD]).seal(BINDING, session, UNIX_EPOCH).expect("sealed");
        assert_eq!(sealed.opening, Opening::Beside);
        let opened = seal(&[OLD]).open(BINDING, sealed.token.as_bytes(), UNIX_EPOCH);
        assert_eq!(opened.map(|state| state.opening().len()), Some(0));
        let id = vec![b'x'; 2000];
        let session = NewSession { upstream_id: &id, ..SESSION };
        assert!(seal(&[OLD]).seal(BINDING, session, UNIX_EPOCH).is_none());
    }
}
