//! How rules name callers, tools, prompts, resources and methods.

use std::fmt;

use serde_json::{Value, json};

use super::include::wildcard_matches;
use super::problem::nearest;
use super::reading::{Fault, Reading};
use super::shape::{Field, Scalar, Shape};
use super::tree::{Kind, Node};

/// Longer patterns are mistakes, and matching costs as much as they are long.
const PATTERN_CHARS_MAX: usize = 512;

/// How callers prove themselves, in the words of rules; `identity::Method` has the same.
pub const METHODS: [&str; 5] = ["anonymous", "api_key", "jwt", "introspection", "certificate"];

/// What begins a pattern of callers that is no plain id.
const KINDS: [&str; 6] = ["id", "tenant", "scope", "claim", "issuer", "method"];

/// One thing asked of a caller. In texts `*` stands for any characters and `?` for one, but a scope
/// is compared as it is: a challenge must be able to name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerPattern {
    /// Nothing: everyone, with or without a proof.
    Anyone,
    /// To have proved nothing.
    Anonymous,
    /// To have proved this id.
    Id(String),
    /// To belong to this tenant.
    Tenant(String),
    /// To have been granted this scope.
    Scope(String),
    /// To have a token that says so; a list says each of its items.
    Claim {
        /// The claim's name, or a path of names with dots between them.
        name: String,
        /// What it must say.
        value: String,
    },
    /// To be vouched for by this issuer.
    Issuer(String),
    /// To have proved itself in this way, one of [`METHODS`].
    Method(&'static str),
}

impl fmt::Display for CallerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::Id(id) => f.write_str(id),
            Self::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            Self::Scope(scope) => write!(f, "scope:{scope}"),
            Self::Claim { name, value } => write!(f, "claim:{name}={value}"),
            Self::Issuer(issuer) => write!(f, "issuer:{issuer}"),
            Self::Method(method) => write!(f, "method:{method}"),
        }
    }
}

impl Scalar for CallerPattern {
    const NAME: &'static str = "a caller";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_length(text)?;
        let (kind, rest) = match text.split_once(':') {
            _ if text == "*" => return Ok(Self::Anyone),
            _ if text == "anonymous" => return Ok(Self::Anonymous),
            None => return Ok(Self::Id(text.to_owned())),
            Some(parts) => parts,
        };
        if KINDS.contains(&kind) && rest.is_empty() {
            let hint = format!("write what is asked for after `{kind}:`");
            return Err(Fault::new("this asks for nothing", hint));
        }
        match kind {
            "id" => Ok(Self::Id(rest.to_owned())),
            "tenant" => Ok(Self::Tenant(rest.to_owned())),
            "scope" => Ok(Self::Scope(rest.to_owned())),
            "issuer" => Ok(Self::Issuer(rest.to_owned())),
            "method" => match METHODS.iter().find(|method| **method == rest) {
                Some(method) => Ok(Self::Method(method)),
                None => Err(Fault::new(
                    "callers do not prove themselves in this way",
                    format!("write one of: {}", METHODS.join(", ")),
                )),
            },
            "claim" => match rest.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    Ok(Self::Claim { name: name.to_owned(), value: value.to_owned() })
                }
                _ => Err(Fault::new("this names no claim and its value", "write claim:NAME=VALUE")),
            },
            // An id may hold a colon, but one that looks like a kind is a mistake.
            _ => match nearest(kind, KINDS) {
                Some(meant) => {
                    let hint = format!("did you mean `{meant}:`? A plain id is written id:TEXT");
                    Err(Fault::new("this is no kind of pattern known here", hint))
                }
                None => Ok(Self::Id(text.to_owned())),
            },
        }
    }
}

/// What one caller must fulfil as a whole: a pattern, or a list of patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerClause(pub Vec<CallerPattern>);

impl CallerClause {
    /// The scopes among its patterns.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|pattern| match pattern {
            CallerPattern::Scope(scope) => Some(scope.as_str()),
            _ => None,
        })
    }
}

impl fmt::Display for CallerClause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            write!(f, "{}{pattern}", if index == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

impl Shape for CallerClause {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        if !matches!(node.kind, Kind::List(_)) {
            return <CallerPattern as Shape>::read(node, reading)
                .map(|pattern| Self(vec![pattern]));
        }
        let list: Vec<Field<CallerPattern>> = Shape::read(node, reading)?;
        if list.is_empty() {
            let hint = "write [\"tenant:acme\", \"scope:read\"] for callers who fulfil both";
            reading.problem(node.place, "this asks for nothing", hint);
        }
        Some(Self(list.into_iter().filter_map(Field::value).collect()))
    }

    fn schema() -> Value {
        json!({ "anyOf": [
            <CallerPattern as Shape>::schema(),
            { "type": "array", "items": <CallerPattern as Shape>::schema() },
        ]})
    }
}

/// The name of a tool or a prompt as its server knows it, of one server or of any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    /// The server's name; `*` is any server.
    pub server: String,
    /// The own name.
    pub name: String,
}

impl NamePattern {
    /// Whether the pattern is about this server.
    pub fn is_of(&self, server: &str) -> bool {
        wildcard_matches(&self.server, server)
    }

    /// Whether the pattern is about this name at this server.
    pub fn matches(&self, server: &str, name: &str) -> bool {
        self.is_of(server) && wildcard_matches(&self.name, name)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.server, self.name)
    }
}

impl Scalar for NamePattern {
    const NAME: &'static str = "a pattern";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_length(text)?;
        let (server, name) = text.split_once('/').unwrap_or(("*", text));
        if server.is_empty() || name.is_empty() {
            let hint = "write server/name, or a name for any server; `*` stands for any characters";
            return Err(Fault::new("a part of this pattern is empty", hint));
        }
        Ok(Self { server: server.to_owned(), name: name.to_owned() })
    }
}

/// A text in which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(pub(super) String);

impl Scalar for Glob {
    const NAME: &'static str = "a pattern";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_length(text).map(|()| Self(text.to_owned()))
    }
}

/// A method that rules can name: not one that is decided by what it names.
#[derive(Debug, Clone)]
pub(super) struct MethodPattern(pub(super) String);

impl Scalar for MethodPattern {
    const NAME: &'static str = "a method";

    fn parse(text: &str) -> Result<Self, Fault> {
        check_length(text)?;
        let instead = match text {
            "tools/call" => "tools: [\"*\"]",
            "prompts/get" => "prompts: [\"*\"]",
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                "resources: [\"*\"]"
            }
            "completion/complete" => "prompts: [\"*\"], resources: [\"*\"]",
            _ => return Ok(Self(text.to_owned())),
        };
        let message = "this method is decided by what it names";
        Err(Fault::new(message, format!("write {instead}")))
    }
}

/// Whether a pattern can mean only one text.
pub(super) fn is_plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

fn check_length(text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() {
        return Err(Fault::new("this pattern is empty", "write `*` for everything"));
    }
    if text.chars().count() > PATTERN_CHARS_MAX {
        let hint = format!("write at most {PATTERN_CHARS_MAX} characters");
        return Err(Fault::new("this pattern is too long", hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CallerPattern, MethodPattern, NamePattern};
    use crate::config::shape::Scalar;

    #[test]
    fn callers_are_named_in_many_ways() {
        let text = |text: &str| text.to_owned();
        let check = |written: &str, expected: CallerPattern| {
            assert_eq!(CallerPattern::parse(written).unwrap(), expected, "{written}");
            // What is shown means the same when it is read again.
            let shown = expected.to_string();
            assert_eq!(CallerPattern::parse(&shown).unwrap(), expected, "{shown}");
        };
        check("*", CallerPattern::Anyone);
        check("anonymous", CallerPattern::Anonymous);
        check("alice", CallerPattern::Id(text("alice")));
        check("team-*", CallerPattern::Id(text("team-*")));
        check("id:alice", CallerPattern::Id(text("alice")));
        check("spiffe://a/b", CallerPattern::Id(text("spiffe://a/b")));
        check("tenant:acme", CallerPattern::Tenant(text("acme")));
        check("scope:files:read", CallerPattern::Scope(text("files:read")));
        check("issuer:https://a", CallerPattern::Issuer(text("https://a")));
        check("method:api_key", CallerPattern::Method("api_key"));
        let claim = CallerPattern::Claim { name: text("org.unit"), value: text("a=b") };
        check("claim:org.unit=a=b", claim);
    }

    #[test]
    fn patterns_that_mean_nothing_are_faults() {
        for (written, hint) in [
            ("", "write `*` for everything"),
            ("tenant:", "write what is asked for after `tenant:`"),
            ("tenent:acme", "did you mean `tenant:`? A plain id is written id:TEXT"),
            ("claim:x", "write claim:NAME=VALUE"),
            ("claim:=x", "write claim:NAME=VALUE"),
            ("method:token", "write one of: anonymous, api_key, jwt, introspection, certificate"),
        ] {
            let fault = CallerPattern::parse(written).unwrap_err();
            assert_eq!(fault.hint.as_deref(), Some(hint), "{written}");
        }
        assert!(CallerPattern::parse(&"x".repeat(513)).is_err());
        for written in ["/x", "x/", "/", ""] {
            assert!(NamePattern::parse(written).is_err(), "{written}");
        }
        for written in ["tools/call", "prompts/get", "resources/subscribe", "completion/complete"] {
            assert!(MethodPattern::parse(written).is_err(), "{written}");
        }
        assert!(MethodPattern::parse("tasks/*").is_ok());
    }

    #[test]
    fn names_are_of_one_server_or_of_any() {
        let check = |written: &str, server: &str, name: &str, expected: bool| {
            let matches = NamePattern::parse(written).unwrap().matches(server, name);
            assert_eq!(matches, expected, "{written} {server} {name}");
        };
        check("read_*", "files", "read_file", true);
        check("files/read_*", "files", "read_file", true);
        check("files/read_*", "mail", "read_file", false);
        check("f*/*", "files", "read_file", true);
        check("files/read", "files", "Read", false);
        check("*", "files", "a/b", true);
        check("*/a/b", "files", "a/b", true);
        check("a/b", "files", "a/b", false);
    }
}
