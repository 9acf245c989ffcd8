//! A plain TCP balancer: each new connection goes to the next gateway that says it is ready, and is then left alone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::peer;

const POLL_EVERY: Duration = Duration::from_millis(200);

/// One gateway as the balancer knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) listen: SocketAddr,
    pub(crate) health: SocketAddr,
}

/// It works as long as this value lives.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    backends: Arc<Mutex<Backends>>,
    /// Dropped with the balancer, which ends the work.
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Backends {
    all: Vec<Backend>,
    ready: Vec<SocketAddr>,
    turn: usize,
}

impl Balancer {
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let backends = Arc::new(Mutex::new(Backends::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(poll(Arc::clone(&backends)));
        tasks.spawn(accept(listener, Arc::clone(&backends)));
        Ok(Self { address, backends, _tasks: tasks })
    }

    /// Tells it of the gateways there are; whether they are ready it finds out.
    pub(crate) fn set(&self, all: Vec<Backend>) {
        let mut backends = self.backends.lock();
        // New ones begin unready, and ones that are no longer there get nothing more.
        backends.ready.retain(|ready| all.iter().any(|backend| backend.listen == *ready));
        backends.all = all;
    }

    pub(crate) fn ready(&self) -> usize {
        self.backends.lock().ready.len()
    }
}

async fn poll(backends: Arc<Mutex<Backends>>) {
    loop {
        let all = backends.lock().all.clone();
        let mut ready = Vec::new();
        for backend in all {
            let answer = peer::fetch(backend.health, "/ready").await;
            if answer.is_ok_and(|answer| answer.head.status == 200) {
                ready.push(backend.listen);
            }
        }
        {
            let mut backends = backends.lock();
            let listed = |listen: &SocketAddr| backends.all.iter().any(|it| it.listen == *listen);
            ready.retain(listed);
            backends.ready = ready;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

async fn accept(listener: TcpListener, backends: Arc<Mutex<Backends>>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let backends = Arc::clone(&backends);
        connections.spawn(async move {
            if let Some(gateway) = connect(&backends).await {
                carry(client, gateway).await;
            }
        });
    }
}

/// Connects to the next ready gateway, or to the one after it if that fails.
async fn connect(backends: &Mutex<Backends>) -> Option<TcpStream> {
    let attempts = backends.lock().ready.len();
    for _ in 0..attempts {
        let address = {
            let mut backends = backends.lock();
            backends.turn = backends.turn.wrapping_add(1);
            let turn = backends.turn.checked_rem(backends.ready.len())?;
            backends.ready[turn]
        };
        if let Ok(gateway) = TcpStream::connect(address).await {
            return Some(gateway);
        }
    }
    None
}

async fn carry(mut client: TcpStream, mut gateway: TcpStream) {
    // Delays of small writes are no subject of this drill; where the option fails they are only slow.
    drop(client.set_nodelay(true));
    drop(gateway.set_nodelay(true));
    // How it ends shows at both ends.
    drop(tokio::io::copy_bidirectional(&mut client, &mut gateway).await);
}
