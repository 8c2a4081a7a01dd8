//! Queues in which operations wait for workers.

use std::collections::{BTreeMap, HashMap};

use super::ids::OperationId;
use crate::clock::Time;
use crate::platform::{OfferedProperties, RequiredProperties};

/// Position in a queue: by priority, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    pub(super) priority: i32,
    pub(super) arrival: u64,
}

/// One queue for each set of required properties, so that a free slot costs one comparison for each set, however many
/// Actions wait.
#[derive(Debug, Default)]
pub(super) struct WaitingActions {
    /// Queues that are not empty.
    queues: HashMap<RequiredProperties, Queue>,
    count: usize,
}

#[derive(Debug, Default)]
struct Queue {
    operations: BTreeMap<QueuePosition, OperationId>,
    /// Time since which no worker, busy or not, could run these operations.
    unserved_since: Option<Time>,
}

impl WaitingActions {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn insert(
        &mut self,
        requirements: &RequiredProperties,
        position: QueuePosition,
        id: OperationId,
    ) {
        let queue = self.queues.entry(requirements.clone()).or_default();
        if queue.operations.insert(position, id).is_none() {
            self.count += 1;
        }
    }

    pub(super) fn remove(
        &mut self,
        requirements: &RequiredProperties,
        position: QueuePosition,
    ) -> Option<OperationId> {
        let queue = self.queues.get_mut(requirements)?;
        let removed = queue.operations.remove(&position)?;
        self.count -= 1;
        if queue.operations.is_empty() {
            self.queues.remove(requirements);
        }
        Some(removed)
    }

    /// Takes the first operation of all queues that a worker with these properties can serve.
    pub(super) fn pop_first(&mut self, offered: &OfferedProperties) -> Option<OperationId> {
        let queues = self
            .queues
            .iter()
            .filter(|(requirements, _)| offered.satisfy(requirements));
        let first =
            queues.filter_map(|(requirements, queue)| Some((*queue.operations.keys().next()?, requirements)));
        let (position, requirements) = first.min_by_key(|(position, _)| *position)?;
        let requirements = requirements.clone();
        self.remove(&requirements, position)
    }

    pub(super) fn unserved_since(&self, requirements: &RequiredProperties) -> Option<Time> {
        self.queues.get(requirements)?.unserved_since
    }

    /// Marks a queue as unserved from `now`, unless it is marked already.
    pub(super) fn set_unserved(&mut self, requirements: &RequiredProperties, now: Time) {
        if let Some(queue) = self.queues.get_mut(requirements) {
            queue.unserved_since.get_or_insert(now);
        }
    }

    /// Marks all queues as served that a new worker with these properties can serve.
    pub(super) fn served_by(&mut self, offered: &OfferedProperties) {
        let queues = self.queues.iter_mut();
        for (_, queue) in queues.filter(|(requirements, _)| offered.satisfy(requirements)) {
            queue.unserved_since = None;
        }
    }

    /// Marks the queues that are no longer served, and returns their operations.
    pub(super) fn find_unserved(
        &mut self,
        now: Time,
        is_served: impl Fn(&RequiredProperties) -> bool,
    ) -> Vec<OperationId> {
        let mut found = vec![];
        for (requirements, queue) in &mut self.queues {
            if queue.unserved_since.is_none() && !is_served(requirements) {
                queue.unserved_since = Some(now);
                found.extend(queue.operations.values());
            }
        }
        found
    }
}
