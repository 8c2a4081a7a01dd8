//! The scheduler for a worker in the same process.

use bitzel_proto::worker::WorkerMessage;
use bitzel_scheduler::WorkerQueueService;
use bitzel_worker::{ActionSource, SchedulerMessages};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A scheduler in this process: its messages are handed over as they are.
pub(crate) struct LocalActionSource(pub(crate) WorkerQueueService);

#[tonic::async_trait]
impl ActionSource for LocalActionSource {
    async fn connect(&self, messages: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String> {
        Ok(self.0.connect(ReceiverStream::new(messages).map(Ok)).boxed())
    }
}
