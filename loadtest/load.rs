//! The load generator: N keep-alive connections that each wait for their answer before they ask again, or calls at a fixed rate; every answer is checked.
//!
//! One thread, HTTP/1.1. It prints a JSON line when all connections are open and one with the result. An answer is bad unless its status is 200, its id is that of the request and its length is right;
//! of another server than the fake one it must be a result. Latency at a fixed rate counts from when the call was due.

mod client;
mod histogram;
mod hold;
mod pace;
mod request;
mod wire;

use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use client::Client;
use histogram::Histogram;
use hold::Idle;
use pace::Pace;
use request::{Answer, Era, Expected, Outgoing, Spread, Target};
use wire::bad;

#[derive(Parser)]
#[command(
    about = "Load on an MCP endpoint, as fast as it answers or at a rate; prints JSON lines."
)]
struct Flags {
    /// The MCP endpoint, for example http://127.0.0.1:8080/mcp
    #[arg(long)]
    url: String,
    /// Connections that ask at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8000))]
    connections: u32,
    /// Calls a second, each due at its time whatever the answers do; without it every connection asks as fast as it is answered.
    #[arg(long, value_name = "CALLS_PER_SECOND")]
    rate: Option<f64>,
    /// Count 429 and 503 with Retry-After apart, instead of as bad answers.
    #[arg(long)]
    count_refusals: bool,
    /// How long to ask, or to hold idle streams.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Length of the request body; what does not fit is never cut.
    #[arg(long, visible_alias = "big", default_value_t = 250)]
    request_bytes: usize,
    /// Another server's tool than one of the fake server's; its answer must be a result.
    #[arg(long)]
    tool: Option<String>,
    /// Its arguments as JSON, instead of a text that fills the request up.
    #[arg(long, value_name = "JSON")]
    arguments: Option<String>,
    /// The fake server's answer to ask for.
    #[arg(long, value_enum, default_value_t = Answer::Json250)]
    answer: Answer,
    /// Send the body as one chunk instead of with Content-Length.
    #[arg(long)]
    chunked: bool,
    /// Legacy revision: initialize first, then calls in that session. Without it every call is a modern one.
    #[arg(long)]
    session: bool,
    /// Sent as `Authorization: Bearer`.
    #[arg(long)]
    bearer: Option<String>,
    /// Spread the calls over so many paths: URL/0, URL/1, ...
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    paths: u32,
    /// Spread them over so many tokens: BEARER-0, BEARER-1, ...
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    bearers: u32,
    /// Spread them over so many tools: TOOL_0000, TOOL_0001, ...
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tools: u32,
    /// What stands before the tool's own name, where a gateway shows several servers as one.
    #[arg(long, default_value = "")]
    tool_prefix: String,
    /// A further header field, as Name:value; may be repeated.
    #[arg(long, value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// Open this many of something and hold them, instead of calling.
    #[arg(long, value_name = "N")]
    hold: Option<u32>,
    /// What is held.
    #[arg(long, value_enum, default_value_t = Idle::Streams)]
    idle: Idle,
}

#[expect(clippy::print_stdout, reason = "the result line is what this program is for")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let target = target(&flags)?;
    let line = match flags.hold {
        Some(count) => hold::hold(&target, flags.idle, count, flags.seconds).await,
        None => call(target, &flags).await,
    };
    println!("{line}");
    Ok(())
}

fn target(flags: &Flags) -> io::Result<Target> {
    let rest = flags.url.strip_prefix("http://").ok_or_else(|| bad("url: http:// only"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = match authority.contains(':') {
        true => authority.to_socket_addrs()?.next(),
        false => (authority, 80).to_socket_addrs()?.next(),
    };
    let mut fields = String::new();
    for header in &flags.header {
        let (name, value) =
            header.split_once(':').ok_or_else(|| bad("header: wants Name:value"))?;
        fields += &format!("{name}: {}\r\n", value.trim());
    }
    Ok(Target {
        address: address.ok_or_else(|| bad("url: no address"))?,
        authority: authority.to_owned(),
        path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        fields,
        bearer: flags.bearer.clone(),
        era: if flags.session { Era::Legacy } else { Era::Modern },
        tool: format!(
            "{}{}",
            flags.tool_prefix,
            flags.tool.as_deref().unwrap_or_else(|| flags.answer.tool())
        ),
        arguments: flags.arguments.clone(),
        expected: match flags.tool {
            Some(_) => Expected::Any,
            None => Expected::Length(flags.answer.length()),
        },
        request_bytes: flags.request_bytes,
        transfer: if flags.chunked {
            request::Transfer::Chunked
        } else {
            request::Transfer::Length
        },
    })
}

/// What one connection has seen; those of all connections are added up.
#[derive(Default)]
struct Tally {
    good: u64,
    bad: u64,
    refused: u64,
    latency: Histogram,
    refusal_latency: Histogram,
    last_answer: Option<Instant>,
    first_fault: Option<String>,
}

impl Tally {
    fn fault(&mut self, fault: impl ToString) {
        self.bad += 1;
        // Quotes and backslashes are escaped as in JSON when it is printed; everything stranger goes.
        let plain =
            |letter: char| if letter == ' ' || letter.is_ascii_graphic() { letter } else { '?' };
        self.first_fault
            .get_or_insert_with(|| fault.to_string().chars().map(plain).take(200).collect());
    }

    fn add(&mut self, other: Self) {
        self.good += other.good;
        self.bad += other.bad;
        self.refused += other.refused;
        self.latency.add(&other.latency);
        self.refusal_latency.add(&other.refusal_latency);
        self.last_answer = self.last_answer.max(other.last_answer);
        self.first_fault = self.first_fault.take().or(other.first_fault);
    }

    fn line(&self, elapsed: f64, unsent: u64) -> String {
        let ms = |histogram: &Histogram, share: f64| histogram.quantile(share) as f64 / 1e6;
        format!(
            r#"{{"requests":{},"bad":{},"refused":{},"unsent":{unsent},"seconds":{elapsed:.3},"per_second":{:.1},"p50_ms":{:.4},"p90_ms":{:.4},"p99_ms":{:.4},"p999_ms":{:.4},"max_ms":{:.4},"refused_p50_ms":{:.4},"refused_p99_ms":{:.4},"first_fault":{:?}}}"#,
            self.good,
            self.bad,
            self.refused,
            self.good as f64 / elapsed,
            ms(&self.latency, 0.5),
            ms(&self.latency, 0.9),
            ms(&self.latency, 0.99),
            ms(&self.latency, 0.999),
            ms(&self.latency, 1.0),
            ms(&self.refusal_latency, 0.5),
            ms(&self.refusal_latency, 0.99),
            self.first_fault.as_deref().unwrap_or_default(),
        )
    }
}

/// What all connections of a run know.
struct Run {
    target: Target,
    spread: Spread,
    connections: u32,
    refusals: Refusals,
    tail: Vec<u8>,
    pace: Arc<Pace>,
    /// Nobody asks before every connection is open, or could not be opened.
    start: Barrier,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusals {
    Bad,
    Apart,
}

#[expect(
    clippy::print_stdout,
    reason = "whoever measures the target must know when the calls begin"
)]
async fn call(target: Target, flags: &Flags) -> String {
    let pace = Arc::new(match flags.rate {
        Some(rate) => Pace::open(flags.seconds, rate),
        None => Pace::closed(flags.seconds),
    });
    let spread = Spread { paths: flags.paths, bearers: flags.bearers, tools: flags.tools };
    let run = Arc::new(Run {
        tail: target.numbered(spread, 0).tail(),
        target,
        spread,
        connections: flags.connections,
        refusals: if flags.count_refusals { Refusals::Apart } else { Refusals::Bad },
        pace: Arc::clone(&pace),
        start: Barrier::new(flags.connections as usize + 1),
    });
    let mut connections = JoinSet::new();
    for number in 0..flags.connections {
        connections.spawn(Arc::clone(&run).ask_until_over(number));
    }
    run.start.wait().await;
    println!(r#"{{"connections":{}}}"#, flags.connections);
    pace.begin();
    let mut total = Tally::default();
    // Calls that are under way at the end may finish; what takes longer than this hangs and is bad.
    let patience = pace.deadline() + Duration::from_secs(10);
    while let Ok(Some(joined)) =
        tokio::time::timeout_at(patience.into(), connections.join_next()).await
    {
        match joined {
            Ok(tally) => total.add(tally),
            Err(fault) => total.fault(fault),
        }
    }
    // Not until now: an open loop waits a moment for somebody to take its last calls.
    let last = total.last_answer.unwrap_or_else(Instant::now).max(pace.deadline());
    let elapsed = (last - pace.began()).as_secs_f64();
    for _ in 0..connections.len() {
        total.fault("no answer within 10 s of the end");
    }
    total.line(elapsed, pace.unsent())
}

/// How long a connection may take to be opened, with its sessions.
const OPENING_MAX: Duration = Duration::from_secs(10);

impl Run {
    /// One connection's calls. After a fault it connects again, a little later, so that a dead target does not burn the core.
    async fn ask_until_over(self: Arc<Self>, number: u32) -> Tally {
        let mut tally = Tally::default();
        let mut id = u64::from(number) * request::IDS_PER_CONNECTION + request::ID_MIN;
        let mut is_first = true;
        while is_first || !self.pace.is_over() {
            let opened = tokio::time::timeout(OPENING_MAX, self.open(number, &mut id)).await;
            if std::mem::take(&mut is_first) {
                self.start.wait().await;
            }
            let asked = match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(mut lane) => self.ask_on_one(&mut lane, &mut id, &mut tally).await,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = asked {
                tally.fault(fault);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tally
    }

    async fn open(&self, number: u32, id: &mut u64) -> io::Result<Lane> {
        let mut client = Client::connect(&self.target).await?;
        let mut calls = Vec::new();
        for turn in 0..self.spread.targets_per_connection(self.connections) {
            let target = self.target.numbered(self.spread, turn * self.connections + number);
            let session = match target.era {
                Era::Legacy => Some(client.initialize(&target, id).await?.0),
                Era::Modern => None,
            };
            calls.push(Outgoing::new(&target, session.as_deref(), &self.tail));
        }
        Ok(Lane { client, calls })
    }

    /// Returns when the run is over or the peer has said that it closes.
    async fn ask_on_one(&self, lane: &mut Lane, id: &mut u64, tally: &mut Tally) -> io::Result<()> {
        let Lane { client, calls } = lane;
        let mut turn = 0;
        while let Some(asked) = self.pace.next().await {
            *id += 1;
            calls[turn].set_id(*id);
            calls[turn].send(&mut client.stream, &self.tail).await?;
            turn = (turn + 1) % calls.len();
            let head = client.answer().await?;
            let answered = Instant::now();
            let took = answered - asked;
            tally.last_answer = Some(answered);
            if self.refusals == Refusals::Apart && head.is_refusal() {
                tally.refused += 1;
                tally.refusal_latency.record(took);
            } else {
                tally.latency.record(took);
                match client.fault(&head, *id, self.target.expected) {
                    None => tally.good += 1,
                    Some(fault) => tally.fault(fault),
                }
            }
            if head.closes {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A connection, and the calls that it makes in turn.
struct Lane {
    client: Client,
    calls: Vec<Outgoing>,
}
