//! A great many sessions, each opened and left without DELETE: the gateway's memory has a cap, and the replicas are rid of them in time.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::fleet::Fleet;
use crate::messages::{self, SessionState};
use crate::peer::{Fault, Peer};
use crate::tally::{Asked, Tally};
use crate::verdict::Findings;

/// The cap that `conf/full.yaml` states: entries, and bytes of each.
const TABLE_MAX: u64 = 1 << 20;
const ENTRY_BYTES_MAX: u64 = 128;
const CONNECTIONS: usize = 64;
/// Sessions that are opened before memory is measured, so that connections and buffers are no part of the growth.
const WARM_UP: u64 = 2000;
/// The least that a gateway opens in a second; slower, and the first sessions are idle before the last are open.
const OPENED_PER_SECOND_MIN: u64 = 2500;
const ENDED_PER_SECOND_MIN: u64 = 1000;
const IDLE_SECONDS_MIN: u64 = 20;

/// How long sessions may be idle, so that all of them are in the table at once.
pub(crate) fn idle(sessions: u64) -> Duration {
    Duration::from_secs(IDLE_SECONDS_MIN.max(sessions / OPENED_PER_SECOND_MIN))
}

pub(crate) async fn run(
    fleet: &mut Fleet,
    sessions: u64,
    findings: &mut Findings,
) -> io::Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    open(fleet, WARM_UP, &tally).await;
    let before = memory(fleet)?;
    let began = Instant::now();
    let opening = open(fleet, sessions, &tally);
    let mut peak = before.clone();
    tokio::pin!(opening);
    loop {
        tokio::select! {
            () = &mut opening => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => sample(fleet, &mut peak)?,
        }
    }
    sample(fleet, &mut peak)?;
    let took = began.elapsed();
    let held = fleet.stats("sessions").await;
    findings.said.push(format!(
        "{sessions} sessions opened in {:.0} s; then the replicas held {held}",
        took.as_secs_f64()
    ));
    until_none(fleet, sessions, &mut peak, findings).await?;
    for (number, (before, peak)) in before.iter().zip(&peak).enumerate() {
        let growth = peak.saturating_sub(*before);
        let cap = TABLE_MAX * ENTRY_BYTES_MAX;
        let text = format!(
            "gateway-{number} grew by {:.1} MiB ({} bytes a session), the cap is {} MiB",
            growth as f64 / f64::from(1 << 20),
            growth / sessions.max(1),
            cap >> 20
        );
        let place = if growth > cap { &mut findings.missed } else { &mut findings.said };
        place.push(text);
    }
    // The clients hold their end of it.
    Ok(std::mem::take(&mut *tally.lock()))
}

/// Waits until the replicas hold no session any more, as long as ending all of them may take.
async fn until_none(
    fleet: &Fleet,
    sessions: u64,
    peak: &mut [u64],
    findings: &mut Findings,
) -> io::Result<()> {
    let began = Instant::now();
    let limit = idle(sessions) * 2 + Duration::from_secs(30 + sessions / ENDED_PER_SECOND_MIN);
    loop {
        let held = fleet.stats("sessions").await;
        sample(fleet, peak)?;
        if held == 0 {
            let after = began.elapsed().as_secs();
            let ended = fleet.stats("ended").await;
            findings.said.push(format!("none was left {after} s later; {ended} got a DELETE"));
            return Ok(());
        }
        if began.elapsed() > limit {
            let limit = limit.as_secs();
            findings
                .missed
                .push(format!("after {limit} s the replicas still held {held} sessions"));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn open(fleet: &Fleet, sessions: u64, tally: &Arc<Mutex<Tally>>) {
    let left = Arc::new(AtomicU64::new(sessions));
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let addresses = fleet.listening();
        clients.spawn(open_some(addresses, number, Arc::clone(&left), Arc::clone(tally)));
    }
    clients.join_all().await;
}

async fn open_some(
    addresses: Vec<SocketAddr>,
    number: usize,
    left: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
) {
    let mut peers: Vec<Peer> = addresses.into_iter().map(Peer::http1).collect();
    let mut turn = number;
    let one_less = |left: u64| left.checked_sub(1);
    while let Ok(id) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
        let sent = Instant::now();
        let gateway = turn % peers.len();
        let asked = Asked { what: "initialize", id, gateway, replica: None, sent };
        let opened = open_one(&mut peers, &mut turn, id).await;
        let mut tally = tally.lock();
        match opened {
            Ok(()) => tally.answered(asked, None, sent.elapsed(), SessionState::Whole),
            Err(fault) => tally.failed(asked, fault),
        }
    }
}

async fn open_one(peers: &mut [Peer], turn: &mut usize, id: u64) -> Result<(), Fault> {
    let count = peers.len();
    let answer = peers[*turn % count].ask(&messages::initialize(id)).await?;
    messages::result(&answer, id)?;
    let missing = || Fault::Wrong("initialize gave no session id".to_owned());
    let session = answer.head.session.ok_or_else(missing)?;
    *turn = turn.wrapping_add(1);
    let answer = peers[*turn % count].ask(&messages::initialized(&session)).await?;
    messages::accepted(&answer)
}

fn memory(fleet: &Fleet) -> io::Result<Vec<u64>> {
    fleet.gateways.iter().map(|gateway| gateway.process.memory_bytes("VmRSS")).collect()
}

fn sample(fleet: &Fleet, peak: &mut [u64]) -> io::Result<()> {
    for (peak, now) in peak.iter_mut().zip(memory(fleet)?) {
        *peak = now.max(*peak);
    }
    Ok(())
}
