//! URIs that every server reads alike: only those can be held against rules.
//!
//! Rules compare text. A server that normalises a URI, or takes a path out of it, may come from two
//! texts to one resource, so of all spellings only the normal one (RFC 3986 section 6) may pass. Nothing
//! is normalised here: what is forwarded is what was asked about.

use std::iter;

/// Schemes in which parsers of the web know hosts, ports and paths, and their default ports.
const WEB: [(&str, &str); 5] =
    [("http", "80"), ("https", "443"), ("ws", "80"), ("wss", "443"), ("ftp", "21")];

/// Whether a URI is in its normal form.
pub(super) fn is_normal(uri: &str) -> bool {
    let Some(Parts { scheme, authority, path, after }) = Parts::of(uri) else { return false };
    let is_web = WEB.iter().any(|(name, _)| *name == scheme);
    let has_normal_place = match (scheme, authority) {
        // Whatever stands there, servers look at the path alone (RFC 8089).
        ("file", authority) => authority == Some("") && path.starts_with('/') && after.is_empty(),
        (_, Some(authority)) => is_normal_authority(scheme, authority),
        (_, None) => !is_web,
    };
    has_normal_place
        // A fragment is cut off before anything is fetched, and an empty path is `/`.
        && !(is_web && (path.is_empty() || after.contains('#')))
        && !after.ends_with(['?', '#'])
        && !after.contains("?#")
        // File systems take several slashes for one.
        && !path.contains("//")
        && has_normal_text(uri)
        && !has_slash_in_disguise(path)
}

/// Whether a URI template is in normal form, as far as it is fixed.
pub(super) fn is_normal_template(template: &str) -> bool {
    if !template.contains(['{', '}']) {
        return is_normal(template);
    }
    // An expression stands for something that is no sign of the syntax.
    let mut fixed = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, expression)) = rest.split_once('{') {
        let Some((_, after)) = expression.split_once('}') else { return false };
        fixed.push_str(before);
        fixed.push('x');
        rest = after;
    }
    fixed.push_str(rest);
    let Some(parts) = Parts::of(&fixed) else { return false };
    has_normal_text(&fixed)
        && !has_slash_in_disguise(parts.path)
        && !(WEB.iter().any(|(name, _)| *name == parts.scheme)
            && parts.authority.is_some_and(|authority| host(authority).contains(is_upper)))
}

/// The parts of a URI (RFC 3986 section 3).
struct Parts<'u> {
    scheme: &'u str,
    authority: Option<&'u str>,
    path: &'u str,
    /// Query and fragment, with the signs that begin them.
    after: &'u str,
}

impl<'u> Parts<'u> {
    /// Takes a URI apart; one whose scheme is not written in small letters is none.
    fn of(uri: &'u str) -> Option<Self> {
        let (scheme, rest) = uri.split_once(':')?;
        let is_letter = |byte: u8| byte.is_ascii_lowercase();
        let may_follow =
            |byte: u8| is_letter(byte) || byte.is_ascii_digit() || b"+-.".contains(&byte);
        let mut bytes = scheme.bytes();
        if !bytes.next().is_some_and(is_letter) || !bytes.all(may_follow) {
            return None;
        }
        let split = |text: &'u str, at: &[char]| text.split_at(text.find(at).unwrap_or(text.len()));
        let (hierarchy, after) = split(rest, &['?', '#']);
        let (authority, path) = match hierarchy.strip_prefix("//") {
            Some(hierarchy) => {
                let (authority, path) = split(hierarchy, &['/']);
                (Some(authority), path)
            }
            None => (None, hierarchy),
        };
        Some(Self { scheme, authority, path, after })
    }
}

fn is_upper(character: char) -> bool {
    character.is_ascii_uppercase()
}

/// Host and port.
fn host(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

fn is_normal_authority(scheme: &str, authority: &str) -> bool {
    let host_and_port = host(authority);
    let web = WEB.iter().find(|(name, _)| *name == scheme);
    // The user is no part of what rules about the web are meant for.
    if web.is_some() && (authority.is_empty() || authority.contains('@')) {
        return false;
    }
    let (host, port) = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (host_and_port, None),
    };
    let is_normal_port = |port: &str| {
        !port.is_empty()
            && !port.starts_with('0')
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && web.is_none_or(|(_, default)| port != *default)
    };
    authority.matches('@').count() < 2
        // Elsewhere what stands in a host's place is no name of DNS, and case means something.
        && (web.is_none() || !host.contains(is_upper))
        && !host.contains('%')
        && !host.ends_with('.')
        && port.is_none_or(is_normal_port)
}

/// Whether only such characters stand there as they are that may, only such are encoded that must be
/// or may mean something else, and no step leads up or nowhere.
fn has_normal_text(uri: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    // Servers that do not parse a URI may find a path also in its query.
    let is_step = |segment: &str| segment == "." || segment == "..";
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    uri.bytes().all(is_legal)
        && !rest.split(['/', '?', '#']).any(is_step)
        && encoded(uri).all(|byte| byte.is_some_and(|byte| !is_unreserved(byte) && byte >= 0x20))
}

/// A slash that is encoded is one again where a server decodes a path before it takes it apart.
fn has_slash_in_disguise(path: &str) -> bool {
    encoded(path).any(|byte| matches!(byte, Some(b'/' | b'\\')))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// The bytes that are encoded; none for one that is not encoded as it should be: in capitals.
fn encoded(text: &str) -> impl Iterator<Item = Option<u8>> {
    let mut rest = text.as_bytes();
    iter::from_fn(move || {
        let at = rest.iter().position(|byte| *byte == b'%')?;
        rest = rest.get(at + 1..)?;
        let digit = |byte: &u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'A'..=b'F' => Some(byte - b'A' + 10),
            _ => None,
        };
        let mut digits = rest.iter().map(digit);
        let high = digits.next().flatten();
        let low = digits.next().flatten();
        Some(high.zip(low).map(|(high, low)| high * 16 + low))
    })
}

#[cfg(test)]
mod tests {
    use super::{is_normal, is_normal_template};

    #[test]
    fn one_spelling_is_normal() {
        let normal = [
            "file:///a/b.txt",
            "file:///C:/a%20b",
            "file:///a%25b",
            "file:///.git/a..b/...",
            "file:///caf%C3%A9",
            "file:///dir/",
            "http://example.com/",
            "http://example.com:8080/a?u=http%3A%2F%2Fb",
            "http://[::1]:8080/",
            "demo://resource/1",
            "demo://resource",
            "postgres://User@host:5432/db/Table",
            "greeting://World",
            "git+ssh://host/a#main",
            "urn:isbn:0451450523",
            "data:text/plain,a",
        ];
        for uri in normal {
            assert!(is_normal(uri) && is_normal_template(uri), "{uri}");
        }
    }

    #[test]
    fn every_other_spelling_is_not() {
        let others = [
            "",
            "a",
            "/etc/passwd",
            "FILE:///a",
            "File:///a",
            "1a:b",
            ":a",
            "file:///a/../b",
            "file:///a/..",
            "file:///./a",
            "file:///a/%2e%2e/b",
            "file:///a/%2E%2E/b",
            "file:///a/.%2e/b",
            "file:///a\\b",
            "file:///a%5Cb",
            "file:///a%2Fb",
            "file:///%61",
            "file:///%7Ea",
            "file:///caf%c3%a9",
            "file:///caf\u{e9}",
            "file:///a%",
            "file:///a%4",
            "file:///a%zz",
            "file:///a%00",
            "file:///a%0A",
            "file:///a\tb",
            "file:///a\r",
            "file:///a\n",
            " file:///a",
            "file:///a ",
            "file:///a b",
            "file:///a\u{7f}",
            "file:///a|b",
            "file:///a{b}",
            "file:///a//b",
            "file:////a",
            "file:/a",
            "file:a",
            "file://",
            "file://localhost/a",
            "file://elsewhere/a",
            "file:///a?b",
            "file:///a#b",
            "file:///a#",
            "demo://a/?/../b",
            "demo://%41/b",
            "demo://a%20b/c",
            "demo://a:/b",
            "demo://a:080/b",
            "demo://a:x/b",
            "demo://u@v@a/b",
            "demo://a/b?",
            "demo://a/b#",
            "demo://a/b?#c",
            "http://example.com",
            "http://example.com?a",
            "http://example.com/a#b",
            "http://example.com./",
            "http://Example.com/",
            "http://example.com:80/",
            "https://example.com:443/",
            "http://u@example.com/",
            "http:/example.com/",
            "http:example.com",
            "http:///example.com",
        ];
        for uri in others {
            assert!(!is_normal(uri), "{uri}");
        }
    }

    #[test]
    fn of_a_template_what_is_fixed_is_normal() {
        for template in [
            "file:///{path}",
            "file://{+path}",
            "file:///.{name}",
            "http://{host}",
            "http://{Host}/a{?Query*}",
            "demo://a/{b}/..{c}",
            "{scheme}:a",
        ] {
            assert!(is_normal_template(template), "{template}");
        }
        for template in [
            "FILE:///{path}",
            "file:///a/../{path}",
            "file:///%2E%2E/{path}",
            "file:///a%2F{path}",
            "file:///a\\{path}",
            "http://Host/{path}",
            "file:///{path",
            "file:///path}",
            "file:///{a}}",
            "{path}",
        ] {
            assert!(!is_normal_template(template), "{template}");
        }
    }
}
