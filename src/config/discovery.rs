//! Where endpoints are found that the configuration does not name: `discovery`, and the files it reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::endpoints::{Endpoint, EndpointText, check_all};
use super::kubernetes::{Cluster, Pods, PodsText};
use super::place::{Place, SourceId};
use super::problem::Problems;
use super::reading::Reading;
use super::shape::{At, Field, shape};
use super::tree::compose;
use super::url::Url;

/// Where endpoints are found while the gateway runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// Every address of the host of this URL is an endpoint.
    Dns(Endpoint),
    /// Every entry of this file, which [`endpoints_file`] reads, is an endpoint; the file exists.
    File(PathBuf),
    /// Every pod of this service is an endpoint.
    Kubernetes(Box<Pods>),
}

shape! {
    /// Where further endpoints are found; one of the three.
    DiscoveryText {
        /// A URL: every address of its host is an endpoint.
        optional dns: Url,
        /// A file that is watched: YAML, a list of the same form as `endpoints`, relative to this file.
        optional file: PathBuf,
        /// A service of Kubernetes: every pod of it that is ready is an endpoint.
        optional kubernetes: PodsText,
    }
}

/// Reads a file of endpoints: a list of URLs, or of URLs with their weight. No entry is `[]`, and not an empty file.
///
/// # Errors
/// Every problem found, never only the first.
pub fn endpoints_file(path: &Path) -> Result<Vec<Endpoint>, Problems> {
    let mut reading = Reading::new(&|_| None);
    let endpoints = reading
        .open(path, None)
        .and_then(|source| read(source, &mut reading))
        .map(|list| check_all(list, &mut reading));
    match endpoints {
        Some(endpoints) if reading.problems.is_empty() => Ok(endpoints),
        Some(_) | None => {
            Err(Problems::new(Arc::new(reading.texts.into_sources()), reading.problems))
        }
    }
}

fn read(source: SourceId, reading: &mut Reading<'_>) -> Option<Vec<Field<EndpointText>>> {
    let text = reading.texts.text(source);
    // Where a list written with dashes was cut, it is still a list, but of endpoints that nobody meant.
    if !text.trim_start().starts_with('[') && !text.is_empty() && !text.ends_with('\n') {
        reading.problem(
            Place::start(source),
            "the file does not end with a line break, so it may be half written",
            "write a new file beside it and rename it",
        );
    }
    let Some(root) = compose(source, reading) else {
        // Without a tree something is noted already, except for a text without any value.
        if reading.problems.is_empty() {
            reading.problem(
                Place::start(source),
                "the file is empty",
                "where there is no endpoint, write []",
            );
        }
        return None;
    };
    Field::read(&root, reading).value()
}

impl DiscoveryText {
    pub(super) fn check(
        self,
        head: Place,
        cluster: &Cluster,
        reading: &mut Reading<'_>,
    ) -> Option<Discovery> {
        let Self { dns, file, kubernetes } = self;
        let written = [dns.written(), file.written(), kubernetes.written()];
        if written.iter().flatten().count() > 1 {
            let second = written.into_iter().flatten().max()?;
            reading.problem(
                second,
                "endpoints are found in one way, and here are several",
                "keep one of `dns`, `file` and `kubernetes`",
            );
            return None;
        }
        match (dns, file, kubernetes) {
            (Field::Absent, Field::Absent, Field::Absent) => {
                reading.problem(
                    head,
                    "nothing says where endpoints are found",
                    "write `dns: URL`, `file: PATH` or `kubernetes: { service: NAMESPACE/NAME }`",
                );
                None
            }
            (Field::Given(dns), _, _) => dns_name(dns, reading).map(Discovery::Dns),
            (_, Field::Given(At { place, head: _, value }), _) => {
                Some(Discovery::File(reading.existing_file(place, &value)))
            }
            (_, _, kubernetes) => {
                let pods = kubernetes.value()?.check(cluster)?;
                Some(Discovery::Kubernetes(Box::new(pods)))
            }
        }
    }
}

/// An address is found already, so a URL with one is a mistake.
fn dns_name(url: At<Url>, reading: &mut Reading<'_>) -> Option<Endpoint> {
    if url.value.host.parse::<std::net::IpAddr>().is_ok() {
        reading.problem(
            url.place,
            "this names an address, so there is nothing to look up",
            "write it under `endpoints`",
        );
        return None;
    }
    Some(EndpointText::from(url).check())
}
