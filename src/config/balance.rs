//! How a call finds its endpoint: `balance`.

use serde_json::{Value, json};

use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::shape::{Scalar, shape};

/// How a call finds its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// The same key goes to the same endpoint while it lives.
    ConsistentHash {
        /// What is hashed.
        key: HashKey,
    },
    /// One endpoint after the other, each as often as its weight says.
    RoundRobin,
    /// The less busy of two random endpoints.
    LeastRequest,
}

impl Default for Balance {
    fn default() -> Self {
        Self::ConsistentHash { key: HashKey::default() }
    }
}

/// What consistent hashing hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HashKey {
    /// The MCP session; a modern request has none and goes by its caller.
    #[default]
    Session,
    /// Who calls.
    Caller,
    /// The caller's tenant.
    Tenant,
    /// The tool that is called.
    Tool,
    /// A request header, named in lower case.
    Header(String),
}

/// What becomes of a session whose endpoint is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnEndpointLoss {
    /// It goes on at another endpoint, where it begins anew.
    #[default]
    Move,
    /// Its client is told 404, so that it begins a new session itself.
    NotFound,
}

shape! {
    /// How a call finds its endpoint.
    BalanceText {
        /// consistent_hash, round_robin, or least_request: the less busy of two random endpoints.
        optional algorithm: Algorithm,
        /// What consistent_hash hashes: session, caller, tenant, tool or header:NAME.
        optional key: HashKey,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    ConsistentHash,
    RoundRobin,
    LeastRequest,
}

const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("consistent_hash", Algorithm::ConsistentHash),
    ("round_robin", Algorithm::RoundRobin),
    ("least_request", Algorithm::LeastRequest),
];

impl Scalar for Algorithm {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, ALGORITHMS)
    }

    fn schema() -> Value {
        choice_schema(ALGORITHMS)
    }
}

const ON_ENDPOINT_LOSS: &[(&str, OnEndpointLoss)] =
    &[("move", OnEndpointLoss::Move), ("not_found", OnEndpointLoss::NotFound)];

impl Scalar for OnEndpointLoss {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, ON_ENDPOINT_LOSS)
    }

    fn schema() -> Value {
        choice_schema(ON_ENDPOINT_LOSS)
    }
}

impl Scalar for HashKey {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "session" => return Ok(Self::Session),
            "caller" => return Ok(Self::Caller),
            "tenant" => return Ok(Self::Tenant),
            "tool" => return Ok(Self::Tool),
            _ => {}
        }
        let name = text.strip_prefix("header:").unwrap_or_default();
        if name.is_empty()
            || !name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        {
            return Err(Fault::new(
                "this cannot be hashed",
                "write session, caller, tenant, tool or header:NAME",
            ));
        }
        Ok(Self::Header(name.to_ascii_lowercase()))
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": "^(session|caller|tenant|tool|header:.+)$" })
    }
}

impl BalanceText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Balance {
        let Self { algorithm, key } = self;
        let (balance, message) = match algorithm.or(Algorithm::ConsistentHash) {
            Algorithm::ConsistentHash => {
                return Balance::ConsistentHash { key: key.or(HashKey::default()) };
            }
            Algorithm::RoundRobin => (Balance::RoundRobin, "round_robin has no key"),
            Algorithm::LeastRequest => (Balance::LeastRequest, "least_request has no key"),
        };
        if let Some(key) = key.given() {
            reading.problem(key.head, message, "remove the key, or use consistent_hash");
        }
        balance
    }
}
