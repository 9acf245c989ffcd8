//! Where endpoints are found that the configuration does not name: `discovery`, and the files it reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::endpoints::{Endpoint, EndpointText, check_all};
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
}

shape! {
    /// Where further endpoints are found; one of the two.
    DiscoveryText {
        /// A URL: every address of its host is an endpoint.
        optional dns: Url,
        /// A file that is watched: YAML, a list of the same form as `endpoints`, relative to this file.
        optional file: PathBuf,
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
    pub(super) fn check(self, head: Place, reading: &mut Reading<'_>) -> Option<Discovery> {
        match (self.dns, self.file) {
            (Field::Absent, Field::Absent) => {
                reading.problem(
                    head,
                    "nothing says where endpoints are found",
                    "write `dns: URL` or `file: PATH`",
                );
                None
            }
            (Field::Given(_), Field::Given(file)) => {
                reading.problem(file.head, "`dns` and `file` are both given", "remove one of them");
                None
            }
            (Field::Given(dns), _) => dns_name(dns, reading).map(Discovery::Dns),
            (_, file) => {
                let At { place, head: _, value } = file.given()?;
                Some(Discovery::File(reading.existing_file(place, &value)))
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
