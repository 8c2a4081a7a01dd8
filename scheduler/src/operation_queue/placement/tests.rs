//! Order within an invocation, and the choice among idle workers.

use std::time::Duration;

use super::super::tests::{action, assigned, at, hello, id};
use super::super::*;

fn with_path(name: &str, seconds: u64, invocation: &str) -> QueuedAction {
    QueuedAction {
        remaining_path: Duration::from_secs(seconds),
        requester: Requester {
            invocation: invocation.into(),
            ..Requester::default()
        },
        ..action(name)
    }
}

fn with_trees(name: &str, trees: &[u64]) -> QueuedAction {
    QueuedAction {
        input_trees: Arc::from(trees),
        ..action(name)
    }
}

/// Names of the Actions in the order in which a worker with one slot runs them.
fn order(queue: &mut OperationQueue, actions: &[QueuedAction]) -> Vec<usize> {
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let mut lease = assigned(&queue.execute(at(0), id(1000), action("first"), false).unwrap().1)[0].1;
    for (number, action) in (0..).zip(actions) {
        queue.execute(at(1), id(number), action.clone(), false).unwrap();
    }
    let mut order = vec![];
    for second in 2.. {
        let (_, effects) = queue.complete(at(second), worker, lease);
        let Some((_, next, digest)) = assigned(&effects).first().copied() else {
            return order;
        };
        lease = next;
        order.extend(actions.iter().position(|action| action.key.digest == digest));
    }
    order
}

#[test]
fn the_longest_remaining_path_goes_first() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let actions = [
        with_path("short", 10, "build"),
        with_path("long", 600, "build"),
        with_path("middle", 60, "build"),
    ];
    assert_eq!(order(&mut queue, &actions), [1, 2, 0]);
}

#[test]
fn a_path_changes_no_shares_between_invocations() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let mut actions = vec![];
    for number in 0..10 {
        actions.push(with_path(&format!("long {number}"), 100_000, "greedy"));
        actions.push(with_path(&format!("short {number}"), 0, "modest"));
    }
    let order = order(&mut queue, &actions);
    let modest = order[..10].iter().filter(|index| *index % 2 == 1).count();
    assert!((4..=6).contains(&modest), "{order:?}");
}

#[test]
fn an_action_ages_against_longer_paths() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let lease = assigned(&queue.execute(at(0), id(1), action("first"), false).unwrap().1)[0].1;
    let old = with_path("old", 0, "build");
    queue.execute(at(0), id(2), old.clone(), false).unwrap();
    let weight = u64::from(ExecutionConfig::default().priority.path_weight);
    queue
        .execute(at(60 * weight + 1), id(3), with_path("new", 60, "build"), false)
        .unwrap();
    let (_, effects) = queue.complete(at(1000), worker, lease);
    assert_eq!(assigned(&effects)[0].2, old.key.digest);
}

#[test]
fn without_a_weight_paths_do_not_count() {
    let mut config = ExecutionConfig::default();
    config.priority.path_weight = 0;
    let mut queue = OperationQueue::new(config);
    let actions = [with_path("short", 10, "build"), with_path("long", 600, "build")];
    assert_eq!(order(&mut queue, &actions), [0, 1]);
}

#[test]
fn an_idle_worker_with_the_inputs_is_preferred() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (one, _) = queue.register_worker(at(0), &hello("one", 2, &[]));
    let (two, _) = queue.register_worker(at(0), &hello("two", 2, &[]));
    let run = |queue: &mut OperationQueue, number, action| {
        let effects = queue.execute(at(0), id(number), action, false).unwrap().1;
        assigned(&effects)[0]
    };
    let (first, lease, _) = run(&mut queue, 1, with_trees("unpack", &[1, 2]));
    assert_eq!(first, one, "both are idle, and none has anything");
    queue.complete(at(1), one, lease);
    // What the Action left is on its worker, too.
    queue.note_trees(two, &[7]);
    assert_eq!(run(&mut queue, 2, with_trees("compile", &[7, 2])).0, two);
    assert_eq!(run(&mut queue, 3, with_trees("package", &[1])).0, one);
    assert_eq!(
        run(&mut queue, 4, with_trees("test", &[1])).0,
        one,
        "only one more than the other"
    );
    assert_eq!(
        run(&mut queue, 5, with_trees("deploy", &[1])).0,
        two,
        "it has no slot left"
    );
}

#[test]
fn inputs_never_make_an_action_wait() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (one, _) = queue.register_worker(at(0), &hello("one", 1, &[]));
    queue.note_trees(one, &[1]);
    queue.execute(at(0), id(1), action("a"), false).unwrap();
    let (two, _) = queue.register_worker(at(0), &hello("two", 1, &[]));
    let effects = queue
        .execute(at(0), id(2), with_trees("b", &[1]), false)
        .unwrap()
        .1;
    assert_eq!(assigned(&effects)[0].0, two);
}
