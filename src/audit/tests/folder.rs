//! A folder for one test, removed at its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::audit::{Extent, Report, verify};

pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("toolgate-audit-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Every file here, by name.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("a folder");
        let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }

    pub(super) fn text(path: &Path) -> String {
        fs::read_to_string(path).expect("a file")
    }

    /// What `audit verify` says of a text.
    pub(super) fn verify(&self, text: impl AsRef<[u8]>) -> Report {
        verify(&[self.write("verified", text)], Extent::Whole).expect("a report")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the system's folder for what may be removed.
        fs::remove_dir_all(&self.0).ok();
    }
}
