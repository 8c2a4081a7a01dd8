//! Snapshot of the farm for people.

use std::sync::Arc;
use std::time::Duration;

use bitzel_proto::reapi::Platform;

use super::action::QueuedAction;
use super::worker::Worker;
use super::{OperationId, OperationQueue};
use crate::clock::Time;
use crate::platform::RequiredProperties;

/// Workers and Actions at one time.
#[derive(Debug)]
pub struct Snapshot {
    /// Workers, in the order of their registration.
    pub workers: Vec<WorkerSnapshot>,
    /// Groups of waiting Actions, without order.
    pub waiting: Vec<WaitingGroup>,
    /// All waiting Actions, each once.
    pub waiting_actions: usize,
}

/// A worker and what it runs.
#[derive(Debug)]
pub struct WorkerSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// Its pool; empty if it has none.
    pub pool: Arc<str>,
    /// Number of its slots.
    pub slots: usize,
    /// True if it takes no more Actions.
    pub draining: bool,
    /// Time for which it gets none, because it handed some back.
    pub paused: Duration,
    /// Properties that it offers.
    pub platform: Arc<Platform>,
    /// Actions in its slots.
    pub running: Vec<RunningAction>,
}

/// An Action in a slot of a worker.
#[derive(Debug)]
pub struct RunningAction {
    /// The Action. `None` if it was cancelled and has not ended yet.
    pub action: Option<Arc<QueuedAction>>,
    /// Time since it has the slot.
    pub running: Duration,
}

/// Waiting Actions of one user that require the same properties.
#[derive(Debug)]
pub struct WaitingGroup {
    /// Name of the user.
    pub user: Arc<str>,
    /// The properties.
    pub requirements: RequiredProperties,
    /// Number of the Actions.
    pub actions: usize,
    /// Time that the next one has waited.
    pub waited: Duration,
    /// The next one.
    pub next: Arc<QueuedAction>,
    /// True if no worker, busy or not, offers the properties.
    pub unserved: bool,
}

impl OperationQueue {
    /// Takes a snapshot. It costs time for each worker and each group, not for each waiting Action.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        Snapshot {
            workers: self
                .workers
                .iter()
                .map(|worker| self.worker(now, worker))
                .collect(),
            waiting: self.waiting_groups(now),
            waiting_actions: self.waiting_operations,
        }
    }

    fn worker(&self, now: Time, worker: &Worker) -> WorkerSnapshot {
        let action = |id: OperationId| Some(self.operations.get(&id)?.action.clone());
        let mut running: Vec<_> = worker
            .leases
            .values()
            .map(|lease| RunningAction {
                action: lease.operation.and_then(action),
                running: now.since(lease.since),
            })
            .collect();
        running.sort_by_key(|action| std::cmp::Reverse(action.running));
        WorkerSnapshot {
            name: worker.name().clone(),
            pool: worker.pool.clone(),
            slots: worker.slots,
            draining: worker.draining,
            paused: worker
                .paused_until
                .map_or(Duration::ZERO, |until| until.since(now)),
            platform: worker.platform.clone(),
            running,
        }
    }

    fn waiting_groups(&self, now: Time) -> Vec<WaitingGroup> {
        let groups = self.waiting.groups();
        groups
            .filter_map(|group| {
                let next = self.operations.get(&group.next)?;
                Some(WaitingGroup {
                    user: group.user,
                    requirements: group.demand.properties.clone(),
                    actions: group.actions,
                    waited: now.since(next.waiting_since),
                    next: next.action.clone(),
                    unserved: group.unserved,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
