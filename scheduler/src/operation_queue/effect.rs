//! What the queue wants done.

use std::sync::Arc;

use bitzel_proto::reapi::ExecuteResponse;

use super::action::QueuedAction;
use super::operation::OperationId;
use super::worker::{LeaseId, WorkerId};
use crate::error::ExecutionError;

/// Something for the caller to carry out.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Tell everybody who follows the operation. The first one announces it.
    Publish {
        /// Which operation.
        operation: OperationId,
        /// Its state.
        update: Update,
    },
    /// Nobody can ask for the operation any more.
    Forget {
        /// Which operation.
        operation: OperationId,
    },
    /// Hand an Action to a worker.
    Assign {
        /// To whom.
        worker: WorkerId,
        /// Under which lease.
        lease: LeaseId,
        /// What to run.
        action: Arc<QueuedAction>,
    },
    /// Tell a worker to stop an Action. It answers by completing the lease.
    Cancel {
        /// Whom.
        worker: WorkerId,
        /// Which lease.
        lease: LeaseId,
    },
    /// A drained worker has nothing left: close its stream.
    Close {
        /// Which worker.
        worker: WorkerId,
    },
}

/// The state of an operation, as its clients see it.
#[derive(Debug, Clone)]
pub struct Update {
    /// What it runs.
    pub action: Arc<QueuedAction>,
    /// How far it is.
    pub progress: Progress,
}

/// How far an operation is.
#[derive(Debug, Clone)]
pub enum Progress {
    /// Waits for a worker, or its worker has not started it yet.
    Queued,
    /// A worker has it.
    Executing {
        /// The worker's name.
        worker: Arc<str>,
    },
    /// Over.
    Completed(Arc<Outcome>),
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// A worker's answer, good or bad.
    Response(Box<ExecuteResponse>),
    /// No worker's answer.
    Failed(ExecutionError),
}
