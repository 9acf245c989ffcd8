//! Whether files hold every line as it was written: each line's digest, and each chain from end to end.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::line::{FIRST_PREV, Hash, hash, open};

/// A file with more faults than this shows the first ones.
const FAULTS_MAX: usize = 100;
/// A longer line is none of ours.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// What the files are of the whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: every chain begins in them.
    Whole,
    /// Some of it: chains may have begun in files that are not given.
    Part,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    lines: u64,
    chains: Vec<String>,
    faults: Vec<String>,
    more_faults: usize,
}

/// Checks every line of the files, whose order does not matter.
///
/// # Errors
/// A file that cannot be read.
pub fn verify(files: &[PathBuf], extent: Extent) -> io::Result<Report> {
    let mut check = Check { files, chains: BTreeMap::new(), report: Report::default() };
    for (number, path) in files.iter().enumerate() {
        let with_path = |error| io::Error::other(format!("{}: {error}", path.display()));
        check.read(number, path).map_err(with_path)?;
    }
    Ok(check.finish(extent))
}

impl Report {
    /// Whether nothing is wrong. A chain that is not closed is not wrong: its gateway may be running.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(plain(&fault));
        } else {
            self.more_faults += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chain in &self.chains {
            writeln!(f, "{chain}")?;
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        match self.faults.len() + self.more_faults {
            0 => write!(f, "lines: {}, all as they were written", self.lines),
            faults => {
                if self.more_faults > 0 {
                    writeln!(f, "and {} more", self.more_faults)?;
                }
                write!(f, "lines: {}, faults: {faults}", self.lines)
            }
        }
    }
}

struct Check<'f> {
    files: &'f [PathBuf],
    chains: BTreeMap<String, Found>,
    report: Report,
}

/// What a line says of its place.
#[derive(Deserialize)]
struct Fields {
    chain: String,
    seq: u64,
    prev: String,
    event: String,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    sink: String,
    #[serde(default, rename = "gateway.instance")]
    instance: String,
}

/// One chain, as far as it was read.
#[derive(Default)]
struct Found {
    instance: String,
    runs: Vec<Run>,
    lost: u64,
    closed_by: Option<u64>,
}

/// Lines of one chain that follow one another.
struct Run {
    first: Spot,
    first_prev: String,
    last: Spot,
    /// What the next line must name: the digest the last one claims, or has; two for an altered one.
    last_hashes: [Hash; 2],
}

#[derive(Clone, Copy)]
struct Spot {
    seq: u64,
    file: usize,
    line: u64,
}

impl Check<'_> {
    fn read(&mut self, file: usize, path: &Path) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            let mut limited = io::Read::take(&mut reader, LINE_BYTES_MAX);
            if limited.read_until(b'\n', &mut text)? == 0 {
                break;
            }
            self.report.lines += 1;
            if text.pop_if(|byte| *byte == b'\n').is_none() {
                let at = self.at(file, line);
                self.report
                    .fault(format!("{at}: half a line: its writer was stopped in the middle"));
                continue;
            }
            self.check_line(file, line, &text);
        }
        Ok(())
    }

    fn check_line(&mut self, file: usize, line: u64, text: &[u8]) {
        let fields = serde_json::from_slice::<Fields>(text);
        let (Some((content, claimed)), Ok(fields)) = (open(text), fields) else {
            let at = self.at(file, line);
            return self.report.fault(format!("{at}: altered: this is no record"));
        };
        let real = hash(content);
        let run_end = |seq| (Spot { seq, file, line }, [claimed, real]);
        if real == claimed {
            let (spot, hashes) = run_end(fields.seq);
            return self.place(spot, hashes, fields);
        }
        let at = self.at(file, line);
        // What an altered line says of itself may be what was altered.
        let follows = |found: &Found| found.runs.last().is_some_and(|run| run.is_before(&fields));
        let chain = match self.chains.get_mut(&fields.chain).filter(|found| follows(found)) {
            Some(found) => Some(found),
            None => self.chains.values_mut().find(|found| follows(found)),
        };
        let Some(run) = chain.and_then(|found| found.runs.last_mut()) else {
            let Fields { chain, seq, .. } = fields;
            return self.report.fault(format!("{at}: altered (it says chain {chain}, seq {seq})"));
        };
        (run.last, run.last_hashes) = run_end(run.last.seq + 1);
        let fault = format!("{at}: altered (seq {})", run.last.seq);
        self.report.fault(fault);
    }

    /// Puts a line that is as it was written into its chain.
    fn place(&mut self, spot: Spot, hashes: [Hash; 2], fields: Fields) {
        let Fields { chain, seq, prev, event, count, sink, instance } = fields;
        let found = self.chains.entry(chain).or_default();
        found.instance = instance;
        match event.as_str() {
            // What a collector lost is in the chain all the same.
            "records_lost" if sink.is_empty() => found.lost = found.lost.saturating_add(count),
            "audit_closed" => found.closed_by = Some(seq),
            _ => {}
        }
        let Some(run) =
            found.runs.last_mut().filter(|run| run.last.seq.checked_add(1) == Some(seq))
        else {
            let run = Run { first: spot, first_prev: prev, last: spot, last_hashes: hashes };
            return found.runs.push(run);
        };
        let fault = (!run.names(&prev)).then(|| not_following(self.files, run.last, spot));
        (run.last, run.last_hashes) = (spot, hashes);
        if let Some(fault) = fault {
            self.report.fault(fault);
        }
    }

    fn finish(mut self, extent: Extent) -> Report {
        for (chain, found) in std::mem::take(&mut self.chains) {
            self.finish_chain(&chain, found, extent);
        }
        self.report
    }

    fn finish_chain(&mut self, chain: &str, mut found: Found, extent: Extent) {
        found.runs.sort_by_key(|run| (run.first.seq, run.first.file, run.first.line));
        let [first, ..] = &found.runs[..] else { return };
        let (begin, at) = (first.first.seq, self.at(first.first.file, first.first.line));
        let first_prev = first.first_prev.as_bytes();
        if begin > 0 && extent == Extent::Whole {
            self.report.fault(format!(
                "{at}: seq 0 to {} of chain {chain} are missing, or in a file that is not given",
                begin - 1
            ));
        } else if begin == 0 && first_prev != FIRST_PREV {
            self.report
                .fault(format!("{at}: the first line of a chain follows none, this one does"));
        }
        let mut before = &found.runs[0];
        for run in &found.runs[1..] {
            if let Some(fault) = self.joint(before, run) {
                self.report.fault(fault);
            }
            if run.last.seq > before.last.seq {
                before = run;
            }
        }
        let end = before.last.seq;
        let state = match found.closed_by {
            Some(closed) if closed == end => "closed",
            Some(closed) => {
                self.report.fault(format!("chain {chain}: lines follow its end, seq {closed}"));
                "closed before its end"
            }
            None => "not closed: its gateway runs, was killed, or the end was removed",
        };
        let mut shown =
            format!("chain {chain} of {}: seq {begin} to {end}, {state}", found.instance);
        if found.lost > 0 {
            shown.push_str(&format!("; {} records lost, as recorded", found.lost));
        }
        self.report.chains.push(plain(&shown));
    }

    /// What is wrong between two runs of a chain, of which the second begins later.
    fn joint(&self, before: &Run, run: &Run) -> Option<String> {
        let (last, first) = (before.last, run.first);
        let (from, to) = (self.spot(last), self.spot(first));
        if first.seq <= last.seq {
            let end = run.last.seq.min(last.seq);
            return Some(format!("{to}: seq {} to {end} stand in the files twice", first.seq));
        }
        if first.seq > last.seq + 1 {
            let (a, b) = (last.seq + 1, first.seq - 1);
            return Some(format!("{to}: seq {a} to {b} are missing after {from}"));
        }
        if !before.names(&run.first_prev) {
            return Some(not_following(self.files, last, first));
        }
        (last.file == first.file && last.line > first.line)
            .then(|| format!("{to}: out of order: seq {} stands before {from}", first.seq))
    }

    fn at(&self, file: usize, line: u64) -> String {
        format!("{}:{line}", self.files[file].display())
    }

    fn spot(&self, spot: Spot) -> String {
        format!("{} (seq {})", self.at(spot.file, spot.line), spot.seq)
    }
}

impl Run {
    /// Whether this digest is that of the last line.
    fn names(&self, prev: &str) -> bool {
        self.last_hashes.iter().any(|hash| hash == prev.as_bytes())
    }

    /// Whether a line that was altered follows this run, by what is left of it.
    fn is_before(&self, fields: &Fields) -> bool {
        self.names(&fields.prev) || self.last.seq.checked_add(1) == Some(fields.seq)
    }
}

/// What stands in a file may come from anyone, and steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn not_following(files: &[PathBuf], last: Spot, first: Spot) -> String {
    format!(
        "{}:{}: seq {} does not follow seq {} at {}:{}: one of them was replaced",
        files[first.file].display(),
        first.line,
        first.seq,
        last.seq,
        files[last.file].display(),
        last.line,
    )
}
