use std::time::Duration;

use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::worker::{Hello, WorkerResources};

use super::super::tests::{action, assigned, at, hello, id, success};
use super::super::*;
use crate::resources::Resources;

fn gib(amount: u64) -> u64 {
    amount << 30
}

/// A worker that allows one Action all of its memory.
fn worker(name: &str, memory_gib: u64) -> Hello {
    Hello {
        resources: Some(WorkerResources {
            memory_bytes: gib(memory_gib),
            action_memory_bytes: gib(memory_gib),
            ..WorkerResources::default()
        }),
        ..hello(name, 4, &[])
    }
}

fn of_recipe(recipe: &str, name: &str) -> QueuedAction {
    QueuedAction {
        request_metadata: Some(RequestMetadata {
            target_id: recipe.to_owned(),
            action_mnemonic: "do_compile".to_owned(),
            ..RequestMetadata::default()
        }),
        ..action(name)
    }
}

fn used(memory_gib: u64) -> MeasuredUse {
    MeasuredUse {
        resources: Resources {
            memory_bytes: gib(memory_gib),
            ..Resources::default()
        },
        duration: Duration::from_secs(1),
    }
}

fn execute(queue: &mut OperationQueue, number: u128, action: QueuedAction) -> Vec<Effect> {
    queue.execute(at(0), id(number), action, false).unwrap().1
}

#[test]
fn a_task_is_sized_by_its_earlier_runs() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    queue.register_worker(at(0), &worker("w", 16));
    queue.learn(&of_recipe("glibc", "first"), &used(8));
    assert_eq!(
        assigned(&execute(&mut queue, 1, of_recipe("glibc", "a"))).len(),
        1
    );
    assert!(
        assigned(&execute(&mut queue, 2, of_recipe("glibc", "b"))).is_empty(),
        "8 GiB and 20 % twice are more than 16 GiB"
    );
    assert_eq!(assigned(&execute(&mut queue, 3, of_recipe("zlib", "c"))).len(), 1);
}

#[test]
fn what_was_learnt_is_recorded_and_restored() {
    let mut before = OperationQueue::new(ExecutionConfig::default());
    let effects = before.learn(&of_recipe("glibc", "first"), &used(8));
    let [
        Effect::Record(Record::Learnt {
            task,
            task_use: Some(task_use),
        }),
    ] = &effects[..]
    else {
        panic!("{effects:?}");
    };
    let mut after = OperationQueue::new(ExecutionConfig::default());
    after.restore_usage(vec![(*task, task_use.clone())]);
    after.register_worker(at(0), &worker("w", 16));
    execute(&mut after, 1, of_recipe("glibc", "a"));
    assert!(assigned(&execute(&mut after, 2, of_recipe("glibc", "b"))).is_empty());
}

/// Runs an Action until its result is recorded, on the only worker that has it.
fn reach_bound(queue: &mut OperationQueue, effects: &[Effect], bound: u64) -> (bool, Vec<Effect>) {
    let (worker, lease, _) = assigned(effects)[0];
    let (ended, _) = queue.complete(at(1), worker, lease);
    let operation = ended.unwrap().operation;
    queue.retry_with_more_memory(at(1), operation, bound, "too little".to_owned())
}

#[test]
fn an_action_that_ran_out_of_memory_gets_more_once() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    queue.register_worker(at(0), &worker("small", 4));
    let effects = execute(&mut queue, 1, of_recipe("llvm", "a"));
    let (big, _) = queue.register_worker(at(0), &worker("big", 32));
    let (is_queued, effects) = reach_bound(&mut queue, &effects, gib(4));
    assert!(is_queued);
    assert_eq!(assigned(&effects)[0].0, big, "the small one has too little");
    let (is_queued, effects) = reach_bound(&mut queue, &effects, gib(6));
    assert!(!is_queued, "once");
    assert!(assigned(&effects).is_empty());
    assert_eq!(queue.finish(at(2), id(1), success()).len(), 2);
}

#[test]
fn without_a_larger_worker_the_result_stands() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    queue.register_worker(at(0), &worker("w", 4));
    let effects = execute(&mut queue, 1, of_recipe("llvm", "a"));
    let (is_queued, effects) = reach_bound(&mut queue, &effects, gib(4));
    assert!(!is_queued);
    assert!(
        matches!(effects[..], [Effect::Record(Record::Learnt { .. })]),
        "the next request knows it"
    );
}

#[test]
fn requests_of_no_task_teach_nothing() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    assert!(queue.learn(&action("a"), &used(8)).is_empty());
}

#[test]
fn disk_space_is_planned_as_earlier_runs_took_it() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let mut disk = worker("w", 64);
    disk.resources.as_mut().unwrap().disk_bytes = gib(20);
    queue.register_worker(at(0), &disk);
    let took = |disk_bytes| MeasuredUse {
        resources: Resources {
            disk_bytes,
            ..Resources::default()
        },
        duration: Duration::from_secs(1),
    };
    queue.learn(&of_recipe("chromium", "first"), &took(gib(10)));
    queue.learn(&of_recipe("zlib", "second"), &took(100 << 20));
    let is_assigned = |effects: &[Effect]| assigned(effects).len() == 1;
    assert!(is_assigned(&execute(&mut queue, 1, of_recipe("chromium", "a"))));
    assert!(
        !is_assigned(&execute(&mut queue, 2, of_recipe("chromium", "b"))),
        "10 GiB and 20 % twice are more than 20 GiB"
    );
    assert!(
        is_assigned(&execute(&mut queue, 3, of_recipe("zlib", "c"))),
        "100 MiB count as none"
    );
}
