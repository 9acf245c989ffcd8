//! What was worked out for a name, kept within bounds.
//!
//! Names come from requests, and anybody can invent some: one that no server declared gets only a
//! small part of the room, so that inventing names does not drive out those that are real.

use std::hash::{Hash, Hasher};

/// Names that are kept.
const NAMES_MAX: usize = 16_384;
/// Of these, names that the server did not declare.
const INVENTED_NAMES_MAX: usize = 1024;
/// Longer names are never kept.
const KEPT_BYTES_MAX: usize = 256;
/// Longer names are no names; matching them would be work for nothing.
pub(super) const NAME_BYTES_MAX: usize = 4096;

/// Whether a server declared a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is in the server's list.
    Declared,
    /// Only a request says so, as far as is known.
    Claimed,
}

/// What was worked out, by kind and name.
pub(super) struct Names<V>(papaya::HashMap<Name, V>);

impl<V> Default for Names<V> {
    fn default() -> Self {
        Self(papaya::HashMap::new())
    }
}

impl<V> Names<V> {
    /// Looks at what is known of a name, which is worked out if it is new.
    pub(super) fn with<T>(
        &self,
        (kind, name): (u8, &str),
        origin: Origin,
        make: impl FnOnce() -> V,
        look: impl FnOnce(&V) -> T,
    ) -> T {
        let names = self.0.pin();
        if let Some(known) = names.get(&NameRef { kind, name }) {
            return look(known);
        }
        let made = make();
        let room = match origin {
            Origin::Declared => NAMES_MAX,
            Origin::Claimed => INVENTED_NAMES_MAX,
        };
        if name.len() > KEPT_BYTES_MAX || names.len() >= room {
            return look(&made);
        }
        look(names.get_or_insert(Name { kind, name: name.into() }, made))
    }
}

#[derive(PartialEq, Eq)]
struct Name {
    kind: u8,
    name: Box<str>,
}

#[derive(Hash)]
struct NameRef<'n> {
    kind: u8,
    name: &'n str,
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        NameRef { kind: self.kind, name: &self.name }.hash(state);
    }
}

impl papaya::Equivalent<Name> for NameRef<'_> {
    fn equivalent(&self, key: &Name) -> bool {
        self.kind == key.kind && *self.name == *key.name
    }
}
