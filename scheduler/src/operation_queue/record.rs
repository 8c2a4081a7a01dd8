//! Records of the queue's transitions, for the journal.

use std::sync::Arc;

use uuid::Uuid;

use super::action::QueuedAction;
use super::effect::OperationOutcome;
use super::ids::{LeaseHolder, LeaseId, OperationId};
use super::task_name::TaskName;
use super::usage_history::TaskUse;

/// Transition that must survive a restart of the server.
#[derive(Debug, Clone)]
pub enum Record {
    /// An operation was accepted.
    Accepted {
        /// The operation.
        operation: OperationId,
        /// Its Action.
        action: Arc<QueuedAction>,
    },
    /// A worker got a lease of the operation's Action.
    Leased {
        /// The operation.
        operation: OperationId,
        /// The lease. A later one has a larger number, also after a restart, so it is a fencing number.
        lease: LeaseId,
        /// The worker.
        holder: LeaseHolder,
    },
    /// The lease has ended without a result, and the operation waits again.
    Requeued {
        /// The operation.
        operation: OperationId,
        /// Outcomes of all attempts so far.
        attempts: Vec<String>,
    },
    /// The operation has ended.
    Completed {
        /// The operation.
        operation: OperationId,
        /// Its outcome.
        outcome: Arc<OperationOutcome>,
    },
    /// The use of resources by a task was learnt.
    Learnt {
        /// The task.
        task: TaskName,
        /// Its use; `None` if it was forgotten.
        task_use: Option<TaskUse>,
    },
    /// No client can find the operation any more.
    Forgotten {
        /// The operation.
        operation: OperationId,
    },
    /// A build has begun or ended.
    Build {
        /// The build.
        build: Uuid,
        /// What the next run of the server must know of it.
        row: Vec<u8>,
    },
    /// No client can find the build any more.
    BuildForgotten {
        /// The build.
        build: Uuid,
    },
}

/// An operation from the journal.
#[derive(Debug)]
pub struct RestoredOperation {
    /// The operation.
    pub operation: OperationId,
    /// Its Action.
    pub action: QueuedAction,
    /// Outcomes of the attempts so far.
    pub attempts: Vec<String>,
    /// Its state.
    pub state: RestoredState,
}

/// State of an operation from the journal.
#[derive(Debug)]
pub enum RestoredState {
    /// It waits for a worker.
    Queued,
    /// A worker runs it, and may report that.
    Leased {
        /// The last lease.
        lease: LeaseId,
        /// The worker.
        holder: LeaseHolder,
    },
    /// It has ended.
    Completed(OperationOutcome),
}
