//! Seals what a client holds for the gateway between two messages, so that nothing is remembered.
//!
//! What is sealed twice for one owner reads the same: a server that names a request again, to cancel
//! it, names the same one to the client. So the nonce is not random but made of everything that is
//! sealed (the manner of SIV), and equal boxes tell only that equal things are in them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use ring::hmac;

use super::seal::{Binding, SessionKey, associated, cipher, derive};

const TAG_BYTES: usize = 16;

/// The keys that messages are sealed with: the first seals, all open.
pub struct Sealing {
    keys: Vec<Keys>,
}

struct Keys {
    nonces: hmac::Key,
    cipher: LessSafeKey,
}

/// What something is sealed for; it opens for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The id of a request that a server sent.
    RequestId,
    /// The `requestState` of a result that asks for more.
    RequestState,
    /// The id of a task.
    TaskId,
    /// A cursor of a list.
    Cursor,
    /// What a server calls the progress of its request by.
    ProgressToken,
}

/// Whose something is that is sealed; it opens for nobody else.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// One session.
    Session(SessionKey),
    /// One caller on one route.
    Caller(Binding<'a>),
}

impl Purpose {
    /// How much may be sealed. Ids are short, and what a client must send back is not endless.
    pub fn content_bytes_max(self) -> usize {
        match self {
            Self::RequestId | Self::TaskId | Self::ProgressToken => 1024 + 4,
            Self::RequestState => 64 * 1024,
            Self::Cursor => 8 * 1024,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::RequestId => 1,
            Self::RequestState => 2,
            Self::TaskId => 3,
            Self::Cursor => 4,
            Self::ProgressToken => 5,
        }
    }
}

impl Sealing {
    /// Takes the secrets that session ids are sealed with, in their order; the keys are others.
    pub fn new<'s>(secrets: impl Iterator<Item = &'s [u8]>) -> Self {
        let keys = secrets.filter_map(|secret| {
            let nonces = derive(b"toolgate message nonce 1\0", secret);
            let nonces = hmac::Key::new(hmac::HMAC_SHA256, nonces.as_ref());
            Some(Keys { nonces, cipher: cipher(b"toolgate message key 1\0", secret)? })
        });
        Self { keys: keys.collect() }
    }

    /// Seals these parts, one after the other, as text in `[A-Za-z0-9_-]`. `None` if they are too
    /// much for their purpose.
    pub fn seal(&self, purpose: Purpose, owner: Owner<'_>, parts: &[&[u8]]) -> Option<String> {
        let content: usize = parts.iter().map(|part| part.len()).sum();
        if content > purpose.content_bytes_max() {
            return None;
        }
        let Keys { nonces, cipher } = self.keys.first()?;
        let associated = Associated::new(purpose, owner);
        let mut sealed = Vec::with_capacity(content + TAG_BYTES);
        let mut context = hmac::Context::with_key(nonces);
        // What is associated has one length for each purpose and owner, which are in it.
        context.update(associated.as_bytes());
        for part in parts {
            context.update(part);
            sealed.extend_from_slice(part);
        }
        let nonce = *context.sign().as_ref().first_chunk::<NONCE_LEN>()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(associated.as_bytes());
        cipher.seal_in_place_append_tag(unique, aad, &mut sealed).ok()?;
        // The nonce is twelve bytes, so its text ends on a whole group.
        let mut text = String::with_capacity((NONCE_LEN + sealed.len()).div_ceil(3) * 4);
        URL_SAFE_NO_PAD.encode_string(nonce, &mut text);
        URL_SAFE_NO_PAD.encode_string(&sealed, &mut text);
        Some(text)
    }

    /// What was sealed; `None` whatever is wrong with the text.
    pub fn open(&self, purpose: Purpose, owner: Owner<'_>, text: &[u8]) -> Option<Vec<u8>> {
        let sealed_max = NONCE_LEN + purpose.content_bytes_max() + TAG_BYTES;
        if text.len() > sealed_max.div_ceil(3) * 4 {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let associated = Associated::new(purpose, owner);
        self.keys.iter().find_map(|keys| {
            // A key that does not fit spoils what it tried on.
            let mut copy = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let aad = Aad::from(associated.as_bytes());
            let bytes = keys.cipher.open_in_place(nonce, aad, &mut copy).ok()?.len();
            copy.truncate(bytes);
            Some(copy)
        })
    }
}

/// What a box is bound to, beside what is in it.
struct Associated {
    bytes: [u8; 2 + 32],
    length: usize,
}

impl Associated {
    fn new(purpose: Purpose, owner: Owner<'_>) -> Self {
        let mut bytes = [0; 2 + 32];
        bytes[0] = purpose.byte();
        let length = match owner {
            Owner::Session(SessionKey(key)) => {
                bytes[1] = 1;
                bytes[2..2 + NONCE_LEN].copy_from_slice(&key);
                2 + NONCE_LEN
            }
            Owner::Caller(binding) => {
                bytes[1] = 2;
                bytes[2..].copy_from_slice(&associated(binding));
                bytes.len()
            }
        };
        Self { bytes, length }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, Purpose, Sealing};
    use crate::sessions::{Binding, SessionKey};

    const OLD: &[u8] = b"an old secret of thirty-two bytes";
    const NEW: &[u8] = b"a new secret of thirty-two bytes.";
    const SESSION: Owner<'static> = Owner::Session(SessionKey([7; 12]));
    const CALLER: Owner<'static> = Owner::Caller(Binding { route: &[1; 16], caller: &[2; 16] });

    fn sealing(secrets: &[&'static [u8]]) -> Sealing {
        Sealing::new(secrets.iter().copied())
    }

    #[test]
    fn equal_things_are_sealed_alike_and_open_with_every_key_of_the_list() {
        let sealed = sealing(&[OLD]).seal(Purpose::RequestId, SESSION, &[b"ab", b"c"]);
        let sealed = sealed.expect("sealed");
        let again = sealing(&[OLD, NEW]).seal(Purpose::RequestId, SESSION, &[b"a", b"bc"]);
        assert_eq!(Some(&sealed), again.as_ref());
        assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_ne!(sealing(&[OLD]).seal(Purpose::RequestId, SESSION, &[b"abd"]), again);
        for secrets in [&[OLD][..], &[NEW, OLD], &[OLD, NEW]] {
            let opened = sealing(secrets).open(Purpose::RequestId, SESSION, sealed.as_bytes());
            assert_eq!(opened.as_deref(), Some(&b"abc"[..]));
        }
        assert_eq!(sealing(&[NEW]).open(Purpose::RequestId, SESSION, sealed.as_bytes()), None);
        assert_eq!(sealing(&[]).seal(Purpose::RequestId, SESSION, &[b"a"]), None);
    }

    #[test]
    fn no_other_purpose_owner_or_byte_opens_it() {
        let sealing = sealing(&[OLD]);
        let sealed = sealing.seal(Purpose::TaskId, CALLER, &[b"task"]).expect("sealed");
        let opens = |purpose, owner, text: &[u8]| sealing.open(purpose, owner, text).is_some();
        assert!(opens(Purpose::TaskId, CALLER, sealed.as_bytes()));
        let others =
            [Purpose::RequestId, Purpose::RequestState, Purpose::Cursor, Purpose::ProgressToken];
        for purpose in others {
            assert!(!opens(purpose, CALLER, sealed.as_bytes()), "{purpose:?}");
        }
        for (route, caller) in [([3; 16], [2; 16]), ([1; 16], [3; 16])] {
            let other = Owner::Caller(Binding { route: &route, caller: &caller });
            assert_eq!(sealing.open(Purpose::TaskId, other, sealed.as_bytes()), None);
        }
        assert!(!opens(Purpose::TaskId, SESSION, sealed.as_bytes()));
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(!opens(Purpose::TaskId, CALLER, &bytes), "byte {at}");
            assert!(!opens(Purpose::TaskId, CALLER, &bytes[..at]), "cut at {at}");
        }
        for garbage in ["", "A", "no text of ours!", &"A".repeat(1_000_000)] {
            assert!(!opens(Purpose::TaskId, CALLER, garbage.as_bytes()));
        }
    }

    #[test]
    fn too_much_is_not_sealed_and_the_most_opens_again() {
        let sealing = sealing(&[OLD]);
        for purpose in [Purpose::RequestId, Purpose::RequestState, Purpose::TaskId, Purpose::Cursor]
        {
            let most = vec![b'x'; purpose.content_bytes_max()];
            let sealed = sealing.seal(purpose, CALLER, &[&most]).expect("sealed");
            assert_eq!(sealing.open(purpose, CALLER, sealed.as_bytes()), Some(most.clone()));
            assert_eq!(sealing.seal(purpose, CALLER, &[&most, b"x"]), None);
        }
    }
}
