//! A value that is never shown: it comes from the text, the environment or a file, and `Debug` hides it.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::reading::{Reading, read_text};
use super::shape::{Shape, unexpected};
use super::tree::{Kind, Node, hide};

/// A larger file is not a secret but a mistake.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Secret text, read by [`Secret::expose`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself; never to be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Shape for Secret {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        hide(node, reading);
        let Kind::Scalar(text) = &node.kind else { return unexpected("a secret", node, reading) };
        let Some(path) = text.strip_prefix("file:") else { return Some(Self(text.clone())) };
        let path = reading.resolve(node.place, Path::new(path));
        reading.texts.depend_on(&path);
        match read_text(&path, FILE_BYTES_MAX) {
            // Editors and `echo` end a file with a line break that is no part of the secret.
            Ok(secret) => Some(Self(secret.trim_end_matches(['\n', '\r']).to_owned())),
            Err(why) => {
                let message = format!("{} cannot be read: {why}", path.display());
                reading.problem(
                    node.place,
                    message,
                    "paths are relative to the file that names them",
                );
                None
            }
        }
    }

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}
