//! The texts while they are read: they hold secrets, and only what may be shown leaves them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::{Place, Source, SourceId, Sources};

/// All texts of one reading.
#[derive(Default)]
pub(super) struct Texts {
    list: Vec<Text>,
    files: BTreeSet<PathBuf>,
}

/// One file: its name as the operator wrote it, where it lies, and the byte ranges that must not be shown.
struct Text {
    name: String,
    directory: PathBuf,
    text: Arc<str>,
    masked: Vec<Range<usize>>,
}

impl Texts {
    pub(super) fn add(&mut self, name: String, directory: PathBuf, text: &str) -> SourceId {
        let id = SourceId::new(self.list.len());
        // A byte order mark is no part of the first line.
        let text = Arc::from(text.strip_prefix('\u{feff}').unwrap_or(text));
        self.list.push(Text { name, directory, text, masked: Vec::new() });
        id
    }

    /// Notes a file or a directory on which the reading depends.
    pub(super) fn depend_on(&mut self, path: &Path) {
        self.files.insert(path.to_path_buf());
    }

    /// Hides a byte range from every line that is shown.
    pub(super) fn mask(&mut self, id: SourceId, range: Range<usize>) {
        if let Some(text) = self.list.get_mut(id.index()) {
            text.masked.push(range);
        }
    }

    pub(super) fn text(&self, id: SourceId) -> Arc<str> {
        self.list.get(id.index()).map_or_else(|| Arc::from(""), |text| Arc::clone(&text.text))
    }

    /// Files named in a file are found relative to it.
    pub(super) fn directory(&self, id: SourceId) -> &Path {
        self.list.get(id.index()).map_or_else(|| Path::new(""), |text| &text.directory)
    }

    /// `file:line:column`, for hints that point to another place.
    pub(super) fn locate(&self, place: Place) -> String {
        place.within(self.list.get(place.source().index()).map_or("<no file>", |text| &text.name))
    }

    /// What may be shown, once everything that must not be is known.
    pub(super) fn into_sources(self) -> Sources {
        Sources::new(self.list.into_iter().map(Text::into_source).collect(), self.files)
    }
}

impl Text {
    fn into_source(self) -> Source {
        let Self { name, directory: _, text, mut masked } = self;
        masked.sort_by_key(|range| range.start);
        let mut masked = masked.into_iter().peekable();
        let mut masked_until = 0;
        // Every hidden character stays one character, so that carets stay true.
        let shown: String = text
            .char_indices()
            .map(|(at, c)| {
                while let Some(range) = masked.next_if(|range| range.start <= at) {
                    masked_until = masked_until.max(range.end);
                }
                if at < masked_until && !c.is_whitespace() { '*' } else { c }
            })
            .collect();
        Source { name, lines: shown.lines().map(|line| mask_passwords(line.trim_end())).collect() }
    }
}

/// Hides what stands between the first `://` and the last `@` of a line: in URLs it is often a password.
fn mask_passwords(line: &str) -> String {
    let Some(start) = line.find("://").map(|at| at + 3) else { return line.to_owned() };
    let Some(end) = line.rfind('@').filter(|end| *end > start) else { return line.to_owned() };
    let hidden = "*".repeat(line[start..end].chars().count());
    format!("{}{hidden}{}", &line[..start], &line[end..])
}
