//! Where clients connect: `listen`, or `listeners` with TLS, allow-lists and limits.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::limits::Rate;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{Bytes, Count, choice_schema, parse_choice};
use super::shape::{At, Field, Scalar, shape};
use super::tls::{Tls, TlsText};
use super::url::{HostEntry, OriginEntry};

/// One address where clients connect.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The address to bind.
    pub address: SocketAddr,
    /// With TLS, or plain.
    pub tls: Option<Tls>,
    /// Hosts that `Host` may name, in lower case; an entry without a port means any port; empty means any host.
    pub allowed_hosts: Vec<String>,
    /// Origins that `Origin` may name, in lower case; an entry without a port means any port; empty means none.
    pub allowed_origins: Vec<String>,
    /// Networks whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: ProxyProtocol,
    /// Bounds of one connection.
    pub limits: ListenerLimits,
    /// Where the address stands.
    pub place: Place,
}

/// Whether connections begin with a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// They begin with a header of version 2.
    V2,
}

/// Bounds of one client connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Request line and headers together.
    pub head_bytes_max: usize,
    /// From the first byte of a request to the end of its head.
    pub head_timeout: Duration,
    /// The time a whole request body may take, and the longest wait for a client to take its answer.
    pub body_timeout: Duration,
    /// How long an idle keep-alive connection stays open.
    pub idle_timeout: Duration,
    /// Requests after which a connection is closed.
    pub requests_per_connection_max: u32,
    /// Concurrent streams of one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// Requests of one client address, whoever calls.
    pub requests_per_address: Option<Rate>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            requests_per_connection_max: 100_000,
            streams_per_connection_max: 100,
            requests_per_address: None,
        }
    }
}

shape! {
    /// One address where clients connect.
    ListenerText {
        /// The address to bind: an IP address and a port.
        required address: SocketAddr,
        /// Serve TLS, with HTTP/2 where the client offers it; plain without.
        optional tls: TlsText,
        /// Hosts that clients may name, any port unless one is given; on loopback by default the loopback names, else any host.
        optional allowed_hosts: Vec<Field<HostEntry>>,
        /// Web origins that may call, any port unless one is given; on loopback by default the loopback origins, else none.
        optional allowed_origins: Vec<Field<OriginEntry>>,
        /// Networks whose X-Forwarded-For is believed; none by default.
        optional trusted_proxies: Vec<Field<Network>>,
        /// Whether each connection begins with a PROXY protocol header: off or v2.
        optional proxy_protocol: ProxyProtocol,
        /// Bounds of one connection.
        optional limits: LimitsText,
    }
}

shape! {
    /// Bounds of one connection.
    LimitsText {
        /// Request line and headers together.
        optional head_bytes_max: Bytes,
        /// From the first byte of a request to the end of its head.
        optional head_timeout: Duration,
        /// The time a whole request body may take, and the longest wait for a client to take its answer.
        optional body_timeout: Duration,
        /// How long an idle keep-alive connection stays open.
        optional idle_timeout: Duration,
        /// Requests after which a connection is closed.
        optional requests_per_connection_max: Count,
        /// Concurrent streams of one HTTP/2 connection.
        optional streams_per_connection_max: Count,
        /// Requests of one client address (of IPv6 its /64), whoever calls: 200/s; unlimited by default.
        optional requests_per_address: Rate,
    }
}

/// A network, or one address.
#[derive(Debug, Clone)]
pub(super) struct Network(IpNet);

impl Scalar for Network {
    const NAME: &'static str = "a network";

    fn parse(text: &str) -> Result<Self, Fault> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) if network.trunc() == network => Ok(Self(network)),
            Ok(network) => Err(Fault::new(
                "this network has bits set behind its prefix",
                format!("write {}", network.trunc()),
            )),
            Err(_) => Err(Fault::new(
                "this is not a network",
                "write 10.0.0.0/8, 2001:db8::/32 or one address",
            )),
        }
    }
}

impl Scalar for ProxyProtocol {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, PROXY_PROTOCOLS)
    }

    fn schema() -> Value {
        choice_schema(PROXY_PROTOCOLS)
    }
}

const PROXY_PROTOCOLS: &[(&str, ProxyProtocol)] =
    &[("off", ProxyProtocol::Off), ("v2", ProxyProtocol::V2)];

impl Listener {
    /// A listener of which only the address is given.
    pub(super) fn at(address: &At<SocketAddr>) -> Self {
        let loopback = address.value.ip().is_loopback();
        let names = if loopback { ["localhost", "127.0.0.1", "[::1]"].as_slice() } else { &[] };
        Self {
            address: address.value,
            tls: None,
            allowed_hosts: names.iter().map(|name| (*name).to_owned()).collect(),
            allowed_origins: names
                .iter()
                .flat_map(|name| [format!("http://{name}"), format!("https://{name}")])
                .collect(),
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::default(),
            limits: ListenerLimits::default(),
            place: address.place,
        }
    }
}

impl ListenerText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Option<Listener> {
        let Self {
            address,
            tls,
            allowed_hosts,
            allowed_origins,
            trusted_proxies,
            proxy_protocol,
            limits,
        } = self;
        let tls = tls.given().and_then(|tls| tls.value.check(tls.head, reading));
        let hosts = allowed_hosts.given();
        if let Some(hosts) = hosts.as_ref().filter(|hosts| hosts.value.is_empty()) {
            reading.problem(
                hosts.place,
                "no host could be named, so no request could be served",
                "name the hosts, or leave the key out",
            );
        }
        let address = address.given()?;
        let default = Listener::at(&address);
        Some(Listener {
            tls,
            allowed_hosts: hosts.map_or(default.allowed_hosts, |hosts| {
                values(hosts.value).map(|host| host.0).collect()
            }),
            allowed_origins: match allowed_origins.value() {
                Some(origins) => values(origins).map(|origin| origin.0).collect(),
                None => default.allowed_origins,
            },
            trusted_proxies: trusted_proxies
                .value()
                .into_iter()
                .flat_map(values)
                .map(|network| network.0)
                .collect(),
            proxy_protocol: proxy_protocol.or(default.proxy_protocol),
            limits: limits.value().map_or(default.limits, LimitsText::check),
            address: default.address,
            place: default.place,
        })
    }
}

impl LimitsText {
    fn check(self) -> ListenerLimits {
        let Self {
            head_bytes_max,
            head_timeout,
            body_timeout,
            idle_timeout,
            requests_per_connection_max,
            streams_per_connection_max,
            requests_per_address,
        } = self;
        let default = ListenerLimits::default();
        ListenerLimits {
            head_bytes_max: head_bytes_max.or(Bytes(default.head_bytes_max)).0,
            head_timeout: head_timeout.or(default.head_timeout),
            body_timeout: body_timeout.or(default.body_timeout),
            idle_timeout: idle_timeout.or(default.idle_timeout),
            requests_per_connection_max: requests_per_connection_max
                .or(Count(default.requests_per_connection_max))
                .0,
            streams_per_connection_max: streams_per_connection_max
                .or(Count(default.streams_per_connection_max))
                .0,
            requests_per_address: requests_per_address.value(),
        }
    }
}

fn values<T>(fields: Vec<Field<T>>) -> impl Iterator<Item = T> {
    fields.into_iter().filter_map(Field::value)
}
