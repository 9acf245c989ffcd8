//! A string of the body, decoded, with the place where its literal stands.

use std::borrow::Cow;
use std::ops::{Deref, Range};

/// A decoded string; it borrows from the body unless the literal has an escape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    decoded: Cow<'a, str>,
    span: Range<usize>,
}

impl<'a> Text<'a> {
    pub(super) fn new(decoded: Cow<'a, str>, span: Range<usize>) -> Self {
        Self { decoded, span }
    }

    /// The string as a server reads it.
    pub fn as_str(&self) -> &str {
        &self.decoded
    }

    /// The string, without its place.
    pub fn into_cow(self) -> Cow<'a, str> {
        self.decoded
    }

    /// Where the literal stands in the body, quotes included: what is replaced when a name is spliced.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.decoded
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        *self.decoded == *other
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self.decoded == **other
    }
}

/// Half of a surrogate pair: no `char`, and no two parsers agree what to make of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

/// Decodes what stands between the quotes of a literal that the scanner has passed.
pub(super) fn decode(inner: &str) -> Result<String, LoneSurrogate> {
    Unescape::new(inner).collect()
}

/// The characters that a literal means.
pub(super) struct Unescape<'a> {
    rest: std::str::Chars<'a>,
}

impl<'a> Unescape<'a> {
    pub(super) fn new(inner: &'a str) -> Self {
        Self { rest: inner.chars() }
    }

    fn code_unit(&mut self) -> Option<u32> {
        let digits = self.rest.as_str().get(..4)?;
        self.rest = self.rest.as_str().get(4..)?.chars();
        u32::from_str_radix(digits, 16).ok()
    }

    fn escaped_unicode(&mut self) -> Option<char> {
        let high = self.code_unit()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        self.rest = self.rest.as_str().strip_prefix("\\u")?.chars();
        let low = self.code_unit().filter(|low| (0xdc00..0xe000).contains(low))?;
        char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    }
}

impl Iterator for Unescape<'_> {
    type Item = Result<char, LoneSurrogate>;

    fn next(&mut self) -> Option<Self::Item> {
        let plain = self.rest.next()?;
        if plain != '\\' {
            return Some(Ok(plain));
        }
        // The scanner has passed the literal, so that a lone surrogate is all that can still be wrong.
        let decoded = match self.rest.next() {
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('u') => self.escaped_unicode(),
            other => other,
        };
        Some(decoded.ok_or(LoneSurrogate))
    }
}

#[cfg(test)]
mod tests {
    use super::{LoneSurrogate, decode};

    #[test]
    fn literals_decode_as_serde_json_decodes_them() {
        let literals = [
            "",
            "plain",
            "ü🦀",
            r"a\/b",
            r#"\"\\\/\b\f\n\r\t"#,
            r"na\u006de",
            r"\ud83e\udd80",
            r"\uD83E\uDD80x",
            r"\u0000",
            r"\ud800",
            r"\udc00",
            r"\ud800\ud800",
            r"\ud800x",
            r"\ud800\n",
            r"\udc00\ud800",
            r"\uffff",
        ];
        for inner in literals {
            let expected: Result<String, _> = serde_json::from_str(&format!("\"{inner}\""));
            assert_eq!(decode(inner), expected.map_err(|_| LoneSurrogate), "{inner}");
        }
    }
}
