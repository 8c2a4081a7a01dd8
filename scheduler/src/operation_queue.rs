//! Operation queue: a state machine without I/O, clock or threads that decides which worker runs which Action.
//!
//! Methods take the time and return [`Effect`]s, which the caller carries out in order. The machine has no other output, so
//! every interleaving of clients, workers and time can be tested as a list of calls.
//!
//! ```text
//!            execute            place                 complete               finish
//!  (nothing) ───────▶ Queued ─────────▶ Executing ─────────────▶ Recording ─────────▶ Completed
//!                       ▲  │                │  worker lost           │
//!                       └──┼────────────────┴────── requeue ◀────────┘
//!                          └─▶ no worker for too long, or lost too often ───────────▶ Completed
//! ```
//!
//! A worker that has too few resources hands a lease back: the operation is queued again, too, and the worker gets no
//! leases for a while.
//!
//! An operation without clients is forgotten from Queued and Executing after a timeout. Its worker gets a Cancel, and the
//! slot stays in use until the worker reports the end of the Action.
//!
//! Operations that were Executing are Detached after a restart, or when the stream of their worker has ended, until the worker
//! comes back with the lease, or does not.

mod action;
mod completed_operations;
mod deadlines;
mod demand;
mod disconnection;
mod effect;
mod fair_shares;
mod hedging;
mod ids;
mod learning;
mod occupancy;
mod operation;
mod placement;
mod pools;
mod quarantine;
mod record;
mod recovery;
mod registration;
mod requester;
mod reservations;
mod returned_leases;
mod snapshot;
mod task_name;
mod timeouts;
mod tree_locations;
mod upcoming;
mod usage_history;
mod waiting_actions;
mod worker;
mod worker_pool;

use std::collections::HashMap;
use std::sync::Arc;

pub use action::{ActionKey, QueuedAction};
pub use completed_operations::MAX_OUTCOME_BYTES;
pub use effect::{Effect, OperationOutcome, Progress, Update};
pub use ids::{HolderProof, LeaseHolder, LeaseId, OperationId, WorkerId};
pub use occupancy::Occupancy;
pub use pools::PoolDemand;
pub use record::{Record, RestoredOperation, RestoredState};
pub use registration::{Registration, Route};
pub use requester::Requester;
pub use snapshot::{RunningAction, Snapshot, WaitingGroup, WorkerSnapshot};
pub use task_name::TaskName;
pub use usage_history::{MAX_DURATIONS, MeasuredUse, TaskUse};

use completed_operations::{CompletedOperation, CompletedOperations};
use deadlines::Deadlines;
use disconnection::Disconnected;
use operation::{Operation, Stage};
use pools::Pools;
use quarantine::Quarantine;
use tree_locations::TreeLocations;
use upcoming::UpcomingActions;
use usage_history::UsageHistory;
use waiting_actions::{LeaseEnd, MAX_UNSERVED_SETS, WaitingActions};
use worker::Worker;
use worker_pool::WorkerPool;

use super::clock::Time;
use super::error::ExecutionError;
use super::execution_config::ExecutionConfig;

/// Lease whose end a worker reported: the caller records the result, then calls [`OperationQueue::finish`].
#[derive(Debug)]
pub struct CompletedLease {
    /// The operation to finish.
    pub operation: OperationId,
    /// The worker that ran it.
    pub worker: WorkerId,
    /// The Action that ran.
    pub action: Arc<QueuedAction>,
}

/// All operations and workers of a server.
#[derive(Debug)]
pub struct OperationQueue {
    config: ExecutionConfig,
    operations: HashMap<OperationId, Operation>,
    /// Operations that another request for the same Action joins.
    in_flight: HashMap<ActionKey, OperationId>,
    waiting: WaitingActions,
    waiting_operations: usize,
    workers: WorkerPool,
    pools: Pools,
    quarantine: Quarantine,
    usage: UsageHistory,
    trees: TreeLocations,
    upcoming: UpcomingActions,
    /// Number of operations with a second lease.
    second_leases: usize,
    deadlines: Deadlines,
    disconnected: Disconnected,
    completed: CompletedOperations,
    last_lease: u64,
    last_arrival: u64,
}

impl OperationQueue {
    /// An empty queue.
    pub fn new(config: ExecutionConfig) -> Self {
        Self {
            waiting: WaitingActions::new(config.priority.step),
            usage: UsageHistory::default(),
            trees: TreeLocations::default(),
            upcoming: UpcomingActions::default(),
            second_leases: 0,
            quarantine: Quarantine::new(config.quarantine_after, config.quarantine_time),
            config,
            operations: HashMap::new(),
            in_flight: HashMap::new(),
            waiting_operations: 0,
            workers: WorkerPool::default(),
            pools: Pools::default(),
            deadlines: Deadlines::default(),
            disconnected: Disconnected::new(),
            completed: CompletedOperations::default(),
            last_lease: 0,
            last_arrival: 0,
        }
    }

    /// Executes `action` for a client. Joins an operation in flight where that is allowed; otherwise creates an operation
    /// with the identifier `fresh_id`. The client is attached to the operation that is returned.
    ///
    /// `not_yet_visible` is `skip_cache_lookup`: the result must not have been visible before this request, so an
    /// operation whose result is being recorded is not joined.
    pub fn execute(
        &mut self,
        now: Time,
        fresh_id: OperationId,
        action: QueuedAction,
        not_yet_visible: bool,
    ) -> Result<(OperationId, Vec<Effect>), ExecutionError> {
        if let Some(error) = self.quarantine.refusal(now, &action.key) {
            return Err(error);
        }
        if let Some(id) = self.joinable(&action, not_yet_visible) {
            self.add_request(id, action);
            self.attach(id);
            return Ok((id, vec![]));
        }
        if self.waiting_operations >= self.config.max_queued_actions {
            let limit = self.config.max_queued_actions;
            return Err(ExecutionError::QueueFull { limit });
        }
        let limit = self.config.max_queued_actions_per_user;
        if self.waiting.of_user(&action.requester.user) >= limit {
            let user = action.requester.user.to_string();
            return Err(ExecutionError::UserQueueFull { user, limit });
        }
        let demand = self.demand(&action, 0);
        if !self.waiting.admits(&demand, self.workers.serves(&demand))
            && self.workers.least_busy(&demand).is_none()
        {
            return Err(ExecutionError::TooManyPropertySets {
                limit: MAX_UNSERVED_SETS,
            });
        }
        self.last_arrival += 1;
        let operation = Operation::new(now, self.last_arrival, action, demand);
        if !operation.action.do_not_cache {
            self.in_flight.insert(operation.action.key.clone(), fresh_id);
        }
        let accepted = Record::Accepted {
            operation: fresh_id,
            action: operation.action.clone(),
        };
        let mut effects = vec![
            Effect::Record(accepted),
            operation.publish(fresh_id, Progress::Queued),
        ];
        self.operations.insert(fresh_id, operation);
        self.place(now, fresh_id, &mut effects);
        self.tell_upcoming(&mut effects);
        Ok((fresh_id, effects))
    }

    /// Attaches a client to an existing operation. Returns true if the operation exists.
    pub fn attach(&mut self, id: OperationId) -> bool {
        let Some(operation) = self.operations.get_mut(&id) else {
            return false;
        };
        operation.clients += 1;
        operation.abandoned_since = None;
        true
    }

    /// Detaches a client.
    pub fn detach(&mut self, now: Time, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.clients = operation.clients.saturating_sub(1);
        if operation.clients > 0 || matches!(operation.stage, Stage::Completed) {
            return;
        }
        operation.abandoned_since = Some(now);
        operation.arm_abandoned(&mut self.deadlines, id, now + self.config.abandoned_timeout);
    }

    /// True if another instance of a worker with this name is connected.
    pub fn has_namesake(&self, holder: &LeaseHolder) -> bool {
        let mut workers = self.workers.iter();
        workers.any(|worker| worker.holder.worker == holder.worker && worker.holder.proof != holder.proof)
    }

    /// Registers a worker.
    pub fn register_worker<'a>(
        &mut self,
        now: Time,
        registration: impl Into<Registration<'a>>,
    ) -> (WorkerId, Vec<Effect>) {
        let registration = registration.into();
        let id = self.workers.register(&registration);
        self.waiting.set_slots(&self.workers);
        if let Some(worker) = self.workers.get(id).filter(|worker| !worker.draining) {
            self.waiting.served_by(worker);
            self.pools.remember(worker);
            let limit = registration.hello.max_upcoming_actions;
            self.upcoming.add_worker(id, limit as usize);
        }
        let mut effects = vec![];
        self.take_up_leases(now, id, registration.leases, &mut effects);
        self.fill(now, id, &mut effects);
        self.tell_upcoming(&mut effects);
        self.close_if_drained(id, &mut effects);
        (id, effects)
    }

    /// Drains a worker: it gets no more leases, and is closed when it has none.
    pub fn drain_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let mut effects = vec![];
        self.give_up_reservation(id);
        self.upcoming.remove_worker(id);
        if self.workers.drain(id) {
            self.find_unserved(now);
            self.refill_later(now);
            self.close_if_drained(id, &mut effects);
        }
        effects
    }

    /// Workers whose names match, in the order of their registration.
    pub fn workers_named(&self, matches: impl Fn(&str) -> bool) -> Vec<(WorkerId, Arc<str>)> {
        self.workers.named(matches)
    }

    /// Publishes the stage of an Action that a worker reported: `QUEUED` (it still fetches inputs) or `EXECUTING`. The server
    /// itself decides the other stages.
    pub fn change_stage(&self, worker: WorkerId, lease: LeaseId, executing: bool) -> Vec<Effect> {
        let worker = self.workers.get(worker);
        let Some((id, name)) = worker.and_then(|worker| Some((worker.operation(lease)?, worker.name())))
        else {
            return vec![];
        };
        let second = self
            .operations
            .get(&id)
            .and_then(|operation| operation.second_lease);
        if second.is_some_and(|second| second.lease == lease) {
            // Clients follow the first one.
            return vec![];
        }
        let progress = if executing {
            Progress::Executing { worker: name.clone() }
        } else {
            Progress::Queued
        };
        let operation = self.operations.get(&id);
        operation
            .map(|operation| operation.publish(id, progress))
            .into_iter()
            .collect()
    }

    /// Ends a lease, which frees the slot. `None` if no operation waits for the result: the lease is unknown, has ended
    /// before, or was cancelled.
    pub fn complete(
        &mut self,
        now: Time,
        worker: WorkerId,
        lease: LeaseId,
    ) -> (Option<CompletedLease>, Vec<Effect>) {
        let mut effects = vec![];
        let Some(ended) = self.workers.remove_lease(worker, lease) else {
            return (None, effects);
        };
        if let Some(charge) = &ended.charge {
            self.waiting.settle(now, charge, LeaseEnd::Completed);
        }
        self.workers.end_returns(worker);
        if let Some(id) = ended.operation {
            self.cancel_other(id, lease, &mut effects);
        }
        let completion = ended.operation.and_then(|id| {
            let operation = self.operations.get_mut(&id)?;
            operation.stage = Stage::Recording;
            self.quarantine.worker_survived(&operation.action.key);
            Some(CompletedLease {
                operation: id,
                worker,
                action: operation.action.clone(),
            })
        });
        self.fill(now, worker, &mut effects);
        self.tell_upcoming(&mut effects);
        self.close_if_drained(worker, &mut effects);
        (completion, effects)
    }

    /// Completes an operation, after the result of its [`CompletedLease`] was recorded.
    pub fn finish(&mut self, now: Time, id: OperationId, outcome: OperationOutcome) -> Vec<Effect> {
        let mut effects = vec![];
        if self.is_recording(id) {
            self.conclude(now, id, outcome, &mut effects);
        }
        effects
    }

    /// Fails an operation that waits. One that runs goes on.
    pub fn refuse(&mut self, now: Time, id: OperationId, error: ExecutionError) -> Vec<Effect> {
        let mut effects = vec![];
        if self.is_queued(id) {
            self.dequeue(now, id);
            self.conclude(now, id, OperationOutcome::Failed(error), &mut effects);
        }
        effects
    }

    /// Queues an operation again, after the worker of its [`CompletedLease`] failed, not the Action. `attempt` describes the
    /// failure, with the worker's name.
    pub fn retry(&mut self, now: Time, id: OperationId, attempt: String) -> Vec<Effect> {
        let mut effects = vec![];
        if self.is_recording(id) {
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.last_lease = None;
            }
            self.requeue(now, id, attempt, &mut effects);
        }
        effects
    }

    /// True if the result of an operation under this lease is being recorded.
    pub fn is_recording_lease(&self, id: OperationId, lease: LeaseId) -> bool {
        let operation = self.operations.get(&id);
        self.is_recording(id)
            && operation.is_some_and(|operation| {
                let last = operation.last_lease.as_ref();
                last.is_some_and(|(last, _)| *last == lease)
            })
    }

    /// Finds the operation that a request for `action` may join.
    fn joinable(&self, action: &QueuedAction, not_yet_visible: bool) -> Option<OperationId> {
        if action.do_not_cache {
            return None;
        }
        let id = *self.in_flight.get(&action.key)?;
        let visible = self.is_recording(id);
        (!(visible && not_yet_visible)).then_some(id)
    }

    fn is_recording(&self, id: OperationId) -> bool {
        let operation = self.operations.get(&id);
        operation.is_some_and(|operation| matches!(operation.stage, Stage::Recording))
    }

    fn close_if_drained(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let drained = |worker: &Worker| worker.draining && worker.leases.is_empty();
        if self.workers.get(id).is_some_and(drained) {
            self.upcoming.remove_worker(id);
            self.workers.remove(id);
            self.waiting.set_slots(&self.workers);
            effects.push(Effect::Close { worker: id });
        }
    }

    /// Queues an operation again after a failed attempt, or fails it after the maximum number of attempts.
    fn requeue(&mut self, now: Time, id: OperationId, attempt: String, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.attempts.push(attempt);
        if operation.attempts.len() >= self.config.max_attempts.get() {
            self.give_up(now, id, effects);
        } else {
            self.queue_again(now, id, effects);
        }
    }

    /// Fails an operation whose workers failed or handed it back too often.
    fn give_up(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        if let Some(operation) = self.operations.get_mut(&id) {
            let mut attempts = std::mem::take(&mut operation.attempts);
            attempts.extend(operation.returns.drain(..).map(|(_, description)| description));
            let outcome = OperationOutcome::Failed(ExecutionError::AttemptsExhausted { attempts });
            self.conclude(now, id, outcome, effects);
        }
    }

    /// Queues an operation again whose lease has ended without a result.
    fn queue_again(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.stage = Stage::Queued;
        let (action, raised_memory) = (operation.action.clone(), operation.raised_memory);
        let demand = self.demand(&action, raised_memory);
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.demand = demand;
        effects.push(Effect::Record(Record::Requeued {
            operation: id,
            attempts: operation.attempts.clone(),
        }));
        if operation.abandoned_since.is_some() {
            // The deadline may have passed during the recording, when there was nothing to cancel.
            operation.arm_abandoned(&mut self.deadlines, id, now);
        }
        effects.push(operation.publish(id, Progress::Queued));
        self.place(now, id, effects);
    }

    /// Completes an operation with its outcome.
    fn conclude(&mut self, now: Time, id: OperationId, outcome: OperationOutcome, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.stage = Stage::Completed;
        self.completed.push(CompletedOperation {
            at: now,
            operation: id,
            user: operation.action.requester.user.clone(),
            bytes: outcome.encoded_len(),
        });
        let outcome = Arc::new(outcome);
        effects.push(Effect::Record(Record::Completed {
            operation: id,
            outcome: outcome.clone(),
        }));
        effects.push(operation.publish(id, Progress::Completed(outcome)));
        let key = operation.action.key.clone();
        self.leave_in_flight(&key, id);
        self.forget_completed(now, effects);
    }

    /// Removes an operation from those in flight, unless a `skip_cache_lookup` request has replaced it by a later one.
    fn leave_in_flight(&mut self, key: &ActionKey, id: OperationId) {
        if self.in_flight.get(key) == Some(&id) {
            self.in_flight.remove(key);
        }
    }
}

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod reconnection;
#[cfg(test)]
mod rival_traps;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod tests;
