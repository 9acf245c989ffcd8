//! Long streams leave Pingora's request behind: while one idles, nothing should be held for it but
//! its two connections and a few small buffers.
//!
//! The future of a request in Pingora's proxy has room for its whole pipeline, 14 KiB that a stream
//! would hold for hours. So a stream over HTTP/1 is taken out of it, with everything that belongs to
//! it, and driven by the loop of its connection (`edge.rs`) in a future of 2 KiB.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_proxy::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::context::Context;
use super::plan::Forward;
use super::proxy_upstream_filter::StreamPermit;

tokio::task_local! {
    /// Where the request of this connection may leave itself.
    static PLACE: RefCell<Option<Box<Parked>>>;
}

/// A planned stream on its way from Pingora's request to its connection's loop.
pub(super) struct Parked {
    pub(super) downstream: Box<ServerSession>,
    pub(super) ctx: Context,
    pub(super) forward: Forward,
    pub(super) permit: Option<StreamPermit>,
}

/// Runs a request, and returns what it left behind.
pub(super) async fn with_place<T>(request: impl Future<Output = T>) -> (T, Option<Box<Parked>>) {
    let request = async {
        let done = request.await;
        (done, PLACE.with(|place| place.borrow_mut().take()))
    };
    PLACE.scope(RefCell::new(None), request).await
}

/// Whether a request can leave: over HTTP/2 many share a connection, and none can.
pub(super) fn is_possible() -> bool {
    PLACE.try_with(|_| ()).is_ok()
}

/// Takes a stream out of Pingora's request, which keeps a connection to nowhere and must end.
pub(super) fn park(
    session: &mut Session,
    ctx: &mut Context,
    forward: Forward,
    permit: Option<StreamPermit>,
) {
    let nowhere = L4Stream::from(VirtualSocketStream::new(Box::new(Nowhere)));
    let nowhere = Box::new(ServerSession::new_http1(Box::new(nowhere)));
    let downstream = std::mem::replace(&mut session.downstream_session, nowhere);
    let ctx = ctx.hand_over();
    let parked = Box::new(Parked { downstream, ctx, forward, permit });
    PLACE.with(|place| *place.borrow_mut() = Some(parked));
}

/// The connection of a request that has left.
#[derive(Debug)]
struct Nowhere;

impl VirtualSocket for Nowhere {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Nowhere {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut TaskContext<'_>,
        _buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Nowhere {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
