//! TCP stream that ends when its connection is to be closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use metrics::counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::connection_state::{CloseReason, ConnectionState, Review};

/// TCP stream below TLS, whose reads fail when its [`ConnectionState`] says that the connection is to be closed. The
/// looks at the state happen where the connection waits, so busy connections pay nothing for them.
#[derive(Debug)]
pub(super) struct GuardedStream {
    stream: TcpStream,
    state: Arc<ConnectionState>,
    /// Time of the next look.
    review: Pin<Box<Sleep>>,
}

impl GuardedStream {
    pub(super) fn new(stream: TcpStream, state: Arc<ConnectionState>) -> Self {
        // The first poll looks, and sets the time of the next look.
        let review = Box::pin(tokio::time::sleep_until(Instant::now()));
        Self {
            stream,
            state,
            review,
        }
    }

    /// Error of a connection that waits for its client and is to be closed.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(reason) = self.state.poll_closing(context) {
            return Poll::Ready(closed(reason));
        }
        while self.review.as_mut().poll(context).is_ready() {
            match self.state.review() {
                Review::Close(reason) => return Poll::Ready(closed(reason)),
                Review::NextAt(next) => self.review.as_mut().reset(next),
            }
        }
        Poll::Pending
    }

    fn or_closed<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Pending => self.poll_closed(context).map(Err),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

fn closed(reason: CloseReason) -> io::Error {
    counter!("bitzel_connections_closed_total", "reason" => reason.label()).increment(1);
    tracing::info!(%reason, "a connection was closed");
    io::Error::new(io::ErrorKind::TimedOut, reason)
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.or_closed(read, context)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, data);
        this.or_closed(written, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.or_closed(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
