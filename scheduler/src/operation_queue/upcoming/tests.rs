//! Upcoming Actions of workers.

use bitzel_proto::Digest;
use bitzel_proto::worker::Hello;

use super::super::tests::{action, assigned, at, hello, id};
use super::super::*;
use super::*;

impl OperationQueue {
    /// Checks that upcoming operations wait, on one worker each, within the limits.
    pub(in crate::operation_queue) fn assert_upcoming_actions_wait(&self) {
        let mut listed = 0;
        for (worker, ahead) in &self.upcoming.workers {
            assert!(self.workers.get(*worker).is_some(), "the worker has gone");
            assert!(
                ahead.operations.len() <= ahead.limit,
                "more than the worker wants"
            );
            listed += ahead.operations.len();
            for operation in &ahead.operations {
                assert_eq!(self.upcoming.worker_of.get(operation), Some(worker));
                let waits = self
                    .operations
                    .get(operation)
                    .is_some_and(|found| !found.places.is_empty());
                assert!(waits, "an upcoming operation does not wait");
            }
        }
        assert_eq!(
            listed,
            self.upcoming.worker_of.len(),
            "an operation is upcoming twice"
        );
    }
}

fn fetching(name: &str, slots: u32, limit: u32) -> Hello {
    Hello {
        max_upcoming_actions: limit,
        ..hello(name, slots, &[])
    }
}

/// What effects tell workers, each with the digests of its upcoming Actions.
fn told(effects: &[Effect]) -> Vec<(WorkerId, Vec<Digest>)> {
    let upcoming = effects.iter().filter_map(|effect| match effect {
        Effect::Upcoming { worker, actions } => {
            Some((*worker, actions.iter().map(|action| action.key.digest).collect()))
        }
        _ => None,
    });
    upcoming.collect()
}

fn digest(name: &str) -> Digest {
    action(name).key.digest
}

struct Farm {
    queue: OperationQueue,
    requests: u128,
}

impl Farm {
    fn new() -> Self {
        let queue = OperationQueue::new(ExecutionConfig::default());
        Self { queue, requests: 0 }
    }

    fn worker(&mut self, name: &str, limit: u32) -> WorkerId {
        self.queue.register_worker(at(0), &fetching(name, 1, limit)).0
    }

    fn execute(&mut self, action: QueuedAction) -> Vec<Effect> {
        self.requests += 1;
        let (_, effects) = self
            .queue
            .execute(at(0), id(self.requests), action, false)
            .unwrap();
        self.queue.assert_upcoming_actions_wait();
        effects
    }

    fn complete(&mut self, worker: WorkerId, lease: LeaseId) -> Vec<Effect> {
        let (_, effects) = self.queue.complete(at(5), worker, lease);
        self.queue.assert_upcoming_actions_wait();
        effects
    }
}

fn of_user(name: &str, user: &str) -> QueuedAction {
    QueuedAction {
        requester: Requester {
            user: user.into(),
            ..Requester::default()
        },
        ..action(name)
    }
}

#[test]
fn a_busy_worker_learns_its_next_action() {
    let mut farm = Farm::new();
    let worker = farm.worker("w", 1);
    let first = farm.execute(action("first"));
    assert_eq!(told(&first), [], "it has the lease");
    assert_eq!(
        told(&farm.execute(action("second"))),
        [(worker, vec![digest("second")])]
    );
    assert_eq!(told(&farm.execute(action("third"))), [], "its list is full");
    let next = farm.complete(worker, assigned(&first)[0].1);
    assert_eq!(assigned(&next)[0].2, digest("second"));
    assert_eq!(told(&next), [(worker, vec![digest("third")])]);
    let last = farm.complete(worker, assigned(&next)[0].1);
    assert_eq!(told(&last), [(worker, vec![])], "nothing waits any more");
}

#[test]
fn a_worker_that_wants_none_is_told_none() {
    let mut farm = Farm::new();
    farm.worker("w", 0);
    farm.execute(action("first"));
    assert_eq!(told(&farm.execute(action("second"))), []);
}

#[test]
fn an_action_is_upcoming_on_one_worker() {
    let mut farm = Farm::new();
    let (one, two) = (farm.worker("one", 1), farm.worker("two", 1));
    for name in ["a", "b"] {
        farm.execute(action(name));
    }
    assert_eq!(told(&farm.execute(action("c"))), [(one, vec![digest("c")])]);
    assert_eq!(told(&farm.execute(action("d"))), [(two, vec![digest("d")])]);
}

#[test]
fn a_worker_runs_what_it_has_fetched() {
    let mut farm = Farm::new();
    let (_, two) = (farm.worker("one", 1), farm.worker("two", 1));
    farm.execute(action("a"));
    let lease = assigned(&farm.execute(action("b")))[0].1;
    farm.execute(action("c"));
    farm.execute(action("d"));
    let next = farm.complete(two, lease);
    assert_eq!(
        assigned(&next)[0].2,
        digest("d"),
        "c is upcoming on the other worker"
    );
}

#[test]
fn a_free_worker_takes_what_is_upcoming_elsewhere() {
    let mut farm = Farm::new();
    let one = farm.worker("one", 1);
    farm.execute(action("a"));
    farm.execute(action("b"));
    let (two, effects) = farm.queue.register_worker(at(1), &fetching("two", 1, 1));
    assert_eq!(assigned(&effects)[0].2, digest("b"));
    assert_eq!(told(&effects), [(one, vec![])]);
    assert_eq!(farm.queue.upcoming.of(two), []);
}

#[test]
fn fetched_inputs_change_no_shares_between_users() {
    let mut farm = Farm::new();
    let (_, two) = (farm.worker("one", 1), farm.worker("two", 1));
    farm.execute(of_user("a", "alice"));
    let lease = assigned(&farm.execute(of_user("b", "alice")))[0].1;
    farm.execute(of_user("c", "bob"));
    farm.execute(of_user("d", "alice"));
    assert_eq!(farm.queue.upcoming.of(two), [id(4)], "the Action of alice");
    let next = farm.complete(two, lease);
    assert_eq!(assigned(&next)[0].2, digest("c"), "it is the turn of bob");
}

#[test]
fn an_action_is_overtaken_for_a_limited_time() {
    let mut farm = Farm::new();
    let (_, two) = (farm.worker("one", 1), farm.worker("two", 1));
    farm.execute(action("a"));
    let lease = assigned(&farm.execute(action("b")))[0].1;
    farm.execute(action("c"));
    let late = at(62);
    farm.queue.execute(late, id(9), action("d"), false).unwrap();
    assert_eq!(farm.queue.upcoming.of(two), [id(9)]);
    let (_, next) = farm.queue.complete(late, two, lease);
    assert_eq!(
        assigned(&next)[0].2,
        digest("c"),
        "it has waited for a minute longer"
    );
}

#[test]
fn a_longer_path_goes_before_fetched_inputs() {
    let mut farm = Farm::new();
    let worker = farm.worker("w", 1);
    let lease = assigned(&farm.execute(action("a")))[0].1;
    farm.execute(action("b"));
    farm.execute(QueuedAction {
        remaining_path: Duration::from_mins(10),
        ..action("long")
    });
    let next = farm.complete(worker, lease);
    assert_eq!(
        assigned(&next)[0].2,
        digest("long"),
        "it is upcoming on no other worker"
    );
    assert_eq!(farm.queue.upcoming.of(worker), [id(2)]);
}

#[test]
fn actions_of_a_lost_worker_are_upcoming_elsewhere() {
    let mut farm = Farm::new();
    let (one, two) = (farm.worker("one", 1), farm.worker("two", 1));
    farm.execute(action("a"));
    let lease = assigned(&farm.execute(action("b")))[0].1;
    farm.execute(action("c"));
    farm.queue.disconnect_worker(at(1), one);
    farm.execute(action("d"));
    farm.queue.assert_upcoming_actions_wait();
    let next = farm.complete(two, lease);
    assert_eq!(assigned(&next)[0].2, digest("c"));
    assert_eq!(farm.queue.upcoming.of(two), [id(4)]);
}

#[test]
fn a_paused_worker_has_no_upcoming_actions() {
    let mut farm = Farm::new();
    let worker = farm.worker("w", 1);
    let lease = assigned(&farm.execute(action("a")))[0].1;
    farm.execute(action("b"));
    let effects = farm.queue.return_lease(at(1), worker, lease, "the disk is full");
    assert_eq!(told(&effects), [(worker, vec![])]);
    assert_eq!(told(&farm.execute(action("c"))), []);
    let effects = farm.queue.tick(at(20));
    assert_eq!(assigned(&effects).len(), 1);
    assert_eq!(told(&effects).len(), 1, "its pause is over");
}

#[test]
fn a_draining_worker_has_no_upcoming_actions() {
    let mut farm = Farm::new();
    let worker = farm.worker("w", 1);
    farm.execute(action("a"));
    farm.queue.drain_worker(at(1), worker);
    assert_eq!(told(&farm.execute(action("b"))), []);
}
