//! What the replicas say they have run: who ran which call, and how often.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::messages;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By the id of the call: the replicas that ran it, in order.
    ran: HashMap<u64, Vec<String>>,
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
        }
        Ok(ledger)
    }

    /// The replicas that ran this call.
    pub(crate) fn ran(&self, id: u64) -> &[String] {
        self.ran.get(&id).map_or(&[], Vec::as_slice)
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
        assert!(Ledger::parse("n1\n").is_err());
        assert!(Ledger::parse("x a s\n").is_err());
    }
}
