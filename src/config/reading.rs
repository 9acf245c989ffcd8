//! One reading of a configuration: the texts read so far, what is wrong in them, and the environment.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::place::{Place, SourceId};
use super::problem::Problem;
use super::texts::Texts;

/// A configuration file larger than this is a mistake, and would be slow to check.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Grows while files are read; a problem never stops the reading.
pub(super) struct Reading<'e> {
    pub(super) environment: &'e dyn Fn(&str) -> Option<String>,
    pub(super) texts: Texts,
    pub(super) problems: Vec<Problem>,
}

/// What is wrong with one value; its place is added by who reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl<'e> Reading<'e> {
    pub(super) fn new(environment: &'e dyn Fn(&str) -> Option<String>) -> Self {
        Self { environment, texts: Texts::default(), problems: Vec::new() }
    }

    pub(super) fn problem(
        &mut self,
        place: Place,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.push(Problem::new(place, message).hint(hint));
    }

    pub(super) fn fault(&mut self, place: Place, fault: Fault) {
        let Fault { message, hint } = fault;
        self.problems.push(Problem { place, message, hint });
    }

    /// Reads a configuration file, or notes why it cannot be read: at `named_at`, else at the file itself.
    pub(super) fn open(&mut self, path: &Path, named_at: Option<Place>) -> Option<SourceId> {
        let name = path.display().to_string();
        let directory = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        self.texts.depend_on(path);
        match read_text(path, FILE_BYTES_MAX) {
            Ok(text) => Some(self.texts.add(name, directory, &text)),
            Err(why) => {
                let place = named_at
                    .unwrap_or_else(|| Place::file(self.texts.add(name.clone(), directory, "")));
                self.problem(
                    place,
                    format!("{name} cannot be read: {why}"),
                    "check the path and who may read it",
                );
                None
            }
        }
    }

    /// A path that a configuration file names is relative to that file.
    pub(super) fn resolve(&self, named_at: Place, path: &Path) -> PathBuf {
        self.texts.directory(named_at.source()).join(path)
    }

    /// The same for a file that must be there, though it is read later.
    pub(super) fn existing_file(&mut self, named_at: Place, path: &Path) -> PathBuf {
        let path = self.resolve(named_at, path);
        if !path.is_file() {
            self.problem(
                named_at,
                format!("there is no file {}", path.display()),
                "paths are relative to the file that names them",
            );
        }
        path
    }
}

/// Reads a file that must be text and must not be larger than the limit; the error is a reason to show.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("it is larger than {bytes_max} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())
}
