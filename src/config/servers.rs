//! The MCP servers and where they run: `servers`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::admin::Registration;
use super::balance::{Balance, BalanceText, OnEndpointLoss};
use super::catalog::{ServerCatalog, ServerCatalogText};
use super::credentials::{Credentials, CredentialsText, IdentityHeaders};
use super::definitions::{Definitions, DefinitionsText};
use super::discovery::{Discovery, DiscoveryText};
use super::endpoints::{self, Endpoint, EndpointText};
use super::kubernetes::Cluster;
use super::links::note_duplicates;
use super::pem::PemFile;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::resilience::{
    Breaker, BreakerText, Ejection, EjectionText, Health, HealthText, Retries, RetriesText,
};
use super::scalars::{DurationOrZero, check_name, choice_schema, parse_choice};
use super::shape::{At, Entries, Field, Scalar, shape};
use super::url::Scheme;

/// One MCP server: equal endpoints under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// The name that routes use.
    pub name: String,
    /// Who to ask about it.
    pub owner: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its addresses, all different; none only where others are discovered or registered.
    pub endpoints: Vec<Endpoint>,
    /// Where further endpoints are found.
    pub discovery: Option<Discovery>,
    /// How a call finds its endpoint.
    pub balance: Balance,
    /// What becomes of a session whose endpoint is lost.
    pub on_endpoint_loss: OnEndpointLoss,
    /// How long a new endpoint takes to get its full share; zero means no time.
    pub slow_start: Duration,
    /// How endpoints are asked whether they work.
    pub health: Health,
    /// When an endpoint is left out because calls at it fail.
    pub ejection: Ejection,
    /// How much one endpoint is asked to do at once.
    pub breaker: Breaker,
    /// When a call is sent to another endpoint.
    pub retries: Retries,
    /// How the gateway speaks to it.
    pub protocol: Protocol,
    /// Who signs the certificates of its endpoints, instead of the authorities of the system.
    pub ca: Option<PemFile>,
    /// Time limits towards it.
    pub timeouts: Timeouts,
    /// How the gateway knows what it offers.
    pub catalog: ServerCatalog,
    /// What it gets instead of the client's credentials; nothing if absent.
    pub credentials: Option<Credentials>,
    /// Whether it is told who calls.
    pub identity_headers: IdentityHeaders,
    /// What happens when it changes the definition of a tool that was shown.
    pub definitions: Definitions,
    /// Where its name stands.
    pub place: Place,
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
        /// Its addresses: a URL, or a URL with its weight; needed without `discovery`.
        optional endpoints: Vec<Field<EndpointText>>,
        /// Where further endpoints are found.
        optional discovery: DiscoveryText,
        /// How a call finds its endpoint.
        optional balance: BalanceText,
        /// What becomes of a session whose endpoint is lost: move (to another endpoint) or not_found (its client is told 404).
        optional on_endpoint_loss: OnEndpointLoss,
        /// How long a new endpoint takes to get its full share of the calls; 0s means no time.
        optional slow_start: DurationOrZero,
        /// How an endpoint is asked whether it works.
        optional health: HealthText,
        /// When an endpoint is left out because calls at it fail.
        optional ejection: EjectionText,
        /// How much one endpoint is asked to do at once.
        optional breaker: BreakerText,
        /// When a call is sent to another endpoint.
        optional retries: RetriesText,
        /// How the gateway speaks to it: http1, or http2 (prior knowledge on http://, ALPN on https://).
        optional protocol: Protocol,
        /// Who signs the certificates of its endpoints, in PEM; the authorities of the system by default.
        optional ca: PathBuf,
        /// Time limits towards it.
        optional timeouts: TimeoutsText,
        /// Whether and how often this server is asked what it offers.
        optional catalog: ServerCatalogText,
        /// What it gets instead of the client's credentials, which never reach it.
        optional credentials: CredentialsText,
        /// Whether it is told who calls, by X-Toolgate-Caller, -Tenant, -Scopes and -Method: on or off.
        optional identity_headers: IdentityHeaders,
        /// What happens when it changes the definition of a tool that was shown.
        optional definitions: DefinitionsText,
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

/// Checks the servers of all files.
pub(super) fn check(
    entries: Entries<ServerText>,
    (registration, cluster): (&Registration, &Cluster),
    catalog: &ServerCatalog,
    reading: &mut Reading<'_>,
) -> Vec<Server> {
    for (name, _) in &entries.0 {
        if let Err(fault) = check_name(&name.value) {
            reading.fault(name.place, fault);
        }
    }
    let names = entries.0.iter().map(|(name, _)| (name.place, name.value.as_str()));
    note_duplicates(names, "a server of this name is already defined", reading);
    let server = |(name, text): (At<String>, Field<ServerText>)| {
        text.value()?.check(name, (registration, cluster), catalog, reading)
    };
    entries.0.into_iter().filter_map(server).collect()
}

impl ServerText {
    fn check(
        self,
        name: At<String>,
        (registration, cluster): (&Registration, &Cluster),
        all: &ServerCatalog,
        reading: &mut Reading<'_>,
    ) -> Option<Server> {
        let Self {
            owner,
            description,
            endpoints,
            discovery,
            balance,
            on_endpoint_loss,
            slow_start,
            health,
            ejection,
            breaker,
            retries,
            protocol,
            ca,
            timeouts,
            catalog,
            credentials,
            identity_headers,
            definitions,
        } = self;
        if matches!(discovery, Field::Absent) {
            note_no_endpoints(&name, &endpoints, registration, reading);
        }
        let endpoints = endpoints::check_all(endpoints.or(Vec::new()), reading);
        let discovery = discovery
            .given()
            .and_then(|discovery| discovery.value.check(discovery.head, cluster, reading));
        let ca = ca.given().and_then(|file| {
            note_no_tls(file.head, &endpoints, discovery.as_ref(), reading);
            PemFile::read(&file, reading)
        });
        let credentials = credentials.given().and_then(|text| text.value.check(text.head, reading));
        let balance =
            balance.value().map_or_else(Balance::default, |balance| balance.check(reading));
        let health = health.value().map_or_else(Health::default, |health| health.check(reading));
        let catalog = catalog.value().map_or_else(|| all.clone(), |catalog| catalog.check(all));
        let definitions = definitions.given().map_or_else(Definitions::default, |text| {
            text.value.check(text.head, &catalog, reading)
        });
        let ejection =
            ejection.value().map_or_else(Ejection::default, |ejection| ejection.check(reading));
        Some(Server {
            name: name.value,
            owner: owner.value(),
            description: description.value(),
            endpoints,
            discovery,
            balance,
            on_endpoint_loss: on_endpoint_loss.or(OnEndpointLoss::default()),
            slow_start: slow_start.or(DurationOrZero(Duration::ZERO)).0,
            health,
            ejection,
            breaker: breaker.value().map_or_else(Breaker::default, BreakerText::check),
            retries: retries.value().map_or_else(Retries::default, RetriesText::check),
            protocol: protocol.or(Protocol::default()),
            ca,
            timeouts: timeouts.value().map_or_else(Timeouts::default, TimeoutsText::check),
            catalog,
            credentials,
            identity_headers: identity_headers.or(IdentityHeaders::default()),
            definitions,
            place: name.place,
        })
    }
}

/// A server that nothing gives an endpoint could answer no call, ever.
fn note_no_endpoints(
    name: &At<String>,
    endpoints: &Field<Vec<Field<EndpointText>>>,
    registration: &Registration,
    reading: &mut Reading<'_>,
) {
    match endpoints {
        Field::Absent => reading.problem(
            name.place,
            "the key `endpoints` is missing",
            "add `endpoints:` or `discovery:`",
        ),
        Field::Given(list) if list.value.is_empty() && !registration.may_add_to(&name.value) => {
            reading.problem(
                list.head,
                "a server needs at least one endpoint",
                "write [http://10.0.0.1:8000/mcp], or add `discovery:`, or an admin token that may register some",
            );
        }
        Field::Given(_) | Field::Faulty => {}
    }
}

/// Where nothing is spoken to in TLS, nobody's certificate is checked, though it may look so.
fn note_no_tls(
    ca: Place,
    endpoints: &[Endpoint],
    discovery: Option<&Discovery>,
    reading: &mut Reading<'_>,
) {
    let is_plain = |endpoint: &Endpoint| endpoint.scheme == Scheme::Http;
    if discovery.is_none() && !endpoints.is_empty() && endpoints.iter().all(is_plain) {
        reading.problem(ca, "no endpoint here is spoken to in TLS", "write https:// in their URLs");
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
