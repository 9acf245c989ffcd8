//! Which rules a caller or a name could meet, worked out once for each and kept, within bounds.
//!
//! The tables belong to one policy and end with it. A caller proved itself, so there are not many;
//! when there are, the table begins anew.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::asked::Subject;
use super::bits::Bits;
use super::names::{Names, Origin};
use super::rule::{Rule, Standing};
use crate::identity::Caller;

/// Callers that are kept, each in some hundred bytes.
const CALLERS_MAX: usize = 65_536;
/// What a policy knows about callers and names.
pub(super) struct Tables {
    callers: papaya::HashMap<[u8; 16], CallerRules, BuildHasherDefault<FirstBytes>>,
    servers: HashMap<Box<str>, ServerTable>,
}

/// The rules that a caller meets.
pub(super) struct CallerRules {
    /// Those that are about it.
    pub(super) meant: Bits,
    /// Those that would allow it something, had it more scopes.
    pub(super) lacking: Bits,
}

struct ServerTable {
    /// The rules that are about anything at the server.
    here: Bits,
    names: Names<Bits>,
}

/// The kind of what a message names, and the name.
fn named<'n>(subject: Subject<'n>, method: &'n str) -> (u8, &'n str) {
    match subject {
        Subject::Tool(name) => (0, name),
        Subject::Prompt(name) => (1, name),
        Subject::Resource(uri) => (2, uri),
        Subject::Template(uri) => (3, uri),
        Subject::Method => (4, method),
    }
}

/// Fingerprints are digests, so any part of them is as good as a hash.
#[derive(Default)]
pub(super) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length of an array, which is always the same.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Tables {
    pub(super) fn new<'s>(rules: &[Rule], servers: impl Iterator<Item = &'s str>) -> Self {
        let table = |server: &str| ServerTable {
            here: Bits::of(rules.len(), |rule| rules[rule].is_at(server)),
            names: Names::default(),
        };
        let servers = servers.map(|server| (server.into(), table(server))).collect();
        Self { callers: papaya::HashMap::default(), servers }
    }

    /// Looks at the rules that a caller meets.
    pub(super) fn with_caller<T>(
        &self,
        rules: &[Rule],
        caller: &Caller,
        look: impl FnOnce(&CallerRules) -> T,
    ) -> T {
        let callers = self.callers.pin();
        if let Some(known) = callers.get(caller.fingerprint()) {
            return look(known);
        }
        let standing: Vec<Standing> = rules.iter().map(|rule| rule.standing(caller)).collect();
        let with = |wanted| Bits::of(rules.len(), |rule| standing[rule] == wanted);
        let met =
            CallerRules { meant: with(Standing::Meant), lacking: with(Standing::LacksScopes) };
        if callers.len() >= CALLERS_MAX {
            callers.clear();
        }
        look(callers.get_or_insert(*caller.fingerprint(), met))
    }

    /// Looks at the rules that are about what a message names.
    pub(super) fn with_subject<T>(
        &self,
        rules: &[Rule],
        (server, subject, method): (&str, Subject<'_>, &str),
        origin: Origin,
        look: impl FnOnce(&Bits) -> T,
    ) -> T {
        let Some(table) = self.servers.get(server) else {
            return look(&Bits::of(rules.len(), |rule| {
                rules[rule].is_at(server) && rules[rule].is_about(server, subject, method)
            }));
        };
        let about = || {
            Bits::of(rules.len(), |rule| {
                table.here.contains(rule) && rules[rule].is_about(server, subject, method)
            })
        };
        table.names.with(named(subject, method), origin, about, look)
    }

    /// The rules that are about anything at a server; none for a server that is not there.
    pub(super) fn at(&self, server: &str) -> Option<&Bits> {
        self.servers.get(server).map(|table| &table.here)
    }
}
