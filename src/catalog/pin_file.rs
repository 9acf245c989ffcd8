//! The file in `state_dir` that keeps the pins: whole or not at all, and for this user only.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::pins::{Kept, ServerPins};

/// Of what this version writes.
const VERSION: u32 = 1;
/// More than this version ever writes.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Why there are no pins to read.
#[derive(Debug)]
pub(super) enum PinFault {
    /// The file could not be read.
    Io(io::Error),
    /// It is not what this version writes.
    Foreign(String),
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    servers: BTreeMap<String, ServerPins>,
}

#[derive(Serialize)]
struct Written<'w> {
    version: u32,
    servers: BTreeMap<&'w str, &'w ServerPins>,
}

/// Reads a file, which need not exist.
pub(super) fn read(file: &Path) -> Result<Kept, PinFault> {
    let text = match fs::metadata(file) {
        Ok(about) if about.len() > BYTES_MAX => {
            return Err(PinFault::Foreign("it is too large".to_owned()));
        }
        Ok(_) => fs::read(file).map_err(PinFault::Io)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::new()),
        Err(error) => return Err(PinFault::Io(error)),
    };
    let foreign = |error: serde_json::Error| PinFault::Foreign(error.to_string());
    let Head { version } = serde_json::from_slice(&text).map_err(foreign)?;
    if version != VERSION {
        return Err(PinFault::Foreign(format!("its version is {version}, not {VERSION}")));
    }
    let Read { servers } = serde_json::from_slice(&text).map_err(foreign)?;
    Ok(servers.into_iter().map(|(server, pins)| (server, Arc::new(pins))).collect())
}

/// Writes a file in place of the one before.
pub(super) fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    let directory = file.parent().unwrap_or_else(|| Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let servers = kept.iter().map(|(server, pins)| (&**server, &**pins)).collect();
    let text = serde_json::to_vec(&Written { version: VERSION, servers })?;
    // Two gateways may write while one takes over from the other.
    let candidate = file.with_extension(format!("{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&candidate)?;
    new.write_all(&text)?;
    new.sync_all()?;
    fs::rename(&candidate, file)?;
    File::open(directory)?.sync_all()
}

/// Moves a file out of the way, for people to look at; where it is then, or why it is not.
pub(super) fn move_aside(file: &Path) -> String {
    let aside = file.with_extension("json.bad");
    match fs::rename(file, &aside) {
        Ok(()) => aside.display().to_string(),
        Err(error) => format!("not moved: {error}"),
    }
}
