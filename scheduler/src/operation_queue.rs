//! Which Action runs where, and who is told: a state machine without I/O, clock or threads.
//!
//! Every method takes the time and gives back [`Effect`]s for the caller to carry out, in order. Nothing else
//! leaves the machine, so every interleaving of clients, workers and time can be tested as a list of calls.
//!
//! ```text
//!            execute            place                 complete               finish
//!  (nothing) ───────▶ Queued ─────────▶ Executing ─────────────▶ Recording ─────────▶ Completed
//!                       ▲  │                │  worker lost           │
//!                       └──┼────────────────┴────── requeue ◀────────┘
//!                          └─▶ no worker for too long, or lost too often ───────────▶ Completed
//! ```
//!
//! An operation whose clients have all gone is forgotten from Queued and Executing after a grace time; its worker
//! is told to cancel and keeps the slot until it says that the Action has ended.

mod action;
mod deadlines;
mod effect;
mod occupancy;
mod operation;
mod timeouts;
mod waiting_actions;
mod worker;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bitzel_proto::worker::Hello;

pub use action::{ActionKey, QueuedAction};
pub use effect::{Effect, Outcome, Progress, Update};
pub use occupancy::Occupancy;
pub use operation::OperationId;
pub use worker::{LeaseId, WorkerId};

use deadlines::Deadlines;
use operation::{Operation, Stage};
use waiting_actions::WaitingActions;
use worker::{Leased, Worker};

use super::clock::Time;
use super::error::ExecutionError;
use super::execution_config::ExecutionConfig;
use super::platform::Requirements;

/// A worker reported the end of a lease: the caller records the result, then calls [`OperationQueue::finish`].
#[derive(Debug)]
pub struct Completion {
    /// The operation to finish.
    pub operation: OperationId,
    /// What ran.
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
    last_ticket: u64,
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
            last_ticket: 0,
        }
    }

    /// A client wants `action` run. Joins an operation in flight where that is allowed; otherwise `fresh_id` becomes
    /// the name of a new one. The client counts as attached to the operation that is returned.
    ///
    /// `not_yet_visible` is `skip_cache_lookup`: the result must not have been visible before this request, so an
    /// operation whose result is just being written is not joined.
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
        if self.waiting.len() >= self.config.queue_limit {
            let limit = self.config.queue_limit;
            return Err(ExecutionError::QueueFull { limit });
        }
        self.last_ticket += 1;
        let operation = Operation::new(now, self.last_ticket, action);
        if !operation.action.do_not_cache {
            self.in_flight.insert(operation.action.key.clone(), fresh_id);
        }
        let mut effects = vec![operation.publish(fresh_id, Progress::Queued)];
        self.operations.insert(fresh_id, operation);
        self.place(now, fresh_id, &mut effects);
        Ok((fresh_id, effects))
    }

    /// A client wants to follow an operation that exists already. Whether there is one.
    pub fn attach(&mut self, id: OperationId) -> bool {
        let Some(operation) = self.operations.get_mut(&id) else {
            return false;
        };
        operation.clients += 1;
        operation.abandoned_since = None;
        true
    }

    /// A client that was attached has gone.
    pub fn detach(&mut self, now: Time, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.clients = operation.clients.saturating_sub(1);
        if operation.clients > 0 || matches!(operation.stage, Stage::Completed) {
            return;
        }
        operation.abandoned_since = Some(now);
        operation.arm_abandoned(&mut self.deadlines, id, now + self.config.abandoned_grace);
    }

    /// A worker has come.
    pub fn register_worker(&mut self, hello: &Hello) -> (WorkerId, Vec<Effect>) {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let worker = Worker::new(hello);
        self.waiting.served_by(&worker.offer);
        self.workers.insert(id, worker);
        let mut effects = vec![];
        self.fill(id, &mut effects);
        (id, effects)
    }

    /// A worker takes no more leases; it is closed once it has none.
    pub fn drain_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let mut effects = vec![];
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.draining = true;
            self.find_unserved(now);
            self.close_if_drained(id, &mut effects);
        }
        effects
    }

    /// A worker has gone: what it was running goes to others, or fails when that has happened too often.
    pub fn lose_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let mut effects = vec![];
        let Some(worker) = self.workers.remove(&id) else {
            return effects;
        };
        self.find_unserved(now);
        let mut orphans: Vec<_> = worker.leases.values().filter_map(Leased::operation).collect();
        orphans.sort_by_key(|id| self.operations.get(id).map(Operation::ticket));
        for operation in orphans {
            let attempt = format!("worker {} was lost", worker.name);
            self.requeue(now, operation, attempt, &mut effects);
        }
        effects
    }

    /// A worker says how far an Action has got. Only `QUEUED` (it still fetches inputs) and `EXECUTING` mean
    /// something; the rest is the server's to say.
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

    /// A worker says that a lease has ended, which frees the slot. `None` when nobody waits for the result: the lease
    /// is unknown, has ended before, or was cancelled.
    pub fn complete(&mut self, worker: WorkerId, lease: LeaseId) -> (Option<Completion>, Vec<Effect>) {
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
            Some(Completion {
                operation: id,
                action: operation.action.clone(),
            })
        });
        self.fill(worker, &mut effects);
        self.close_if_drained(worker, &mut effects);
        (completion, effects)
    }

    /// The result of a [`Completion`] is safe: tells everybody.
    pub fn finish(&mut self, now: Time, id: OperationId, outcome: Outcome) -> Vec<Effect> {
        let mut effects = vec![];
        if self.is_recording(id) {
            self.conclude(now, id, outcome, &mut effects);
        }
        effects
    }

    /// The result of a [`Completion`] says that the worker, not the Action, failed: tries again. `attempt` says what
    /// happened, with the worker's name.
    pub fn retry(&mut self, now: Time, id: OperationId, attempt: String) -> Vec<Effect> {
        let mut effects = vec![];
        if self.is_recording(id) {
            self.requeue(now, id, attempt, &mut effects);
        }
        effects
    }

    /// The operation that a request for `action` may join.
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

    /// Lets an operation that a more urgent request has joined move forward.
    fn raise_priority(&mut self, id: OperationId, priority: i32) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if priority >= operation.priority {
            return;
        }
        let requirements = &operation.action.requirements;
        let waiting = self.waiting.remove(requirements, operation.ticket());
        operation.priority = priority;
        if let Some(waiting) = waiting {
            self.waiting.insert(requirements, operation.ticket(), waiting);
        }
    }

    /// Gives a queued operation to a worker with a free slot, the least busy one, or lets it wait.
    fn place(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let requirements = &operation.action.requirements;
        let candidates = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.has_room_for(requirements));
        if let Some((&worker, _)) = candidates.min_by_key(|(_, worker)| worker.leases.len()) {
            self.assign(worker, id, effects);
            return;
        }
        let served = serves(&self.workers, requirements);
        operation.waiting_since = now;
        self.waiting.insert(requirements, operation.ticket(), id);
        if !served {
            self.waiting.set_unserved(requirements, now);
            operation.arm_no_worker(&mut self.deadlines, id, now + self.config.no_worker_timeout);
        }
    }

    /// Gives a worker what waits for it, most urgent first, until it is full.
    fn fill(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        while let Some(worker) = self.workers.get(&id).filter(|worker| worker.has_room()) {
            let Some(operation) = self.waiting.pop_first(&worker.offer) else {
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
        worker.leases.insert(lease, Leased::Operation(id));
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

    /// An attempt came to nothing.
    fn requeue(&mut self, now: Time, id: OperationId, attempt: String, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.attempts.push(attempt);
        if operation.attempts.len() >= self.config.maximum_attempts {
            let attempts = std::mem::take(&mut operation.attempts);
            let outcome = Outcome::Failed(ExecutionError::AttemptsExhausted { attempts });
            self.conclude(now, id, outcome, effects);
            return;
        }
        operation.stage = Stage::Queued;
        if operation.abandoned_since.is_some() {
            // The deadline may have come while the result was being recorded, when there was nothing to cancel.
            operation.arm_abandoned(&mut self.deadlines, id, now);
        }
        effects.push(operation.publish(id, Progress::Queued));
        self.place(now, id, effects);
    }

    fn conclude(&mut self, now: Time, id: OperationId, outcome: Outcome, effects: &mut Vec<Effect>) {
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

    /// A `skip_cache_lookup` request may have put a later operation in the place of `id`.
    fn leave_in_flight(&mut self, key: &ActionKey, id: OperationId) {
        if self.in_flight.get(key) == Some(&id) {
            self.in_flight.remove(key);
        }
    }
}

/// Whether some worker could run Actions with these requirements once it has a free slot.
fn serves(workers: &BTreeMap<WorkerId, Worker>, requirements: &Requirements) -> bool {
    let mut workers = workers.values();
    workers.any(|worker| !worker.draining && worker.offer.meets(requirements))
}

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;
