//! What `WWW-Authenticate` says to whom nobody knows, or who needs more scopes (RFC 6750 section 3,
//! RFC 9728 section 5.1, MCP authorization).

use super::metadata::ProtectedResource;

/// The challenges of a route, made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// For 401: there was no token.
    pub missing: String,
    /// For 401: there was one that proves nothing.
    pub invalid: String,
    /// `, resource_metadata="…"`, or nothing.
    metadata: String,
}

impl Challenge {
    /// The challenges of a route. A route without metadata says only that it wants a token.
    pub fn new(resource: Option<&ProtectedResource>) -> Self {
        let mut metadata = String::new();
        let mut more = String::new();
        if let Some(resource) = resource {
            metadata = parameter("resource_metadata", &resource.url);
            more.push_str(&metadata);
            if !resource.scopes.is_empty() {
                more.push_str(&parameter("scope", &resource.scopes.join(" ")));
            }
        }
        let missing = format!("Bearer{}", more.strip_prefix(',').unwrap_or_default());
        let invalid = format!("Bearer error=\"invalid_token\"{more}");
        Self { missing, invalid, metadata }
    }

    /// For 403: the token is good, and not for this. Names every scope that the call needs at once.
    pub fn insufficient_scope<'s>(
        &self,
        scopes: impl IntoIterator<Item = &'s str>,
        description: &str,
    ) -> String {
        let scopes: Vec<&str> = scopes.into_iter().collect();
        let scope = parameter("scope", &scopes.join(" "));
        let description = parameter("error_description", description);
        let metadata = &self.metadata;
        format!("Bearer error=\"insufficient_scope\"{scope}{metadata}{description}")
    }
}

/// One more parameter. What a quoted string or RFC 6750 does not allow is left out of its value.
fn parameter(name: &str, value: &str) -> String {
    let mut text = format!(", {name}=\"");
    for character in value.chars() {
        if matches!(character, ' '..='~') && !matches!(character, '"' | '\\') {
            text.push(character);
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::Challenge;
    use crate::identity::ProtectedResource;

    #[test]
    fn challenges_are_as_the_specification_writes_them() {
        let resource = |scopes: &[&str]| ProtectedResource {
            url: "https://h/.well-known/oauth-protected-resource/mcp".to_owned(),
            path: "/.well-known/oauth-protected-resource/mcp".to_owned(),
            document: String::new(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        let at = r#"resource_metadata="https://h/.well-known/oauth-protected-resource/mcp""#;
        let full = Challenge::new(Some(&resource(&["files:read", "files:write"])));
        assert_eq!(full.missing, format!(r#"Bearer {at}, scope="files:read files:write""#));
        assert_eq!(
            full.invalid,
            format!(r#"Bearer error="invalid_token", {at}, scope="files:read files:write""#)
        );
        assert_eq!(
            full.insufficient_scope(["a", "b"], "more \"scopes\"\r\n are needed"),
            format!(
                r#"Bearer error="insufficient_scope", scope="a b", {at}, error_description="more scopes are needed""#
            )
        );
        let unscoped = Challenge::new(Some(&resource(&[])));
        assert_eq!(unscoped.missing, format!("Bearer {at}"));
        let bare = Challenge::new(None);
        assert_eq!((&*bare.missing, &*bare.invalid), ("Bearer", r#"Bearer error="invalid_token""#));
        assert_eq!(
            bare.insufficient_scope(["a"], "x"),
            r#"Bearer error="insufficient_scope", scope="a", error_description="x""#
        );
    }
}
