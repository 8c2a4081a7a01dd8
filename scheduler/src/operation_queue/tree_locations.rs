//! Workers that hold input trees.

use std::collections::{HashMap, VecDeque};

use super::ids::WorkerId;

/// Maximum number of trees that are remembered. The one that was noted first is forgotten first.
const MAX_TREES: usize = 100_000;
/// Maximum number of workers that are remembered for one tree: those that used it last.
const MAX_WORKERS: usize = 4;

/// Workers that used or made a tree of files not long ago, so that they have its files in their caches. It is a guess: a
/// worker may have evicted them.
#[derive(Debug, Default)]
pub(super) struct TreeLocations {
    workers: HashMap<u64, Vec<WorkerId>>,
    /// Trees in the order in which they were noted first.
    order: VecDeque<u64>,
}

impl TreeLocations {
    /// Notes that a worker has these trees now.
    pub(super) fn note(&mut self, worker: WorkerId, trees: &[u64]) {
        for tree in trees {
            let workers = self.workers.entry(*tree).or_insert_with(|| {
                self.order.push_back(*tree);
                Vec::with_capacity(1)
            });
            workers.retain(|known| *known != worker);
            if workers.len() >= MAX_WORKERS {
                workers.remove(0);
            }
            workers.push(worker);
        }
        while self.order.len() > MAX_TREES {
            if let Some(oldest) = self.order.pop_front() {
                self.workers.remove(&oldest);
            }
        }
    }

    /// Worker that has most of these trees, of those that `may_take` the Action. The first trees are the most important ones:
    /// each one weighs more than the next.
    pub(super) fn holder(&self, trees: &[u64], may_take: impl Fn(WorkerId) -> bool) -> Option<WorkerId> {
        let mut weights: Vec<(WorkerId, usize)> = vec![];
        for (index, tree) in trees.iter().enumerate() {
            let weight = trees.len() - index;
            for worker in self.workers.get(tree).into_iter().flatten() {
                match weights.iter_mut().find(|(known, _)| known == worker) {
                    Some((_, sum)) => *sum += weight,
                    None => weights.push((*worker, weight)),
                }
            }
        }
        let able = weights.into_iter().filter(|(worker, _)| may_take(*worker));
        let best = able.max_by_key(|(worker, weight)| (*weight, std::cmp::Reverse(*worker)));
        best.map(|(worker, _)| worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_the_most_important_trees_is_the_holder() {
        let mut locations = TreeLocations::default();
        locations.note(WorkerId(1), &[20, 30]);
        locations.note(WorkerId(2), &[10]);
        assert_eq!(
            locations.holder(&[10, 20, 30], |_| true),
            Some(WorkerId(1)),
            "3 is 2 + 1"
        );
        assert_eq!(locations.holder(&[10, 30], |_| true), Some(WorkerId(2)));
        assert_eq!(
            locations.holder(&[10, 30], |worker| worker != WorkerId(2)),
            Some(WorkerId(1))
        );
        assert_eq!(locations.holder(&[99], |_| true), None);
        assert_eq!(locations.holder(&[], |_| true), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut locations = TreeLocations::default();
        for tree in 0..MAX_TREES as u64 + 10 {
            locations.note(WorkerId(1), &[tree]);
        }
        for worker in 1..10 {
            locations.note(WorkerId(worker), &[MAX_TREES as u64]);
        }
        assert_eq!(locations.workers.len(), MAX_TREES);
        assert_eq!(locations.holder(&[0], |_| true), None, "the oldest is forgotten");
        assert_eq!(locations.workers[&(MAX_TREES as u64)].len(), MAX_WORKERS);
    }
}
