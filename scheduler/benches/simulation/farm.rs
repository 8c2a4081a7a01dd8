//! Farm with simulated workers and time, and the real operation queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_proto::worker::Hello;
use bitzel_proto::{DigestFunction, InstanceName};
use bitzel_scheduler::ExecutionConfig;
use bitzel_scheduler::clock::Time;
use bitzel_scheduler::operation_queue::{
    ActionKey, Effect, LeaseId, OperationId, OperationOutcome, OperationQueue, QueuedAction, Requester,
    WorkerId,
};
use bitzel_scheduler::platform::RequiredProperties;
use bitzel_scheduler::resources::Resources;
use uuid::Uuid;

use super::graph::Graph;

/// One build of the graph.
struct Build {
    requester: Requester,
    /// Number of dependencies of each task that are not done.
    missing: Vec<usize>,
    left: usize,
}

/// End of a task on a worker.
type End = (Duration, LeaseId, WorkerId, usize, usize);

pub(crate) struct Farm<'graph> {
    graph: &'graph Graph,
    queue: OperationQueue,
    builds: Vec<Build>,
    ends: BinaryHeap<Reverse<End>>,
    now: Duration,
    /// True if all builds are one invocation, so that they share nothing out among themselves.
    pub(crate) is_one_invocation: bool,
    /// Slot time by user.
    pub(crate) used: BTreeMap<Arc<str>, Duration>,
}

impl<'graph> Farm<'graph> {
    /// Farm with `workers` workers with one slot each.
    pub(crate) fn new(graph: &'graph Graph, config: ExecutionConfig, workers: usize) -> Self {
        let mut queue = OperationQueue::new(config);
        for number in 0..workers {
            let hello = Hello {
                worker_name: format!("worker-{number}"),
                slots: 1,
                ..Hello::default()
            };
            queue.register_worker(Time::default(), &hello);
        }
        Self {
            graph,
            queue,
            builds: vec![],
            ends: BinaryHeap::new(),
            now: Duration::ZERO,
            is_one_invocation: false,
            used: BTreeMap::new(),
        }
    }

    /// Starts a build of the whole graph.
    pub(crate) fn start(&mut self, user: &str, weight: u32) {
        let number = self.builds.len();
        let tasks = &self.graph.tasks;
        self.builds.push(Build {
            requester: Requester {
                user: user.into(),
                weight: NonZeroU32::new(weight).expect("a weight"),
                invocation: if self.is_one_invocation {
                    "all".into()
                } else {
                    number.to_string().into()
                },
            },
            missing: tasks.iter().map(|task| task.dependencies.len()).collect(),
            left: tasks.len(),
        });
        for (index, task) in tasks.iter().enumerate() {
            if task.dependencies.is_empty() {
                self.ready(number, index);
            }
        }
    }

    /// Runs until all builds are done, or until `stop` says so after an end. Returns the time.
    pub(crate) fn run(&mut self, stop: impl Fn(&Self) -> bool) -> Duration {
        while let Some(Reverse((time, lease, worker, build, task))) = self.ends.pop() {
            self.now = time;
            let effects = self.queue.tick(self.time());
            self.carry_out(effects);
            let user = self.builds[build].requester.user.clone();
            *self.used.entry(user).or_default() += self.graph.tasks[task].duration;
            let (ended, effects) = self.queue.complete(self.time(), worker, lease);
            self.carry_out(effects);
            let operation = ended.expect("a lease that runs").operation;
            let outcome = OperationOutcome::Response(Box::default());
            let effects = self.queue.finish(self.time(), operation, outcome);
            self.carry_out(effects);
            self.queue.detach(self.time(), operation);
            self.done(build, task);
            if stop(self) {
                break;
            }
        }
        self.now
    }

    /// Actions of each user that wait.
    pub(crate) fn waiting(&self, user: &str) -> usize {
        let groups = self.queue.snapshot(self.time()).waiting;
        let own = groups.iter().filter(|group| &*group.user == user);
        own.map(|group| group.actions).sum()
    }

    fn time(&self) -> Time {
        Time::default() + self.now
    }

    fn ready(&mut self, build: usize, task: usize) {
        let message = &self.graph.tasks[task];
        if message.duration.is_zero() {
            self.done(build, task);
            return;
        }
        let number = ((build as u128) << 64) | task as u128;
        let name = format!("{build} {} {}", message.recipe, message.name);
        let action = QueuedAction {
            key: ActionKey {
                instance: InstanceName::default(),
                digest: DigestFunction::Sha256.digest(name.as_bytes()),
            },
            do_not_cache: false,
            requirements: RequiredProperties::default(),
            resources: Resources::default(),
            remaining_path: message.remaining_path,
            input_trees: Arc::default(),
            requester: self.builds[build].requester.clone(),
            priority: 0,
            queued: SystemTime::UNIX_EPOCH,
            request_metadata: None,
        };
        let id = OperationId(Uuid::from_u128(number));
        let executed = self.queue.execute(self.time(), id, action, false);
        self.carry_out(executed.expect("a queue with room").1);
    }

    fn done(&mut self, build: usize, task: usize) {
        self.builds[build].left -= 1;
        let graph = self.graph;
        for dependent in &graph.tasks[task].dependents {
            let missing = &mut self.builds[build].missing[*dependent];
            *missing -= 1;
            if *missing == 0 {
                self.ready(build, *dependent);
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Assign {
                worker,
                operation,
                lease,
                ..
            } = effect
            {
                let number = operation.0.as_u128();
                let build = usize::try_from(number >> 64).expect("a build");
                let task = usize::try_from(number & u128::from(u64::MAX)).expect("a task");
                let end = self.now + self.graph.tasks[task].duration;
                self.ends.push(Reverse((end, lease, worker, build, task)));
            }
        }
    }

    /// True if all builds are done.
    pub(crate) fn is_done(&self) -> bool {
        self.builds.iter().all(|build| build.left == 0)
    }
}
