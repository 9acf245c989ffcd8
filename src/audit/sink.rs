//! Where lines go: what every sink can do, and standard output.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// How long a line that is half out may wait for a reader that is slow.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSES_MAX: u32 = 400;

/// What came of an attempt to write.
#[derive(Debug)]
pub(super) struct Written {
    /// Bytes that are out: always whole lines.
    pub(super) bytes: usize,
    /// Why the rest is not.
    pub(super) error: Option<io::Error>,
}

/// Takes whole lines, and keeps what it has taken.
pub(super) trait Sink: Send {
    /// Its kind, for metrics.
    fn kind(&self) -> &'static str;
    /// Which one it is, for diagnostics.
    fn name(&self) -> String;
    /// Writes whole lines; what is not out is offered again.
    fn write(&mut self, lines: &[u8]) -> Written;
    /// Lines it took and could not keep, since the last time.
    fn take_lost(&mut self) -> u64 {
        0
    }
    /// Begins a new file, where there is one.
    fn rotate(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Ends, within this time.
    fn close(&mut self, _limit: Duration) {}
}

impl Written {
    /// All of it is out.
    pub(super) fn all(lines: &[u8]) -> Self {
        Self { bytes: lines.len(), error: None }
    }

    /// Nothing is out.
    pub(super) fn nothing(error: io::Error) -> Self {
        Self { bytes: 0, error: Some(error) }
    }
}

/// Standard output, which the request log uses too.
pub(super) struct Stdout {
    output: File,
    is_torn: bool,
}

impl Stdout {
    pub(super) fn open() -> io::Result<Self> {
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { output, is_torn: false })
    }
}

impl Sink for Stdout {
    fn kind(&self) -> &'static str {
        "stdout"
    }

    fn name(&self) -> String {
        "standard output".to_owned()
    }

    fn write(&mut self, lines: &[u8]) -> Written {
        // While this is held, no other line gets between; past its buffer, what is out is known.
        let mut others = io::stdout().lock();
        if let Err(error) = others.flush() {
            return Written::nothing(error);
        }
        if self.is_torn {
            match self.output.write_all(b"\n") {
                Ok(()) => self.is_torn = false,
                Err(error) => return Written::nothing(error),
            }
        }
        let (out, error) = write_on(&mut self.output, lines);
        let whole = whole_lines(&lines[..out]);
        self.is_torn = out > whole;
        Written { bytes: whole, error }
    }
}

/// Writes as much as it can; waits a little rather than leave half a line.
fn write_on(output: &mut impl Write, lines: &[u8]) -> (usize, Option<io::Error>) {
    let (mut out, mut pauses) = (0, 0);
    while out < lines.len() {
        match output.write(&lines[out..]) {
            Ok(0) => return (out, Some(io::ErrorKind::WriteZero.into())),
            Ok(bytes) => out += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && pauses < PAUSES_MAX => {
                pauses += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return (out, Some(error)),
        }
    }
    (out, None)
}

/// The length of the whole lines at the beginning.
pub(super) fn whole_lines(bytes: &[u8]) -> usize {
    memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1)
}
