//! The session key of a gateway without one in its configuration: made once, kept in `state_dir`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};

const FILE: &str = "session.key";

/// Where a generated key came from.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// It was there.
    Found(String),
    /// It was made now.
    Made(String),
}

impl KeyFile {
    /// The secret itself.
    pub fn secret(&self) -> &str {
        match self {
            Self::Found(secret) | Self::Made(secret) => secret,
        }
    }
}

/// Reads the generated key, or makes it with mode 0600.
pub fn generated_key(state_dir: &Path) -> io::Result<KeyFile> {
    let path = state_dir.join(FILE);
    match fs::File::open(&path) {
        Ok(mut file) => {
            if file.metadata()?.permissions().mode() & 0o077 != 0 {
                return Err(io::Error::other(
                    "session.key is readable by others; chmod it to 0600",
                ));
            }
            let mut secret = String::new();
            file.read_to_string(&mut secret)?;
            if secret.len() < 32 {
                return Err(io::Error::other("session.key is too short; remove it"));
            }
            Ok(KeyFile::Found(secret))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path),
        Err(error) => Err(error),
    }
}

fn make(path: &Path) -> io::Result<KeyFile> {
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    let secret = URL_SAFE_NO_PAD.encode(bytes);
    // A second gateway that starts at the same time must not overwrite the first one's key.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()?;
    Ok(KeyFile::Made(secret))
}

#[cfg(test)]
mod tests {
    use super::{KeyFile, generated_key};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let directory = std::env::temp_dir().join(format!("toolgate-key-{}", std::process::id()));
        let made = generated_key(&directory).expect("a key");
        assert!(matches!(&made, KeyFile::Made(secret) if secret.len() == 43));
        let found = generated_key(&directory).expect("the same key");
        assert_eq!(found, KeyFile::Found(made.secret().to_owned()));
        let file = directory.join("session.key");
        let mode = fs::metadata(&file).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(generated_key(&directory).is_err());
        fs::remove_dir_all(&directory).expect("clean up");
    }
}
