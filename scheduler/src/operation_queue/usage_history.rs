//! Use of resources by earlier runs of tasks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::task_name::TaskName;
use crate::execution_config::ResourceConfig;
use crate::resources::Resources;

/// Number of durations of a task that are remembered.
pub const MAX_DURATIONS: usize = 32;
/// Denominator of the part by which a remembered amount comes closer to a smaller one with each run.
const DECAY: u64 = 8;
/// Number of first runs of a task that are all recorded.
const FIRST_RUNS: u32 = 4;
/// Number of runs of a task of which at least one is recorded.
const RUNS_PER_RECORD: u32 = 8;

/// Measured use of one run. Zero amounts were not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeasuredUse {
    /// Peak of memory, processors on average, and disk space.
    pub resources: Resources,
    /// Time of the command.
    pub duration: Duration,
}

/// Use of resources by the earlier runs of one task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskUse {
    /// Number of runs.
    pub runs: u32,
    /// Largest amounts. They sink slowly when later runs need less.
    pub resources: Resources,
    /// Durations of the last runs in milliseconds, the oldest first.
    pub milliseconds: Vec<u32>,
}

impl TaskUse {
    fn add(&mut self, measured: &MeasuredUse) {
        self.runs = self.runs.saturating_add(1);
        let (old, new) = (self.resources, measured.resources);
        self.resources = Resources {
            memory_bytes: follow(old.memory_bytes, new.memory_bytes),
            millicpus: follow(old.millicpus, new.millicpus),
            disk_bytes: follow(old.disk_bytes, new.disk_bytes),
        };
        if self.milliseconds.len() >= MAX_DURATIONS {
            self.milliseconds.remove(0);
        }
        let milliseconds = u32::try_from(measured.duration.as_millis()).unwrap_or(u32::MAX);
        self.milliseconds.push(milliseconds);
    }

    /// Duration that 95 % of the remembered runs do not exceed.
    pub fn percentile_95(&self) -> Duration {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100);
        let found = sorted.get(rank.saturating_sub(1)).copied();
        Duration::from_millis(found.unwrap_or_default().into())
    }
}

/// The larger amount at once, a smaller one step by step.
fn follow(old: u64, new: u64) -> u64 {
    if new == 0 || new >= old {
        return old.max(new);
    }
    old - (old - new).div_ceil(DECAY)
}

/// Uses of all known tasks, at most as many as the configuration allows.
#[derive(Debug, Default)]
pub(super) struct UsageHistory {
    tasks: HashMap<TaskName, Remembered>,
    /// Tasks in the order of their last runs.
    order: BTreeMap<u64, TaskName>,
    last_run: u64,
}

#[derive(Debug)]
struct Remembered {
    task_use: TaskUse,
    last_run: u64,
}

/// Change of the history that must survive a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HistoryChange {
    pub(super) task: TaskName,
    /// `None` if the task was forgotten.
    pub(super) task_use: Option<TaskUse>,
}

impl UsageHistory {
    /// Use of a task by its earlier runs.
    pub(super) fn get(&self, task: TaskName) -> Option<&TaskUse> {
        self.tasks.get(&task).map(|remembered| &remembered.task_use)
    }

    /// Amounts that the next run of a task is expected to use: those of earlier runs with a margin, and the configured ones
    /// where nothing was measured.
    pub(super) fn expected(&self, task: Option<TaskName>, config: &ResourceConfig) -> Resources {
        let unknown = config.unknown();
        let Some(earlier) = task.and_then(|task| self.get(task)) else {
            return unknown;
        };
        let margin = |amount: u64| {
            let percent = u128::from(config.margin_percent) + 100;
            u64::try_from(u128::from(amount) * percent / 100).unwrap_or(u64::MAX)
        };
        let or_unknown = |measured: u64, unknown: u64| if measured == 0 { unknown } else { measured };
        let earlier = earlier.resources;
        Resources {
            memory_bytes: or_unknown(margin(earlier.memory_bytes), unknown.memory_bytes),
            millicpus: or_unknown(earlier.millicpus, unknown.millicpus),
            disk_bytes: or_unknown(margin(earlier.disk_bytes), unknown.disk_bytes),
        }
    }

    /// Learns from a run. Returns the changes to record: not all of them, because most runs change little.
    pub(super) fn learn(
        &mut self,
        task: TaskName,
        measured: &MeasuredUse,
        max_tasks: usize,
    ) -> Vec<HistoryChange> {
        let before = self
            .get(task)
            .map_or(Resources::default(), |known| known.resources);
        let Some(task_use) = self.touch(task, max_tasks) else {
            return vec![];
        };
        task_use.add(measured);
        let is_new_size = task_use.resources.rounded_up() != before.rounded_up();
        let is_due = task_use.runs <= FIRST_RUNS || task_use.runs.is_multiple_of(RUNS_PER_RECORD);
        let task_use = (is_new_size || is_due).then(|| task_use.clone());
        let learnt = task_use.map(|task_use| HistoryChange {
            task,
            task_use: Some(task_use),
        });
        learnt.into_iter().chain(self.forget(max_tasks)).collect()
    }

    /// Notes that a task needs at least this much memory: it ended with less.
    pub(super) fn raise_memory(
        &mut self,
        task: TaskName,
        memory_bytes: u64,
        max_tasks: usize,
    ) -> Vec<HistoryChange> {
        let Some(task_use) = self.touch(task, max_tasks) else {
            return vec![];
        };
        task_use.resources.memory_bytes = task_use.resources.memory_bytes.max(memory_bytes);
        let raised = HistoryChange {
            task,
            task_use: Some(task_use.clone()),
        };
        [raised].into_iter().chain(self.forget(max_tasks)).collect()
    }

    /// Takes over what an earlier run of the server has recorded.
    pub(super) fn restore(&mut self, tasks: Vec<(TaskName, TaskUse)>, max_tasks: usize) {
        for (task, restored) in tasks.into_iter().take(max_tasks) {
            if let Some(task_use) = self.touch(task, max_tasks) {
                *task_use = restored;
            }
        }
    }

    /// Entry of a task that runs now.
    fn touch(&mut self, task: TaskName, max_tasks: usize) -> Option<&mut TaskUse> {
        if max_tasks == 0 {
            return None;
        }
        self.last_run += 1;
        let last_run = self.last_run;
        let remembered = self.tasks.entry(task).or_insert_with(|| Remembered {
            task_use: TaskUse::default(),
            last_run,
        });
        self.order.remove(&remembered.last_run);
        remembered.last_run = last_run;
        self.order.insert(last_run, task);
        Some(&mut remembered.task_use)
    }

    fn forget(&mut self, max_tasks: usize) -> Option<HistoryChange> {
        if self.tasks.len() <= max_tasks {
            return None;
        }
        let (_, task) = self.order.pop_first()?;
        self.tasks.remove(&task);
        Some(HistoryChange { task, task_use: None })
    }
}

#[cfg(test)]
mod tests;
