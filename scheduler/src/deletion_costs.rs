//! Deletion costs of the pods of workers: which of them Kubernetes should take away first.
//!
//! A `ReplicaSet` that gets smaller deletes the pods with the lowest cost first, and one without a cost has 0
//! (`controller.kubernetes.io/pod-deletion-cost`). A worker that is deleted finishes its Actions all the same; costs only
//! decide how long that takes, and how much capacity is lost meanwhile. So few writes are worth more than exact costs: there
//! are three of them. A cost is raised at once, and lowered when it has been too high for a while.

use std::collections::HashMap;
use std::time::Duration;

use super::clock::Time;

/// Cost of a worker that has been idle for a while: below that of a new pod, which may have got its first Action already.
pub const IDLE_COST: i32 = -100;
/// Cost of a worker that uses half of its slots or less. A farm that spreads its Actions has many of these and few idle ones.
pub const LIGHT_COST: i32 = 50;
/// Cost of a worker that uses more of its slots.
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
    /// Number of its slots.
    pub slots: usize,
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

impl WorkerLoad {
    fn cost(&self) -> i32 {
        if self.running == 0 {
            IDLE_COST
        } else if self.running * 2 <= self.slots {
            LIGHT_COST
        } else {
            BUSY_COST
        }
    }
}

/// Decision about the costs of pods, from one look at the scheduler to the next.
#[derive(Debug)]
pub struct DeletionCosts {
    /// Time for which a cost has to be too high before it is lowered.
    idle_time: Duration,
    /// Pods whose cost is too high.
    too_high: HashMap<String, TooHigh>,
}

/// Cost that is too high.
#[derive(Debug, Clone, Copy)]
struct TooHigh {
    since: Time,
    /// Highest cost that would have been right since then.
    right: i32,
}

impl DeletionCosts {
    /// Lowers costs that have been too high for `idle_time`.
    pub fn new(idle_time: Duration) -> Self {
        Self {
            idle_time,
            too_high: HashMap::new(),
        }
    }

    /// Marks that change something, those of busy workers first. A pod without a worker in `workers` keeps its cost: it has
    /// not started yet, or has lost its connection for a moment. One that drains keeps it too, because it leaves anyway.
    pub fn marks(&mut self, now: Time, pods: &[WorkerPod], workers: &[WorkerLoad]) -> Vec<Mark> {
        let loads: HashMap<&str, &WorkerLoad> = workers
            .iter()
            .map(|worker| (worker.name.as_str(), worker))
            .collect();
        let mut too_high = HashMap::new();
        let mut marks = vec![];
        for pod in pods {
            let Some(load) = loads.get(pod.name.as_str()).filter(|load| !load.draining) else {
                continue;
            };
            // A pod without a cost counts as one with 0, for Kubernetes too.
            let present = pod.cost.unwrap_or_default();
            let mut cost = load.cost();
            if cost < present {
                let known = self.too_high.get(&pod.name);
                let known = known.copied().unwrap_or(TooHigh {
                    since: now,
                    right: cost,
                });
                let known = TooHigh {
                    right: known.right.max(cost),
                    ..known
                };
                if now.since(known.since) < self.idle_time {
                    too_high.insert(pod.name.clone(), known);
                    continue;
                }
                cost = known.right;
            }
            if pod.cost != Some(cost) {
                marks.push(Mark {
                    pod: pod.name.clone(),
                    cost,
                });
            }
        }
        self.too_high = too_high;
        // A busy worker with a low cost is what a mark prevents.
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.cost));
        marks.truncate(MAX_MARKS);
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_TIME: Duration = Duration::from_mins(1);

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
            slots: 4,
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
        for (second, running) in [(0, 3), (50, 0), (100, 4), (110, 0), (169, 0)] {
            let marks = costs.marks(at(second), &pods, &[worker("a", running)]);
            assert_eq!(marks, [], "at {second} s");
        }
        let marks = costs.marks(at(170), &pods, &[worker("a", 0)]);
        assert_eq!(marks, [mark("a", IDLE_COST)]);
    }

    #[test]
    fn a_worker_with_less_to_do_gets_the_highest_cost_of_that_time() {
        let mut costs = DeletionCosts::new(IDLE_TIME);
        let pods = [pod("a", Some(BUSY_COST))];
        for (second, running) in [(0, 0), (30, 2), (59, 0)] {
            assert_eq!(costs.marks(at(second), &pods, &[worker("a", running)]), []);
        }
        let marks = costs.marks(at(60), &pods, &[worker("a", 0)]);
        assert_eq!(marks, [mark("a", LIGHT_COST)]);
        let pods = [pod("a", Some(LIGHT_COST))];
        let marks = costs.marks(at(61), &pods, &[worker("a", 3)]);
        assert_eq!(marks, [mark("a", BUSY_COST)]);
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
            .map(|(index, name)| worker(name, if index < 160 { 0 } else { 4 }))
            .collect();
        let marks = costs.marks(at(0), &pods, &workers);
        assert_eq!(marks.len(), MAX_MARKS);
        assert_eq!(marks.iter().filter(|mark| mark.cost == BUSY_COST).count(), 40);
    }
}
