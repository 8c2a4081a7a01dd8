//! Decorator of an action source that publishes the state of its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bitzel_proto::worker::{SchedulerMessage, WorkerMessage};
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::action_source::{ActionSource, SchedulerMessages};

/// Publishes true while a stream to the scheduler is open, and false before the first one and between two of them.
///
/// A worker has one stream at a time, so one value is enough.
pub struct ObservedActionSource {
    inner: Arc<dyn ActionSource>,
    connected: watch::Sender<bool>,
}

impl ObservedActionSource {
    /// Publishes the state of connections of `inner` to `connected`.
    pub fn new(inner: Arc<dyn ActionSource>, connected: watch::Sender<bool>) -> Self {
        Self { inner, connected }
    }
}

#[async_trait]
impl ActionSource for ObservedActionSource {
    async fn connect(&self, messages: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String> {
        let inner = self.inner.connect(messages).await?;
        self.connected.send_replace(true);
        let connected = self.connected.clone();
        Ok(ObservedMessages { inner, connected }.boxed())
    }
}

/// Messages of an open stream. Publishes the end of the connection when it is dropped.
struct ObservedMessages {
    inner: SchedulerMessages,
    connected: watch::Sender<bool>,
}

impl Stream for ObservedMessages {
    type Item = Result<SchedulerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(context)
    }
}

impl Drop for ObservedMessages {
    fn drop(&mut self) {
        self.connected.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    struct Source(Result<(), String>);

    #[async_trait]
    impl ActionSource for Source {
        async fn connect(&self, _: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String> {
            self.0.clone().map(|()| stream::pending().boxed())
        }
    }

    fn messages() -> mpsc::Receiver<WorkerMessage> {
        mpsc::channel(1).1
    }

    #[tokio::test]
    async fn is_connected_as_long_as_the_stream_lives() {
        let (sender, connected) = watch::channel(false);
        let source = ObservedActionSource::new(Arc::new(Source(Ok(()))), sender);
        let stream = source.connect(messages()).await.expect("it connects");
        assert!(*connected.borrow());
        drop(stream);
        assert!(!*connected.borrow());
    }

    #[tokio::test]
    async fn is_not_connected_after_a_refusal() {
        let (sender, connected) = watch::channel(false);
        let source = ObservedActionSource::new(Arc::new(Source(Err("refused".into()))), sender);
        assert!(source.connect(messages()).await.is_err());
        assert!(!*connected.borrow());
    }
}
