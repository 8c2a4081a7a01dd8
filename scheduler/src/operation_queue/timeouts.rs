//! Transitions of the queue at deadlines.

use super::OperationQueue;
use super::deadlines::Deadline;
use super::effect::{Effect, OperationOutcome};
use super::ids::OperationId;
use super::operation::Stage;
use super::record::Record;
use crate::clock::Time;
use crate::error::ExecutionError;
use crate::platform::UnmetRequirements;

impl OperationQueue {
    /// Time of the next call of [`OperationQueue::tick`].
    pub fn next_deadline(&self) -> Option<Time> {
        let oldest = self.completed.oldest();
        let expiry = oldest.map(|completed| completed + self.config.completed_retention);
        self.deadlines.first().into_iter().chain(expiry).min()
    }

    /// Handles all deadlines that are due.
    pub fn tick(&mut self, now: Time) -> Vec<Effect> {
        let mut effects = vec![];
        while let Some(deadline) = self.deadlines.pop_due(now) {
            match deadline {
                Deadline::Abandoned(id) => self.check_abandoned(now, id, &mut effects),
                Deadline::Adoption(id) => self.check_adoption(now, id, &mut effects),
                Deadline::Reconnection(id) => self.check_reconnection(now, id, &mut effects),
                Deadline::NoWorker(id) => self.check_no_worker(now, id, &mut effects),
                Deadline::Hedge(id) => self.check_hedge(now, id, &mut effects),
                Deadline::Refill(id) => self.fill(now, id, &mut effects),
                Deadline::PauseEnds(id) => self.end_pause(now, id, &mut effects),
            }
        }
        self.tell_upcoming(&mut effects);
        self.forget_completed(now, &mut effects);
        effects
    }

    /// Forgets completed operations beyond the retention time, the maximum number and the maximum sizes.
    pub(super) fn forget_completed(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let (retention, number) = (
            self.config.completed_retention,
            self.config.max_completed_operations,
        );
        while let Some(id) = self.completed.take_excess(now, retention, number) {
            self.operations.remove(&id);
            effects.push(Effect::Record(Record::Forgotten { operation: id }));
            effects.push(Effect::Forget { operation: id });
        }
    }

    /// Arms deadlines for waiting Actions that no worker can run any more.
    pub(super) fn find_unserved(&mut self, now: Time) {
        let workers = &self.workers;
        let unserved = self.waiting.find_unserved(now, |demand| workers.serves(demand));
        for id in unserved {
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.arm_no_worker(&mut self.deadlines, id, now + self.config.no_worker_timeout);
            }
        }
    }

    fn check_no_worker(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.no_worker_armed = false;
        let demand = operation.demand.clone();
        let unserved = self.waiting.unserved_since(&demand);
        let (Stage::Queued, Some(unserved)) = (&operation.stage, unserved) else {
            return;
        };
        let since = unserved.max(operation.waiting_since);
        let due = since + self.config.no_worker_timeout;
        if due > now {
            operation.arm_no_worker(&mut self.deadlines, id, due);
            return;
        }
        self.dequeue(now, id);
        let waited = now.since(since);
        let largest = self.workers.largest_for(&demand.properties);
        let requirements = UnmetRequirements::new(demand.properties, self.workers.offers())
            .with_resources(demand.stated, largest);
        let error = ExecutionError::NoWorker { requirements, waited };
        self.conclude(now, id, OperationOutcome::Failed(error), effects);
    }

    fn check_abandoned(&mut self, now: Time, id: OperationId, effects: &mut Vec<Effect>) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.abandoned_armed = false;
        let Some(since) = operation.abandoned_since else {
            return;
        };
        let due = since + self.config.abandoned_timeout;
        if due > now {
            operation.arm_abandoned(&mut self.deadlines, id, due);
            return;
        }
        match operation.stage {
            // If the worker comes back, its lease is cancelled.
            Stage::Detached { .. } => {}
            // The result exists already; it is not thrown away.
            Stage::Recording | Stage::Completed => return,
            Stage::Queued => self.dequeue(now, id),
            Stage::Executing { worker, lease } => {
                self.cancel_second(id, effects);
                self.workers.cancel_lease(worker, lease);
                let operation = id;
                effects.push(Effect::Cancel {
                    worker,
                    operation,
                    lease,
                });
            }
        }
        if let Some(operation) = self.operations.remove(&id) {
            self.leave_in_flight(&operation.action.key, id);
        }
        effects.push(Effect::Record(Record::Forgotten { operation: id }));
        effects.push(Effect::Forget { operation: id });
    }
}
