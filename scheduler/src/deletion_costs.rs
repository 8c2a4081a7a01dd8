//! Deletion costs of the pods of workers: which of them Kubernetes should take away first.
//!
//! A `ReplicaSet` that gets smaller deletes the pods with the lowest cost first, and one without a cost has 0
//! (`controller.kubernetes.io/pod-deletion-cost`). A worker that is deleted finishes its Actions all the same; costs only
//! decide how long that takes, and how much capacity is lost meanwhile. So few writes are worth more than exact costs: there
//! are two of them, and a worker has to be idle for a while before it is marked so.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::Time;

/// Cost of a worker that has been idle for a while: below that of a new pod, which may have got its first Action already.
pub const IDLE_COST: i32 = -100;
/// Cost of a worker that runs Actions.
pub const BUSY_COST: i32 = 100;
/// Maximum number of marks of one round. The others follow in the next ones.
const MAX_MARKS: usize = 50;

/// A pod with a worker in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPod {
    /// Name of the pod, and of its worker.
    pub name: String,
    /// Cost that it has now.
    pub cost: Option<i32>,
}

/// A worker as the scheduler has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Name of the worker.
    pub name: String,
    /// Number of its running Actions.
    pub running: usize,
    /// True if it takes no more Actions.
    pub draining: bool,
}

/// Cost that a pod should get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Name of the pod.
    pub pod: String,
    /// The cost.
    pub cost: i32,
}

/// Decision about the costs of pods, from one look at the scheduler to the next.
#[derive(Debug)]
pub struct DeletionCosts {
    /// Time for which a worker has to be idle.
    idle_time: Duration,
    /// Time since when each idle worker is idle.
    idle_since: HashMap<String, Time>,
}

impl DeletionCosts {
    /// Marks workers as idle after `idle_time`.
    pub fn new(idle_time: Duration) -> Self {
        Self {
            idle_time,
            idle_since: HashMap::new(),
        }
    }

    /// Marks that change something, those of busy workers first. A pod without a worker in `workers` keeps its cost: it has
    /// not started yet, or has lost its connection for a moment. One that drains keeps it too, because it leaves anyway.
    pub fn marks(&mut self, now: Time, pods: &[WorkerPod], workers: &[WorkerLoad]) -> Vec<Mark> {
        let mut loads: HashMap<&str, (usize, bool)> = HashMap::new();
        for worker in workers {
            // A worker that has come back may be there twice for a moment.
            let load = loads.entry(&worker.name).or_default();
            load.0 += worker.running;
            load.1 |= worker.draining;
        }
        let mut idle_since = HashMap::new();
        let mut marks = vec![];
        for pod in pods {
            let cost = match loads.get(pod.name.as_str()) {
                Some((_, true)) | None => continue,
                Some((0, false)) => {
                    let since = self.idle_since.get(&pod.name).copied().unwrap_or(now);
                    idle_since.insert(pod.name.clone(), since);
                    if now.since(since) < self.idle_time {
                        continue;
                    }
                    IDLE_COST
                }
                Some(_) => BUSY_COST,
            };
            if pod.cost != Some(cost) {
                marks.push(Mark {
                    pod: pod.name.clone(),
                    cost,
                });
            }
        }
        self.idle_since = idle_since;
        // A busy worker with a low cost is what a mark prevents.
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.cost));
        marks.truncate(MAX_MARKS);
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_TIME: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Time {
        Time::default() + Duration::from_secs(seconds)
    }

    fn pod(name: &str, cost: Option<i32>) -> WorkerPod {
        WorkerPod {
            name: name.to_owned(),
            cost,
        }
    }

    fn worker(name: &str, running: usize) -> WorkerLoad {
        WorkerLoad {
            name: name.to_owned(),
            running,
            draining: false,
        }
    }

    fn mark(pod: &str, cost: i32) -> Mark {
        Mark {
            pod: pod.to_owned(),
            cost,
        }
    }

    #[test]
    fn busy_workers_are_marked_at_once_and_idle_ones_later() {
        let mut costs = DeletionCosts::new(IDLE_TIME);
        let pods = [pod("a", None), pod("b", None)];
        let workers = [worker("a", 0), worker("b", 3)];
        assert_eq!(costs.marks(at(0), &pods, &workers), [mark("b", BUSY_COST)]);
        let pods = [pod("a", None), pod("b", Some(BUSY_COST))];
        assert_eq!(costs.marks(at(59), &pods, &workers), []);
        assert_eq!(costs.marks(at(60), &pods, &workers), [mark("a", IDLE_COST)]);
        let pods = [pod("a", Some(IDLE_COST)), pod("b", Some(BUSY_COST))];
        assert_eq!(costs.marks(at(70), &pods, &workers), []);
    }

    #[test]
    fn a_pause_between_actions_changes_no_mark() {
        let mut costs = DeletionCosts::new(IDLE_TIME);
        let pods = [pod("a", Some(BUSY_COST))];
        for (second, running) in [(0, 1), (50, 0), (100, 1), (110, 0), (169, 0)] {
            let marks = costs.marks(at(second), &pods, &[worker("a", running)]);
            assert_eq!(marks, [], "at {second} s");
        }
        let marks = costs.marks(at(170), &pods, &[worker("a", 0)]);
        assert_eq!(marks, [mark("a", IDLE_COST)]);
    }

    #[test]
    fn pods_that_the_scheduler_does_not_know_keep_their_cost() {
        let mut costs = DeletionCosts::new(Duration::ZERO);
        let draining = WorkerLoad {
            draining: true,
            ..worker("leaves", 1)
        };
        let pods = [pod("starts", None), pod("leaves", Some(IDLE_COST))];
        let workers = [draining, worker("on a machine without a pod", 0)];
        assert_eq!(costs.marks(at(0), &pods, &workers), []);
    }

    #[test]
    fn busy_workers_come_first_in_a_large_farm() {
        let mut costs = DeletionCosts::new(Duration::ZERO);
        let names: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
        let pods: Vec<_> = names.iter().map(|name| pod(name, None)).collect();
        let workers: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(index, name)| worker(name, usize::from(index >= 160)))
            .collect();
        let marks = costs.marks(at(0), &pods, &workers);
        assert_eq!(marks.len(), MAX_MARKS);
        assert_eq!(marks.iter().filter(|mark| mark.cost == BUSY_COST).count(), 40);
    }
}
