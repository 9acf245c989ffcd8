//! Things that are opened and then left alone, so that what each of them costs in memory can be read off the process under test.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use h2::client::SendRequest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Client, refused};
use crate::request::{self, Era, Outgoing, Target};

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Idle {
    /// GET streams over HTTP/1.1, each on a connection and in a session of its own.
    Streams,
    /// The same over HTTP/2 by prior knowledge, a hundred on a connection.
    Http2Streams,
    /// Sessions without a connection.
    Sessions,
    /// Keep-alive connections over HTTP/1.1 that have made one call.
    Connections,
    /// Clients that ask for a long answer (`--answer 8m`) and stop to read when it begins.
    Stopped,
}

/// A stopped client takes no more than this from the wire.
const STOPPED_RECEIVE_BYTES: u32 = 4096;

const STREAMS_PER_CONNECTION: u32 = 100;

#[derive(Default)]
struct Held {
    clients: Vec<Client>,
    streams: Vec<h2::RecvStream>,
    /// The tasks that drive the connections of HTTP/2.
    drivers: JoinSet<()>,
    sessions: u32,
}

/// Opens them one after another, prints a line when all are there, holds them, and tells how many were lost.
#[expect(
    clippy::print_stdout,
    reason = "whoever measures memory must know when everything is there"
)]
pub(crate) async fn hold(target: &Target, idle: Idle, count: u32, seconds: f64) -> String {
    let mut held = Held::default();
    let mut id = request::ID_MIN;
    let mut fault = String::new();
    let opened = match open(target, idle, count, &mut held, &mut id).await {
        Ok(()) => count,
        Err(found) => {
            fault = found.to_string();
            held.count()
        }
    };
    println!(r#"{{"asked":{count},"opened":{opened},"first_fault":{fault:?}}}"#);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let lost = held.lost().await;
    format!(r#"{{"asked":{count},"held":{},"lost":{lost}}}"#, opened.saturating_sub(lost))
}

async fn open(
    target: &Target,
    idle: Idle,
    count: u32,
    held: &mut Held,
    id: &mut u64,
) -> io::Result<()> {
    let mut opener = Client::connect(target).await?;
    let mut sender = None;
    for number in 0..count {
        match idle {
            Idle::Streams => held.clients.push(open_stream(target, id).await?),
            Idle::Sessions => {
                if opener.initialize(target, id).await?.1.closes {
                    opener = Client::connect(target).await?;
                }
                held.sessions += 1;
            }
            Idle::Connections => held.clients.push(connection_after_a_call(target, id).await?),
            Idle::Stopped => held.clients.push(stopped_in_an_answer(target, id).await?),
            Idle::Http2Streams => {
                if number % STREAMS_PER_CONNECTION == 0 {
                    sender = Some(connect_http2(target, &mut held.drivers).await?);
                }
                let (session, head) = opener.initialize(target, id).await?;
                if head.closes {
                    opener = Client::connect(target).await?;
                }
                if let Some(sender) = &mut sender {
                    held.streams.push(open_http2_stream(target, sender, &session).await?);
                }
            }
        }
    }
    Ok(())
}

async fn open_stream(target: &Target, id: &mut u64) -> io::Result<Client> {
    let mut client = Client::connect(target).await?;
    let (session, _) = client.initialize(target, id).await?;
    client.stream.write_all(target.stream(&session).as_bytes()).await?;
    let head = client.answer_head().await?;
    if head.status != 200 {
        return Err(refused("GET", head.status));
    }
    client.shrink();
    Ok(client)
}

async fn connection_after_a_call(target: &Target, id: &mut u64) -> io::Result<Client> {
    let mut client = Client::connect(target).await?;
    ask(&mut client, target, id).await?;
    let head = client.answer().await?;
    match client.fault(&head, *id, target.expected) {
        None => {
            client.shrink();
            Ok(client)
        }
        Some(fault) => Err(io::Error::other(fault)),
    }
}

async fn stopped_in_an_answer(target: &Target, id: &mut u64) -> io::Result<Client> {
    let mut client = Client::connect_narrowly(target, STOPPED_RECEIVE_BYTES).await?;
    ask(&mut client, target, id).await?;
    let head = client.answer_head().await?;
    if head.status != 200 {
        return Err(refused("tools/call", head.status));
    }
    client.shrink();
    Ok(client)
}

/// Makes one call, and does not wait for its answer.
async fn ask(client: &mut Client, target: &Target, id: &mut u64) -> io::Result<()> {
    let session = match target.era {
        Era::Legacy => Some(client.initialize(target, id).await?.0),
        Era::Modern => None,
    };
    let tail = target.tail();
    let mut outgoing = Outgoing::new(target, session.as_deref(), &tail);
    *id += 1;
    outgoing.set_id(*id);
    outgoing.send(&mut client.stream, &tail).await
}

async fn connect_http2(
    target: &Target,
    drivers: &mut JoinSet<()>,
) -> io::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    // Its end shows at the streams on it.
    drivers.spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn open_http2_stream(
    target: &Target,
    sender: &mut SendRequest<Bytes>,
    session: &str,
) -> io::Result<h2::RecvStream> {
    let mut ready = sender.clone().ready().await.map_err(io::Error::other)?;
    let mut head = http::Request::get(format!("http://{}{}", target.authority, target.path));
    for line in target.stream_fields(session).lines() {
        if let Some((name, value)) = line.split_once(": ") {
            head = head.header(name, value);
        }
    }
    let head = head.body(()).map_err(io::Error::other)?;
    let (answer, _) = ready.send_request(head, true).map_err(io::Error::other)?;
    let (head, body) = answer.await.map_err(io::Error::other)?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(refused("GET", head.status.as_u16()));
    }
    Ok(body)
}

impl Held {
    fn count(&self) -> u32 {
        self.sessions + u32::try_from(self.clients.len() + self.streams.len()).unwrap_or(u32::MAX)
    }

    /// Those whose end has come meanwhile. A session has no end that could be seen without using it.
    async fn lost(&mut self) -> u32 {
        let mut lost = 0;
        for client in &mut self.clients {
            lost += u32::from(client.has_ended());
        }
        for stream in &mut self.streams {
            lost += u32::from(has_ended(stream).await);
        }
        lost
    }
}

/// Comments that keep a stream alive are read away.
async fn has_ended(stream: &mut h2::RecvStream) -> bool {
    loop {
        match tokio::time::timeout(Duration::from_millis(1), stream.data()).await {
            Err(_) => return false,
            Ok(Some(Ok(part))) => drop(stream.flow_control().release_capacity(part.len())),
            Ok(_) => return true,
        }
    }
}
