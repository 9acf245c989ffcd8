//! The record of what happened: `audit`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::collector;
use super::links::note_duplicates;
use super::place::Place;
use super::reading::{Fault, Reading};
use super::scalars::{Bytes, Count, choice_schema, parse_choice};
use super::secret::Secret;
use super::shape::{At, Entries, Field, Scalar, Shape, shape};
use super::tree::{Kind, Node};
use super::url::Url;

/// Keys whose values are secrets in the arguments of most tools.
const REDACT: &[&str] = &[
    "*password*",
    "*passwd*",
    "*secret*",
    "*token*",
    "*credential*",
    "*api_key*",
    "*apikey*",
    "*private_key*",
    "authorization",
    "cookie",
];
/// A room for fewer bytes than this holds no record with all that it may say.
const QUEUE_BYTES_MIN: usize = 64 * 1024;
/// No record is shorter, so no less of the room is counted for one.
const PLACE_BYTES_MIN: usize = 256;

/// What becomes of the record of what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Where it goes; at least one.
    pub sinks: Vec<AuditSink>,
    /// What it says of the arguments of calls.
    pub arguments: KeptArguments,
    /// Keys of arguments whose values are never written, in lower case; `*` and `?` stand for characters.
    pub redact: Vec<String>,
    /// Redacted arguments longer than this are left out.
    pub arguments_bytes_max: usize,
    /// What happens to a call whose record finds no room.
    pub when_full: WhenFull,
    /// Records that may wait to be written.
    pub queue_records_max: usize,
    /// Bytes of records that may wait to be written.
    pub queue_bytes_max: usize,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Into a file, line by line.
    File {
        /// The file.
        path: PathBuf,
        /// The size from which a new file is begun.
        rotate_bytes: u64,
        /// Older files that are kept; `None` means all.
        keep: Option<usize>,
    },
    /// To standard output, line by line.
    Stdout,
    /// To a collector of OpenTelemetry.
    Otlp(Otlp),
}

/// A collector of OpenTelemetry that takes logs over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Where logs are posted: the endpoint with `/v1/logs`.
    pub url: String,
    /// Headers that are sent with them, by name.
    pub headers: Vec<(String, Secret)>,
    /// After this time without an answer a request has failed.
    pub timeout: Duration,
}

/// What the record says of the arguments of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeptArguments {
    /// Nothing.
    None,
    /// Their SHA-256 digest.
    #[default]
    Digest,
    /// The arguments themselves, without the values of some keys.
    Redacted,
}

/// What happens to a call whose record finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It runs, and the loss of its record is counted and recorded.
    #[default]
    Drop,
    /// It waits for room before it runs.
    Wait,
    /// It is refused before it runs.
    Refuse,
}

shape! {
    /// The record of what happened: one JSON line per call and event, in a chain that shows changes.
    AuditText {
        /// Where records go: files, standard output, collectors of OpenTelemetry.
        required sinks: Vec<Field<SinkText>>,
        /// What a record says of the arguments of a call: none, digest (SHA-256) or redacted (the arguments, less some values).
        optional arguments: KeptArguments,
        /// Keys whose values redacted arguments do not show, at any depth and in any case; `*` and `?` stand for characters.
        optional redact: Vec<Field<String>>,
        /// Redacted arguments that are longer are replaced by their digest.
        optional arguments_bytes_max: Bytes,
        /// What happens to a call whose record finds no room: drop (it runs, the loss is counted and recorded), wait or refuse.
        optional when_full: WhenFull,
        /// How much may wait to be written.
        optional queue: QueueText,
    }
}

shape! {
    /// How much may wait to be written.
    QueueText {
        /// Records that may wait.
        optional records: Count,
        /// Bytes of records that may wait.
        optional bytes: Bytes,
    }
}

shape! {
    /// A file or a collector.
    SinkMapText {
        /// A file that lines are appended to; relative to this file.
        optional file: PathBuf,
        /// The size from which a new file is begun; the old one is renamed to its name and the time.
        optional rotate: Bytes,
        /// Older files that are kept; without it all are.
        optional keep: Count,
        /// A collector of OpenTelemetry that takes logs as JSON over HTTP.
        optional otlp: OtlpText,
    }
}

shape! {
    /// A collector of OpenTelemetry that takes logs as JSON over HTTP.
    OtlpText {
        /// Its URL, to which /v1/logs is added.
        required endpoint: Url,
        /// Headers that are sent to it, by name; their values are secrets.
        optional headers: Entries<Secret>,
        /// After this time without an answer a request has failed.
        optional timeout: Duration,
    }
}

/// The word `stdout`, or a map with a file or a collector.
#[derive(Debug)]
pub(super) enum SinkText {
    Stdout(Place),
    Map(Place, Box<SinkMapText>),
}

#[derive(Debug, Clone, Copy)]
struct StdoutText;

impl Scalar for StdoutText {
    const NAME: &'static str = "a sink";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "stdout" => Ok(Self),
            _ => Err(Fault::new(
                "this is not a sink",
                "write stdout, { file: PATH } or { otlp: { endpoint: URL } }",
            )),
        }
    }

    fn schema() -> Value {
        json!({ "enum": ["stdout"] })
    }
}

impl Shape for SinkText {
    fn read(node: &Node, reading: &mut Reading<'_>) -> Option<Self> {
        if matches!(node.kind, Kind::Map(_)) {
            return Some(Self::Map(node.place, Box::new(Shape::read(node, reading)?)));
        }
        <StdoutText as Shape>::read(node, reading).map(|StdoutText| Self::Stdout(node.place))
    }

    fn schema() -> Value {
        json!({ "anyOf": [<StdoutText as Shape>::schema(), SinkMapText::schema()] })
    }
}

const KEPT_ARGUMENTS: &[(&str, KeptArguments)] = &[
    ("none", KeptArguments::None),
    ("digest", KeptArguments::Digest),
    ("redacted", KeptArguments::Redacted),
];

impl Scalar for KeptArguments {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, KEPT_ARGUMENTS)
    }

    fn schema() -> Value {
        choice_schema(KEPT_ARGUMENTS)
    }
}

const WHEN_FULL: &[(&str, WhenFull)] =
    &[("drop", WhenFull::Drop), ("wait", WhenFull::Wait), ("refuse", WhenFull::Refuse)];

impl Scalar for WhenFull {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, WHEN_FULL)
    }

    fn schema() -> Value {
        choice_schema(WHEN_FULL)
    }
}

impl Default for Audit {
    /// What holds where the section leaves something out; it must name a sink, though.
    fn default() -> Self {
        Self {
            sinks: Vec::new(),
            arguments: KeptArguments::default(),
            redact: REDACT.iter().map(|&key| key.to_owned()).collect(),
            arguments_bytes_max: 4 * 1024,
            when_full: WhenFull::default(),
            queue_records_max: 65_536,
            queue_bytes_max: 64 * 1024 * 1024,
        }
    }
}

impl Audit {
    /// The bytes of the room that a place for one record takes.
    pub fn place_bytes(&self) -> usize {
        (self.queue_bytes_max / self.queue_records_max.max(1)).max(PLACE_BYTES_MIN)
    }

    /// How many records, whatever they say, the room has a place for.
    fn places(&self) -> usize {
        (self.queue_bytes_max / self.place_bytes()).min(self.queue_records_max)
    }
}

impl AuditText {
    /// The record of a gateway that may hold `streams_max` streams open, each with its place.
    pub(super) fn check(self, streams_max: usize, reading: &mut Reading<'_>) -> Audit {
        let Self { sinks, arguments, redact, arguments_bytes_max, when_full, queue } = self;
        let default = Audit::default();
        let problems_before = reading.problems.len();
        let sinks = check_sinks(sinks, when_full.as_given(), reading);
        let holding = when_full.as_given().filter(|given| given.value != WhenFull::Drop);
        let holding = holding.map(|given| given.place);
        let redact = redact.value().map(|keys| {
            let keys = keys.into_iter().filter_map(Field::value);
            keys.map(|key| key.to_lowercase()).collect()
        });
        let (records, bytes) = queue.value().map_or((None, None), |queue| {
            let QueueText { records, bytes } = queue;
            if let Some(small) = bytes.as_given().filter(|bytes| bytes.value.0 < QUEUE_BYTES_MIN) {
                let message = format!("fewer than {QUEUE_BYTES_MIN} bytes hold no long record");
                reading.problem(small.place, message, "write 64KiB or more");
            }
            (records.value().map(Count::size), bytes.value().map(|bytes| bytes.0))
        });
        let audit = Audit {
            sinks,
            arguments: arguments.or(default.arguments),
            redact: redact.unwrap_or(default.redact),
            arguments_bytes_max: arguments_bytes_max
                .value()
                .map_or(default.arguments_bytes_max, |bytes| bytes.0),
            when_full: when_full.or(default.when_full),
            queue_records_max: records.unwrap_or(default.queue_records_max),
            queue_bytes_max: bytes.unwrap_or(default.queue_bytes_max),
        };
        // A room that is wrong by itself says nothing of streams.
        let holding = holding.filter(|_| reading.problems.len() == problems_before);
        let places = audit.places();
        if let Some(place) = holding.filter(|_| places <= streams_max) {
            let message = format!(
                "{streams_max} open streams would hold each of the {places} places for a record, and nothing else would run"
            );
            let hint = "raise `queue` (records, with 256 bytes and more for each), or lower `runtime.streams_max`";
            reading.problem(place, message, hint);
        }
        audit
    }
}

fn check_sinks(
    texts: Field<Vec<Field<SinkText>>>,
    when_full: Option<&At<WhenFull>>,
    reading: &mut Reading<'_>,
) -> Vec<AuditSink> {
    let Some(At { head, value: texts, .. }) = texts.given() else { return Vec::new() };
    if texts.is_empty() {
        reading.problem(head, "the list of sinks is empty", "add `- file: audit.jsonl`");
    }
    let count = texts.len();
    let checked: Vec<(Place, AuditSink)> =
        texts.into_iter().filter_map(Field::value).filter_map(|text| text.check(reading)).collect();
    let names: Vec<(Place, String)> =
        checked.iter().map(|(place, sink)| (*place, sink.name())).collect();
    let names = names.iter().map(|(place, name)| (*place, name.as_str()));
    note_duplicates(names, "this sink is already in the list", reading);
    let sinks: Vec<AuditSink> = checked.into_iter().map(|(_, sink)| sink).collect();
    // What a collector did not take in time is lost, so it cannot hold a call back.
    let holds = |sink: &AuditSink| !matches!(sink, AuditSink::Otlp(_));
    if let Some(when_full) = when_full.filter(|given| given.value != WhenFull::Drop)
        && count > 0
        && sinks.len() == count
        && !sinks.iter().any(holds)
    {
        reading.problem(
            when_full.place,
            "a collector may lose records, so calls cannot wait for it or be refused",
            "add a file to `sinks`, or write `when_full: drop`",
        );
    }
    sinks
}

impl AuditSink {
    fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Stdout => "stdout".to_owned(),
            Self::Otlp(otlp) => otlp.url.clone(),
        }
    }
}

impl SinkText {
    fn check(self, reading: &mut Reading<'_>) -> Option<(Place, AuditSink)> {
        let (place, text) = match self {
            Self::Stdout(place) => return Some((place, AuditSink::Stdout)),
            Self::Map(place, text) => (place, text),
        };
        let SinkMapText { file, rotate, keep, otlp } = *text;
        match (file, otlp) {
            (Field::Absent, Field::Absent) => {
                let hint = "write stdout, { file: PATH } or { otlp: { endpoint: URL } }";
                reading.problem(place, "this sink names no place", hint);
                None
            }
            (Field::Given(_), Field::Given(otlp)) => {
                let hint = "make two entries of them";
                reading.problem(otlp.head, "`file` and `otlp` are both given", hint);
                None
            }
            (Field::Absent, otlp) => {
                let heads =
                    [rotate.as_given().map(|at| at.head), keep.as_given().map(|at| at.head)];
                for head in heads.into_iter().flatten() {
                    reading.problem(head, "only a file is rotated", "remove this key");
                }
                let otlp = otlp.given()?;
                Some((otlp.place, AuditSink::Otlp(otlp.value.check(reading)?)))
            }
            (file, _) => {
                let file = file.given()?;
                let sink = AuditSink::File {
                    path: reading.resolve(file.place, &file.value),
                    rotate_bytes: rotate.value().map_or(256 << 20, |bytes| bytes.0 as u64),
                    keep: keep.value().map(Count::size),
                };
                Some((file.place, sink))
            }
        }
    }
}

impl OtlpText {
    fn check(self, reading: &mut Reading<'_>) -> Option<Otlp> {
        let Self { endpoint, headers, timeout } = self;
        let headers = collector::headers(headers, reading);
        let endpoint = collector::endpoint(endpoint, "/v1/logs is", reading)?;
        Some(Otlp {
            url: format!("{endpoint}/v1/logs"),
            headers,
            timeout: collector::timeout(timeout),
        })
    }
}
