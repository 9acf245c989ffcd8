//! The texts while they are read: they hold secrets, and only what may be shown leaves them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use super::place::{Place, Source, SourceId, Sources};

/// All texts of one reading.
#[derive(Default)]
pub(super) struct Texts {
    list: Vec<Text>,
    files: BTreeSet<PathBuf>,
    digests: Vec<u8>,
    beside: Vec<u8>,
}

/// One file: its name as the operator wrote it, where it lies, and the byte ranges that must not be shown.
struct Text {
    name: String,
    directory: PathBuf,
    text: Arc<str>,
    masked: Vec<Range<usize>>,
    comments: Vec<(usize, usize)>,
}

impl Texts {
    pub(super) fn add(&mut self, name: String, directory: PathBuf, text: &str) -> SourceId {
        let id = SourceId::new(self.list.len());
        self.count(text);
        // A byte order mark is no part of the first line.
        let text = Arc::from(text.strip_prefix('\u{feff}').unwrap_or(text));
        self.list.push(Text { name, directory, text, masked: Vec::new(), comments: Vec::new() });
        id
    }

    /// Notes a file or a directory on which the reading depends.
    pub(super) fn depend_on(&mut self, path: &Path) {
        self.files.insert(path.to_path_buf());
    }

    /// Lets a text count in the digest of everything that was read.
    pub(super) fn count(&mut self, text: &str) {
        self.digests.extend_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    }

    /// The same for what makes no other configuration of it, though it must be read again.
    pub(super) fn count_beside(&mut self, bytes: &[u8]) {
        self.beside.extend_from_slice(digest(&SHA256, bytes).as_ref());
    }

    /// Hides a byte range from every line that is shown.
    pub(super) fn mask(&mut self, id: SourceId, range: Range<usize>) {
        if let Some(text) = self.list.get_mut(id.index()) {
            text.masked.push(range);
        }
    }

    /// Notes where a comment begins: a line that is shown alone keeps it, a text that is shown whole does not.
    pub(super) fn note_comment(&mut self, id: SourceId, line: usize, column: usize) {
        if let Some(text) = self.list.get_mut(id.index()) {
            text.comments.push((line, column));
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
        let list = self.list.into_iter().map(Text::into_source).collect();
        let digests = [&self.digests, &self.beside].map(|digests| {
            let mut all = [0; 32];
            all.copy_from_slice(digest(&SHA256, digests).as_ref());
            all
        });
        Sources::new(list, self.files, digests)
    }
}

impl Text {
    fn into_source(self) -> Source {
        let Self { name, directory: _, text, mut masked, mut comments } = self;
        comments.sort_unstable();
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
        let lines = shown.lines().map(|line| mask_passwords(line.trim_end())).collect();
        Source { name, lines, comments }
    }
}

/// Hides what stands between the first `://` and the last `@` of a line: in URLs it is often a password.
fn mask_passwords(line: &str) -> String {
    let Some(start) = line.find("://").map(|at| at + 3) else { return line.to_owned() };
    let Some(end) = line.rfind('@').filter(|end| *end > start) else { return line.to_owned() };
    let hidden = "*".repeat(line[start..end].chars().count());
    format!("{}{hidden}{}", &line[..start], &line[end..])
}
