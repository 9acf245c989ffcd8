//! One limit, ready to be asked: what a call takes of it.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use super::gcra::{Exhausted, Gcra, Quota};
use super::key::{Key, Subject};
use super::keys::Full;
use super::leased::Leased;
use super::place_leases::PlaceLeases;
use super::rate_leases::{Known, Need};
use super::refused::{Counted, Refused, Standing, Why, seconds_up};
use super::slot::{Patience, Permit, Slot, Turn};
use super::state::{Rates, Tallies};
use crate::config::{self, Cost, KeyPart};
use crate::telemetry::LimitCounters;

/// When it may be worth to come again where nobody can know.
const SOON: Duration = Duration::from_secs(1);

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

/// What became of a call's share of a rate.
pub(super) enum Share {
    /// It has it, after so many nanoseconds.
    Taken {
        /// Zero: now.
        wait_ns: u64,
    },
    /// The store must be asked.
    Unknown(Arc<Leased>),
}

/// What both have.
#[derive(Clone)]
pub(super) struct Limit {
    pub(super) name: Arc<str>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) counters: LimitCounters,
}

impl RateRule {
    pub(super) fn new(limit: &config::Limit, seed: &RandomState, of: Limit) -> Option<Self> {
        let allowance = limit.rate.as_ref()?;
        let wait_max_ns = u64::try_from(limit.wait.as_nanos()).unwrap_or(u64::MAX);
        Some(Self {
            key: Key::new(&limit.key, seed),
            quota: Quota::new(allowance, wait_max_ns),
            costs: allowance.costs.clone(),
            of,
        })
    }

    /// Whether the limit needs to know only what is known before the body is read. The server is
    /// not, in general: a route may have several.
    pub(super) fn is_early(&self) -> bool {
        let known = [KeyPart::Caller, KeyPart::Tenant, KeyPart::Route, KeyPart::Address];
        self.costs.is_empty() && self.key.is_of(&known)
    }

    /// Takes what the call costs, if it is known here whether it may.
    pub(super) fn take(&self, subject: &Subject<'_>, now_ns: u64) -> Result<Share, Refused> {
        let Some(key) = self.key.of(subject) else { return Ok(Share::Taken { wait_ns: 0 }) };
        let need = self.need(subject);
        let known = match &self.of.tallies.rates {
            Rates::Own(keys) => {
                let act = |gcra: &Gcra| gcra.take(need.calls, self.quota, now_ns);
                keys.with(key, Gcra::default, act).map(Known::Decided)
            }
            Rates::Shared { keys, leases } => {
                let id = || self.key.shared("limit rate", &self.of.name, subject);
                let make = || Arc::new(Leased::new(id(), self.quota));
                keys.with(key, make, |leased| leases.take(leased, need, now_ns))
            }
        };
        match known {
            Ok(Known::Decided(decided)) => {
                self.outcome(decided).map(|wait_ns| Share::Taken { wait_ns })
            }
            Ok(Known::Ask(asking)) => Ok(Share::Unknown(asking)),
            Err(Full) => {
                self.of.counters.keys_full.inc();
                Err(self.refused(Why::KeysFull, SOON, 0))
            }
        }
    }

    /// Asks the store, and says after how many nanoseconds the call's turn comes.
    pub(super) async fn ask(
        &self,
        subject: &Subject<'_>,
        asking: Arc<Leased>,
    ) -> Result<u64, Refused> {
        match &self.of.tallies.rates {
            Rates::Shared { leases, .. } => {
                self.outcome(leases.ask(&asking, self.need(subject)).await)
            }
            Rates::Own(_) => Ok(0),
        }
    }

    /// Gives back what a call took that did not run.
    pub(super) fn give_back(&self, subject: &Subject<'_>) {
        let Some(key) = self.key.of(subject) else { return };
        let need = self.need(subject);
        match &self.of.tallies.rates {
            Rates::Own(keys) => keys.with_known(key, |gcra| gcra.give_back(need.calls, self.quota)),
            Rates::Shared { keys, leases } => {
                keys.with_known(key, |leased| leases.give_back(leased, need));
            }
        }
    }

    fn outcome(&self, decided: Result<u64, Exhausted>) -> Result<u64, Refused> {
        match decided {
            Ok(wait_ns) => {
                if wait_ns > 0 {
                    self.of.counters.waits.inc();
                }
                Ok(wait_ns)
            }
            Err(exhausted) => {
                self.of.counters.rate.inc();
                let retry_after = Duration::from_nanos(exhausted.retry_after_ns);
                Err(self.refused(Why::Rate, retry_after, exhausted.remaining))
            }
        }
    }

    fn need(&self, subject: &Subject<'_>) -> Need {
        Need { calls: self.cost(subject), wait_max_ns: self.quota.wait_max_ns }
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
            key: Key::new(&limit.key, seed),
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
        let turn = match &self.of.tallies.leases {
            None => self.turn(key, subject)?,
            Some(leases) => match self.slot(key, subject)? {
                Ok(permit) => Turn::Now(permit),
                Err(slot) => Box::pin(self.ask(key, subject, leases, slot)).await?,
            },
        };
        match turn {
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

    /// What a call gets after the store was asked for places.
    async fn ask(
        &self,
        key: u64,
        subject: &Subject<'_>,
        leases: &PlaceLeases,
        slot: Arc<Slot>,
    ) -> Result<Turn, Refused> {
        if let Some(places) = slot.places() {
            leases.ask(&slot, places).await;
        }
        match slot.enter(self.patience()) {
            Some(turn) => Ok(turn),
            // It was forgotten meanwhile, and there is another one.
            None => self.turn(key, subject),
        }
    }

    /// A place that is here, or the slot that has none.
    fn slot(&self, key: u64, subject: &Subject<'_>) -> Result<Result<Permit, Arc<Slot>>, Refused> {
        let act = |slot: &Arc<Slot>| Some(slot.try_enter()?.ok_or_else(|| Arc::clone(slot)));
        self.with(key, subject, act)
    }

    fn turn(&self, key: u64, subject: &Subject<'_>) -> Result<Turn, Refused> {
        self.with(key, subject, |slot| slot.enter(self.patience()))
    }

    fn patience(&self) -> Patience {
        if self.wait.is_zero() { Patience::Leaves } else { Patience::Waits }
    }

    fn with<R>(
        &self,
        key: u64,
        subject: &Subject<'_>,
        act: impl Fn(&Arc<Slot>) -> Option<R>,
    ) -> Result<R, Refused> {
        let (slots, counted) = match self.counted {
            AtOnce::Calls => (&self.of.tallies.calls, "limit calls"),
            AtOnce::Streams => (&self.of.tallies.streams, "limit streams"),
        };
        let make = || match &self.of.tallies.leases {
            None => Arc::new(Slot::new(self.in_flight_max)),
            Some(leases) => {
                let id = self.key.shared(counted, &self.of.name, subject);
                leases.slot(self.in_flight_max, id)
            }
        };
        slots.with(key, make, act).map_err(|_full| {
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
