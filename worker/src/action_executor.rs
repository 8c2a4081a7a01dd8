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
    /// Where its blobs are and where those of its result go.
    pub instance: InstanceName,
    /// The Action.
    pub action: Digest,
    /// When it entered the scheduler's queue.
    pub queued: Option<Timestamp>,
    /// Where to say that the command starts; never blocks, and nobody has to listen.
    pub stages: Option<UnboundedSender<execution_stage::Value>>,
    /// Ends the execution early: all processes are killed, and the response has the status `CANCELLED`.
    pub cancellation: CancellationToken,
}

/// Executes Actions.
#[async_trait]
pub trait ActionExecutor: Send + Sync + 'static {
    /// Executes one Action. Failures of every kind are in the response's status. With an `OK` status all blobs of the
    /// result are in the store.
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse;
}
