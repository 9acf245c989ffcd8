//! The MCP servers and where they run: `servers`.

use std::time::Duration;

use serde_json::{Value, json};

use super::links::note_duplicates;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{check_name, choice_schema, number_schema, parse_choice};
use super::shape::{At, Entries, Field, Scalar, Shape, shape};
use super::tree::{Kind, Node};
use super::url::Url;

/// A larger weight means a ring of points that only costs memory.
const WEIGHT_MAX: u32 = 256;

/// One MCP server: equal endpoints under one name.
#[derive(Debug, Clone)]
pub struct Server {
    /// The name that routes use.
    pub name: String,
    /// Who to ask about it.
    pub owner: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its addresses; at least one, all different.
    pub endpoints: Vec<Endpoint>,
    /// How a call finds its endpoint.
    pub balance: Balance,
    /// How the gateway speaks to it.
    pub protocol: Protocol,
    /// Time limits towards it.
    pub timeouts: Timeouts,
    /// Where its name stands.
    pub place: Place,
}

/// One address of a server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The normalised URL, which is the endpoint's identity.
    pub url: String,
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// The port, also where the URL leaves it out.
    pub port: u16,
    /// As for the `Host` header: the port only where it is not the scheme's own.
    pub authority: String,
    /// Path and query; begins with `/`.
    pub path: String,
    /// Its share of the calls, 1 to 256.
    pub weight: u32,
    /// Where the URL stands.
    pub place: Place,
}

/// Plain or TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The word in front of `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of URLs that name none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// How a call finds its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// The same key goes to the same endpoint while it lives.
    ConsistentHash {
        /// What is hashed.
        key: HashKey,
    },
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

/// How the gateway speaks to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: prior knowledge on `http://`, ALPN on `https://`.
    Http2,
}

/// Time limits towards a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Opening a connection, TLS included.
    pub connect: Duration,
    /// From the sent request to the first byte of the answer.
    pub first_byte: Duration,
    /// The longest silence on a stream.
    pub stream_idle: Duration,
    /// A whole call; streams are exempt.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(60),
            stream_idle: Duration::from_secs(60 * 60),
            total: Duration::from_secs(10 * 60),
        }
    }
}

shape! {
    /// One MCP server: equal endpoints under one name.
    ServerText {
        /// Who to ask about it.
        optional owner: String,
        /// What it is for.
        optional description: String,
        /// Its addresses: a URL, or a URL with its weight.
        required endpoints: Vec<Field<EndpointText>>,
        /// How a call finds its endpoint.
        optional balance: BalanceText,
        /// How the gateway speaks to it: http1, or http2 (prior knowledge on http://, ALPN on https://).
        optional protocol: Protocol,
        /// Time limits towards it.
        optional timeouts: TimeoutsText,
    }
}

shape! {
    /// A URL with its weight.
    WeightedText {
        /// The URL: http or https, without user name and fragment.
        required url: Url,
        /// Its share of the calls, 1 to 256.
        optional weight: Weight,
    }
}

shape! {
    /// How a call finds its endpoint.
    BalanceText {
        /// consistent_hash, or least_request: the less busy of two random endpoints.
        optional algorithm: Algorithm,
        /// What consistent_hash hashes: session, caller, tenant, tool or header:NAME.
        optional key: HashKey,
    }
}

shape! {
    /// Time limits towards a server.
    TimeoutsText {
        /// Opening a connection, TLS included.
        optional connect: Duration,
        /// From the sent request to the first byte of the answer.
        optional first_byte: Duration,
        /// The longest silence on a stream.
        optional stream_idle: Duration,
        /// A whole call; streams are exempt.
        optional total: Duration,
    }
}

/// A URL, or a map with the URL and its weight.
#[derive(Debug)]
pub(super) struct EndpointText {
    url: At<Url>,
    weight: Option<u32>,
}

impl Shape for EndpointText {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        if matches!(node.kind, Kind::Map(_)) {
            let WeightedText { url, weight } = Shape::read(node, reading)?;
            return Some(Self { url: url.given()?, weight: weight.value().map(|weight| weight.0) });
        }
        let url = <Url as Shape>::read(node, reading)?;
        Some(Self { url: At { place: node.place, head: node.head, value: url }, weight: None })
    }

    fn schema() -> Value {
        json!({ "anyOf": [<Url as Shape>::schema(), WeightedText::schema()] })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Weight(u32);

impl Scalar for Weight {
    const NAME: &'static str = "a number";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(weight @ 1..=WEIGHT_MAX) => Ok(Self(weight)),
            _ => Err(Fault::new(
                format!("a weight is a number from 1 to {WEIGHT_MAX}"),
                "to take an endpoint out, remove it",
            )),
        }
    }

    fn schema() -> Value {
        number_schema(WEIGHT_MAX)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    ConsistentHash,
    LeastRequest,
}

const ALGORITHMS: &[(&str, Algorithm)] =
    &[("consistent_hash", Algorithm::ConsistentHash), ("least_request", Algorithm::LeastRequest)];

impl Scalar for Algorithm {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, ALGORITHMS)
    }

    fn schema() -> Value {
        choice_schema(ALGORITHMS)
    }
}

const PROTOCOLS: &[(&str, Protocol)] = &[("http1", Protocol::Http1), ("http2", Protocol::Http2)];

impl Scalar for Protocol {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, PROTOCOLS)
    }

    fn schema() -> Value {
        choice_schema(PROTOCOLS)
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

/// Checks the servers of all files.
pub(super) fn check(entries: Entries<ServerText>, reading: &mut Reading<'_>) -> Vec<Server> {
    for (name, _) in &entries.0 {
        if let Err(fault) = check_name(&name.value) {
            reading.fault(name.place, fault);
        }
    }
    let names = entries.0.iter().map(|(name, _)| (name.place, name.value.as_str()));
    note_duplicates(names, "a server of this name is already defined", reading);
    let server = |(name, text): (At<String>, Field<ServerText>)| text.value()?.check(name, reading);
    entries.0.into_iter().filter_map(server).collect()
}

impl ServerText {
    fn check(self, name: At<String>, reading: &mut Reading<'_>) -> Option<Server> {
        let Self { owner, description, endpoints, balance, protocol, timeouts } = self;
        let balance =
            balance.value().map_or_else(Balance::default, |balance| balance.check(reading));
        let endpoints = check_endpoints(endpoints.given()?, reading);
        Some(Server {
            name: name.value,
            owner: owner.value(),
            description: description.value(),
            endpoints,
            balance,
            protocol: protocol.or(Protocol::default()),
            timeouts: timeouts.value().map_or_else(Timeouts::default, TimeoutsText::check),
            place: name.place,
        })
    }
}

fn check_endpoints(list: At<Vec<Field<EndpointText>>>, reading: &mut Reading<'_>) -> Vec<Endpoint> {
    if list.value.is_empty() {
        reading.problem(
            list.head,
            "a server needs at least one endpoint",
            "write [http://10.0.0.1:8000/mcp]",
        );
    }
    let endpoints: Vec<Endpoint> =
        list.value.into_iter().filter_map(Field::value).map(EndpointText::check).collect();
    let urls = endpoints.iter().map(|endpoint| (endpoint.place, endpoint.url.as_str()));
    note_duplicates(urls, "this endpoint is already in the list", reading);
    endpoints
}

impl EndpointText {
    fn check(self) -> Endpoint {
        let Self { url: At { place, head: _, value: url }, weight } = self;
        let path = match url.path_and_query.as_str() {
            path if path.starts_with('/') => path.to_owned(),
            query => format!("/{query}"),
        };
        Endpoint {
            url: url.with_path(&path),
            authority: url.authority(),
            scheme: url.scheme,
            host: url.host,
            port: url.port,
            path,
            weight: weight.unwrap_or(1),
            place,
        }
    }
}

impl BalanceText {
    fn check(self, reading: &mut Reading<'_>) -> Balance {
        let Self { algorithm, key } = self;
        match (algorithm.or(Algorithm::ConsistentHash), key) {
            (Algorithm::LeastRequest, Field::Given(key)) => {
                reading.problem(
                    key.head,
                    "least_request has no key",
                    "remove the key, or use consistent_hash",
                );
                Balance::LeastRequest
            }
            (Algorithm::LeastRequest, Field::Absent | Field::Faulty) => Balance::LeastRequest,
            (Algorithm::ConsistentHash, key) => {
                Balance::ConsistentHash { key: key.or(HashKey::default()) }
            }
        }
    }
}

impl TimeoutsText {
    fn check(self) -> Timeouts {
        let Self { connect, first_byte, stream_idle, total } = self;
        let default = Timeouts::default();
        Timeouts {
            connect: connect.or(default.connect),
            first_byte: first_byte.or(default.first_byte),
            stream_idle: stream_idle.or(default.stream_idle),
            total: total.or(default.total),
        }
    }
}
