//! One replica of an MCP server of both eras, small and honest: what it holds is in memory, and what it ran stands in a ledger.
//!
//! The drills start several, kill them, stop them and start them again. `GET /stats` tells what it holds.

mod answers;
mod connection;
mod sessions;
#[path = "../wire.rs"]
#[expect(
    dead_code,
    reason = "the framing is shared with the load generator, which needs more of it"
)]
mod wire;

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use answers::Replica;
use connection::Connection;

#[derive(Parser)]
#[command(about = "One replica of a small MCP server, for the drills.")]
struct Flags {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// What it calls itself in answers and in the ledger.
    #[arg(long)]
    name: String,
    /// The file that every executed call is appended to; replicas may share one.
    #[arg(long)]
    ledger: PathBuf,
    /// Milliseconds between the events of a GET stream.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    event_every_ms: u64,
    /// End when standard input closes, so that no replica outlives the drill that started it.
    #[arg(long)]
    while_stdin_is_open: bool,
}

/// Connections that the system accepts for a replica that is stopped where it stands; the usual 128 are soon full, and then it would look unreachable.
const BACKLOG: u32 = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let flags = Flags::parse();
    if flags.while_stdin_is_open {
        std::thread::spawn(|| {
            // Whatever ends the reading, nobody is there any more.
            drop(io::stdin().read_to_end(&mut Vec::new()));
            std::process::exit(0);
        });
    }
    let ledger = OpenOptions::new().append(true).create(true).open(&flags.ledger)?;
    let event_every = Duration::from_millis(flags.event_every_ms);
    let replica = Arc::new(Replica::new(flags.name, ledger, event_every));
    let listener = listen(flags.listen)?;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Out of file descriptors is the usual failure; the connections that exist must go on.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        stream.set_nodelay(true)?;
        // A connection that fails is its peer's to notice.
        let connection = Connection::new(stream, Arc::clone(&replica));
        connections.spawn(async move { drop(connection.serve().await) });
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // One that was killed a moment ago has left connections behind on this address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
