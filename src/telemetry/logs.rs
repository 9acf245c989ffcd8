//! One structured line per request, written by a thread of its own, and the diagnostic log.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus::IntCounter;

use super::short::Short;
use super::{Outcome, Reason, clock};

/// A thread's unwritten lines beyond this are lost and counted: a blocked log must not eat memory.
/// It holds what a worker writes at 200 000 requests a second until the next flush.
const BACKLOG_BYTES_MAX: usize = 8 << 20;
/// Methods are shortened beyond this; no specified one is as long.
const METHOD_BYTES_MAX: usize = 128;
/// Names and URIs are shortened beyond this.
const TARGET_BYTES_MAX: usize = 1024;
/// How long a line may wait to be written.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

type Buffer = Arc<Mutex<Vec<u8>>>;

thread_local! {
    /// Each worker writes into a buffer of its own, so no two wait for one another.
    static BUFFER: std::cell::OnceCell<Buffer> = const { std::cell::OnceCell::new() };
}

/// How request lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, for machines.
    Json,
    /// One short line, for people.
    Text,
}

/// What a request line says. Borrowed from the request's context.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The request's id, also sent to the server and the client.
    pub id: &'a str,
    /// The HTTP method.
    pub verb: &'a str,
    /// The route's path, or the path nobody serves.
    pub path: &'a str,
    /// The server's name.
    pub server: &'a str,
    /// The endpoint that was asked.
    pub endpoint: &'a str,
    /// The caller's id.
    pub caller: &'a str,
    /// The JSON-RPC method.
    pub method: &'a str,
    /// The string the method was routed by.
    pub target: &'a str,
    /// A short digest of the session id: it joins lines, but opens nothing.
    pub session: Option<[u8; 4]>,
    /// Why the session moved to this endpoint for this request, if it did.
    pub moved: Option<&'static str>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The HTTP status of the answer; 0 when none was sent.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when the gateway said no.
    pub reason: Option<Reason>,
    /// The policy's rule that decided, or the limit that refused.
    pub rule: &'a str,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// The part of it spent in the gateway.
    pub overhead: Duration,
}

/// The log of requests. Dropping it writes what is left.
pub struct RequestLog {
    format: Format,
    buffers: Arc<Mutex<Vec<Buffer>>>,
    lost: IntCounter,
}

impl RequestLog {
    /// Starts the writing thread; `sink` gets whole lines.
    pub fn start(format: Format, sink: Box<dyn io::Write + Send>, lost: IntCounter) -> Self {
        let log = Self { format, buffers: Arc::default(), lost };
        let buffers = Arc::clone(&log.buffers);
        let spawned = std::thread::Builder::new()
            .name("request log".to_owned())
            .spawn(move || write_forever(&buffers, sink));
        if let Err(error) = spawned {
            tracing::error!(%error, "the request log could not be started");
        }
        log
    }

    /// Adds one line.
    pub fn write(&self, line: &Line<'_>) {
        BUFFER.with(|cell| {
            let buffer = cell.get_or_init(|| {
                let buffer = Buffer::default();
                self.buffers.lock().push(Arc::clone(&buffer));
                buffer
            });
            let mut out = buffer.lock();
            if out.len() > BACKLOG_BYTES_MAX {
                self.lost.inc();
                return;
            }
            match self.format {
                Format::Json => write_json(&mut out, line),
                Format::Text => write_text(&mut out, line),
            }
        });
    }

    /// Waits until every line written so far has left the process.
    pub fn flush(&self) {
        std::thread::sleep(FLUSH_EVERY * 2);
    }
}

/// Sends diagnostics (`tracing` and Pingora's `log`) to standard error; `TOOLGATE_LOG` filters.
pub fn start_diagnostics() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TOOLGATE_LOG").unwrap_or_else(|_| {
        // Pingora reports every client that hangs up as an error; the request log has those. What
        // probes and lookups find is reported by `upstream`.
        tracing_subscriber::EnvFilter::new(
            "info,pingora_proxy=off,pingora_core=warn,pingora_load_balancing=off,\
             hickory_net=error,hickory_resolver=error,kube_client=off,kube_runtime=off,rmcp=warn",
        )
    });
    // Colours are for eyes: in a file or a collector they are noise.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    if subscriber.try_init().is_err() {
        // A test process starts more than one gateway; the first one's subscriber serves all.
        tracing::debug!("diagnostics were started before");
    }
}

fn write_forever(buffers: &Mutex<Vec<Buffer>>, mut sink: Box<dyn io::Write + Send>) {
    let mut batch = Vec::new();
    loop {
        std::thread::sleep(FLUSH_EVERY);
        let all: Vec<Buffer> = buffers.lock().clone();
        for buffer in all {
            std::mem::swap(&mut *buffer.lock(), &mut batch);
            if !batch.is_empty() && sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
                // Nobody reads the log any more; the lines have no other place to go.
                return;
            }
            batch.clear();
        }
    }
}

fn write_json(out: &mut Vec<u8>, line: &Line<'_>) {
    out.extend_from_slice(b"{\"ts\":\"");
    clock::write_rfc3339(out, SystemTime::now());
    out.extend_from_slice(b"\",\"id\":\"");
    out.extend_from_slice(line.id.as_bytes());
    out.push(b'"');
    let texts = [
        (",\"verb\":", line.verb),
        (",\"path\":", line.path),
        (",\"server\":", line.server),
        (",\"endpoint\":", line.endpoint),
        (",\"caller\":", line.caller),
        (",\"method\":", shortened(line.method, METHOD_BYTES_MAX)),
        (",\"target\":", shortened(line.target, TARGET_BYTES_MAX)),
        (",\"outcome\":", line.outcome.as_str()),
        (",\"reason\":", line.reason.map_or("", Reason::as_str)),
        (",\"rule\":", line.rule),
    ];
    for (key, value) in texts {
        if !value.is_empty() {
            out.extend_from_slice(key.as_bytes());
            write_json_string(out, value);
        }
    }
    if let Some(client) = line.client {
        out.extend_from_slice(b",\"client\":\"");
        out.extend_from_slice(Short::address(client).as_bytes());
        out.push(b'"');
    }
    if let Some([a, b, c, d]) = line.session {
        push(out, format_args!(",\"session\":\"{a:02x}{b:02x}{c:02x}{d:02x}\""));
    }
    if let Some(moved) = line.moved {
        push(out, format_args!(",\"moved\":\"{moved}\""));
    }
    let numbers = [
        (",\"status\":", u64::from(line.status)),
        (",\"bytes_in\":", line.bytes_in),
        (",\"bytes_out\":", line.bytes_out),
        (",\"duration_us\":", micros(line.duration)),
        (",\"overhead_us\":", micros(line.overhead)),
    ];
    for (key, value) in numbers {
        out.extend_from_slice(key.as_bytes());
        write_number(out, value);
    }
    out.extend_from_slice(b"}\n");
}

fn write_text(out: &mut Vec<u8>, line: &Line<'_>) {
    let start = out.len();
    clock::write_rfc3339(out, SystemTime::now());
    // Only the time of day matters to someone who watches: keep HH:MM:SS.mmm of the whole stamp.
    out.drain(start..start + 11);
    out.truncate(start + 12);
    let what = if line.method.is_empty() { line.verb } else { line.method };
    let what = shortened(what, METHOD_BYTES_MAX).escape_debug();
    push(out, format_args!("  {} {:<4} {what}", line.status, line.outcome.as_str()));
    if !line.target.is_empty() {
        let target = shortened(line.target, TARGET_BYTES_MAX).escape_debug();
        push(out, format_args!(" {target}"));
    }
    if !line.endpoint.is_empty() {
        push(out, format_args!("  -> {} {}", line.server, line.endpoint));
    }
    if let Some(reason) = line.reason {
        push(out, format_args!("  ({})", reason.as_str()));
        if !line.rule.is_empty() {
            push(out, format_args!(" by {}", line.rule));
        }
    }
    if let Some([a, b, ..]) = line.session {
        push(out, format_args!("  session {a:02x}{b:02x}"));
    }
    if let Some(moved) = line.moved {
        push(out, format_args!(" moved ({moved})"));
    }
    if !line.caller.is_empty() {
        push(out, format_args!("  by {}", line.caller.escape_debug()));
    }
    let (total, overhead) = (line.duration.as_secs_f64() * 1e3, micros(line.overhead));
    push(out, format_args!("  {total:.1} ms (gateway {overhead} us)\n"));
}

/// The beginning of a text that a client chose.
fn shortened(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn write_json_string(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f;
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, text).is_err() {
        // A Vec takes every byte; the arm only spares a panic path.
        out.extend_from_slice(b"\"\"");
    }
}

/// Writes a whole number.
pub fn write_number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(Short::number(value).as_bytes());
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    if out.write_fmt(text).is_err() {
        out.extend_from_slice(b"?");
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Line, write_json, write_text};
    use crate::telemetry::{Outcome, Reason};
    use std::time::Duration;

    fn line<'a>() -> Line<'a> {
        Line {
            id: "00ff",
            verb: "POST",
            path: "/mcp",
            server: "files",
            endpoint: "http://127.0.0.1:1/mcp",
            caller: "ann",
            method: "tools/call",
            target: "a\"\n\u{7f}b",
            session: Some([0xab, 1, 2, 3]),
            moved: Some("drained"),
            client: Some([127, 0, 0, 1].into()),
            status: 502,
            outcome: Outcome::Failed,
            reason: Some(Reason::EndpointBroken),
            rule: "",
            bytes_in: 0,
            bytes_out: 1_234_567,
            duration: Duration::from_micros(1_500),
            overhead: Duration::from_micros(40),
        }
    }

    #[test]
    fn a_json_line_is_json_whatever_a_client_wrote() {
        let mut out = Vec::new();
        write_json(&mut out, &line());
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read: serde_json::Value = serde_json::from_slice(&out).expect("the line is JSON");
        assert_eq!(read["target"], "a\"\n\u{7f}b");
        assert_eq!(read["bytes_out"], 1_234_567);
        assert_eq!(read["bytes_in"], 0);
        assert_eq!(read["session"], "ab010203");
        assert_eq!(read["moved"], "drained");
        assert_eq!(read["reason"], "endpoint_broken");
        assert_eq!(read["client"], "127.0.0.1");
    }

    #[test]
    fn a_text_line_stays_one_line() {
        let mut out = Vec::new();
        write_text(&mut out, &line());
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains(r#"502 failed tools/call a\"\n\u{7f}b  -> files"#), "{text}");
        assert!(
            text.contains("session ab01 moved (drained)  by ann  1.5 ms (gateway 40 us)"),
            "{text}"
        );
    }
}
