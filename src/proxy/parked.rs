//! Long streams leave Pingora's request behind: while one idles, nothing should be held for it but
//! its two connections and a few small buffers.
//!
//! The future of a request in Pingora's proxy has room for its whole pipeline, 14 KiB that a stream
//! would hold for hours. So a stream is taken out of it, with everything that belongs to it, and driven
//! by what asked Pingora to serve it (`edge.rs`): the loop of its connection, or over HTTP/2 its task.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType};
use pingora_proxy::Session;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::context::Context;
use super::plan::{Errand, Forward};
use super::proxy_upstream_filter::StreamPermit;

tokio::task_local! {
    /// Where this request may leave itself.
    static PLACE: RefCell<Option<Box<Parked>>>;
}

/// A planned stream on its way out of Pingora's request.
pub(super) struct Parked {
    pub(super) downstream: Box<ServerSession>,
    pub(super) ctx: Context,
    pub(super) source: Source,
    _permit: Option<StreamPermit>,
}

/// Where the events of a stream come from.
pub(super) enum Source {
    /// A server.
    One(Forward),
    /// Several servers.
    Several(Box<Errand>),
}

/// Runs a request, and returns what it left behind.
pub(super) async fn with_place<T>(request: impl Future<Output = T>) -> (T, Option<Box<Parked>>) {
    let request = async {
        let done = request.await;
        (done, PLACE.with(|place| place.borrow_mut().take()))
    };
    PLACE.scope(RefCell::new(None), request).await
}

/// Takes a stream out of Pingora's request, which keeps a connection to nowhere and must
/// end with this error.
pub(super) fn park(
    session: &mut Session,
    ctx: &mut Context,
    source: Source,
    permit: Option<StreamPermit>,
) -> pingora::Result<()> {
    let nowhere = L4Stream::from(VirtualSocketStream::new(Box::new(Nowhere)));
    let nowhere = Box::new(ServerSession::new_http1(Box::new(nowhere)));
    let downstream = std::mem::replace(&mut session.downstream_session, nowhere);
    let ctx = ctx.hand_over();
    let parked = Box::new(Parked { downstream, ctx, source, _permit: permit });
    PLACE.with(|place| *place.borrow_mut() = Some(parked));
    Error::e_explain(ErrorType::ConnectionClosed, "goes on elsewhere")
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
