//! The grammar of RFC 8259, walked once without recursion, allocation or a tree.

use super::fault::FaultClass;

/// How many objects and arrays may stand inside one another, the message itself included.
pub const DEPTH_MAX: usize = 127;

/// What is wrong, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) class: FaultClass,
    pub(super) offset: usize,
}

/// The grammar is broken, and nothing after it can be trusted; [`Scanner::broken`] says how.
///
/// It carries nothing, so that results stay in registers where all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop;

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

/// Whether the object goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Member,
    End,
}

/// A position in a body that is known to be UTF-8.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    broken: Broken,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, broken: Broken { class: FaultClass::Syntax, offset: 0 } }
    }

    /// Why the scan has stopped.
    pub(super) fn broken(&self) -> Broken {
        self.broken
    }

    /// The offset of the next byte that was not read.
    #[inline(always)]
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// The literal that was passed from here on.
    #[inline(always)]
    pub(super) fn literal(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// What stands between the quotes of the literal that was passed from here on.
    #[inline(always)]
    pub(super) fn between_quotes(&self, start: usize) -> &'a str {
        self.text.get(start + 1..self.at - 1).unwrap_or_default()
    }

    /// The next byte that is not white space.
    #[inline(always)]
    pub(super) fn upcoming(&mut self) -> Option<u8> {
        match self.byte(self.at) {
            Some(byte) if byte > b' ' => Some(byte),
            _ => self.after_space(),
        }
    }

    /// Passes white space; what is written for people has long runs of spaces.
    #[inline(never)]
    fn after_space(&mut self) -> Option<u8> {
        const SPACES: u64 = u64::from_le_bytes(*b"        ");
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte(self.at) {
            self.at += 1;
            if self.byte(self.at) == Some(b' ')
                && let Some(eight) = self.eight(self.at)
            {
                self.at += ((eight ^ SPACES).trailing_zeros() / 8) as usize;
            }
        }
        self.byte(self.at)
    }

    /// Passes exactly these bytes, if they are next.
    #[inline(always)]
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let is_next = self.bytes().get(self.at..).is_some_and(|rest| rest.starts_with(bytes));
        if is_next {
            self.at += bytes.len();
        }
        is_next
    }

    /// Passes the `{` of an object that the caller has seen.
    #[inline(always)]
    pub(super) fn open_object(&mut self) -> Next {
        self.at += 1;
        if self.upcoming() == Some(b'}') {
            self.at += 1;
            return Next::End;
        }
        Next::Member
    }

    /// Passes the colon after a key.
    #[inline(always)]
    pub(super) fn colon(&mut self) -> Result<(), Stop> {
        if self.upcoming() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    /// Passes what follows a member.
    #[inline(always)]
    pub(super) fn close_member(&mut self) -> Result<Next, Stop> {
        let next = match self.upcoming() {
            Some(b',') => Next::Member,
            Some(b'}') => Next::End,
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(next)
    }

    /// Checks that only white space is left.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        match self.upcoming() {
            Some(_) => Err(self.stop(FaultClass::TrailingBytes, self.at)),
            None => Ok(()),
        }
    }

    /// Passes one value, which stands inside `depth` others.
    #[inline(always)]
    pub(super) fn value(&mut self, depth: usize) -> Result<Shape, Stop> {
        if self.upcoming() == Some(b'"') { self.string() } else { self.other_value(depth) }
    }

    #[inline(never)]
    fn other_value(&mut self, depth: usize) -> Result<Shape, Stop> {
        match self.upcoming() {
            Some(b'{') => self.nested(depth).map(|()| Shape::Object),
            Some(b'[') => self.nested(depth).map(|()| Shape::Array),
            Some(first) => self.scalar(first),
            None => Err(self.unexpected()),
        }
    }

    /// Passes an object or array with everything in it.
    ///
    /// The kinds of the open containers are the bits of a number, which is why depth costs no memory.
    #[inline(never)]
    fn nested(&mut self, depth_outside: usize) -> Result<(), Stop> {
        const { assert!(DEPTH_MAX < u128::BITS as usize) };
        let mut depth = depth_outside;
        let mut objects: u128 = 0;
        loop {
            match self.upcoming() {
                Some(first @ (b'{' | b'[')) => {
                    if depth == DEPTH_MAX {
                        return Err(self.stop(FaultClass::TooDeep, self.at));
                    }
                    self.at += 1;
                    depth += 1;
                    objects = objects << 1 | u128::from(first == b'{');
                    // Both brackets end two code points after their opening ones.
                    if self.upcoming() != Some(first + 2) {
                        if first == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                }
                Some(first) => _ = self.scalar(first)?,
                None => return Err(self.unexpected()),
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
                            self.name()?;
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

    /// Passes a key that nobody reads, and its colon.
    #[inline(always)]
    fn name(&mut self) -> Result<(), Stop> {
        self.key()?;
        self.colon()
    }

    /// Passes a key.
    #[inline(always)]
    pub(super) fn key(&mut self) -> Result<Shape, Stop> {
        if self.upcoming() != Some(b'"') {
            return Err(self.unexpected());
        }
        self.string()
    }

    #[inline(always)]
    fn scalar(&mut self, first: u8) -> Result<Shape, Stop> {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(first),
            b't' => self.word(b"true", Shape::Boolean),
            b'f' => self.word(b"false", Shape::Boolean),
            b'n' => self.word(b"null", Shape::Null),
            _ => Err(self.unexpected()),
        }
    }

    #[inline(always)]
    fn word(&mut self, word: &[u8], shape: Shape) -> Result<Shape, Stop> {
        if self.take(word) { Ok(shape) } else { Err(self.bad_word(word)) }
    }

    #[cold]
    #[inline(never)]
    fn bad_word(&mut self, word: &[u8]) -> Stop {
        for expected in word {
            if self.byte(self.at) != Some(*expected) {
                break;
            }
            self.at += 1;
        }
        self.unexpected()
    }

    /// Passes a string, eight bytes in one go; most of them are short and plain.
    #[inline(always)]
    fn string(&mut self) -> Result<Shape, Stop> {
        let mut block = self.at + 1;
        let short_end = block + 32;
        while let Some(eight) = self.eight(block).filter(|_| block < short_end) {
            let hits = special_bits(eight);
            if hits != 0 {
                let first = hits.trailing_zeros() & !7;
                if (eight >> first) as u8 == b'"' {
                    self.at = block + (first / 8) as usize + 1;
                    return Ok(Shape::PlainString);
                }
                break;
            }
            block += 8;
        }
        self.long_string(block)
    }

    /// Passes the rest of a string that is long or has escapes.
    ///
    /// The blocks do not follow the escapes but march on, so that the processor need not know where
    /// one escape ends to load what comes after it; this is worth a third on text with many of them.
    #[inline(never)]
    fn long_string(&mut self, start: usize) -> Result<Shape, Stop> {
        let mut shape = Shape::PlainString;
        let mut block = self.plain_run(start);
        // Bytes before this belong to an escape.
        let mut unread = block;
        while let Some(eight) = self.eight(block) {
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
                        return Ok(shape);
                    }
                    b'\\' => {
                        shape = Shape::EscapedString;
                        unread = self.escape(at)?;
                    }
                    0..=0x1f => return Err(self.stop(FaultClass::BadString, at)),
                    _ => {}
                }
            }
            block += 8;
        }
        self.at = block.max(unread);
        self.string_end(shape)
    }

    /// Where the first 32 bytes start that are not all plain: what makes long strings fast.
    #[inline(always)]
    fn plain_run(&self, mut block: usize) -> usize {
        while let Some(bytes) = self.bytes().get(block..).and_then(|rest| rest.first_chunk::<32>())
        {
            let eights = bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight));
            if eights.fold(0, |hits, eight| hits | special_bits(eight)) != 0 {
                break;
            }
            block += 32;
        }
        block
    }

    /// Passes the rest of a string that ends within eight bytes of the end of the body.
    #[inline(never)]
    fn string_end(&mut self, mut shape: Shape) -> Result<Shape, Stop> {
        loop {
            match self.byte(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    shape = Shape::EscapedString;
                    self.at = self.escape(self.at)?;
                }
                Some(0..=0x1f) => return Err(self.stop(FaultClass::BadString, self.at)),
                Some(_) => self.at += 1,
                None => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        Ok(shape)
    }

    /// Where the escape that starts at the backslash `at` ends.
    #[inline(always)]
    fn escape(&mut self, at: usize) -> Result<usize, Stop> {
        match self.byte(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => self.hex_digits(at + 2),
            _ => Err(self.stop(FaultClass::BadString, at + 1)),
        }
    }

    fn hex_digits(&mut self, start: usize) -> Result<usize, Stop> {
        for offset in start..start + 4 {
            if !self.byte(offset).is_some_and(|byte| byte.is_ascii_hexdigit()) {
                return Err(self.stop(FaultClass::BadString, offset));
            }
        }
        Ok(start + 4)
    }

    #[inline(always)]
    fn number(&mut self, first: u8) -> Result<Shape, Stop> {
        if first == b'-' {
            self.at += 1;
        }
        if self.byte(self.at) == Some(b'0') {
            // A leading zero stands alone; a digit after it is found below.
            self.at += 1;
        } else {
            self.digits()?;
        }
        if let Some(b',' | b'}' | b']') = self.byte(self.at) {
            return Ok(Shape::Integer);
        }
        self.number_end()
    }

    /// Passes the fraction and the exponent, if there are any, and looks at what follows.
    #[inline(always)]
    fn number_end(&mut self) -> Result<Shape, Stop> {
        let mut shape = Shape::Integer;
        if self.byte(self.at) == Some(b'.') {
            shape = Shape::Fraction;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte(self.at) {
            shape = Shape::Fraction;
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        match self.byte(self.at) {
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'.' | b'+' | b'-' | b'_') => {
                Err(self.stop(FaultClass::BadNumber, self.at))
            }
            _ => Ok(shape),
        }
    }

    /// Passes at least one digit.
    #[inline(always)]
    fn digits(&mut self) -> Result<(), Stop> {
        let rest = self.bytes().get(self.at..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Err(self.stop(FaultClass::BadNumber, self.at));
        }
        self.at += digits;
        Ok(())
    }

    #[inline(always)]
    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes().get(at).copied()
    }

    /// The eight bytes from here on, the first of them lowest.
    #[inline(always)]
    fn eight(&self, at: usize) -> Option<u64> {
        let eight = self.bytes().get(at..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*eight))
    }

    #[cold]
    #[inline(never)]
    fn unexpected(&mut self) -> Stop {
        self.stop(FaultClass::Syntax, self.at)
    }

    /// Keeps what is wrong with the byte at the offset; if the body ends there, that is what is wrong.
    #[cold]
    #[inline(never)]
    pub(super) fn stop(&mut self, class: FaultClass, offset: usize) -> Stop {
        let class = if offset < self.text.len() { class } else { FaultClass::Truncated };
        self.broken = Broken { class, offset };
        Stop
    }
}

/// Marks the quotes, backslashes and control characters among eight bytes by their highest bits.
///
/// A byte underflows in a subtraction when it is one of them; turning over its second bit puts the
/// quote (0x22) next to the control characters. The borrow can mark a byte above a true hit wrongly,
/// so that hits are looked at again; it never hides one, and the lowest is always true.
#[inline(always)]
fn special_bits(eight: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let quotes_and_controls = (eight ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslashes = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (quotes_and_controls | backslashes) & !eight & HIGH
}

#[cfg(test)]
mod tests {
    use super::{Broken, DEPTH_MAX, FaultClass, Scanner, Shape, Stop};

    fn check(text: &str, expected: Result<Shape, (FaultClass, usize)>) {
        let mut scanner = Scanner::new(text);
        let found = scanner.value(0).and_then(|shape| scanner.end().map(|()| shape));
        let broken = scanner.broken();
        assert_eq!(found.map_err(|Stop| (broken.class, broken.offset)), expected, "{text}");
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
            let mut scanner = Scanner::new(&text);
            assert_eq!(scanner.value(0), Err(Stop));
            let expected = Broken { class: FaultClass::TooDeep, offset: DEPTH_MAX };
            assert_eq!(scanner.broken(), expected);
        }
        let objects = [r#"{"a":"#.repeat(DEPTH_MAX), "1".into(), "}".repeat(DEPTH_MAX)].concat();
        check(&objects, Ok(Shape::Object));
        let mut scanner = Scanner::new(&objects);
        assert_eq!(scanner.value(1), Err(Stop));
        assert_eq!(scanner.broken().class, FaultClass::TooDeep);
        let mixed = [r#"[{"a":[{},"#.repeat(42), "0".into(), "]}]".repeat(42)].concat();
        check(&mixed, Ok(Shape::Array));
    }

    #[test]
    fn every_byte_of_a_string_is_judged_wherever_it_stands() {
        for length in (1..28).chain(60..76) {
            for place in 0..length {
                for byte in 0..0x80u8 {
                    let mut inner = vec![b' '; length];
                    inner[place] = byte;
                    let text = format!("\"{}\"", String::from_utf8(inner).unwrap());
                    let mut scanner = Scanner::new(&text);
                    let is_passed = scanner.value(0).is_ok() && scanner.offset() == text.len();
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
