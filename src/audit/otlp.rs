//! Lines for a collector of OpenTelemetry: posted by a thread of their own, which holds nobody back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Map, Value, json};

use super::sink::{Sink, Written};
use crate::config;
use crate::outbound::Outbound;
use crate::telemetry::Courier;

/// Batches that wait for the collector; each holds at most a few hundred KiB.
const BATCHES_MAX: usize = 32;
/// How the records are written.
const JSON: &str = "application/json";
/// Severities of OpenTelemetry.
const INFO: (u8, &str) = (9, "INFO");
const WARN: (u8, &str) = (13, "WARN");

/// A collector. What it does not take in time is lost to it, and counted.
pub(super) struct Collector {
    url: String,
    batches: Option<Sender<Vec<u8>>>,
    lost: Arc<AtomicU64>,
    ended: Receiver<()>,
}

struct Poster {
    courier: Courier,
    lost: Arc<AtomicU64>,
}

impl Collector {
    pub(super) fn start(settings: &config::Otlp) -> io::Result<Self> {
        let lost = Arc::new(AtomicU64::new(0));
        let outbound = Outbound::new(None).map_err(io::Error::other)?;
        let (headers, timeout) = (&settings.headers, settings.timeout);
        let courier = Courier::new(outbound, settings.url.clone(), JSON, headers, timeout);
        let poster = Poster { courier, lost: Arc::clone(&lost) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (batches, received) = bounded::<Vec<u8>>(BATCHES_MAX);
        let (alive, ended): (Sender<()>, _) = bounded(0);
        thread::Builder::new().name("audit otlp".to_owned()).spawn(move || {
            let _alive = alive;
            for batch in received {
                runtime.block_on(poster.post(&batch));
            }
        })?;
        Ok(Self { url: settings.url.clone(), batches: Some(batches), lost, ended })
    }
}

impl Sink for Collector {
    fn kind(&self) -> &'static str {
        "otlp"
    }

    fn name(&self) -> String {
        self.url.clone()
    }

    fn write(&mut self, lines: &[u8]) -> Written {
        let sent = self.batches.as_ref().is_some_and(|all| all.try_send(lines.to_vec()).is_ok());
        if !sent {
            self.lost.fetch_add(count(lines), Ordering::Relaxed);
        }
        Written::all(lines)
    }

    fn take_lost(&mut self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    fn close(&mut self, limit: Duration) {
        self.batches = None;
        let until = Instant::now() + limit;
        // Nothing is ever sent: this ends with the thread, or with the time.
        self.ended.recv_deadline(until).ok();
    }
}

impl Poster {
    /// Posts until the collector has it, or it was tried often enough.
    async fn post(&self, lines: &[u8]) {
        let (body, records) = (Bytes::from(logs(lines)), count(lines));
        let pause = async |length| {
            tokio::time::sleep(length).await;
            true
        };
        let lost = match self.courier.deliver(&body, pause).await {
            Ok(answer) => rejected(&answer).min(records),
            Err(why) => {
                tracing::warn!(why, url = self.courier.url(), "audit records not taken");
                records
            }
        };
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// How many records a collector says that it did not take, though it took the others.
fn rejected(answer: &[u8]) -> u64 {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return 0 };
    let rejected = &answer["partialSuccess"]["rejectedLogRecords"];
    rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or(0)
}

/// The request of OTLP (ExportLogsServiceRequest) in its JSON form. The body of each log record is
/// the whole line, so that the chain can be verified from what the collector keeps.
fn logs(lines: &[u8]) -> String {
    let records: Vec<Value> = lines.split(|byte| *byte == b'\n').filter_map(log_record).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [attribute("service.name", &json!("toolgate"))] },
        "scopeLogs": [{
            "scope": { "name": "toolgate.audit", "version": env!("CARGO_PKG_VERSION") },
            "logRecords": records,
        }],
    }] })
    .to_string()
}

fn log_record(line: &[u8]) -> Option<Value> {
    let line = std::str::from_utf8(line).ok()?;
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let bad = text("decision") == "deny"
        || text("event") == "records_lost"
        || !matches!(text("result"), "" | "ok");
    let (severity, severity_text) = if bad { WARN } else { INFO };
    let time = nanoseconds(text("ts")).unwrap_or(0).to_string();
    let mut record = json!({
        "timeUnixNano": time,
        "observedTimeUnixNano": time,
        "severityNumber": severity,
        "severityText": severity_text,
        "eventName": format!("toolgate.audit.{}", text("event")),
        "body": { "stringValue": line },
        "attributes": fields.iter().map(|(key, value)| attribute(key, value)).collect::<Vec<_>>(),
    });
    let trace = text("trace_id");
    if trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        record["traceId"] = trace.into();
    }
    Some(record)
}

fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::String(text) => json!({ "stringValue": text }),
        Value::Bool(is) => json!({ "boolValue": is }),
        // 64 bits are text in the JSON of protobuf.
        Value::Number(number) if !number.is_f64() => json!({ "intValue": number.to_string() }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": key, "value": value })
}

/// Nanoseconds since 1970 of `2026-11-22T10:15:30.123456Z`.
fn nanoseconds(ts: &str) -> Option<u64> {
    let part = |from: usize, to: usize| ts.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let micros = part(20, 26)?;
    // Years that begin in March: a leap day ends its year.
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    (seconds * 1_000_000 + micros).checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::{Collector, logs, nanoseconds};
    use crate::audit::sink::Sink as _;
    use crate::config::{Otlp, Secret};
    use crate::telemetry::write_rfc3339;
    use serde_json::{Value, json};
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_read_back() {
        for micros in [0, 951_782_400_000_001, 1_709_251_199_999_999, 1_795_342_530_123_456] {
            let mut ts = Vec::new();
            write_rfc3339(&mut ts, UNIX_EPOCH + Duration::from_micros(micros));
            let ts = String::from_utf8(ts).expect("text");
            assert_eq!(nanoseconds(&ts), Some(micros * 1_000), "{ts}");
        }
        for bad in ["", "2026-11-22", "2026-11-22T10:15:30Z", "€026-11-22T10:15:30.123456Z"] {
            assert_eq!(nanoseconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_become_log_records() {
        let line = r#"{"ts":"2026-11-22T10:15:30.123456Z","event":"call","result":"tool_error","seq":7,"trace_id":"0af7651916cd43dd8448eb211c80319c","arguments.omitted":true,"gen_ai.tool.call.arguments":{"a":[1]}}"#;
        let logs: Value =
            serde_json::from_str(&logs(format!("{line}\n").as_bytes())).expect("JSON");
        let record = &logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["body"]["stringValue"], line);
        assert_eq!(record["timeUnixNano"], "1795342530123456000");
        assert_eq!(record["severityText"], "WARN");
        assert_eq!(record["eventName"], "toolgate.audit.call");
        assert_eq!(record["traceId"], "0af7651916cd43dd8448eb211c80319c");
        let attributes = record["attributes"].as_array().expect("attributes");
        for wanted in [
            json!({ "key": "seq", "value": { "intValue": "7" } }),
            json!({ "key": "arguments.omitted", "value": { "boolValue": true } }),
            json!({ "key": "gen_ai.tool.call.arguments", "value": { "stringValue": "{\"a\":[1]}" } }),
        ] {
            assert!(attributes.contains(&wanted), "{wanted}");
        }
    }

    fn answer(listener: &TcpListener, status: &str, body: &str) -> String {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = Vec::new();
        loop {
            let mut part = [0; 4096];
            let read = stream.read(&mut part).expect("a request");
            request.extend_from_slice(&part[..read]);
            let text = String::from_utf8_lossy(&request);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.expect("a length").parse().expect("a number") {
                break;
            }
        }
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("answered");
        String::from_utf8_lossy(&request).into_owned()
    }

    #[test]
    fn a_collector_gets_batches_again_until_it_takes_them() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut collector = Collector::start(&Otlp {
            url: format!("http://{address}/v1/logs"),
            headers: vec![("x-key".to_owned(), Secret::from("k1".to_owned()))],
            timeout: Duration::from_secs(5),
        })
        .expect("a collector");
        let line = b"{\"ts\":\"2026-11-22T10:15:30.123456Z\",\"event\":\"call\"}\n";
        assert_eq!(collector.write(line).bytes, line.len());
        let first = answer(&listener, "503 Service Unavailable", "");
        assert!(first.starts_with("POST /v1/logs HTTP/1.1\r\n"), "{first}");
        assert!(first.contains("x-key: k1\r\n") && first.contains("resourceLogs"), "{first}");
        assert_eq!(answer(&listener, "200 OK", "{}"), first);
        // Refused for good, and refused in part: lost, and counted.
        collector.write(line);
        answer(&listener, "400 Bad Request", "");
        collector.write(line);
        answer(&listener, "200 OK", r#"{"partialSuccess":{"rejectedLogRecords":"1"}}"#);
        collector.close(Duration::from_secs(10));
        assert_eq!(collector.take_lost(), 2);
        collector.write(line);
        assert_eq!(collector.take_lost(), 1);
    }
}
