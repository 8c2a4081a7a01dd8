//! Leases that workers hand back.

use std::time::Duration;

use super::OperationQueue;
use super::deadlines::Deadline;
use super::effect::Effect;
use super::ids::{LeaseId, WorkerId};
use super::waiting_actions::LeaseEnd;
use crate::clock::Time;

/// Time for which a worker that handed a lease back gets no others. Without it, a worker whose disk is full would get
/// one waiting Action after the other, because it is always the first with a free slot. Each further lease that it hands
/// back without completing one doubles the time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest of these pauses.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// Number of times that one worker may hand back one Action. More often, there is no better worker for it.
const MAX_RETURNS_BY_ONE_WORKER: usize = 3;
/// Number of times that all workers may hand back one Action.
const MAX_RETURNS: usize = 10;

/// Maximum length of the reason for which a worker handed a lease back.
const MAX_REASON_BYTES: usize = 1024;

impl OperationQueue {
    /// Takes a lease back from a worker that has too few resources for an Action. The Action goes to another worker, or
    /// to the same one after a pause. That is no failed attempt of the Action, but it fails if it is handed back again and
    /// again. `reason` is the worker's.
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
            self.waiting.settle(now, charge, LeaseEnd::Returned);
        }
        let returned = self
            .workers
            .get(worker_id)
            .map_or(0, |worker| worker.returned_leases);
        let pause = FIRST_PAUSE.saturating_mul(1 << returned.min(10)).min(MAX_PAUSE);
        self.give_up_reservation(worker_id);
        self.workers.pause(worker_id, now + pause);
        self.withdraw_upcoming(worker_id, &mut effects);
        self.deadlines.arm(now + pause, Deadline::PauseEnds(worker_id));
        let runs_elsewhere = ended
            .operation
            .is_some_and(|id| self.go_on_with_other(id, lease, &mut effects));
        if let (Some(worker), Some(id)) = (self.workers.get(worker_id), ended.operation)
            && !runs_elsewhere
            && let Some(operation) = self.operations.get_mut(&id)
        {
            operation.last_lease = None;
            let name = worker.name().clone();
            let description = format!("worker {name} handed it back: {}", cut(reason));
            operation.returns.push((name.clone(), description));
            let by_this_worker = operation.returns.iter().filter(|(by, _)| *by == name).count();
            if by_this_worker >= MAX_RETURNS_BY_ONE_WORKER || operation.returns.len() >= MAX_RETURNS {
                self.give_up(now, id, &mut effects);
            } else {
                self.queue_again(now, id, &mut effects);
            }
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
