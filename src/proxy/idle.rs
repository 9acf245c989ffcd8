//! Idle connections to servers, each ready for the next request.
//!
//! Pingora's pool starts a task for every connection it is given back and asks the kernel who the
//! peer is when it hands one out. Here a connection is pushed on a stack and popped from it. What the server closed meanwhile is seen when it is popped.

use std::cell::Cell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};

/// How long an unused connection is kept. Node and uvicorn close theirs after five seconds; a call
/// must not meet a connection that the server is just closing.
const IDLE_MAX: Duration = Duration::from_secs(4);

thread_local! {
    /// The shard of this thread: workers push and pop their own, and so do not wait for each other.
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The idle connections of the process.
pub(super) struct Idle {
    shards: Box<[Mutex<Shard>]>,
    next_shard: AtomicUsize,
    kept: AtomicUsize,
    kept_max: usize,
}

/// Connections by endpoint, the last used on top.
type Shard = HashMap<u64, Vec<Kept>>;

struct Kept {
    stream: Stream,
    since: Instant,
}

impl Idle {
    /// Keeps at most `kept_max` connections, in as many stacks as there are workers.
    pub(super) fn new(kept_max: usize, workers: usize) -> Self {
        let shards = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Self { shards, next_shard: AtomicUsize::new(0), kept: AtomicUsize::new(0), kept_max }
    }

    /// A connection to this endpoint that is still open.
    pub(super) fn take(&self, endpoint: u64) -> Option<Stream> {
        let own = self.own_shard();
        let shards = self.shards.len();
        // A task may wake on another worker than it slept on; what its connection's stack lacks,
        // another's may have.
        (0..shards).find_map(|distance| {
            let mut shard = match distance {
                0 => self.shards[own].lock(),
                _ => self.shards[(own + distance) % shards].try_lock()?,
            };
            let stack = shard.get_mut(&endpoint)?;
            while let Some(mut kept) = stack.pop() {
                self.kept.fetch_sub(1, Ordering::Relaxed);
                if kept.since.elapsed() < IDLE_MAX && is_quiet(&mut kept.stream) {
                    return Some(kept.stream);
                }
            }
            None
        })
    }

    /// Keeps a connection for the next request, if there is room.
    pub(super) fn keep(&self, endpoint: u64, stream: Stream) {
        if self.kept.fetch_add(1, Ordering::Relaxed) >= self.kept_max {
            self.kept.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let kept = Kept { stream, since: Instant::now() };
        self.shards[self.own_shard()].lock().entry(endpoint).or_default().push(kept);
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self) {
        for shard in &self.shards {
            let mut expired = Vec::new();
            shard.lock().retain(|_, stack| {
                // The bottom of a stack is its oldest end.
                let fresh = stack.partition_point(|kept| kept.since.elapsed() >= IDLE_MAX);
                expired.extend(stack.drain(..fresh));
                !stack.is_empty()
            });
            self.kept.fetch_sub(expired.len(), Ordering::Relaxed);
            // Closing happens here, after the lock is gone.
            drop(expired);
        }
    }

    fn own_shard(&self) -> usize {
        let shard = SHARD.get().unwrap_or_else(|| {
            let shard = self.next_shard.fetch_add(1, Ordering::Relaxed);
            SHARD.set(Some(shard));
            shard
        });
        shard % self.shards.len()
    }
}

/// Whether nothing has come from the server since its last answer: neither its end nor a byte that
/// belongs to no request.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut context, &mut buffer).is_pending()
}

#[cfg(test)]
mod tests {
    use super::Idle;
    use pingora::protocols::Stream;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let near = pingora::protocols::l4::stream::Stream::from(near.expect("connected"));
        (Box::new(near), far.expect("accepted").0)
    }

    #[tokio::test]
    async fn the_last_kept_comes_first_and_only_while_it_is_quiet() {
        let idle = Idle::new(3, 2);
        let (first, _first) = pair().await;
        let (closed, far_closed) = pair().await;
        let (noisy, mut far_noisy) = pair().await;
        let first_id = first.id();
        for stream in [first, closed, noisy] {
            idle.keep(7, stream);
        }
        drop(far_closed);
        far_noisy.write_all(b"HTTP/1.1 408\r\n\r\n").await.expect("written");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(idle.take(8).is_none(), "another endpoint's connections are not for this one");
        let taken = idle.take(7).expect("the quiet one");
        assert_eq!(taken.id(), first_id);
        assert!(idle.take(7).is_none());
    }

    #[tokio::test]
    async fn no_more_are_kept_than_allowed() {
        let idle = Idle::new(1, 1);
        let (first, _first) = pair().await;
        let (second, _second) = pair().await;
        let first_id = first.id();
        idle.keep(7, first);
        idle.keep(7, second);
        assert_eq!(idle.take(7).expect("the first").id(), first_id);
        assert!(idle.take(7).is_none());
        let (third, _third) = pair().await;
        idle.keep(7, third);
        assert!(idle.take(7).is_some(), "room is given back");
    }
}
