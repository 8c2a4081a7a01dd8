//! Workers whose streams have ended, until they come back or count as lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::OperationQueue;
use super::deadlines::Deadline;
use super::effect::{Effect, OperationOutcome};
use super::ids::{HolderProof, LeaseHolder, LeaseId, OperationId, WorkerId};
use super::operation::Stage;
use super::registration::Route;
use super::waiting_actions::LeaseEnd;
use super::worker::Worker;
use crate::clock::Time;

/// Workers whose streams have ended and whose Actions may go on.
pub(super) type Disconnected = BTreeMap<WorkerId, DisconnectedWorker>;

/// A worker whose stream has ended.
#[derive(Debug)]
pub(super) struct DisconnectedWorker {
    holder: LeaseHolder,
    /// Its operations, with their leases, in the order of the queue.
    operations: Vec<(OperationId, LeaseId)>,
}

impl OperationQueue {
    /// Removes a worker whose stream has ended. That may be its end, or only that of the connection or of a server that
    /// forwarded it. So its Actions stay with it until it could have come back, and count as lost after that.
    pub fn disconnect_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let timeout = match self.workers.get(id).map(|worker| worker.route) {
            None | Some(Route::SameProcess) => return self.lose_worker(now, id),
            Some(Route::Direct) => self.config.worker_reconnect_timeout,
            // Worker and leader notice the loss of a server between them at different times.
            Some(Route::Forwarded) => self
                .config
                .reconnect_timeout
                .max(self.config.worker_reconnect_timeout),
        };
        let mut effects = vec![];
        let Some((worker, operations)) = self.remove_worker(now, id, &mut effects) else {
            return effects;
        };
        let mut detached = vec![];
        for id in operations {
            let Some(operation) = self.operations.get_mut(&id) else {
                continue;
            };
            if let Stage::Executing { lease, .. } = operation.stage {
                operation.stage = Stage::Detached {
                    worker: worker.name().clone(),
                    after_restart: false,
                };
                detached.push((id, lease));
            }
        }
        if !detached.is_empty() {
            let disconnected = DisconnectedWorker {
                holder: worker.holder,
                operations: detached,
            };
            self.disconnected.insert(id, disconnected);
            self.deadlines.arm(now + timeout, Deadline::Reconnection(id));
        }
        effects
    }

    /// Removes a lost worker. Its Actions go to other workers, fail after the maximum number of attempts, or go into
    /// quarantine if they have lost too many workers.
    pub(super) fn lose_worker(&mut self, now: Time, id: WorkerId) -> Vec<Effect> {
        let mut effects = vec![];
        if let Some((worker, operations)) = self.remove_worker(now, id, &mut effects) {
            for id in operations {
                self.lose_operation(now, id, worker.name(), &mut effects);
            }
        }
        effects
    }

    /// Gives the Actions of a disconnected worker to others: it did not come back in time.
    pub(super) fn check_reconnection(&mut self, now: Time, id: WorkerId, effects: &mut Vec<Effect>) {
        if let Some(worker) = self.disconnected.remove(&id) {
            self.lose_detached(now, worker, effects);
        }
    }

    /// Gives those Actions to others that a worker does not report that has come back: it was started anew, or never got
    /// them. Those that it reports are adopted before.
    pub(super) fn lose_unreported(&mut self, now: Time, proof: HolderProof, effects: &mut Vec<Effect>) {
        let of_instance = self
            .disconnected
            .iter()
            .filter(|(_, worker)| worker.holder.proof == proof);
        let ids: Vec<_> = of_instance.map(|(id, _)| *id).collect();
        for id in ids {
            self.check_reconnection(now, id, effects);
        }
    }

    fn lose_detached(&mut self, now: Time, worker: DisconnectedWorker, effects: &mut Vec<Effect>) {
        for (id, lease) in worker.operations {
            let operation = self.operations.get(&id);
            let is_detached = operation.is_some_and(|operation| {
                let last = operation.last_lease.as_ref();
                matches!(operation.stage, Stage::Detached { .. })
                    && last.is_some_and(|(last, _)| *last == lease)
            });
            if is_detached {
                self.lose_operation(now, id, &worker.holder.worker, effects);
            }
        }
    }

    /// Removes a worker. Returns it and its operations, in the order of the queue, without those that run elsewhere too.
    fn remove_worker(
        &mut self,
        now: Time,
        id: WorkerId,
        effects: &mut Vec<Effect>,
    ) -> Option<(Worker, Vec<OperationId>)> {
        self.give_up_reservation(id);
        self.upcoming.remove_worker(id);
        let worker = self.workers.remove(id)?;
        self.waiting.set_slots(&self.workers);
        self.find_unserved(now);
        self.refill_later(now);
        for lease in worker.leases.values() {
            if let Some(charge) = &lease.charge {
                self.waiting.settle(now, charge, LeaseEnd::WorkerLost);
            }
        }
        let leases = worker.leases.iter();
        let mut operations: Vec<_> = leases
            .filter_map(|(lease, held)| Some((*lease, held.operation?)))
            .collect();
        operations.retain(|(lease, id)| !self.go_on_with_other(*id, *lease, effects));
        let mut operations: Vec<_> = operations.into_iter().map(|(_, id)| id).collect();
        let priority = &self.config.priority;
        operations.sort_by_key(|id| {
            self.operations
                .get(id)
                .map(|operation| operation.position(priority))
        });
        Some((worker, operations))
    }

    /// Queues the operation of a lost worker again, or fails it.
    fn lose_operation(&mut self, now: Time, id: OperationId, worker: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let key = &operation.action.key;
        match self.quarantine.worker_lost(now, key, worker.clone()) {
            Some(error) => self.conclude(now, id, OperationOutcome::Failed(error), effects),
            None => self.requeue(now, id, format!("worker {worker} was lost"), effects),
        }
    }
}
