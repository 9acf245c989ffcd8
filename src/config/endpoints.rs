//! Where a server runs: its endpoints, written down.

use serde_json::{Value, json};

use super::links::note_duplicates;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::number_schema;
use super::shape::{At, Field, Scalar, Shape, shape};
use super::tree::{Kind, Node};
use super::url::{Scheme, Url};

/// A larger weight means a ring of points that only costs memory.
const WEIGHT_MAX: u32 = 256;

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
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

shape! {
    /// A URL with its weight.
    WeightedText {
        /// The URL: http or https, without user name and fragment.
        required url: Url,
        /// Its share of the calls, 1 to 256.
        optional weight: Weight,
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
        Some(Self::from(At { place: node.place, head: node.head, value: url }))
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
        number_schema(1..=WEIGHT_MAX)
    }
}

impl From<At<Url>> for EndpointText {
    fn from(url: At<Url>) -> Self {
        Self { url, weight: None }
    }
}

/// An endpoint that no file names, checked as if one did.
///
/// # Errors
/// What is wrong with it, in words.
pub fn endpoint(url: &str, weight: u32) -> Result<Endpoint, String> {
    let place = Place::default();
    let value = Url::parse(url).map_err(Fault::into_text)?;
    let Weight(weight) = Weight::parse(&weight.to_string()).map_err(Fault::into_text)?;
    Ok(EndpointText { url: At { place, head: place, value }, weight: Some(weight) }.check())
}

/// Checks the endpoints of one list, which may be empty.
pub(super) fn check_all(
    list: Vec<Field<EndpointText>>,
    reading: &mut Reading<'_>,
) -> Vec<Endpoint> {
    let endpoints: Vec<Endpoint> =
        list.into_iter().filter_map(Field::value).map(EndpointText::check).collect();
    let urls = endpoints.iter().map(|endpoint| (endpoint.place, endpoint.url.as_str()));
    note_duplicates(urls, "this endpoint is already in the list", reading);
    endpoints
}

impl EndpointText {
    pub(super) fn check(self) -> Endpoint {
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
