//! Where a setting stands: a file, a line and a column, and the lines as they may be shown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longer lines are shown as the part around the fault.
const SHOWN_CHARS_MAX: usize = 120;

/// A position in one of the configuration files; settings keep it where an engine may find a fault later.
///
/// The default is the main file as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    source: u32,
    line: u32,
    column: u32,
}

impl Place {
    /// The line, counted from 1; 0 means the file as a whole.
    #[must_use]
    pub fn line(self) -> u32 {
        self.line
    }

    /// The column in characters, counted from 1; 0 means the file as a whole.
    #[must_use]
    pub fn column(self) -> u32 {
        self.column
    }

    pub(super) fn new(source: SourceId, line: usize, column: usize) -> Self {
        Self { source: source.0, line: narrow(line), column: narrow(column) }
    }

    /// For what is missing in a text.
    pub(super) fn start(source: SourceId) -> Self {
        Self { source: source.0, line: 1, column: 1 }
    }

    /// For a file of which nothing could be read.
    pub(super) fn file(source: SourceId) -> Self {
        Self { source: source.0, line: 0, column: 0 }
    }

    pub(super) fn source(self) -> SourceId {
        SourceId(self.source)
    }

    /// `file:line:column`, as editors and terminals understand it.
    pub(super) fn within(self, file_name: &str) -> String {
        match self.line {
            0 => file_name.to_owned(),
            line => format!("{file_name}:{line}:{}", self.column),
        }
    }
}

/// The index of a text, in the order of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceId(u32);

impl SourceId {
    pub(super) fn new(index: usize) -> Self {
        Self(narrow(index))
    }

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The lines of all files that were read, with secrets already hidden; needed to show the line of a fault.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    list: Vec<Source>,
    files: BTreeSet<PathBuf>,
    digest: [u8; 32],
    beside: [u8; 32],
}

/// One file: its name as the operator wrote it, and its lines as they may be shown.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) lines: Vec<String>,
    /// Line and character at which a comment begins, both counted from 0, in their order.
    pub(super) comments: Vec<(usize, usize)>,
}

impl Sources {
    pub(super) fn new(
        list: Vec<Source>,
        files: BTreeSet<PathBuf>,
        [digest, beside]: [[u8; 32]; 2],
    ) -> Self {
        Self { list, files, digest, beside }
    }

    /// The digest of everything that was read, secrets included: another one is another configuration. Certificates
    /// do not count: replicas may have their own.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether the same was read, certificates and their keys included.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.digest, self.beside) == (other.digest, other.beside)
    }

    /// Everything on which the reading depends, each once: the files that were read or should have been, and the
    /// directories in which patterns looked for names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// Every file whole, with secrets hidden and without comments: they may hold what was a secret once.
    pub fn texts(&self) -> impl Iterator<Item = (&str, String)> {
        self.list.iter().map(|source| (&*source.name, source.shown()))
    }

    /// `file:line:column`, as editors and terminals understand it.
    #[must_use]
    pub fn locate(&self, place: Place) -> String {
        place.within(self.source(place).map_or("<no file>", |source| &source.name))
    }

    /// The line, and the caret's distance from its start in characters.
    pub(super) fn shown_line(&self, place: Place) -> Option<(String, usize)> {
        let line = self.source(place)?.lines.get((place.line as usize).checked_sub(1)?)?;
        let caret = (place.column as usize).saturating_sub(1);
        let is_long = line.chars().count() > SHOWN_CHARS_MAX;
        let start = if is_long { caret.saturating_sub(SHOWN_CHARS_MAX / 2) } else { 0 };
        Some((line.chars().skip(start).take(SHOWN_CHARS_MAX).collect(), caret - start))
    }

    fn source(&self, place: Place) -> Option<&Source> {
        self.list.get(place.source().index())
    }
}

impl Source {
    fn shown(&self) -> String {
        let mut text = String::new();
        let mut comments = self.comments.iter().peekable();
        for (number, line) in self.lines.iter().enumerate() {
            let mut chars_max = usize::MAX;
            while let Some((_, column)) = comments.next_if(|(line, _)| *line <= number) {
                chars_max = chars_max.min(*column);
            }
            let line: String = line.chars().take(chars_max).collect();
            // A line that was only a comment leaves nothing, not even a blank line.
            if chars_max == usize::MAX || !line.trim().is_empty() {
                hide_lengths(line.trim_end(), &mut text);
                text.push('\n');
            }
        }
        text
    }
}

/// How long a secret is says something of it, so that what is hidden is shown with one length.
fn hide_lengths(line: &str, shown: &mut String) {
    const HIDDEN: &str = "****";
    let mut rest = line;
    while let Some(at) = rest.find(HIDDEN) {
        shown.push_str(&rest[..at + HIDDEN.len()]);
        rest = rest[at..].trim_start_matches('*');
    }
    shown.push_str(rest);
}
