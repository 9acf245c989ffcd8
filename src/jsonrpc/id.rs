//! The id of a request, kept byte for byte as it stood on the wire.

use std::fmt;
use std::ops::Range;

/// A string literal with its quotes, or an integer. Two ids are equal when their bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id<'a> {
    raw: &'a str,
}

/// An [`Id`] that outlives the body it came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnedId {
    raw: Box<str>,
}

impl<'a> Id<'a> {
    /// Only the peek makes ids, because it has checked that these bytes are a string or an integer.
    pub(super) fn checked(raw: &'a str) -> Self {
        Self { raw }
    }

    /// The bytes on the wire, ready to be written into an answer.
    pub fn raw(self) -> &'a str {
        self.raw
    }

    /// Where these bytes stand in the body they were read from: what is replaced when an id is
    /// spliced. `None` if it is another body.
    pub fn span_in(self, body: &[u8]) -> Option<Range<usize>> {
        let start = (self.raw.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
        let span = start..start.checked_add(self.raw.len())?;
        (body.get(span.clone())? == self.raw.as_bytes()).then_some(span)
    }

    /// Whether the id is a string; otherwise it is an integer.
    pub fn is_string(self) -> bool {
        self.raw.starts_with('"')
    }

    /// A copy that does not borrow from the body.
    pub fn into_owned(self) -> OwnedId {
        OwnedId { raw: self.raw.into() }
    }
}

impl OwnedId {
    /// The same id, borrowed.
    pub fn as_id(&self) -> Id<'_> {
        Id { raw: &self.raw }
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::Id;

    #[test]
    fn an_id_keeps_its_bytes_when_it_is_owned() {
        for (raw, is_string) in
            [("1", false), ("-7", false), (r#""1""#, true), (r#""a\u0062""#, true)]
        {
            let owned = Id::checked(raw).into_owned();
            assert_eq!((owned.as_id().raw(), owned.as_id().is_string()), (raw, is_string));
            assert_eq!(owned.as_id().to_string(), raw);
        }
    }
}
