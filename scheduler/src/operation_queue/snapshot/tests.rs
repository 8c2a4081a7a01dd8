use std::time::Duration;

use crate::ExecutionConfig;
use crate::operation_queue::tests::{action, assigned, at, hello, id, platform};
use crate::operation_queue::{OperationQueue, QueuedAction, Requester};
use crate::platform::RequiredProperties;

#[test]
fn shows_what_runs_and_what_waits() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (worker, _) = queue.register_worker(at(0), &hello("w", 1, &[("ISA", "x86-64")]));
    let of = |user: &str, name: &str, properties| QueuedAction {
        requester: Requester {
            user: user.into(),
            ..Requester::default()
        },
        requirements: RequiredProperties::new(&platform(properties)),
        ..action(name)
    };
    let (_, effects) = queue.execute(at(1), id(1), of("a", "1", &[]), false).unwrap();
    for (number, user) in [(2, "a"), (3, "b"), (4, "b")] {
        let waiting = of(user, &number.to_string(), &[("ISA", "x86-64")]);
        queue.execute(at(2), id(number), waiting, false).unwrap();
    }
    queue
        .execute(at(3), id(5), of("b", "5", &[("ISA", "riscv")]), false)
        .unwrap();

    let snapshot = queue.snapshot(at(10));
    let [shown] = &snapshot.workers[..] else {
        panic!("{snapshot:?}")
    };
    assert_eq!((&*shown.name, shown.slots, shown.draining), ("w", 1, false));
    assert_eq!(shown.running[0].running, Duration::from_secs(9));
    let running = shown.running[0].action.as_ref().unwrap();
    assert_eq!(running.key, action("1").key);
    let mut groups: Vec<_> = snapshot
        .waiting
        .iter()
        .map(|group| {
            (
                &*group.user,
                group.actions,
                group.waited.as_secs(),
                group.unserved,
            )
        })
        .collect();
    groups.sort_unstable();
    assert_eq!(
        groups,
        [("a", 1, 8, false), ("b", 1, 7, true), ("b", 2, 8, false)]
    );
    assert_eq!(snapshot.waiting_actions, 4);

    queue.return_lease(at(10), worker, assigned(&effects)[0].1, "no space");
    assert_eq!(queue.snapshot(at(12)).workers[0].paused, Duration::from_secs(8));
}
