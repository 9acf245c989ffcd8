//! The load generator: N keep-alive connections that each wait for their answer before they ask again, and every answer is checked.
//!
//! One thread, HTTP/1.1. It prints one JSON line. An answer is bad unless its status is 200, its id is that of the request and its length is right.

mod histogram;
mod request;
mod wire;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use histogram::Histogram;
use request::{Answer, Era, Outgoing, Target};
use wire::{Body, bad};

#[derive(Parser)]
#[command(about = "Closed-loop load on an MCP endpoint; prints one JSON line.")]
struct Flags {
    /// The MCP endpoint, for example http://127.0.0.1:8080/mcp
    #[arg(long)]
    url: String,
    /// Connections that ask at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8000))]
    connections: u32,
    /// How long to ask, or to hold idle streams.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Length of the request body; what does not fit is never cut.
    #[arg(long, visible_alias = "big", default_value_t = 250)]
    request_bytes: usize,
    /// The answer to ask for.
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
    /// What stands before the tool's own name, where a gateway shows several servers as one.
    #[arg(long, default_value = "")]
    tool_prefix: String,
    /// A further header field, as Name:value; may be repeated.
    #[arg(long, value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// Open this many GET streams in as many sessions and hold them, instead of calling.
    #[arg(long, value_name = "N")]
    idle_streams: Option<u32>,
}

#[expect(clippy::print_stdout, reason = "the result line is what this program is for")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let target = Arc::new(target(&flags)?);
    let line = match flags.idle_streams {
        Some(streams) => hold_streams(&target, streams, flags.seconds).await,
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
    if let Some(token) = &flags.bearer {
        fields += &format!("Authorization: Bearer {token}\r\n");
    }
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
        era: if flags.session { Era::Legacy } else { Era::Modern },
        answer: flags.answer,
        prefix: flags.tool_prefix.clone(),
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
    latency: Histogram,
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
        self.latency.add(&other.latency);
        self.first_fault = self.first_fault.take().or(other.first_fault);
    }
}

async fn call(target: Arc<Target>, flags: &Flags) -> String {
    let began = Instant::now();
    let deadline = began + Duration::from_secs_f64(flags.seconds);
    let tail = Arc::new(target.tail());
    let mut connections = JoinSet::new();
    for number in 0..flags.connections {
        connections.spawn(ask_until(target.clone(), tail.clone(), deadline, number));
    }
    let mut total = Tally::default();
    // Calls that are under way at the end may finish; what takes longer than this hangs and is bad.
    let patience = deadline + Duration::from_secs(10);
    while let Ok(Some(joined)) =
        tokio::time::timeout_at(patience.into(), connections.join_next()).await
    {
        match joined {
            Ok(tally) => total.add(tally),
            Err(fault) => total.fault(fault),
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    for _ in 0..connections.len() {
        total.fault("no answer within 10 s of the end");
    }
    let ms = |share: f64| total.latency.quantile(share) as f64 / 1e6;
    format!(
        r#"{{"requests":{},"bad":{},"seconds":{elapsed:.3},"per_second":{:.1},"p50_ms":{:.4},"p99_ms":{:.4},"max_ms":{:.4},"first_fault":{:?}}}"#,
        total.good,
        total.bad,
        total.good as f64 / elapsed,
        ms(0.5),
        ms(0.99),
        ms(1.0),
        total.first_fault.unwrap_or_default(),
    )
}

/// One connection's closed loop. After a fault it connects again, a little later, so that a dead target does not burn the core.
async fn ask_until(
    target: Arc<Target>,
    tail: Arc<Vec<u8>>,
    deadline: Instant,
    number: u32,
) -> Tally {
    let mut tally = Tally::default();
    let mut id = u64::from(number) * request::IDS_PER_CONNECTION + request::ID_MIN;
    while Instant::now() < deadline {
        if let Err(fault) = ask_on_one(&target, &tail, deadline, &mut id, &mut tally).await {
            tally.fault(fault);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tally
}

/// Returns when the deadline has come or the peer has said that it closes.
async fn ask_on_one(
    target: &Target,
    tail: &[u8],
    deadline: Instant,
    id: &mut u64,
    tally: &mut Tally,
) -> io::Result<()> {
    let mut client = Client::connect(target.address).await?;
    let session = match target.era {
        Era::Legacy => Some(client.initialize(target, id).await?),
        Era::Modern => None,
    };
    let mut outgoing = Outgoing::new(target, session.as_deref(), tail);
    while Instant::now() < deadline {
        *id += 1;
        outgoing.set_id(*id);
        let asked = Instant::now();
        outgoing.send(&mut client.stream, tail).await?;
        let head = client.answer().await?;
        tally.latency.record(asked.elapsed());
        match client.fault(&head, *id, target.answer.length()) {
            None => tally.good += 1,
            Some(fault) => tally.fault(fault),
        }
        if head.closes {
            return Ok(());
        }
    }
    Ok(())
}

struct Client {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    body: Body,
}

struct Head {
    status: u16,
    session: Option<String>,
    closes: bool,
}

const BUFFER_BYTES: usize = 64 * 1024;
/// The id of an answer must stand in its first bytes.
const KEPT_BYTES: usize = 1024;

impl Client {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Ok(Self { stream, buffer, start: 0, end: 0, body: Body::new(KEPT_BYTES) })
    }

    /// Opens a session as a legacy client does and returns its id.
    async fn initialize(&mut self, target: &Target, id: &mut u64) -> io::Result<String> {
        *id += 1;
        self.stream.write_all(target.initialize(*id).as_bytes()).await?;
        let head = self.answer().await?;
        let session = head
            .session
            .filter(|_| head.status == 200)
            .ok_or_else(|| refused("initialize", head.status))?;
        self.stream.write_all(target.initialized(&session).as_bytes()).await?;
        let head = self.answer().await?;
        if head.status == 202 {
            Ok(session)
        } else {
            Err(refused("notifications/initialized", head.status))
        }
    }

    /// Reads a whole answer; its body is then in `self.body`.
    async fn answer(&mut self) -> io::Result<Head> {
        let head = self.answer_head().await?;
        self.start += self.body.take(&self.buffer[self.start..self.end])?;
        while !self.body.is_done() {
            self.read(0).await?;
            self.start = self.body.take(&self.buffer[..self.end])?;
        }
        Ok(head)
    }

    async fn answer_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = self.parse_head()? {
                return Ok(head);
            }
            self.buffer.copy_within(self.start..self.end, 0);
            let unread = self.end - self.start;
            self.start = 0;
            self.read(unread).await?;
        }
    }

    async fn read(&mut self, from: usize) -> io::Result<()> {
        match self.stream.read(&mut self.buffer[from..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                self.end = from + bytes;
                Ok(())
            }
        }
    }

    fn parse_head(&mut self) -> io::Result<Option<Head>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed =
            response.parse(&self.buffer[self.start..self.end]).map_err(|_| bad("answer head"))?;
        let httparse::Status::Complete(bytes) = parsed else {
            return Ok(None);
        };
        let value = |name: &str| {
            response
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value)
        };
        let head = Head {
            status: response.code.unwrap_or(0),
            session: value("mcp-session-id").map(|id| String::from_utf8_lossy(id).into_owned()),
            closes: value("connection").is_some_and(|option| option.eq_ignore_ascii_case(b"close")),
        };
        self.body.begin(wire::framing(response.headers)?);
        self.start += bytes;
        Ok(Some(head))
    }

    fn fault(&self, head: &Head, id: u64, length: u64) -> Option<String> {
        if head.status != 200 {
            let text = String::from_utf8_lossy(&self.body.kept);
            return Some(format!("status {} {text}", head.status));
        }
        if self.body.length != length {
            return Some(format!("{} bytes instead of {length}", self.body.length));
        }
        let found = memmem::find(&self.body.kept, br#""id":"#).map(|at| &self.body.kept[at + 5..]);
        let expected = id.to_string();
        match found {
            Some(rest)
                if rest.starts_with(expected.as_bytes())
                    && rest.get(expected.len()) == Some(&b',') =>
            {
                None
            }
            _ => Some(format!("the answer is not the one to {id}")),
        }
    }
}

fn refused(what: &str, status: u16) -> io::Error {
    io::Error::other(format!("{what} got {status}"))
}

/// Opens the streams one after another, prints a line when all are there, holds them, and tells how many were lost.
#[expect(
    clippy::print_stdout,
    reason = "whoever measures memory must know when the streams are there"
)]
async fn hold_streams(target: &Target, streams: u32, seconds: f64) -> String {
    let mut open = Vec::new();
    let mut id = request::ID_MIN;
    let mut first_fault = String::new();
    for _ in 0..streams {
        match open_stream(target, &mut id).await {
            Ok(client) => open.push(client),
            Err(fault) => first_fault = fault.to_string(),
        }
    }
    let opened = open.len();
    println!(r#"{{"streams":{streams},"opened":{opened},"first_fault":{first_fault:?}}}"#);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let lost = open.iter_mut().map(Client::has_ended).filter(|ended| *ended).count();
    format!(r#"{{"streams":{streams},"held":{},"lost":{lost}}}"#, opened - lost)
}

async fn open_stream(target: &Target, id: &mut u64) -> io::Result<Client> {
    let mut client = Client::connect(target.address).await?;
    let session = client.initialize(target, id).await?;
    client.stream.write_all(target.stream(&session).as_bytes()).await?;
    let head = client.answer_head().await?;
    if head.status != 200 {
        return Err(refused("GET", head.status));
    }
    // The buffer was for heads; a thousand idle streams need not keep a thousand of them.
    client.buffer = Box::new([0; 64]);
    Ok(client)
}

impl Client {
    /// Whether the peer has closed: comments that keep a stream alive are read away.
    fn has_ended(&mut self) -> bool {
        loop {
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(fault) => return fault.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}
