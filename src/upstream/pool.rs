//! All endpoints of one server, and what the gateway has learned of that server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{Chooser, Endpoint};
use crate::config::{self, Balance, HashKey, Timeouts};

/// One MCP server.
pub struct Pool {
    name: String,
    endpoints: Vec<Arc<Endpoint>>,
    chooser: Chooser,
    hash_key: HashKey,
    timeouts: Timeouts,
    session_habit: AtomicU8,
}

/// Whether a server gives its legacy clients session ids, as far as it has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionHabit {
    /// It has not answered an `initialize` yet.
    Unknown = 0,
    /// It gives session ids, so a request without one is refused.
    Mints = 1,
    /// It gives none, so requests without one are whole.
    Stateless = 2,
}

impl Pool {
    /// Builds the pool of a server.
    pub fn new(server: &config::Server) -> Self {
        let endpoint =
            |endpoint| Arc::new(Endpoint::new(endpoint, server.protocol, &server.timeouts));
        let endpoints: Vec<_> = server.endpoints.iter().map(endpoint).collect();
        let (chooser, hash_key) = match &server.balance {
            Balance::ConsistentHash { key } => (Chooser::ring(&endpoints), key.clone()),
            Balance::LeastRequest | Balance::RoundRobin => {
                (Chooser::LeastRequest, HashKey::Session)
            }
        };
        Self {
            name: server.name.clone(),
            endpoints,
            chooser,
            hash_key,
            timeouts: server.timeouts.clone(),
            session_habit: AtomicU8::new(SessionHabit::Unknown as u8),
        }
    }

    /// The server's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Every endpoint, in the order of the configuration.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// What requests are hashed by.
    pub fn hash_key(&self) -> &HashKey {
        &self.hash_key
    }

    /// How long to wait for this server.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The endpoint a session id names, if it is still part of the pool.
    pub fn by_id(&self, id: u64) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.id() == id)
    }

    /// An endpoint for what is not tied to one, none of those in `tried`.
    pub fn choose(&self, key: &[u8], random: u64, tried: &[u64]) -> Option<&Arc<Endpoint>> {
        self.chooser.choose(&self.endpoints, key, random, |endpoint| {
            !tried.contains(&endpoint.id()) && endpoint.peer().is_some()
        })
    }

    /// Whether the server gives session ids.
    pub fn session_habit(&self) -> SessionHabit {
        match self.session_habit.load(Ordering::Relaxed) {
            1 => SessionHabit::Mints,
            2 => SessionHabit::Stateless,
            _ => SessionHabit::Unknown,
        }
    }

    /// Remembers what an answer to `initialize` showed.
    pub fn learn_session_habit(&self, habit: SessionHabit) {
        self.session_habit.store(habit as u8, Ordering::Relaxed);
    }
}
