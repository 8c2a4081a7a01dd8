//! Workers that come back with their leases, to the same server.

use super::tests::{action, assigned, at, completed, hello, holder, id, success};
use super::*;

/// Registers a worker that comes back.
fn come_back(
    queue: &mut OperationQueue,
    seconds: u64,
    leases: &[(OperationId, LeaseId)],
) -> (WorkerId, Vec<Effect>) {
    let hello = hello("w", 1, &[]);
    let registration = Registration {
        leases,
        ..Registration::from(&hello)
    };
    queue.register_worker(at(seconds), registration)
}

fn cancels(effects: &[Effect]) -> usize {
    let cancelled = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Cancel { .. }));
    cancelled.count()
}

/// Queue with a worker that runs one Action.
fn running() -> (OperationQueue, WorkerId, LeaseId) {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (_, effects) = queue.execute(at(0), id(1), action("a"), false).unwrap();
    let lease = assigned(&effects)[0].1;
    (queue, worker, lease)
}

/// Ends the Action on a worker, which must hold the lease.
fn end(queue: &mut OperationQueue, worker: WorkerId, lease: LeaseId) {
    let (ended, _) = queue.complete(at(9), worker, lease);
    let effects = queue.finish(at(9), ended.expect("a lease").operation, success());
    assert_eq!(completed(&effects).len(), 1);
}

/// Time that a worker has to come back to the server that it was connected to.
fn timeout() -> u64 {
    ExecutionConfig::default().worker_reconnect_timeout.as_secs()
}

#[test]
fn nothing_runs_twice_when_a_worker_comes_back_in_time() {
    let (mut queue, worker, lease) = running();
    assert!(queue.disconnect_worker(at(1), worker).is_empty());
    let (other, effects) = queue.register_worker(at(1), &hello("other", 1, &[]));
    assert!(assigned(&effects).is_empty(), "its worker may come back");
    assert!(queue.tick(at(timeout())).is_empty());
    let (back, effects) = come_back(&mut queue, timeout(), &[(id(1), lease)]);
    assert_eq!(
        (assigned(&effects).len(), cancels(&effects)),
        (0, 0),
        "it goes on"
    );
    assert!(assigned(&queue.tick(at(timeout() + 1))).is_empty());
    assert!(queue.complete(at(20), other, lease).0.is_none());
    end(&mut queue, back, lease);
}

#[test]
fn a_worker_that_does_not_come_back_is_lost() {
    let (mut queue, worker, lease) = running();
    queue.register_worker(at(0), &hello("other", 1, &[]));
    queue.disconnect_worker(at(1), worker);
    let effects = queue.tick(at(timeout() + 1));
    assert_eq!(assigned(&effects).len(), 1);
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Record(Record::Requeued { attempts, .. }) if attempts == &["worker w was lost"]
    )));
    let (_, effects) = come_back(&mut queue, timeout() + 2, &[(id(1), lease)]);
    assert_eq!(cancels(&effects), 1);
}

/// Queue with a worker that runs one Action, connected in this way, and another one that is free.
fn running_beside_another(route: Route) -> (OperationQueue, WorkerId) {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let hello_of_worker = hello("w", 1, &[]);
    let registration = Registration {
        route,
        ..Registration::from(&hello_of_worker)
    };
    let (worker, _) = queue.register_worker(at(0), registration);
    queue.execute(at(0), id(1), action("a"), false).unwrap();
    queue.register_worker(at(0), &hello("other", 1, &[]));
    (queue, worker)
}

#[test]
fn a_forwarded_worker_has_the_time_of_a_lost_server() {
    let (mut queue, worker) = running_beside_another(Route::Forwarded);
    queue.disconnect_worker(at(1), worker);
    let timeout = ExecutionConfig::default().reconnect_timeout.as_secs();
    assert!(assigned(&queue.tick(at(timeout))).is_empty());
    assert_eq!(assigned(&queue.tick(at(timeout + 1))).len(), 1);
}

#[test]
fn a_worker_of_this_process_does_not_come_back() {
    let (mut queue, worker) = running_beside_another(Route::SameProcess);
    assert_eq!(assigned(&queue.disconnect_worker(at(1), worker)).len(), 1);
}

#[test]
fn a_worker_that_starts_anew_gives_its_actions_back_at_once() {
    let (mut queue, worker, _) = running();
    queue.disconnect_worker(at(1), worker);
    let (back, effects) = come_back(&mut queue, 2, &[]);
    let given = assigned(&effects);
    assert_eq!(given.len(), 1);
    end(&mut queue, back, given[0].1);
}

/// A queue after a restart, with an operation that worker `w` had under lease 7 and that a client follows.
fn restored() -> OperationQueue {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let restored = RestoredOperation {
        operation: id(1),
        action: action("a"),
        attempts: vec![],
        state: RestoredState::Leased {
            lease: LeaseId(7),
            holder: holder("w"),
        },
    };
    queue.restore(at(0), 1, vec![restored]);
    assert!(queue.attach(id(1)));
    queue
}

#[test]
fn a_restart_long_ago_does_not_shorten_the_time_to_come_back() {
    let mut queue = restored();
    let (worker, _) = come_back(&mut queue, 1, &[(id(1), LeaseId(7))]);
    let timeout = ExecutionConfig::default().reconnect_timeout.as_secs();
    queue.disconnect_worker(at(timeout - 1), worker);
    queue.tick(at(timeout));
    assert_eq!(queue.occupancy().waiting, 0);
    let (back, effects) = come_back(&mut queue, timeout + 1, &[(id(1), LeaseId(7))]);
    assert_eq!(cancels(&effects), 0);
    end(&mut queue, back, LeaseId(7));
}

#[test]
fn an_action_that_waits_again_goes_back_to_its_worker() {
    let (mut queue, worker, lease) = running();
    queue.lose_worker(at(1), worker);
    let (back, effects) = come_back(&mut queue, 2, &[(id(1), lease)]);
    assert_eq!(
        (assigned(&effects).len(), cancels(&effects)),
        (0, 0),
        "it goes on"
    );
    assert_eq!(queue.occupancy().waiting, 0);
    end(&mut queue, back, lease);
}

#[test]
fn an_action_that_another_worker_has_is_cancelled() {
    let (mut queue, worker, lease) = running();
    queue.lose_worker(at(1), worker);
    let (other, effects) = queue.register_worker(at(1), &hello("other", 1, &[]));
    let new = assigned(&effects)[0].1;
    let (back, effects) = come_back(&mut queue, 2, &[(id(1), lease)]);
    assert_eq!(cancels(&effects), 1);
    // The slot is in use until the worker reports the end; the result counts for nothing.
    queue.execute(at(2), id(2), action("b"), false).unwrap();
    assert_eq!(queue.occupancy().waiting, 1);
    let (ended, effects) = queue.complete(at(3), back, lease);
    assert!(ended.is_none());
    assert_eq!(assigned(&effects).len(), 1);
    end(&mut queue, other, new);
}

#[test]
fn a_worker_may_come_back_before_its_loss_is_noticed() {
    let (mut queue, old, lease) = running();
    let (back, effects) = come_back(&mut queue, 1, &[(id(1), lease)]);
    assert_eq!(
        (assigned(&effects).len(), cancels(&effects)),
        (0, 0),
        "it goes on"
    );
    assert!(matches!(effects[..], [Effect::Close { worker }] if worker == old));
    assert_eq!(queue.occupancy().workers, 1);
    assert!(queue.lose_worker(at(2), old).is_empty());
    end(&mut queue, back, lease);
}

/// Registers another instance of the worker, with the leases of the first one.
fn come_as_namesake(
    queue: &mut OperationQueue,
    seconds: u64,
    leases: &[(OperationId, LeaseId)],
) -> (WorkerId, Vec<Effect>) {
    let hello = hello("w", 1, &[]);
    let registration = Registration {
        leases,
        holder: LeaseHolder {
            worker: "w".into(),
            ..holder("another instance")
        },
        ..Registration::from(&hello)
    };
    queue.register_worker(at(seconds), registration)
}

#[test]
fn f18_a_namesake_takes_no_lease_and_gives_none_back() {
    let (mut queue, worker, lease) = running();
    queue.disconnect_worker(at(1), worker);
    for leases in [&[][..], &[(id(1), lease)]] {
        let (namesake, effects) = come_as_namesake(&mut queue, 2, leases);
        assert_eq!((assigned(&effects).len(), cancels(&effects)), (0, leases.len()));
        assert!(queue.complete(at(3), namesake, lease).0.is_none());
        queue.lose_worker(at(4), namesake);
    }
    let (back, effects) = come_back(&mut queue, 5, &[(id(1), lease)]);
    assert_eq!(cancels(&effects), 0, "its own worker goes on");
    end(&mut queue, back, lease);
}

#[test]
fn f18_a_namesake_takes_no_lease_after_a_restart() {
    let mut queue = restored();
    let (_, effects) = come_as_namesake(&mut queue, 1, &[(id(1), LeaseId(7))]);
    assert_eq!(cancels(&effects), 1);
    let (back, effects) = come_back(&mut queue, 2, &[(id(1), LeaseId(7))]);
    assert_eq!(cancels(&effects), 0);
    end(&mut queue, back, LeaseId(7));
}

#[test]
fn leases_of_others_are_not_adopted() {
    let (mut queue, worker, lease) = running();
    let (_, effects) = come_back(&mut queue, 1, &[(id(77), lease), (id(1), LeaseId(lease.0 + 1))]);
    assert_eq!(cancels(&effects), 2);
    end(&mut queue, worker, lease);
}

#[test]
fn restored_actions_wait_for_their_worker_and_then_for_any() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let timeout = ExecutionConfig::default().reconnect_timeout.as_secs();
    let restored = RestoredOperation {
        operation: id(1),
        action: action("a"),
        attempts: vec![],
        state: RestoredState::Leased {
            lease: LeaseId(7),
            holder: holder("w"),
        },
    };
    queue.restore(at(0), 1, vec![restored]);
    assert!(queue.attach(id(1)));
    let (_, effects) = queue.register_worker(at(1), &hello("other", 1, &[]));
    assert!(assigned(&effects).is_empty(), "its worker may come back");
    assert!(assigned(&queue.tick(at(timeout - 1))).is_empty());
    let given = assigned(&queue.tick(at(timeout)));
    assert!(given[0].1.0 > 7, "a later lease has a larger number");
    let (_, effects) = come_back(&mut queue, timeout + 1, &[(id(1), LeaseId(7))]);
    assert_eq!(cancels(&effects), 1);
}

#[test]
fn a_refused_action_leaves_the_queue_and_a_running_one_goes_on() {
    let (mut queue, worker, lease) = running();
    queue.execute(at(1), id(2), action("b"), false).unwrap();
    let refused = |queue: &mut OperationQueue, number| {
        queue.refuse(at(2), id(number), ExecutionError::MissingBlobs(vec![]))
    };
    let effects = refused(&mut queue, 2);
    assert_eq!(completed(&effects).len(), 1);
    assert_eq!(queue.occupancy().waiting, 0);
    assert!(refused(&mut queue, 2).is_empty(), "it has ended");
    assert!(refused(&mut queue, 1).is_empty(), "it runs");
    end(&mut queue, worker, lease);
}
