//! Critical path of a build.

use std::collections::BTreeMap;

use crate::plan::task_index::TaskIndex;

/// Finds the chain of executed tasks with the longest time. `durations` has the time of each task, and the returned time
/// is that of the chain, both in milliseconds.
pub(super) fn critical_path(index: &TaskIndex, durations: &BTreeMap<u32, u64>) -> (u64, Vec<String>) {
    let mut tasks: Vec<u32> = durations.keys().copied().collect();
    tasks.sort_by_key(|task| index.rank(*task));
    // The longest chain that ends with each task, and the task before it on that chain.
    let mut chains: BTreeMap<u32, (u64, Option<u32>)> = BTreeMap::new();
    for task in tasks {
        let needed = index.task(task).dependencies.iter();
        let before = needed
            .filter_map(|needed| Some((chains.get(needed)?.0, *needed)))
            .max();
        let own = durations[&task];
        chains.insert(
            task,
            (
                own + before.map_or(0, |(time, _)| time),
                before.map(|(_, task)| task),
            ),
        );
    }
    let Some((last, (time, _))) = chains.iter().max_by_key(|(_, (time, _))| *time) else {
        return (0, vec![]);
    };
    let mut names = Vec::new();
    let mut next = Some(*last);
    while let Some(task) = next {
        names.push(index.display_name(task));
        next = chains[&task].1;
    }
    names.reverse();
    (*time, names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::task_index::tests::graph;

    #[test]
    fn the_critical_path_is_the_slowest_chain_of_executed_tasks() {
        let index = TaskIndex::new(graph(&[
            ("a", "do_compile", &[]),
            ("a", "do_install", &[0]),
            ("b", "do_compile", &[]),
            ("image", "do_image", &[1, 2]),
        ]))
        .unwrap();
        let durations = BTreeMap::from([(0, 2), (1, 2), (2, 3), (3, 1)]);
        let path = ["a:do_compile", "a:do_install", "image:do_image"].map(str::to_owned);
        assert_eq!(critical_path(&index, &durations), (5, path.to_vec()));
        let found_in_cache = BTreeMap::from([(2, 3), (3, 1)]);
        let path = ["b:do_compile", "image:do_image"].map(str::to_owned);
        assert_eq!(critical_path(&index, &found_in_cache), (4, path.to_vec()));
        assert_eq!(critical_path(&index, &BTreeMap::new()), (0, vec![]));
    }
}
