//! Placement of operations: on workers, or in the queues of their requesters.

use super::OperationQueue;
use super::action::QueuedAction;
use super::demand::Demand;
use super::effect::{Effect, Progress};
use super::ids::{LeaseId, OperationId, WorkerId};
use super::operation::Stage;
use super::record::Record;
use super::registration::Route;
use super::waiting_actions::{Charge, Place};
use super::worker::Lease;
use crate::clock::Time;

/// Maximum number of requesters in whose queues one operation waits. Further ones are served with those.
const MAX_REQUESTERS: usize = 16;
/// Number of leases that the worker with the inputs may have more than the least busy one.
const MAX_MORE_LEASES: usize = 1;

impl OperationQueue {
    /// Assigns a queued operation to the least busy worker with a free slot, or puts it into the queues of its requesters.
    pub(super) fn place(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        // If others with the same demand wait, no worker has room for it.
        let has_queue = self.waiting.has_queue(&operation.demand);
        let free = (!has_queue).then(|| self.workers.least_busy(&operation.demand));
        if let Some(worker) = free.flatten() {
            let worker = self.holder_instead_of(worker, &operation.action.input_trees, &operation.demand);
            let position = operation.position(&self.config.priority);
            if let Some(requester) = operation.requesters.first() {
                let place = self.waiting.join(requester, position);
                self.assign(now, worker, id, place, effects);
            }
            return;
        }
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.waiting_since = now;
        self.add_places(id);
        self.waiting_operations += 1;
        self.find_worker_ahead(id);
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if !self.workers.serves(&operation.demand) {
            self.waiting.set_unserved(&operation.demand, now);
            operation.arm_no_worker(&mut self.deadlines, id, now + self.config.no_worker_timeout);
        }
    }

    /// Worker that has the inputs of an Action, if it can take it at once too and is not much busier than `least_busy`. Else
    /// `least_busy`.
    fn holder_instead_of(&self, least_busy: WorkerId, trees: &[u64], demand: &Demand) -> WorkerId {
        let load = |id| self.workers.get(id).map_or(0, |worker| worker.leases.len());
        let most = load(least_busy) + MAX_MORE_LEASES;
        let may_take = |id| self.workers.may_take(id, demand) && load(id) <= most;
        self.trees.holder(trees, may_take).unwrap_or(least_busy)
    }

    /// Notes that a worker has trees of files: the outputs of an Action that ran there.
    pub fn note_trees(&mut self, worker: WorkerId, trees: &[u64]) {
        if self.workers.get(worker).is_some() {
            self.trees.note(worker, trees);
        }
    }

    /// Assigns waiting operations to a worker, in the order of the shares, until it has no free slot.
    pub(super) fn fill(&mut self, now: Time, id: WorkerId, effects: &mut Vec<Effect>) {
        while let Some((operation_id, place)) = self.next_for(now, id) {
            let Some(operation) = self.operations.get_mut(&operation_id) else {
                break;
            };
            self.waiting_operations -= 1;
            self.upcoming.forget(operation_id);
            for other in std::mem::take(&mut operation.places) {
                if other == place {
                    self.waiting.take(&operation.demand, &place);
                } else {
                    self.waiting.remove(&operation.demand, &other);
                }
            }
            self.end_reservation(now, operation_id);
            self.assign(now, id, operation_id, place, effects);
        }
        self.upcoming.look_again(id);
    }

    /// Adds another request to an operation: the more urgent priority and the longer path count, and the operation also
    /// waits in the queue of the new requester, who might be served sooner.
    pub(super) fn add_request(&mut self, id: OperationId, action: QueuedAction) {
        let QueuedAction {
            requester,
            priority,
            remaining_path,
            ..
        } = action;
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let is_new =
            operation.requesters.len() < MAX_REQUESTERS && !operation.requesters.contains(&requester);
        let is_more_urgent = priority < operation.priority || remaining_path > operation.remaining_path;
        if !is_more_urgent && !is_new {
            return;
        }
        let waits = !operation.places.is_empty();
        let mut moved = vec![];
        if is_more_urgent {
            operation.priority = operation.priority.min(priority);
            operation.remaining_path = operation.remaining_path.max(remaining_path);
            moved = std::mem::take(&mut operation.places);
        }
        if is_new {
            operation.requesters.push(requester);
        }
        if waits {
            // First the new places, then the old ones: an empty queue forgets since when no worker serves it.
            self.add_places(id);
            if let Some(operation) = self.operations.get(&id) {
                for place in &moved {
                    self.waiting.remove(&operation.demand, place);
                }
            }
        }
    }

    /// Adds the places of those requesters that have none.
    fn add_places(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let position = operation.position(&self.config.priority);
        for requester in &operation.requesters[operation.places.len()..] {
            let place = self.waiting.join(requester, position);
            self.waiting.insert(&self.workers, &operation.demand, place, id);
            operation.places.push(place);
        }
    }

    /// Takes an operation out of all queues.
    pub(super) fn dequeue(&mut self, now: Time, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if operation.places.is_empty() {
            return;
        }
        for place in std::mem::take(&mut operation.places) {
            self.waiting.remove(&operation.demand, &place);
        }
        self.waiting_operations -= 1;
        self.upcoming.forget(id);
        self.end_reservation(now, id);
    }

    fn assign(
        &mut self,
        now: Time,
        worker_id: WorkerId,
        id: OperationId,
        place: Place,
        effects: &mut Vec<Effect>,
    ) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let action = operation.action.clone();
        let charge = Some(self.waiting.charge(now, &place));
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        self.hold(now, worker_id, id, lease, charge, effects);
        self.trees.note(worker_id, &action.input_trees);
        self.arm_hedge(now, id);
        effects.push(Effect::Assign {
            worker: worker_id,
            operation: id,
            lease,
            action,
        });
    }

    /// Makes a worker the holder of an operation's lease, new or from an earlier stream, and records it.
    pub(super) fn hold(
        &mut self,
        now: Time,
        worker_id: WorkerId,
        id: OperationId,
        lease: LeaseId,
        charge: Option<Charge>,
        effects: &mut Vec<Effect>,
    ) {
        let (Some(worker), Some(operation)) = (self.workers.get(worker_id), self.operations.get_mut(&id))
        else {
            return;
        };
        operation.stage = Stage::Executing {
            worker: worker_id,
            lease,
        };
        let resources = self.workers.need(worker, &operation.demand);
        let holder = worker.holder.clone();
        let name = holder.worker.clone();
        operation.last_lease = Some((lease, holder.proof));
        if worker.route != Route::SameProcess {
            effects.push(Effect::Record(Record::Leased {
                operation: id,
                lease,
                holder,
            }));
        }
        effects.push(operation.publish(id, Progress::Executing { worker: name }));
        let operation = Some(id);
        let use_of_lease = Lease {
            operation,
            charge,
            since: now,
            resources,
        };
        self.workers.add_lease(worker_id, lease, use_of_lease);
    }
}

#[cfg(test)]
mod tests;
