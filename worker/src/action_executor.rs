//! The trait of everything that executes Actions.

use async_trait::async_trait;
use bitzel_proto::google::protobuf::Timestamp;
use bitzel_proto::reapi::{ExecuteResponse, execution_stage};
use bitzel_proto::{Digest, InstanceName};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

/// An Action to execute.
#[derive(Debug, Clone)]
pub struct ActionRequest {
    /// Instance whose store holds the blobs of the Action and receives those of its result.
    pub instance: InstanceName,
    /// Digest of the Action message.
    pub action: Digest,
    /// Time at which it entered the scheduler's queue.
    pub queued: Option<Timestamp>,
    /// Receives the stage of the execution when the command starts. Never blocks; the receiver may be gone.
    pub stages: Option<UnboundedSender<execution_stage::Value>>,
    /// Ends the execution early: all processes are killed, and the response has the status `CANCELLED`.
    pub cancellation: CancellationToken,
}

/// Executes Actions.
#[async_trait]
pub trait ActionExecutor: Send + Sync + 'static {
    /// Executes one Action. The status of the response reports failures of every kind. With the status `OK` all blobs
    /// of the result are in the store.
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse;
}
