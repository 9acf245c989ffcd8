//! What metrics say at this moment as JSON, for a page that asks again and again: sums over names, and
//! no more rows than the page can show.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::proto::Histogram;
use serde_json::{Map, Value, json};

use super::Labels;
use super::calls::CallDetail;
use super::metrics::{Metrics, OTHER, Outcome, SERIES_MAX};

/// Of longer lists only the largest rows are told, and how many are not.
const ROWS_MAX: usize = 2000;
/// Combinations of caller, tool and reason are more than names.
const REFUSED_ROWS_MAX: usize = 500;
/// The method whose durations are shown by route: those of streams say how long somebody listened.
const TIMED_METHOD: &str = "tools/call";

/// How often each outcome came, in the order of [`Outcome::ALL`].
type Counts = [u64; Outcome::ALL.len()];

/// Requests that were counted under another caller or tool than their own, because there are too many
/// pairs of them: counted by each such name alone, so that sums over names stay true.
#[derive(Default)]
pub(super) struct Folded {
    tools: papaya::HashMap<ToolKey, Tally>,
    callers: papaya::HashMap<Box<str>, Tally>,
}

#[derive(Default)]
struct Tally([AtomicU64; Outcome::ALL.len()]);

#[derive(PartialEq, Eq, Hash)]
struct ToolKey(Box<str>, Box<str>);

/// The borrowed form of [`ToolKey`]; both hash alike so that a known tool is found without an allocation.
#[derive(PartialEq, Eq, Hash)]
struct ToolName<'n>(&'n str, &'n str);

impl papaya::Equivalent<ToolKey> for ToolName<'_> {
    fn equivalent(&self, key: &ToolKey) -> bool {
        *key.0 == *self.0 && *key.1 == *self.1
    }
}

impl Tally {
    fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> Counts {
        std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))
    }
}

impl Folded {
    /// Counts a request by those of its names under which its series does not count it.
    pub(super) fn count(&self, own: Labels<'_>, counted: Labels<'_>, outcome: Outcome) {
        if own.tool != counted.tool {
            self.count_tool(own, outcome);
        }
        if own.caller != counted.caller {
            self.count_caller(own, outcome);
        }
    }

    fn count_tool(&self, Labels { server, tool, .. }: Labels<'_>, outcome: Outcome) {
        let tools = self.tools.pin();
        if let Some(tally) = tools.get(&ToolName(server, tool)) {
            tally.count(outcome);
        } else if tools.len() < SERIES_MAX {
            let key = ToolKey(server.into(), tool.into());
            tools.get_or_insert_with(key, Tally::default).count(outcome);
        }
    }

    fn count_caller(&self, Labels { caller, .. }: Labels<'_>, outcome: Outcome) {
        let callers = self.callers.pin();
        if let Some(tally) = callers.get(caller) {
            tally.count(outcome);
        } else if callers.len() < SERIES_MAX {
            callers.get_or_insert_with(caller.into(), Tally::default).count(outcome);
        }
    }
}

/// Requests summed by everything that tells them apart.
#[derive(Default)]
struct Sums<'s> {
    all: Counts,
    routes: HashMap<&'s str, Counts>,
    servers: HashMap<&'s str, Counts>,
    methods: HashMap<&'s str, Counts>,
    callers: HashMap<&'s str, Counts>,
    tools: HashMap<(&'s str, &'s str), Counts>,
    refused: HashMap<[&'s str; 4], u64>,
    repeats: u64,
}

impl<'s> Sums<'s> {
    fn add(&mut self, labels: Labels<'s>, counts: &Counts) {
        add(&mut self.all, counts);
        add(self.routes.entry(labels.route).or_default(), counts);
        add(self.servers.entry(labels.server).or_default(), counts);
        add(self.methods.entry(labels.method).or_default(), counts);
        add(self.callers.entry(labels.caller).or_default(), counts);
        if !labels.tool.is_empty() {
            add(self.tools.entry((labels.server, labels.tool)).or_default(), counts);
        }
    }

    fn add_detail(&mut self, labels: Labels<'s>, detail: CallDetail, count: u64) {
        match detail {
            CallDetail::Refused(reason) => {
                let row = [labels.server, labels.caller, labels.tool, reason.as_str()];
                *self.refused.entry(row).or_default() += count;
            }
            CallDetail::Repeated => self.repeats += count,
            CallDetail::RpcError(_) => {}
        }
    }

    /// Gives what was counted as `other` back to the names that it was counted by alone.
    fn unfold(
        &mut self,
        tools: impl Iterator<Item = ((&'s str, &'s str), Counts)>,
        callers: impl Iterator<Item = (&'s str, Counts)>,
    ) {
        for ((server, tool), counts) in tools {
            take(self.tools.entry((server, OTHER)).or_default(), &counts);
            add(self.tools.entry((server, tool)).or_default(), &counts);
        }
        for (caller, counts) in callers {
            take(self.callers.entry(OTHER).or_default(), &counts);
            add(self.callers.entry(caller).or_default(), &counts);
        }
        self.tools.retain(|_, counts| *counts != Counts::default());
        self.callers.retain(|_, counts| *counts != Counts::default());
    }

    fn json(self) -> Value {
        let one = |key: &'static str| move |name: &&str| json!({ key: *name });
        json!({
            "outcomes": Outcome::ALL.map(Outcome::as_str),
            "total": self.all,
            "repeats": self.repeats,
            "routes": largest(self.routes, one("route")),
            "servers": largest(self.servers, one("server")),
            "methods": largest(self.methods, one("method")),
            "callers": largest(self.callers, one("caller")),
            "tools": largest(self.tools, |(server, tool)| json!({ "server": server, "tool": tool })),
            "refused": refused(self.refused),
        })
    }
}

impl Metrics {
    /// What the counters and gauges say now; whoever asks twice can tell rates.
    pub fn live(&self) -> Value {
        json!({
            "calls": self.calls_now(),
            "latency": self.latency(),
            "overhead": histograms(&self.routes.overheads, |labels| Some(labels[0].1.to_owned())),
            "in_flight": samples(&self.routes.in_flight),
            "bytes": samples(&self.routes.bytes),
            "connections": self.connections.get(),
            "streams": self.streams.get(),
            "refusals": samples(&self.refusals),
            "upstream_errors": samples(&self.upstream_errors),
            "ejections": samples(&self.ejections),
            "policy": {
                "denials": samples(&self.policy.denials),
                "shadow": samples(&self.policy.shadow),
                "marks": self.policy.marks.get(),
                "marks_full": self.policy.marks_full.get(),
            },
            "limits": {
                "limited": samples(&self.limits.limited),
                "waits": samples(&self.limits.waits),
                "keys": samples(&self.limits.keys),
                "keys_full": samples(&self.limits.keys_full),
            },
            "sessions": {
                "opened": self.sessions.opened.get(),
                "tracked": self.sessions.tracked.get(),
                "abandoned": self.sessions.abandoned.get(),
                "reaped": self.sessions.reaped.get(),
                "moved": samples(&self.sessions.moved),
            },
            "shared": {
                "up": self.shared.up.get(),
                "replicas": self.shared.replicas.get(),
                "unreadable": self.shared.unreadable.get(),
                "requests": samples(&self.shared.requests),
                "fallbacks": samples(&self.shared.fallbacks),
            },
            "audit": {
                "queue": self.audit.queue.get(),
                "waits": self.audit.waits.get(),
                "lost": samples(&self.audit.lost),
                "write_errors": samples(&self.audit.write_errors),
            },
            "log_lines_lost": self.log_lines_lost.get(),
        })
    }

    fn calls_now(&self) -> Value {
        let (series, tools, callers) =
            (self.series.pin(), self.folded.tools.pin(), self.folded.callers.pin());
        let mut sums = Sums::default();
        for (key, series) in &series {
            let labels = key.labels();
            sums.add(labels, &std::array::from_fn(|at| series.outcomes[at].get()));
            for (detail, counter) in &series.details.0.pin() {
                sums.add_detail(labels, *detail, counter.get());
            }
        }
        sums.unfold(
            tools.iter().map(|(key, tally)| ((&*key.0, &*key.1), tally.counts())),
            callers.iter().map(|(caller, tally)| (&**caller, tally.counts())),
        );
        sums.json()
    }

    fn latency(&self) -> Value {
        let of = |labels: &[(&str, &str)], wanted: &str| {
            labels.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        let by_route = histograms(&self.durations, |labels| {
            of(labels, "route").filter(|_| of(labels, "method").as_deref() == Some(TIMED_METHOD))
        });
        json!({
            "method": TIMED_METHOD,
            "routes": by_route,
            "methods": histograms(&self.durations, |labels| of(labels, "method")),
        })
    }
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
}

/// Both were read one after the other, so a difference may come out a little below nothing.
fn take(sum: &mut Counts, counts: &Counts) {
    sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_sub(*count));
}

/// The rows with the most requests.
fn largest<K: Hash + Ord>(sums: HashMap<K, Counts>, name: impl Fn(&K) -> Value) -> Value {
    let mut rows: Vec<(K, Counts)> = sums.into_iter().collect();
    let left_out = rows.len().saturating_sub(ROWS_MAX);
    rows.sort_by_cached_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<u64>()));
    rows.truncate(ROWS_MAX);
    // An order that stays lets the answers to two questions be laid side by side.
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    let rows = rows.iter().map(|(key, counts)| {
        let mut row = name(key);
        row["counts"] = json!(counts);
        row
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "left_out": left_out })
}

fn refused(refused: HashMap<[&str; 4], u64>) -> Value {
    let mut rows: Vec<([&str; 4], u64)> = refused.into_iter().collect();
    let left_out = rows.len().saturating_sub(REFUSED_ROWS_MAX);
    rows.sort_by(|(one, a), (other, b)| b.cmp(a).then_with(|| one.cmp(other)));
    rows.truncate(REFUSED_ROWS_MAX);
    let rows = rows.iter().map(|([server, caller, tool, reason], count)| {
        json!({
            "server": server, "caller": caller, "tool": tool, "reason": reason, "value": count,
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "left_out": left_out })
}

/// Every counter or gauge of a family with its labels.
fn samples(family: &impl Collector) -> Vec<Value> {
    let families = family.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let row = |metric: &prometheus::proto::Metric| {
        let labels = metric.get_label().iter();
        let mut row: Map<String, Value> =
            labels.map(|label| (label.name().to_owned(), label.value().into())).collect();
        // The one that it is not stays at nothing.
        let value = metric.get_counter().get_value() + metric.get_gauge().get_value();
        row.insert("value".to_owned(), json!(value));
        Value::Object(row)
    };
    metrics.take(ROWS_MAX).map(row).collect()
}

/// Histograms of one family, summed by a name that the labels give; without one they are left out.
fn histograms(family: &impl Collector, name: impl Fn(&[(&str, &str)]) -> Option<String>) -> Value {
    #[derive(Default)]
    struct Sum {
        counts: Vec<u64>,
        count: u64,
        seconds: f64,
    }
    let mut bounds: Vec<f64> = Vec::new();
    let mut sums: HashMap<String, Sum> = HashMap::new();
    for family in family.collect() {
        for metric in family.get_metric() {
            let labels: Vec<(&str, &str)> =
                metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
            let Some(name) = name(&labels) else { continue };
            let histogram: &Histogram = metric.get_histogram();
            let buckets = histogram.get_bucket();
            bounds = buckets.iter().map(|bucket| bucket.upper_bound()).collect();
            let sum = sums.entry(name).or_default();
            sum.counts.resize(buckets.len(), 0);
            for (sum, bucket) in sum.counts.iter_mut().zip(buckets) {
                *sum += bucket.cumulative_count();
            }
            sum.count += histogram.get_sample_count();
            sum.seconds += histogram.get_sample_sum();
        }
    }
    bounds.retain(|bound| bound.is_finite());
    let mut rows: Vec<(String, Sum)> = sums.into_iter().collect();
    rows.sort_by(|(one, _), (other, _)| one.cmp(other));
    rows.truncate(ROWS_MAX);
    let rows = rows.into_iter().map(|(name, Sum { counts, count, seconds })| {
        json!({
            "name": name,
            "cumulative": counts.get(..bounds.len()),
            "count": count,
            "seconds": seconds,
        })
    });
    let rows: Vec<Value> = rows.collect();
    json!({ "bounds": bounds, "rows": rows })
}

#[cfg(test)]
mod tests {
    use super::{ROWS_MAX, SERIES_MAX};
    use crate::telemetry::{CallDetail, Labels, Metrics, Outcome, Reason};
    use serde_json::{Value, json};

    fn labels<'a>(caller: &'a str, tool: &'a str) -> Labels<'a> {
        Labels { route: "/mcp", server: "files", method: "tools/call", caller, tool }
    }

    fn row(list: &Value, key: &str, name: &str) -> Value {
        let rows = list["rows"].as_array().expect("rows");
        rows.iter().find(|row| row[key] == name).map_or(Value::Null, |row| row["counts"].clone())
    }

    #[test]
    fn calls_are_summed_by_every_name() {
        let metrics = Metrics::new(10, 10);
        for (caller, tool, outcome) in [
            ("ann", "read", Outcome::Ok),
            ("ann", "write", Outcome::Ok),
            ("bob", "read", Outcome::Ok),
            ("bob", "read", Outcome::ToolError),
        ] {
            metrics.count(labels(caller, tool), outcome, 0.003, outcome == Outcome::Ok);
        }
        metrics.count_detail(labels("bob", "read"), CallDetail::Refused(Reason::RateLimited));
        let live = metrics.live();
        let calls = &live["calls"];
        assert_eq!(calls["total"], json!([3, 0, 1, 0, 0, 0, 0, 0]));
        assert_eq!(row(&calls["tools"], "tool", "read"), json!([2, 0, 1, 0, 0, 0, 0, 0]));
        assert_eq!(row(&calls["callers"], "caller", "ann"), json!([2, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(row(&calls["servers"], "server", "files"), calls["total"]);
        assert_eq!(row(&calls["methods"], "method", "tools/call"), calls["total"]);
        let refused = json!([{
            "server": "files", "caller": "bob", "tool": "read",
            "reason": "rate_limited", "value": 1,
        }]);
        assert_eq!(calls["refused"]["rows"], refused);
        let latency = &live["latency"]["routes"];
        assert_eq!(latency["rows"][0]["name"], "/mcp");
        assert_eq!(latency["rows"][0]["count"], 4);
        let bounds = latency["bounds"].as_array().expect("bounds");
        assert_eq!(latency["rows"][0]["cumulative"].as_array().map(Vec::len), Some(bounds.len()));
        assert_eq!(latency["rows"][0]["cumulative"][1], 0);
        assert_eq!(latency["rows"][0]["cumulative"][2], 4, "0.003 is at most 0.005");
    }

    #[test]
    fn sums_stay_true_when_there_are_more_pairs_than_series() {
        let metrics = Metrics::new(1000, 500);
        let names = |kind: &str, count: usize| -> Vec<String> {
            (0..count).map(|number| format!("{kind}{number:04}")).collect()
        };
        let (callers, tools) = (names("caller", 1000), names("tool", 500));
        for (at, caller) in callers.iter().enumerate() {
            for step in 0..50 {
                let tool = &tools[(at + step * 7) % tools.len()];
                metrics.count(labels(caller, tool), Outcome::Ok, 0.001, true);
            }
        }
        assert!(metrics.series.len() <= SERIES_MAX + 500, "{}", metrics.series.len());
        let text = String::from_utf8(metrics.render()).expect("UTF-8");
        let of_tool = |line: &&str| line.contains("tool=\"tool0007\"") && line.contains("_total");
        let counts = text.lines().filter(of_tool).filter_map(|line| line.rsplit(' ').next());
        let sum: u64 = counts.map(|count| count.parse::<u64>().expect("a number")).sum();
        assert_eq!(sum, 100, "Prometheus sums by tool truly, too");
        let live = metrics.live();
        let calls = &live["calls"];
        assert_eq!(calls["total"][0], 50_000);
        for (list, key, kind, count) in
            [("callers", "caller", "caller", 1000), ("tools", "tool", "tool", 500)]
        {
            assert_eq!(calls[list]["rows"].as_array().map(Vec::len), Some(count), "{list}");
            assert_eq!(calls[list]["left_out"], 0);
            for name in names(kind, count) {
                assert_eq!(row(&calls[list], key, &name)[0], 50_000 / count, "{name}");
            }
        }
        assert!(live.to_string().len() < 400_000, "{}", live.to_string().len());
    }

    #[test]
    fn tools_are_folded_last() {
        let metrics = Metrics::new(10, 3 * SERIES_MAX);
        for number in 0..2 * SERIES_MAX + 100 {
            let tool = format!("tool{number:05}");
            metrics.count(labels("ann", &tool), Outcome::Ok, 0.001, true);
            metrics.count(labels("ann", &tool), Outcome::Ok, 0.001, true);
        }
        assert!(metrics.series.len() <= 2 * SERIES_MAX + 1, "{}", metrics.series.len());
        let refused = CallDetail::Refused(Reason::RateLimited);
        metrics.count_detail(labels("bob", "tool20099"), refused);
        let text = String::from_utf8(metrics.render()).expect("UTF-8");
        let line =
            r#"refused_total{caller="other",reason="rate_limited",server="files",tool="other"} 1"#;
        assert!(text.contains(line), "a detail counts under the names of its series");
        let live = metrics.live();
        let total = 2 * (2 * SERIES_MAX + 100);
        assert_eq!(live["calls"]["total"][0], total);
        assert_eq!(row(&live["calls"]["callers"], "caller", "ann")[0], total);
        assert_eq!(row(&live["calls"]["callers"], "caller", "other"), Value::Null);
        let all = live["calls"]["tools"]["rows"].as_array().map_or(0, Vec::len)
            + live["calls"]["tools"]["left_out"].as_u64().unwrap_or_default() as usize;
        assert_eq!(all, 2 * SERIES_MAX + 100);
    }

    #[test]
    fn there_are_never_more_rows_than_a_page_can_show() {
        let metrics = Metrics::new(ROWS_MAX + 5, 1);
        for number in 0..ROWS_MAX + 5 {
            let caller = format!("caller{number}");
            metrics.count(labels(&caller, ""), Outcome::Ok, 0.001, false);
        }
        metrics.count(labels("caller2004", ""), Outcome::Ok, 0.001, false);
        let callers = &metrics.live()["calls"]["callers"];
        assert_eq!(callers["rows"].as_array().map(Vec::len), Some(ROWS_MAX));
        assert_eq!(callers["left_out"], 5);
        assert_eq!(row(callers, "caller", "caller2004")[0], 2, "the largest stay");
    }
}
