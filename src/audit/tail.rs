//! The record for people: one short line each, of files and of what is added to them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::wildcard_matches;

/// How soon a new record is seen.
const POLL: Duration = Duration::from_millis(200);
/// A longer line is none of ours.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A time to the millisecond.
const TIME_CHARS: usize = 23;

/// Which records are shown.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Those of this caller; `*` and `?` stand for characters.
    pub caller: Option<String>,
    /// Those of this tool, by either name; `*` and `?` stand for characters.
    pub tool: Option<String>,
    /// How many of those that are there already; `None`: all.
    pub last: Option<usize>,
}

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At the end of the file.
    End,
    /// When nobody reads any more.
    Interrupted,
}

/// Shows the records of files: those of several replicas in the order of their time, as far as the
/// clocks of replicas agree, each with the replica that wrote it.
///
/// # Errors
/// A file cannot be read, or nobody takes what is shown.
pub fn tail<P: AsRef<Path>>(
    paths: &[P],
    wanted: &Wanted,
    until: Until,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut readings = Vec::new();
    let mut shown = Vec::new();
    let writer = if paths.len() > 1 { Writer::Shown } else { Writer::Known };
    for path in paths {
        let path = path.as_ref();
        let mut reading = Reading::open(path).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let mut own = VecDeque::new();
        while let Some(line) = reading.next()? {
            own.extend(show(&line, wanted, writer));
            if wanted.last.is_some_and(|last| own.len() > last) {
                own.pop_front();
            }
        }
        shown.extend(own);
        readings.push(reading);
    }
    if writer == Writer::Shown {
        // They begin with their time.
        shown.sort_by(|one, other| one.get(..TIME_CHARS).cmp(&other.get(..TIME_CHARS)));
    }
    let skipped = shown.len().saturating_sub(wanted.last.unwrap_or(usize::MAX));
    for line in shown.into_iter().skip(skipped) {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    match until {
        Until::End => Ok(()),
        Until::Interrupted => follow(paths, &mut readings, wanted, writer, out),
    }
}

/// Shows what is added, until nobody reads any more.
fn follow<P: AsRef<Path>>(
    paths: &[P],
    readings: &mut [Reading],
    wanted: &Wanted,
    writer: Writer,
    out: &mut dyn Write,
) -> io::Result<()> {
    loop {
        thread::sleep(POLL);
        for (path, reading) in paths.iter().zip(&mut *readings) {
            let path = path.as_ref();
            // Asked before the rest is read: what a renamed file got until then is shown too.
            let replaced = reading.is_replaced(path);
            while let Some(line) = reading.next()? {
                if let Some(line) = show(&line, wanted, writer) {
                    writeln!(out, "{line}")?;
                }
            }
            if replaced && let Ok(new) = Reading::open(path) {
                *reading = new;
            }
        }
        out.flush()?;
    }
}

/// Whether a line says which replica wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// One file is one replica's.
    Known,
    Shown,
}

/// A file, and the line that is not whole yet.
struct Reading {
    file: BufReader<File>,
    inode: u64,
    read: u64,
    part: Vec<u8>,
}

impl Reading {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self { file: BufReader::new(file), inode, read: 0, part: Vec::new() })
    }

    /// The next whole line, if there is one already.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut limited = io::Read::take(&mut self.file, LINE_BYTES_MAX);
        self.read += limited.read_until(b'\n', &mut self.part)? as u64;
        if self.part.len() as u64 >= LINE_BYTES_MAX || self.part.ends_with(b"\n") {
            return Ok(Some(std::mem::take(&mut self.part)));
        }
        Ok(None)
    }

    /// Whether the path leads to another file now, or to one that was emptied.
    fn is_replaced(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| there.ino() != self.inode || there.len() < self.read)
    }
}

/// The line for people; `None` if it is not wanted.
fn show(line: &[u8], wanted: &Wanted, writer: Writer) -> Option<String> {
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(line) else {
        let whole = wanted.caller.is_none() && wanted.tool.is_none();
        return whole
            .then(|| format!("?  {}", String::from_utf8_lossy(line).trim_end().escape_debug()));
    };
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| fields.get(key).and_then(Value::as_u64);
    let matches = |pattern: &Option<String>, keys: &[&str]| match pattern {
        Some(pattern) => keys.iter().any(|key| {
            let value = text(key);
            !value.is_empty() && wildcard_matches(pattern, value)
        }),
        None => true,
    };
    if !matches(&wanted.caller, &["caller.id"])
        || !matches(&wanted.tool, &["gen_ai.tool.name", "gateway.server.tool"])
    {
        return None;
    }
    let time = text("ts").get(..TIME_CHARS).unwrap_or_else(|| text("ts")).replacen('T', " ", 1);
    let mut shown = vec![time];
    shown.extend((writer == Writer::Shown).then(|| or_dash(text("gateway.instance"))));
    shown.push(or_dash(text("caller.id")));
    let event = text("event");
    let method = text("mcp.method.name");
    let what = match (event, method) {
        ("call", method) if !method.is_empty() => method.to_owned(),
        (event, "") => event.to_owned(),
        (event, method) => format!("{event} {method}"),
    };
    let about =
        ["gen_ai.tool.name", "gen_ai.prompt.name", "mcp.resource.uri", "subject", "outcome"];
    shown.push(
        about
            .iter()
            .map(|key| text(key))
            .filter(|text| !text.is_empty())
            .fold(what, |what, about| what + " " + about),
    );
    let (decision, rule) = (text("decision"), text("rule"));
    match (decision, rule) {
        ("", "") => {}
        (decision, "") => shown.push(decision.to_owned()),
        (decision, rule) => shown.push(format!("{decision} by {rule}")),
    }
    let (result, error) = (text("result"), text("error.type"));
    match (result, error) {
        ("", _) => shown.extend(Some(text("reason").to_owned()).filter(|why| !why.is_empty())),
        (result, error) if error.is_empty() || error == result => shown.push(result.to_owned()),
        (result, error) => shown.push(format!("{result} ({error})")),
    }
    shown.extend(number("count").map(|count| format!("count {count}")));
    shown.extend(number("duration_us").map(|us| format!("{:.1} ms", us as f64 / 1e3)));
    // A name may hold what steers a terminal.
    Some(shown.iter().map(|part| part.escape_debug().to_string()).collect::<Vec<_>>().join("  "))
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
