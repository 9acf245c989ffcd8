//! For whom a token is: the URL of a route, in the one form in which it is compared.

/// The route that a token must be meant for; one that has no public URL is known by no token.
#[derive(Debug, Clone, Default)]
pub struct Audience(Option<Box<str>>);

impl Audience {
    /// The audience of a route with this `public_url`.
    pub fn new(public_url: Option<&str>) -> Self {
        Self(public_url.map(canonical))
    }

    /// Whether this, which is in the one form, names the route.
    pub(super) fn is(&self, canonical: &str) -> bool {
        self.0.as_deref() == Some(canonical)
    }
}

/// The one form: scheme and host in lower case, no default port, no path instead of `/`. Paths are
/// compared to the letter (MCP authorization, "canonical server URI"). What is no URL stays as it is.
pub(super) fn canonical(text: &str) -> Box<str> {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let scheme = scheme.to_ascii_lowercase();
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let authority = authority.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let authority = match authority.strip_suffix(port) {
        Some(host) if !port.is_empty() => host,
        _ => &authority,
    };
    let path = if path == "/" { "" } else { path };
    format!("{scheme}://{authority}{path}").into()
}

#[cfg(test)]
mod tests {
    use super::{Audience, canonical};

    #[test]
    fn urls_are_compared_in_one_form() {
        let route = Audience::new(Some("https://mcp.example.com/github/mcp"));
        let rows = [
            ("https://mcp.example.com/github/mcp", true),
            ("HTTPS://MCP.Example.com:443/github/mcp", true),
            ("https://mcp.example.com/github/mcp/", false),
            ("https://mcp.example.com/github/MCP", false),
            ("https://mcp.example.com/github", false),
            ("https://mcp.example.com:8443/github/mcp", false),
            ("http://mcp.example.com/github/mcp", false),
            ("https://mcp.example.com.evil.com/github/mcp", false),
            ("https://mcp.example.com/github/mcp?x=y", false),
            ("mcp.example.com/github/mcp", false),
            ("", false),
        ];
        for (text, expected) in rows {
            assert_eq!(route.is(&canonical(text)), expected, "{text}");
        }
        assert!(Audience::new(Some("https://h")).is(&canonical("https://H/")));
        assert!(Audience::new(Some("http://h/")).is(&canonical("http://h:80")));
        assert!(!Audience::new(None).is(&canonical("")), "no URL is nobody's audience");
    }
}
