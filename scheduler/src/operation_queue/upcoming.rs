//! Upcoming Actions of workers: those that a worker is likely to get next, so that it fetches their inputs while others run.
//!
//! It is a hint. The worker gets no lease, so nothing has to be handed back, and any worker that becomes free takes the
//! Action that is next by its share. One exception keeps hints worth their bytes: a worker prefers its own upcoming Action
//! to one of the same invocation that is upcoming on another worker, if that is not much ahead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::OperationQueue;
use super::effect::Effect;
use super::ids::{OperationId, WorkerId};
use super::waiting_actions::{Fit, Head, Place};
use super::worker::Worker;

/// Maximum number of upcoming Actions of one worker.
const MAX_UPCOMING_ACTIONS: usize = 16;
/// Time of waiting by which an Action may be ahead of one that is served before it because its inputs are fetched. It is on
/// the scale of [`QueuePosition`](super::waiting_actions::QueuePosition), so it bounds the delay however many go before.
const MAX_OVERTAKEN: Duration = Duration::from_mins(1);
/// Number of workers among which one is looked for when an Action begins to wait.
const MAX_WORKERS_COMPARED: usize = 64;

/// Upcoming Actions of all workers. Each operation is upcoming on one worker at most.
#[derive(Debug, Default)]
pub(super) struct UpcomingActions {
    workers: BTreeMap<WorkerId, WorkerAhead>,
    worker_of: HashMap<OperationId, WorkerId>,
    /// Workers that could have more.
    wanting: BTreeSet<WorkerId>,
    /// Workers whose lists may have changed since they were told.
    changed: BTreeSet<WorkerId>,
}

#[derive(Debug)]
struct WorkerAhead {
    limit: usize,
    operations: Vec<OperationId>,
    /// The list that the worker has.
    told: Vec<OperationId>,
}

impl UpcomingActions {
    /// Adds a worker that wants to know this many Actions.
    pub(super) fn add_worker(&mut self, id: WorkerId, limit: usize) {
        if limit > 0 {
            let ahead = WorkerAhead {
                limit: limit.min(MAX_UPCOMING_ACTIONS),
                operations: vec![],
                told: vec![],
            };
            self.workers.insert(id, ahead);
            self.wanting.insert(id);
        }
    }

    /// Forgets a worker that gets no more Actions.
    pub(super) fn remove_worker(&mut self, id: WorkerId) {
        if let Some(ahead) = self.workers.remove(&id) {
            for operation in ahead.operations {
                self.worker_of.remove(&operation);
            }
            self.wanting.remove(&id);
            self.changed.remove(&id);
        }
    }

    /// Forgets an operation that does not wait any more.
    pub(super) fn forget(&mut self, operation: OperationId) {
        if let Some(worker) = self.worker_of.remove(&operation)
            && let Some(ahead) = self.workers.get_mut(&worker)
        {
            ahead.operations.retain(|other| *other != operation);
            self.wanting.insert(worker);
            self.changed.insert(worker);
        }
    }

    /// Looks for Actions of a worker again with the next effects.
    pub(super) fn look_again(&mut self, id: WorkerId) {
        if let Some(ahead) = self.workers.get(&id) {
            if ahead.operations.len() < ahead.limit {
                self.wanting.insert(id);
            }
            self.changed.insert(id);
        }
    }

    fn of(&self, id: WorkerId) -> &[OperationId] {
        self.workers.get(&id).map_or(&[], |ahead| &ahead.operations)
    }

    fn add(&mut self, id: WorkerId, operation: OperationId) {
        if let Some(ahead) = self.workers.get_mut(&id) {
            ahead.operations.push(operation);
            self.worker_of.insert(operation, id);
            self.changed.insert(id);
            if ahead.operations.len() >= ahead.limit {
                self.wanting.remove(&id);
            }
        }
    }
}

impl OperationQueue {
    /// Makes an operation that begins to wait upcoming on a worker that could have more: one that has its inputs, or else the
    /// first one.
    pub(super) fn find_worker_ahead(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get(&id) else {
            return;
        };
        let demand = &operation.demand;
        let could_run = |worker: WorkerId| {
            let takes = self.workers.get(worker).filter(|worker| takes_actions(worker));
            takes.is_some_and(|worker| worker.could_run(demand) && self.fit(worker, demand) != Fit::Never)
        };
        let wanting = &self.upcoming.wanting;
        let holder = self.trees.holder(&operation.action.input_trees, |worker| {
            wanting.contains(&worker) && could_run(worker)
        });
        let first = || {
            wanting
                .iter()
                .copied()
                .take(MAX_WORKERS_COMPARED)
                .find(|worker| could_run(*worker))
        };
        if let Some(worker) = holder.or_else(first) {
            self.upcoming.add(worker, id);
        }
    }

    /// Completes the lists of upcoming Actions that have changed, and tells them to their workers.
    pub(super) fn tell_upcoming(&mut self, effects: &mut Vec<Effect>) {
        while let Some(id) = self.upcoming.changed.pop_first() {
            while self.upcoming.wanting.contains(&id) {
                let Some(operation) = self.next_beyond_upcoming(id) else {
                    break;
                };
                self.upcoming.add(id, operation);
            }
            self.upcoming.changed.remove(&id);
            self.tell(id, effects);
        }
    }

    /// Takes all upcoming Actions from a worker that gets no Actions for a while.
    pub(super) fn withdraw_upcoming(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        for operation in self.upcoming.of(id).to_vec() {
            self.upcoming.forget(operation);
        }
        self.upcoming.wanting.remove(&id);
        self.upcoming.changed.remove(&id);
        self.tell(id, effects);
    }

    /// Operation that a worker runs instead of `head`, with its place: its own upcoming one of the same invocation, if
    /// `head` is upcoming on another worker.
    pub(super) fn fetched_instead_of(&self, id: WorkerId, head: &Head) -> Option<(OperationId, Place)> {
        let elsewhere = self.upcoming.worker_of.get(&head.operation)?;
        if *elsewhere == id {
            return None;
        }
        let worker = self.workers.get(id)?;
        self.upcoming.of(id).iter().find_map(|upcoming| {
            let operation = self.operations.get(upcoming)?;
            let mut places = operation.places.iter();
            let place = places.find(|place| {
                (place.user, place.invocation) == (head.place.user, head.place.invocation)
                    && place.position.behind(&head.place.position) <= MAX_OVERTAKEN
            })?;
            (self.fit(worker, &operation.demand) == Fit::Now).then_some((*upcoming, *place))
        })
    }

    fn next_beyond_upcoming(&self, id: WorkerId) -> Option<OperationId> {
        let worker = self.workers.get(id).filter(|worker| takes_actions(worker))?;
        let is_taken = |operation| self.upcoming.worker_of.contains_key(&operation);
        self.waiting
            .first_not_taken(&worker.properties, |demand| self.fit(worker, demand), is_taken)
    }

    fn tell(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(ahead) = self.upcoming.workers.get_mut(&id) else {
            return;
        };
        if ahead.told == ahead.operations {
            return;
        }
        ahead.told.clone_from(&ahead.operations);
        let operations = ahead.operations.iter();
        let actions = operations.filter_map(|operation| Some(self.operations.get(operation)?.action.clone()));
        effects.push(Effect::Upcoming {
            worker: id,
            actions: actions.collect(),
        });
    }
}

/// True if a worker gets Actions when it has a free slot.
fn takes_actions(worker: &Worker) -> bool {
    !worker.draining && worker.paused_until.is_none()
}

#[cfg(test)]
mod tests;
