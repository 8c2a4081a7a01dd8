use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{ExecuteResponse, Platform};
use bitzel_proto::worker::Hello;
use bitzel_proto::{DigestFunction, InstanceName};
use uuid::Uuid;

use super::*;
use crate::platform::RequiredProperties;
use crate::resources::Resources;

pub(super) fn platform(properties: &[(&str, &str)]) -> Platform {
    let property = |(name, value): &(&str, &str)| Property {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    Platform {
        properties: properties.iter().map(property).collect(),
    }
}

pub(super) fn hello(name: &str, slots: u32, properties: &[(&str, &str)]) -> Hello {
    Hello {
        worker_name: name.to_owned(),
        slots,
        platform: Some(platform(properties)),
        instance_secret: format!("{name:*<16}").into_bytes(),
        ..Default::default()
    }
}

/// A worker of this name as the holder of leases.
pub(super) fn holder(name: &str) -> LeaseHolder {
    Registration::from(&hello(name, 1, &[])).holder
}

pub(super) fn action(name: &str) -> QueuedAction {
    QueuedAction {
        key: ActionKey {
            instance: InstanceName::default(),
            digest: DigestFunction::Sha256.digest(name.as_bytes()),
        },
        do_not_cache: false,
        requirements: RequiredProperties::default(),
        requester: Requester::default(),
        resources: Resources::default(),
        remaining_path: Duration::ZERO,
        input_trees: Arc::default(),
        priority: 0,
        queued: SystemTime::UNIX_EPOCH,
        request_metadata: None,
    }
}

pub(super) fn id(number: u128) -> OperationId {
    OperationId(Uuid::from_u128(number))
}

pub(super) fn at(seconds: u64) -> Time {
    Time::default() + Duration::from_secs(seconds)
}

pub(super) fn success() -> OperationOutcome {
    OperationOutcome::Response(Box::default())
}

fn queue() -> OperationQueue {
    OperationQueue::new(ExecutionConfig {
        max_attempts: NonZeroUsize::new(2).unwrap(),
        no_worker_timeout: Duration::from_mins(1),
        abandoned_timeout: Duration::from_secs(10),
        completed_retention: Duration::from_mins(5),
        max_completed_operations: 2,
        max_queued_actions: 3,
        ..ExecutionConfig::default()
    })
}

fn execute(queue: &mut OperationQueue, number: u128, action: QueuedAction) -> (OperationId, Vec<Effect>) {
    queue.execute(at(0), id(number), action, false).unwrap()
}

/// The leases that effects assign, with the digests of their Actions.
pub(super) fn assigned(effects: &[Effect]) -> Vec<(WorkerId, LeaseId, bitzel_proto::Digest)> {
    let assign = |effect: &Effect| match effect {
        Effect::Assign {
            worker,
            lease,
            action,
            ..
        } => Some((*worker, *lease, action.key.digest)),
        _ => None,
    };
    effects.iter().filter_map(assign).collect()
}

/// The operations that effects complete, with their outcomes.
pub(super) fn completed(effects: &[Effect]) -> Vec<(OperationId, Arc<OperationOutcome>)> {
    let completed = |effect: &Effect| match effect {
        Effect::Publish { operation, update } => match &update.progress {
            Progress::Completed(outcome) => Some((*operation, outcome.clone())),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(completed).collect()
}

pub(super) fn failure(effects: &[Effect]) -> String {
    match completed(effects).as_slice() {
        [(_, outcome)] => match outcome.as_ref() {
            OperationOutcome::Failed(error) => error.to_string(),
            OperationOutcome::Response(response) => panic!("a response: {response:?}"),
        },
        other => panic!("not one completed operation: {other:?}"),
    }
}

#[test]
fn an_action_runs_on_a_worker_and_completes() {
    let mut queue = queue();
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    assert!(assigned(&effects).is_empty());
    let (worker, effects) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let [(to, lease, digest)] = assigned(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((to, digest), (worker, action("a").key.digest));
    let (completion, _) = queue.complete(at(0), worker, lease);
    let completion = completion.unwrap();
    assert_eq!(completion.operation, operation);
    let effects = queue.finish(at(1), operation, success());
    assert_eq!(completed(&effects).len(), 1);
    assert!(queue.attach(operation), "a completed operation is still found");
}

#[test]
fn free_slots_are_filled_and_never_exceeded() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 2, &[]));
    let mut leases = vec![];
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        leases.extend(assigned(&execute(&mut queue, number, action(name)).1));
    }
    assert_eq!(leases.len(), 2);
    let (_, effects) = queue.complete(at(0), worker, leases[0].1);
    assert_eq!(assigned(&effects)[0].2, action("c").key.digest);
}

#[test]
fn the_least_busy_worker_gets_the_next_action() {
    let mut queue = queue();
    let (first, _) = queue.register_worker(at(0), &hello("first", 4, &[]));
    let (second, _) = queue.register_worker(at(0), &hello("second", 4, &[]));
    let workers: Vec<_> = (1..=4)
        .map(|number| assigned(&execute(&mut queue, number, action(&number.to_string())).1)[0].0)
        .collect();
    assert_eq!(workers, [first, second, first, second]);
}

#[test]
fn actions_are_ordered_by_priority_and_then_by_arrival() {
    let mut queue = queue();
    let with_priority = |name: &str, priority| QueuedAction {
        priority,
        ..action(name)
    };
    execute(&mut queue, 1, with_priority("late", 5));
    execute(&mut queue, 2, with_priority("second", 0));
    execute(&mut queue, 3, with_priority("third", 0));
    // A more urgent request for an Action that waits already moves it forward.
    let (joined, _) = execute(&mut queue, 4, with_priority("late", -1));
    assert_eq!(joined, id(1));
    let (_, effects) = queue.register_worker(at(0), &hello("w", 3, &[]));
    let order: Vec<_> = assigned(&effects)
        .into_iter()
        .map(|(_, _, digest)| digest)
        .collect();
    assert_eq!(
        order,
        ["late", "second", "third"].map(|name| action(name).key.digest)
    );
}

#[test]
fn only_cacheable_requests_for_one_action_are_merged() {
    let mut queue = queue();
    execute(&mut queue, 1, action("a"));
    assert_eq!(execute(&mut queue, 2, action("a")).0, id(1));
    let other_instance = QueuedAction {
        key: ActionKey {
            instance: InstanceName::new("other").unwrap(),
            ..action("a").key
        },
        ..action("a")
    };
    assert_eq!(execute(&mut queue, 3, other_instance).0, id(3));
    let mut queue = self::queue();
    let uncacheable = QueuedAction {
        do_not_cache: true,
        ..action("a")
    };
    assert_eq!(execute(&mut queue, 4, uncacheable.clone()).0, id(4));
    assert_eq!(execute(&mut queue, 5, uncacheable).0, id(5));
}

#[test]
fn skip_cache_lookup_does_not_join_a_recording() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (_, effects) = execute(&mut queue, 1, action("a"));
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    assert_eq!(execute(&mut queue, 2, action("a")).0, id(1));
    let (fresh, _) = queue.execute(at(0), id(3), action("a"), true).unwrap();
    assert_eq!(fresh, id(3));
    // The older operation ends, and the newer one stays in flight.
    queue.finish(at(0), id(1), success());
    assert_eq!(execute(&mut queue, 4, action("a")).0, id(3));
}

#[test]
fn a_full_queue_refuses_actions() {
    let mut queue = queue();
    for number in 1..=3 {
        execute(&mut queue, number, action(&number.to_string()));
    }
    let refused = queue.execute(at(0), id(4), action("4"), false);
    assert!(matches!(refused, Err(ExecutionError::QueueFull { limit: 3 })));
    // Joining a waiting operation takes no space.
    assert_eq!(execute(&mut queue, 5, action("3")).0, id(3));
}

#[test]
fn a_user_cannot_fill_the_queue() {
    let mut queue = OperationQueue::new(ExecutionConfig {
        max_queued_actions_per_user: 2,
        ..ExecutionConfig::default()
    });
    let of = |user: &str, name: &str| QueuedAction {
        requester: Requester {
            user: user.into(),
            ..Requester::default()
        },
        ..action(name)
    };
    execute(&mut queue, 1, of("a", "1"));
    execute(&mut queue, 2, of("a", "2"));
    let refused = queue.execute(at(0), id(3), of("a", "3"), false);
    let message = refused.unwrap_err().to_string();
    assert_eq!(
        message,
        "2 Actions of a are already waiting for workers; try again later"
    );
    execute(&mut queue, 4, of("b", "3"));
    // One that runs does not wait.
    queue.register_worker(at(0), &hello("w", 1, &[]));
    execute(&mut queue, 5, of("a", "5"));
}

#[test]
fn a_returned_lease_is_no_failed_attempt() {
    let mut queue = queue();
    let (operation, _) = execute(&mut queue, 1, action("a"));
    for name in ["first", "second", "third"] {
        let (worker, effects) = queue.register_worker(at(0), &hello(name, 1, &[]));
        let effects = queue.return_lease(at(0), worker, assigned(&effects)[0].1, "no space");
        assert!(completed(&effects).is_empty(), "{effects:?}");
    }
    let (worker, effects) = queue.register_worker(at(0), &hello("fourth", 1, &[]));
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    assert_eq!(completed(&queue.finish(at(0), operation, success())).len(), 1);
}

#[test]
fn a_worker_that_hands_back_again_and_again_pauses_longer() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (_, effects) = execute(&mut queue, 1, action("a"));
    execute(&mut queue, 2, action("b"));
    execute(&mut queue, 3, action("c"));
    let mut lease = assigned(&effects)[0].1;
    let mut failed = vec![];
    for (from, until) in [(0, 10), (10, 30), (30, 70)] {
        failed = completed(&queue.return_lease(at(from), worker, lease, "no space"));
        assert!(assigned(&queue.tick(at(until - 1))).is_empty());
        lease = assigned(&queue.tick(at(until)))[0].1;
    }
    assert_eq!(failed[0].0, id(1), "there is no other worker for it");
    let (_, effects) = queue.complete(at(70), worker, lease);
    queue.return_lease(at(70), worker, assigned(&effects)[0].1, "no space");
    assert_eq!(
        assigned(&queue.tick(at(80))).len(),
        1,
        "it had resources in between"
    );
}

#[test]
fn actions_of_a_lost_worker_keep_their_position() {
    let mut queue = queue();
    let (lost, _) = queue.register_worker(at(0), &hello("lost", 1, &[]));
    execute(&mut queue, 1, action("first"));
    execute(&mut queue, 2, action("second"));
    queue.lose_worker(at(1), lost);
    let (_, effects) = queue.register_worker(at(0), &hello("other", 1, &[]));
    assert_eq!(assigned(&effects)[0].2, action("first").key.digest);
}

#[test]
fn repeated_loss_fails_with_the_names_of_the_workers() {
    let mut queue = queue();
    execute(&mut queue, 1, action("a"));
    let (first, _) = queue.register_worker(at(0), &hello("first", 1, &[]));
    assert!(completed(&queue.lose_worker(at(1), first)).is_empty());
    let (second, _) = queue.register_worker(at(0), &hello("second", 1, &[]));
    let message = failure(&queue.lose_worker(at(2), second));
    assert_eq!(
        message,
        "gave up after 2 attempts: worker first was lost; worker second was lost"
    );
}

#[test]
fn a_failure_of_the_worker_counts_as_an_attempt() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    let effects = queue.retry(at(1), operation, "no store".to_owned());
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    let message = failure(&queue.retry(at(2), operation, "still no store".to_owned()));
    assert_eq!(message, "gave up after 2 attempts: no store; still no store");
}

#[test]
fn unknown_ended_and_foreign_leases_are_ignored() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (thief, _) = queue.register_worker(at(0), &hello("thief", 1, &[]));
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    let lease = assigned(&effects)[0].1;
    assert!(queue.complete(at(0), worker, LeaseId(77)).0.is_none());
    assert!(queue.complete(at(0), thief, lease).0.is_none());
    assert!(queue.complete(at(0), worker, lease).0.is_some());
    assert!(queue.complete(at(0), worker, lease).0.is_none());
    assert_eq!(completed(&queue.finish(at(1), operation, success())).len(), 1);
    assert!(queue.finish(at(1), operation, success()).is_empty());
}

#[test]
fn a_worker_that_dies_after_reporting_loses_nothing() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    assert!(queue.lose_worker(at(1), worker).is_empty());
    assert_eq!(completed(&queue.finish(at(1), operation, success())).len(), 1);
}

#[test]
fn an_action_without_a_suitable_worker_fails() {
    let mut queue = queue();
    let gpu = QueuedAction {
        requirements: RequiredProperties::new(&platform(&[("gpu", "1"), ("OSFamily", "linux")])),
        ..action("a")
    };
    queue.register_worker(at(0), &hello("w", 1, &[("OSFamily", "linux")]));
    execute(&mut queue, 1, gpu);
    assert!(queue.tick(at(59)).is_empty());
    assert_eq!(queue.next_deadline(), Some(at(60)));
    let message = failure(&queue.tick(at(60)));
    assert_eq!(
        message,
        "no worker that could run the Action for 60 s; it needs one that offers: OSFamily=linux, gpu=1; no worker \
         offers gpu"
    );
}

#[test]
fn waiting_for_a_busy_worker_has_no_timeout() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    execute(&mut queue, 1, action("long"));
    execute(&mut queue, 2, action("waits"));
    assert!(queue.tick(at(100_000)).is_empty());
    // It drains: from now on no worker serves the Action.
    queue.drain_worker(at(100_000), worker);
    assert_eq!(queue.next_deadline(), Some(at(100_060)));
    assert_eq!(completed(&queue.tick(at(100_060)))[0].0, id(2));
}

#[test]
fn a_new_worker_restarts_the_timeout() {
    let mut queue = queue();
    let gpu = [("gpu", "1")];
    let needs_gpu = |name: &str| QueuedAction {
        requirements: RequiredProperties::new(&platform(&gpu)),
        ..action(name)
    };
    execute(&mut queue, 1, needs_gpu("a"));
    let (worker, effects) = queue.register_worker(at(0), &hello("w", 1, &gpu));
    assert_eq!(assigned(&effects).len(), 1);
    queue.lose_worker(at(30), worker);
    assert!(queue.tick(at(60)).is_empty(), "it waits since 30 s only");
    assert_eq!(completed(&queue.tick(at(90))).len(), 1);
}

#[test]
fn a_drained_worker_finishes_its_actions_and_is_closed() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 2, &[]));
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    assert!(queue.drain_worker(at(1), worker).is_empty());
    assert!(assigned(&execute(&mut queue, 2, action("b")).1).is_empty());
    let (completion, effects) = queue.complete(at(0), worker, assigned(&effects)[0].1);
    assert_eq!(completion.unwrap().operation, operation);
    assert!(matches!(effects[..], [Effect::Close { .. }]));
    let (idle, _) = queue.register_worker(at(0), &hello("idle", 1, &[]));
    queue.lose_worker(at(1), idle);
    let (idle, _) = queue.register_worker(at(0), &hello("idle", 1, &[("b", "gone")]));
    let effects = queue.drain_worker(at(1), idle);
    assert!(!matches!(effects[..], [Effect::Close { .. }]), "it runs b");
}

#[test]
fn an_abandoned_action_is_cancelled_after_the_timeout() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (running, effects) = execute(&mut queue, 1, action("running"));
    let lease = assigned(&effects)[0].1;
    let (waiting, _) = execute(&mut queue, 2, action("waiting"));
    queue.detach(at(5), running);
    queue.detach(at(5), waiting);
    assert!(queue.tick(at(14)).is_empty());
    let effects = queue.tick(at(15));
    let cancelled: Vec<_> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Cancel { .. }))
        .collect();
    assert!(matches!(cancelled[..], [Effect::Cancel { lease: cancelled, .. }] if *cancelled == lease));
    assert!(!queue.attach(running) && !queue.attach(waiting));
    // The slot is in use until the worker reports the end of the Action.
    assert!(assigned(&execute(&mut queue, 3, action("next")).1).is_empty());
    let (completion, effects) = queue.complete(at(0), worker, lease);
    assert!(completion.is_none());
    assert_eq!(assigned(&effects)[0].2, action("next").key.digest);
}

#[test]
fn a_client_that_returns_in_time_keeps_the_action() {
    let mut queue = queue();
    queue.register_worker(at(0), &hello("w", 1, &[]));
    let (operation, _) = execute(&mut queue, 1, action("a"));
    queue.detach(at(0), operation);
    assert!(queue.attach(operation));
    assert!(queue.tick(at(10)).is_empty());
    queue.detach(at(12), operation);
    // Another request for the same Action counts as well.
    assert_eq!(execute(&mut queue, 2, action("a")).0, operation);
    queue.detach(at(18), operation);
    assert!(
        queue.tick(at(22)).is_empty(),
        "the time counts from the last departure"
    );
    assert!(!queue.tick(at(28)).is_empty());
}

#[test]
fn an_abandoned_action_is_cancelled_instead_of_retried() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    queue.detach(at(0), operation);
    assert!(queue.tick(at(10)).is_empty(), "the result is being recorded");
    queue.retry(at(11), operation, "no store".to_owned());
    assert!(
        queue
            .tick(at(11))
            .iter()
            .any(|effect| matches!(effect, Effect::Cancel { .. }))
    );
}

#[test]
pub(super) fn completed_operations_are_limited_in_time_and_number() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    for number in 1..=3 {
        let (operation, effects) = execute(&mut queue, number, action(&number.to_string()));
        queue.complete(at(0), worker, assigned(&effects)[0].1);
        queue.finish(at(0), operation, success());
    }
    assert!(!queue.attach(id(1)), "two are kept");
    assert!(queue.attach(id(2)) && queue.attach(id(3)));
    assert_eq!(queue.next_deadline(), Some(at(300)));
    queue.tick(at(300));
    assert!(!queue.attach(id(2)) && !queue.attach(id(3)));
    assert_eq!(queue.next_deadline(), None);
}

#[test]
fn f22_completed_operations_are_limited_in_bytes() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let mut number = 0;
    let mut run = |queue: &mut OperationQueue, user: &str, bytes: usize| {
        number += 1;
        let mut action = action(&number.to_string());
        action.requester.user = user.into();
        let (operation, effects) = execute(queue, number, action);
        queue.complete(at(0), worker, assigned(&effects)[0].1);
        let response = ExecuteResponse {
            message: "x".repeat(bytes),
            ..ExecuteResponse::default()
        };
        let outcome = OperationOutcome::Response(Box::new(response));
        let effects = queue.finish(at(0), operation, outcome);
        assert_eq!(completed(&effects).len(), 1, "its clients get it");
        operation
    };
    let large = run(&mut queue, "a", MAX_OUTCOME_BYTES);
    assert!(
        !queue.attach(large),
        "an outcome that the journal drops is not in memory"
    );
    let other = run(&mut queue, "b", 1000);
    let of_a: Vec<OperationId> = (0..100).map(|_| run(&mut queue, "a", 1_000_000)).collect();
    let kept = of_a.iter().filter(|id| queue.attach(**id)).count();
    assert_eq!(kept, 67, "64 MiB of one user");
    assert!(queue.attach(other) && !queue.attach(of_a[0]));
    for user in ["c", "d", "e", "f"] {
        for _ in 0..60 {
            run(&mut queue, user, 1_000_000);
        }
    }
    assert!(!queue.attach(other), "256 MiB of all users");
}

#[test]
fn a_worker_changes_the_stage_of_its_own_leases_only() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (thief, _) = queue.register_worker(at(0), &hello("thief", 1, &[]));
    let lease = assigned(&execute(&mut queue, 1, action("a")).1)[0].1;
    assert!(queue.change_stage(thief, lease, false).is_empty());
    let effects = queue.change_stage(worker, lease, false);
    let [Effect::Publish { update, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(matches!(update.progress, Progress::Queued));
}

#[test]
fn a_response_is_published_unchanged() {
    let mut queue = queue();
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let (operation, effects) = execute(&mut queue, 1, action("a"));
    queue.complete(at(0), worker, assigned(&effects)[0].1);
    let response = ExecuteResponse {
        message: "hello".to_owned(),
        ..Default::default()
    };
    let effects = queue.finish(
        at(0),
        operation,
        OperationOutcome::Response(Box::new(response.clone())),
    );
    let completed = completed(&effects);
    assert!(
        matches!(completed[0].1.as_ref(), OperationOutcome::Response(published) if **published == response)
    );
}
