//! Why a body is refused: a closed list, so that answers, logs and metrics share its words.

use super::error::{INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR};
use super::id::Id;

/// The first fault that was found in a body.
///
/// A body that is not JSON is refused as that, whatever else is wrong with it; other faults do not
/// end the scan, because the id often comes last and the answer should carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// What is wrong.
    pub class: FaultClass,
    /// Where, in bytes from the start of the body; for something missing, where the message starts.
    pub offset: usize,
    /// The id, if the body has exactly one as far as it was read.
    pub id: Option<Id<'a>>,
}

impl Fault<'_> {
    /// The JSON-RPC error code of the answer.
    pub fn code(&self) -> i32 {
        self.class.code()
    }

    /// The message of the answer; it never repeats what was sent.
    pub fn message(&self) -> &'static str {
        self.class.message()
    }
}

impl FaultClass {
    /// Whether nothing after the fault could be read any more.
    pub(super) fn ends_the_scan(self) -> bool {
        self.code() == PARSE_ERROR || self == Self::TooDeep
    }
}

/// Declares the classes with name, code and message side by side, so that none can be forgotten.
macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident $name:literal $code:ident $message:literal;)*) => {
        /// What can be wrong with a body.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FaultClass { $($(#[$doc])* $class,)* }

        impl FaultClass {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$class),*];

            /// A stable short name for logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$class => $name,)* }
            }

            /// The JSON-RPC error code of the answer.
            pub fn code(self) -> i32 {
                match self { $(Self::$class => $code,)* }
            }

            /// The message of the answer; it never repeats what was sent.
            pub fn message(self) -> &'static str {
                match self { $(Self::$class => $message,)* }
            }
        }
    };
}

classes! {
    /// A byte where the grammar of JSON allows no such byte.
    Syntax "syntax" PARSE_ERROR "The body is not valid JSON.";
    /// The body ends inside a value, or is empty.
    Truncated "truncated" PARSE_ERROR "The body ends before its JSON does.";
    /// Something follows the value.
    TrailingBytes "trailing_bytes" PARSE_ERROR "Something follows the JSON in the body.";
    /// The body starts with U+FEFF, which some parsers skip and others refuse.
    ByteOrderMark "byte_order_mark" PARSE_ERROR "The body starts with a byte order mark.";
    /// The body is not UTF-8.
    InvalidUtf8 "invalid_utf8" PARSE_ERROR "The body is not valid UTF-8.";
    /// A number that JSON does not allow, as `01`, `1.` or `-`.
    BadNumber "bad_number" PARSE_ERROR "The body has a number that is not valid JSON.";
    /// A control character or an unknown escape in a string.
    BadString "bad_string" PARSE_ERROR "The body has a string that is not valid JSON.";
    /// More levels than [`DEPTH_MAX`](super::DEPTH_MAX).
    TooDeep "too_deep" INVALID_REQUEST "The body is nested too deeply.";
    /// An array of messages; no revision of MCP that is spoken here has batches.
    Batch "batch" INVALID_REQUEST "Batches are not supported; send one message.";
    /// Neither an object nor an array.
    NotAnObject "not_an_object" INVALID_REQUEST "The message is not an object.";
    /// A key that is read here is there twice, and parsers disagree which one counts.
    DuplicateKey "duplicate_key" INVALID_REQUEST "The message has a key twice.";
    /// A key that some parsers take for one that is read here, as `Name` or `name\u0000`.
    KeyVariant "key_variant" INVALID_REQUEST "The message has a key that can be mistaken for another.";
    /// Half of a surrogate pair in a string that is read here; parsers disagree what it becomes.
    LoneSurrogate "lone_surrogate" INVALID_REQUEST "The message has a string that is not Unicode text.";
    /// `jsonrpc` is missing or not exactly `"2.0"`.
    BadVersion "bad_version" INVALID_REQUEST "The message is not JSON-RPC 2.0.";
    /// The id is neither a string nor an integer, or a result has none.
    BadId "bad_id" INVALID_REQUEST "The id is neither a string nor an integer.";
    /// `method` is not a string.
    BadMethod "bad_method" INVALID_REQUEST "The method is not a string.";
    /// `params` is not an object.
    BadParams "bad_params" INVALID_REQUEST "The params are not an object.";
    /// Neither a request, nor a notification, nor a response, or several of them at once.
    BadShape "bad_shape" INVALID_REQUEST "The message is neither a request, a notification nor a response.";
    /// A member of `params` that is read here has the wrong type.
    BadParam "bad_param" INVALID_PARAMS "A parameter has the wrong type.";
}

#[cfg(test)]
mod tests {
    use super::FaultClass;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_made_for_metrics() {
        let names: BTreeSet<_> = FaultClass::ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), FaultClass::ALL.len());
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')))
        );
    }
}
