//! What replicas of the gateway have in common, and the store that keeps it: `shared`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::Settings;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{choice_schema, parse_choice};
use super::secret::Secret;
use super::sessions::Sessions;
use super::shape::{At, Scalar, shape};

/// The schemes of a store's address, and what the client library calls them.
const SCHEMES: [(&str, &str); 4] = [
    ("redis://", "redis://"),
    ("rediss://", "rediss://"),
    ("valkey://", "redis://"),
    ("valkeys://", "rediss://"),
];
const WAIT: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_secs(1);
const PREFIX: &str = "toolgate";
const PREFIX_CHARS_MAX: usize = 64;

/// The store that replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Where it is, as `redis://` or `rediss://`, perhaps with a name and a password.
    pub redis: Secret,
    /// Whether it is one server or a cluster.
    pub topology: Topology,
    /// Who signs its certificate, where not one of the system's authorities does.
    pub ca: Option<PathBuf>,
    /// How long a request may wait for it.
    pub wait: Duration,
    /// What every key begins with.
    pub prefix: String,
    /// What becomes of calls that a combination rule looks at while the store is away.
    pub combinations: WhenAway,
    /// Where the file names it.
    pub place: Place,
}

/// Whether the store is one server or a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One server, perhaps with replicas behind one address.
    Single,
    /// A cluster, of which the address names one node.
    Cluster,
}

/// What becomes of calls that a combination rule looks at while the store is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAway {
    /// They are refused: nobody knows what their caller did at another replica.
    Closed,
    /// Each replica goes by what it has seen itself.
    Open,
}

impl Settings {
    /// What replicas of this gateway would not have in common although they are likely: keys of
    /// sessions are only of use to several.
    #[must_use]
    pub fn unshared(&self) -> Option<String> {
        if self.sessions.keys.is_empty() || self.shared.is_some() {
            return None;
        }
        let parts = [
            (!self.limits.is_empty(), "limits"),
            (!self.policy.combinations.is_empty(), "what combination rules remember"),
            (true, "moves and last use of sessions"),
            (self.admin.is_some(), "registrations, drains and approvals"),
        ];
        let parts: Vec<&str> =
            parts.into_iter().filter(|(has, _)| *has).map(|(_, part)| part).collect();
        Some(format!(
            "sessions.keys are set, so several replicas are likely, but there is no `shared` store: each has its own {}",
            parts.join(", ")
        ))
    }
}

shape! {
    /// What replicas of the gateway have in common, and the store that keeps it.
    SharedText {
        /// The address of a Redis or Valkey server, redis:// or with TLS rediss://, perhaps with `user:password@`.
        required redis: Secret,
        /// Whether that is one server or a node of a cluster: single or cluster.
        optional topology: Topology,
        /// Who signs the certificate of the server, in PEM; the authorities of the system by default.
        optional ca: PathBuf,
        /// How long a request may wait for the store, at most 1s.
        optional wait: Duration,
        /// What every key in the store begins with: gateways of one prefix are one gateway.
        optional prefix: String,
        /// What becomes of calls that a combination rule looks at while the store is away: closed (refused) or open.
        optional combinations: WhenAway,
    }
}

const TOPOLOGIES: &[(&str, Topology)] =
    &[("single", Topology::Single), ("cluster", Topology::Cluster)];
const WHEN_AWAY: &[(&str, WhenAway)] = &[("closed", WhenAway::Closed), ("open", WhenAway::Open)];

impl Scalar for Topology {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, TOPOLOGIES)
    }

    fn schema() -> Value {
        choice_schema(TOPOLOGIES)
    }
}

impl Scalar for WhenAway {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, WHEN_AWAY)
    }

    fn schema() -> Value {
        choice_schema(WHEN_AWAY)
    }
}

impl SharedText {
    pub(super) fn check(
        self,
        place: Place,
        sessions: Option<&Sessions>,
        reading: &mut Reading<'_>,
    ) -> Option<Shared> {
        let Self { redis, topology, ca, wait, prefix, combinations } = self;
        // What others must not read is sealed with the keys of sessions, and replicas have them in common.
        if sessions.is_some_and(|sessions| sessions.keys.is_empty()) {
            reading.problem(
                place,
                "replicas share nothing without a key in common",
                "add `sessions: { keys: [...] }`, the same for all of them",
            );
        }
        let redis = redis.given().and_then(|redis| address(redis, reading));
        let ca = ca.given().map(|ca| (ca.head, reading.existing_file(ca.place, &ca.value)));
        let is_plain = |redis: &Secret| redis.expose().starts_with("redis://");
        if let Some((head, _)) = ca.as_ref().filter(|_| redis.as_ref().is_some_and(is_plain)) {
            reading.problem(*head, "this store is spoken to without TLS", "write rediss://");
        }
        let wait = wait.given().map_or(WAIT, |wait| {
            if !(Duration::from_millis(1)..=WAIT_MAX).contains(&wait.value) {
                reading.problem(wait.place, "the wait is 1ms to 1s", "leave it out for 10ms");
            }
            wait.value
        });
        let prefix = prefix.given().map_or_else(
            || PREFIX.to_owned(),
            |prefix| {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                let text = &prefix.value;
                if !(1..=PREFIX_CHARS_MAX).contains(&text.len()) || !text.bytes().all(allowed) {
                    let hint = "write 1 to 64 letters, digits, `.`, `_` and `-`";
                    reading.problem(prefix.place, "this cannot begin a key", hint);
                }
                prefix.value
            },
        );
        Some(Shared {
            redis: redis?,
            topology: topology.or(Topology::Single),
            ca: ca.map(|(_, path)| path),
            wait,
            prefix,
            combinations: combinations.or(WhenAway::Closed),
            place,
        })
    }
}

/// The address as the client library writes it.
fn address(redis: At<Secret>, reading: &mut Reading<'_>) -> Option<Secret> {
    let text = redis.value.expose();
    let known = SCHEMES.iter().find_map(|(scheme, is)| Some((text.strip_prefix(scheme)?, *is)));
    match known {
        Some((rest, scheme)) if !rest.is_empty() => Some(format!("{scheme}{rest}").into()),
        _ => {
            reading.problem(
                redis.place,
                "this is no address of a store",
                "write redis://valkey:6379, or with TLS rediss://valkey:6379",
            );
            None
        }
    }
}
