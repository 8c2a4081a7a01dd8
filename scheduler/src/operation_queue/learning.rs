//! Learning of the sizes of tasks from the results of workers.

use super::OperationQueue;
use super::action::QueuedAction;
use super::demand::Demand;
use super::effect::Effect;
use super::ids::OperationId;
use super::record::Record;
use super::task_name::TaskName;
use super::usage_history::{HistoryChange, MeasuredUse, TaskUse};
use crate::clock::Time;

/// Factor of the memory of the second attempt to that of the first one, which was too little.
const MEMORY_FACTOR: u64 = 2;

impl OperationQueue {
    /// Takes over what earlier runs of the server have learnt.
    pub fn restore_usage(&mut self, tasks: Vec<(TaskName, TaskUse)>) {
        self.usage.restore(tasks, self.config.resources.max_tasks);
    }

    /// Learns from the result of an Action how much its task uses.
    pub fn learn(&mut self, action: &QueuedAction, measured: &MeasuredUse) -> Vec<Effect> {
        let Some(task) = action.task_name() else {
            return vec![];
        };
        let changes = self.usage.learn(task, measured, self.config.resources.max_tasks);
        records(changes)
    }

    /// Queues an operation again that was ended because it reached a bound of memory, once, if a worker allows more. It
    /// then needs more. False if the result stands; what was learnt helps the next request.
    pub fn retry_with_more_memory(
        &mut self,
        now: Time,
        id: OperationId,
        bound: u64,
        attempt: String,
    ) -> (bool, Vec<Effect>) {
        if !self.is_recording(id) {
            return (false, vec![]);
        }
        let Some(operation) = self.operations.get_mut(&id) else {
            return (false, vec![]);
        };
        let raised = bound.saturating_mul(MEMORY_FACTOR);
        let max_tasks = self.config.resources.max_tasks;
        let learnt = operation.action.task_name();
        let changes = learnt.map(|task| self.usage.raise_memory(task, raised, max_tasks));
        let mut effects = records(changes.unwrap_or_default());
        let largest = self.workers.largest_for(&operation.action.requirements);
        let available = largest.map_or(0, |largest| largest.memory_bytes);
        if operation.raised_memory > 0 || available <= bound {
            return (false, effects);
        }
        operation.raised_memory = raised.min(available);
        operation.last_lease = None;
        operation.attempts.push(attempt);
        self.queue_again(now, id, &mut effects);
        (true, effects)
    }

    /// Demand of an Action on its worker.
    pub(super) fn demand(&self, action: &QueuedAction, raised_memory: u64) -> Demand {
        let mut stated = action.resources;
        stated.memory_bytes = stated.memory_bytes.max(raised_memory);
        let expected = self.usage.expected(action.task_name(), &self.config.resources);
        Demand::new(action.requirements.clone(), stated, expected)
    }
}

fn records(changes: Vec<HistoryChange>) -> Vec<Effect> {
    let record = |HistoryChange { task, task_use }| Effect::Record(Record::Learnt { task, task_use });
    changes.into_iter().map(record).collect()
}

#[cfg(test)]
mod tests;
