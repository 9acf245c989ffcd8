//! How much is served: `limits`, and the limit of an address before its caller is known.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value, json};

use super::include::wildcard_matches;
use super::links::{ServerNames, note_duplicates};
use super::place::Place;
use super::reading::{Fault, Reading};
use super::resilience::ToolPattern;
use super::scalars::{Count, check_name, choice_schema, parse_choice};
use super::shape::{At, Entries, Field, Scalar, shape};

/// What one limit counts apart where its configuration says nothing.
const KEYS_MAX: u32 = 100_000;
/// More keys than this are more memory than a limit is worth.
const KEYS_MAX_MAX: u32 = 1_000_000;
/// Who waits holds a connection and a request.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A burst that takes longer to come back is no rate any more, and is near where clocks overflow.
const BURST_REFILL_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Each call, and each stream, holds its places in a fixed number of limits, so that it needs no
/// memory of its own.
const IN_FLIGHT_RULES_MAX: usize = 8;
/// Each call is held against every limit.
const LIMITS_MAX: usize = 64;

/// How many calls of one kind are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The name for clients, logs and metrics; of all limits different.
    pub name: String,
    /// What is counted apart, each part once, in the order of [`KeyPart`]; empty counts all calls together.
    pub key: Vec<KeyPart>,
    /// How many calls in a time.
    pub rate: Option<Allowance>,
    /// How many calls at once.
    pub in_flight: Option<NonZeroU32>,
    /// How many streams at once.
    pub streams: Option<NonZeroU32>,
    /// How long a call may wait for its turn.
    pub wait: Duration,
    /// How many keys are counted apart; beyond, new ones are refused.
    pub keys_max: u32,
    /// Where the name stands.
    pub place: Place,
}

/// How many calls in a time, and what they cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// How fast the allowance comes back.
    pub rate: Rate,
    /// How much of it can be used at once.
    pub burst: NonZeroU32,
    /// Tools that cost more than one, in the order of the file: the first that fits counts.
    pub costs: Vec<Cost>,
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In which time.
    pub period: Duration,
}

/// What a call of some tools costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Which servers; any without.
    server: Option<String>,
    /// Which tools.
    tool: String,
    /// How many ordinary calls it counts for, at most the burst.
    pub calls: NonZeroU32,
}

/// What a limit counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPart {
    /// Who calls.
    Caller,
    /// The caller's tenant; all callers without one count as one tenant.
    Tenant,
    /// The tool that is called; the limit then counts calls of tools only.
    Tool,
    /// The MCP server.
    Server,
    /// The MCP session; what a caller sends without one counts as one session.
    Session,
    /// The public path.
    Route,
    /// The client's IP address; of IPv6 the network, which is one customer's.
    Address,
}

shape! {
    /// How many calls of one kind are served.
    LimitText {
        /// The name for clients, logs and metrics.
        required name: String,
        /// What is counted apart, any of: caller, tenant, tool, server, session, route, address; without one all calls count together.
        optional key: Vec<Field<KeyPart>>,
        /// How many calls in a time: 50/s, 100/m or 10/h.
        optional rate: Rate,
        /// How many of them may come at once; by default as many as the rate names.
        optional burst: Count,
        /// Tools that count for more than one call: 'search/*': 10 for all of a server's, or the tool's name alone.
        optional cost: Entries<Count>,
        /// How many calls at once.
        optional in_flight: Count,
        /// How many streams at once: those of GET and of subscriptions/listen, which in_flight does not count.
        optional streams: Count,
        /// How long a call may wait for its turn before it is refused; not at all by default.
        optional wait: Duration,
        /// How many keys are counted apart; beyond, new ones are refused.
        optional keys_max: Count,
    }
}

const KEY_PARTS: &[(&str, KeyPart)] = &[
    ("caller", KeyPart::Caller),
    ("tenant", KeyPart::Tenant),
    ("tool", KeyPart::Tool),
    ("server", KeyPart::Server),
    ("session", KeyPart::Session),
    ("route", KeyPart::Route),
    ("address", KeyPart::Address),
];

impl Scalar for KeyPart {
    const NAME: &'static str = "a word";

    fn parse(text: &str) -> Result<Self, Fault> {
        parse_choice(text, KEY_PARTS)
    }

    fn schema() -> Value {
        choice_schema(KEY_PARTS)
    }
}

impl Scalar for Rate {
    const NAME: &'static str = "a rate";

    fn parse(text: &str) -> Result<Self, Fault> {
        const HINT: &str = "write a whole number and a time: 50/s, 100/m, 10/h";
        /// Above this a call's share of the time is too short to be counted in whole nanoseconds.
        const PER_SECOND_MAX: u64 = 1_000_000;
        let (count, seconds) = match text.split_once('/') {
            Some((count, "s")) => (count, 1),
            Some((count, "m")) => (count, 60),
            Some((count, "h")) => (count, 60 * 60),
            _ => return Err(Fault::new("this is not a rate", HINT)),
        };
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count: u32 = match count.parse() {
            Ok(count) if digits => count,
            _ => return Err(Fault::new("this is not a rate", HINT)),
        };
        if u64::from(count) > PER_SECOND_MAX * seconds {
            return Err(Fault::new("a rate is at most 1000000/s", "leave the limit out"));
        }
        let count = NonZeroU32::new(count)
            .ok_or_else(|| Fault::new("a rate must be more than nothing", HINT))?;
        Ok(Self { count, period: Duration::from_secs(seconds) })
    }

    fn schema() -> Value {
        json!({ "type": "string", "pattern": r"^([0-9]+/[smh]|.*\$\{.*)$" })
    }
}

impl Rate {
    /// How long the allowance of one call takes to come back.
    pub fn interval(self) -> Duration {
        self.period / self.count.get()
    }
}

impl Cost {
    /// Whether a call of this server's tool costs this.
    pub fn is_of(&self, server: &str, tool: &str) -> bool {
        self.server.as_deref().is_none_or(|pattern| wildcard_matches(pattern, server))
            && wildcard_matches(&self.tool, tool)
    }
}

/// Checks the limits; several may hold for one call.
pub(super) fn check(
    texts: Vec<Field<LimitText>>,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Vec<Limit> {
    let texts: Vec<LimitText> = texts.into_iter().filter_map(Field::value).collect();
    let names = texts.iter().filter_map(|text| text.name.as_given());
    let names = names.map(|name| (name.place, name.value.as_str()));
    note_duplicates(names, "a limit of this name is already defined", reading);
    let limits: Vec<Limit> =
        texts.into_iter().filter_map(|text| text.check(servers, reading)).collect();
    if let Some(limit) = limits.get(LIMITS_MAX) {
        let message = format!("more than {LIMITS_MAX} limits");
        reading.problem(limit.place, message, "every call is held against each; join some");
    }
    check_at_once("in_flight", &limits, |limit| limit.in_flight.is_some(), reading);
    check_at_once("streams", &limits, |limit| limit.streams.is_some(), reading);
    limits
}

fn check_at_once(
    key: &str,
    limits: &[Limit],
    has_it: impl Fn(&&Limit) -> bool,
    reading: &mut Reading<'_>,
) {
    if let Some(limit) = limits.iter().filter(has_it).nth(IN_FLIGHT_RULES_MAX) {
        let message = format!("more than {IN_FLIGHT_RULES_MAX} limits have `{key}`");
        reading.problem(limit.place, message, "join some");
    }
}

impl LimitText {
    fn check(self, servers: &ServerNames, reading: &mut Reading<'_>) -> Option<Limit> {
        let Self { name, key, rate, burst, cost, in_flight, streams, wait, keys_max } = self;
        let name = name.given();
        if let Some(Err(fault)) = name.as_ref().map(|name| check_name(&name.value)) {
            reading.fault(name.as_ref()?.place, fault);
        }
        if let (Some(name), Field::Absent, Field::Absent, Field::Absent) =
            (&name, &rate, &in_flight, &streams)
        {
            reading.problem(
                name.place,
                "this limits nothing",
                "add `rate`, `in_flight` or `streams`, or leave it out",
            );
        }
        let in_flight = in_flight.value().and_then(|count| NonZeroU32::new(count.0));
        let key = check_key(key, reading);
        let streams = check_streams(streams, &key, reading);
        let rate = check_rate(rate, burst, cost, servers, reading);
        Some(Limit {
            key,
            rate,
            in_flight,
            streams,
            wait: at_most(wait, WAIT_MAX, "no call waits longer than a minute", reading)
                .unwrap_or_default(),
            keys_max: check_keys_max(keys_max, reading),
            place: name.as_ref()?.place,
            name: name?.value,
        })
    }
}

fn check_key(key: Field<Vec<Field<KeyPart>>>, reading: &mut Reading<'_>) -> Vec<KeyPart> {
    let mut parts: Vec<KeyPart> = Vec::new();
    for part in key.or(Vec::new()).into_iter().filter_map(Field::given) {
        if parts.contains(&part.value) {
            reading.problem(part.place, "the key has this part already", "remove it");
        }
        parts.push(part.value);
    }
    parts.sort_unstable();
    parts
}

fn check_streams(
    streams: Field<Count>,
    key: &[KeyPart],
    reading: &mut Reading<'_>,
) -> Option<NonZeroU32> {
    let streams = streams.given()?;
    if key.contains(&KeyPart::Tool) {
        let hint = "make a limit without `tool` in its key for it";
        reading.problem(streams.head, "no stream is of one tool, so this limits nothing", hint);
    }
    NonZeroU32::new(streams.value.0)
}

fn check_rate(
    rate: Field<Rate>,
    burst: Field<Count>,
    cost: Field<Entries<Count>>,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Option<Allowance> {
    if matches!(rate, Field::Absent) {
        let heads = [
            (burst.as_given().map(|burst| burst.head), "only a rate has a burst"),
            (cost.as_given().map(|cost| cost.head), "only a rate weighs calls"),
        ];
        for (head, message) in heads {
            if let Some(head) = head {
                reading.problem(head, message, "add `rate`, or remove it");
            }
        }
    }
    let burst_place = burst.as_given().map(|burst| burst.place);
    let rate = rate.given()?;
    let burst = burst.value().and_then(|burst| NonZeroU32::new(burst.0));
    let burst = burst.unwrap_or(rate.value.count);
    if rate.value.interval().checked_mul(burst.get()).is_none_or(|time| time > BURST_REFILL_MAX) {
        reading.problem(
            burst_place.unwrap_or(rate.place),
            "this burst takes more than a year to come back",
            "lower `burst`, or raise `rate`",
        );
    }
    let costs = cost.value().map_or_else(Vec::new, |entries| entries.0);
    let costs = costs.into_iter().filter_map(|entry| check_cost(entry, burst, servers, reading));
    Some(Allowance { costs: costs.collect(), rate: rate.value, burst })
}

fn check_cost(
    (tools, calls): (At<String>, Field<Count>),
    burst: NonZeroU32,
    servers: &ServerNames,
    reading: &mut Reading<'_>,
) -> Option<Cost> {
    if let Err(fault) = <ToolPattern as Scalar>::parse(&tools.value) {
        reading.fault(tools.place, fault);
    }
    let (server, tool) = match tools.value.split_once('/') {
        Some((server, tool)) => (Some(server.to_owned()), tool.to_owned()),
        None => (None, tools.value),
    };
    if let Some(name) = server.as_ref().filter(|name| !name.contains(['*', '?'])) {
        // Only told: who it is does not matter before a call names it.
        servers.resolve(&At { place: tools.place, head: tools.head, value: name.clone() }, reading);
    }
    let At { place, head: _, value: calls } = calls.given()?;
    let calls = NonZeroU32::new(calls.0)?;
    if calls > burst {
        let hint = format!("write at most {burst}, or raise `burst`");
        reading.problem(place, "this costs more than the burst, so it could never be called", hint);
    }
    Some(Cost { server, tool, calls })
}

fn at_most(
    wait: Field<Duration>,
    max: Duration,
    message: &str,
    reading: &mut Reading<'_>,
) -> Option<Duration> {
    let wait = wait.given()?;
    if wait.value > max {
        reading.problem(wait.place, message, format!("write at most {}s", max.as_secs()));
    }
    Some(wait.value)
}

fn check_keys_max(keys_max: Field<Count>, reading: &mut Reading<'_>) -> u32 {
    let Some(keys_max) = keys_max.given() else { return KEYS_MAX };
    if keys_max.value.0 > KEYS_MAX_MAX {
        let hint = format!("write at most {KEYS_MAX_MAX}");
        reading.problem(keys_max.place, "a limit cannot count so many keys apart", hint);
    }
    keys_max.value.0
}

#[cfg(test)]
mod tests {
    use super::{Cost, NonZeroU32, Rate, Scalar};
    use std::time::Duration;

    #[test]
    fn a_rate_is_a_number_in_a_time() {
        let check = |text: &str, expected: Option<(u32, u64)>| {
            let rate = Rate::parse(text).ok().map(|rate| (rate.count.get(), rate.period.as_secs()));
            assert_eq!(rate, expected, "{text}");
        };
        check("50/s", Some((50, 1)));
        check("100/m", Some((100, 60)));
        check("10/h", Some((10, 3600)));
        check("1000000/s", Some((1_000_000, 1)));
        check("4294967295/h", None);
        for bad in ["", "50", "/s", "0/s", "+1/s", "-1/s", "1.5/s", "50/d", "50 /s", "1000001/s"] {
            check(bad, None);
        }
        let interval = Rate::parse("1000/s").map(Rate::interval);
        assert_eq!(interval, Ok(Duration::from_millis(1)));
    }

    #[test]
    fn a_cost_is_of_a_servers_tools_or_of_tools_anywhere() {
        let cost = |server: Option<&str>, tool: &str| Cost {
            server: server.map(str::to_owned),
            tool: tool.to_owned(),
            calls: NonZeroU32::MIN,
        };
        assert!(cost(Some("search"), "*").is_of("search", "web"));
        assert!(!cost(Some("search"), "*").is_of("other", "web"));
        assert!(cost(None, "web_*").is_of("other", "web_find"));
        assert!(!cost(None, "web_*").is_of("other", "find"));
    }
}
