//! HTTP/2 on both sides of the gateway: a client, and a server that records.

use super::client::{Answer, DEADLINE};
use super::message::Message;
use super::upstream::{Request, bind};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request as Head, Response, StatusCode};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// One HTTP/2 connection to a gateway.
pub(crate) struct Http2 {
    requests: SendRequest<Bytes>,
    _connection: JoinSet<()>,
}

/// An answer that has begun; dropping it resets the stream.
pub(crate) struct Stream {
    pub(crate) head: Answer,
    body: RecvStream,
    _request: SendStream<Bytes>,
}

impl Http2 {
    /// Connects by prior knowledge.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        Self::over(stream).await
    }

    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let (requests, connection) = settings.handshake(stream).await.expect("HTTP/2");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // A connection that the gateway ends is an error to h2 and what some tests want.
            connection.await.ok();
        });
        Self { requests, _connection: tasks }
    }

    /// Whether the gateway takes another request on this connection.
    pub(crate) async fn is_open(&self) -> bool {
        self.requests.clone().ready().await.is_ok()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn begin(&mut self, message: &Message) -> Result<Stream, h2::Error> {
        let (answer, request) = self.send(message).await?;
        let answer = timeout(DEADLINE, answer).await.expect("a gateway that does not hang")?;
        let fields = answer.headers().iter().map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        let status = answer.status().as_u16();
        let head = Answer { status, fields: fields.collect(), body: Vec::new() };
        Ok(Stream { head, body: answer.into_body(), _request: request })
    }

    /// Sends a request and waits for its whole answer.
    pub(crate) async fn ask(&mut self, message: &Message) -> Result<Answer, h2::Error> {
        let mut stream = self.begin(message).await?;
        while let Some(part) = stream.part().await? {
            stream.head.body.extend_from_slice(&part);
        }
        Ok(stream.head)
    }

    async fn send(
        &mut self,
        message: &Message,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let host = message.fields.iter().find(|(name, _)| name == "host");
        let authority = host.map_or("localhost", |(_, host)| host);
        let mut head = Head::builder()
            .method(message.verb)
            .uri(format!("http://{authority}{}", message.path))
            .version(http::Version::HTTP_2);
        for (name, value) in message.fields.iter().filter(|(name, _)| name != "host") {
            head = head.header(name.to_ascii_lowercase(), value);
        }
        let head = head.body(()).expect("a head");
        let mut requests = self.requests.clone().ready().await?;
        let is_empty = message.body.is_empty();
        let (answer, mut stream) = requests.send_request(head, is_empty)?;
        if !is_empty {
            send_all(&mut stream, Bytes::from(message.body.clone())).await;
        }
        Ok((answer, stream))
    }
}

impl Stream {
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let part = timeout(DEADLINE, self.body.data()).await.expect("a stream that does not hang");
        let Some(part) = part.transpose()? else { return Ok(None) };
        self.body.flow_control().release_capacity(part.len())?;
        Ok(Some(part))
    }
}

/// Sends a body within the window; a peer that refuses it early is no failure.
async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Ok(Some(Ok(room))) = timeout(DEADLINE, poll_fn(|cx| stream.poll_capacity(cx))).await
        else {
            return;
        };
        let part = body.split_to(room.min(body.len()));
        if stream.send_data(part, body.is_empty()).is_err() {
            return;
        }
    }
}

/// A server of HTTP/2 without TLS.
pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    resets: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

/// What the server does for a request.
pub(crate) enum Reaction {
    Answer {
        status: u16,
        fields: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// A head, one event, and then nothing until the gateway leaves.
    Stall,
    /// Resets the stream without a word.
    Reset,
}

impl Http2Upstream {
    pub(crate) async fn start(script: fn(&Request) -> Reaction) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// The same at an address that was chosen before.
    pub(crate) async fn start_at(address: SocketAddr, script: fn(&Request) -> Reaction) -> Self {
        let listener = bind(address).await;
        let address = listener.local_addr().expect("an address");
        let (requests, resets) = (Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        let (seen, gone) = (Arc::clone(&requests), Arc::clone(&resets));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, script, Arc::clone(&seen), Arc::clone(&gone)));
            }
        });
        Self { address, requests, resets, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock())
    }

    /// Waits until the gateway has reset `count` streams.
    pub(crate) async fn left(&self, count: usize) -> bool {
        let poll = async {
            while *self.resets.lock() < count {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, poll).await.is_ok()
    }
}

async fn serve(
    stream: TcpStream,
    script: fn(&Request) -> Reaction,
    seen: Arc<Mutex<Vec<Request>>>,
    gone: Arc<Mutex<usize>>,
) {
    let mut settings = h2::server::Builder::new();
    settings.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let Ok(mut connection) = settings.handshake::<_, Bytes>(stream).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(answer(request, respond, script, Arc::clone(&seen), Arc::clone(&gone)));
    }
}

async fn answer(
    request: Head<RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: fn(&Request) -> Reaction,
    seen: Arc<Mutex<Vec<Request>>>,
    gone: Arc<Mutex<usize>>,
) {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(Ok(part)) = incoming.data().await {
        incoming.flow_control().release_capacity(part.len()).expect("capacity");
        body.extend_from_slice(&part);
    }
    let mut fields: HashMap<String, String> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    fields.insert(
        ":authority".to_owned(),
        head.uri.authority().map_or("", |a| a.as_str()).to_owned(),
    );
    let (verb, path) = (head.method.to_string(), head.uri.path().to_owned());
    let request = Request { verb, path, fields, body, place: (0, 0) };
    let reaction = script(&request);
    seen.lock().push(request);
    match reaction {
        Reaction::Answer { status, fields, body } => {
            let mut head =
                Response::builder().status(StatusCode::from_u16(status).expect("a status"));
            for (name, value) in fields {
                head = head.header(name, value);
            }
            let head = head.body(()).expect("a head");
            if let Ok(mut stream) = respond.send_response(head, body.is_empty()) {
                send_all(&mut stream, Bytes::from(body)).await;
            }
        }
        Reaction::Stall => {
            let head = Response::builder().header("content-type", "text/event-stream").body(());
            let stream = respond.send_response(head.expect("a head"), false);
            let mut stream = stream.expect("a stream");
            stream.send_data(Bytes::from_static(b"data: {}\n\n"), false).expect("sent");
            if poll_fn(|cx| stream.poll_reset(cx)).await.is_ok() {
                *gone.lock() += 1;
            }
        }
        Reaction::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
    }
}
