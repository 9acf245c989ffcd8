//! URIs as clients see them: the scheme tells whose a URI is, and `ui://` keeps its scheme, because hosts look at it.

use std::borrow::Cow;

/// What MCP Apps call their pages by.
pub(super) const UI: &str = "ui://";

/// A server's own URI, or URI template, as clients see it.
pub fn shown_uri<'u>(prefix: &str, own: &'u str) -> Cow<'u, str> {
    if prefix.is_empty() {
        return Cow::Borrowed(own);
    }
    Cow::Owned(match own.strip_prefix(UI) {
        Some(page) => [UI, prefix, page].concat(),
        None => [prefix, own].concat(),
    })
}

/// The server's own URI, if it is one of a server with this prefix.
pub fn own_uri<'u>(prefix: &str, shown: &'u str) -> Option<Cow<'u, str>> {
    if prefix.is_empty() {
        return Some(Cow::Borrowed(shown));
    }
    match shown.strip_prefix(UI) {
        Some(page) => page.strip_prefix(prefix).map(|page| Cow::Owned([UI, page].concat())),
        // What would be shown with its scheme kept is never shown like this.
        None => shown
            .strip_prefix(prefix)
            .filter(|own| !own.is_empty() && !own.starts_with(UI))
            .map(Cow::Borrowed),
    }
}

/// A URI template, as far as it tells whether a URI may come from it (RFC 6570).
#[derive(Debug)]
pub(super) struct Template {
    /// What stands between the expressions.
    literals: Vec<String>,
    /// Whether each expression may stand for several segments of a path.
    spans: Vec<bool>,
}

/// More expressions are no template that anybody reads.
const EXPRESSIONS_MAX: usize = 32;

impl Template {
    /// Reads a template; `None` for a text without expressions, and for one that is none.
    pub(super) fn new(text: &str) -> Option<Self> {
        let (mut literals, mut spans) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (expression, after) = after.split_once('}')?;
            literals.push(literal.to_owned());
            spans.push(expression.starts_with(['+', '#', '/', '?', '&', ';', '.']));
            rest = after;
        }
        literals.push(rest.to_owned());
        let is_one = !spans.is_empty() && spans.len() <= EXPRESSIONS_MAX;
        is_one.then_some(Self { literals, spans })
    }

    /// Whether the URI may come from this template. Each literal is taken where it stands first, so
    /// that the work is bounded by the length of the URI.
    pub(super) fn matches(&self, uri: &str) -> bool {
        let [first, between @ .., last] = &self.literals[..] else { return false };
        let Some(rest) = uri.strip_prefix(first.as_str()) else { return false };
        let Some(mut rest) = rest.strip_suffix(last.as_str()) else { return false };
        let fits = |value: &str, may_span: bool| {
            may_span || (!value.is_empty() && !value.contains(['/', '?', '#']))
        };
        for (literal, may_span) in between.iter().zip(&self.spans) {
            // Two expressions side by side share what stands there.
            if literal.is_empty() {
                continue;
            }
            let Some((value, after)) = rest.split_once(literal.as_str()) else { return false };
            if !fits(value, *may_span) {
                return false;
            }
            rest = after;
        }
        self.spans.last().is_some_and(|may_span| fits(rest, *may_span))
    }
}

#[cfg(test)]
mod tests {
    use super::{Template, own_uri, shown_uri};

    #[test]
    fn uris_are_shown_and_found_again() {
        let rows = [
            ("", "file:///a", "file:///a"),
            ("github+", "file:///a", "github+file:///a"),
            ("github+", "ui://x/y", "ui://github+x/y"),
            ("github+", "no-scheme", "github+no-scheme"),
            ("github+", "repo://{owner}/{name}", "github+repo://{owner}/{name}"),
            ("github+", "github+file:///a", "github+github+file:///a"),
        ];
        for (prefix, own, shown) in rows {
            assert_eq!(shown_uri(prefix, own), shown);
            assert_eq!(own_uri(prefix, shown).as_deref(), Some(own), "{shown}");
        }
        for foreign in ["file:///a", "ui://x", "github+", "ui://x/github+", "github+ui://x", ""] {
            assert_eq!(own_uri("github+", foreign), None, "{foreign}");
        }
    }

    #[test]
    fn templates_match_what_may_come_from_them() {
        let rows = [
            ("file:///{name}", "file:///a.txt", true),
            ("file:///{name}", "file:///a/b", false),
            ("file:///{+path}", "file:///a/b", true),
            ("file:///{name}", "file:///", false),
            ("repo://{owner}/{name}/{+path}", "repo://a/b/c/d", true),
            ("repo://{owner}/{name}/issues", "repo://a/b/issues", true),
            ("repo://{owner}/{name}/issues", "repo://a/issues", false),
            ("x://{a}{?q}", "x://abc?q=1", true),
            ("x://{a}", "y://abc", false),
            ("{+any}", "file:///x", true),
            ("a{x}a", "a", false),
        ];
        for (template, uri, expected) in rows {
            let matches = Template::new(template).expect("a template").matches(uri);
            assert_eq!(matches, expected, "{template} {uri}");
        }
        for no_template in ["file:///a", "a{b", "", &"{x}".repeat(33)] {
            assert!(Template::new(no_template).is_none(), "{no_template}");
        }
    }
}
