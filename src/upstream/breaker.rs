//! The circuit breaker of an endpoint: how many calls it carries at once, and how many may wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pingora::time::timeout;

use super::Endpoint;
use super::standing::Standing;
use crate::config::Breaker;

/// Counts one request at an endpoint until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct InFlight {
    standing: Arc<Standing>,
    counted: Counted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    AsCall,
    AsStream,
}

/// The endpoint carries all it may, and no more may wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl Endpoint {
    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.standing().in_flight.load(Ordering::Relaxed)
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.standing().streams.load(Ordering::Relaxed)
    }

    /// Calls that wait for one of those under way to end.
    pub fn pending(&self) -> usize {
        self.standing().pending.load(Ordering::Relaxed)
    }

    /// Counts one more stream. The breaker has no say in that: a stream idles.
    pub fn enter_stream(&self) -> InFlight {
        self.standing().streams.fetch_add(1, Ordering::Relaxed);
        InFlight { standing: Arc::clone(self.standing()), counted: Counted::AsStream }
    }

    /// Counts one more call, if the breaker lets it in at once.
    pub fn try_enter(&self, breaker: &Breaker) -> Option<InFlight> {
        let room = |in_flight| (in_flight < breaker.in_flight_max as usize).then(|| in_flight + 1);
        let in_flight = &self.standing().in_flight;
        // Sequentially consistent, as are the counts below: who waits says so before it looks, and who
        // ends looks after it has made room, so that one of both sees the other.
        in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).ok()?;
        Some(InFlight { standing: Arc::clone(self.standing()), counted: Counted::AsCall })
    }

    /// Counts one more call, after waiting for its turn if need be.
    ///
    /// # Errors
    /// When too many wait already, or its turn did not come within `wait_max`.
    pub async fn enter_in_turn(
        &self,
        breaker: &Breaker,
        wait_max: Duration,
    ) -> Result<InFlight, Busy> {
        let standing = self.standing();
        let waiting = standing.pending.fetch_add(1, Ordering::SeqCst);
        let _pending = Pending(standing);
        if waiting >= breaker.pending_max as usize {
            return Err(Busy);
        }
        let turn = async {
            loop {
                let freed = standing.freed.notified();
                tokio::pin!(freed);
                // Registered before the look, or an end between the two would be missed.
                freed.as_mut().enable();
                match self.try_enter(breaker) {
                    Some(entered) => return entered,
                    None => freed.await,
                }
            }
        };
        timeout(wait_max, turn).await.map_err(|_| Busy)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        match self.counted {
            Counted::AsStream => {
                self.standing.streams.fetch_sub(1, Ordering::Relaxed);
            }
            Counted::AsCall => {
                self.standing.in_flight.fetch_sub(1, Ordering::SeqCst);
                if self.standing.pending.load(Ordering::SeqCst) > 0 {
                    self.standing.freed.notify_one();
                }
            }
        }
    }
}

struct Pending<'s>(&'s Standing);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}
