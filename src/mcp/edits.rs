//! What the two sides of the gateway know by different names, and how a message is changed for it.

use std::ops::Range;

/// What is known by another name on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The id of a request of the server.
    RequestId,
    /// The id that the server cancels: of its own request, or of the listen request of the client.
    CancelledId,
    /// What the server calls the progress of its own request by.
    ProgressToken,
    /// What the sender of progress says that it is the progress of.
    ToldToken,
    /// The id of an answer of the server.
    AnswerId,
    /// A URI.
    Uri,
    /// The state that the client sends back unread.
    RequestState,
    /// The id of a task of the server.
    TaskId,
    /// The listen request that a notification belongs to.
    SubscriptionId,
    /// Who it is that asks the people at the client.
    Asker,
}

/// A set of subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sought(u8);

/// One place that reads differently afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where, in the places that the parts were said to have.
    pub place: Range<usize>,
    /// What stands there instead.
    pub instead: Vec<u8>,
}

/// Knows the other names.
pub trait Rewrite {
    /// What stands instead of a value, given as it stands in the message (of what is replaced
    /// whatever it is, nothing is given). `None` if it stays.
    fn instead(&self, subject: Subject, literal: &str) -> Result<Option<Vec<u8>>, Unfit>;
}

/// Why a message does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is not JSON where it was read, or no message.
    Broken,
    /// It has no end.
    Truncated,
    /// A key that is read is there twice, and readers disagree which one counts.
    DuplicateKey,
    /// A key that some readers take for one that is read.
    KeyVariant,
    /// What was read is not text.
    NotText,
    /// A key or a value is longer than any may be.
    TooLong,
    /// The id of a request is neither a string nor an integer.
    BadId,
    /// It is a request and an answer at once.
    BadShape,
    /// It answers a request that its server was not sent.
    ForeignAnswer,
    /// An event is larger than may be held, and cannot pass before it is whole.
    TooLarge,
}

impl Unfit {
    /// The name in logs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Truncated => "truncated",
            Self::DuplicateKey => "duplicate_key",
            Self::KeyVariant => "key_variant",
            Self::NotText => "not_text",
            Self::TooLong => "too_long",
            Self::BadId => "bad_id",
            Self::BadShape => "bad_shape",
            Self::ForeignAnswer => "foreign_answer",
            Self::TooLarge => "too_large",
        }
    }
}

impl Subject {
    /// Whether it may be an integer too.
    pub(super) fn is_id(self) -> bool {
        matches!(self, Self::CancelledId | Self::ProgressToken | Self::ToldToken)
    }
}

impl Sought {
    pub(super) const ALL: Self = Self(u8::MAX);

    /// Only this.
    pub const fn of(subject: Subject) -> Self {
        Self(match subject {
            Subject::RequestId | Subject::CancelledId | Subject::ProgressToken => 1,
            Subject::AnswerId => 1 << 1,
            Subject::Uri => 1 << 2,
            Subject::RequestState => 1 << 3,
            Subject::TaskId => 1 << 4,
            Subject::SubscriptionId => 1 << 5,
            Subject::Asker => 1 << 6,
            Subject::ToldToken => 1 << 7,
        })
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether they have one in common.
    pub const fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

/// The bytes with every edit made; the edits stand in their order, and their places count from `at`.
pub fn edited(bytes: &[u8], edits: &[Edit], at: usize) -> Vec<u8> {
    let more: usize = edits.iter().map(|edit| edit.instead.len()).sum();
    let mut edited = Vec::with_capacity(bytes.len() + more);
    let mut copied = 0;
    for Edit { place, instead } in edits {
        let (start, end) = (place.start.saturating_sub(at), place.end.saturating_sub(at));
        edited.extend_from_slice(bytes.get(copied..start).unwrap_or_default());
        edited.extend_from_slice(instead);
        copied = end;
    }
    edited.extend_from_slice(bytes.get(copied..).unwrap_or_default());
    edited
}
