//! Whether and how often servers are asked what they offer: `catalog`.

use std::time::Duration;

use serde_json::Value;

use super::reading::Fault;
use super::scalars::{DurationOrZero, choice_schema, parse_choice};
use super::shape::{Scalar, shape};

/// How the gateway knows what the servers offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// For servers that say nothing else.
    pub servers: ServerCatalog,
    /// How long the gateway waits for the first lists before it is ready; zero means not at all.
    pub ready_within: Duration,
}

/// How the gateway knows what one server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCatalog {
    /// Whether it asks.
    pub listing: Listing,
    /// How often it asks again where the server does not say how long its lists stay as they are.
    pub refresh: Duration,
}

/// Whether a server is asked what it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listing {
    /// It is.
    #[default]
    On,
    /// It is not, so nothing is known of what it offers.
    Off,
}

impl Default for Catalog {
    fn default() -> Self {
        let servers =
            ServerCatalog { listing: Listing::default(), refresh: Duration::from_secs(5 * 60) };
        Self { servers, ready_within: Duration::from_secs(3) }
    }
}

shape! {
    /// Whether and how often servers are asked what they offer.
    CatalogText {
        /// Whether the gateway asks servers what they offer: on or off.
        optional listing: Listing,
        /// How often a server is asked again that does not say how long its lists stay as they are.
        optional refresh: Duration,
        /// How long the gateway waits for the first lists before it is ready; 0s means not at all.
        optional ready_within: DurationOrZero,
    }
}

shape! {
    /// Whether and how often this server is asked what it offers.
    ServerCatalogText {
        /// Whether the gateway asks this server: on or off; what the section catalog says by default.
        optional listing: Listing,
        /// How often it is asked again if it does not say how long its lists stay as they are; what the section catalog says by default.
        optional refresh: Duration,
    }
}

const LISTINGS: &[(&str, Listing)] = &[("on", Listing::On), ("off", Listing::Off)];

impl Scalar for Listing {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, LISTINGS)
    }

    fn schema() -> Value {
        choice_schema(LISTINGS)
    }
}

impl CatalogText {
    pub(super) fn check(self) -> Catalog {
        let Self { listing, refresh, ready_within } = self;
        let default = Catalog::default();
        let servers = ServerCatalog {
            listing: listing.or(default.servers.listing),
            refresh: refresh.or(default.servers.refresh),
        };
        Catalog { servers, ready_within: ready_within.or(DurationOrZero(default.ready_within)).0 }
    }
}

impl ServerCatalogText {
    pub(super) fn check(self, all: &ServerCatalog) -> ServerCatalog {
        let Self { listing, refresh } = self;
        ServerCatalog { listing: listing.or(all.listing), refresh: refresh.or(all.refresh) }
    }
}
