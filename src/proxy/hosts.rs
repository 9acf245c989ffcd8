//! Which hosts and web origins a listener serves: the guard against DNS rebinding.

/// Whether `authority` (a host with or without port) is in the list. An empty list serves any host.
pub(super) fn host_is_allowed(allowed: &[String], authority: &str) -> bool {
    allowed.is_empty() || allowed.iter().any(|entry| matches(entry, authority))
}

/// Whether a web origin is in the list. An origin that is sent must be allowed, so an empty list
/// refuses every browser.
pub(super) fn origin_is_allowed(allowed: &[String], origin: &str) -> bool {
    allowed.iter().any(|entry| entry == "*" || matches(entry, origin))
}

/// Compares without case, port where the entry has none, and a trailing dot.
fn matches(entry: &str, found: &str) -> bool {
    let (entry_host, entry_port) = split(entry);
    let (host, port) = split(found);
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case(entry_host) && (entry_port.is_none() || entry_port == port)
}

/// Splits the port off, if there is one: `[::1]:80`, `http://a:80`, `a`.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains('[') || host.ends_with(']')) =>
        {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::{host_is_allowed, origin_is_allowed};

    #[test]
    fn hosts_match_with_any_port_unless_the_entry_has_one() {
        let rows = [
            ("localhost", "localhost:8080", true),
            ("localhost", "LOCALHOST.", true),
            ("[::1]", "[::1]:80", true),
            ("[::1]", "[::1]", true),
            ("mcp.example.com:443", "mcp.example.com:443", true),
            ("mcp.example.com:443", "mcp.example.com", false),
            ("localhost", "evil.example.com", false),
            ("localhost", "localhost.evil.example.com", false),
            ("localhost", "localhost:80:80", false),
            ("localhost", "", false),
        ];
        for (entry, found, expected) in rows {
            assert_eq!(host_is_allowed(&[entry.to_owned()], found), expected, "{entry} {found}");
        }
        assert!(host_is_allowed(&[], "anything"));
    }

    #[test]
    fn origins_match_with_their_scheme() {
        let rows = [
            ("http://localhost", "http://localhost:3000", true),
            ("https://app.example.com", "https://app.example.com", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com", "null", false),
            ("http://[::1]", "http://[::1]:5173", true),
        ];
        for (entry, found, expected) in rows {
            assert_eq!(origin_is_allowed(&[entry.to_owned()], found), expected, "{entry} {found}");
        }
        assert!(!origin_is_allowed(&[], "https://app.example.com"));
    }
}
