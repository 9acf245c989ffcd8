//! What is done about endpoints that fail: `health`, `ejection`, `breaker` and `retries`.

use std::time::Duration;

use serde_json::{Value, json};

use super::reading::{Fault, Reading};
use super::scalars::{Count, CountOrZero, Fraction, choice_schema, parse_choice};
use super::shape::{At, Field, Scalar, shape};

/// How an endpoint is asked whether it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// What an HTTP probe gets; absent means the endpoint's own path.
    pub path: Option<String>,
    /// From one probe to the next.
    pub interval: Duration,
    /// After this time without an answer a probe has failed.
    pub timeout: Duration,
    /// Failed probes in a row after which the endpoint is not used; at least one.
    pub unhealthy_after: u32,
    /// Good probes in a row after which it is used again; at least one.
    pub healthy_after: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::default(),
            path: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 1,
        }
    }
}

/// What an endpoint is asked, so that one that fails is known before a call finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Probe {
    /// Nothing: only calls tell.
    #[default]
    Off,
    /// To accept a connection.
    Tcp,
    /// A GET, which a status from 200 to 299 answers well.
    Http,
    /// A message of MCP.
    Mcp,
}

/// When an endpoint is left out because calls at it fail.
#[derive(Debug, Clone, PartialEq)]
pub struct Ejection {
    /// Failed calls in a row that eject it; 0 means that no such number does.
    pub consecutive_failures: u32,
    /// It is ejected when more than this fraction of its calls in a window failed; 1 means never.
    pub failure_rate: f64,
    /// Calls in a window below which the failure rate says nothing.
    pub requests_min: u32,
    /// The time over which the failure rate is counted.
    pub window: Duration,
    /// How long it stays out, times the number of its ejections in a row.
    pub duration: Duration,
    /// The longest it stays out; never shorter than `duration`.
    pub duration_max: Duration,
    /// The largest fraction of the endpoints that is out at once.
    pub fraction_max: f64,
    /// With less than this fraction of endpoints usable, all are used; 0 means never.
    pub panic_below: f64,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: 0.5,
            requests_min: 20,
            window: Duration::from_secs(10),
            duration: Duration::from_secs(30),
            duration_max: Duration::from_secs(5 * 60),
            fraction_max: 0.5,
            panic_below: 0.2,
        }
    }
}

/// How much one endpoint is asked to do at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Calls at one endpoint; streams are exempt.
    pub in_flight_max: u32,
    /// Calls that wait for one of them to end; 0 means that none waits.
    pub pending_max: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { in_flight_max: 1024, pending_max: 1024 }
    }
}

/// When a call is sent to another endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Retries {
    /// Further endpoints that a call may try; 0 means none.
    pub attempts: u32,
    /// Retries as a fraction of the calls, so that failing endpoints do not multiply the load; 0 means none.
    pub budget: f64,
    /// Tools that may run twice, by their own name; `*` stands for any characters.
    pub tools: Vec<String>,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 2, budget: 0.2, tools: Vec::new() }
    }
}

shape! {
    /// How an endpoint is asked whether it works.
    HealthText {
        /// What it is asked: off (nothing), tcp (a connection), http (a GET) or mcp (a message of MCP).
        optional probe: Probe,
        /// What the http probe gets; the endpoint's own path by default.
        optional path: ProbePath,
        /// From one probe to the next.
        optional interval: Duration,
        /// After this time without an answer a probe has failed.
        optional timeout: Duration,
        /// Failed probes in a row after which the endpoint is not used.
        optional unhealthy_after: Count,
        /// Good probes in a row after which it is used again.
        optional healthy_after: Count,
    }
}

shape! {
    /// When an endpoint is left out because calls at it fail.
    EjectionText {
        /// Failed calls in a row that eject it; 0 means that no such number does.
        optional consecutive_failures: CountOrZero,
        /// It is ejected when more than this fraction of its calls in a window failed; 1 means never.
        optional failure_rate: Fraction,
        /// Calls in a window below which the failure rate says nothing.
        optional requests_min: Count,
        /// The time over which the failure rate is counted.
        optional window: Duration,
        /// How long it stays out, times the number of its ejections in a row.
        optional duration: Duration,
        /// The longest it stays out.
        optional duration_max: Duration,
        /// The largest fraction of the endpoints that is out at once.
        optional fraction_max: Fraction,
        /// With less than this fraction of endpoints usable, all are used; 0 means never.
        optional panic_below: Fraction,
    }
}

shape! {
    /// How much one endpoint is asked to do at once.
    BreakerText {
        /// Calls at one endpoint; streams are exempt.
        optional in_flight_max: Count,
        /// Calls that wait for one of them to end; 0 means that none waits.
        optional pending_max: CountOrZero,
    }
}

shape! {
    /// When a call is sent to another endpoint.
    RetriesText {
        /// Further endpoints that a call may try; 0 means none.
        optional attempts: CountOrZero,
        /// Retries as a fraction of the calls, so that failing endpoints do not multiply the load; 0 means none.
        optional budget: Fraction,
        /// Tools that may run twice, by their own name; `*` stands for any characters.
        optional tools: Vec<Field<ToolPattern>>,
    }
}

const PROBES: &[(&str, Probe)] =
    &[("off", Probe::Off), ("tcp", Probe::Tcp), ("http", Probe::Http), ("mcp", Probe::Mcp)];

impl Scalar for Probe {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, PROBES)
    }

    fn schema() -> Value {
        choice_schema(PROBES)
    }
}

/// Path and query of a probe, as they stand in its request line.
#[derive(Debug, Clone)]
pub(super) struct ProbePath(String);

impl Scalar for ProbePath {
    const NAME: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, Fault> {
        if !text.starts_with('/') {
            return Err(Fault::new("a path begins with /", "write it like /health"));
        }
        if text.bytes().any(|byte| !byte.is_ascii_graphic() || b"\"#<>\\^`{|}".contains(&byte)) {
            return Err(Fault::new(
                "the path holds a character that a URL may not hold",
                "percent-encode it",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^(/.*|.*\$\{.*)$" })
    }
}

/// The name of a tool, in which `*` stands for any characters.
#[derive(Debug, Clone)]
pub(super) struct ToolPattern(String);

impl Scalar for ToolPattern {
    const NAME: &'static str = "a pattern";

    fn parse(text: &str) -> Result<Self, Fault> {
        const CHARS_MAX: usize = 256;
        let text = String::parse(text)?;
        if text.chars().count() > CHARS_MAX || text.chars().any(char::is_control) {
            let hint = format!("use at most {CHARS_MAX} characters and no control characters");
            return Err(Fault::new("this is not a pattern of tools", hint));
        }
        Ok(Self(text))
    }
}

impl HealthText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Health {
        let Self { probe, path, interval, timeout, unhealthy_after, healthy_after } = self;
        let default = Health::default();
        let probe_is_faulty = matches!(probe, Field::Faulty);
        let probe = probe.or(default.probe);
        if let Some(path) = path.as_given().filter(|_| probe != Probe::Http && !probe_is_faulty) {
            reading.problem(
                path.head,
                "only the http probe has a path",
                "remove the path, or write `probe: http`",
            );
        }
        Health {
            probe,
            path: path.value().map(|path| path.0),
            interval: interval.or(default.interval),
            timeout: timeout.or(default.timeout),
            unhealthy_after: unhealthy_after.or(Count(default.unhealthy_after)).0,
            healthy_after: healthy_after.or(Count(default.healthy_after)).0,
        }
    }
}

impl EjectionText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Ejection {
        let Self {
            consecutive_failures,
            failure_rate,
            requests_min,
            window,
            duration,
            duration_max,
            fraction_max,
            panic_below,
        } = self;
        let default = Ejection::default();
        let duration = duration.or(default.duration);
        let duration_max = match duration_max {
            Field::Given(At { head, value, .. }) if value < duration => {
                reading.problem(
                    head,
                    "the longest ejection is shorter than the first",
                    "raise `duration_max`, or lower `duration`",
                );
                duration
            }
            // Who asks for a long first ejection alone means it.
            duration_max => duration_max.or(default.duration_max.max(duration)),
        };
        Ejection {
            consecutive_failures: consecutive_failures
                .or(CountOrZero(default.consecutive_failures))
                .0,
            failure_rate: failure_rate.or(Fraction(default.failure_rate)).0,
            requests_min: requests_min.or(Count(default.requests_min)).0,
            window: window.or(default.window),
            duration,
            duration_max,
            fraction_max: fraction_max.or(Fraction(default.fraction_max)).0,
            panic_below: panic_below.or(Fraction(default.panic_below)).0,
        }
    }
}

impl BreakerText {
    pub(super) fn check(self) -> Breaker {
        let Self { in_flight_max, pending_max } = self;
        let default = Breaker::default();
        Breaker {
            in_flight_max: in_flight_max.or(Count(default.in_flight_max)).0,
            pending_max: pending_max.or(CountOrZero(default.pending_max)).0,
        }
    }
}

impl RetriesText {
    pub(super) fn check(self) -> Retries {
        let Self { attempts, budget, tools } = self;
        let default = Retries::default();
        let tools = tools.or(Vec::new()).into_iter().filter_map(Field::value);
        Retries {
            attempts: attempts.or(CountOrZero(default.attempts)).0,
            budget: budget.or(Fraction(default.budget)).0,
            tools: tools.map(|pattern| pattern.0).collect(),
        }
    }
}
