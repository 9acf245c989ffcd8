//! Names of what lies in the store: `<prefix>:1:{<kind>:<id>}:<part>`.
//!
//! Parts of one thing lie in one slot of a cluster, since only what is in braces is hashed.

use std::fmt::{self, Write as _};

use ring::digest::{Context, SHA256};

/// What lies in the store is read by gateways that write it in the same manner only.
const FORMAT: u32 = 1;

/// The name of one value in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    /// The name of a part of what has this id among its kind.
    pub(super) fn new(prefix: &str, kind: &str, id: &[u8; 16], part: &str) -> Self {
        let mut name = format!("{prefix}:{FORMAT}:{{{kind}:");
        for byte in id {
            write!(name, "{byte:02x}").ok();
        }
        write!(name, "}}:{part}").ok();
        Self(name)
    }

    /// The name of something of which there is one for all replicas.
    pub(super) fn of_fleet(prefix: &str, part: &str) -> Self {
        Self(format!("{prefix}:{FORMAT}:{{fleet}}:{part}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An id made of these parts, the same at every replica. What parts are must be known from the
/// purpose, as must be their number.
pub fn digest(purpose: &str, parts: &[&[u8]]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for part in [purpose.as_bytes()].into_iter().chain(parts.iter().copied()) {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Name, digest};

    #[test]
    fn parts_of_one_thing_lie_in_one_slot() {
        let name = |part| Name::new("tg", "limit", &[0xab; 16], part).to_string();
        assert_eq!(name("rate"), format!("tg:1:{{limit:{}}}:rate", "ab".repeat(16)));
        assert_eq!(Name::of_fleet("tg", "x").as_str(), "tg:1:{fleet}:x");
        assert_ne!(digest("p", &[b"ab", b"c"]), digest("p", &[b"a", b"bc"]));
        assert_ne!(digest("p", &[b"a"]), digest("q", &[b"a"]));
    }
}
