//! Which name is whose, as far as the name alone tells: prefixes, matches and new names, before anything is known of offers.

use std::borrow::Cow;
use std::collections::HashMap;

use ring::digest::{SHA256, digest};

use super::uris::{own_uri, shown_uri};
use crate::catalog::Kind;
use crate::config::{self, PrefixOn, Selection, wildcard_matches};

/// What clients and models take for a name.
pub(super) const NAME_CHARS_MAX: usize = 64;
/// Of a name that is cut, what stays before its digest.
const KEPT_CHARS: usize = 55;
/// Longer URIs are none; the catalogue keeps no longer ones.
pub(super) const URI_BYTES_MAX: usize = 4096;

/// The rules of one route.
pub(super) struct Rules {
    members: Vec<config::Member>,
    /// Of tools and prompts: shown name to member and own name.
    renamed: [HashMap<String, (usize, String)>; 2],
}

/// Whose a name is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claim<'n> {
    pub(super) member: usize,
    pub(super) own: Cow<'n, str>,
    pub(super) by: By,
}

/// What says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Rename,
    Match,
    Prefix,
}

/// Tools and prompts have names, everything else has URIs.
fn named(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Tools => Some(0),
        Kind::Prompts => Some(1),
        Kind::Resources | Kind::Templates => None,
    }
}

impl Rules {
    pub(super) fn new(members: &[config::Member]) -> Self {
        let renamed = |naming: fn(&config::Member) -> &config::Naming| {
            let of = |(index, member): (usize, &config::Member)| {
                let rename = naming(member).rename.clone().into_iter();
                rename.map(move |(own, shown)| (shown, (index, own))).collect::<Vec<_>>()
            };
            members.iter().enumerate().flat_map(of).collect()
        };
        let renamed = [renamed(|member| &member.tools), renamed(|member| &member.prompts)];
        Self { members: members.to_vec(), renamed }
    }

    /// The member that the name alone is given to. Renaming comes first, then `match` in the order
    /// of members, then prefixes, of which no two fit.
    pub(super) fn claim<'n>(&'n self, kind: Kind, shown: &'n str) -> Option<Claim<'n>> {
        let renamed = named(kind).and_then(|named| self.renamed[named].get(shown));
        if let Some((member, own)) = renamed {
            return Some(Claim { member: *member, own: Cow::Borrowed(own), by: By::Rename });
        }
        let is_claimed = |of: &config::Member| {
            let patterns = patterns(of, kind);
            patterns.is_some_and(|patterns| matches_any(kind, patterns, shown))
        };
        let by_match = self.members.iter().enumerate().find_map(|(member, of)| {
            let own = is_claimed(of).then(|| own_name(of, kind, shown)).flatten()?;
            Some(Claim { member, own, by: By::Match })
        });
        by_match.or_else(|| {
            self.members.iter().enumerate().find_map(|(member, of)| {
                let is_prefixed = of.claims.is_none() && !always_prefix(of, kind).is_empty();
                let own = is_prefixed.then(|| own_name(of, kind, shown)).flatten()?;
                Some(Claim { member, own, by: By::Prefix })
            })
        })
    }

    /// Whether the member shows what has this own name, asked for by its own name or a new one.
    pub(super) fn is_open(&self, member: usize, kind: Kind, own: &str) -> bool {
        let of = &self.members[member];
        match kind {
            Kind::Templates => opens_template(&of.resources, own),
            _ => selection(of, kind).shows(own),
        }
    }

    /// Whether the member shows this under a new name only.
    pub(super) fn is_renamed(&self, member: usize, kind: Kind, own: &str) -> bool {
        naming(&self.members[member], kind).is_some_and(|naming| naming.rename.contains_key(own))
    }

    /// The name that clients see, unless it collides.
    pub(super) fn plain<'n>(&'n self, member: usize, kind: Kind, own: &'n str) -> Cow<'n, str> {
        let of = &self.members[member];
        let Some(naming) = naming(of, kind) else { return shown_uri(&of.uri_prefix, own) };
        if let Some(shown) = naming.rename.get(own) {
            return Cow::Borrowed(shown);
        }
        match always_prefix(of, kind) {
            "" => fitting(Cow::Borrowed(own)),
            prefix => fitting(Cow::Owned([prefix, own].concat())),
        }
    }

    /// The name that clients see where the plain one collides, if the member has one then.
    pub(super) fn on_collision(&self, member: usize, kind: Kind, own: &str) -> Option<String> {
        let of = &self.members[member];
        let has_one = of.prefix_on == PrefixOn::Collision
            && !of.prefix.is_empty()
            && of.claims.is_none()
            && naming(of, kind).is_some_and(|naming| !naming.rename.contains_key(own));
        has_one.then(|| fitting(Cow::Owned([&of.prefix, own].concat())).into_owned())
    }

    /// The members whose names no name alone tells: any name without an owner may be theirs.
    pub(super) fn plain_members(&self, kind: Kind) -> impl Iterator<Item = usize> {
        self.members.iter().enumerate().filter_map(move |(member, of)| {
            (of.claims.is_none() && always_prefix(of, kind).is_empty()).then_some(member)
        })
    }

    pub(super) fn member(&self, member: usize) -> &config::Member {
        &self.members[member]
    }

    /// What is said of a definition instead of what the server says.
    pub(super) fn instead(
        &self,
        member: usize,
        kind: Kind,
        own: &str,
    ) -> Option<&config::Override> {
        naming(&self.members[member], kind)?.overrides.get(own)
    }
}

/// Whether clients could have been shown a name like this.
pub(super) fn is_shown(kind: Kind, name: &str) -> bool {
    match named(kind) {
        Some(_) => is_fitting(name),
        None => is_clean_uri(name),
    }
}

/// Whether a URI can be shown: not without end, and without signs that no URI holds.
pub(super) fn is_clean_uri(uri: &str) -> bool {
    !uri.is_empty() && uri.len() <= URI_BYTES_MAX && !uri.contains(char::is_control)
}

/// Whether a name ends like one that was cut or cleaned, so that only the list can tell what it means.
pub(super) fn may_be_fitted(name: &str) -> bool {
    let Some((_, end)) = name.rsplit_once('_') else { return false };
    end.len() == 8 && end.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_fitting(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.bytes().all(fits)
}

/// The name, or what is shown instead of one that clients would not take: always the same, and with
/// a digest of the whole, so that no other name becomes it.
fn fitting(name: Cow<'_, str>) -> Cow<'_, str> {
    if is_fitting(&name) {
        return name;
    }
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let mut fitted: String = name.chars().take(KEPT_CHARS).map(clean).collect();
    fitted.push('_');
    for byte in &digest(&SHA256, name.as_bytes()).as_ref()[..4] {
        fitted.extend(
            [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])),
        );
    }
    Cow::Owned(fitted)
}

fn naming(of: &config::Member, kind: Kind) -> Option<&config::Naming> {
    match kind {
        Kind::Tools => Some(&of.tools),
        Kind::Prompts => Some(&of.prompts),
        Kind::Resources | Kind::Templates => None,
    }
}

fn selection(of: &config::Member, kind: Kind) -> &Selection {
    naming(of, kind).map_or(&of.resources, |naming| &naming.selection)
}

/// The patterns of `match`; none at all if the member has no `match`.
fn patterns(of: &config::Member, kind: Kind) -> Option<&[String]> {
    let claims = of.claims.as_ref()?;
    Some(match kind {
        Kind::Tools => &claims.tools,
        Kind::Prompts => &claims.prompts,
        Kind::Resources | Kind::Templates => &claims.resources,
    })
}

fn matches_any(kind: Kind, patterns: &[String], shown: &str) -> bool {
    patterns.iter().any(|pattern| match kind {
        Kind::Templates => meets_template(pattern, shown),
        _ => wildcard_matches(pattern, shown),
    })
}

/// What a prefix that is always shown is.
fn always_prefix(of: &config::Member, kind: Kind) -> &str {
    match (named(kind), of.prefix_on) {
        (None, _) => &of.uri_prefix,
        (Some(_), PrefixOn::Always) => &of.prefix,
        (Some(_), PrefixOn::Collision) => "",
    }
}

fn own_name<'n>(of: &config::Member, kind: Kind, shown: &'n str) -> Option<Cow<'n, str>> {
    let prefix = always_prefix(of, kind);
    match named(kind) {
        None => own_uri(prefix, shown),
        Some(_) => shown.strip_prefix(prefix).filter(|own| !own.is_empty()).map(Cow::Borrowed),
    }
}

/// A template is shown if something that comes from it may be.
fn opens_template(selection: &Selection, template: &str) -> bool {
    let allowed = selection
        .allow
        .as_ref()
        .is_none_or(|allow| allow.iter().any(|pattern| meets_template(pattern, template)));
    allowed && !selection.deny.iter().any(|pattern| wildcard_matches(pattern, template))
}

/// Whether a pattern may match what comes from a template: as far as both are fixed, they agree.
fn meets_template(pattern: &str, template: &str) -> bool {
    let fixed = pattern.split(['*', '?']).next().unwrap_or_default();
    let begin = template.split('{').next().unwrap_or_default();
    fixed.starts_with(begin) || begin.starts_with(fixed)
}

#[cfg(test)]
mod tests {
    use super::{fitting, is_shown, may_be_fitted};
    use crate::catalog::Kind;
    use crate::federation::tests::rules;
    use std::borrow::Cow;

    #[test]
    fn names_that_clients_would_not_take_become_others_for_good() {
        let fitted = |name: &str| fitting(Cow::Borrowed(name)).into_owned();
        for good in ["a", "Read_file-2", &"x".repeat(64)] {
            assert_eq!(fitted(good), good);
        }
        assert_eq!(fitted("a.b"), "a_b_2e7336dc");
        let odd = ["", "a.b", "a/b", "a b", "a\nb", "ä", "a\u{202e}b", &"x".repeat(65)];
        let mut seen = std::collections::HashSet::new();
        for name in odd {
            let shown = fitted(name);
            assert!(is_shown(Kind::Tools, &shown) && may_be_fitted(&shown), "{name:?}: {shown}");
            assert_eq!(shown, fitted(name), "always the same");
            assert!(seen.insert(shown), "{name:?} is another name");
        }
        assert_eq!(fitted(&"x".repeat(65)).len(), 64);
        assert!(!may_be_fitted("read_file") && !may_be_fitted("read_ABCDEF01"));
    }

    #[test]
    fn the_name_alone_tells_whose_it_is() {
        let rules = rules(
            "[{ name: a, prefix: a_, tools: { rename: { x: open } } },
              { name: b, match: { tools: ['fs_*', 'a_big_*'], resources: ['big:*'] } },
              { name: c }]",
        );
        let check = |kind, shown: &str, expected: Option<(usize, &str)>| {
            let claim = rules.claim(kind, shown);
            let claim = claim.as_ref().map(|claim| (claim.member, &*claim.own));
            assert_eq!(claim, expected, "{shown}");
        };
        check(Kind::Tools, "a_read", Some((0, "read")));
        check(Kind::Tools, "open", Some((0, "x")));
        check(Kind::Tools, "a_", None);
        check(Kind::Tools, "fs_index", Some((1, "fs_index")));
        check(Kind::Tools, "a_big_one", Some((1, "a_big_one")));
        check(Kind::Tools, "read", None);
        check(Kind::Prompts, "open", None);
        check(Kind::Prompts, "fs_index", None);
        check(Kind::Resources, "a+file:///x", Some((0, "file:///x")));
        check(Kind::Resources, "ui://a+x", Some((0, "ui://x")));
        check(Kind::Resources, "big://x", Some((1, "big://x")));
        check(Kind::Resources, "file:///x", None);
        check(Kind::Templates, "big://{x}", Some((1, "big://{x}")));
        assert_eq!(rules.plain_members(Kind::Tools).collect::<Vec<_>>(), [2]);
        assert_eq!(rules.plain(0, Kind::Tools, "x"), "open");
        assert_eq!(rules.plain(0, Kind::Tools, "y"), "a_y");
        assert_eq!(rules.plain(0, Kind::Resources, "ui://y"), "ui://a+y");
        assert_eq!(rules.plain(2, Kind::Prompts, "y"), "y");
    }

    #[test]
    fn what_is_not_selected_is_not_open() {
        let rules = rules(
            "[{ name: a, tools: { allow: ['read_*'], deny: ['*_secret'] },
                resources: { allow: ['file:///pub/*'], deny: ['file:///pub/x*'] } }]",
        );
        let open = |kind, own: &str| rules.is_open(0, kind, own);
        assert!(open(Kind::Tools, "read_file") && !open(Kind::Tools, "write_file"));
        assert!(!open(Kind::Tools, "read_secret") && open(Kind::Prompts, "any"));
        assert!(open(Kind::Resources, "file:///pub/a") && !open(Kind::Resources, "file:///pub/x"));
        assert!(open(Kind::Templates, "file:///{path}") && !open(Kind::Templates, "db:///{x}"));
        assert!(!open(Kind::Templates, "file:///pub/x{y}"));
    }
}
