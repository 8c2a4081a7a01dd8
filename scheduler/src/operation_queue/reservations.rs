//! Workers that are kept free for large Actions.
//!
//! When a slot becomes free and the Action that is next by its share is too large for it, a smaller one goes before it: a
//! slot that waits serves nobody. So that the large one does not wait for ever, one worker takes nothing else after a
//! time, until the large Action fits or runs elsewhere.

use super::OperationQueue;
use super::deadlines::Deadline;
use super::demand::Demand;
use super::ids::{OperationId, WorkerId};
use super::operation::Stage;
use super::waiting_actions::{Fit, Head, Place};
use super::worker::Worker;
use crate::clock::Time;

impl OperationQueue {
    /// Operation that a worker with a free slot runs next, with its place.
    pub(super) fn next_for(&mut self, now: Time, id: WorkerId) -> Option<(OperationId, Place)> {
        let worker = self.workers.get(id).filter(|worker| worker.has_free_slot())?;
        if let Some(reserved) = worker.reserved_for {
            if let Some(operation) = self.operations.get(&reserved)
                && let Some(place) = operation.places.first()
            {
                let fits = self.fit(worker, &operation.demand) == Fit::Now;
                return fits.then_some((reserved, *place));
            }
            self.workers.reserve(id, None);
        }
        let worker = self.workers.get(id)?;
        let heads = self
            .waiting
            .first(&worker.properties, |demand| self.fit(worker, demand));
        if let Some(too_large) = heads.too_large
            && heads
                .fitting
                .is_none_or(|fitting| too_large.key() < fitting.key())
            && self.is_reserved_for(now, id, &too_large)
        {
            return None;
        }
        let head = heads.fitting?;
        Some(
            self.fetched_instead_of(id, &head)
                .unwrap_or((head.operation, head.place)),
        )
    }

    /// Tells if a worker has the resources for a demand.
    pub(super) fn fit(&self, worker: &Worker, demand: &Demand) -> Fit {
        worker.fit(&self.workers.need(worker, demand))
    }

    /// Keeps a worker free for an operation that is next by its share and too large, if it has waited long enough for
    /// that and no other worker is kept free for it. True if the worker is.
    fn is_reserved_for(&mut self, now: Time, worker: WorkerId, head: &Head) -> bool {
        let Some(operation) = self.operations.get_mut(&head.operation) else {
            return false;
        };
        let since = *operation.passed_over_since.get_or_insert(now);
        if operation.reserved.is_some() || now.since(since) < self.config.resources.reservation_after {
            return false;
        }
        operation.reserved = Some(worker);
        self.workers.reserve(worker, Some(head.operation));
        true
    }

    /// Ends the reservation of a worker for an operation that does not wait any more. The worker gets others at the next
    /// tick, which is due at once.
    pub(super) fn end_reservation(&mut self, now: Time, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else {
            return;
        };
        operation.passed_over_since = None;
        if let Some(worker) = operation.reserved.take() {
            self.workers.reserve(worker, None);
            self.deadlines.arm(now, Deadline::Refill(worker));
        }
    }

    /// Ends the reservation of a worker that gets no more Actions: another one may be kept free.
    pub(super) fn give_up_reservation(&mut self, worker: WorkerId) {
        let reserved = self.workers.get(worker).and_then(|worker| worker.reserved_for);
        if let Some(id) = reserved {
            self.workers.reserve(worker, None);
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.reserved = None;
            }
        }
    }

    /// Lets all workers with a free slot look for Actions at the next tick, which is due at once: the largest worker has
    /// gone, and what was expected to need it now goes to the next one.
    pub(super) fn refill_later(&mut self, now: Time) {
        if self.waiting_operations > 0 {
            for worker in self.workers.open() {
                self.deadlines.arm(now, Deadline::Refill(worker));
            }
        }
    }

    /// True if an operation waits in the queue.
    pub(super) fn is_queued(&self, id: OperationId) -> bool {
        let operation = self.operations.get(&id);
        operation.is_some_and(|operation| matches!(operation.stage, Stage::Queued))
    }
}

#[cfg(test)]
mod tests;
