use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bitzel_proto::reapi::RequestMetadata;
use proptest::prelude::*;

use super::super::tests::{action, assigned, at, completed, hello, id, success};
use super::super::*;
use crate::resources::Resources;

fn of_task(name: &str) -> QueuedAction {
    QueuedAction {
        request_metadata: Some(RequestMetadata {
            target_id: "linux".to_owned(),
            action_mnemonic: "do_compile".to_owned(),
            ..RequestMetadata::default()
        }),
        ..action(name)
    }
}

/// Queue that knows that the task takes 100 s.
fn queue() -> OperationQueue {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let measured = MeasuredUse {
        resources: Resources::default(),
        duration: Duration::from_secs(100),
    };
    for _ in 0..ExecutionConfig::default().hedging.min_runs {
        queue.learn(&of_task("earlier"), &measured);
    }
    queue
}

fn cancelled(effects: &[Effect]) -> Vec<LeaseId> {
    let cancel = |effect: &Effect| match effect {
        Effect::Cancel { lease, .. } => Some(*lease),
        _ => None,
    };
    effects.iter().filter_map(cancel).collect()
}

/// A task that runs for too long, and its second copy: workers and leases.
fn with_second(queue: &mut OperationQueue) -> ((WorkerId, LeaseId), (WorkerId, LeaseId)) {
    let first = assigned(&queue.execute(at(0), id(1), of_task("a"), false).unwrap().1)[0];
    assert!(assigned(&queue.tick(at(99))).is_empty(), "it is in its time");
    let second = assigned(&queue.tick(at(100)))[0];
    assert_ne!(first.0, second.0);
    ((first.0, first.1), (second.0, second.1))
}

#[test]
fn the_first_result_counts_and_the_other_copy_is_cancelled() {
    for second_wins in [false, true] {
        let mut queue = queue();
        for name in ["one", "two"] {
            queue.register_worker(at(0), &hello(name, 1, &[]));
        }
        let (first, second) = with_second(&mut queue);
        let (winner, loser) = if second_wins {
            (second, first)
        } else {
            (first, second)
        };
        let (ended, effects) = queue.complete(at(120), winner.0, winner.1);
        let ended = ended.unwrap();
        assert_eq!((ended.operation, ended.worker), (id(1), winner.0));
        assert_eq!(cancelled(&effects), [loser.1]);
        assert!(queue.is_recording_lease(id(1), winner.1));
        assert_eq!(completed(&queue.finish(at(120), id(1), success())).len(), 1);
        assert!(queue.complete(at(121), loser.0, loser.1).0.is_none());
        assert_eq!(queue.occupancy().slots_used, 0);
        assert_eq!(queue.second_leases, 0);
    }
}

#[test]
fn no_second_copy_takes_a_slot_from_others() {
    let mut queue = queue();
    queue.register_worker(at(0), &hello("one", 1, &[]));
    let (two, _) = queue.register_worker(at(0), &hello("two", 1, &[]));
    queue.execute(at(0), id(1), of_task("a"), false).unwrap();
    let other = assigned(&queue.execute(at(0), id(2), action("b"), false).unwrap().1)[0];
    queue.execute(at(0), id(3), action("c"), false).unwrap();
    assert!(assigned(&queue.tick(at(100))).is_empty());
    let (_, effects) = queue.complete(at(101), two, other.1);
    let third = assigned(&effects)[0];
    queue.complete(at(102), two, third.1);
    let looked_again = queue.next_deadline().unwrap();
    assert_eq!(assigned(&queue.tick(looked_again)).len(), 1, "now nobody waits");
}

#[test]
fn few_second_copies_run_at_a_time() {
    let mut queue = queue();
    for name in 0..20 {
        queue.register_worker(at(0), &hello(&name.to_string(), 1, &[]));
    }
    for number in 1..=10 {
        queue
            .execute(at(0), id(number), of_task(&number.to_string()), false)
            .unwrap();
    }
    assert_eq!(assigned(&queue.tick(at(100))).len(), 1, "5 % of 20 slots");
}

#[test]
fn the_second_copy_goes_on_when_the_first_worker_is_lost() {
    let mut queue = queue();
    for name in ["one", "two"] {
        queue.register_worker(at(0), &hello(name, 1, &[]));
    }
    let (first, second) = with_second(&mut queue);
    let effects = queue.disconnect_worker(at(110), first.0);
    assert!(
        effects.iter().any(|effect| matches!(
            effect,
            Effect::Record(Record::Leased { lease, .. }) if *lease == second.1
        )),
        "after a restart its worker comes back with it"
    );
    let (ended, effects) = queue.complete(at(120), second.0, second.1);
    assert!(ended.is_some() && cancelled(&effects).is_empty());
    // The first worker comes back with a lease that nobody needs.
    queue.finish(at(120), id(1), success());
    let hello = hello("one", 1, &[]);
    let registration = Registration {
        leases: &[(id(1), first.1)],
        ..Registration::from(&hello)
    };
    assert_eq!(
        cancelled(&queue.register_worker(at(121), registration).1),
        [first.1]
    );
}

#[test]
fn the_first_copy_goes_on_when_the_second_worker_hands_back() {
    let mut queue = queue();
    for name in ["one", "two"] {
        queue.register_worker(at(0), &hello(name, 1, &[]));
    }
    let (first, second) = with_second(&mut queue);
    assert!(
        queue
            .return_lease(at(101), second.0, second.1, "no space")
            .is_empty()
    );
    assert!(queue.complete(at(102), first.0, first.1).0.is_some());
    assert_eq!(queue.second_leases, 0);
}

#[test]
fn both_copies_are_cancelled_when_nobody_waits_for_them() {
    let mut queue = queue();
    for name in ["one", "two"] {
        queue.register_worker(at(0), &hello(name, 1, &[]));
    }
    let (first, second) = with_second(&mut queue);
    queue.detach(at(101), id(1));
    let effects = queue.tick(at(200));
    let both: BTreeSet<_> = cancelled(&effects).into_iter().collect();
    assert_eq!(both, BTreeSet::from([first.1, second.1]));
}

#[test]
fn an_action_that_must_not_be_cached_runs_once() {
    let mut queue = queue();
    for name in ["one", "two"] {
        queue.register_worker(at(0), &hello(name, 1, &[]));
    }
    let uncacheable = QueuedAction {
        do_not_cache: true,
        ..of_task("a")
    };
    queue.execute(at(0), id(1), uncacheable, false).unwrap();
    assert!(assigned(&queue.tick(at(1000))).is_empty());
}

/// An event. Numbers select a lease or an operation, modulo their number.
#[derive(Debug, Clone)]
enum Event {
    Execute,
    Pass(u64),
    Complete(usize),
    Return(usize),
    Lose(usize),
    Register,
    Abandon(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Execute),
        4 => (0..150u64).prop_map(Event::Pass),
        3 => any::<usize>().prop_map(Event::Complete),
        1 => any::<usize>().prop_map(Event::Return),
        1 => any::<usize>().prop_map(Event::Lose),
        2 => Just(Event::Register),
        1 => any::<usize>().prop_map(Event::Abandon),
    ]
}

/// Leases by the effects alone.
struct Farm {
    queue: OperationQueue,
    seconds: u64,
    number: u128,
    /// Leases in slots: worker, operation, and true if it was cancelled.
    leases: BTreeMap<LeaseId, (WorkerId, OperationId, bool)>,
    workers: BTreeSet<WorkerId>,
    unfinished: BTreeSet<OperationId>,
}

impl Farm {
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Assign {
                    worker,
                    operation,
                    lease,
                    ..
                } => {
                    let held = self.leases.values();
                    let others: Vec<_> = held
                        .filter(|(_, other, is_cancelled)| *other == operation && !is_cancelled)
                        .collect();
                    assert!(others.len() <= 1, "three copies");
                    assert!(
                        others.iter().all(|(other, ..)| *other != worker),
                        "twice on one worker"
                    );
                    assert!(self.leases.insert(lease, (worker, operation, false)).is_none());
                }
                Effect::Cancel { lease, .. } => {
                    let held = self.leases.get_mut(&lease).expect("a lease in a slot");
                    assert!(!held.2, "cancelled twice");
                    held.2 = true;
                }
                Effect::Record(Record::Completed { operation, .. } | Record::Forgotten { operation }) => {
                    self.unfinished.remove(&operation);
                }
                _ => {}
            }
        }
        for operation in &self.unfinished {
            let live = self.leases.values();
            let live = live.filter(|(_, other, is_cancelled)| other == operation && !is_cancelled);
            assert!(live.count() <= 2);
        }
    }

    fn now(&self) -> Time {
        at(self.seconds)
    }

    fn pick(&self, pick: usize) -> Option<(LeaseId, WorkerId)> {
        let mut leases = self.leases.iter();
        let count = leases.len();
        (count > 0)
            .then(|| leases.nth(pick % count))?
            .map(|(lease, (worker, ..))| (*lease, *worker))
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Execute => {
                self.number += 1;
                let new = id(self.number);
                let action = of_task(&self.number.to_string());
                let executed = self.queue.execute(self.now(), new, action, false);
                self.unfinished.insert(new);
                self.carry_out(executed.unwrap().1);
            }
            Event::Pass(seconds) => {
                self.seconds += seconds;
                let effects = self.queue.tick(self.now());
                self.carry_out(effects);
            }
            Event::Complete(pick) => {
                if let Some((lease, worker)) = self.pick(pick) {
                    let (_, operation, was_cancelled) = self.leases.remove(&lease).unwrap();
                    let (ended, effects) = self.queue.complete(self.now(), worker, lease);
                    assert_eq!(ended.is_some(), !was_cancelled, "a result is lost or comes twice");
                    self.carry_out(effects);
                    if let Some(ended) = ended {
                        assert_eq!(ended.operation, operation);
                        let effects = self.queue.finish(self.now(), operation, success());
                        self.carry_out(effects);
                        assert!(!self.unfinished.contains(&operation));
                    }
                }
            }
            Event::Return(pick) => {
                if let Some((lease, worker)) = self.pick(pick) {
                    self.leases.remove(&lease);
                    let effects = self.queue.return_lease(self.now(), worker, lease, "full");
                    self.carry_out(effects);
                }
            }
            Event::Lose(pick) => {
                let worker = self.workers.iter().nth(pick % self.workers.len().max(1)).copied();
                if let Some(worker) = worker {
                    self.workers.remove(&worker);
                    self.leases.retain(|_, (holder, ..)| *holder != worker);
                    let effects = self.queue.lose_worker(self.now(), worker);
                    self.carry_out(effects);
                }
            }
            Event::Register => {
                self.number += 1;
                let hello = hello(&self.number.to_string(), 2, &[]);
                let (worker, effects) = self.queue.register_worker(self.now(), &hello);
                self.workers.insert(worker);
                self.carry_out(effects);
            }
            Event::Abandon(pick) => {
                let count = self.unfinished.len().max(1);
                if let Some(operation) = self.unfinished.iter().nth(pick % count).copied() {
                    self.queue.detach(self.now(), operation);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// An operation has at most two leases, on different workers, and one of them gives its only result.
    #[test]
    fn second_copies_keep_the_invariants(events in prop::collection::vec(event(), 0..100)) {
        let mut farm = Farm {
            queue: queue(),
            seconds: 0,
            number: 0,
            leases: BTreeMap::new(),
            workers: BTreeSet::new(),
            unfinished: BTreeSet::new(),
        };
        for event in &events {
            farm.happen(event);
        }
        for _ in 0..3 {
            farm.happen(&Event::Register);
        }
        while !farm.leases.is_empty() {
            farm.happen(&Event::Complete(0));
        }
        // Workers that handed something back pause.
        farm.happen(&Event::Pass(1000));
        while !farm.leases.is_empty() {
            farm.happen(&Event::Complete(0));
        }
        prop_assert!(farm.unfinished.is_empty(), "{:?}", farm.unfinished);
        prop_assert_eq!(farm.queue.second_leases, 0);
        prop_assert_eq!(farm.queue.occupancy().slots_used, 0);
    }
}
