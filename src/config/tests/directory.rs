//! A directory for one test, removed when the test ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNTER: AtomicUsize = AtomicUsize::new(0);

/// Its name is new in every test and every process.
pub(in crate::config) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(in crate::config) fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("toolgate-config-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(in crate::config) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, with the directories it needs, and gives its path.
    pub(in crate::config) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        // A directory that stays behind must not turn a passed test into a failed one.
        drop(fs::remove_dir_all(&self.0));
    }
}
