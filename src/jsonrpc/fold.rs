//! Which keys a lenient parser takes for one that the gateway reads.

use super::text::Unescape;

/// How a key relates to the keys that are read at its level.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Match<K> {
    /// It is this key, escaped or not.
    Exact(K),
    /// It is another key that some parser takes for this one.
    Variant(K),
    /// It is no key that anyone takes for one of them.
    Unrelated,
    /// It is not text, so that nobody can say what it is.
    NotText,
}

/// Finds what stands between the quotes of a key among the keys of its level.
pub(crate) fn find<K: Copy>(inner: &str, keys: &[(&'static str, K)]) -> Match<K> {
    for &(name, key) in keys {
        if name.eq_ignore_ascii_case(inner) {
            return if name == inner { Match::Exact(key) } else { Match::Variant(key) };
        }
    }
    if inner.bytes().all(|byte| byte.is_ascii() && byte != b'\\') {
        return Match::Unrelated;
    }
    find_folded(inner, keys)
}

/// Longer than any key that is read, so that a longer one cannot match.
const FOLDED_BYTES_MAX: usize = 48;

#[cold]
fn find_folded<K: Copy>(inner: &str, keys: &[(&'static str, K)]) -> Match<K> {
    let mut folded = [0; FOLDED_BYTES_MAX];
    let mut length = 0;
    let mut is_folded = false;
    let mut is_cut = false;
    for decoded in Unescape::new(inner) {
        let Ok(character) = decoded else {
            return Match::NotText;
        };
        if is_cut {
            continue;
        }
        let ascii = fold(character);
        match ascii {
            // Parsers in C end a key at NUL, and vectorised ones compare keys padded with it.
            Some(0) => (is_cut, is_folded) = (true, true),
            Some(byte) if length < FOLDED_BYTES_MAX => {
                folded[length] = byte;
                length += 1;
                is_folded |= !character.is_ascii();
            }
            // Too long, or a character that folds to no ASCII one: only a lone surrogate still matters.
            _ => (is_cut, length) = (true, 0),
        }
    }
    let folded = &folded[..length];
    for &(name, key) in keys {
        if name.as_bytes().eq_ignore_ascii_case(folded) {
            let is_exact = !is_folded && name.as_bytes() == folded;
            return if is_exact { Match::Exact(key) } else { Match::Variant(key) };
        }
    }
    Match::Unrelated
}

/// The ASCII character that case-insensitive parsers take this one for.
fn fold(character: char) -> Option<u8> {
    match character {
        // Unicode's simple case folding (Go, Rust, .NET).
        '\u{17f}' => Some(b's'),
        '\u{212a}' => Some(b'k'),
        // Java's `equalsIgnoreCase` goes through upper and lower case of each character.
        '\u{130}' | '\u{131}' => Some(b'i'),
        ascii if ascii.is_ascii() => Some(ascii as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Match, find};

    const KEYS: &[(&str, u8)] = &[("id", 0), ("params", 1), ("taskId", 2), ("_meta", 3)];

    #[test]
    fn keys_are_found_as_the_most_lenient_parser_finds_them() {
        for (key, expected) in [
            ("id", Match::Exact(0)),
            (r"\u0069d", Match::Exact(0)),
            (r"_m\u0065ta", Match::Exact(3)),
            ("taskId", Match::Exact(2)),
            ("ID", Match::Variant(0)),
            ("taskid", Match::Variant(2)),
            (r"\u0049d", Match::Variant(0)),
            (r"id\u0000", Match::Variant(0)),
            (r"id\u0000\u0000", Match::Variant(0)),
            (r"id\u0000rest", Match::Variant(0)),
            (r"ID\u0000", Match::Variant(0)),
            ("param\u{17f}", Match::Variant(1)),
            (r"param\u017f", Match::Variant(1)),
            (r"param\u017F\u0000", Match::Variant(1)),
            ("tas\u{212a}Id", Match::Variant(2)),
            (r"tas\u212aid", Match::Variant(2)),
            ("\u{131}d", Match::Variant(0)),
            ("\u{130}D", Match::Variant(0)),
            ("", Match::Unrelated),
            (r"\u0000id", Match::Unrelated),
            (r"i\u0000d", Match::Unrelated),
            ("id ", Match::Unrelated),
            ("idé", Match::Unrelated),
            ("éid", Match::Unrelated),
            (r"id\/", Match::Unrelated),
            (r"id\ud800", Match::NotText),
            (r"é\udc00", Match::NotText),
            (r"id\u0000\udc00", Match::NotText),
        ] {
            assert_eq!(find(key, KEYS), expected, "{key}");
        }
        let long = format!("{}\\n", "i".repeat(1000));
        assert_eq!(find(&long, KEYS), Match::Unrelated);
        assert_eq!(find(&format!("{long}\\ud800"), KEYS), Match::NotText);
    }
}
