//! Invariants of the queue for any order of events.

mod event;
mod model_journal;
mod returning_workers;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::worker::{Hello, WorkerResources};
use proptest::prelude::*;

use event::{Event, KINDS, event};
use model_journal::ModelJournal;

use super::tests::{action, hello, id, platform, success};
use super::*;
use crate::execution_config::HedgingConfig;
use crate::platform::RequiredProperties;
use crate::resources::Resources;

/// Time that a worker has to come back.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Operation of the leases that were cancelled.
const NO_OPERATION: u128 = 0;

struct ModelWorker {
    name: String,
    slots: usize,
    /// Memory in bytes.
    memory: u64,
    draining: bool,
    paused_until: Duration,
    /// Leases that it handed back since it completed one.
    returned: u32,
    leases: BTreeMap<LeaseId, OperationId>,
}

/// A worker whose stream has ended, with the time until which its Actions are its own.
struct ModelDisconnected {
    worker: ModelWorker,
    until: Duration,
    is_lost: bool,
}

#[derive(Default)]
struct ModelOperation {
    clients: usize,
    /// Memory that it stated, in bytes.
    memory: u64,
    completed: bool,
    /// True if it is leased or being recorded.
    taken: bool,
    last_lease: Option<LeaseId>,
}

/// Model that follows the effects, independent of the queue's own state.
struct Model {
    queue: OperationQueue,
    now: Duration,
    requests: u64,
    operations: BTreeMap<OperationId, ModelOperation>,
    forgotten: BTreeSet<OperationId>,
    workers: BTreeMap<WorkerId, ModelWorker>,
    disconnected: Vec<ModelDisconnected>,
    recording: Vec<(OperationId, WorkerId, LeaseId)>,
    journal: ModelJournal,
    epoch: u32,
    leases: HashSet<LeaseId>,
    ended: Vec<(WorkerId, LeaseId)>,
}

impl Model {
    fn config() -> ExecutionConfig {
        ExecutionConfig {
            max_attempts: NonZeroUsize::new(3).unwrap(),
            no_worker_timeout: Duration::from_mins(1),
            abandoned_timeout: Duration::from_secs(10),
            completed_retention: Duration::from_mins(5),
            max_completed_operations: 5,
            max_queued_actions: 20,
            reconnect_timeout: Duration::from_secs(30),
            worker_reconnect_timeout: RECONNECT_TIMEOUT,
            // `hedging/tests.rs` has a model of its own.
            hedging: HedgingConfig {
                max_percent_of_slots: 0,
                ..HedgingConfig::default()
            },
            ..ExecutionConfig::default()
        }
    }

    fn new() -> Self {
        Self {
            queue: OperationQueue::new(Self::config()),
            now: Duration::ZERO,
            requests: 0,
            operations: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            workers: BTreeMap::new(),
            disconnected: vec![],
            recording: vec![],
            journal: ModelJournal::default(),
            epoch: 0,
            leases: HashSet::new(),
            ended: vec![],
        }
    }

    fn time(&self) -> Time {
        Time::default() + self.now
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        self.queue.assert_upcoming_actions_wait();
        for effect in effects {
            match effect {
                Effect::Publish { operation, update } => self.publish(operation, &update),
                Effect::Forget { operation } => {
                    let forgotten = self.operations.remove(&operation).expect("a known operation");
                    assert!(
                        forgotten.completed || forgotten.clients == 0,
                        "a client's operation was dropped without a result"
                    );
                    self.forgotten.insert(operation);
                }
                Effect::Assign {
                    worker,
                    lease,
                    action,
                    ..
                } => {
                    assert!(self.leases.insert(lease), "a lease was given twice");
                    let operation = operation_of(&action);
                    let worker = self.workers.get_mut(&worker).expect("a worker that is there");
                    assert!(!worker.draining, "a draining worker got a lease");
                    assert!(
                        worker.paused_until <= self.now,
                        "a worker got a lease in its pause"
                    );
                    worker.leases.insert(lease, operation);
                    assert!(worker.leases.len() <= worker.slots, "more leases than slots");
                    let stated = worker.leases.values().filter_map(|id| self.operations.get(id));
                    let stated: u64 = stated.map(|operation| operation.memory).sum();
                    assert!(stated <= worker.memory, "more memory than the worker has");
                    let operation = self.operations.get_mut(&operation).expect("a living operation");
                    assert!(!operation.completed && !operation.taken, "it runs twice");
                    operation.taken = true;
                    operation.last_lease = Some(lease);
                }
                Effect::Record(record) => self.journal.append(record),
                Effect::Cancel { worker, lease, .. } => {
                    let worker = &self.workers[&worker];
                    assert!(
                        worker.leases.contains_key(&lease),
                        "a lease that the worker does not have"
                    );
                }
                Effect::Upcoming { worker, .. } => {
                    assert!(
                        self.workers.contains_key(&worker),
                        "told to a worker that has gone"
                    );
                }
                Effect::Close { worker } => {
                    let worker = self.workers.remove(&worker).expect("a worker that is there");
                    assert!(worker.draining && worker.leases.is_empty(), "closed with leases");
                }
            }
        }
    }

    fn publish(&mut self, id: OperationId, update: &Update) {
        assert!(!self.forgotten.contains(&id), "news of a forgotten operation");
        let operation = self.operations.entry(id).or_insert_with(|| ModelOperation {
            clients: 1,
            ..Default::default()
        });
        assert!(!operation.completed, "news of a completed operation");
        if let Progress::Completed(_) = update.progress {
            operation.completed = true;
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Execute { .. } => self.execute(event),
            Event::Attach(pick) => {
                if let Some(id) = nth(self.operations.keys(), pick) {
                    assert!(self.queue.attach(id));
                    self.operations.get_mut(&id).unwrap().clients += 1;
                }
            }
            Event::Detach(pick) => {
                let attached = self
                    .operations
                    .iter()
                    .filter(|(_, operation)| operation.clients > 0);
                if let Some(id) = nth(attached.map(|(id, _)| id), pick) {
                    self.operations.get_mut(&id).unwrap().clients -= 1;
                    self.queue.detach(self.time(), id);
                }
            }
            Event::Register { slots, kind, memory } => self.register(slots, kind, memory << 30),
            Event::Learn(pick, memory) => {
                if let Some(id) = nth(self.operations.keys(), pick)
                    && let Some(operation) = self.queue.operations.get(&id)
                {
                    let measured = MeasuredUse {
                        resources: Resources {
                            memory_bytes: memory << 30,
                            ..Resources::default()
                        },
                        duration: Duration::from_secs(memory),
                    };
                    let action = operation.action.clone();
                    let effects = self.queue.learn(&action, &measured);
                    self.carry_out(effects);
                }
            }
            Event::ReachBound(pick, memory) => {
                if !self.recording.is_empty() {
                    let pick = pick % self.recording.len();
                    let id = self.recording[pick].0;
                    let attempt = "too little memory".to_owned();
                    let (is_queued, effects) =
                        self.queue
                            .retry_with_more_memory(self.time(), id, memory << 30, attempt);
                    if is_queued {
                        self.recording.swap_remove(pick);
                        self.give_back(id);
                    }
                    self.carry_out(effects);
                }
            }
            Event::Drain(pick) => {
                if let Some(id) = nth(self.workers.keys(), pick) {
                    self.workers.get_mut(&id).unwrap().draining = true;
                    let effects = self.queue.drain_worker(self.time(), id);
                    self.carry_out(effects);
                }
            }
            Event::Disconnect(pick) => self.disconnect(pick),
            Event::ComeBack(pick) => self.come_back(pick),
            Event::ChangeStage(pick) => {
                if let Some((worker, lease)) = nth(self.held().iter(), pick) {
                    let effects = self.queue.change_stage(worker, lease, pick % 2 == 0);
                    self.carry_out(effects);
                }
            }
            Event::Complete(pick) => {
                if let Some((worker, lease)) = nth(self.held().iter(), pick) {
                    self.complete(worker, lease);
                }
            }
            Event::CompleteAgain(pick) => {
                if let Some((worker, lease)) = nth(self.ended.iter(), pick) {
                    let (completion, effects) = self.queue.complete(self.time(), worker, lease);
                    assert!(completion.is_none() && effects.is_empty(), "a lease ended twice");
                }
            }
            Event::Return(pick) => {
                if let Some((id, lease)) = nth(self.held().iter(), pick) {
                    self.ended.push((id, lease));
                    let worker = self.workers.get_mut(&id).unwrap();
                    let pause = Duration::from_secs(10 << worker.returned.min(5));
                    worker.paused_until =
                        (self.now + pause.min(Duration::from_mins(5))).max(worker.paused_until);
                    worker.returned += 1;
                    let operation = worker.leases.remove(&lease).unwrap();
                    self.give_back(operation);
                    let effects = self.queue.return_lease(self.time(), id, lease, "no space");
                    self.carry_out(effects);
                }
            }
            Event::Finish(pick) => {
                if !self.recording.is_empty() {
                    let (id, ..) = self.recording.swap_remove(pick % self.recording.len());
                    let effects = self.queue.finish(self.time(), id, success());
                    self.carry_out(effects);
                    assert!(!self.queue.attach(id) || self.operations[&id].completed);
                }
            }
            Event::Retry(pick) => {
                if !self.recording.is_empty() {
                    let (id, ..) = self.recording.swap_remove(pick % self.recording.len());
                    self.give_back(id);
                    let effects = self.queue.retry(self.time(), id, "no store".to_owned());
                    self.carry_out(effects);
                }
            }
            Event::Restart(coming_back) => self.restart(coming_back),
            Event::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.lose_disconnected();
                let effects = self.queue.tick(self.time());
                self.carry_out(effects);
                assert!(self.queue.next_deadline().is_none_or(|next| next > self.time()));
            }
        }
    }

    fn execute(&mut self, event: &Event) {
        let Event::Execute {
            name,
            kind,
            user,
            priority,
            memory,
            do_not_cache,
            not_yet_visible,
        } = *event
        else {
            return;
        };
        let memory = memory << 30;
        self.requests += 1;
        let fresh = id(self.requests.into());
        // Cacheability and requirements are parts of an Action, so they are parts of its name here.
        let action = QueuedAction {
            do_not_cache,
            resources: Resources {
                memory_bytes: memory,
                ..Resources::default()
            },
            remaining_path: Duration::from_secs(self.requests % 3 * 60),
            request_metadata: Some(RequestMetadata {
                target_id: name.to_string(),
                ..RequestMetadata::default()
            }),
            priority,
            requester: Requester {
                user: (user / 2).to_string().into(),
                invocation: (user % 2).to_string().into(),
                ..Requester::default()
            },
            requirements: RequiredProperties::new(&platform(KINDS[kind])),
            queued: SystemTime::UNIX_EPOCH + Duration::from_secs(self.requests),
            ..action(&format!("{name} {kind} {memory} {do_not_cache}"))
        };
        match self.queue.execute(self.time(), fresh, action, not_yet_visible) {
            Ok((joined, effects)) => {
                if joined == fresh {
                    // Known before the effects, which may be its lease.
                    let operation = ModelOperation {
                        clients: 1,
                        memory,
                        ..ModelOperation::default()
                    };
                    self.operations.insert(fresh, operation);
                } else {
                    assert!(!do_not_cache, "merged what must not be merged");
                    assert!(effects.is_empty());
                    let operation = self.operations.get_mut(&joined).expect("a living operation");
                    assert!(!operation.completed, "joined a completed operation");
                    operation.clients += 1;
                }
                self.carry_out(effects);
            }
            Err(ExecutionError::QueueFull { .. } | ExecutionError::Quarantined { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn register(&mut self, slots: u32, kind: usize, memory: u64) {
        self.requests += 1;
        let name = format!("w{}", self.requests);
        let memory = if memory == 0 { u64::MAX } else { memory };
        let hello = Hello {
            resources: offered(memory),
            max_upcoming_actions: slots % 3,
            ..hello(&name, slots, KINDS[kind])
        };
        let (worker, effects) = self.queue.register_worker(self.time(), &hello);
        let model = ModelWorker {
            name,
            slots: slots as usize,
            memory,
            draining: false,
            paused_until: Duration::ZERO,
            returned: 0,
            leases: BTreeMap::new(),
        };
        self.workers.insert(worker, model);
        self.carry_out(effects);
    }

    fn complete(&mut self, worker: WorkerId, lease: LeaseId) {
        self.ended.push((worker, lease));
        let model = self.workers.get_mut(&worker).unwrap();
        model.returned = 0;
        let operation = model.leases.remove(&lease).unwrap();
        let (completion, effects) = self.queue.complete(self.time(), worker, lease);
        match completion {
            Some(completion) => {
                assert_eq!(completion.operation, operation);
                self.recording.push((operation, worker, lease));
            }
            None => assert!(self.forgotten.contains(&operation), "a result was lost"),
        }
        self.carry_out(effects);
    }

    fn is_held(&self, operation: OperationId) -> bool {
        let mut workers = self.workers.values();
        workers.any(|worker| worker.leases.values().any(|held| *held == operation))
    }

    fn give_back(&mut self, operation: OperationId) {
        if let Some(operation) = self.operations.get_mut(&operation) {
            operation.taken = false;
        }
    }

    fn held(&self) -> Vec<(WorkerId, LeaseId)> {
        let workers = self.workers.iter();
        workers
            .flat_map(|(id, worker)| worker.leases.keys().map(|lease| (*id, *lease)))
            .collect()
    }

    /// Gives enough workers to all operations and lets them finish: then none may be left.
    fn settle(&mut self) {
        // Workers that did not come back are given up.
        self.happen(&Event::Pass(30));
        self.register(1000, KINDS.len() - 1, 0);
        while !(self.held().is_empty() && self.recording.is_empty()) {
            self.happen(&Event::Complete(0));
            self.happen(&Event::Finish(0));
        }
        let left = self.operations.iter().find(|(_, operation)| !operation.completed);
        assert!(left.is_none(), "{:?} never completes", left.map(|(id, _)| id));
        assert_eq!(self.queue.in_flight.len(), 0);
        assert_eq!(self.queue.waiting_operations, 0);
        assert!(self.queue.waiting.is_forgotten(), "an idle requester is kept");
        self.happen(&Event::Pass(10_000));
        assert!(self.queue.operations.is_empty() && self.queue.deadlines.first().is_none());
        assert!(self.queue.disconnected.is_empty());
    }
}

/// Resources that a worker with this memory tells.
fn offered(memory: u64) -> Option<WorkerResources> {
    let is_known = memory != u64::MAX;
    is_known.then(|| WorkerResources {
        memory_bytes: memory,
        ..WorkerResources::default()
    })
}

/// Each request has a second of its own, which identifies its operation.
fn operation_of(action: &QueuedAction) -> OperationId {
    let elapsed = action.queued.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    id(elapsed.as_secs().into())
}

fn nth<'a, T: Copy + 'a>(items: impl Iterator<Item = &'a T>, pick: usize) -> Option<T> {
    let items: Vec<_> = items.copied().collect();
    (!items.is_empty()).then(|| items[pick % items.len()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each operation completes exactly once, no lease is used twice, slots are never exceeded, and no operation is lost
    /// whenever workers are lost or the server restarts. What runs during a restart is not run twice.
    #[test]
    fn invariants_hold_for_any_sequence_of_events(events in prop::collection::vec(event(), 0..120)) {
        let mut model = Model::new();
        for event in &events {
            model.happen(event);
        }
        model.settle();
    }
}
