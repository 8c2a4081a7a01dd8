//! Recovery after a restart: operations come from the journal, and their workers come back with their leases. Workers whose
//! streams have ended come back in the same way.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::OperationQueue;
use super::completed_operations::CompletedOperation;
use super::deadlines::Deadline;
use super::effect::{Effect, Progress};
use super::ids::{HolderProof, LeaseId, OperationId, WorkerId};
use super::operation::{Operation, Stage};
use super::record::{RestoredOperation, RestoredState};
use super::worker::{Lease, Worker};
use crate::clock::Time;
use crate::resources::Resources;

impl OperationQueue {
    /// Restores operations into an empty queue. `epoch` is larger than that of every earlier run of the server; it makes
    /// the numbers of leases larger than all earlier ones.
    ///
    /// Clients and workers have `reconnect_timeout` to come back. After that, operations without a client are forgotten, and
    /// those whose worker did not come back are queued again.
    pub fn restore(&mut self, now: Time, epoch: u32, mut operations: Vec<RestoredOperation>) -> Vec<Effect> {
        self.last_lease = u64::from(epoch) << 32;
        operations.sort_by_key(|restored| restored.action.queued);
        let abandoned_timeout = self.config.abandoned_timeout;
        let grace = self.config.reconnect_timeout.saturating_sub(abandoned_timeout);
        let mut effects = vec![];
        for restored in operations {
            let id = restored.operation;
            self.last_arrival += 1;
            let demand = self.demand(&restored.action, 0);
            let mut operation = Operation::new(now, self.last_arrival, restored.action, demand);
            operation.clients = 0;
            operation.attempts = restored.attempts;
            if let RestoredState::Completed(outcome) = restored.state {
                operation.stage = Stage::Completed;
                self.completed.push(CompletedOperation {
                    at: now,
                    operation: id,
                    user: operation.action.requester.user.clone(),
                    bytes: outcome.encoded_len(),
                });
                effects.push(operation.publish(id, Progress::Completed(Arc::new(outcome))));
                self.operations.insert(id, operation);
                continue;
            }
            operation.abandoned_since = Some(now + grace);
            operation.arm_abandoned(&mut self.deadlines, id, now + grace + abandoned_timeout);
            if !operation.action.do_not_cache {
                self.in_flight.insert(operation.action.key.clone(), id);
            }
            if let RestoredState::Leased { lease, holder } = restored.state {
                operation.last_lease = Some((lease, holder.proof));
                let worker = holder.worker;
                let progress = Progress::Executing {
                    worker: worker.clone(),
                };
                effects.push(operation.publish(id, progress));
                operation.stage = Stage::Detached {
                    worker,
                    after_restart: true,
                };
                let adoption = Deadline::Adoption(id);
                self.deadlines.arm(now + self.config.reconnect_timeout, adoption);
                self.operations.insert(id, operation);
            } else {
                effects.push(operation.publish(id, Progress::Queued));
                self.operations.insert(id, operation);
                self.place(now, id, &mut effects);
            }
        }
        effects
    }

    /// Takes up the leases that a worker held on an earlier stream. One is adopted if the operation still waits for exactly
    /// this lease, or if the end of the earlier stream was not noticed yet; all others are cancelled.
    pub(super) fn take_up_leases(
        &mut self,
        now: Time,
        worker: WorkerId,
        leases: &[(OperationId, LeaseId)],
        effects: &mut Vec<Effect>,
    ) {
        let Some(holder) = self.workers.get(worker).map(|worker| worker.holder.clone()) else {
            return;
        };
        let mut superseded = BTreeSet::new();
        for &(id, lease) in leases {
            let is_taken_up = |worker: &Worker| worker.leases.contains_key(&lease);
            if self.workers.get(worker).is_some_and(is_taken_up) {
                continue;
            }
            if let Some(operation) = self.operations.get(&id)
                && !matches!(operation.stage, Stage::Detached { .. })
                && self.holder_of(id, lease, holder.proof).is_none()
            {
                // It counts as lost already.
                self.quarantine
                    .worker_came_back(&operation.action.key, &holder.worker);
            }
            if self.adopts(id, lease, holder.proof) {
                self.adopt(now, worker, id, lease, effects);
            } else if let Some(old) = self
                .holder_of(id, lease, holder.proof)
                .filter(|old| *old != worker)
            {
                self.move_lease(old, worker, id, lease);
                superseded.insert(old);
            } else {
                let cancelled = Lease {
                    operation: None,
                    charge: None,
                    since: now,
                    resources: Resources::default(),
                };
                self.workers.add_lease(worker, lease, cancelled);
                let operation = id;
                effects.push(Effect::Cancel {
                    worker,
                    operation,
                    lease,
                });
            }
        }
        for old in superseded {
            effects.push(Effect::Close { worker: old });
            effects.extend(self.lose_worker(now, old));
        }
        self.lose_unreported(now, holder.proof, effects);
    }

    /// Earlier registration of this instance of a worker, if it runs an operation under this lease.
    fn holder_of(&self, id: OperationId, lease: LeaseId, proof: HolderProof) -> Option<WorkerId> {
        match self.operations.get(&id)?.stage {
            Stage::Executing { worker, lease: held } if held == lease => {
                let holder = self.workers.get(worker)?;
                (holder.holder.proof == proof).then_some(worker)
            }
            _ => None,
        }
    }

    /// Moves a lease to a later registration of the same worker.
    fn move_lease(&mut self, old: WorkerId, new: WorkerId, id: OperationId, lease: LeaseId) {
        if let (Some(moved), Some(operation)) = (
            self.workers.remove_lease(old, lease),
            self.operations.get_mut(&id),
        ) {
            operation.stage = Stage::Executing { worker: new, lease };
            self.workers.add_lease(new, lease, moved);
        }
    }

    /// True if an operation has no other worker, and this was its last lease, of this instance of a worker.
    fn adopts(&self, id: OperationId, lease: LeaseId, proof: HolderProof) -> bool {
        self.operations.get(&id).is_some_and(|operation| {
            let last = operation.last_lease.as_ref();
            matches!(operation.stage, Stage::Detached { .. } | Stage::Queued)
                && last.is_some_and(|(last, holder)| *last == lease && *holder == proof)
        })
    }

    fn adopt(
        &mut self,
        now: Time,
        worker_id: WorkerId,
        id: OperationId,
        lease: LeaseId,
        effects: &mut Vec<Effect>,
    ) {
        self.dequeue(now, id);
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        if matches!(operation.stage, Stage::Queued) {
            // The worker was not lost after all.
            operation.attempts.pop();
        }
        let position = operation.position(&self.config.priority);
        let charge = operation.requesters.first().map(|requester| {
            let place = self.waiting.join(requester, position);
            self.waiting.charge(now, &place)
        });
        self.hold(now, worker_id, id, lease, charge, effects);
    }

    /// Queues an operation again whose worker did not come back after a restart.
    pub(super) fn check_adoption(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        if let Stage::Detached {
            worker,
            after_restart: true,
        } = &operation.stage
        {
            let attempt = format!("worker {worker} did not come back after a restart of the server");
            self.requeue(now, id, attempt, effects);
        }
    }
}
