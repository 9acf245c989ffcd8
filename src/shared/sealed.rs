//! Values as they lie in the store: nobody who reads or writes there learns or changes what they say.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};

use super::name::Name;

/// What every sealed value begins with; a later format has another.
const FORMAT: u8 = 1;

/// The keys of replicas: the first seals, all open.
pub(super) struct Sealing {
    keys: Vec<LessSafeKey>,
    random: SystemRandom,
}

impl Sealing {
    /// Takes the secrets that session ids are sealed with; the keys are others.
    pub(super) fn new<'s>(secrets: impl Iterator<Item = &'s [u8]>) -> Self {
        let keys = secrets.filter_map(|secret| {
            let mut context = Context::new(&SHA256);
            context.update(b"toolgate store key 1\0");
            context.update(secret);
            UnboundKey::new(&AES_256_GCM, context.finish().as_ref()).ok().map(LessSafeKey::new)
        });
        Self { keys: keys.collect(), random: SystemRandom::new() }
    }

    /// Seals what is to lie under this name. `None` where the machine has no chance to give.
    pub(super) fn seal(&self, name: &Name, value: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let key = self.keys.first()?;
        let mut content = value.to_vec();
        let aad = Aad::from(name.as_str().as_bytes());
        let unique = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(unique, aad, &mut content).ok()?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + content.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&content);
        Some(sealed)
    }

    /// What was sealed under this name; `None` whatever is wrong with it.
    pub(super) fn open(&self, name: &Name, sealed: &[u8]) -> Option<Vec<u8>> {
        let (&FORMAT, sealed) = sealed.split_first()? else { return None };
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.keys.iter().find_map(|key| {
            // A key that does not fit spoils what it tried on.
            let mut content = sealed.to_vec();
            let aad = Aad::from(name.as_str().as_bytes());
            let unique = Nonce::assume_unique_for_key(*nonce);
            let length = key.open_in_place(unique, aad, &mut content).ok()?.len();
            content.truncate(length);
            Some(content)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Name, Sealing};

    #[test]
    fn values_open_under_their_own_name_with_any_of_the_keys() {
        let (old, new) = (b"old".as_slice(), b"new".as_slice());
        let before = Sealing::new([old].into_iter());
        let during = Sealing::new([new, old].into_iter());
        let name = Name::of_fleet("tg", "a");
        let sealed = before.seal(&name, b"secret").expect("sealed");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(during.open(&name, &sealed).as_deref(), Some(&b"secret"[..]));
        assert_eq!(during.open(&Name::of_fleet("tg", "b"), &sealed), None);
        let later = during.seal(&name, b"").expect("sealed");
        assert_eq!(before.open(&name, &later), None, "a key it does not have");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(before.open(&name, &changed), None, "{at}");
        }
        for garbage in [&b""[..], b"\x01", b"\x01short", b"{\"json\":1}"] {
            assert_eq!(before.open(&name, garbage), None);
        }
    }
}
