//! Where a worker takes Actions from.

use async_trait::async_trait;
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::worker::{SchedulerMessage, WorkerMessage};
use bitzel_rpc::endpoint::{self, ClientCredentials};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Results with many outputs may be larger than tonic's default of 4 MiB; Assign is small.
const MESSAGE_LIMIT: usize = 64 << 20;

/// What the scheduler says. When it ends, or fails, leases and results on it are void.
pub type SchedulerMessages = BoxStream<'static, Result<SchedulerMessage, Status>>;

/// The scheduler's `WorkerQueue` service, as its workers reach it.
#[async_trait]
pub trait ActionSource: Send + Sync + 'static {
    /// Opens a stream to the scheduler, on which `messages` go to it. Its end is that of the worker.
    ///
    /// The error is for people: the worker tries again, whatever it is.
    async fn connect(&self, messages: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String>;
}

/// The scheduler of a server.
#[derive(Debug, Clone)]
pub struct RemoteActionSource {
    endpoint: String,
    credentials: ClientCredentials,
}

impl RemoteActionSource {
    /// The scheduler of the server at `endpoint`.
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
        let mut client = WorkerQueueClient::new(channel).max_encoding_message_size(MESSAGE_LIMIT);
        let response = client
            .work(ReceiverStream::new(messages))
            .await
            .map_err(|status| failed(status.message().to_owned()))?;
        Ok(response.into_inner().boxed())
    }
}
