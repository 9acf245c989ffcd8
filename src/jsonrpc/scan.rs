//! The grammar of RFC 8259, walked once without recursion, allocation or a tree.

use super::fault::FaultClass;

/// How many objects and arrays may stand inside one another, the message itself included.
pub const DEPTH_MAX: usize = 127;

/// A fault of grammar: nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) class: FaultClass,
    pub(super) offset: usize,
}

/// What kind of value was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A string whose literal is what it means.
    PlainString,
    /// A string that must be decoded.
    EscapedString,
    Integer,
    /// A number with a fraction or an exponent.
    Fraction,
    Object,
    Array,
    Null,
    Boolean,
}

/// A value that was passed, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) shape: Shape,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Whether the object goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Member,
    End,
}

/// A position in a body that is known to be UTF-8.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    /// The offset of the next byte that was not read.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space.
    #[inline(always)]
    pub(super) fn upcoming(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Passes the `{` of an object that the caller has seen.
    pub(super) fn open_object(&mut self) -> Next {
        self.at += 1;
        if self.upcoming() == Some(b'}') {
            self.at += 1;
            return Next::End;
        }
        Next::Member
    }

    /// Passes a key and its colon.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Result<Value, Broken> {
        if self.upcoming() != Some(b'"') {
            return Err(self.unexpected());
        }
        let key = self.string()?;
        if self.upcoming() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(key)
    }

    /// Passes what follows a member.
    pub(super) fn close_member(&mut self) -> Result<Next, Broken> {
        let next = match self.upcoming() {
            Some(b',') => Next::Member,
            Some(b'}') => Next::End,
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(next)
    }

    /// Checks that only white space is left.
    pub(super) fn end(&mut self) -> Result<(), Broken> {
        match self.upcoming() {
            Some(_) => Err(Broken { class: FaultClass::TrailingBytes, offset: self.at }),
            None => Ok(()),
        }
    }

    /// Passes one value, which stands inside `depth` others.
    #[inline]
    pub(super) fn value(&mut self, depth: usize) -> Result<Value, Broken> {
        let Some(first) = self.upcoming() else {
            return Err(self.unexpected());
        };
        if !matches!(first, b'{' | b'[') {
            return self.scalar(first);
        }
        let start = self.at;
        self.nested(depth)?;
        let shape = if first == b'{' { Shape::Object } else { Shape::Array };
        Ok(Value { shape, start, end: self.at })
    }

    /// Passes an object or array with everything in it.
    ///
    /// The kinds of the open containers are the bits of a number, which is why depth costs no memory.
    #[inline(never)]
    fn nested(&mut self, depth_outside: usize) -> Result<(), Broken> {
        const { assert!(DEPTH_MAX < u128::BITS as usize) };
        let mut depth = depth_outside;
        let mut objects: u128 = 0;
        loop {
            let Some(first) = self.upcoming() else {
                return Err(self.unexpected());
            };
            if let b'{' | b'[' = first {
                if depth == DEPTH_MAX {
                    return Err(Broken { class: FaultClass::TooDeep, offset: self.at });
                }
                self.at += 1;
                // Both brackets end two code points after their opening ones.
                if self.upcoming() == Some(first + 2) {
                    self.at += 1;
                } else {
                    depth += 1;
                    objects = objects << 1 | u128::from(first == b'{');
                    if first == b'{' {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.scalar(first)?;
            }
            // A value has ended, and perhaps the containers around it.
            loop {
                if depth == depth_outside {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                match self.upcoming() {
                    Some(b',') => {
                        self.at += 1;
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if is_object => {}
                    Some(b']') if !is_object => {}
                    _ => return Err(self.unexpected()),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    #[inline(always)]
    fn scalar(&mut self, first: u8) -> Result<Value, Broken> {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(first),
            b't' => self.word(b"true", Shape::Boolean),
            b'f' => self.word(b"false", Shape::Boolean),
            b'n' => self.word(b"null", Shape::Null),
            _ => Err(self.unexpected()),
        }
    }

    fn word(&mut self, word: &[u8], shape: Shape) -> Result<Value, Broken> {
        let start = self.at;
        for expected in word {
            if self.bytes.get(self.at) != Some(expected) {
                return Err(self.unexpected());
            }
            self.at += 1;
        }
        Ok(Value { shape, start, end: self.at })
    }

    /// Passes a string, eight bytes in one go.
    ///
    /// The blocks do not follow the escapes but march on, so that the processor need not know where
    /// one escape ends to load what comes after it; this is worth a third on text with many of them.
    #[inline(always)]
    fn string(&mut self) -> Result<Value, Broken> {
        let start = self.at;
        let mut shape = Shape::PlainString;
        let mut block = start + 1;
        // Bytes before this belong to an escape.
        let mut unread = block;
        while let Some(eight) = self.bytes.get(block..).and_then(|rest| rest.first_chunk::<8>()) {
            let eight = u64::from_le_bytes(*eight);
            let mut hits = special_bits(eight);
            while hits != 0 {
                let shift = hits.trailing_zeros() & !7;
                let at = block + (shift / 8) as usize;
                hits &= hits - 1;
                if at < unread {
                    continue;
                }
                match (eight >> shift) as u8 {
                    b'"' => {
                        self.at = at + 1;
                        return Ok(Value { shape, start, end: at + 1 });
                    }
                    b'\\' => {
                        shape = Shape::EscapedString;
                        unread = self.escape(at)?;
                    }
                    0..=0x1f => {
                        return Err(Broken { class: FaultClass::BadString, offset: at });
                    }
                    _ => {}
                }
            }
            block += 8;
        }
        self.at = block.max(unread);
        self.string_end(start, shape)
    }

    /// Passes the rest of a string that ends within eight bytes of the end of the body.
    fn string_end(&mut self, start: usize, mut shape: Shape) -> Result<Value, Broken> {
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    shape = Shape::EscapedString;
                    self.at = self.escape(self.at)?;
                }
                Some(0..=0x1f) => {
                    return Err(Broken { class: FaultClass::BadString, offset: self.at });
                }
                Some(_) => self.at += 1,
                None => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        Ok(Value { shape, start, end: self.at })
    }

    /// Where the escape that starts at the backslash `at` ends.
    #[inline(always)]
    fn escape(&self, at: usize) -> Result<usize, Broken> {
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => self.hex_digits(at + 2),
            byte => {
                Err(Broken { class: truncated_or(FaultClass::BadString, byte), offset: at + 1 })
            }
        }
    }

    fn hex_digits(&self, start: usize) -> Result<usize, Broken> {
        for offset in start..start + 4 {
            match self.bytes.get(offset) {
                Some(byte) if byte.is_ascii_hexdigit() => {}
                byte => {
                    return Err(Broken {
                        class: truncated_or(FaultClass::BadString, byte),
                        offset,
                    });
                }
            }
        }
        Ok(start + 4)
    }

    #[inline(always)]
    fn number(&mut self, first: u8) -> Result<Value, Broken> {
        let start = self.at;
        let mut shape = Shape::Integer;
        if first == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            // A leading zero stands alone; a digit after it is found below.
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            shape = Shape::Fraction;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            shape = Shape::Fraction;
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        match self.bytes.get(self.at) {
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'+' | b'-' | b'_') => {
                Err(Broken { class: FaultClass::BadNumber, offset: self.at })
            }
            _ => Ok(Value { shape, start, end: self.at }),
        }
    }

    /// Passes at least one digit.
    #[inline(always)]
    fn digits(&mut self) -> Result<(), Broken> {
        let first = self.bytes.get(self.at);
        if !first.is_some_and(u8::is_ascii_digit) {
            return Err(Broken {
                class: truncated_or(FaultClass::BadNumber, first),
                offset: self.at,
            });
        }
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        Ok(())
    }

    #[cold]
    fn unexpected(&self) -> Broken {
        Broken { class: truncated_or(FaultClass::Syntax, self.bytes.get(self.at)), offset: self.at }
    }
}

fn truncated_or(class: FaultClass, byte: Option<&u8>) -> FaultClass {
    byte.map_or(FaultClass::Truncated, |_| class)
}

/// Marks the quotes, backslashes and control characters among eight bytes by their highest bits.
///
/// A byte underflows in a subtraction when it is one of them. The borrow can mark a byte above a true
/// hit wrongly, so that hits are looked at again; it never hides one.
#[inline(always)]
fn special_bits(eight: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let quote = eight ^ (ONES * b'"' as u64);
    let backslash = eight ^ (ONES * b'\\' as u64);
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (control | (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash))
        & HIGH
}

#[cfg(test)]
mod tests {
    use super::{DEPTH_MAX, FaultClass, Scanner, Shape};

    fn check(text: &str, expected: Result<Shape, (FaultClass, usize)>) {
        let mut scanner = Scanner::new(text);
        let found = scanner.value(0).and_then(|value| scanner.end().map(|()| value.shape));
        assert_eq!(found.map_err(|broken| (broken.class, broken.offset)), expected, "{text}");
        // Whatever is decided here must be what another strict parser decides.
        assert_eq!(
            found.is_ok(),
            serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok(),
            "{text}"
        );
    }

    #[test]
    fn values_are_passed_and_faults_are_placed() {
        use FaultClass::{BadNumber, BadString, Syntax, TrailingBytes, Truncated};
        for (text, expected) in [
            (r#""""#, Ok(Shape::PlainString)),
            (r#" "a b" "#, Ok(Shape::PlainString)),
            (r#""twelve bytes and more ü""#, Ok(Shape::PlainString)),
            (r#""\u00e9\n\/\"""#, Ok(Shape::EscapedString)),
            (r#""\ud800""#, Ok(Shape::EscapedString)),
            ("0", Ok(Shape::Integer)),
            ("-0", Ok(Shape::Integer)),
            ("-120", Ok(Shape::Integer)),
            ("0.5", Ok(Shape::Fraction)),
            ("1e999", Ok(Shape::Fraction)),
            ("1.25E-3", Ok(Shape::Fraction)),
            ("null", Ok(Shape::Null)),
            ("true", Ok(Shape::Boolean)),
            ("\t\r\n false", Ok(Shape::Boolean)),
            ("{}", Ok(Shape::Object)),
            (" [ ] ", Ok(Shape::Array)),
            (r#"{"a":[{"b":{}},[],"]",1],"c":{"d":null}}"#, Ok(Shape::Object)),
            ("[[1,2],[3 , 4],{\"\":[]}]", Ok(Shape::Array)),
            ("", Err((Truncated, 0))),
            ("  ", Err((Truncated, 2))),
            ("nul", Err((Truncated, 3))),
            ("nulL", Err((Syntax, 3))),
            ("NaN", Err((Syntax, 0))),
            ("Infinity", Err((Syntax, 0))),
            ("'a'", Err((Syntax, 0))),
            ("// c\n1", Err((Syntax, 0))),
            ("\u{a0}1", Err((Syntax, 0))),
            ("1 2", Err((TrailingBytes, 2))),
            ("{}}", Err((TrailingBytes, 2))),
            ("[1,]", Err((Syntax, 3))),
            ("[,1]", Err((Syntax, 1))),
            ("[1 2]", Err((Syntax, 3))),
            ("[1}", Err((Syntax, 2))),
            ("{\"a\":1]", Err((Syntax, 6))),
            ("{\"a\":1,}", Err((Syntax, 7))),
            ("{\"a\" 1}", Err((Syntax, 5))),
            ("{\"a\":}", Err((Syntax, 5))),
            ("{1:1}", Err((Syntax, 1))),
            ("{a:1}", Err((Syntax, 1))),
            ("{\"a\":1", Err((Truncated, 6))),
            ("{\"a\":", Err((Truncated, 5))),
            ("[", Err((Truncated, 1))),
            ("01", Err((BadNumber, 1))),
            ("-", Err((Truncated, 1))),
            ("-a", Err((BadNumber, 1))),
            ("1.", Err((Truncated, 2))),
            ("[1.]", Err((BadNumber, 3))),
            ("1.5.2", Err((BadNumber, 3))),
            ("1e", Err((Truncated, 2))),
            ("[1e+]", Err((BadNumber, 4))),
            ("0x10", Err((BadNumber, 1))),
            ("1_000", Err((BadNumber, 1))),
            ("+1", Err((Syntax, 0))),
            (".5", Err((Syntax, 0))),
            ("\"a", Err((Truncated, 2))),
            ("\"a\\", Err((Truncated, 3))),
            ("\"\\x\"", Err((BadString, 2))),
            ("\"\\u12g4\"", Err((BadString, 5))),
            ("\"\\u12", Err((Truncated, 5))),
            ("\"a\nb\"", Err((BadString, 2))),
            ("\"seventeen bytes \u{1}\"", Err((BadString, 17))),
            ("\"\u{0}\"", Err((BadString, 1))),
        ] {
            check(text, expected);
        }
    }

    #[test]
    fn nesting_ends_at_the_limit_and_not_one_later() {
        let nest = |open: &str, close: &str, levels: usize| {
            [open.repeat(levels), close.repeat(levels)].concat()
        };
        check(&nest("[", "]", DEPTH_MAX), Ok(Shape::Array));
        for text in
            [nest("[", "]", DEPTH_MAX + 1), nest("[", "]", 1_000_000), "[".repeat(1_000_000)]
        {
            let broken = Scanner::new(&text).value(0).unwrap_err();
            assert_eq!((broken.class, broken.offset), (FaultClass::TooDeep, DEPTH_MAX));
        }
        let objects = [r#"{"a":"#.repeat(DEPTH_MAX), "1".into(), "}".repeat(DEPTH_MAX)].concat();
        check(&objects, Ok(Shape::Object));
        assert_eq!(Scanner::new(&objects).value(1).unwrap_err().class, FaultClass::TooDeep);
        let mixed = [r#"[{"a":[{},"#.repeat(42), "0".into(), "]}]".repeat(42)].concat();
        check(&mixed, Ok(Shape::Array));
    }

    #[test]
    fn every_byte_of_a_string_is_judged_wherever_it_stands() {
        for length in 1..28 {
            for place in 0..length {
                for byte in 0..0x80u8 {
                    let mut inner = vec![b' '; length];
                    inner[place] = byte;
                    let text = format!("\"{}\"", String::from_utf8(inner).unwrap());
                    let is_passed =
                        Scanner::new(&text).value(0).map(|value| value.end) == Ok(text.len());
                    assert_eq!(
                        is_passed,
                        byte >= b' ' && byte != b'"' && byte != b'\\',
                        "{text:?}"
                    );
                }
                let escaped =
                    format!("\"{}\\\"\\\\{}\"", "!".repeat(place), "\u{7f}".repeat(length - place));
                check(&escaped, Ok(Shape::EscapedString));
            }
        }
    }
}
