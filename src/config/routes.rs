//! The public paths and what answers them: `routes`.

use super::links::{ServerNames, note_duplicates};
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::Bytes;
use super::shape::{At, Field, Scalar, shape};
use super::url::Url;

/// What a route accepts where its configuration says nothing.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// And how much of a list is held to be filtered.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One public path.
#[derive(Debug, Clone)]
pub struct Route {
    /// The path, compared byte for byte; begins with `/`.
    pub path: String,
    /// The index of its server in `Settings::servers`.
    pub server: usize,
    /// The URL under which clients know it.
    pub public_url: Option<String>,
    /// The largest request body.
    pub body_bytes_max: usize,
    /// The largest list that is filtered for callers who may not see all of it.
    pub list_bytes_max: usize,
    /// Where the path stands.
    pub place: Place,
}

shape! {
    /// One public path.
    RouteText {
        /// The path, compared byte for byte.
        required path: RoutePath,
        /// The server that answers it.
        required server: String,
        /// The URL under which clients know it; never taken from the Host header.
        optional public_url: PublicUrl,
        /// The largest request body.
        optional body_bytes_max: Bytes,
        /// The largest list that is filtered for callers who may not see all of it.
        optional list_bytes_max: Bytes,
    }
}

#[derive(Debug, Clone)]
pub(super) struct RoutePath(String);

impl Scalar for RoutePath {
    const NAME: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = |message: &str, hint: &str| Err(Fault::new(message, hint));
        match text {
            _ if !text.starts_with('/') => fault("a path begins with /", "write it like /mcp"),
            _ if text.contains('?') => {
                fault("a path has no query", "remove the ? and what follows")
            }
            _ if text.contains('#') => {
                fault("a path has no fragment", "remove the # and what follows")
            }
            _ if text.contains("//") => fault("a path has no empty segment", "write a single /"),
            _ if text.split('/').any(|segment| matches!(segment, "." | "..")) => {
                fault("a path has no . or .. segment", "write the path that is meant")
            }
            _ if text == "/.well-known" || text.starts_with("/.well-known/") => {
                fault("the gateway answers /.well-known itself", "choose another path")
            }
            _ if text
                .bytes()
                .any(|byte| !byte.is_ascii_graphic() || b"\"<>\\^`{|}%*".contains(&byte)) =>
            {
                fault(
                    "the path holds a character that is not compared safely",
                    "use letters, digits, - . _ ~ and /",
                )
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// The identifier of a protected resource: kept as written but for the host.
#[derive(Debug, Clone)]
pub(super) struct PublicUrl(String);

impl Scalar for PublicUrl {
    const NAME: &'static str = "a URL";

    fn parse(text: &str) -> Result<Self, Fault> {
        let url = Url::parse(text)?;
        if url.path_and_query.contains('?') {
            return Err(Fault::new("a public URL has no query", "remove the ? and what follows"));
        }
        Ok(Self(url.with_path(&url.path_and_query)))
    }
}

/// Whether a route must say under which URL clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublicUrls {
    /// Tokens are checked to be meant for it.
    Needed,
    /// Nobody asks.
    Optional,
}

/// Checks the routes of all files.
pub(super) fn check(
    texts: Vec<Field<RouteText>>,
    servers: &ServerNames,
    public_urls: PublicUrls,
    reading: &mut Reading<'_>,
) -> Vec<Route> {
    let texts: Vec<RouteText> = texts.into_iter().filter_map(Field::value).collect();
    let paths = texts
        .iter()
        .filter_map(|text| text.path.as_given())
        .map(|path| (path.place, path.value.0.as_str()));
    note_duplicates(paths, "a route of this path is already defined", reading);
    let urls = texts
        .iter()
        .filter_map(|text| text.public_url.as_given())
        .map(|url| (url.place, url.value.0.as_str()));
    note_duplicates(urls, "another route has this public URL", reading);
    if public_urls == PublicUrls::Needed {
        for text in texts.iter().filter(|text| matches!(text.public_url, Field::Absent)) {
            let Some(path) = text.path.as_given() else { continue };
            reading.problem(
                path.place,
                "no token could be meant for this route: it has no public URL",
                "add `public_url`, or `audiences` to each issuer of tokens",
            );
        }
    }
    texts.into_iter().filter_map(|text| text.check(servers, reading)).collect()
}

impl RouteText {
    fn check(self, servers: &ServerNames, reading: &mut Reading<'_>) -> Option<Route> {
        let Self { path, server, public_url, body_bytes_max, list_bytes_max } = self;
        let server = server.given().and_then(|server| servers.resolve(&server, reading));
        let At { place, head: _, value: RoutePath(path) } = path.given()?;
        Some(Route {
            path,
            server: server?,
            public_url: public_url.value().map(|url| url.0),
            body_bytes_max: body_bytes_max.or(Bytes(BODY_BYTES_MAX)).0,
            list_bytes_max: list_bytes_max.or(Bytes(LIST_BYTES_MAX)).0,
            place,
        })
    }
}
