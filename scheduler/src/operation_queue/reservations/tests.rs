use bitzel_proto::worker::{Hello, WorkerResources};

use super::super::tests::{action, assigned, at, hello, id};
use super::super::*;
use crate::resources::Resources;

fn gib(amount: u64) -> u64 {
    amount << 30
}

/// A worker with memory and processors for its slots.
fn worker(name: &str, slots: u32, memory_gib: u64) -> Hello {
    Hello {
        resources: Some(WorkerResources {
            memory_bytes: gib(memory_gib),
            millicpus: u64::from(slots) * 1000,
            ..WorkerResources::default()
        }),
        ..hello(name, slots, &[])
    }
}

/// An Action that states its memory.
fn large(name: &str, memory_gib: u64) -> QueuedAction {
    QueuedAction {
        resources: Resources {
            memory_bytes: gib(memory_gib),
            ..Resources::default()
        },
        ..action(name)
    }
}

fn execute(queue: &mut OperationQueue, seconds: u64, number: u128, action: QueuedAction) -> Vec<Effect> {
    queue.execute(at(seconds), id(number), action, false).unwrap().1
}

fn queue() -> OperationQueue {
    OperationQueue::new(ExecutionConfig::default())
}

fn reservation_after() -> u64 {
    ExecutionConfig::default().resources.reservation_after.as_secs()
}

#[test]
fn a_worker_takes_only_what_fits_together() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &worker("w", 4, 8));
    let first = assigned(&execute(&mut queue, 0, 1, large("a", 5)));
    assert_eq!(first.len(), 1);
    assert!(assigned(&execute(&mut queue, 0, 2, large("b", 5))).is_empty());
    assert_eq!(
        assigned(&execute(&mut queue, 0, 3, large("c", 3))).len(),
        1,
        "it fits beside the first"
    );
    let (_, effects) = queue.complete(at(1), w, first[0].1);
    assert_eq!(assigned(&effects).len(), 1);
}

#[test]
fn processors_count_like_memory() {
    let mut queue = queue();
    queue.register_worker(at(0), &worker("w", 4, 64));
    let of_three = QueuedAction {
        resources: Resources {
            millicpus: 3000,
            ..Resources::default()
        },
        ..action("a")
    };
    execute(&mut queue, 0, 1, of_three);
    assert_eq!(assigned(&execute(&mut queue, 0, 2, action("b"))).len(), 1);
    assert!(
        assigned(&execute(&mut queue, 0, 3, action("c"))).is_empty(),
        "one processor each"
    );
}

#[test]
fn a_worker_that_tells_nothing_gets_as_many_as_its_slots() {
    let mut queue = queue();
    queue.register_worker(at(0), &hello("w", 2, &[]));
    for number in 1..=2 {
        let effects = execute(&mut queue, 0, number, large(&number.to_string(), 500));
        assert_eq!(assigned(&effects).len(), 1);
    }
}

#[test]
fn what_no_worker_has_fails_with_the_amounts() {
    let mut queue = queue();
    queue.register_worker(at(0), &worker("w", 1, 8));
    execute(&mut queue, 0, 1, large("a", 9));
    let timeout = ExecutionConfig::default().no_worker_timeout.as_secs();
    let effects = queue.tick(at(timeout));
    let text = format!("{effects:?}");
    assert!(text.contains("NoWorker"), "{text}");
    let error = effects.iter().find_map(|effect| match effect {
        Effect::Record(Record::Completed { outcome, .. }) => match &**outcome {
            OperationOutcome::Failed(error) => Some(error.to_string()),
            OperationOutcome::Response(_) => None,
        },
        _ => None,
    });
    let error = error.unwrap();
    assert!(
        error.contains("9.0 GiB of memory") && error.contains("the largest has 8.0 GiB of memory"),
        "{error}"
    );
}

#[test]
fn a_large_action_gets_a_worker_in_the_end() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &worker("w", 2, 8));
    let mut held: Vec<_> = (1..=2)
        .flat_map(|number| assigned(&execute(&mut queue, 0, number, large(&number.to_string(), 4))))
        .map(|(_, lease, _)| lease)
        .collect();
    execute(&mut queue, 1, 3, large("large", 8));
    // Small ones that never end pass it by, until the worker is kept free.
    let mut passed = 0;
    for number in 4..200 {
        let seconds = u64::try_from(number).unwrap();
        queue
            .execute(at(seconds), id(number), large(&number.to_string(), 4), false)
            .unwrap();
        let Some(lease) = held.first().copied() else { break };
        held.remove(0);
        let (_, effects) = queue.complete(at(seconds), w, lease);
        let given = assigned(&effects);
        if given
            .iter()
            .any(|(_, _, digest)| *digest == large("large", 8).key.digest)
        {
            assert!(passed > 0, "it did not pass anything by");
            assert!(seconds >= reservation_after());
            assert!(seconds < reservation_after() + 20);
            return;
        }
        passed += given.len();
        held.extend(given.into_iter().map(|(_, lease, _)| lease));
    }
    panic!("the large Action starves");
}

#[test]
fn a_worker_is_free_for_others_when_the_large_action_goes() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &worker("w", 2, 8));
    let first = assigned(&execute(&mut queue, 0, 1, large("a", 4)))[0].1;
    let second = assigned(&execute(&mut queue, 0, 2, large("b", 4)))[0].1;
    execute(&mut queue, 0, 3, large("large", 8));
    queue.complete(at(1), w, first);
    let third = assigned(&execute(&mut queue, 2, 4, large("c", 4)))[0].1;
    queue.complete(at(2 + reservation_after()), w, second);
    let late = execute(&mut queue, 2 + reservation_after(), 5, large("d", 4));
    assert!(assigned(&late).is_empty(), "the worker is kept free");
    let effects = queue.refuse(at(100), id(3), ExecutionError::ShuttingDown);
    assert!(assigned(&effects).is_empty());
    assert_eq!(queue.next_deadline(), Some(at(100)));
    assert_eq!(assigned(&queue.tick(at(100))).len(), 1);
    queue.complete(at(101), w, third);
}

#[test]
fn an_expectation_is_cut_to_the_largest_worker() {
    let mut queue = queue();
    let (small, _) = queue.register_worker(at(0), &worker("small", 1, 8));
    let (big, _) = queue.register_worker(at(0), &worker("big", 1, 32));
    let named = QueuedAction {
        request_metadata: Some(bitzel_proto::reapi::RequestMetadata {
            target_id: "glibc".to_owned(),
            ..Default::default()
        }),
        ..action("a")
    };
    let measured = MeasuredUse {
        resources: Resources {
            memory_bytes: gib(100),
            ..Resources::default()
        },
        duration: std::time::Duration::from_secs(1),
    };
    queue.learn(&named, &measured);
    let given = assigned(&execute(&mut queue, 0, 1, named.clone()));
    assert_eq!(given[0].0, big, "the largest worker gets it");
    let again = QueuedAction {
        key: action("b").key,
        ..named
    };
    assert!(
        assigned(&execute(&mut queue, 0, 2, again)).is_empty(),
        "the small worker waits"
    );
    // When the largest has gone, the next one is the largest.
    queue.drain_worker(at(1), big);
    let effects = queue.tick(at(1));
    assert_eq!(assigned(&effects)[0].0, small);
}
