//! Remaining paths of the tasks of a build.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::plan::task_index::TaskIndex;

/// Time of a task about which nothing is known. With equal times, the longest path is the one with the most tasks.
const UNKNOWN_MILLISECONDS: u64 = 1000;
/// Maximum number of times that all paths are computed anew while the duration of each task becomes known once. Each time
/// costs time for each task and each dependency.
const MAX_COMPUTATIONS: usize = 50;

/// Remaining path of each task: its own time and that of the longest chain of tasks above it, as far as they are not done.
///
/// The time of a task is that of its last run. If that is not known, it is the mean time of the tasks with the same name,
/// such as `do_compile`.
#[derive(Debug, Default)]
pub(super) struct RemainingPaths {
    durations: BTreeMap<u32, u64>,
    milliseconds: Vec<u64>,
    /// Number of durations since the paths were computed.
    outdated: usize,
}

impl RemainingPaths {
    /// Notes the time of a task in this build or in an earlier one.
    pub(super) fn learn(&mut self, task: u32, duration: Duration) {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if self.durations.insert(task, milliseconds) != Some(milliseconds) {
            self.outdated += 1;
        }
    }

    /// Remaining path of a task. `is_needed` tells which tasks are not done and may be executed.
    pub(super) fn of(&mut self, index: &TaskIndex, task: u32, is_needed: impl Fn(u32) -> bool) -> Duration {
        let is_outdated = self.outdated * MAX_COMPUTATIONS >= index.tasks().len();
        if self.milliseconds.is_empty() || is_outdated {
            self.compute(index, is_needed);
        }
        let milliseconds = self.milliseconds.get(task as usize).copied();
        Duration::from_millis(milliseconds.unwrap_or_default())
    }

    fn compute(&mut self, index: &TaskIndex, is_needed: impl Fn(u32) -> bool) {
        self.outdated = 0;
        let means = self.means(index);
        let mut order: Vec<u32> = index.tasks().collect();
        order.sort_by_key(|task| std::cmp::Reverse(index.rank(*task)));
        self.milliseconds = vec![0; order.len()];
        for task in order {
            if !is_needed(task) {
                continue;
            }
            let message = index.task(task);
            let own = if message.noexec {
                0
            } else {
                let known = self.durations.get(&task);
                *known
                    .or_else(|| means.get(message.name.as_str()))
                    .unwrap_or(&UNKNOWN_MILLISECONDS)
            };
            let above = index.dependents(task).iter();
            let above = above
                .map(|dependent| self.milliseconds[*dependent as usize])
                .max();
            self.milliseconds[task as usize] = own.saturating_add(above.unwrap_or(0));
        }
    }

    /// Mean time of the tasks with each name.
    fn means<'index>(&self, index: &'index TaskIndex) -> HashMap<&'index str, u64> {
        let mut sums = HashMap::<&str, (u64, u64)>::new();
        for (task, milliseconds) in &self.durations {
            let (sum, count) = sums.entry(&index.task(*task).name).or_default();
            *sum = sum.saturating_add(*milliseconds);
            *count += 1;
        }
        let means = sums.into_iter().map(|(name, (sum, count))| (name, sum / count));
        means.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::task_index::tests::graph;

    fn index() -> TaskIndex {
        TaskIndex::new(graph(&[
            ("a", "do_compile", &[]),
            ("a", "do_install", &[0]),
            ("b", "do_compile", &[]),
            ("image", "do_image", &[1, 2]),
        ]))
        .unwrap()
    }

    fn seconds(paths: &mut RemainingPaths, index: &TaskIndex) -> Vec<u64> {
        let tasks = index.tasks();
        tasks
            .map(|task| paths.of(index, task, |_| true).as_secs())
            .collect()
    }

    #[test]
    fn without_durations_the_deepest_task_goes_first() {
        let index = index();
        assert_eq!(seconds(&mut RemainingPaths::default(), &index), [3, 2, 2, 1]);
    }

    #[test]
    fn learnt_durations_stand_for_tasks_of_the_same_name() {
        let index = index();
        let mut paths = RemainingPaths::default();
        paths.learn(2, Duration::from_mins(1));
        assert_eq!(seconds(&mut paths, &index), [62, 2, 61, 1]);
        let mut paths = RemainingPaths::default();
        paths.learn(2, Duration::from_mins(1));
        paths.learn(0, Duration::from_secs(5));
        assert_eq!(seconds(&mut paths, &index), [7, 2, 61, 1]);
    }

    #[test]
    fn tasks_that_are_done_are_no_part_of_a_path() {
        let index = index();
        let mut paths = RemainingPaths::default();
        assert_eq!(paths.of(&index, 0, |task| task != 3).as_secs(), 2);
    }

    #[test]
    fn paths_follow_what_was_learnt_meanwhile() {
        let index = index();
        let mut paths = RemainingPaths::default();
        seconds(&mut paths, &index);
        paths.learn(3, Duration::from_secs(9));
        assert_eq!(seconds(&mut paths, &index), [11, 10, 10, 9]);
    }
}
