use proptest::prelude::*;

use super::*;

fn used(memory_bytes: u64, seconds: u64) -> MeasuredUse {
    MeasuredUse {
        resources: Resources {
            memory_bytes,
            millicpus: 1500,
            disk_bytes: 0,
        },
        duration: Duration::from_secs(seconds),
    }
}

fn config() -> ResourceConfig {
    ResourceConfig::default()
}

#[test]
fn a_task_that_never_ran_has_the_configured_size() {
    let history = UsageHistory::default();
    for task in [None, Some(TaskName(1))] {
        assert_eq!(history.expected(task, &config()), config().unknown());
    }
}

#[test]
fn grows_at_once_and_shrinks_slowly() {
    let mut history = UsageHistory::default();
    let expected = |history: &UsageHistory| history.expected(Some(TaskName(1)), &config()).memory_bytes;
    history.learn(TaskName(1), &used(1000, 1), 10);
    assert_eq!(expected(&history), 1200);
    history.learn(TaskName(1), &used(9000, 1), 10);
    assert_eq!(expected(&history), 10_800);
    history.learn(TaskName(1), &used(1000, 1), 10);
    assert_eq!(expected(&history), 9600);
    for _ in 0..100 {
        history.learn(TaskName(1), &used(1000, 1), 10);
    }
    assert_eq!(expected(&history), 1200);
}

#[test]
fn an_amount_that_was_not_measured_changes_nothing() {
    let mut history = UsageHistory::default();
    history.learn(TaskName(1), &used(0, 1), 10);
    let expected = history.expected(Some(TaskName(1)), &config());
    assert_eq!(expected.memory_bytes, config().unknown().memory_bytes);
    assert_eq!(expected.millicpus, 1500);
}

#[test]
fn the_percentile_is_of_the_last_runs() {
    let mut history = UsageHistory::default();
    for seconds in 1..=20 {
        history.learn(TaskName(1), &used(1, seconds), 10);
    }
    let percentile = |history: &UsageHistory| history.get(TaskName(1)).unwrap().percentile_95();
    assert_eq!(percentile(&history), Duration::from_secs(19));
    for _ in 0..MAX_DURATIONS {
        history.learn(TaskName(1), &used(1, 3), 10);
    }
    assert_eq!(percentile(&history), Duration::from_secs(3));
}

#[test]
fn the_task_that_ran_longest_ago_is_forgotten() {
    let mut history = UsageHistory::default();
    history.learn(TaskName(1), &used(1, 1), 2);
    history.learn(TaskName(2), &used(1, 1), 2);
    history.learn(TaskName(1), &used(1, 1), 2);
    let changes = history.learn(TaskName(3), &used(1, 1), 2);
    let forgotten = HistoryChange {
        task: TaskName(2),
        task_use: None,
    };
    assert!(changes.contains(&forgotten));
    assert!(history.get(TaskName(2)).is_none() && history.get(TaskName(1)).is_some());
}

proptest! {
    /// What is recorded stands for what is remembered: the same tasks, in sizes that differ by less than a step.
    #[test]
    fn the_record_follows_the_memory(
        runs in prop::collection::vec((0..6u128, 0..1u64 << 40), 0..200),
        max_tasks in 0..5usize,
    ) {
        let mut history = UsageHistory::default();
        let mut recorded = BTreeMap::new();
        for (task, memory_bytes) in runs {
            for change in history.learn(TaskName(task), &used(memory_bytes, 1), max_tasks) {
                match change.task_use {
                    Some(task_use) => {
                        recorded.insert(change.task, task_use);
                    }
                    None => {
                        recorded.remove(&change.task);
                    }
                }
            }
            prop_assert!(history.tasks.len() <= max_tasks);
            prop_assert_eq!(history.order.len(), history.tasks.len());
            let remembered: BTreeMap<_, _> = history
                .tasks
                .iter()
                .map(|(task, remembered)| (*task, remembered.task_use.resources.rounded_up()))
                .collect();
            let recorded: BTreeMap<_, _> = recorded
                .iter()
                .map(|(task, task_use): (&TaskName, &TaskUse)| (*task, task_use.resources.rounded_up()))
                .collect();
            prop_assert_eq!(recorded, remembered);
        }
    }
}
