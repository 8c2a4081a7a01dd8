//! Effects of the queue's transitions.

use std::sync::Arc;

use bitzel_proto::reapi::ExecuteResponse;
use prost::Message as _;

use super::action::QueuedAction;
use super::ids::{LeaseId, OperationId, WorkerId};
use super::record::Record;
use crate::error::ExecutionError;
use crate::operation_message::failure;

/// Effect that the caller carries out.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send an update to all clients of the operation. The first update announces the operation.
    Publish {
        /// The operation.
        operation: OperationId,
        /// Its present state.
        update: Update,
    },
    /// Forget an operation that no client can find any more.
    Forget {
        /// The operation.
        operation: OperationId,
    },
    /// Append a record to the journal, before the other effects of the transition are visible outside.
    Record(Record),
    /// Assign an Action to a worker.
    Assign {
        /// The worker.
        worker: WorkerId,
        /// The operation.
        operation: OperationId,
        /// The lease of the Action.
        lease: LeaseId,
        /// The Action.
        action: Arc<QueuedAction>,
    },
    /// Tell a worker to stop an Action. The worker then completes the lease.
    Cancel {
        /// The worker.
        worker: WorkerId,
        /// The operation.
        operation: OperationId,
        /// The lease of the Action.
        lease: LeaseId,
    },
    /// Tell a worker which Actions it is likely to get next, in place of those that it was told before. It may be omitted.
    Upcoming {
        /// The worker.
        worker: WorkerId,
        /// The Actions, the most likely one first.
        actions: Vec<Arc<QueuedAction>>,
    },
    /// Close the stream of a drained worker without leases.
    Close {
        /// The worker.
        worker: WorkerId,
    },
}

/// State of an operation for its clients.
#[derive(Debug, Clone)]
pub struct Update {
    /// The Action.
    pub action: Arc<QueuedAction>,
    /// Progress of the operation.
    pub progress: Progress,
}

/// Progress of an operation.
#[derive(Debug, Clone)]
pub enum Progress {
    /// It waits for a worker, or its worker still fetches inputs.
    Queued,
    /// A worker runs it.
    Executing {
        /// The worker's name.
        worker: Arc<str>,
    },
    /// It has ended.
    Completed(Arc<OperationOutcome>),
}

/// Outcome of an operation.
#[derive(Debug)]
pub enum OperationOutcome {
    /// Response of a worker.
    Response(Box<ExecuteResponse>),
    /// Error without a response of a worker.
    Failed(ExecutionError),
}

impl OperationOutcome {
    /// Size of the response that clients get, in bytes of its encoding.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Response(response) => response.encoded_len(),
            Self::Failed(error) => failure(error).encoded_len(),
        }
    }
}
