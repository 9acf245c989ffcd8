//! URLs, hosts and origins as the configuration may write them, brought into one form.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::reading::Fault;
use super::shape::Scalar;

/// Plain or TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The word in front of `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of URLs that name none.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An absolute `http` or `https` URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// Lower case; an IPv6 address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As written, also empty.
    pub(super) path_and_query: String,
}

impl Url {
    /// The authority as it stands in a `Host` header.
    pub(super) fn authority(&self) -> String {
        let Self { scheme, host, port, path_and_query: _ } = self;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == scheme.default_port() { host } else { format!("{host}:{port}") }
    }

    /// The URL in its one form, with this path.
    pub(super) fn with_path(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme.as_str(), self.authority())
    }
}

/// A host that clients may name, with a port or without.
#[derive(Debug, Clone)]
pub(super) struct HostEntry(pub(super) String);

/// An origin that may call, with a port or without.
#[derive(Debug, Clone)]
pub(super) struct OriginEntry(pub(super) String);

impl Scalar for Url {
    const NAME: &'static str = "a URL";

    fn parse(text: &str) -> Result<Self, Fault> {
        const HINT: &str = "write it like http://10.0.0.1:8000/mcp";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Fault::new("this is not an absolute URL", HINT));
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(Fault::new("only http and https are spoken", HINT)),
        };
        if rest.contains('#') {
            return Err(Fault::new(
                "a URL with a fragment is not allowed",
                "remove the # and what follows",
            ));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(Fault::new(
                "a URL with a user name or password is not allowed",
                "remove what stands before the @",
            ));
        }
        let (host, port) = host_and_port(authority)?;
        if path.bytes().any(|byte| !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte)) {
            return Err(Fault::new(
                "the path holds a character that a URL may not hold",
                "percent-encode it",
            ));
        }
        let port = port.unwrap_or_else(|| scheme.default_port());
        Ok(Self {
            scheme,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            path_and_query: path.to_owned(),
        })
    }
}

impl Scalar for HostEntry {
    const NAME: &'static str = "a host";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.contains('/') {
            return Err(Fault::new(
                "a host has no scheme and no path",
                "write it like mcp.example.com or mcp.example.com:8443",
            ));
        }
        if text.contains('*') {
            return Err(Fault::new(
                "a host is not a pattern",
                "name each host, or leave the key out",
            ));
        }
        host_and_port(text).map(|(host, port)| Self(entry(&host, port)))
    }
}

impl Scalar for OriginEntry {
    const NAME: &'static str = "an origin";

    fn parse(text: &str) -> Result<Self, Fault> {
        const HINT: &str = "write it like https://app.example.com";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Fault::new("an origin has a scheme and a host", HINT));
        };
        if scheme.is_empty()
            || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        {
            return Err(Fault::new("an origin has a scheme and a host", HINT));
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(Fault::new(
                "an origin ends with its host or port",
                "remove the path, also a single / at the end",
            ));
        }
        if rest.contains('*') {
            return Err(Fault::new("an origin is not a pattern", "name each origin"));
        }
        let (host, port) = host_and_port(rest)?;
        Ok(Self(format!("{}://{}", scheme.to_ascii_lowercase(), entry(&host, port))))
    }
}

fn entry(host: &str, port: Option<u16>) -> String {
    port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The host in lower case, IPv6 in brackets and in its short form, and the port where one is given.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), Fault> {
    let bad_host = || {
        Fault::new(
            "this does not name a host",
            "write a host name, an IPv4 address or an [IPv6] address",
        )
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(bad_host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| bad_host())?;
            (format!("[{address}]"), after)
        }
        None => {
            let (name, after) = text.split_at(text.find(':').unwrap_or(text.len()));
            (name.to_ascii_lowercase(), after)
        }
    };
    if !host.starts_with('[') && !is_host_name(&host) {
        return Err(bad_host());
    }
    if port.is_empty() {
        return Ok((host, None));
    }
    let digits =
        port.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        None | Some(0) => Err(Fault::new(
            "the port must be a number from 1 to 65535",
            "correct it, or leave it out",
        )),
        port => Ok((host, port)),
    }
}

/// Names as DNS and container networks have them; a last label of digits is an IPv4 address or a mistake.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let last_is_number =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253
        && name.split('.').all(label)
        && (!last_is_number || host.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::{HostEntry, OriginEntry, Scalar, Url};

    #[test]
    fn urls_are_brought_into_one_form() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let url = Url::parse(text).map(|url| url.with_path(&url.path_and_query));
            assert_eq!(url.as_deref().map_err(|fault| fault.message.as_str()), expected, "{text}");
        };
        check("http://h:80/mcp", Ok("http://h/mcp"));
        check("HTTPS://H.Example:443", Ok("https://h.example"));
        check("http://h:443/a?b=c", Ok("http://h:443/a?b=c"));
        check("http://h?b", Ok("http://h?b"));
        check("http://[::1]:3001/mcp", Ok("http://[::1]:3001/mcp"));
        check("http://[0:0:0:0:0:0:0:1]/mcp", Ok("http://[::1]/mcp"));
        check("http://10.0.0.1/", Ok("http://10.0.0.1/"));
        check("http://my_svc-1:8000/", Ok("http://my_svc-1:8000/"));
        check("/mcp", Err("this is not an absolute URL"));
        check("h:8000", Err("this is not an absolute URL"));
        check("ftp://h/", Err("only http and https are spoken"));
        check("http://h/#a", Err("a URL with a fragment is not allowed"));
        check("http://u:p@h/", Err("a URL with a user name or password is not allowed"));
        check("http:///mcp", Err("this does not name a host"));
        check("http://h..x/", Err("this does not name a host"));
        check("http://127.1/", Err("this does not name a host"));
        check("http://0300.0.0.1/", Err("this does not name a host"));
        check("http://hö/", Err("this does not name a host"));
        check("http://[::1/", Err("this does not name a host"));
        check("http://[h]/", Err("this does not name a host"));
        check("http://[::1]x/", Err("the port must be a number from 1 to 65535"));
        check("http://h:/", Err("the port must be a number from 1 to 65535"));
        check("http://h:0/", Err("the port must be a number from 1 to 65535"));
        check("http://h:+80/", Err("the port must be a number from 1 to 65535"));
        check("http://h:65536/", Err("the port must be a number from 1 to 65535"));
        check("http://h/a b", Err("the path holds a character that a URL may not hold"));
        check("http://h/{a}", Err("the path holds a character that a URL may not hold"));
    }

    #[test]
    fn hosts_and_origins_are_entries() {
        let host = |text: &str, expected: Option<&str>| {
            assert_eq!(HostEntry::parse(text).ok().map(|h| h.0).as_deref(), expected, "{text}")
        };
        host("MCP.Example.com", Some("mcp.example.com"));
        host("mcp.example.com:8443", Some("mcp.example.com:8443"));
        host("[::1]", Some("[::1]"));
        host("[::1]:80", Some("[::1]:80"));
        for bad in ["", "https://a", "a/b", "*.example.com", "a:b", "::1", "a b"] {
            host(bad, None);
        }
        let origin = |text: &str, expected: Option<&str>| {
            assert_eq!(OriginEntry::parse(text).ok().map(|o| o.0).as_deref(), expected, "{text}")
        };
        origin("https://App.example.com", Some("https://app.example.com"));
        origin("http://localhost:3000", Some("http://localhost:3000"));
        origin("vscode-webview://abc", Some("vscode-webview://abc"));
        for bad in [
            "",
            "null",
            "*",
            "app.example.com",
            "https://app.example.com/",
            "https://*.example.com",
            "https://u@a",
            "://a",
        ] {
            origin(bad, None);
        }
    }
}
