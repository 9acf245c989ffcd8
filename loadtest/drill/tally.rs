//! What the clients of one run have seen, added up.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::messages::SessionState;
use crate::peer::Fault;

/// Answers that took longer are kept one by one, because some drills ask when they were sent.
pub(crate) const SLOW: Duration = Duration::from_millis(700);

/// One request of a client.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) what: &'static str,
    pub(crate) id: u64,
    /// Which of the gateways it was sent to.
    pub(crate) gateway: usize,
    /// The replica that served this session last through this gateway, as far as the client knows.
    pub(crate) replica: Option<String>,
    pub(crate) sent: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) asked: Asked,
    pub(crate) ended: Instant,
    pub(crate) fault: Fault,
}

/// How streams ended while the drill ran, and what came after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) opened: u64,
    /// With the end that their framing promised.
    pub(crate) clean: u64,
    /// Without it.
    pub(crate) cut: u64,
    /// Reopened after a clean end, and the next event was the one that was due.
    pub(crate) resumed_after_clean: u64,
    /// The same after a cut.
    pub(crate) resumed_after_cut: u64,
    /// Went on, in the same stream or after reopening it, as the stream of another upstream session.
    pub(crate) moved: u64,
    /// An event of the same upstream session was missing or came twice.
    pub(crate) gaps: u64,
    pub(crate) events: u64,
}

#[derive(Default)]
pub(crate) struct Tally {
    /// Ids of the calls whose answer was right.
    pub(crate) answered: Vec<u64>,
    /// The same by the session they were made in, in their order.
    pub(crate) in_session: HashMap<String, Vec<u64>>,
    pub(crate) latency: Histogram,
    pub(crate) failures: Vec<Failure>,
    /// Calls that were answered rightly and late.
    pub(crate) slow: Vec<Asked>,
    /// Calls that were served by a session without the log level or the subscription it should have.
    pub(crate) unrestored: u64,
    pub(crate) streams: Streams,
}

impl Tally {
    pub(crate) fn answered(
        &mut self,
        asked: Asked,
        session: Option<&str>,
        took: Duration,
        state: SessionState,
    ) {
        self.answered.push(asked.id);
        if let Some(session) = session {
            self.in_session.entry(session.to_owned()).or_default().push(asked.id);
        }
        self.latency.record(took);
        self.unrestored += u64::from(state == SessionState::Lost);
        if took >= SLOW {
            self.slow.push(asked);
        }
    }

    pub(crate) fn failed(&mut self, asked: Asked, fault: Fault) {
        self.failures.push(Failure { asked, ended: Instant::now(), fault });
    }

    pub(crate) fn milliseconds(&self, share: f64) -> f64 {
        self.latency.quantile(share) as f64 / 1e6
    }
}
