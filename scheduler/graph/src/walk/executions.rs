//! Trait of executors of Actions.

use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::Digest;
use bitzel_proto::reapi::ExecuteResponse;
use tonic::Status;

/// Action to execute.
#[derive(Debug, Clone, Copy)]
pub struct ExecutionRequest<'a> {
    /// Digest of the Action, which is in the store with all of its inputs.
    pub action: Digest,
    /// Executes the Action even if the action cache has a result.
    pub skip_cache_lookup: bool,
    /// Time that the build still takes from the start of this Action on. The scheduler starts the longest one first.
    pub remaining_path: Duration,
    /// Largest trees in its input root, the most important first. The scheduler prefers an idle worker that has them.
    pub input_trees: &'a [Digest],
    /// `RECIPE:TASK`, a description for people.
    pub task: &'a str,
}

/// Executor of Actions: the Execution service of a server, or a part of the same process.
#[async_trait]
pub trait Executions: Send + Sync + 'static {
    /// Executes an Action and waits for its end.
    ///
    /// The status in the response tells if the Action ran. An `Err` means that the execution itself failed, after retries
    /// where a retry can help. It is a gRPC status and not an error of its own, because its details name missing blobs
    /// (`bitzel_proto::missing_blobs`) and its code decides the hint that people get.
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status>;
}
