//! The farm of a simulated day.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_proto::worker::Hello;
use bitzel_proto::{DigestFunction, InstanceName};
use uuid::Uuid;

use super::load::{self, Build, DAY, Numbers};
use super::replica_set::{PodState, ReplicaSet};
use crate::ExecutionConfig;
use crate::clock::Time;
use crate::deletion_costs::{DeletionCosts, WorkerLoad, WorkerPod};
use crate::operation_queue::{
    ActionKey, Effect, LeaseId, OperationId, OperationOutcome, OperationQueue, Progress, QueuedAction,
    Requester, WorkerId,
};
use crate::platform::RequiredProperties;
use crate::resources::Resources;
use crate::scaler_service::Trigger;

const POOL: &str = "default";
/// Slots of one worker.
const JOBS: u32 = 4;
/// Seconds between two questions of KEDA.
const POLLING_SECONDS: u64 = 15;
/// Seconds between two rounds of the controller.
const CONTROLLER_SECONDS: u64 = 10;
/// `controller.idleSeconds` of the chart.
const IDLE_SECONDS: u64 = 60;
/// Seconds after the day in which its last builds end.
const EVENING: u64 = 6 * 3600;

/// How a farm is run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// True if pods are marked with their deletion costs.
    pub(super) marks: bool,
    /// Time that running Actions have to end after SIGTERM.
    pub(super) drain_seconds: u64,
}

/// State of the farm in one minute.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Minute {
    /// Workers that take Actions.
    pub(super) workers: usize,
    /// Slots that the scaler asks for.
    pub(super) wanted: u64,
    /// Actions that run.
    pub(super) running: usize,
    /// Free slots of workers that take Actions.
    pub(super) idle: usize,
    /// Free slots of workers that drain.
    pub(super) lost: usize,
    /// Longest wait of the Actions that began in this minute, in seconds.
    pub(super) waited: u64,
}

/// Result of a day.
#[derive(Debug, Default)]
pub(super) struct Day {
    pub(super) minutes: Vec<Minute>,
    /// Actions that were killed with their worker.
    pub(super) killed: usize,
    /// Actions that had not ended in the end.
    pub(super) unfinished: usize,
    /// Workers that were started.
    pub(super) started: usize,
    /// Workers that were taken away.
    pub(super) scaled_down: usize,
    /// Workers that were taken away while they ran Actions.
    pub(super) busy_scaled_down: usize,
    /// Writes to the API of Kubernetes.
    pub(super) marks: u64,
    /// Seconds that each Action waited.
    waits: Vec<u64>,
}

impl Day {
    /// Seconds that this part of all Actions waited at most.
    pub(super) fn waited(&self, part: f64) -> u64 {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a list that has some ten thousand entries"
        )]
        let index = (waits.len() as f64 * part) as usize;
        waits[index.min(waits.len() - 1)]
    }

    /// Seconds of slots that stood still because their worker drained.
    pub(super) fn lost_slot_seconds(&self) -> u64 {
        self.minutes.iter().map(|minute| minute.lost as u64 * 60).sum()
    }
}

/// An Action of a build.
#[derive(Debug, Clone, Copy)]
struct SimulatedAction {
    build: usize,
    seconds: u64,
    queued: u64,
}

/// A farm with its builds.
pub(super) struct Farm {
    settings: Settings,
    now: u64,
    queue: OperationQueue,
    costs: DeletionCosts,
    replica_set: ReplicaSet,
    builds: Vec<Build>,
    /// Actions of the present stage of each build that have not ended.
    remaining: Vec<usize>,
    actions: HashMap<OperationId, SimulatedAction>,
    /// Ends of running Actions.
    ends: BinaryHeap<Reverse<(u64, WorkerId, LeaseId)>>,
    numbers: Numbers,
    operations: u128,
    minute: Minute,
    day: Day,
}

impl Farm {
    pub(super) fn new(settings: Settings) -> Self {
        let mut numbers = Numbers::new(2026);
        let builds = load::builds(&mut numbers);
        Self {
            settings,
            now: 0,
            queue: OperationQueue::new(ExecutionConfig {
                no_worker_timeout: Duration::from_mins(10),
                // Workers that are killed are what a day with a short drain time counts.
                max_attempts: NonZero::<usize>::MAX,
                quarantine_after: NonZero::<usize>::MAX,
                ..ExecutionConfig::default()
            }),
            costs: DeletionCosts::new(Duration::from_secs(IDLE_SECONDS)),
            replica_set: ReplicaSet::default(),
            remaining: vec![0; builds.len()],
            builds,
            actions: HashMap::new(),
            ends: BinaryHeap::new(),
            numbers,
            operations: 0,
            minute: Minute::default(),
            day: Day::default(),
        }
    }

    /// Runs the day, and the hours after it in which no build begins.
    pub(super) fn run(mut self) -> Day {
        let mut next_build = 0;
        while self.now < DAY + EVENING {
            while self
                .builds
                .get(next_build)
                .is_some_and(|build| build.begins == self.now)
            {
                self.begin_stage(next_build);
                next_build += 1;
            }
            let effects = self.queue.tick(self.time());
            self.carry_out(effects);
            self.end_actions();
            self.start_and_kill_pods();
            if self.now.is_multiple_of(POLLING_SECONDS) {
                self.scale();
            }
            if self.settings.marks && self.now.is_multiple_of(CONTROLLER_SECONDS) {
                self.mark();
            }
            if self.now.is_multiple_of(60) {
                self.end_minute();
            }
            self.now += 1;
        }
        self.day.unfinished = self.actions.len();
        self.day
    }

    fn time(&self) -> Time {
        Time::default() + Duration::from_secs(self.now)
    }

    /// Queues the Actions of a build's next stage.
    fn begin_stage(&mut self, build: usize) {
        let Some(durations) = self.builds[build].stages.pop() else {
            return;
        };
        self.remaining[build] = durations.len();
        for seconds in durations {
            self.operations += 1;
            let id = OperationId(Uuid::from_u128(self.operations));
            let action = SimulatedAction {
                build,
                seconds,
                queued: self.now,
            };
            self.actions.insert(id, action);
            let queued = QueuedAction {
                key: ActionKey {
                    instance: InstanceName::default(),
                    digest: DigestFunction::Sha256.digest(&self.operations.to_le_bytes()),
                },
                do_not_cache: false,
                requirements: RequiredProperties::default(),
                resources: Resources::default(),
                remaining_path: Duration::ZERO,
                input_trees: Arc::default(),
                requester: Requester {
                    invocation: build.to_string().into(),
                    ..Requester::default()
                },
                priority: 0,
                queued: SystemTime::UNIX_EPOCH,
                request_metadata: None,
            };
            let (_, effects) = self.queue.execute(self.time(), id, queued, false).unwrap();
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Assign {
                    worker,
                    operation,
                    lease,
                    ..
                } => {
                    let action = self.actions[&operation];
                    let waited = self.now - action.queued;
                    self.day.waits.push(waited);
                    self.minute.waited = self.minute.waited.max(waited);
                    self.ends
                        .push(Reverse((self.now + action.seconds, worker, lease)));
                }
                Effect::Close { worker } => self.replica_set.pods.retain(
                    |pod| !matches!(pod.state, PodState::Terminating(drained, _) if drained == worker),
                ),
                Effect::Publish { update, .. } => {
                    if let Progress::Completed(outcome) = update.progress
                        && let OperationOutcome::Failed(error) = &*outcome
                    {
                        panic!("an Action failed: {error}");
                    }
                }
                Effect::Cancel { .. } => panic!("an Action was cancelled"),
                Effect::Record(_) | Effect::Upcoming { .. } | Effect::Forget { .. } => {}
            }
        }
    }

    fn end_actions(&mut self) {
        while self.ends.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            let Some(Reverse((_, worker, lease))) = self.ends.pop() else {
                return;
            };
            // None, if the worker was killed before.
            let (completed, effects) = self.queue.complete(self.time(), worker, lease);
            self.carry_out(effects);
            let Some(completed) = completed else {
                continue;
            };
            let outcome = OperationOutcome::Response(Box::default());
            let effects = self.queue.finish(self.time(), completed.operation, outcome);
            self.carry_out(effects);
            let Some(action) = self.actions.remove(&completed.operation) else {
                continue;
            };
            self.remaining[action.build] -= 1;
            if self.remaining[action.build] == 0 {
                self.begin_stage(action.build);
            }
        }
    }

    fn start_and_kill_pods(&mut self) {
        for index in 0..self.replica_set.pods.len() {
            if self.replica_set.pods[index].state == PodState::Starting(self.now) {
                let hello = Hello {
                    worker_name: self.replica_set.pods[index].name.clone(),
                    slots: JOBS,
                    pool: POOL.to_owned(),
                    ..Hello::default()
                };
                let (worker, effects) = self.queue.register_worker(self.time(), &hello);
                self.day.started += 1;
                self.replica_set.pods[index].state = PodState::Ready(worker);
                self.carry_out(effects);
            }
        }
        let now = self.now;
        let late: Vec<_> = self
            .replica_set
            .pods
            .iter()
            .filter_map(|pod| match pod.state {
                PodState::Terminating(worker, killed_at) if killed_at <= now => Some(worker),
                _ => None,
            })
            .collect();
        for worker in late {
            self.day.killed += self.leases(worker);
            let effects = self.queue.disconnect_worker(self.time(), worker);
            self.carry_out(effects);
            self.replica_set
                .pods
                .retain(|pod| !matches!(pod.state, PodState::Terminating(killed, _) if killed == worker));
        }
    }

    /// Number of Actions that run on a worker.
    fn leases(&self, worker: WorkerId) -> usize {
        let ends = self.ends.iter();
        ends.filter(|Reverse((_, holder, _))| *holder == worker).count()
    }

    /// Asks the scaler, as KEDA does, and sets the number of pods.
    fn scale(&mut self) {
        let trigger = Trigger {
            pool: POOL.to_owned(),
            jobs: JOBS,
            idle: 1,
        };
        let demand = self.queue.pool_demand(self.time(), POOL);
        self.minute.wanted = trigger.wanted_slots(&demand);
        let replicas = self
            .replica_set
            .decide(self.now, self.minute.wanted, u64::from(JOBS));
        let present = self.replica_set.replicas();
        if replicas > present {
            self.replica_set
                .create(self.now, replicas - present, &mut self.numbers);
        } else if replicas < present {
            for worker in self.replica_set.delete(self.now, present - replicas) {
                self.terminate(worker);
            }
        }
    }

    fn terminate(&mut self, worker: WorkerId) {
        self.day.scaled_down += 1;
        self.day.busy_scaled_down += usize::from(self.leases(worker) > 0);
        let killed_at = self.now + self.settings.drain_seconds;
        for pod in &mut self.replica_set.pods {
            if pod.state == PodState::Ready(worker) {
                pod.state = PodState::Terminating(worker, killed_at);
            }
        }
        let effects = self.queue.drain_worker(self.time(), worker);
        self.carry_out(effects);
    }

    /// One round of the controller.
    fn mark(&mut self) {
        let kept = self.replica_set.pods.iter();
        let pods: Vec<_> = kept
            .filter(|pod| !matches!(pod.state, PodState::Terminating(..)))
            .map(|pod| WorkerPod {
                name: pod.name.clone(),
                cost: pod.cost,
            })
            .collect();
        let workers = self.queue.snapshot(self.time()).workers.into_iter();
        let workers: Vec<_> = workers
            .map(|worker| WorkerLoad {
                name: worker.name.to_string(),
                running: worker.running.len(),
                slots: worker.slots,
                draining: worker.draining,
            })
            .collect();
        for mark in self.costs.marks(self.time(), &pods, &workers) {
            self.day.marks += 1;
            for pod in &mut self.replica_set.pods {
                if pod.name == mark.pod {
                    pod.cost = Some(mark.cost);
                }
            }
        }
    }

    fn end_minute(&mut self) {
        for worker in self.queue.snapshot(self.time()).workers {
            let free = worker.slots - worker.running.len();
            self.minute.running += worker.running.len();
            if worker.draining {
                self.minute.lost += free;
            } else {
                self.minute.workers += 1;
                self.minute.idle += free;
            }
        }
        if self.now <= DAY && self.now > 0 {
            self.day.minutes.push(self.minute);
        }
        let wanted = self.minute.wanted;
        self.minute = Minute {
            wanted,
            ..Minute::default()
        };
    }
}
