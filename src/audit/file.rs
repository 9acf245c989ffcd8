//! Lines in a file that other processes append to as well, and that is renamed when it is large.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::sink::{Sink, Written, whole_lines};
use crate::telemetry::write_rfc3339;

/// How long another process may be writing.
const LOCK_PAUSE: Duration = Duration::from_millis(2);
const LOCK_PAUSES_MAX: u32 = 500;
/// How often the file may turn out to be another one while it is locked.
const TRIES_MAX: u32 = 5;

/// A file with lines.
pub(super) struct LineFile {
    path: PathBuf,
    rotate_bytes: u64,
    keep: Option<usize>,
    file: Option<File>,
    /// The length after the last write of this process: it ends with a whole line.
    good_bytes: u64,
}

impl LineFile {
    /// Opens the file, so that a path that cannot be written is found at the start.
    pub(super) fn open(path: PathBuf, rotate_bytes: u64, keep: Option<usize>) -> io::Result<Self> {
        let file = Some(open(&path)?);
        Ok(Self { path, rotate_bytes, keep, file, good_bytes: 0 })
    }

    /// The file that stands at the path now, locked.
    fn locked(&mut self) -> io::Result<File> {
        for _ in 0..TRIES_MAX {
            let file = match self.file.take() {
                Some(file) => file,
                None => open(&self.path)?,
            };
            lock(&file)?;
            // Whoever waited for the lock may hold a file that was renamed meanwhile.
            let (opened, there) = (file.metadata()?, fs::metadata(&self.path));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
                return Ok(file);
            }
            self.good_bytes = 0;
        }
        Err(io::Error::other("the file is renamed again and again"))
    }

    fn write_locked(&mut self, file: &File, lines: &[u8]) -> (usize, Option<io::Error>) {
        let begin = match self.end_of_lines(file) {
            Ok(begin) => begin,
            Err(error) => return (0, Some(error)),
        };
        let mut out = 0;
        let error = loop {
            match (&*file).write(&lines[out..]) {
                Ok(0) if out < lines.len() => break Some(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => out += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
            if out == lines.len() {
                break None;
            }
        };
        let whole = whole_lines(&lines[..out]);
        self.good_bytes = begin + whole as u64;
        if out > whole && file.set_len(self.good_bytes).is_err() {
            // The half line is ended by a line break before the next write.
            self.good_bytes = 0;
        }
        (whole, error)
    }

    /// The length of the file, after ending a half line that someone left.
    fn end_of_lines(&self, file: &File) -> io::Result<u64> {
        let metadata = file.metadata()?;
        let length = metadata.len();
        if length == 0 || length == self.good_bytes || !metadata.is_file() {
            return Ok(length);
        }
        let mut last = [0];
        // Opened for appending only; reading needs a descriptor of its own.
        File::open(&self.path)?.read_exact_at(&mut last, length - 1)?;
        if last == *b"\n" {
            return Ok(length);
        }
        (&*file).write_all(b"\n")?;
        Ok(length + 1)
    }

    /// Renames the file to its name and the time, and begins a new one; the file is locked.
    fn rename(&mut self) -> io::Result<()> {
        let mut time = Vec::new();
        write_rfc3339(&mut time, SystemTime::now());
        // `20261122T101530.123456Z` sorts as time does, and every file system takes it.
        let time: String = time
            .iter()
            .filter(|byte| !b"-:".contains(byte))
            .map(|&byte| char::from(byte))
            .collect();
        let mut target = with_suffix(&self.path, &time);
        while target.exists() {
            thread::sleep(Duration::from_micros(10));
            let again = format!("{time}{}", fastrand::alphanumeric());
            target = with_suffix(&self.path, &again);
        }
        fs::rename(&self.path, target)?;
        self.good_bytes = 0;
        if let Some(keep) = self.keep {
            self.remove_all_but(keep)?;
        }
        Ok(())
    }

    fn remove_all_but(&self, keep: usize) -> io::Result<()> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let prefix = format!("{}.", name.to_string_lossy());
        let mut older: Vec<(String, PathBuf)> = fs::read_dir(folder)?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?.to_owned();
                is_time(name.strip_prefix(&prefix)?).then_some((name, path))
            })
            .collect();
        older.sort();
        let surplus = older.len().saturating_sub(keep);
        older[..surplus].iter().try_for_each(|(_, path)| fs::remove_file(path))
    }
}

impl Sink for LineFile {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn write(&mut self, lines: &[u8]) -> Written {
        let mut file = match self.locked() {
            Ok(file) => file,
            Err(error) => return Written::nothing(error),
        };
        let large = file.metadata().is_ok_and(|metadata| {
            metadata.is_file()
                && metadata.len() > 0
                && metadata.len().saturating_add(lines.len() as u64) > self.rotate_bytes
        });
        if large {
            match self.rename() {
                Ok(()) => match self.locked() {
                    Ok(new) => file = new,
                    Err(error) => return Written::nothing(error),
                },
                // A file that is too large is better than no record.
                Err(error) => tracing::warn!(%error, file = self.name(), "cannot rotate"),
            }
        }
        let (bytes, error) = self.write_locked(&file, lines);
        file.unlock().ok();
        // After an error the path may lead to another file, which is worth a try.
        self.file = if error.is_none() { Some(file) } else { None };
        Written { bytes, error }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let before = self.file.as_ref().and_then(|file| file.metadata().ok());
        let file = self.locked()?;
        let now = file.metadata()?;
        // Who was told to rotate may come after another process, or after logrotate, that did it.
        let is_same = before.is_some_and(|before| before.ino() == now.ino());
        if is_same && now.is_file() && now.len() > 0 {
            self.rename()?;
        }
        file.unlock()
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Takes the lock that keeps processes from writing into each other's lines. It ends with them.
fn lock(file: &File) -> io::Result<()> {
    for _ in 0..LOCK_PAUSES_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            // Without locks in this file system, appending whole lines at once must do.
            Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
    Err(io::Error::other("another process holds the file"))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether this is the time in the name of a file that was rotated.
fn is_time(suffix: &str) -> bool {
    let form = b"00000000T000000.000000Z";
    suffix.len() >= form.len()
        && suffix.bytes().zip(form).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *form,
        })
        && suffix.bytes().skip(form.len()).all(|byte| byte.is_ascii_alphanumeric())
}
