//! Sources of the Actions that a worker executes.

use async_trait::async_trait;
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::worker::{SchedulerMessage, WorkerMessage};
use bitzel_rpc::endpoint::{self, ClientCredentials};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Limit of a message to the scheduler. Results with many outputs may be larger than tonic's default of 4 MiB. The
/// messages of the scheduler are small.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Messages of the scheduler. When the stream ends or fails, leases and results on it are void.
pub type SchedulerMessages = BoxStream<'static, Result<SchedulerMessage, Status>>;

/// Access of a worker to the scheduler's `WorkerQueue` service.
#[async_trait]
pub trait ActionSource: Send + Sync + 'static {
    /// Opens a stream to the scheduler and sends it `messages`. When the messages end, the worker has left.
    ///
    /// The error is text for a log: the worker tries again after every error.
    async fn connect(&self, messages: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String>;
}

/// Client of a scheduler on another machine or in another process.
#[derive(Debug, Clone)]
pub struct RemoteActionSource {
    endpoint: String,
    credentials: ClientCredentials,
}

impl RemoteActionSource {
    /// A client of the scheduler of the server at `endpoint`.
    pub fn new(endpoint: impl Into<String>, credentials: ClientCredentials) -> Self {
        Self {
            endpoint: endpoint.into(),
            credentials,
        }
    }
}

#[async_trait]
impl ActionSource for RemoteActionSource {
    async fn connect(&self, messages: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String> {
        let failed = |reason: String| format!("{}: {reason}", self.endpoint);
        let channel = endpoint::connect_with(&self.endpoint, &self.credentials)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut client = WorkerQueueClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
        let response = client
            .work(ReceiverStream::new(messages))
            .await
            .map_err(|status| failed(status.message().to_owned()))?;
        Ok(response.into_inner().boxed())
    }
}
