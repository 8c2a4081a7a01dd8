//! One operation.

use std::sync::Arc;

use uuid::Uuid;

use super::action::QueuedAction;
use super::deadlines::{Deadline, Deadlines};
use super::effect::{Effect, Progress, Update};
use super::waiting_actions::Ticket;
use super::worker::{LeaseId, WorkerId};
use crate::clock::Time;

/// Names an operation. Whoever knows it may follow the operation, so it must not be guessable: the caller of the
/// queue draws it at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub Uuid);

#[derive(Debug)]
pub(super) enum Stage {
    Queued,
    Executing { worker: WorkerId, lease: LeaseId },
    Recording,
    Completed,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) action: Arc<QueuedAction>,
    /// The most urgent one of all requests that joined.
    pub(super) priority: i32,
    pub(super) stage: Stage,
    /// What became of the attempts so far.
    pub(super) attempts: Vec<String>,
    pub(super) waiting_since: Time,
    pub(super) clients: usize,
    /// Since when no client follows it.
    pub(super) abandoned_since: Option<Time>,
    /// Whether a deadline is on its way. It is checked when due and armed again if need be, so that neither clients
    /// nor workers that come and go make deadlines pile up.
    pub(super) abandoned_armed: bool,
    pub(super) no_worker_armed: bool,
    /// Keeps its place in the line for life: a requeued operation does not go to the end.
    arrival: u64,
}

impl Operation {
    pub(super) fn new(now: Time, arrival: u64, action: QueuedAction) -> Self {
        Self {
            priority: action.priority,
            action: Arc::new(action),
            stage: Stage::Queued,
            attempts: vec![],
            waiting_since: now,
            clients: 1,
            abandoned_since: None,
            abandoned_armed: false,
            no_worker_armed: false,
            arrival,
        }
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket {
            priority: self.priority,
            arrival: self.arrival,
        }
    }

    pub(super) fn publish(&self, operation: OperationId, progress: Progress) -> Effect {
        let action = self.action.clone();
        let update = Update { action, progress };
        Effect::Publish { operation, update }
    }

    pub(super) fn arm_abandoned(&mut self, deadlines: &mut Deadlines, id: OperationId, due: Time) {
        if !self.abandoned_armed {
            self.abandoned_armed = true;
            deadlines.arm(due, Deadline::Abandoned(id));
        }
    }

    pub(super) fn arm_no_worker(&mut self, deadlines: &mut Deadlines, id: OperationId, due: Time) {
        if !self.no_worker_armed {
            self.no_worker_armed = true;
            deadlines.arm(due, Deadline::NoWorker(id));
        }
    }
}
