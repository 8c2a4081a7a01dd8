//! Pods of a pool: a `HorizontalPodAutoscaler` with the chart's behaviour, as KEDA makes one, and a `ReplicaSet`.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::load::Numbers;
use crate::operation_queue::WorkerId;

/// Bounds of the pool.
const MIN_REPLICAS: usize = 1;
const MAX_REPLICAS: usize = 40;
/// `scaleDownSeconds` of the chart: the highest wish of this time counts.
const STABILIZATION_SECONDS: u64 = 600;
/// A minute, the period of the policies of scale-down.
const POLICY_SECONDS: u64 = 60;
/// Seconds from the creation of a pod until its worker has registered: image, start, sandbox.
const START_SECONDS: (u64, u64) = (40, 90);

/// A pod of the pool.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) state: PodState,
    pub(super) cost: Option<i32>,
    /// Order of the creation.
    number: u64,
}

/// State of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodState {
    /// Its worker registers at this second.
    Starting(u64),
    /// Its worker takes Actions.
    Ready(WorkerId),
    /// Its worker drains, and is killed at this second.
    Terminating(WorkerId, u64),
}

/// A `ReplicaSet` and what scales it.
#[derive(Debug, Default)]
pub(super) struct ReplicaSet {
    pub(super) pods: Vec<Pod>,
    created: u64,
    /// Wishes of the stabilization window, by time.
    wishes: VecDeque<(u64, usize)>,
    /// Numbers of pods that were taken away, by time, of the last minute.
    removed: VecDeque<(u64, usize)>,
}

impl ReplicaSet {
    /// Number of pods that are not being deleted.
    pub(super) fn replicas(&self) -> usize {
        let kept = self
            .pods
            .iter()
            .filter(|pod| !matches!(pod.state, PodState::Terminating(..)));
        kept.count()
    }

    /// Number of replicas that the autoscaler sets, from the scaler's value and target.
    pub(super) fn decide(&mut self, now: u64, value: u64, target: u64) -> usize {
        let wish = usize::try_from(value.div_ceil(target)).unwrap();
        let wish = wish.clamp(MIN_REPLICAS, MAX_REPLICAS);
        self.wishes.push_back((now, wish));
        while self
            .wishes
            .front()
            .is_some_and(|(at, _)| at + STABILIZATION_SECONDS < now)
        {
            self.wishes.pop_front();
        }
        while self
            .removed
            .front()
            .is_some_and(|(at, _)| at + POLICY_SECONDS <= now)
        {
            self.removed.pop_front();
        }
        let present = self.replicas();
        if wish > present {
            // The default of Kubernetes: twice as many, or four more, in 15 seconds.
            return wish.min((present * 2).max(present + 4));
        }
        let highest = self.wishes.iter().map(|(_, wish)| *wish).max().unwrap_or(wish);
        let recently: usize = self.removed.iter().map(|(_, pods)| pods).sum();
        let before = present + recently;
        // Ten percent or one pod in a minute, whichever is more.
        let allowed = (before / 10).max(1).saturating_sub(recently);
        highest.max(present.saturating_sub(allowed)).min(present)
    }

    /// Creates pods.
    pub(super) fn create(&mut self, now: u64, count: usize, numbers: &mut Numbers) {
        for _ in 0..count {
            self.created += 1;
            let (least, most) = START_SECONDS;
            let starts = now + least + numbers.below(most - least);
            self.pods.push(Pod {
                name: format!("farm-worker-{}", self.created),
                state: PodState::Starting(starts),
                cost: None,
                number: self.created,
            });
        }
    }

    /// Chooses pods to delete in the order of Kubernetes: those that are not ready, then the lowest cost, then the newest.
    /// Those that are not ready go at once; the others are returned.
    pub(super) fn delete(&mut self, now: u64, count: usize) -> Vec<WorkerId> {
        self.removed.push_back((now, count));
        let mut candidates: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| !matches!(pod.state, PodState::Terminating(..)))
            .map(|pod| {
                let is_ready = matches!(pod.state, PodState::Ready(_));
                (is_ready, pod.cost.unwrap_or_default(), Reverse(pod.number))
            })
            .collect();
        candidates.sort_unstable();
        let victims: Vec<_> = candidates
            .into_iter()
            .take(count)
            .map(|(_, _, number)| number.0)
            .collect();
        let mut workers = vec![];
        self.pods.retain(|pod| match pod.state {
            PodState::Starting(_) => !victims.contains(&pod.number),
            PodState::Ready(worker) if victims.contains(&pod.number) => {
                workers.push(worker);
                true
            }
            _ => true,
        });
        workers
    }
}
