//! Passes over the bytes of JSON eight at once: where strings end, and where brackets stand.

/// Where the part ends in the middle of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Between two of its characters.
    InText,
    /// Just after a backslash.
    AfterBackslash,
}

/// The start of a string or literal; the longest that means something has room.
#[derive(Clone, Debug)]
pub(super) struct Token {
    bytes: [u8; 40],
    /// How long it is; what is longer than the room is none of the names that are known.
    length: u8,
}

impl Default for Token {
    fn default() -> Self {
        Self { bytes: [0; 40], length: 0 }
    }
}

impl Token {
    pub(super) fn begin(&mut self) {
        self.length = 0;
    }

    pub(super) fn add(&mut self, more: &[u8]) {
        let from = usize::from(self.length);
        match self.bytes.get_mut(from..from + more.len()) {
            Some(room) => {
                room.copy_from_slice(more);
                self.length += more.len() as u8;
            }
            // Too long for any name: it stays so, whatever is added.
            None => self.length = u8::MAX,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// Where the string that goes on at `at` is over, or where in it the part ends.
#[inline(always)]
pub(super) fn pass_text(rest: &[u8], mut at: usize) -> Result<usize, Cut> {
    while let Some(end) = text_end(&rest[at..]) {
        at += end + 1;
        if rest[at - 1] == b'"' {
            return Ok(at);
        }
        if at == rest.len() {
            return Err(Cut::AfterBackslash);
        }
        at += 1;
    }
    Err(Cut::InText)
}

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

/// Marks the bytes of a word that are zero by their highest bits; the lowest mark is always true.
#[inline(always)]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Where the first quote or backslash is. Most strings are short: memchr is asked about those that
/// are not.
#[inline(always)]
pub(super) fn text_end(text: &[u8]) -> Option<usize> {
    const SHORT: usize = 64;
    let mut at = 0;
    while at < SHORT {
        let Some(word) = word(text, at) else {
            let is_end = |byte: &u8| matches!(byte, b'"' | b'\\');
            return text[at..].iter().position(is_end).map(|found| at + found);
        };
        let hits = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr::memchr2(b'"', b'\\', &text[at..]).map(|found| at + found)
}

/// Where the first bracket or quote is, from `at` on; the end if there is none. Four other bytes are
/// hits too (`Y`, `_`, `y` and DEL), which do not stand between JSON's values.
#[inline(always)]
pub(super) fn bracket_or_quote(bytes: &[u8], mut at: usize) -> usize {
    // All of `[`, `]`, `{` and `}` become 0x7f when the three bits in which they differ are set.
    const DIFFER: u64 = ONES * 0x26;
    const ALL: u64 = ONES * 0x7f;
    while let Some(word) = word(bytes, at) {
        let hits = zeros(word ^ (ONES * b'"' as u64)) | zeros((word | DIFFER) ^ ALL);
        if hits != 0 {
            return at + hits.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_hit = |byte: &u8| matches!(byte, b'"' | b'[' | b']' | b'{' | b'}');
    let found = bytes.get(at..).and_then(|tail| tail.iter().position(is_hit));
    found.map_or(bytes.len(), |found| at + found)
}

#[cfg(test)]
mod tests {
    use super::{Cut, bracket_or_quote, pass_text, text_end};

    #[test]
    fn every_byte_is_judged_wherever_it_stands() {
        for length in 1..100 {
            for place in 0..length {
                for byte in 0..=255u8 {
                    let mut bytes = vec![b' '; length];
                    bytes[place] = byte;
                    let ends = matches!(byte, b'"' | b'\\');
                    assert_eq!(text_end(&bytes), ends.then_some(place), "{byte} at {place}");
                    let is_hit = ends && byte == b'"' || b"[]{}".contains(&byte);
                    let found = bracket_or_quote(&bytes, 0);
                    match is_hit {
                        true => assert_eq!(found, place, "{byte} at {place}"),
                        // Four bytes more are hits, which do not stand outside strings.
                        false => assert!(found == length || b"Y_y\x7f".contains(&byte), "{byte}"),
                    }
                }
            }
        }
    }

    #[test]
    fn strings_are_passed_to_their_end() {
        assert_eq!(pass_text(br#"a\"b\\" c"#, 0), Ok(7));
        assert_eq!(pass_text(br#"a\"b"#, 0), Err(Cut::InText));
        assert_eq!(pass_text(br#"a\"b\"#, 0), Err(Cut::AfterBackslash));
    }
}
