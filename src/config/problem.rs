//! A fault in the configuration, and all of them together as the operator sees them.

use std::fmt;
use std::sync::Arc;

use super::place::{Place, Sources};

/// One fault: where, what, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// What is wrong; it never repeats a value, because the line is shown below it with secrets hidden.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Problem {
    /// A fault without a hint.
    #[must_use]
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }

    /// The same fault with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The fault as it is printed: in the manner of rustc, ending with a line break.
    #[must_use]
    pub fn render(&self, sources: &Sources) -> String {
        let Self { place, message, hint } = self;
        let number = place.line().to_string();
        let gutter = " ".repeat(number.len());
        let (message, at) = (printable(message), printable(&sources.locate(*place)));
        let mut text = format!("error: {message}\n{gutter}--> {at}\n");
        if let Some((line, caret)) = sources.shown_line(*place) {
            let space = " ".repeat(caret);
            text += &format!("{gutter} |\n{number} | {}\n{gutter} | {space}^\n", printable(&line));
        }
        if let Some(hint) = hint {
            text += &format!("{gutter} = hint: {}\n", printable(hint));
        }
        text
    }
}

/// Characters that steer a terminal or hide text become spaces: the file may come from anyone.
fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().map(|c| if steers(c) { ' ' } else { c }).collect()
}

/// Every fault that was found, in the order of the files, with the texts they point into.
#[derive(Debug, Clone)]
pub struct Problems {
    list: Vec<Problem>,
    sources: Arc<Sources>,
}

impl Problems {
    /// Puts faults that were found in these sources into their order.
    #[must_use]
    pub fn new(sources: Arc<Sources>, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.place);
        list.dedup();
        Self { list, sources }
    }

    /// The faults in the order of the files.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// The texts the faults point into.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{}", problem.render(&self.sources))?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl std::error::Error for Problems {}

/// The candidate that a mistyped word most likely means.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the word may be wrong: more is another word.
    let distance_max = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, substitutions and swaps of neighbours from one word to the other.
fn edit_distance(from: &str, to: &str) -> usize {
    // Longer words are no typing mistake, and the work grows with the product of the lengths.
    const CHARS_MAX: usize = 64;
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    if from.len().max(to.len()) > CHARS_MAX {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_word_is_found_or_none() {
        let words = ["listen", "listeners", "servers", "routes", "body_bytes_max"];
        let check = |word, expected| assert_eq!(nearest(word, words), expected, "{word}");
        check("lisen", Some("listen"));
        check("listne", Some("listen"));
        check("Listen", Some("listen"));
        check("listner", Some("listen"));
        check("server", Some("servers"));
        check("body_byte_max", Some("body_bytes_max"));
        check("body-bytes-max", Some("body_bytes_max"));
        check("upstreams", None);
        check("", None);
    }
}
