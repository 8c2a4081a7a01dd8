//! Leases that workers hand back.

use std::time::Duration;

use super::OperationQueue;
use super::deadlines::Deadline;
use super::effect::Effect;
use super::ids::{LeaseId, WorkerId};
use crate::clock::Time;

/// Time for which a worker that handed a lease back gets no others. Without it, a worker whose disk is full would get
/// one waiting Action after the other, because it is always the first with a free slot.
const EXHAUSTED_WORKER_PAUSE: Duration = Duration::from_secs(10);

/// Maximum length of the reason for which a worker handed a lease back.
const MAX_REASON_BYTES: usize = 1024;

impl OperationQueue {
    /// Takes a lease back from a worker that has too few resources for an Action. The Action goes to another worker, or
    /// to the same one after a pause, or fails after the maximum number of attempts. `reason` is the worker's.
    pub fn return_lease(
        &mut self,
        now: Time,
        worker_id: WorkerId,
        lease: LeaseId,
        reason: &str,
    ) -> Vec<Effect> {
        let mut effects = vec![];
        let Some(ended) = self.workers.remove_lease(worker_id, lease) else {
            return effects;
        };
        if let Some(charge) = &ended.charge {
            self.waiting.settle(now, charge, true);
        }
        let until = now + EXHAUSTED_WORKER_PAUSE;
        self.workers.pause(worker_id, until);
        self.deadlines.arm(until, Deadline::PauseEnds(worker_id));
        if let (Some(worker), Some(operation)) = (self.workers.get(worker_id), ended.operation) {
            if let Some(operation) = self.operations.get_mut(&operation) {
                operation.last_lease = None;
            }
            let reason = cut(reason);
            let attempt = format!("worker {} handed it back: {reason}", worker.name);
            self.requeue(now, operation, attempt, &mut effects);
        }
        self.close_if_drained(worker_id, &mut effects);
        effects
    }

    /// Gives leases to a worker again if its pause is over.
    pub(super) fn end_pause(&mut self, now: Time, id: WorkerId, effects: &mut Vec<Effect>) {
        if self.workers.end_pause(now, id) {
            self.fill(now, id, effects);
        }
    }
}

/// Start of a worker's reason: it is kept with the operation and in the journal.
fn cut(reason: &str) -> &str {
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    &reason[..end]
}
