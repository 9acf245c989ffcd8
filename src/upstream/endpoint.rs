//! One address of a server: what a request to it needs, and how it stands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::upstreams::peer::HttpPeer;
use ring::digest::{SHA256, digest};

use super::standing::Standing;
use crate::config::{self, PemFile, Protocol, Scheme, Timeouts};
use crate::tls::Trust;

/// How long an HTTP/2 connection without streams is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// An endpoint that vanished without a word is noticed within 30 seconds (RELIABILITY.md F23).
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(15),
    interval: Duration::from_secs(5),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::from_secs(30),
};

/// One endpoint. Its identity is its URL, whatever addresses the name resolves to.
#[derive(Debug)]
pub struct Endpoint {
    id: u64,
    settings: config::Endpoint,
    protocol: Protocol,
    connect_timeout: Duration,
    ca: Option<PemFile>,
    trust: Option<Trust>,
    address: Address,
    peer: ArcSwapOption<HttpPeer>,
    standing: Arc<Standing>,
}

/// Where an endpoint's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Its host: an address, or a name that is looked up.
    OfHost,
    /// Somebody who knows, such as the name that discovered it.
    Given(SocketAddr),
}

impl Endpoint {
    /// An endpoint that is not resolved yet, unless its address is known.
    pub fn new(
        settings: &config::Endpoint,
        server: &config::Server,
        address: Address,
        standing: Arc<Standing>,
    ) -> Self {
        let Timeouts { connect: connect_timeout, .. } = server.timeouts;
        let endpoint = Self {
            id: id_of(&settings.url),
            settings: settings.clone(),
            protocol: server.protocol,
            connect_timeout,
            ca: server.ca.clone(),
            trust: server.ca.as_ref().map(Trust::of),
            address,
            peer: ArcSwapOption::empty(),
            standing,
        };
        match address {
            Address::Given(address) => endpoint.resolved_to(address),
            Address::OfHost => {
                if let Ok(address) = endpoint.settings.host.parse() {
                    endpoint.resolved_to(SocketAddr::new(address, endpoint.settings.port));
                }
            }
        }
        endpoint
    }

    /// Whether this endpoint, made of other settings, can go on as it is.
    pub(super) fn is_made_of(
        &self,
        settings: &config::Endpoint,
        server: &config::Server,
        address: Address,
    ) -> bool {
        self.settings.url == settings.url
            && self.settings.weight == settings.weight
            && self.settings.authority == settings.authority
            && self.protocol == server.protocol
            && self.connect_timeout == server.timeouts.connect
            && self.ca == server.ca
            && self.address == address
    }

    /// The digest of the URL that session ids carry.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What its idle connections are kept under: none is used again once others must vouch for it.
    pub fn connections_key(&self) -> u64 {
        self.id ^ self.trust.as_ref().map_or(0, |trust| trust.id)
    }

    /// The URL, which is the endpoint's name everywhere.
    pub fn url(&self) -> &str {
        &self.settings.url
    }

    /// The path and query that requests go to.
    pub fn path(&self) -> &str {
        &self.settings.path
    }

    /// What the server expects in `Host`.
    pub fn authority(&self) -> &str {
        &self.settings.authority
    }

    /// The host and port to resolve; `None` if there is nothing to resolve.
    pub fn name(&self) -> Option<(&str, u16)> {
        let is_name = self.address == Address::OfHost
            && self.settings.host.parse::<std::net::IpAddr>().is_err();
        is_name.then_some((&self.settings.host, self.settings.port))
    }

    /// The share of new sessions, relative to the pool's other endpoints.
    pub fn weight(&self) -> u32 {
        self.settings.weight
    }

    /// How to connect; `None` while the name does not resolve.
    pub fn peer(&self) -> Option<Arc<HttpPeer>> {
        self.peer.load_full()
    }

    /// The address it is at, if that is known.
    pub(super) fn ip(&self) -> Option<std::net::IpAddr> {
        self.peer.load().as_ref()?._address.as_inet().map(SocketAddr::ip)
    }

    /// Whether its address is known.
    pub fn is_resolved(&self) -> bool {
        self.peer.load().is_some()
    }

    /// Whether the endpoint is spoken to in HTTP/2.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// How it stands.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// Takes a new address, if it is one.
    pub fn resolved_to(&self, address: SocketAddr) {
        let current = self.peer.load();
        if current.as_ref().is_some_and(|peer| peer._address.as_inet() == Some(&address)) {
            return;
        }
        let tls = self.settings.scheme == Scheme::Https;
        let mut peer = HttpPeer::new(address, tls, self.settings.host.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(self.connect_timeout);
        options.total_connection_timeout = Some(self.connect_timeout);
        options.idle_timeout = Some(IDLE_MAX);
        options.tcp_keepalive = Some(KEEPALIVE);
        options.max_h2_streams = 100;
        options.ca = self.trust.as_ref().map(|trust| Arc::clone(&trust.certificates));
        if self.protocol == Protocol::Http2 {
            options.set_http_version(2, 2);
        }
        // A connection that others have vouched for is none of this endpoint's.
        peer.group_key = self.trust.as_ref().map_or(0, |trust| trust.id);
        self.peer.store(Some(Arc::new(peer)));
    }

    /// Takes over the address that another object for the same URL had found.
    pub(super) fn resolved_like(&self, other: &Self) {
        let known = other.peer.load().as_ref().and_then(|peer| peer._address.as_inet().copied());
        if let Some(address) = known.filter(|_| self.name().is_some()) {
            self.resolved_to(address);
        }
    }
}

/// An endpoint's identity: the start of the digest of its URL.
pub fn id_of(url: &str) -> u64 {
    let digest = digest(&SHA256, url.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    u64::from_le_bytes(first)
}
