//! Draining of a request's body after its answer is ready.
//!
//! In HTTP/1.1 an answer may come before the end of the request, as when a blob exists already or the caller may not
//! write it. If the connection is then closed, the kernel of this machine answers the bytes that still arrive with a
//! reset, over which the client may lose the answer. So the rest is read, up to a limit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

/// Bytes that are read after a refusal. A client that sends more loses the answer: reading on would cost more.
const MAX_BYTES_AFTER_REFUSAL: u64 = 4 << 20;
/// Time that the client may send nothing before the rest is given up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Body whose [`RequestDrain`] can read the rest after its reader is dropped.
pub(super) struct DrainableBody<B>(Arc<Mutex<State<B>>>);

struct State<B> {
    body: B,
    was_polled: bool,
    ended: bool,
}

/// Unread rest of a request's body.
pub(super) struct RequestDrain<B> {
    state: Arc<Mutex<State<B>>>,
    /// True if the client sends the body only on request (`Expect: 100-continue`). Reading it is the request.
    expects_continue: bool,
}

/// Makes the body of a request drainable.
pub(super) fn drainable<B>(request: Request<B>) -> (Request<DrainableBody<B>>, RequestDrain<B>) {
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let state = Arc::new(Mutex::new(State {
        body,
        was_polled: false,
        ended: false,
    }));
    let drain = RequestDrain {
        state: Arc::clone(&state),
        expects_continue,
    };
    (Request::from_parts(parts, DrainableBody(state)), drain)
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for DrainableBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.0.lock().poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().body.size_hint()
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> State<B> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.was_polled = true;
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= matches!(frame, Poll::Ready(None | Some(Err(_))));
        frame
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> RequestDrain<B> {
    /// Reads and drops the rest: all of it after success, up to a limit after a refusal.
    pub(super) async fn run(self, success: bool) {
        let nothing_follows = {
            let state = self.state.lock();
            state.ended || state.body.is_end_stream() || self.expects_continue && !state.was_polled
        };
        if nothing_follows {
            return;
        }
        let mut left = if success {
            u64::MAX
        } else {
            MAX_BYTES_AFTER_REFUSAL
        };
        while left > 0 {
            let frame = std::future::poll_fn(|context| self.state.lock().poll(context));
            let Ok(Some(Ok(frame))) = tokio::time::timeout(IDLE_TIMEOUT, frame).await else {
                return;
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(bytes as u64);
        }
    }
}
