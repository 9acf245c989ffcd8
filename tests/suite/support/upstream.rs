//! A scripted MCP server over raw HTTP/1 that records every byte it gets and sends what it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::DEADLINE;

/// A server that answers until it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

/// What the server has met.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    bytes: Mutex<Vec<u8>>,
    connections: Mutex<usize>,
    left: Mutex<usize>,
    ended: Mutex<usize>,
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) verb: String,
    pub(crate) path: String,
    pub(crate) fields: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Which of the server's connections it came on, and which of its requests it was.
    pub(crate) place: (usize, usize),
}

/// What the server does for a request, in order.
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Waits for a permit, or for the gateway to leave.
    Wait(Arc<Semaphore>),
    Pause(Duration),
    /// Sends this many bytes of events.
    Flood(usize),
    Close,
}

impl Request {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }
}

impl Upstream {
    /// A server whose answers come from `script`.
    pub(crate) async fn start(
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// The same at an address that was chosen before.
    pub(crate) async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let listener = bind(address).await;
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&seen), Arc::new(script)));
        Self { address, seen, _tasks: tasks }
    }

    /// A server of both eras with the one tool `echo`, whose session ids begin with `name`.
    pub(crate) async fn mcp(name: &'static str) -> Self {
        Self::start(move |request| mcp(name, request)).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// A configuration of one route to this server.
    pub(crate) fn sections(&self) -> String {
        sections(&[self.url()], "")
    }

    /// The requests so far; they are forgotten.
    pub(crate) fn take(&self) -> Vec<Request> {
        self.seen.bytes.lock().clear();
        std::mem::take(&mut *self.seen.requests.lock())
    }

    /// Every byte so far, complete requests or not.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.seen.bytes.lock().clone()
    }

    /// How many connections were opened so far.
    pub(crate) fn connections(&self) -> usize {
        *self.seen.connections.lock()
    }

    /// Waits until the gateway has left `count` answers before their end.
    pub(crate) async fn left(&self, count: usize) -> bool {
        wait(|| *self.seen.left.lock() >= count).await
    }

    /// Waits until `count` answers were given to their end.
    pub(crate) async fn ended(&self, count: usize) -> bool {
        wait(|| *self.seen.ended.lock() >= count).await
    }

    /// Waits for `count` requests.
    pub(crate) async fn reached(&self, count: usize) -> bool {
        wait(|| self.seen.requests.lock().len() >= count).await
    }
}

/// Binds an address that a server dropped just now may still hold for a moment.
pub(crate) async fn bind(address: SocketAddr) -> TcpListener {
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{address} is taken");
}

/// A configuration of one route to one server with these endpoints.
pub(crate) fn sections(urls: &[String], server: &str) -> String {
    let urls = urls.join(", ");
    format!(
        "servers: {{ one: {{ endpoints: [{urls}] {server} }} }}\nroutes: [{{ path: /mcp, server: one, body_bytes_max: 6MiB }}]\n"
    )
}

async fn wait(done: impl Fn() -> bool) -> bool {
    let poll = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, poll).await.is_ok()
}

type Script = dyn Fn(&Request) -> Vec<Step> + Send + Sync;

async fn accept(listener: TcpListener, seen: Arc<Seen>, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("no delay");
        let number = {
            let mut count = seen.connections.lock();
            *count += 1;
            *count - 1
        };
        connections.spawn(serve(stream, number, Arc::clone(&seen), Arc::clone(&script)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, number: usize, seen: Arc<Seen>, script: Arc<Script>) {
    let mut buffer = Vec::new();
    for nth in 0.. {
        let Some(mut request) = read_request(&mut stream, &mut buffer, &seen).await else { return };
        request.place = (number, nth);
        let steps = script(&request);
        seen.requests.lock().push(request);
        for step in steps {
            match take_step(&mut stream, step).await {
                Next::Step => {}
                Next::Closed => return,
                Next::Left => {
                    *seen.left.lock() += 1;
                    return;
                }
            }
        }
        *seen.ended.lock() += 1;
    }
}

/// What follows a step.
enum Next {
    Step,
    Closed,
    Left,
}

async fn take_step(stream: &mut TcpStream, step: Step) -> Next {
    match step {
        Step::Send(bytes) => match stream.write_all(&bytes).await {
            Ok(()) => Next::Step,
            Err(_) => Next::Left,
        },
        Step::Flood(bytes) => {
            let event = format!("data: {}\n\n", "x".repeat(16 * 1024 - 8));
            let chunk = format!("{:x}\r\n{event}\r\n", event.len()).into_bytes();
            for _ in 0..bytes / (16 * 1024) {
                if stream.write_all(&chunk).await.is_err() {
                    return Next::Left;
                }
            }
            Next::Step
        }
        Step::Wait(gate) => tokio::select! {
            permit = gate.acquire() => {
                permit.expect("an open gate").forget();
                Next::Step
            }
            // The gateway says nothing while it waits: whatever can be read is its leaving.
            _ = stream.readable() => Next::Left,
        },
        Step::Pause(time) => {
            tokio::time::sleep(time).await;
            Next::Step
        }
        Step::Close => Next::Closed,
    }
}

async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    seen: &Seen,
) -> Option<Request> {
    loop {
        if let Some((length, mut request)) = parse(buffer) {
            let body = request
                .field("content-length")
                .map_or(0, |length| length.parse().expect("the gateway sends a proper length"));
            if buffer.len() >= length + body {
                request.body = buffer[length..length + body].to_vec();
                buffer.drain(..length + body);
                return Some(request);
            }
        }
        let mut bytes = vec![0; 64 * 1024];
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => {
                seen.bytes.lock().extend_from_slice(&bytes[..read]);
                buffer.extend_from_slice(&bytes[..read]);
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<(usize, Request)> {
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).expect("proper HTTP") else {
        return None;
    };
    let mut fields = HashMap::new();
    for field in head.headers.iter() {
        let name = field.name.to_ascii_lowercase();
        assert_ne!(name, "transfer-encoding", "the gateway knows every length");
        let value = String::from_utf8_lossy(field.value).into_owned();
        fields.insert(name, value);
    }
    let verb = head.method.unwrap_or_default().to_owned();
    let path = head.path.unwrap_or_default().to_owned();
    Some((length, Request { verb, path, fields, body: Vec::new(), place: (0, 0) }))
}

/// An answer with a length.
pub(crate) fn plain(status: u16, fields: &str, body: &[u8]) -> Step {
    let head = format!("HTTP/1.1 {status} X\r\n{fields}content-length: {}\r\n\r\n", body.len());
    Step::Send([head.as_bytes(), body].concat())
}

/// An answer of JSON.
pub(crate) fn json_answer(status: u16, fields: &str, body: &Value) -> Vec<Step> {
    let fields = format!("content-type: application/json\r\n{fields}");
    vec![plain(status, &fields, body.to_string().as_bytes())]
}

/// The head of an event stream in chunks.
pub(crate) fn events_head(fields: &str) -> Step {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n";
    Step::Send(format!("{head}{fields}\r\n").into_bytes())
}

/// One event of such a stream.
pub(crate) fn event(text: &str) -> Step {
    let event = format!("event: message\ndata: {text}\n\n");
    chunk(&event)
}

/// Any bytes of such a stream.
pub(crate) fn chunk(bytes: &str) -> Step {
    Step::Send(format!("{:x}\r\n{bytes}\r\n", bytes.len()).into_bytes())
}

/// The end of such a stream.
pub(crate) fn events_end() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}

/// The result of a tool that says `text`.
pub(crate) fn result(id: &Value, text: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [{ "type": "text", "text": text }] } })
}

/// The result of `initialize`.
pub(crate) fn initialized(id: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": {
        "protocolVersion": "2025-11-25", "capabilities": { "tools": {} },
        "serverInfo": { "name": "upstream", "version": "1" } } })
}

/// What a well-behaved server with sessions answers.
pub(crate) fn mcp(name: &str, request: &Request) -> Vec<Step> {
    let message = request.json();
    let id = &message["id"];
    match (request.verb.as_str(), request.method().as_str()) {
        ("POST", "initialize") => {
            json_answer(200, &format!("mcp-session-id: {name}-session\r\n"), &initialized(id))
        }
        ("POST", "tools/call") if message["params"]["name"] == "echo" => {
            json_answer(200, "", &result(id, name))
        }
        ("POST", "tools/call") => {
            let error = json!({ "code": -32602, "message": "unknown tool" });
            json_answer(200, "", &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
        }
        ("POST", _) if id.is_null() || message["method"].is_null() => vec![plain(202, "", b"")],
        ("POST", _) => json_answer(200, "", &json!({ "jsonrpc": "2.0", "id": id, "result": {} })),
        ("DELETE", _) => vec![plain(204, "", b"")],
        _ => vec![events_head(""), event("{}"), Step::Wait(Arc::new(Semaphore::new(0)))],
    }
}
