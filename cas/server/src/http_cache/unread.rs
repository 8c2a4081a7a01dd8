//! What is left of the body of a request when its answer is there.
//!
//! In HTTP/1.1 an answer may come before the end of the request, as when a blob is there already or the caller may not
//! write it. But a connection that is then closed makes the kernel of this machine send a reset for the bytes that still
//! come, and the client may lose the answer over it. So they are read, as far as that is worth it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;

/// What is read after a refusal, at most, in bytes: more is not sent only to hear that it was in vain.
const AFTER_REFUSAL: u64 = 4 << 20;
/// How long the client may send nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body of which the [`Rest`] can be read after its reader has gone.
pub(super) struct SharedBody<B>(Arc<Mutex<Shared<B>>>);

struct Shared<B> {
    body: B,
    was_polled: bool,
    ended: bool,
}

/// What nobody has read of a body.
pub(super) struct Rest<B> {
    shared: Arc<Mutex<Shared<B>>>,
    /// The client sends the body only when it is asked to, which reading it does.
    is_held_back: bool,
}

/// A request whose body can be read on later.
pub(super) fn shared<B>(request: Request<B>) -> (Request<SharedBody<B>>, Rest<B>) {
    let is_held_back = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let shared = Arc::new(Mutex::new(Shared {
        body,
        was_polled: false,
        ended: false,
    }));
    let rest = Rest {
        shared: Arc::clone(&shared),
        is_held_back,
    };
    (Request::from_parts(parts, SharedBody(shared)), rest)
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for SharedBody<B> {
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

impl<B: HttpBody<Data = Bytes> + Unpin> Shared<B> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.was_polled = true;
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.ended |= matches!(frame, Poll::Ready(None | Some(Err(_))));
        frame
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> Rest<B> {
    /// Reads what is left to no end: all of it after success, not too much of it after a refusal.
    pub(super) async fn drain(self, success: bool) {
        let is_waiting = {
            let shared = self.shared.lock();
            shared.ended || shared.body.is_end_stream() || self.is_held_back && !shared.was_polled
        };
        if is_waiting {
            return;
        }
        let mut left = if success { u64::MAX } else { AFTER_REFUSAL };
        while left > 0 {
            let frame = std::future::poll_fn(|context| self.shared.lock().poll(context));
            let Ok(Some(Ok(frame))) = tokio::time::timeout(PATIENCE, frame).await else {
                return;
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            left = left.saturating_sub(bytes as u64);
        }
    }
}
