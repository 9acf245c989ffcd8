//! Whom a call counts as: the key of a limit, in this process and for all replicas.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

use super::address::network;
use crate::config::KeyPart;
use crate::identity::Caller;
use crate::shared::digest;

/// What limits look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Who calls.
    pub caller: Option<&'a Caller>,
    /// The tool that is called, if one is.
    pub tool: Option<&'a str>,
    /// The server that the call goes to.
    pub server: Option<&'a str>,
    /// The session, by whatever is its own.
    pub session: Option<&'a [u8]>,
    /// The route's digest.
    pub route: &'a [u8; 16],
    /// The client's address.
    pub address: Option<IpAddr>,
}

/// What a limit counts apart.
pub(super) struct Key {
    parts: Box<[KeyPart]>,
    /// Random, so that nobody outside can find two keys that share a tally.
    seed: RandomState,
}

impl Key {
    pub(super) fn new(parts: &[KeyPart], seed: &RandomState) -> Self {
        Self { parts: parts.into(), seed: seed.clone() }
    }

    /// Whether all of the parts are of these.
    pub(super) fn is_of(&self, known: &[KeyPart]) -> bool {
        self.parts.iter().all(|part| known.contains(part))
    }

    /// The key of a call; `None` where the limit does not hold for it. What is missing is a value of
    /// its own, so that no call is without limit because it lacks something.
    pub(super) fn of(&self, subject: &Subject<'_>) -> Option<u64> {
        let mut hasher = self.seed.build_hasher();
        for part in &self.parts {
            match part {
                KeyPart::Caller => subject.caller.map(Caller::digest).hash(&mut hasher),
                KeyPart::Tenant => subject.caller.and_then(Caller::tenant).hash(&mut hasher),
                KeyPart::Tool => subject.tool?.hash(&mut hasher),
                KeyPart::Server => subject.server.hash(&mut hasher),
                KeyPart::Session => match subject.session {
                    Some(session) => (true, session).hash(&mut hasher),
                    None => (false, subject.caller.map(Caller::digest)).hash(&mut hasher),
                },
                KeyPart::Route => subject.route.hash(&mut hasher),
                KeyPart::Address => subject.address.map(network).hash(&mut hasher),
            }
        }
        Some(hasher.finish())
    }

    /// The same key as every replica knows it, of what is counted by the limit of this name.
    pub(super) fn shared(&self, counted: &str, limit: &str, subject: &Subject<'_>) -> [u8; 16] {
        let mut values: Vec<Vec<u8>> = vec![limit.into()];
        for part in &self.parts {
            let caller = subject.caller.map(|caller| caller.digest().to_vec());
            let (kind, value): (&[u8], Option<Vec<u8>>) = match part {
                KeyPart::Caller => (b"caller", caller),
                KeyPart::Tenant => {
                    (b"tenant", subject.caller.and_then(Caller::tenant).map(Into::into))
                }
                KeyPart::Tool => (b"tool", subject.tool.map(Into::into)),
                KeyPart::Server => (b"server", subject.server.map(Into::into)),
                KeyPart::Session => match subject.session {
                    Some(session) => (b"session", Some(session.to_vec())),
                    None => (b"no session", caller),
                },
                KeyPart::Route => (b"route", Some(subject.route.to_vec())),
                KeyPart::Address => {
                    let address = subject.address.map(network);
                    (b"address", address.map(|address| address.to_string().into_bytes()))
                }
            };
            // What is missing is a value of its own here too.
            values.push([kind, if value.is_some() { b"=" } else { b"" }].concat());
            values.push(value.unwrap_or_default());
        }
        let parts: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        digest(counted, &parts)
    }
}
