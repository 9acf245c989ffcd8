//! How Kubernetes is asked for endpoints and servers: `kubernetes`, and `discovery: { kubernetes }` of a server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::endpoints::Endpoint;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::routes::PublicUrls;
use super::scalars::{choice_schema, number_schema, parse_choice};
use super::shape::{At, Field, Scalar, shape};
use super::url::{Scheme, Url};

/// Where Kubernetes puts the token and the certificate of a pod's account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where pods of MCP servers answer, unless somebody says otherwise.
const PATH: &str = "/mcp";
/// A pod has 30 seconds to stop unless it says otherwise: its sessions move before that.
const DRAIN: Duration = Duration::from_secs(25);
/// What the public paths of services begin with.
const PATH_PREFIX: &str = "/services";
/// What makes a service a server.
const LABEL: &str = "toolgate.dev/server=true";
/// Names of namespaces and services are DNS labels.
const LABEL_CHARS_MAX: usize = 63;
/// Every namespace is watched apart.
const NAMESPACES_MAX: usize = 100;

/// How Kubernetes is asked, and which of its services become servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Its API server.
    pub cluster: Cluster,
    /// Which services become servers; none without it.
    pub services: Option<Services>,
}

/// An API server, and who the gateway is to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Its URL; what a pod is told in its environment by default.
    pub api: Option<String>,
    /// A folder with `token` and `ca.crt`.
    pub account: PathBuf,
}

/// Which services become servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Where they may be, each once; at least one.
    pub namespaces: Vec<String>,
    /// The label that they carry, as a selector.
    pub label: String,
    /// Where services are looked for.
    pub watch: Watched,
    /// What their public paths begin with; no `/` at its end.
    pub path: String,
    /// The URL in front of those paths, as clients know it; no `/` at its end.
    pub public_url: Option<String>,
    /// How long sessions may stay at a service that is gone.
    pub drain: Duration,
    /// Where the section stands.
    pub place: Place,
}

/// Where services are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watched {
    /// In the namespaces that are approved.
    #[default]
    Namespaces,
    /// Everywhere, so that those in other namespaces can be reported.
    Cluster,
}

/// A service whose pods are endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pods {
    /// Who is asked.
    pub cluster: Cluster,
    /// The service's namespace.
    pub namespace: String,
    /// The service's name.
    pub service: String,
    /// Which port of the pods; their only one, if absent.
    pub port: Option<Port>,
    /// Plain or TLS.
    pub scheme: Scheme,
    /// The path that requests go to; begins with `/`.
    pub path: String,
    /// How long sessions may stay at a pod that is being stopped.
    pub drain: Duration,
}

/// A port of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Its number, at the pods.
    Number(u16),
    /// Its name, as the service calls it.
    Name(String),
}

shape! {
    /// How Kubernetes is asked for endpoints and servers; the gateway must be built with the feature `kubernetes`.
    KubernetesText {
        /// The URL of the API server: https, or http on this machine, as `kubectl proxy` serves it; in a pod it is known.
        optional api: Url,
        /// A folder with the files token and ca.crt, as Kubernetes mounts them; relative to this file.
        optional account: PathBuf,
        /// Which services become servers by themselves.
        optional services: ServicesText,
    }
}

shape! {
    /// Which services become servers by themselves.
    ServicesText {
        /// The namespaces that may bring servers; those of others are left alone.
        required namespaces: Vec<Field<Label>>,
        /// The label of the services, as KEY=VALUE.
        optional label: Selector,
        /// Where services are looked for: namespaces (those that are approved) or cluster (everywhere, so that others are reported).
        optional watch: Watched,
        /// What public paths begin with: a service is served at PATH/NAMESPACE/NAME.
        optional path: Prefix,
        /// The URL in front of these paths, as clients know it; tokens are checked to be meant for it.
        optional public_url: Url,
        /// How long sessions may stay at a service that is gone.
        optional drain: Duration,
    }
}

shape! {
    /// A service of Kubernetes whose pods are endpoints.
    PodsText {
        /// The service, as NAMESPACE/NAME.
        required service: ServiceName,
        /// The port of the pods: its number, or its name in the service; needed where there are several.
        optional port: Port,
        /// How the pods are spoken to: http or https.
        optional scheme: Scheme,
        /// The path that requests go to.
        optional path: PodPath,
        /// How long sessions may stay at a pod that is being stopped.
        optional drain: Duration,
    }
}

/// One name of Kubernetes.
#[derive(Debug, Clone)]
pub(super) struct Label(String);

#[derive(Debug, Clone)]
pub(super) struct Selector(String);

#[derive(Debug, Clone)]
pub(super) struct Prefix(String);

#[derive(Debug, Clone)]
pub(super) struct ServiceName(String, String);

#[derive(Debug, Clone)]
pub(super) struct PodPath(String);

const SCHEMES: &[(&str, Scheme)] = &[("http", Scheme::Http), ("https", Scheme::Https)];
const WATCHED: &[(&str, Watched)] =
    &[("namespaces", Watched::Namespaces), ("cluster", Watched::Cluster)];

impl Default for Kubernetes {
    fn default() -> Self {
        Self { cluster: Cluster { api: None, account: PathBuf::from(ACCOUNT) }, services: None }
    }
}

impl Pods {
    /// The endpoint at one of the pods, spoken to by the name of the service; its URL is that name's.
    #[must_use]
    pub fn endpoint(&self, port: u16) -> Endpoint {
        let host = format!("{}.{}.svc", self.service, self.namespace);
        let url = Url {
            scheme: self.scheme,
            host: host.clone(),
            port,
            path_and_query: self.path.clone(),
        };
        Endpoint {
            url: url.with_path(&self.path),
            scheme: self.scheme,
            authority: url.authority(),
            host,
            port,
            path: self.path.clone(),
            weight: 1,
            place: Place::default(),
        }
    }
}

/// Whether Kubernetes could have this as the name of a namespace or a service.
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_CHARS_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl Scalar for Label {
    const NAME: &'static str = "a name";

    fn parse(text: &str) -> Result<Self, Fault> {
        match is_label(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(Fault::new(
                "this is no name of Kubernetes",
                "use lower case letters, digits and -, at most 63 in all",
            )),
        }
    }
}

impl Scalar for ServiceName {
    const NAME: &'static str = "a service";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_label(name) => {
                Ok(Self(namespace.to_owned(), name.to_owned()))
            }
            _ => Err(Fault::new("this is not a service", "write NAMESPACE/NAME")),
        }
    }
}

impl Scalar for Port {
    const NAME: &'static str = "a port";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text.parse() {
            Ok(1..) if text.starts_with('+') => {}
            Ok(number @ 1..) => return Ok(Self::Number(number)),
            Ok(0) => {}
            Err(_) if is_label(text) && text.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
                return Ok(Self::Name(text.to_owned()));
            }
            Err(_) => {}
        }
        Err(Fault::new("this is no port", "write a number from 1 to 65535, or the port's name"))
    }

    fn schema() -> Value {
        json!({ "anyOf": [number_schema(1..=65535), { "type": "string" }] })
    }
}

impl Scalar for Selector {
    const NAME: &'static str = "a label";

    fn parse(text: &str) -> Result<Self, Fault> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        match text.split_once('=') {
            Some((key, value))
                if !key.is_empty() && key.bytes().chain(value.bytes()).all(allowed) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => {
                Err(Fault::new("this is not a label", format!("write KEY=VALUE, such as {LABEL}")))
            }
        }
    }
}

impl Scalar for Prefix {
    const NAME: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, Fault> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~/".contains(&byte);
        let is_good = text.starts_with('/')
            && text.bytes().all(allowed)
            && text.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
            && !text.starts_with("/.well-known");
        match (text, is_good) {
            ("/", _) => Ok(Self(String::new())),
            (_, true) => Ok(Self(text.to_owned())),
            _ => Err(Fault::new("this is no beginning of a path", "write / or one like /services")),
        }
    }
}

impl Scalar for PodPath {
    const NAME: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, Fault> {
        if !text.starts_with('/') {
            return Err(Fault::new("a path begins with /", "write it like /mcp"));
        }
        // What a URL may hold, this may hold.
        let Url { path_and_query, .. } = Url::parse(&format!("http://pod{text}"))?;
        Ok(Self(path_and_query))
    }
}

impl Scalar for Scheme {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, SCHEMES)
    }

    fn schema() -> Value {
        choice_schema(SCHEMES)
    }
}

impl Scalar for Watched {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, WATCHED)
    }

    fn schema() -> Value {
        choice_schema(WATCHED)
    }
}

impl KubernetesText {
    pub(super) fn check(self, public_urls: PublicUrls, reading: &mut Reading<'_>) -> Kubernetes {
        let Self { api, account, services } = self;
        let default = Kubernetes::default();
        let api = api.given().and_then(|api| check_api(api, reading));
        let account = account.given().map_or(default.cluster.account, |account| {
            reading.resolve(account.place, &account.value)
        });
        let services = services.given().and_then(|services| {
            let At { head, value, .. } = services;
            value.check(head, public_urls, reading)
        });
        Kubernetes { cluster: Cluster { api, account }, services }
    }
}

/// A token that is sent in the clear is everybody's.
fn check_api(api: At<Url>, reading: &mut Reading<'_>) -> Option<String> {
    let At { place, head: _, value: url } = api;
    let is_here = url.host == "localhost"
        || url.host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if url.scheme == Scheme::Http && !is_here {
        reading.problem(place, "the token would be sent in the clear", "use https");
        return None;
    }
    if !matches!(url.path_and_query.as_str(), "" | "/") {
        reading.problem(place, "the URL of an API server has no path here", "remove the path");
        return None;
    }
    Some(url.with_path(""))
}

impl ServicesText {
    fn check(
        self,
        head: Place,
        public_urls: PublicUrls,
        reading: &mut Reading<'_>,
    ) -> Option<Services> {
        let Self { namespaces, label, watch, path, public_url, drain } = self;
        if public_urls == PublicUrls::Needed && matches!(public_url, Field::Absent) {
            reading.problem(
                head,
                "no token could be meant for these routes: they have no public URL",
                "add `public_url`, or `audiences` to each issuer of tokens",
            );
        }
        let namespaces = namespaces.given()?;
        if namespaces.value.is_empty() || namespaces.value.len() > NAMESPACES_MAX {
            reading.problem(
                namespaces.head,
                format!("1 to {NAMESPACES_MAX} namespaces are needed here"),
                "write [team-a, team-b], or remove `services`",
            );
        }
        let names = namespaces.value.into_iter().filter_map(Field::value).map(|name| name.0);
        let mut namespaces: Vec<String> = names.collect();
        namespaces.sort();
        namespaces.dedup();
        Some(Services {
            namespaces,
            label: label.or(Selector(LABEL.to_owned())).0,
            watch: watch.or(Watched::default()),
            path: path.or(Prefix(PATH_PREFIX.to_owned())).0,
            public_url: public_url.value().map(|url| {
                let path = url.path_and_query.trim_end_matches('/').to_owned();
                url.with_path(&path)
            }),
            drain: drain.or(DRAIN),
            place: head,
        })
    }
}

impl PodsText {
    pub(super) fn check(self, cluster: &Cluster) -> Option<Pods> {
        let Self { service, port, scheme, path, drain } = self;
        let ServiceName(namespace, service) = service.value()?;
        Some(Pods {
            cluster: cluster.clone(),
            namespace,
            service,
            port: port.value(),
            scheme: scheme.or(Scheme::Http),
            path: path.or(PodPath(PATH.to_owned())).0,
            drain: drain.or(DRAIN),
        })
    }
}
