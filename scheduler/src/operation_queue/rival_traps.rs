//! Faults that other engines of remote execution had, as tests of the queue. Each test has the name of the project and the
//! number of the report. Those that need real services are in `tests/rival_traps.rs`.

use super::tests::{action, assigned, at, completed, hello, holder, id, success};
use super::*;

fn queue() -> OperationQueue {
    OperationQueue::new(ExecutionConfig::default())
}

fn execute(queue: &mut OperationQueue, seconds: u64, number: u128, name: &str) -> (OperationId, Vec<Effect>) {
    queue
        .execute(at(seconds), id(number), action(name), false)
        .unwrap()
}

fn cancels(effects: &[Effect]) -> usize {
    let cancels = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Cancel { .. }));
    cancels.count()
}

/// Whatever way a lease ends, its slot is free again: slots that leak end in a farm that does nothing.
#[test]
fn nativelink_2642_no_end_of_a_lease_leaks_its_slot() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &hello("w", 4, &[]));
    let leases: Vec<_> = (1..=4)
        .map(|number| assigned(&execute(&mut queue, 0, number, &number.to_string()).1)[0].1)
        .collect();
    // One completes, one fails in recording, one is handed back, one is abandoned.
    queue.complete(at(1), w, leases[0]);
    queue.finish(at(1), id(1), success());
    queue.complete(at(1), w, leases[1]);
    queue.retry(at(1), id(2), "no store".to_owned());
    queue.detach(at(1), id(4));
    let effects = queue.tick(at(60));
    assert_eq!(cancels(&effects), 1);
    queue.complete(at(61), w, leases[3]);
    queue.return_lease(at(61), w, leases[2], "no space");
    // The two that wait again run as soon as the pause is over.
    while queue.occupancy().slots_used > 0 || queue.occupancy().waiting > 0 {
        let held: Vec<_> = queue.workers.get(w).unwrap().leases.keys().copied().collect();
        let mut effects = queue.tick(at(1000));
        for lease in held {
            let (ended, more) = queue.complete(at(1000), w, lease);
            effects.extend(more);
            if let Some(ended) = ended {
                queue.finish(at(1000), ended.operation, success());
            }
        }
    }
    let worker = queue.workers.get(w).unwrap();
    assert!(worker.leases.is_empty() && worker.is_open());
    assert_eq!(worker.used, crate::resources::Resources::default());
}

/// The clean-up of an operation must not remove the entry of a later one for the same Action: a third request would run
/// it once more.
#[test]
fn nativelink_2648_a_late_clean_up_spares_the_next_operation() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &hello("w", 2, &[]));
    let lease = assigned(&execute(&mut queue, 0, 1, "a").1)[0].1;
    queue.complete(at(1), w, lease);
    // A result that is being recorded is not joined by a request that must not see it.
    let (second, effects) = queue.execute(at(1), id(2), action("a"), true).unwrap();
    assert_eq!((second, assigned(&effects).len()), (id(2), 1));
    queue.finish(at(2), id(1), success());
    queue.detach(at(2), id(1));
    queue.tick(at(2000));
    let (third, effects) = execute(&mut queue, 2000, 3, "a");
    assert_eq!(third, id(2), "it joins the one that runs");
    assert!(effects.is_empty());
}

/// A server that takes over does not end what runs under leases of the server before, while workers may come back.
#[test]
fn nativelink_2680_a_new_scheduler_times_out_no_running_action() {
    let mut queue = queue();
    let restored = RestoredOperation {
        operation: id(1),
        action: action("a"),
        attempts: vec![],
        state: RestoredState::Leased {
            lease: LeaseId(7),
            holder: holder("w"),
        },
    };
    queue.restore(at(0), 2, vec![restored]);
    assert!(queue.attach(id(1)));
    queue.register_worker(at(0), &hello("other", 1, &[]));
    let timeout = ExecutionConfig::default().reconnect_timeout.as_secs();
    assert!(queue.tick(at(timeout - 1)).is_empty());
    let back = hello("w", 1, &[]);
    let registration = Registration {
        leases: &[(id(1), LeaseId(7))],
        ..Registration::from(&back)
    };
    let (w, effects) = queue.register_worker(at(timeout - 1), registration);
    assert_eq!((cancels(&effects), assigned(&effects).len()), (0, 0));
    // However long it takes: there is no limit but that of the Action.
    assert!(assigned(&queue.tick(at(100_000))).is_empty());
    assert!(queue.complete(at(100_000), w, LeaseId(7)).0.is_some());
}

/// A worker is told to end an Action that nobody waits for, and its slot counts as used until it has.
#[test]
fn nativelink_2693_a_worker_is_told_to_end_an_abandoned_action() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    let lease = assigned(&execute(&mut queue, 0, 1, "a").1)[0].1;
    queue.detach(at(1), id(1));
    let effects = queue.tick(at(1 + ExecutionConfig::default().abandoned_timeout.as_secs()));
    assert!(effects.iter().any(|effect| matches!(
        effect,
        Effect::Cancel { worker, lease: cancelled, .. } if *worker == w && *cancelled == lease
    )));
    assert!(
        assigned(&execute(&mut queue, 20, 2, "b").1).is_empty(),
        "it still runs"
    );
    assert_eq!(assigned(&queue.complete(at(21), w, lease).1).len(), 1);
}

/// An operation whose clients, worker or server are gone is forgotten, in every state.
#[test]
fn nativelink_2685_and_2417_no_orphan_stays() {
    let mut queue = queue();
    let restored = |number, state| RestoredOperation {
        operation: id(number),
        action: action(&number.to_string()),
        attempts: vec![],
        state,
    };
    let leased = RestoredState::Leased {
        lease: LeaseId(1),
        holder: holder("gone"),
    };
    queue.restore(
        at(0),
        1,
        vec![restored(1, leased), restored(2, RestoredState::Queued)],
    );
    let (w, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    execute(&mut queue, 0, 3, "waits");
    queue.detach(at(0), id(3));
    queue.disconnect_worker(at(1), w);
    for seconds in (0..=1000).step_by(10) {
        queue.tick(at(seconds));
    }
    assert!(queue.operations.is_empty() && queue.in_flight.is_empty());
    assert!(queue.deadlines.first().is_none() && queue.disconnected.is_empty());
}

/// An identical request joins an operation that runs, however long it has run, and does not start it again.
#[test]
fn nativelink_2685_a_request_joins_a_long_running_action() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &hello("w", 2, &[]));
    let lease = assigned(&execute(&mut queue, 0, 1, "a").1)[0].1;
    queue.tick(at(500_000));
    let (joined, effects) = execute(&mut queue, 500_000, 2, "a");
    assert_eq!((joined, effects.len()), (id(1), 0));
    assert!(queue.complete(at(500_001), w, lease).0.is_some());
}

/// An Action that was given to a worker which never answers does not stay with it.
#[test]
fn buildfarm_969_no_action_stays_with_a_silent_worker() {
    let mut queue = queue();
    let (silent, _) = queue.register_worker(at(0), &hello("silent", 1, &[]));
    execute(&mut queue, 0, 1, "a");
    queue.register_worker(at(0), &hello("other", 1, &[]));
    // Keep-alive ends its connection.
    queue.disconnect_worker(at(60), silent);
    let due = queue.next_deadline().unwrap();
    assert_eq!(assigned(&queue.tick(due)).len(), 1);
}

/// A transition costs the same however many Actions run: nothing looks at all of them again and again.
#[test]
fn buildfarm_1614_a_transition_concerns_one_action() {
    let effects_with = |running: u128| {
        let mut queue = queue();
        let slots = u32::try_from(running).unwrap() + 1;
        let (w, _) = queue.register_worker(at(0), &hello("w", slots, &[]));
        for number in 1..=running {
            execute(&mut queue, 0, number, &number.to_string());
        }
        let armed = queue.next_deadline();
        let effects = execute(&mut queue, 0, running + 1, "last").1;
        let lease = assigned(&effects)[0].1;
        let completed = queue.complete(at(1), w, lease).1;
        let finished = queue.finish(at(1), id(running + 1), success());
        (armed, [effects.len(), completed.len(), finished.len()])
    };
    assert_eq!(effects_with(1), effects_with(1000));
    assert_eq!(effects_with(1).0, None, "nothing is looked at while all run");
}

/// The death of the only worker does not let its clients hang.
#[test]
fn buildfarm_1000_clients_of_a_dead_worker_get_an_answer() {
    let mut queue = queue();
    let (w, _) = queue.register_worker(at(0), &hello("w", 1, &[]));
    execute(&mut queue, 0, 1, "a");
    queue.disconnect_worker(at(1), w);
    let mut outcomes = vec![];
    while let Some(due) = queue.next_deadline() {
        let effects = queue.tick(due);
        outcomes.extend(completed(&effects).into_iter().map(|_| due));
    }
    let config = ExecutionConfig::default();
    let answer = 1 + (config.worker_reconnect_timeout + config.no_worker_timeout).as_secs();
    assert_eq!(outcomes, [at(answer)]);
}

/// Idle workers ask for nothing: nothing is due while they wait, and a new Action concerns one of them.
#[test]
fn buildgrid_246_idle_workers_cost_nothing() {
    let mut queue = queue();
    for number in 0..1000 {
        queue.register_worker(at(0), &hello(&number.to_string(), 1, &[]));
    }
    assert_eq!(queue.next_deadline(), None);
    assert!(queue.tick(at(100_000)).is_empty());
    let effects = execute(&mut queue, 100_000, 1, "a").1;
    assert_eq!(assigned(&effects).len(), 1);
}
