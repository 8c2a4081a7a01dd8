//! Second copies of Actions that take longer than earlier runs of the same task.
//!
//! When an Action runs for longer than 95 % of the earlier runs, its worker may be slow or stuck. If another worker has a
//! slot that nobody waits for, it gets a second lease of the same Action. The first result counts, and the other lease is
//! cancelled. Second leases are not recorded: after a restart the first one goes on.

use std::time::Duration;

use super::OperationQueue;
use super::deadlines::Deadline;
use super::effect::{Effect, Progress};
use super::ids::{LeaseId, OperationId, WorkerId};
use super::operation::Stage;
use super::record::Record;
use super::registration::Route;
use super::worker::Lease;
use crate::clock::Time;

/// Shortest pause between two looks for a free slot.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Second lease of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SecondLease {
    pub(super) worker: WorkerId,
    pub(super) lease: LeaseId,
}

impl OperationQueue {
    /// Arms the deadline after which an Action that just got a lease takes longer than usual.
    pub(super) fn arm_hedge(&mut self, now: Time, id: OperationId) {
        let hedging = &self.config.hedging;
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.hedge_due = None;
        if hedging.max_percent_of_slots == 0 || operation.action.do_not_cache {
            return;
        }
        let earlier = operation.action.task_name().and_then(|task| self.usage.get(task));
        if let Some(earlier) = earlier.filter(|earlier| earlier.runs >= hedging.min_runs.max(1)) {
            let due = now + earlier.percentile_95().max(hedging.min_time);
            operation.hedge_due = Some(due);
            self.deadlines.arm(due, Deadline::Hedge(id));
        }
    }

    /// Gives a second lease of an Action that takes longer than usual to another worker, if one has a slot for it that
    /// nobody waits for. Otherwise it looks again later.
    pub(super) fn check_hedge(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let Stage::Executing { worker: first, .. } = operation.stage else {
            return;
        };
        // A deadline of an earlier lease has another time.
        let is_due = operation.hedge_due.is_some_and(|due| due <= now);
        if !is_due || operation.second_lease.is_some() {
            return;
        }
        let found = self
            .may_hedge()
            .then(|| self.workers.least_busy_except(&operation.demand, first));
        let Some(worker) = found.flatten() else {
            let again = now + self.config.hedging.min_time.max(MIN_PAUSE);
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.hedge_due = Some(again);
                self.deadlines.arm(again, Deadline::Hedge(id));
            }
            return;
        };
        self.assign_second(now, worker, id, effects);
    }

    /// True if nobody waits, and few enough second copies run.
    fn may_hedge(&self) -> bool {
        let percent = usize::try_from(self.config.hedging.max_percent_of_slots).unwrap_or(usize::MAX);
        let limit = (self.workers.slots().saturating_mul(percent) / 100).max(1);
        self.waiting_operations == 0 && self.second_leases < limit
    }

    fn assign_second(&mut self, now: Time, worker_id: WorkerId, id: OperationId, effects: &mut Vec<Effect>) {
        let (Some(worker), Some(operation)) = (self.workers.get(worker_id), self.operations.get_mut(&id))
        else {
            return;
        };
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        let position = operation.position(&self.config.priority);
        // The requester pays for both slots.
        let charge = operation.requesters.first().map(|requester| {
            let place = self.waiting.join(requester, position);
            self.waiting.charge(now, &place)
        });
        let use_of_lease = Lease {
            operation: Some(id),
            charge,
            since: now,
            resources: self.workers.need(worker, &operation.demand),
        };
        operation.second_lease = Some(SecondLease {
            worker: worker_id,
            lease,
        });
        let action = operation.action.clone();
        self.second_leases += 1;
        self.workers.add_lease(worker_id, lease, use_of_lease);
        effects.push(Effect::Assign {
            worker: worker_id,
            operation: id,
            lease,
            action,
        });
    }

    /// Takes the second lease from an operation.
    fn take_second(&mut self, id: OperationId) -> Option<SecondLease> {
        let second = self.operations.get_mut(&id)?.second_lease.take()?;
        self.second_leases -= 1;
        Some(second)
    }

    /// Cancels the other lease of an operation, if there are two and `ended` is one of them. The result of `ended` counts.
    pub(super) fn cancel_other(&mut self, id: OperationId, ended: LeaseId, effects: &mut Vec<Effect>) {
        let Some(second) = self.take_second(id) else {
            return;
        };
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        let other = if second.lease == ended {
            let first = match operation.stage {
                Stage::Executing { worker, lease } => Some((worker, lease)),
                // Its worker has gone, and gets a Cancel if it comes back.
                _ => None,
            };
            let holder = self.workers.get(second.worker).map(|worker| &worker.holder);
            operation.last_lease = holder.map(|holder| (ended, holder.proof));
            first
        } else {
            Some((second.worker, second.lease))
        };
        if let Some((worker, lease)) = other {
            self.workers.cancel_lease(worker, lease);
            effects.push(Effect::Cancel {
                worker,
                operation: id,
                lease,
            });
        }
    }

    /// Cancels the second lease of an operation that nobody needs any more.
    pub(super) fn cancel_second(&mut self, id: OperationId, effects: &mut Vec<Effect>) {
        if let Some(SecondLease { worker, lease }) = self.take_second(id) {
            self.workers.cancel_lease(worker, lease);
            effects.push(Effect::Cancel {
                worker,
                operation: id,
                lease,
            });
        }
    }

    /// Handles the end of one of two leases without a result: the operation goes on with the other one. True if it does.
    pub(super) fn go_on_with_other(
        &mut self,
        id: OperationId,
        ended: LeaseId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(second) = self.take_second(id) else {
            return false;
        };
        if second.lease == ended {
            return true;
        }
        let (Some(worker), Some(operation)) = (self.workers.get(second.worker), self.operations.get_mut(&id))
        else {
            return false;
        };
        let holder = worker.holder.clone();
        let name = holder.worker.clone();
        operation.stage = Stage::Executing {
            worker: second.worker,
            lease: second.lease,
        };
        operation.last_lease = Some((second.lease, holder.proof));
        if worker.route != Route::SameProcess {
            effects.push(Effect::Record(Record::Leased {
                operation: id,
                lease: second.lease,
                holder,
            }));
        }
        effects.push(operation.publish(id, Progress::Executing { worker: name }));
        true
    }
}

#[cfg(test)]
mod tests;
