//! Whether files have changed: their marks are compared, and nothing of them is read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The files of a configuration, and how they looked when they were read.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    read: Marks,
    last: Marks,
}

/// How files look from outside, by their names; one that is not there has no mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<PathBuf, Option<Mark>>);

/// What tells one content of a name from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Kubernetes replaces a directory of files at once, by a link that then leads elsewhere.
    leads_to: Option<PathBuf>,
}

impl Marks {
    /// How these files look now.
    pub fn of<'p>(files: impl Iterator<Item = &'p Path>) -> Self {
        Self(files.map(|file| (file.to_path_buf(), mark(file))).collect())
    }

    /// For files of which nobody knows how they looked: they have changed if they are there.
    pub fn unknown<'p>(files: impl Iterator<Item = &'p Path>) -> Self {
        Self(files.map(|file| (file.to_path_buf(), None)).collect())
    }
}

impl Watch {
    /// How the files of the last reading look now; to be taken before they are read again.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks::of(self.read.0.keys().map(PathBuf::as_path))
    }

    /// A reading that began when files looked like `before` has read these `files`.
    pub fn was_read<'p>(&mut self, before: &Marks, files: impl Iterator<Item = &'p Path>) {
        let look = |file: &Path| before.0.get(file).map_or_else(|| mark(file), Option::clone);
        self.read = Marks(files.map(|file| (file.to_path_buf(), look(file))).collect());
    }

    /// Looks at the files. Tells whether they are other than when they were read, and have not
    /// changed since the last look: who writes them has come to an end.
    pub fn has_changed(&mut self) -> bool {
        let now = self.marks();
        let has_settled = now == self.last;
        self.last = now;
        has_settled && self.last != self.read
    }
}

fn mark(file: &Path) -> Option<Mark> {
    let metadata = fs::metadata(file).ok()?;
    Some(Mark {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        leads_to: fs::canonicalize(file).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Marks, Watch};
    use crate::config::tests::directory::TestDirectory;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let directory = TestDirectory::new();
        directory.write("a.yaml", "1");
        let file = directory.path().join("a.yaml");
        let mut watch = Watch::default();
        let files = || std::iter::once(file.as_path());
        watch.was_read(&Marks::default(), files());
        assert!(!watch.has_changed() && !watch.has_changed(), "nothing happened");

        fs::write(&file, "22").expect("written");
        assert!(!watch.has_changed(), "it may still be written");
        assert!(watch.has_changed() && watch.has_changed(), "until it is read");
        watch.was_read(&watch.marks(), files());
        assert!(!watch.has_changed() && !watch.has_changed());

        watch.was_read(&Marks::unknown(files()), files());
        assert!(watch.has_changed(), "it may have changed before the first look");
        watch.was_read(&watch.marks(), files());

        fs::remove_file(&file).expect("removed");
        assert!(!watch.has_changed());
        assert!(watch.has_changed(), "a file that is gone has changed");
    }

    #[test]
    fn a_change_during_the_reading_is_not_lost() {
        let directory = TestDirectory::new();
        directory.write("a.yaml", "1");
        let file = directory.path().join("a.yaml");
        let mut watch = Watch::default();
        watch.was_read(&Marks::default(), std::iter::once(file.as_path()));
        let before = watch.marks();
        fs::write(&file, "22").expect("written");
        watch.was_read(&before, std::iter::once(file.as_path()));
        watch.has_changed();
        assert!(watch.has_changed());
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let directory = TestDirectory::new();
        for version in ["v1", "v2"] {
            directory.write(&format!("{version}/a.yaml"), "1");
        }
        let (data, file) = (directory.path().join("..data"), directory.path().join("a.yaml"));
        symlink("v1", &data).expect("a link");
        symlink("..data/a.yaml", &file).expect("a link");
        let mut watch = Watch::default();
        watch.was_read(&Marks::default(), std::iter::once(file.as_path()));
        watch.has_changed();
        assert!(!watch.has_changed());
        let swapped = directory.path().join("..data_tmp");
        symlink("v2", &swapped).expect("a link");
        fs::rename(&swapped, &data).expect("swapped");
        watch.has_changed();
        assert!(watch.has_changed());
    }
}
