//! What one server offers, as its lists said last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;

use crate::mcp::{Annotations, Era, Listed};

/// Longer ones are no revisions, and a server speaks no more than so many.
const REVISION_BYTES_MAX: usize = 32;
const REVISIONS_MAX: usize = 16;

/// What a server lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `tools/list`; a tool is known by its name.
    Tools,
    /// `prompts/list`; a prompt is known by its name.
    Prompts,
    /// `resources/list`; a resource is known by its URI.
    Resources,
    /// `resources/templates/list`; a template is known by its URI template.
    Templates,
}

impl Kind {
    /// Every kind, in the order of asking.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The kind's name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "templates",
        }
    }

    /// The method that lists it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }
}

impl From<Listed> for Kind {
    fn from(listed: Listed) -> Self {
        match listed {
            Listed::Tool => Self::Tools,
            Listed::Prompt => Self::Prompts,
            Listed::Resource => Self::Resources,
            Listed::Template => Self::Templates,
        }
    }
}

impl From<Kind> for Listed {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Tools => Self::Tool,
            Kind::Prompts => Self::Prompt,
            Kind::Resources => Self::Resource,
            Kind::Templates => Self::Template,
        }
    }
}

/// What one server offers. Immutable: another listing makes another offer.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// How much what follows is worth.
    pub state: State,
    /// How the server was spoken to.
    pub era: Option<Era>,
    /// The result of `initialize` or `server/discover`, byte for byte; empty before the first.
    pub greeting: Bytes,
    /// Whether a list may differ from caller to caller.
    pub audience: Audience,
    /// Whether the server has said that it tells of changes.
    pub tells: bool,
    /// How long the server says that its lists stay as they are; `None` if it says nothing of use.
    pub ttl: Option<Duration>,
    /// When the lists were last found to be so.
    pub listed_at: Option<SystemTime>,
    /// When one of them was last found to have changed.
    pub changed_at: Option<SystemTime>,
    pub(super) lists: [Arc<Definitions>; Kind::ALL.len()],
}

/// How much an offer is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The server was never listed: what is not in the offer may exist all the same.
    #[default]
    Unknown,
    /// Every list was read to its end the last time.
    Known,
    /// It was so once; the last time did not succeed, and this is why.
    Stale(Arc<str>),
}

/// Whom a list was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Whoever asks is told the same, as far as the server says.
    #[default]
    Everyone,
    /// The server marked an answer `private`: another caller may be told something else.
    Caller,
}

/// The definitions of one kind, in the server's order.
#[derive(Debug, Default)]
pub struct Definitions {
    all: Vec<Definition>,
    places: HashMap<Arc<str>, usize>,
    weight: usize,
}

/// One tool, prompt, resource or template, as its server defined it.
#[derive(Debug)]
pub struct Definition {
    /// Its name, URI or URI template: what it is asked for by. An opaque string.
    pub name: Arc<str>,
    /// What the server declares about it.
    pub annotations: Annotations,
    /// The start of the SHA-256 digest of `bytes`.
    pub digest: [u8; 16],
    /// The definition itself, byte for byte as the server wrote it.
    pub bytes: Bytes,
}

impl Offer {
    /// The definitions of a kind.
    pub fn list(&self, kind: Kind) -> &Definitions {
        &self.lists[kind as usize]
    }

    /// The definition of a kind that is asked for by this name.
    pub fn find(&self, kind: Kind, name: &str) -> Option<&Definition> {
        self.list(kind).find(name)
    }

    /// The revisions of MCP that the server said it speaks, the first few. Reads the greeting.
    pub fn revisions(&self) -> Vec<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Greeting {
            protocol_version: Option<String>,
            supported_versions: Option<Vec<String>>,
        }
        let greeting = serde_json::from_slice::<Greeting>(&self.greeting).ok();
        let said = greeting.map(|said| (said.protocol_version, said.supported_versions));
        let (one, many) = said.unwrap_or_default();
        let revisions = one.into_iter().chain(many.into_iter().flatten());
        revisions.filter(|said| said.len() <= REVISION_BYTES_MAX).take(REVISIONS_MAX).collect()
    }

    /// The bytes it takes, about.
    pub(super) fn weight(&self) -> usize {
        self.greeting.len() + self.lists.iter().map(|list| list.weight()).sum::<usize>()
    }
}

impl Definitions {
    /// Takes definitions in the server's order; the first of a name counts. Tells how many did not.
    pub(super) fn new(definitions: Vec<Definition>) -> (Self, usize) {
        let mut taken = Self::default();
        let given = definitions.len();
        for definition in definitions {
            if taken.places.contains_key(&definition.name) {
                continue;
            }
            taken.places.insert(Arc::clone(&definition.name), taken.all.len());
            taken.weight += definition.weight();
            taken.all.push(definition);
        }
        let doubled = given - taken.all.len();
        (taken, doubled)
    }

    /// Every definition, in the server's order.
    pub fn all(&self) -> &[Definition] {
        &self.all
    }

    /// The definition that is asked for by this name.
    pub fn find(&self, name: &str) -> Option<&Definition> {
        self.places.get(name).map(|place| &self.all[*place])
    }

    /// The definitions themselves.
    pub(super) fn into_all(self) -> Vec<Definition> {
        self.all
    }

    /// The bytes they take, about.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Whether the server wrote the same definitions in the same order.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let digests = |definitions: &Self| {
            definitions.all.iter().map(|definition| definition.digest).collect::<Vec<_>>()
        };
        digests(self) == digests(other)
    }
}

impl Definition {
    pub(super) fn weight(&self) -> usize {
        // Its own fields and its place in the table; annotations are a tree of their bytes.
        const FIELDS: usize = size_of::<Definition>() + 64;
        FIELDS + 2 * self.bytes.len() + self.name.len()
    }
}
