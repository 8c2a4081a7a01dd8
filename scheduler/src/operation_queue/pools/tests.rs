use std::time::Duration;

use bitzel_proto::worker::Hello;

use super::PoolDemand;
use crate::ExecutionConfig;
use crate::operation_queue::tests::{action, at, hello, id, platform};
use crate::operation_queue::{OperationQueue, QueuedAction};
use crate::platform::RequiredProperties;

fn of_pool(pool: &str, properties: &[(&str, &str)]) -> Hello {
    Hello {
        pool: pool.to_owned(),
        ..hello(pool, 2, properties)
    }
}

fn needs(name: &str, properties: &[(&str, &str)]) -> QueuedAction {
    QueuedAction {
        requirements: RequiredProperties::new(&platform(properties)),
        ..action(name)
    }
}

#[test]
fn a_pool_without_workers_is_asked_for_what_it_offered() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (large, _) = queue.register_worker(at(0), &of_pool("large", &[("size", "large")]));
    queue.lose_worker(at(1), large);
    for number in 1..=3 {
        let action = needs(&number.to_string(), &[("size", "large")]);
        queue.execute(at(2), id(number), action, false).unwrap();
    }
    queue
        .execute(at(2), id(4), needs("4", &[("size", "small")]), false)
        .unwrap();
    let demand = PoolDemand {
        known: true,
        waiting: 3,
        waited: Duration::from_secs(5),
        ..PoolDemand::default()
    };
    assert_eq!(queue.pool_demand(at(7), "large"), demand);
}

#[test]
fn an_unknown_pool_is_asked_for_actions_that_nobody_serves() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    assert_eq!(queue.pool_demand(at(0), "new"), PoolDemand::default());
    queue
        .execute(at(0), id(1), needs("1", &[("size", "large")]), false)
        .unwrap();
    assert_eq!(queue.pool_demand(at(0), "new").waiting, 1);
    queue.register_worker(at(0), &of_pool("new", &[]));
    let demand = queue.pool_demand(at(0), "new");
    assert_eq!((demand.known, demand.workers, demand.waiting), (true, 1, 0));
}

#[test]
fn workers_that_drain_do_not_count() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let (first, _) = queue.register_worker(at(0), &of_pool("p", &[]));
    queue.execute(at(0), id(1), action("1"), false).unwrap();
    let demand = queue.pool_demand(at(0), "p");
    assert_eq!((demand.workers, demand.running), (1, 1));
    queue.drain_worker(at(0), first);
    let demand = queue.pool_demand(at(0), "p");
    assert_eq!((demand.workers, demand.running), (0, 0));
}

#[test]
fn the_pool_unused_for_longest_is_forgotten() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    for number in 0..super::MAX_POOLS {
        queue.register_worker(at(0), &of_pool(&format!("p{number}"), &[]));
    }
    queue.register_worker(at(1), &of_pool("p0", &[]));
    queue.register_worker(at(2), &of_pool("new", &[]));
    let known = |pool: &str| queue.pool_demand(at(2), pool).known;
    assert!(known("new") && known("p0") && known("p2"));
    assert!(!known("p1"));
}
