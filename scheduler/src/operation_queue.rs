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

mod action;
mod deadlines;
mod effect;
mod ids;
mod occupancy;
mod operation;
mod returned_leases;
mod timeouts;
mod waiting_actions;
mod worker;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bitzel_proto::worker::Hello;

pub use action::{ActionKey, QueuedAction};
pub use effect::{Effect, OperationOutcome, Progress, Update};
pub use ids::{LeaseId, OperationId, WorkerId};
pub use occupancy::Occupancy;

use deadlines::Deadlines;
use operation::{Operation, Stage};
use waiting_actions::WaitingActions;
use worker::{LeaseUse, Worker};

use super::clock::Time;
use super::error::ExecutionError;
use super::execution_config::ExecutionConfig;
use super::platform::RequiredProperties;

/// Lease whose end a worker reported: the caller records the result, then calls [`OperationQueue::finish`].
#[derive(Debug)]
pub struct CompletedLease {
    /// The operation to finish.
    pub operation: OperationId,
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
    /// Ordered, so that the machine is deterministic.
    workers: BTreeMap<WorkerId, Worker>,
    deadlines: Deadlines,
    /// Completed operations, oldest first.
    completed: VecDeque<(Time, OperationId)>,
    last_worker: u64,
    last_lease: u64,
    last_arrival: u64,
}

impl OperationQueue {
    /// An empty queue.
    pub fn new(config: ExecutionConfig) -> Self {
        Self {
            config,
            operations: HashMap::new(),
            in_flight: HashMap::new(),
            waiting: WaitingActions::default(),
            workers: BTreeMap::new(),
            deadlines: Deadlines::default(),
            completed: VecDeque::new(),
            last_worker: 0,
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
        if let Some(id) = self.joinable(&action, not_yet_visible) {
            self.raise_priority(id, action.priority);
            self.attach(id);
            return Ok((id, vec![]));
        }
        if self.waiting.len() >= self.config.max_queued_actions {
            let limit = self.config.max_queued_actions;
            return Err(ExecutionError::QueueFull { limit });
        }
        self.last_arrival += 1;
        let operation = Operation::new(now, self.last_arrival, action);
        if !operation.action.do_not_cache {
            self.in_flight.insert(operation.action.key.clone(), fresh_id);
        }
        let mut effects = vec![operation.publish(fresh_id, Progress::Queued)];
        self.operations.insert(fresh_id, operation);
        self.place(now, fresh_id, &mut effects);
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

    /// Registers a worker.
    pub fn register_worker(&mut self, hello: &Hello) -> (WorkerId, Vec<Effect>) {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let worker = Worker::new(hello);
        self.waiting.served_by(&worker.properties);
        self.workers.insert(id, worker);
        let mut effects = vec![];
        self.fill(id, &mut effects);
        (id, effects)
    }

    /// Drains a worker: it gets no more leases, and is closed when it has none.
    pub fn drain_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let mut effects = vec![];
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.draining = true;
            self.find_unserved(now);
            self.close_if_drained(id, &mut effects);
        }
        effects
    }

    /// Removes a lost worker. Its Actions go to other workers, or fail after the maximum number of attempts.
    pub fn lose_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let mut effects = vec![];
        let Some(worker) = self.workers.remove(&id) else {
            return effects;
        };
        self.find_unserved(now);
        let mut orphans: Vec<_> = worker.leases.values().filter_map(LeaseUse::operation).collect();
        orphans.sort_by_key(|id| self.operations.get(id).map(Operation::position));
        for operation in orphans {
            let attempt = format!("worker {} was lost", worker.name);
            self.requeue(now, operation, attempt, &mut effects);
        }
        effects
    }

    /// Publishes the stage of an Action that a worker reported: `QUEUED` (it still fetches inputs) or `EXECUTING`. The server
    /// itself decides the other stages.
    pub fn change_stage(&self, worker: WorkerId, lease: LeaseId, executing: bool) -> Vec<Effect> {
        let worker = self.workers.get(&worker);
        let Some((id, name)) = worker.and_then(|worker| Some((worker.operation(lease)?, &worker.name)))
        else {
            return vec![];
        };
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
    pub fn complete(&mut self, worker: WorkerId, lease: LeaseId) -> (Option<CompletedLease>, Vec<Effect>) {
        let mut effects = vec![];
        let Some(leased) = self
            .workers
            .get_mut(&worker)
            .and_then(|worker| worker.leases.remove(&lease))
        else {
            return (None, effects);
        };
        let completion = leased.operation().and_then(|id| {
            let operation = self.operations.get_mut(&id)?;
            operation.stage = Stage::Recording;
            Some(CompletedLease {
                operation: id,
                action: operation.action.clone(),
            })
        });
        self.fill(worker, &mut effects);
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

    /// Queues an operation again, after the worker of its [`CompletedLease`] failed, not the Action. `attempt` describes the
    /// failure, with the worker's name.
    pub fn retry(&mut self, now: Time, id: OperationId, attempt: String) -> Vec<Effect> {
        let mut effects = vec![];
        if self.is_recording(id) {
            self.requeue(now, id, attempt, &mut effects);
        }
        effects
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

    /// Moves an operation forward that a more urgent request has joined.
    fn raise_priority(&mut self, id: OperationId, priority: i32) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if priority >= operation.priority {
            return;
        }
        let requirements = &operation.action.requirements;
        let waiting = self.waiting.remove(requirements, operation.position());
        operation.priority = priority;
        if let Some(waiting) = waiting {
            self.waiting.insert(requirements, operation.position(), waiting);
        }
    }

    /// Assigns a queued operation to the least busy worker with a free slot, or puts it into a queue.
    fn place(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let requirements = &operation.action.requirements;
        let candidates = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.can_run(requirements));
        if let Some((&worker, _)) = candidates.min_by_key(|(_, worker)| worker.leases.len()) {
            self.assign(worker, id, effects);
            return;
        }
        let served = serves(&self.workers, requirements);
        operation.waiting_since = now;
        self.waiting.insert(requirements, operation.position(), id);
        if !served {
            self.waiting.set_unserved(requirements, now);
            operation.arm_no_worker(&mut self.deadlines, id, now + self.config.no_worker_timeout);
        }
    }

    /// Assigns waiting operations to a worker, most urgent first, until it has no free slot.
    fn fill(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        while let Some(worker) = self.workers.get(&id).filter(|worker| worker.has_free_slot()) {
            let Some(operation) = self.waiting.pop_first(&worker.properties) else {
                break;
            };
            self.assign(id, operation, effects);
        }
    }

    fn assign(&mut self, worker_id: WorkerId, id: OperationId, effects: &mut Vec<Effect>) {
        let (Some(worker), Some(operation)) =
            (self.workers.get_mut(&worker_id), self.operations.get_mut(&id))
        else {
            return;
        };
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        worker.leases.insert(lease, LeaseUse::Operation(id));
        operation.stage = Stage::Executing {
            worker: worker_id,
            lease,
        };
        let name = worker.name.clone();
        effects.push(operation.publish(id, Progress::Executing { worker: name }));
        effects.push(Effect::Assign {
            worker: worker_id,
            lease,
            action: operation.action.clone(),
        });
    }

    fn close_if_drained(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let drained = |worker: &Worker| worker.draining && worker.leases.is_empty();
        if self.workers.get(&id).is_some_and(drained) {
            self.workers.remove(&id);
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
            let attempts = std::mem::take(&mut operation.attempts);
            let outcome = OperationOutcome::Failed(ExecutionError::AttemptsExhausted { attempts });
            self.conclude(now, id, outcome, effects);
            return;
        }
        operation.stage = Stage::Queued;
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
        effects.push(operation.publish(id, Progress::Completed(Arc::new(outcome))));
        let key = operation.action.key.clone();
        self.leave_in_flight(&key, id);
        self.completed.push_back((now, id));
        self.forget_completed(now, effects);
    }

    /// Removes an operation from those in flight, unless a `skip_cache_lookup` request has replaced it by a later one.
    fn leave_in_flight(&mut self, key: &ActionKey, id: OperationId) {
        if self.in_flight.get(key) == Some(&id) {
            self.in_flight.remove(key);
        }
    }
}

/// True if a worker could run Actions with these requirements when it has a free slot.
fn serves(workers: &BTreeMap<WorkerId, Worker>, requirements: &RequiredProperties) -> bool {
    let mut workers = workers.values();
    workers.any(|worker| !worker.draining && worker.properties.satisfy(requirements))
}

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;
