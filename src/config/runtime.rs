//! What the process may use: `runtime`.

use std::time::Duration;

use serde_json::{Value, json};

use super::cpu_quota;
use super::reading::Fault;
use super::scalars::{Count, DurationOrZero, number_schema};
use super::shape::{Scalar, shape};

/// More threads than any machine has CPUs are a mistake.
const THREADS_MAX: u32 = 1024;

/// Threads, connections and the time to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Worker threads; `auto` is already resolved.
    pub threads: usize,
    /// Client connections at once.
    pub connections_max: usize,
    /// Long-lived streams at once.
    pub streams_max: usize,
    /// Idle connections kept open to servers.
    pub upstream_idle_connections: usize,
    /// The age after which a client connection is asked to close; zero means never.
    pub connection_age_max: Duration,
    /// How long requests may finish after the signal to stop.
    pub grace: Duration,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            threads: cpu_quota::threads(),
            connections_max: 20_000,
            streams_max: 20_000,
            upstream_idle_connections: 1024,
            connection_age_max: Duration::from_secs(10 * 60),
            grace: Duration::from_secs(30),
        }
    }
}

shape! {
    /// What the process may use.
    RuntimeText {
        /// Worker threads: a number, or auto for the CPU quota of the container, else the CPUs of the machine.
        optional threads: Threads,
        /// Client connections at once.
        optional connections_max: Count,
        /// Long-lived streams at once.
        optional streams_max: Count,
        /// Idle connections kept open to servers.
        optional upstream_idle_connections: Count,
        /// The age after which a client connection is asked to close, so that clients spread over new gateways; 0s means never.
        optional connection_age_max: DurationOrZero,
        /// How long requests may finish after the signal to stop.
        optional grace: Duration,
    }
}

/// A number of threads, or as many as there are CPUs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Threads {
    Auto,
    Number(usize),
}

impl Scalar for Threads {
    const NAME: &'static str = "a number";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(number @ 1..=THREADS_MAX) => Ok(Self::Number(number as usize)),
            _ => Err(Fault::new(
                "this is not a number of threads",
                format!("write auto, or a number from 1 to {THREADS_MAX}"),
            )),
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "const": "auto" }, number_schema(THREADS_MAX)] })
    }
}

impl RuntimeText {
    pub(super) fn check(self) -> Runtime {
        let Self {
            threads,
            connections_max,
            streams_max,
            upstream_idle_connections,
            connection_age_max,
            grace,
        } = self;
        let default = Runtime::default();
        let size = |count: Option<Count>, default: usize| count.map_or(default, Count::size);
        Runtime {
            threads: match threads.or(Threads::Auto) {
                Threads::Auto => default.threads,
                Threads::Number(number) => number,
            },
            connections_max: size(connections_max.value(), default.connections_max),
            streams_max: size(streams_max.value(), default.streams_max),
            upstream_idle_connections: size(
                upstream_idle_connections.value(),
                default.upstream_idle_connections,
            ),
            connection_age_max: connection_age_max.or(DurationOrZero(default.connection_age_max)).0,
            grace: grace.or(default.grace),
        }
    }
}
