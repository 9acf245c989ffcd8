//! Whom do connections trust? Certificates of listeners, chosen by name; those of clients; who signs those of servers.
//!
//! Everything is made from files that were read with the configuration, takes effect with it, and is
//! refused with it: new connections use the new, those that are open go on. What clients must show may
//! have changed meanwhile, so that an open connection is asked again ([`Terminator::admits`]).
//!
//! rustls speaks TLS 1.2 and 1.3 and nothing older, with suites that have forward secrecy only.

mod blocks;
mod certificate;
mod clients;
mod names;
mod notes;
mod terminator;
mod trust;
#[cfg(test)]
mod tests;

pub use clients::Peer;
pub use notes::{note, notes};
pub use terminator::{Terminator, Terminators};
pub use trust::Trust;

use crate::config::{PemFile, Place, Problem, Settings};

/// What is wrong with a file, and where it is named.
#[derive(Debug)]
struct Fault {
    place: Place,
    message: String,
    hint: &'static str,
}

impl Fault {
    fn new(file: &PemFile, message: impl Into<String>, hint: &'static str) -> Self {
        Self { place: file.place(), message: message.into(), hint }
    }
}

/// What only reading the files shows: that they are no certificates and keys, or do not belong together.
pub fn problems(settings: &Settings) -> Vec<Problem> {
    let mut faults = Vec::new();
    for tls in settings.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        faults.extend(Terminator::new(tls).err().into_iter().flatten());
    }
    for server in &settings.servers {
        let trust = server.ca.as_ref().map(Trust::new);
        faults.extend(trust.and_then(Result::err));
    }
    let problem =
        |Fault { place, message, hint }| Problem::new(place, message).hint(hint.to_owned());
    faults.into_iter().map(problem).collect()
}
