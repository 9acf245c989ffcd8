//! What the replicas say they have run: who ran which call, and how often.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::messages;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By the id of the call: the replicas that ran it, in order.
    ran: HashMap<u64, Vec<String>>,
    /// By the id of the call: the replica's own session that it ran in.
    sessions: HashMap<u64, String>,
}

impl Ledger {
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> io::Result<Self> {
        let mut ledger = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let id = words.next().and_then(messages::id_of);
            let (Some(id), Some(replica)) = (id, words.next()) else {
                return Err(io::Error::other(format!("a broken line in the ledger: {line}")));
            };
            ledger.ran.entry(id).or_default().push(replica.to_owned());
            ledger.sessions.extend(words.next().map(|session| (id, session.to_owned())));
        }
        Ok(ledger)
    }

    /// The replicas that ran this call.
    pub(crate) fn ran(&self, id: u64) -> &[String] {
        self.ran.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Where these calls of one client session ran: in how many sessions of replicas, and how often in
    /// one that was left before.
    pub(crate) fn path(&self, calls: &[u64]) -> (usize, usize) {
        let (mut seen, mut returns): (Vec<&String>, usize) = (Vec::new(), 0);
        for session in calls.iter().filter_map(|id| self.sessions.get(id)) {
            if seen.last() == Some(&session) {
                continue;
            }
            returns += usize::from(seen.contains(&session));
            seen.retain(|known| *known != session);
            seen.push(session);
        }
        (seen.len(), returns)
    }

    /// Calls that were run more than once.
    pub(crate) fn twice(&self) -> Vec<u64> {
        let twice = self.ran.iter().filter(|(_, replicas)| replicas.len() > 1);
        twice.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_ran_twice_is_found() {
        let ledger = Ledger::parse("n1 a s\nn2 a -\nn1 b t\n").unwrap();
        assert_eq!(ledger.twice(), [1]);
        assert_eq!(ledger.ran(1), ["a", "b"]);
        assert_eq!(ledger.ran(2), ["a"]);
        assert!(ledger.ran(3).is_empty());
        let path = Ledger::parse("n1 a s\nn2 a s\nn3 b t\nn4 a s\nn5 b t\n").unwrap();
        assert_eq!(path.path(&[1, 2, 3]), (2, 0));
        assert_eq!(path.path(&[1, 2, 3, 4, 5]), (2, 2), "two gateways moved it");
        assert!(Ledger::parse("n1\n").is_err());
        assert!(Ledger::parse("x a s\n").is_err());
    }
}
