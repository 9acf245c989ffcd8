//! One limit, ready to be asked: whom a call counts as, and what it takes.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::network;
use super::gcra::{Gcra, Quota};
use super::refused::{Counted, Refused, Standing, Why, seconds_up};
use super::slot::{Patience, Permit, Slot, Turn};
use super::state::Tallies;
use crate::config::{self, Cost, KeyPart};
use crate::identity::Caller;
use crate::telemetry::LimitCounters;

/// When it may be worth to come again where nobody can know.
const SOON: Duration = Duration::from_secs(1);

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
struct Key {
    parts: Box<[KeyPart]>,
    seed: RandomState,
}

/// A limit of calls in a time.
pub(super) struct RateRule {
    key: Key,
    quota: Quota,
    costs: Vec<Cost>,
    of: Limit,
}

/// A limit of calls, or of streams, at once.
pub(super) struct InFlightRule {
    key: Key,
    counted: AtOnce,
    in_flight_max: u32,
    wait: Duration,
    of: Limit,
}

/// What is counted at once. A stream holds its place for hours, so the two are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtOnce {
    /// Calls, from their beginning to their answer's end.
    Calls,
    /// Streams.
    Streams,
}

/// What both have.
#[derive(Clone)]
pub(super) struct Limit {
    pub(super) name: Arc<str>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) counters: LimitCounters,
}

impl Key {
    /// The key of a call; `None` where the limit does not hold for it. What is missing is a value of
    /// its own, so that no call is without limit because it lacks something.
    fn of(&self, subject: &Subject<'_>) -> Option<u64> {
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
}

impl RateRule {
    pub(super) fn new(limit: &config::Limit, seed: &RandomState, of: Limit) -> Option<Self> {
        let allowance = limit.rate.as_ref()?;
        let wait_max_ns = u64::try_from(limit.wait.as_nanos()).unwrap_or(u64::MAX);
        Some(Self {
            key: Key { parts: limit.key.as_slice().into(), seed: seed.clone() },
            quota: Quota::new(allowance, wait_max_ns),
            costs: allowance.costs.clone(),
            of,
        })
    }

    /// Whether the limit needs to know only what is known before the body is read. The server is
    /// not, in general: a route may have several.
    pub(super) fn is_early(&self) -> bool {
        let known = [KeyPart::Caller, KeyPart::Tenant, KeyPart::Route, KeyPart::Address];
        self.costs.is_empty() && self.key.parts.iter().all(|part| known.contains(part))
    }

    /// Takes what the call costs, and says after how many nanoseconds its turn comes.
    pub(super) fn take(&self, subject: &Subject<'_>, now_ns: u64) -> Result<u64, Refused> {
        let Some(key) = self.key.of(subject) else { return Ok(0) };
        let calls = self.cost(subject);
        let act = |gcra: &Gcra| gcra.take(calls, self.quota, now_ns);
        match self.of.tallies.rates.with(key, Gcra::default, act) {
            Ok(Ok(wait_ns)) => {
                if wait_ns > 0 {
                    self.of.counters.waits.inc();
                }
                Ok(wait_ns)
            }
            Ok(Err(exhausted)) => {
                self.of.counters.rate.inc();
                let retry_after = Duration::from_nanos(exhausted.retry_after_ns);
                Err(self.refused(Why::Rate, retry_after, exhausted.remaining))
            }
            Err(_full) => {
                self.of.counters.keys_full.inc();
                Err(self.refused(Why::KeysFull, SOON, 0))
            }
        }
    }

    /// Gives back what a call took that did not run.
    pub(super) fn give_back(&self, subject: &Subject<'_>) {
        if let Some(key) = self.key.of(subject) {
            let calls = self.cost(subject);
            self.of.tallies.rates.with_known(key, |gcra| gcra.give_back(calls, self.quota));
        }
    }

    fn cost(&self, subject: &Subject<'_>) -> u32 {
        let Some(tool) = subject.tool else { return 1 };
        let server = subject.server.unwrap_or_default();
        let cost = self.costs.iter().find(|cost| cost.is_of(server, tool));
        cost.map_or(1, |cost| cost.calls.get())
    }

    #[cold]
    fn refused(&self, why: Why, retry_after: Duration, remaining: u32) -> Refused {
        let window_s = seconds_up(Duration::from_nanos(self.quota.burst_ns()));
        let counted = Counted::Within { window_s };
        let standing = Standing { quota: self.quota.burst, counted, remaining };
        Refused { limit: Arc::clone(&self.of.name), why, retry_after, standing }
    }
}

impl InFlightRule {
    pub(super) fn new(
        limit: &config::Limit,
        counted: AtOnce,
        seed: &RandomState,
        of: Limit,
    ) -> Option<Self> {
        let most = match counted {
            AtOnce::Calls => limit.in_flight?,
            AtOnce::Streams => limit.streams?,
        };
        Some(Self {
            key: Key { parts: limit.key.as_slice().into(), seed: seed.clone() },
            counted,
            in_flight_max: most.get(),
            wait: limit.wait,
            of,
        })
    }

    /// A place for the call or stream, after waiting for it if need be; none where the limit does
    /// not hold.
    pub(super) async fn enter(&self, subject: &Subject<'_>) -> Result<Option<Permit>, Refused> {
        let Some(key) = self.key.of(subject) else { return Ok(None) };
        match self.turn(key)? {
            Turn::Now(permit) => Ok(Some(permit)),
            Turn::Never => Err(self.busy()),
            Turn::Later(turn) => {
                self.of.counters.waits.inc();
                // Who gives up drops its turn, and the place is handed on.
                match tokio::time::timeout(self.wait, turn).await {
                    Ok(Ok(permit)) => Ok(Some(permit)),
                    Ok(Err(_)) | Err(_) => Err(self.busy()),
                }
            }
        }
    }

    fn turn(&self, key: u64) -> Result<Turn, Refused> {
        let make = || Arc::new(Slot::new(self.in_flight_max));
        let patience = if self.wait.is_zero() { Patience::Leaves } else { Patience::Waits };
        let slots = match self.counted {
            AtOnce::Calls => &self.of.tallies.calls,
            AtOnce::Streams => &self.of.tallies.streams,
        };
        slots.with(key, make, |slot| slot.enter(patience)).map_err(|_full| {
            self.of.counters.keys_full.inc();
            self.refused(Why::KeysFull)
        })
    }

    #[cold]
    fn busy(&self) -> Refused {
        match self.counted {
            AtOnce::Calls => {
                self.of.counters.in_flight.inc();
                self.refused(Why::InFlight)
            }
            AtOnce::Streams => {
                self.of.counters.streams.inc();
                self.refused(Why::Streams)
            }
        }
    }

    fn refused(&self, why: Why) -> Refused {
        let counted = Counted::InFlight;
        let standing = Standing { quota: self.in_flight_max, counted, remaining: 0 };
        Refused { limit: Arc::clone(&self.of.name), why, retry_after: SOON, standing }
    }
}
