//! Asks the servers of a configuration what they offer, without serving anybody.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{self, Kind, Offer, State};
use crate::config::{Listing, Settings};
use crate::federation::Report;
use crate::mcp::Era;
use crate::routes::Routes;
use crate::snapshot::Lasting;
use crate::telemetry::Metrics;
use crate::upstream::{self, now_ms};

/// How long servers are waited for, unless the settings give them longer.
const WITHIN: Duration = Duration::from_secs(10);

/// What the servers of a configuration said.
#[derive(Debug)]
pub struct Survey {
    /// Each server that is listed, in the order of the configuration.
    pub servers: Vec<Surveyed>,
    /// What routes of several servers show otherwise than these would, or not at all.
    pub reports: Vec<Reported>,
}

/// What one server said.
#[derive(Debug)]
pub struct Surveyed {
    server: String,
    /// Why it is not known what it offers, or not all of it.
    fault: Option<String>,
    era: Option<Era>,
    revisions: Vec<String>,
    counts: [usize; Kind::ALL.len()],
}

/// A report with its route.
#[derive(Debug)]
pub struct Reported {
    route: String,
    report: Report,
}

impl Survey {
    /// Whether a server did not say what it offers, or a route would not show all of it.
    pub fn is_lacking(&self) -> bool {
        self.servers.iter().any(|server| server.fault.is_some())
            || self.reports.iter().any(|reported| reported.report.trouble.hides())
    }
}

impl fmt::Display for Surveyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, fault, era, revisions, counts } = self;
        let mark = if fault.is_some() { "warning: " } else { "" };
        write!(f, "{mark}server {server}: ")?;
        if let Some(era) = era {
            write!(f, "{}", era.as_str())?;
            if !revisions.is_empty() {
                write!(f, " ({})", revisions.join(", "))?;
            }
            for (kind, count) in Kind::ALL.iter().zip(counts) {
                write!(f, ", {}: {count}", kind.as_str())?;
            }
        }
        match fault {
            Some(fault) if era.is_some() => write!(f, "; not all is known: {fault}"),
            Some(fault) => write!(f, "it is not known what it offers: {fault}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.report.trouble.hides() { "warning" } else { "note" };
        write!(f, "{mark}: {}: {}", self.route, self.report)
    }
}

/// Asks every server of the configuration once. Nothing is written, and no store is asked.
///
/// # Errors
/// Where the machine does not give what asking needs.
pub fn survey(settings: &Settings) -> io::Result<Survey> {
    let telemetry = &settings.telemetry;
    let metrics = Arc::new(Metrics::new(telemetry.callers_max, telemetry.tools_max));
    let lasting = Lasting::new(settings, &metrics)?;
    let pools = lasting.fleet.prepare(&settings.servers, now_ms());
    upstream::resolve_now(&pools);
    lasting.fleet.install(&pools, now_ms());
    let routes = Routes::new(settings, &pools, &lasting.catalog, &metrics);
    let within = settings.catalog.ready_within.max(WITHIN);
    let mut faults = catalog::list_first(&lasting.catalog, &lasting.fleet, &metrics, within)?;
    let listed = pools.iter().filter(|pool| pool.settings().catalog.listing == Listing::On);
    let servers = listed.map(|pool| {
        let offer = lasting.catalog.of(pool.name());
        let late = || format!("no answer within {} s", within.as_secs());
        let fault = match (&offer.offer().state, faults.remove(pool.name())) {
            (State::Known, _) => None,
            (State::Stale(fault), _) => Some(fault.to_string()),
            (State::Unknown, fault) => Some(fault.unwrap_or_else(late)),
        };
        Surveyed::new(pool.name(), fault, &offer.offer())
    });
    let reports = settings.routes.iter().flat_map(|route| {
        let federation = routes.find(&route.path).and_then(|route| route.federation());
        let reports = federation.map(|federation| federation.reports()).unwrap_or_default();
        reports.into_iter().map(|report| Reported { route: route.path.clone(), report })
    });
    Ok(Survey { servers: servers.collect(), reports: reports.collect() })
}

impl Surveyed {
    fn new(server: &str, fault: Option<String>, offer: &Offer) -> Self {
        Self {
            server: server.to_owned(),
            fault: fault.as_deref().map(plain),
            era: offer.era,
            revisions: offer.revisions().iter().map(|revision| plain(revision)).collect(),
            counts: Kind::ALL.map(|kind| offer.list(kind).all().len()),
        }
    }
}

/// What servers say may hold anything, and is shown in a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
