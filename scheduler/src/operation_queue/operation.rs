//! An operation.

use std::sync::Arc;
use std::time::Duration;

use super::action::QueuedAction;
use super::deadlines::{Deadline, Deadlines};
use super::demand::Demand;
use super::effect::{Effect, Progress, Update};
use super::hedging::SecondLease;
use super::ids::{HolderProof, LeaseId, OperationId, WorkerId};
use super::requester::Requester;
use super::waiting_actions::{Place, QueuePosition};
use crate::clock::Time;
use crate::execution_config::PriorityConfig;

/// Stage of an operation.
#[derive(Debug)]
pub(super) enum Stage {
    Queued,
    Executing {
        worker: WorkerId,
        lease: LeaseId,
    },
    /// Leased before a restart of the server, or before the worker's stream ended. The worker has not come back yet.
    Detached {
        worker: Arc<str>,
        after_restart: bool,
    },
    Recording,
    Completed,
}

/// An operation: one Action that one or more clients requested.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) action: Arc<QueuedAction>,
    /// What it needs of a worker.
    pub(super) demand: Demand,
    /// Memory that it needs at least, after it ended with less. Zero before that.
    pub(super) raised_memory: u64,
    /// The longest remaining path of all requests that joined.
    pub(super) remaining_path: Duration,
    /// Time since which it is next by its share and fits on no worker.
    pub(super) passed_over_since: Option<Time>,
    /// Second lease, on another worker.
    pub(super) second_lease: Option<SecondLease>,
    /// Time at which it runs for longer than usual.
    pub(super) hedge_due: Option<Time>,
    /// Worker that is kept free for it.
    pub(super) reserved: Option<WorkerId>,
    /// The most urgent priority of all requests that joined.
    pub(super) priority: i32,
    /// Requesters of all requests that joined.
    pub(super) requesters: Vec<Requester>,
    /// Places in the queues of the requesters, in their order; empty unless the operation waits.
    pub(super) places: Vec<Place>,
    pub(super) stage: Stage,
    /// The last lease and the instance of a worker that may come back with it. `None` if the worker has ended the lease.
    pub(super) last_lease: Option<(LeaseId, HolderProof)>,
    /// Outcomes of the attempts so far.
    pub(super) attempts: Vec<String>,
    /// Workers that handed it back, with a description for each time.
    pub(super) returns: Vec<(Arc<str>, String)>,
    pub(super) waiting_since: Time,
    pub(super) clients: usize,
    /// Time at which the last client detached.
    pub(super) abandoned_since: Option<Time>,
    /// True if a deadline is armed. It is checked when due and armed again if necessary, so that there is at most one of
    /// each kind, however often clients and workers come and go.
    pub(super) abandoned_armed: bool,
    pub(super) no_worker_armed: bool,
    arrived: Time,
    /// Number in the order of arrival. It stays for ever: an operation that is queued again does not go to the end.
    arrival: u64,
}

impl Operation {
    pub(super) fn new(now: Time, arrival: u64, action: QueuedAction, demand: Demand) -> Self {
        Self {
            demand,
            raised_memory: 0,
            remaining_path: action.remaining_path,
            passed_over_since: None,
            second_lease: None,
            hedge_due: None,
            reserved: None,
            priority: action.priority,
            requesters: vec![action.requester.clone()],
            places: vec![],
            action: Arc::new(action),
            stage: Stage::Queued,
            last_lease: None,
            attempts: vec![],
            returns: vec![],
            waiting_since: now,
            clients: 1,
            abandoned_since: None,
            abandoned_armed: false,
            no_worker_armed: false,
            arrived: now,
            arrival,
        }
    }

    pub(super) fn position(&self, config: &PriorityConfig) -> QueuePosition {
        QueuePosition::new(
            self.arrived,
            self.arrival,
            self.priority,
            self.remaining_path,
            config,
        )
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
