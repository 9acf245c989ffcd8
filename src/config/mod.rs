//! What is wanted: the YAML file becomes checked [`Settings`], or every problem in it is listed.

mod place;
mod problem;
mod texts;
mod reading;
mod environment;
mod tree;
mod shape;
mod pem;
mod scalars;
mod url;
mod secret;
mod links;
mod tls;
mod listeners;
mod admin;
mod cpu_quota;
mod runtime;
mod sessions;
mod shared;
mod endpoints;
mod kubernetes;
mod discovery;
mod balance;
mod resilience;
mod catalog;
mod cloud_identity;
mod credentials;
mod definitions;
mod servers;
mod federation_texts;
mod federation;
mod routes;
mod certificates;
mod tokens;
mod identity;
mod limits;
mod patterns;
mod policy;
mod policy_texts;
mod collector;
mod audit;
mod policy_rules;
mod telemetry;
mod include;
mod root;
mod immovable;
mod watch;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use admin::{Admin, Role, Token};
pub use audit::{Audit, AuditSink, KeptArguments, Otlp, WhenFull};
pub use balance::{Balance, HashKey, OnEndpointLoss};
pub use catalog::{Catalog, Listing, ServerCatalog};
pub use certificates::{CertificateName, Certificates};
pub use cloud_identity::{AzureIdentity, GcpMetadata, GcpToken};
pub use credentials::{
    ClientAuth, CredentialSource, Credentials, IdentityHeaders, TokenExchange, TokenRequest,
    WithoutToken,
};
pub use definitions::{Definitions, OnChange};
pub use discovery::{Discovery, endpoints_file};
pub use endpoints::{Endpoint, endpoint};
pub use federation::{
    Claims, Member, Naming, Override, PrefixOn, Selection, Servers, WhenDown, member_digest,
};
pub use identity::{Anonymous, ApiKey, Identity};
pub use include::wildcard_matches;
pub use kubernetes::{Cluster, Kubernetes, Pods, Port, Services, Watched};
pub use limits::{Allowance, Cost, KeyPart, Limit, Rate};
pub use listeners::{Listener, ListenerLimits, ProxyProtocol};
pub use patterns::{CallerClause, CallerPattern, METHODS, NamePattern};
pub use pem::PemFile;
pub use place::{Place, Sources};
pub use policy::{BySession, Combination, Label, Mode, Policy, Rule, RuleEffect, Subjects, When};
pub use problem::{Problem, Problems, nearest};
pub use resilience::{Breaker, Ejection, Health, Probe, Retries};
pub use routes::{Route, Target};
pub use runtime::Runtime;
pub use scalars::{duration, sha256};
pub use secret::Secret;
pub use servers::{Protocol, Server, Timeouts};
pub use sessions::{Reap, Sessions};
pub use shared::{Shared, Topology, WhenAway};
pub use telemetry::{Export, RequestLog, Telemetry};
pub use tls::{Certificate, ClientCertificate, ClientTls, Tls};
pub use tokens::{Algorithm, Introspection, Jwks, Jwt, KeySource, Meaning, TokenType};
pub use url::Scheme;
pub use watch::{Marks, Watch};

use reading::Reading;
use root::{Files, RootText};
use shape::Shape;

/// The checked configuration: nothing below this module needs to check any of it again.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// The address of the listener for probes and metrics.
    pub health: Option<SocketAddr>,
    /// The operator's listener.
    pub admin: Option<Admin>,
    /// What the process may use.
    pub runtime: Runtime,
    /// Where the gateway keeps what must outlive the process.
    pub state_dir: PathBuf,
    /// How MCP sessions are sealed, and when they end.
    pub sessions: Sessions,
    /// The store that replicas share, if there is one.
    pub shared: Option<Shared>,
    /// How the gateway knows what the servers offer.
    pub catalog: Catalog,
    /// The MCP servers, in the order of the files; at least one.
    pub servers: Vec<Server>,
    /// The public paths, in the order of the files; at least one.
    pub routes: Vec<Route>,
    /// Servers that were discovered and left out: the configuration has their name or their path.
    pub shadowed: Vec<String>,
    /// How Kubernetes is asked for endpoints and servers.
    pub kubernetes: Kubernetes,
    /// Who may call.
    pub identity: Identity,
    /// What callers may do.
    pub policy: Policy,
    /// How much is served.
    pub limits: Vec<Limit>,
    /// The record of what happened, if there is to be one.
    pub audit: Option<Audit>,
    /// What the gateway tells about itself.
    pub telemetry: Telemetry,
    /// The texts the settings came from, so that an engine's fault can show its line.
    pub sources: Arc<Sources>,
}

/// Reads a file with everything it includes and every secret file it names.
///
/// # Errors
/// Every problem found, never only the first.
pub fn load(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Problems> {
    load_with(path, environment, Beside::default())
}

/// What came to be while the gateway ran.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'b> {
    /// The file of servers and routes that were registered. It need not exist. Its server and path names
    /// must be new, as those of an included file.
    pub registered: Option<&'b Path>,
    /// A text of the same form with what was discovered. Whatever clashes is left out.
    pub discovered: Option<&'b str>,
}

/// The same, with what came to be while the gateway ran: its servers and routes come last.
///
/// # Errors
/// Every problem found, never only the first.
pub fn load_with(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    beside: Beside<'_>,
) -> Result<Settings, Problems> {
    let mut reading = Reading::new(environment);
    let Beside { registered, discovered } = beside;
    let files = Files { main: Some(path), registered, discovered };
    match reading.open(path, None) {
        Some(source) => root::settings(source, &files, reading),
        None => Err(Problems::new(Arc::new(reading.texts.into_sources()), reading.problems)),
    }
}

/// Reads a text; files that it names are relative to the working directory.
///
/// # Errors
/// Every problem found, never only the first.
pub fn parse(
    text: &str,
    file_name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Problems> {
    let mut reading = Reading::new(environment);
    let source = reading.texts.add(file_name.to_owned(), PathBuf::new(), text);
    root::settings(source, &Files::default(), reading)
}

/// The JSON Schema of the configuration, draft 2020-12, for editors.
#[must_use]
pub fn schema() -> String {
    let mut schema = RootText::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Toolgate".into();
    format!("{schema:#}\n")
}
