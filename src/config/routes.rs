//! The public paths and what answers them: `routes`.

use super::federation::{self, Member, Servers, WhenDown};
use super::federation_texts::MemberText;
use super::links::{ServerNames, note_duplicates};
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{Bytes, Count};
use super::shape::{At, Field, Scalar, shape};
use super::url::Url;

/// What a route accepts where its configuration says nothing.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// And how much of a list is held to be filtered.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Definitions on one page of a list that is put together; more than most clients ever meet.
const LIST_PAGE_MAX: usize = 1000;

/// One public path.
#[derive(Debug, Clone)]
pub struct Route {
    /// The path, compared byte for byte; begins with `/`.
    pub path: String,
    /// What answers it.
    pub target: Target,
    /// The URL under which clients know it.
    pub public_url: Option<String>,
    /// The largest request body.
    pub body_bytes_max: usize,
    /// The largest list that is filtered for callers who may not see all of it.
    pub list_bytes_max: usize,
    /// Where the path stands.
    pub place: Place,
}

/// What answers a route.
#[derive(Debug, Clone)]
pub enum Target {
    /// The index of its server in `Settings::servers`.
    Server(usize),
    /// Several servers, shown as one.
    Servers(Servers),
}

impl Route {
    /// The indices of its servers in `Settings::servers`, in the order of the file.
    pub fn servers(&self) -> Vec<usize> {
        match &self.target {
            Target::Server(server) => vec![*server],
            Target::Servers(servers) => {
                servers.members.iter().map(|member| member.server).collect()
            }
        }
    }
}

shape! {
    /// One public path.
    RouteText {
        /// The path, compared byte for byte.
        required path: RoutePath,
        /// The server that answers it; exactly one of `server` and `servers` is needed.
        optional server: String,
        /// Several servers that are shown as one, in the order in which lists show them.
        optional servers: Vec<Field<MemberText>>,
        /// What lists show of one of several servers that is down: keep (what it offered last) or leave_out.
        optional when_down: WhenDown,
        /// How many definitions of several servers one page of a list holds.
        optional list_page_max: Count,
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
    /// Whether both cannot be routes of one gateway.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        let path = |text: &Self| text.path.as_value().map(|path| path.0.clone());
        let url = |text: &Self| text.public_url.as_value().map(|url| url.0.clone());
        (path(self).is_some() && path(self) == path(other))
            || (url(self).is_some() && url(self) == url(other))
    }

    /// The one server that answers it.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.server.as_value().map(String::as_str)
    }

    fn check(self, servers: &ServerNames, reading: &mut Reading<'_>) -> Option<Route> {
        let Self {
            path,
            server,
            servers: members,
            when_down,
            list_page_max,
            public_url,
            body_bytes_max,
            list_bytes_max,
        } = self;
        note_without_meaning(&server, &when_down, "when_down", reading);
        note_without_meaning(&server, &list_page_max, "list_page_max", reading);
        let target = match (server, members) {
            (Field::Absent, Field::Absent) => {
                if let Some(path) = path.as_given() {
                    let hint = "add `server: NAME`, or `servers:` with a list";
                    reading.problem(path.place, "no server answers this route", hint);
                }
                None
            }
            (server, Field::Absent) => {
                let server = server.given().and_then(|server| servers.resolve(&server, reading));
                server.map(Target::Server)
            }
            (Field::Absent, members) => {
                let members: Option<Vec<Member>> =
                    members.given().and_then(|list| federation::check(list, servers, reading));
                members.map(|members| {
                    Target::Servers(Servers {
                        members,
                        when_down: when_down.or(WhenDown::default()),
                        list_page_max: list_page_max.value().map_or(LIST_PAGE_MAX, Count::size),
                    })
                })
            }
            (server, _) => {
                if let Some(server) = server.as_given() {
                    let hint = "move the server into `servers`";
                    reading.problem(server.head, "`server` and `servers` are both given", hint);
                }
                None
            }
        };
        let At { place, head: _, value: RoutePath(path) } = path.given()?;
        Some(Route {
            path,
            target: target?,
            public_url: public_url.value().map(|url| url.0),
            body_bytes_max: body_bytes_max.or(Bytes(BODY_BYTES_MAX)).0,
            list_bytes_max: list_bytes_max.or(Bytes(LIST_BYTES_MAX)).0,
            place,
        })
    }
}

/// What is said about lists that are put together means nothing where one server answers.
fn note_without_meaning<T>(
    server: &Field<String>,
    field: &Field<T>,
    key: &str,
    reading: &mut Reading<'_>,
) {
    if let (Field::Given(_), Field::Given(given)) = (server, field) {
        let message = format!("`{key}` has no meaning here: one server answers");
        reading.problem(given.head, message, "leave it out; it goes with `servers`");
    }
}
