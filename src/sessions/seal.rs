//! Seals what the gateway must remember of a session into the id that the client holds.
//!
//! The id is base64url of a nonce and an AES-256-GCM box. Route and caller are the box's associated
//! data: an id of another route or caller fails to open exactly like a forged one, so there is
//! nothing to learn from the difference.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::mcp::Revision;

/// The longest session id that can be one of ours; a longer one is not even decoded.
pub const TOKEN_BYTES_MAX: usize = 2048;
/// The layout below. A box of another layout does not open.
const FORMAT: u8 = 1;
/// Layout, revision, creation time, endpoint.
const FIXED_BYTES: usize = 1 + 1 + 4 + 8;
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

/// What a session id carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The endpoint that holds the session, by the digest of its URL.
    pub endpoint: u64,
    /// The revision that `initialize` agreed on, if the gateway could read it.
    pub revision: Option<Revision>,
    /// The server's own session id.
    pub upstream_id: Vec<u8>,
}

impl Seal {
    /// Takes the secrets of the configuration, in their order. Secrets shorter than 32 bytes are
    /// the configuration's business to refuse.
    pub fn new<'s>(secrets: impl Iterator<Item = &'s [u8]>, lifetime: Duration) -> Self {
        let keys = secrets.filter_map(derive).collect();
        Self { keys, random: SystemRandom::new(), lifetime }
    }

    /// Seals a new session. `None` if the server's own id leaves no room, or without randomness.
    pub fn seal(
        &self,
        binding: Binding<'_>,
        state: &SessionState,
        now: SystemTime,
    ) -> Option<String> {
        let SessionState { endpoint, revision, upstream_id } = state;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(FIXED_BYTES + upstream_id.len() + TAG_BYTES);
        sealed.push(FORMAT);
        sealed.push(revision.map_or(0, |revision| revision as u8));
        sealed.extend_from_slice(&seconds(now).to_le_bytes());
        sealed.extend_from_slice(&endpoint.to_le_bytes());
        sealed.extend_from_slice(upstream_id);
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
        (token.len() <= TOKEN_BYTES_MAX).then_some(token)
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
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = token.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            let mut sealed = sealed.to_vec();
            let opened = key
                .open_in_place(
                    Nonce::assume_unique_for_key(*nonce),
                    Aad::from(associated(binding)),
                    &mut sealed,
                )
                .ok()?;
            self.read(opened, now)
        })
    }

    fn read(&self, opened: &[u8], now: SystemTime) -> Option<SessionState> {
        let ([format, revision], rest) = opened.split_first_chunk()?;
        let (made_at, rest) = rest.split_first_chunk()?;
        let (endpoint, upstream_id) = rest.split_first_chunk()?;
        let age = seconds(now).saturating_sub(u32::from_le_bytes(*made_at));
        if *format != FORMAT || u64::from(age) > self.lifetime.as_secs() {
            return None;
        }
        Some(SessionState {
            endpoint: u64::from_le_bytes(*endpoint),
            revision: Revision::from_byte(*revision),
            upstream_id: upstream_id.to_vec(),
        })
    }
}

/// A key of the right length from a secret of any: one SHA-256 over a name for the purpose and the
/// secret, which is uniform because the secret is (at least 32 characters, checked at `check`).
fn derive(secret: &[u8]) -> Option<LessSafeKey> {
    let mut context = Context::new(&SHA256);
    context.update(b"toolgate session key 1\0");
    context.update(secret);
    UnboundKey::new(&AES_256_GCM, context.finish().as_ref()).ok().map(LessSafeKey::new)
}

fn associated(binding: Binding<'_>) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(binding.route);
    bytes[16..].copy_from_slice(binding.caller);
    bytes
}

/// Seconds since 1970; enough for this format until 2106.
fn seconds(now: SystemTime) -> u32 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Binding, Seal, SessionState};
    use crate::mcp::Revision;
    use std::time::{Duration, UNIX_EPOCH};

    const ROUTE: [u8; 16] = [1; 16];
    const CALLER: [u8; 16] = [2; 16];
    const BINDING: Binding<'static> = Binding { route: &ROUTE, caller: &CALLER };
    const OLD: &[u8] = b"an old secret of thirty-two bytes";
    const NEW: &[u8] = b"a new secret of thirty-two bytes.";

    fn seal(secrets: &[&'static [u8]]) -> Seal {
        Seal::new(secrets.iter().copied(), Duration::from_secs(60))
    }

    fn state() -> SessionState {
        SessionState {
            endpoint: 0xfeed,
            revision: Some(Revision::V2025_11_25),
            upstream_id: b"3f9c2b1e-0000-4000-8000-000000000000".to_vec(),
        }
    }

    #[test]
    fn what_is_sealed_opens_with_every_key_of_the_list() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = seal(&[OLD]).seal(BINDING, &state(), now).expect("sealed");
        assert!(token.len() < 160, "{}", token.len());
        assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(seal(&[NEW, OLD]).open(BINDING, token.as_bytes(), now), Some(state()));
        assert_eq!(seal(&[NEW]).open(BINDING, token.as_bytes(), now), None);
    }

    #[test]
    fn no_other_binding_time_or_byte_opens_it() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seal = seal(&[OLD]);
        let token = seal.seal(BINDING, &state(), now).expect("sealed");
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
    fn an_id_too_long_for_a_header_is_not_made() {
        let state = SessionState { upstream_id: vec![b'x'; 2000], ..state() };
        assert_eq!(seal(&[OLD]).seal(BINDING, &state, UNIX_EPOCH), None);
    }
}
