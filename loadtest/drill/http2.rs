//! The HTTP/2 side of clients: a few share one connection, by prior knowledge, and a new one is opened when the gateway says GOAWAY.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::peer::{Fault, Head, Request};

/// A request that the gateway has promised not to have seen is sent again, but not for ever.
const ATTEMPTS_MAX: u32 = 5;

pub(crate) struct Http2 {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    body: Option<RecvStream>,
}

#[derive(Default)]
struct Shared {
    sender: Option<SendRequest<Bytes>>,
    /// The tasks that drive the connections; those of older connections still serve what is under way there.
    drivers: JoinSet<()>,
}

/// Why one attempt has no answer.
enum Attempt {
    /// The gateway has not processed it and says so (RFC 9113 section 6.8 and 8.7).
    Unprocessed,
    Failed(Fault),
}

impl Http2 {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, shared: Arc::default(), body: None }
    }

    /// Another client on the same connection.
    pub(crate) fn beside(&self) -> Self {
        Self { address: self.address, shared: Arc::clone(&self.shared), body: None }
    }

    pub(crate) async fn head(&mut self, request: &Request) -> Result<Head, Fault> {
        for _ in 0..ATTEMPTS_MAX {
            let sender = self.sender().await?;
            match attempt(sender, self.address, request).await {
                Ok((head, body)) => {
                    self.body = Some(body);
                    return Ok(head);
                }
                Err(Attempt::Unprocessed) => {}
                Err(Attempt::Failed(fault)) => return Err(fault),
            }
        }
        Err(Fault::Unanswered(format!("refused unprocessed {ATTEMPTS_MAX} times")))
    }

    pub(crate) async fn part(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let Some(mut body) = self.body.take() else {
            return Ok(None);
        };
        let Some(part) = body.data().await else {
            return Ok(None);
        };
        let cut = |fault: h2::Error| Fault::Cut(fault.to_string());
        let part = part.map_err(cut)?;
        body.flow_control().release_capacity(part.len()).map_err(cut)?;
        self.body = Some(body);
        Ok(Some(part.to_vec()))
    }

    /// The shared connection, or a new one where the old one takes no more requests.
    async fn sender(&self) -> Result<SendRequest<Bytes>, Fault> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.sender.take()
            && let Ok(sender) = sender.ready().await
        {
            shared.sender = Some(sender.clone());
            return Ok(sender);
        }
        while shared.drivers.try_join_next().is_some() {}
        let unconnected = |fault: String| Fault::Unconnected(fault);
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|fault| unconnected(fault.to_string()))?;
        stream.set_nodelay(true).map_err(|fault| unconnected(fault.to_string()))?;
        let opened = h2::client::handshake(stream).await;
        let (sender, connection) = opened.map_err(|fault| unconnected(fault.to_string()))?;
        // Its end shows at the requests that are under way on it.
        shared.drivers.spawn(async move { drop(connection.await) });
        let sender = sender.ready().await.map_err(|fault| unconnected(fault.to_string()))?;
        shared.sender = Some(sender.clone());
        Ok(sender)
    }
}

async fn attempt(
    mut sender: SendRequest<Bytes>,
    address: SocketAddr,
    request: &Request,
) -> Result<(Head, RecvStream), Attempt> {
    let mut head = http::Request::builder()
        .method(request.verb)
        .uri(format!("http://{address}{}", request.path));
    for (name, value) in &request.fields {
        head = head.header(name.to_ascii_lowercase(), value);
    }
    let wrong = |fault: http::Error| Attempt::Failed(Fault::Unconnected(fault.to_string()));
    let head = head.body(()).map_err(wrong)?;
    let is_empty = request.body.is_empty();
    let (answer, mut body) = sender.send_request(head, is_empty).map_err(read_fault)?;
    if !is_empty {
        body.send_data(Bytes::from(request.body.clone()), true).map_err(read_fault)?;
    }
    let (head, body) = answer.await.map_err(read_fault)?.into_parts();
    let value = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let head = Head {
        status: head.status.as_u16(),
        session: value("mcp-session-id"),
        is_stream: value("content-type").is_some_and(|it| it.starts_with("text/event-stream")),
    };
    Ok((head, body))
}

fn read_fault(fault: h2::Error) -> Attempt {
    let refused = fault.is_reset() && fault.reason() == Some(h2::Reason::REFUSED_STREAM);
    let beyond_the_last =
        fault.is_go_away() && fault.is_remote() && fault.reason() == Some(h2::Reason::NO_ERROR);
    if refused || beyond_the_last {
        Attempt::Unprocessed
    } else {
        Attempt::Failed(Fault::Unanswered(fault.to_string()))
    }
}
