//! How much? Calls in a time, calls at once and streams at once, counted apart by any of who, what and where.
//!
//! A call is asked twice. Before its body is read by what is known then ([`Limits::admit_early`]), so
//! that who has had enough costs little; and when it is known what it asks for ([`Limits::admit`]).
//! Within one step a call takes all or nothing: its places in flight first, which are given back by
//! being dropped, then its share of the rates, which is given back as long as the call has not run.
//! What the first step took stays taken: the reading is what it limits.
//! A stream is a call that holds its places among the streams instead, for hours.
//!
//! Nothing here is locked for a key that is known and has room, and nothing is allocated.
//!
//! With a store that replicas share, each leases calls from it ahead of time and decides with those.
//! The store is asked by a call only where none are here and it did not say lately that there are
//! none; while it is away, each replica lets its share through.

mod address;
mod gcra;
mod key;
mod keys;
mod leased;
mod place_leases;
mod places;
mod rate_leases;
mod refused;
mod rule;
mod slot;
mod state;

pub use key::Subject;
pub use refused::{Counted, Fields, Refused, Standing, Why};
pub use slot::Permit;
pub use state::State;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use crate::config::{self, Listener};
use crate::telemetry::LimitMetrics;
use address::AddressSketch;
use rule::{AtOnce, InFlightRule, Limit, RateRule, Share};

/// The configuration has at most so many limits of calls at once, and as many of streams.
const PERMITS_MAX: usize = 8;

/// The limits of one configuration, over tallies that outlive it.
pub struct Limits {
    state: Arc<State>,
    /// Known before the body is.
    early: Vec<RateRule>,
    late: Vec<RateRule>,
    in_flight: Vec<InFlightRule>,
    streams: Vec<InFlightRule>,
    /// One for each listener.
    addresses: Vec<Option<AddressRule>>,
}

struct AddressRule {
    name: Arc<str>,
    sketch: Arc<AddressSketch>,
    standing: Standing,
    limited: IntCounter,
}

/// The places of a call in flight, or of a stream; they are given back when this is dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct Permits([Option<Permit>; PERMITS_MAX]);

impl Limits {
    /// The limits of a configuration. Those that it has in common with the one before go on counting.
    pub fn new(
        limits: &[config::Limit],
        listeners: &[Listener],
        state: &Arc<State>,
        metrics: &LimitMetrics,
    ) -> Self {
        let (mut early, mut late) = (Vec::new(), Vec::new());
        let (mut in_flight, mut streams) = (Vec::new(), Vec::new());
        for limit in limits {
            let counters = metrics.limit(&limit.name);
            let tallies = state.tallies(limit, &counters.keys);
            let of = Limit { name: limit.name.as_str().into(), tallies, counters };
            if let Some(rule) = RateRule::new(limit, &state.seed, of.clone()) {
                if rule.is_early() { early.push(rule) } else { late.push(rule) }
            }
            let seed = &state.seed;
            in_flight.extend(InFlightRule::new(limit, AtOnce::Calls, seed, of.clone()));
            streams.extend(InFlightRule::new(limit, AtOnce::Streams, seed, of));
        }
        let addresses =
            listeners.iter().map(|listener| AddressRule::new(listener, state, metrics)).collect();
        Self { state: Arc::clone(state), early, late, in_flight, streams, addresses }
    }

    /// Whether no call and no stream is limited.
    pub fn is_empty(&self) -> bool {
        self.early.is_empty()
            && self.late.is_empty()
            && self.in_flight.is_empty()
            && self.streams.is_empty()
    }

    /// What has been counted, for the configuration that comes next.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether an address may send one more request to the listener at this place.
    ///
    /// # Errors
    /// When it has sent enough.
    pub fn admit_address(&self, listener: usize, address: IpAddr) -> Result<(), Refused> {
        match self.addresses.get(listener) {
            Some(Some(rule)) => rule.admit(address, self.state.clock.now_ns()),
            Some(None) | None => Ok(()),
        }
    }

    /// Whether a request may go on, by what is known before its body is read: the caller, the route
    /// and the address.
    ///
    /// # Errors
    /// When a limit is used up.
    pub async fn admit_early(&self, subject: &Subject<'_>) -> Result<(), Refused> {
        self.take(&self.early, subject).await
    }

    /// Whether a call may be made, when everything about it is known. It holds its places as long as
    /// the permits live.
    ///
    /// # Errors
    /// When a limit is used up; then the call has taken nothing.
    pub async fn admit(&self, subject: &Subject<'_>) -> Result<Permits, Refused> {
        self.enter(&self.in_flight, subject).await
    }

    /// The same for a stream, which holds its places among the streams and none in flight.
    ///
    /// # Errors
    /// When a limit is used up; then the stream has taken nothing.
    pub async fn admit_stream(&self, subject: &Subject<'_>) -> Result<Permits, Refused> {
        self.enter(&self.streams, subject).await
    }

    /// Takes a place at each of the rules, then a share of the rates.
    async fn enter(
        &self,
        rules: &[InFlightRule],
        subject: &Subject<'_>,
    ) -> Result<Permits, Refused> {
        let mut permits = Permits::default();
        // In the order of the configuration for every call, so that no two wait for each other.
        for (place, rule) in permits.0.iter_mut().zip(rules) {
            *place = rule.enter(subject).await?;
        }
        self.take(&self.late, subject).await?;
        Ok(permits)
    }

    /// Takes from all rates or from none, and waits for the call's turn at each.
    async fn take(&self, rules: &[RateRule], subject: &Subject<'_>) -> Result<(), Refused> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut now_ns = self.state.clock.now_ns();
        let mut taken = Taken { rules, subject, count: 0 };
        let mut wait_ns = 0;
        for rule in rules {
            let turn_ns = match rule.take(subject, now_ns)? {
                Share::Taken { wait_ns } => wait_ns,
                Share::Unknown(asking) => {
                    let turn_ns = Box::pin(rule.ask(subject, asking)).await?;
                    now_ns = self.state.clock.now_ns();
                    turn_ns
                }
            };
            wait_ns = turn_ns.max(wait_ns);
            taken.count += 1;
        }
        if wait_ns > 0 {
            tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
        }
        taken.count = 0;
        Ok(())
    }
}

/// What a call took from rates; it is given back if the call is refused elsewhere, or its client
/// leaves while it waits.
struct Taken<'t> {
    rules: &'t [RateRule],
    subject: &'t Subject<'t>,
    count: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for rule in self.rules.iter().take(self.count) {
            rule.give_back(self.subject);
        }
    }
}

impl AddressRule {
    fn new(listener: &Listener, state: &State, metrics: &LimitMetrics) -> Option<Self> {
        let rate = listener.limits.requests_per_address?;
        let counted = Counted::Within { window_s: rate.period.as_secs() };
        Some(Self {
            name: "requests_per_address".into(),
            sketch: state.sketch(listener.address, rate),
            standing: Standing { quota: rate.count.get(), counted, remaining: 0 },
            limited: metrics.address(),
        })
    }

    fn admit(&self, address: IpAddr, now_ns: u64) -> Result<(), Refused> {
        self.sketch.admit(address, now_ns).map_err(|flood| {
            self.limited.inc();
            Refused {
                limit: Arc::clone(&self.name),
                why: Why::Address,
                retry_after: Duration::from_nanos(flood.retry_after_ns),
                standing: self.standing,
            }
        })
    }
}

#[cfg(test)]
mod tests;
