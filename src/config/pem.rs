//! A PEM file that connections are secured with: read with the configuration, so that what is checked is what is served.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::Place;
use super::reading::Reading;
use super::shape::At;

/// Lists of revoked certificates grow; a larger file is a mistake.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A file and what it held when it was read. It may hold a private key, so `Debug` hides that.
#[derive(Clone)]
pub struct PemFile {
    path: PathBuf,
    bytes: Arc<[u8]>,
    place: Place,
}

/// Two are the same wherever they are named.
impl PartialEq for PemFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.bytes == other.bytes
    }
}

impl Eq for PemFile {}

impl PemFile {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds; never to be logged.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it is named.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Reads the file that a key names. A change of it is noticed, and is another configuration;
    /// replicas with certificates of their own still have the same one.
    pub(super) fn read(file: &At<PathBuf>, reading: &mut Reading<'_>) -> Option<Self> {
        let path = reading.existing_file(file.place, &file.value);
        reading.texts.depend_on(&path);
        if !path.is_file() {
            return None;
        }
        match read(&path) {
            Ok(bytes) => {
                reading.texts.count_beside(&bytes);
                Some(Self { path, bytes: bytes.into(), place: file.place })
            }
            Err(why) => {
                let message = format!("{} cannot be read: {why}", path.display());
                reading.problem(file.place, message, "check who may read it");
                None
            }
        }
    }
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PemFile").field(&self.path).finish()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))),
        false => Ok(bytes),
    }
}
