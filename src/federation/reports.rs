//! What is not shown as its server would have it: told to operators, never silently done.

use std::fmt;

use crate::catalog::Kind;
use crate::mcp::Era;

/// What a federated route shows otherwise than its servers would, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The server that it is about.
    pub server: String,
    /// What it is about, with its own name; nothing where it is about the server as a whole.
    pub about: Option<(Kind, String)>,
    /// What became of it.
    pub trouble: Trouble,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Other servers offer the same name, so nobody shows it.
    Collision {
        /// The name that would be shown.
        shown: String,
    },
    /// Other servers offer the same name, so it is shown with its prefix.
    Prefixed {
        /// The name that is shown.
        shown: String,
    },
    /// The name belongs to another server by its prefix or by a new name, so it is not shown.
    Claimed {
        /// The other server.
        by: String,
    },
    /// Clients would not take the name: too long, or with characters beyond letters, digits, `_` and `-`.
    Fitted {
        /// The name that is shown.
        shown: String,
    },
    /// No URI holds such characters, so it is not shown.
    BadUri,
    /// The definition is too large to be shown.
    TooLarge,
    /// The definition nests too deep to be shown.
    TooDeep,
    /// The tool asks for headers that may not be sent: clients must not see it.
    BadHeader,
    /// The definition says something twice, so nobody could tell what it says.
    Ambiguous,
    /// There is no room for more definitions.
    Full,
    /// The server speaks only this era: clients of the other one do not see it.
    OtherEra(Era),
    /// There are more reports than are kept.
    More,
}

impl Trouble {
    /// The trouble's name in metrics, logs and the admin API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Collision { .. } => "collision",
            Self::Prefixed { .. } => "prefixed",
            Self::Claimed { .. } => "claimed",
            Self::Fitted { .. } => "fitted",
            Self::BadUri => "bad_uri",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::BadHeader => "bad_header",
            Self::Ambiguous => "ambiguous",
            Self::Full => "full",
            Self::OtherEra(_) => "other_era",
            Self::More => "more",
        }
    }

    /// Whether something is not shown, rather than shown otherwise.
    pub fn hides(&self) -> bool {
        !matches!(self, Self::Prefixed { .. } | Self::Fitted { .. } | Self::More)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = &self.server;
        match &self.about {
            // Names come from servers, and may hold anything.
            Some((kind, own)) => write!(f, "{} {own:?} of {server}: ", kind.as_str())?,
            None => write!(f, "{server}: ")?,
        }
        match &self.trouble {
            Trouble::Collision { shown } => {
                write!(f, "another server offers {shown:?} too, so it is not shown")
            }
            Trouble::Prefixed { shown } => {
                write!(f, "another server offers this name too, so it is shown as {shown}")
            }
            Trouble::Claimed { by } => {
                write!(f, "the name belongs to {by}, so it is not shown")
            }
            Trouble::Fitted { shown } => {
                write!(f, "clients would not take the name, so it is shown as {shown}")
            }
            Trouble::BadUri => f.write_str("this is no URI, so it is not shown"),
            Trouble::TooLarge => f.write_str("the definition is too large to be shown"),
            Trouble::TooDeep => f.write_str("the definition nests too deep to be shown"),
            Trouble::BadHeader => {
                f.write_str("its `x-mcp-header` is none that may be sent, so it is not shown")
            }
            Trouble::Ambiguous => {
                f.write_str("the definition says something twice, so it is not shown")
            }
            Trouble::Full => f.write_str("there is no room for what else it offers"),
            Trouble::OtherEra(era) => {
                write!(
                    f,
                    "it speaks only {} revisions; clients of others do not see it",
                    era.as_str()
                )
            }
            Trouble::More => f.write_str("there is more to report than is kept"),
        }
    }
}
