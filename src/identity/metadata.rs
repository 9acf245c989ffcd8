//! What a route says of itself as a protected resource (RFC 9728): who issues tokens for it.

use serde_json::json;

use crate::config;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// A scope between a client and its issuer, which no resource asks for (MCP authorization).
const OFFLINE_ACCESS: &str = "offline_access";

/// The metadata of a route, made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedResource {
    /// Where clients find it.
    pub url: String,
    /// The path of that: the route's own path, inserted (RFC 9728 section 3.1).
    pub path: String,
    /// What they find: JSON.
    pub document: String,
    /// The scopes it names.
    pub scopes: Vec<String>,
}

impl ProtectedResource {
    /// The metadata of the route with this URL, whose calls may need these scopes; `None` where no
    /// issuer gives tokens for it.
    pub fn new(
        public_url: &str,
        identity: &config::Identity,
        scopes: impl IntoIterator<Item = String>,
    ) -> Option<Self> {
        let mut issuers: Vec<&str> = Vec::new();
        let signed = identity.jwt.iter().map(|jwt| jwt.issuer.as_str());
        let asked = identity.introspection.iter().map(|asked| asked.issuer.as_str());
        for issuer in signed.chain(asked) {
            if !issuers.contains(&issuer) {
                issuers.push(issuer);
            }
        }
        if issuers.is_empty() {
            return None;
        }
        let mut scopes: Vec<String> =
            scopes.into_iter().filter(|scope| scope != OFFLINE_ACCESS).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let host = public_url.find("://").map_or(0, |scheme| scheme + 3);
        let path = public_url[host..].find('/').map_or(public_url.len(), |path| host + path);
        let (origin, own_path) = public_url.split_at(path);
        let own_path = if own_path == "/" { "" } else { own_path };
        let path = format!("{WELL_KNOWN}{own_path}");
        let mut document = json!({
            "resource": public_url,
            "authorization_servers": issuers,
            "bearer_methods_supported": ["header"],
        });
        if !scopes.is_empty() {
            document["scopes_supported"] = json!(scopes);
        }
        let document = document.to_string();
        Some(Self { url: format!("{origin}{path}"), path, document, scopes })
    }
}

#[cfg(test)]
mod tests {
    use super::ProtectedResource;
    use crate::config;
    use serde_json::{Value, json};

    fn identity(yaml: &str) -> config::Identity {
        let yaml = format!(
            "listen: 127.0.0.1:1\nservers: {{ s: {{ endpoints: [http://a/] }} }}\n\
             routes: [{{ path: /mcp, server: s, public_url: https://h/mcp }}]\nidentity: {yaml}\n"
        );
        config::parse(&yaml, "t", &|_| None).expect("settings").identity
    }

    #[test]
    fn a_route_says_who_issues_tokens_for_it() {
        let identity = identity(
            "{ jwt: [{ issuer: https://a, jwks: { url: https://a/k } }], introspection: \
             [{ issuer: https://b, url: https://b/i }, { issuer: https://a, url: https://a/i }] }",
        );
        let scopes = || ["b", "a", "offline_access", "b"].map(str::to_owned);
        let rows = [
            ("https://h/public/mcp", "https://h", "/public/mcp"),
            ("https://h:8443/mcp/", "https://h:8443", "/mcp/"),
            ("https://h/", "https://h", ""),
            ("https://h", "https://h", ""),
        ];
        for (public_url, origin, path) in rows {
            let made = ProtectedResource::new(public_url, &identity, scopes()).expect("metadata");
            let path = format!("/.well-known/oauth-protected-resource{path}");
            assert_eq!((made.url, &made.path), (format!("{origin}{path}"), &path));
            let document: Value = serde_json::from_str(&made.document).expect("JSON");
            let expected = json!({
                "resource": public_url,
                "authorization_servers": ["https://a", "https://b"],
                "bearer_methods_supported": ["header"],
                "scopes_supported": ["a", "b"],
            });
            assert_eq!(document, expected);
        }
        let without = ProtectedResource::new("https://h/mcp", &identity, []).expect("metadata");
        assert!(!without.document.contains("scopes_supported"));
    }

    #[test]
    fn without_an_issuer_there_is_nothing_to_say() {
        let identity = identity("{ api_keys: [] }");
        assert_eq!(ProtectedResource::new("https://h/mcp", &identity, []), None);
    }
}
