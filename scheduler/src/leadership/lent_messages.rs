//! Messages of a worker on their way to a leader that may not be there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bitzel_proto::worker::WorkerMessage;
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tonic::Streaming;

/// Messages of a worker, lent to one call of the leader after the other until one of them takes the first message. So a
/// worker need not connect again only because the leader was gone before it got anything.
#[derive(Clone, Default)]
pub(super) struct LentMessages(Arc<Mutex<Lent>>);

#[derive(Default)]
struct Lent {
    messages: Option<Streaming<WorkerMessage>>,
    is_begun: bool,
}

impl LentMessages {
    pub(super) fn lend(&self, messages: Streaming<WorkerMessage>) {
        self.0.lock().messages = Some(messages);
    }

    /// True if no message was taken.
    pub(super) fn is_whole(&self) -> bool {
        !self.0.lock().is_begun
    }

    /// The messages, if none was taken.
    pub(super) fn take_back(&self) -> Option<Streaming<WorkerMessage>> {
        let mut lent = self.0.lock();
        if lent.is_begun { None } else { lent.messages.take() }
    }
}

impl Stream for LentMessages {
    type Item = WorkerMessage;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WorkerMessage>> {
        let mut lent = self.0.lock();
        let Some(messages) = &mut lent.messages else {
            return Poll::Ready(None);
        };
        match messages.poll_next_unpin(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(message) => {
                lent.is_begun = true;
                // A message that cannot be read ends the stream to the leader, as it does without forwarding.
                Poll::Ready(message.and_then(Result::ok))
            }
        }
    }
}
