//! Shares of users, against a fluid model: with all users waiting all the time, each gets slot time by its weight.

mod two_pools;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{action, assigned, at, completed, failure, hello, id, platform, success};
use super::*;
use crate::platform::RequiredProperties;

fn requester(user: &str, weight: u32, invocation: &str) -> Requester {
    Requester {
        user: user.into(),
        weight: NonZeroU32::new(weight).unwrap(),
        invocation: invocation.into(),
    }
}

/// Farm with one worker, on which Actions end after known times.
struct Farm {
    queue: OperationQueue,
    now: Time,
    requests: u128,
    /// Ends of running Actions: time, lease, name of the user with the start.
    running: BinaryHeap<Reverse<(Time, u64)>>,
    leases: HashMap<u64, (String, Time)>,
    worker: WorkerId,
    /// Slot time of each user since the last reset, of Actions that ended.
    used: HashMap<String, Duration>,
    /// Users in the order in which their Actions started.
    started: Vec<String>,
}

impl Farm {
    fn new(slots: u32) -> Self {
        let mut queue = OperationQueue::new(ExecutionConfig {
            // The tests look at the order alone.
            max_completed_operations: 0,
            ..ExecutionConfig::default()
        });
        let (worker, _) = queue.register_worker(at(0), &hello("w", slots, &[]));
        Self {
            queue,
            now: at(0),
            requests: 0,
            running: BinaryHeap::new(),
            leases: HashMap::new(),
            worker,
            used: HashMap::new(),
            started: vec![],
        }
    }

    fn request(&mut self, requester: Requester, priority: i32, use_of_slot: Duration) {
        self.requests += 1;
        let action = QueuedAction {
            requester,
            priority,
            // The use travels with the Action, as a name that only this test reads.
            request_metadata: Some(bitzel_proto::reapi::RequestMetadata {
                action_id: use_of_slot.as_nanos().to_string(),
                ..Default::default()
            }),
            ..action(&self.requests.to_string())
        };
        let (_, effects) = self
            .queue
            .execute(self.now, id(self.requests), action, false)
            .unwrap();
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Assign { lease, action, .. } = effect {
                let nanos = action
                    .request_metadata
                    .as_ref()
                    .unwrap()
                    .action_id
                    .parse()
                    .unwrap();
                let user = action.requester.user.to_string();
                self.running
                    .push(Reverse((self.now + Duration::from_nanos(nanos), lease.0)));
                self.started.push(user.clone());
                self.leases.insert(lease.0, (user, self.now));
            }
        }
    }

    /// Lets the next Action end. Returns its user.
    fn end_one(&mut self) -> Option<String> {
        let Reverse((end, lease)) = self.running.pop()?;
        self.now = end;
        let (user, start) = self.leases.remove(&lease)?;
        *self.used.entry(user.clone()).or_default() += end.since(start);
        let (ended, effects) = self.queue.complete(self.now, self.worker, LeaseId(lease));
        self.carry_out(effects);
        let effects = self.queue.finish(self.now, ended.unwrap().operation, success());
        self.carry_out(effects);
        Some(user)
    }
}

/// Pseudo-random numbers that a seed determines.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn three_users_share_slot_time_by_weight(
        slots in 1..12u32,
        means in prop::array::uniform3(1_000..20_000u64),
        seed in any::<u64>(),
    ) {
        let users = [("a", 1), ("b", 1), ("c", 2)];
        let mut farm = Farm::new(slots);
        let mut numbers = Numbers(seed);
        let mut use_of = |index: usize| {
            let mean: u64 = means[index];
            Duration::from_millis(mean / 2 + numbers.below(mean))
        };
        for (index, (user, weight)) in users.iter().enumerate() {
            for _ in 0..slots + 4 {
                farm.request(requester(user, *weight, "i"), 0, use_of(index));
            }
        }
        // Each end is followed by a new request of the same user, so that all wait all the time.
        let longest = Duration::from_millis(*means.iter().max().unwrap());
        let mut measured_from = None;
        loop {
            let user = farm.end_one().unwrap();
            let index = users.iter().position(|(name, _)| *name == user).unwrap();
            farm.request(requester(&user, users[index].1, "i"), 0, use_of(index));
            let used: Duration = farm.used.values().sum();
            // Expectations are learnt first, then the shares are measured.
            match measured_from {
                None if used > longest * 15 * slots => {
                    measured_from = Some(farm.now);
                    farm.used.clear();
                }
                Some(_) if used > longest * 150 * slots => break,
                _ => {}
            }
        }
        let total: Duration = farm.used.values().sum();
        for (user, weight) in users {
            let share = farm.used[user].as_secs_f64() / total.as_secs_f64();
            let fluid = f64::from(weight) / 4.0;
            prop_assert!((share / fluid - 1.0).abs() < 0.05, "{user}: {share} instead of {fluid}");
        }
    }

    #[test]
    fn no_requester_starves(
        slots in 1..8u32,
        weights in prop::array::uniform3(1..5u32),
        mean in 10..5_000u64,
        priority in -10..=10i32,
    ) {
        // Two users wait all the time; the Action of a third is served after a bounded number of theirs, whatever its
        // priority.
        let mut farm = Farm::new(slots);
        for _ in 0..4 * slots {
            for (user, weight) in [("a", weights[0]), ("b", weights[1])] {
                farm.request(requester(user, weight, "i"), 0, Duration::from_millis(mean));
            }
        }
        for _ in 0..50 {
            let user = farm.end_one().unwrap();
            let weight = if user == "a" { weights[0] } else { weights[1] };
            farm.request(requester(&user, weight, "i"), 0, Duration::from_millis(mean));
        }
        farm.started.clear();
        let asked = farm.now;
        farm.request(requester("late", weights[2], "i"), priority, Duration::from_millis(mean));
        while !farm.started.contains(&"late".to_owned()) {
            let user = farm.end_one().unwrap();
            let weight = if user == "a" { weights[0] } else { weights[1] };
            farm.request(requester(&user, weight, "i"), 0, Duration::from_millis(mean));
            // Ten levels of a minute of the whole farm, for each unit of the others' weights, and the Actions that run.
            let head_start = Duration::from_mins(1) * priority.max(0).unsigned_abs() * (weights[0] + weights[1]);
            let bound = head_start + Duration::from_millis(mean) * 4 * (weights[0] + weights[1]) + Duration::from_secs(1);
            prop_assert!(farm.now.since(asked) <= bound, "it waits for {:?}", farm.now.since(asked));
        }
    }
}

#[test]
fn eight_thousand_actions_do_not_delay_three() {
    let mut farm = Farm::new(4);
    for _ in 0..8_000 {
        farm.request(requester("many", 1, "i"), 0, Duration::from_secs(10));
    }
    for _ in 0..100 {
        farm.end_one();
    }
    farm.started.clear();
    for _ in 0..3 {
        farm.request(requester("few", 1, "i"), 0, Duration::from_secs(10));
    }
    for _ in 0..8 {
        farm.end_one();
    }
    let few = farm.started.iter().filter(|user| *user == "few").count();
    assert_eq!(few, 3, "{:?}", farm.started);
}

#[test]
fn invocations_of_a_user_share_its_slots() {
    let mut farm = Farm::new(1);
    for _ in 0..1_000 {
        farm.request(requester("a", 1, "large build"), 0, Duration::from_secs(1));
    }
    farm.request(requester("a", 1, "small build"), 0, Duration::from_secs(1));
    farm.end_one();
    farm.end_one();
    let (_, effects) = farm
        .queue
        .execute(farm.now, id(5_000), action("none"), false)
        .unwrap();
    assert!(assigned(&effects).is_empty());
    // Two of the large build have ended; the one that runs is that of the small build, which came last.
    let last = farm.leases.values().next().unwrap();
    assert_eq!(last.1, farm.now);
    assert_eq!(farm.queue.occupancy().waiting, 1_001 - 3 + 1);
    let waiting = &farm.queue.operations;
    let small = waiting
        .values()
        .filter(|operation| &*operation.action.requester.invocation == "small build");
    assert!(small.clone().count() == 1 && small.clone().all(|operation| operation.places.is_empty()));
}

#[test]
fn an_action_of_low_priority_ages() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    let with_priority = |name: &str, priority| QueuedAction {
        priority,
        ..action(name)
    };
    let step = 60;
    queue
        .execute(at(0), id(1), with_priority("old", 3), false)
        .unwrap();
    queue
        .execute(at(3 * step - 1), id(2), with_priority("young", 0), false)
        .unwrap();
    queue
        .execute(at(3 * step + 1), id(3), with_priority("younger", 0), false)
        .unwrap();
    let (_, effects) = queue.register_worker(at(3 * step + 2), &hello("w", 3, &[]));
    let order: Vec<_> = assigned(&effects)
        .into_iter()
        .map(|(_, _, digest)| digest)
        .collect();
    assert_eq!(
        order,
        ["young", "old", "younger"].map(|name| action(name).key.digest)
    );
}

#[test]
fn a_priority_moves_a_user_forward_once() {
    let mut farm = Farm::new(1);
    for _ in 0..1_000 {
        farm.request(requester("normal", 1, "i"), 0, Duration::from_secs(1));
        farm.request(requester("urgent", 1, "i"), -1, Duration::from_secs(1));
    }
    for _ in 0..400 {
        farm.end_one();
    }
    // A level is worth a minute of the farm; after that both share it equally.
    let urgent = farm.started.iter().filter(|user| *user == "urgent").count();
    assert!((225..=235).contains(&urgent), "{urgent}");
    let first: Vec<_> = farm.started.iter().skip(1).take(50).collect();
    assert!(first.iter().all(|user| *user == "urgent"), "{first:?}");
}

#[test]
fn an_action_of_two_users_waits_in_both_queues() {
    let mut farm = Farm::new(1);
    for _ in 0..100 {
        farm.request(requester("many", 1, "i"), 0, Duration::from_secs(1));
    }
    // The last Action of the first user is the first one of the second.
    let shared = QueuedAction {
        requester: requester("few", 1, "i"),
        ..action("100")
    };
    let (joined, _) = farm.queue.execute(farm.now, id(1_000), shared, false).unwrap();
    assert_eq!(joined, id(100));
    farm.end_one();
    farm.end_one();
    assert!(matches!(
        farm.queue.operations[&id(100)].stage,
        Stage::Executing { .. }
    ));
    assert_eq!(farm.queue.occupancy().waiting, 97);
}

#[test]
fn an_action_that_loses_three_workers_is_quarantined() {
    let mut queue = OperationQueue::new(ExecutionConfig {
        max_attempts: std::num::NonZeroUsize::new(2).unwrap(),
        ..ExecutionConfig::default()
    });
    let lose = |queue: &mut OperationQueue, name: &str, seconds: u64| {
        let (worker, effects) = queue.register_worker(at(seconds), &hello(name, 1, &[]));
        assert_eq!(assigned(&effects).len(), 1);
        queue.lose_worker(at(seconds), worker)
    };
    queue.execute(at(0), id(1), action("bomb"), false).unwrap();
    assert!(completed(&lose(&mut queue, "first", 1)).is_empty());
    assert_eq!(
        completed(&lose(&mut queue, "second", 2)).len(),
        1,
        "the attempts are exhausted"
    );
    // The losses of earlier requests count as well.
    queue.execute(at(3), id(2), action("bomb"), false).unwrap();
    let message = failure(&lose(&mut queue, "third", 4));
    let digest = action("bomb").key.digest;
    assert_eq!(
        message,
        format!(
            "the Action {digest} is in quarantine for another 3600 s, because 3 workers were lost while they ran it: \
             first, second, third; look at their logs (does it use up their memory?) and change the Action, or execute \
             it again after that time"
        )
    );
    let refused = queue.execute(at(5), id(3), action("bomb"), false);
    assert!(matches!(refused, Err(ExecutionError::Quarantined { .. })));
    assert!(queue.execute(at(5), id(4), action("other"), false).is_ok());
    assert!(queue.execute(at(4 + 3600), id(5), action("bomb"), false).is_ok());
}

#[test]
fn a_worker_that_survives_an_action_clears_it() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    for round in 0..4u64 {
        queue
            .execute(at(round), id(round.into()), action("a"), false)
            .unwrap();
        let (lost, _) = queue.register_worker(at(round), &hello("lost", 1, &[]));
        assert!(completed(&queue.lose_worker(at(round), lost)).is_empty());
        let (worker, effects) = queue.register_worker(at(round), &hello("w", 1, &[]));
        let (ended, _) = queue.complete(at(round), worker, assigned(&effects)[0].1);
        queue.finish(at(round), ended.unwrap().operation, success());
        queue.lose_worker(at(round), worker);
    }
}

#[test]
fn f21_invented_platform_properties_are_limited() {
    let mut queue = OperationQueue::new(ExecutionConfig::default());
    queue.register_worker(at(0), &hello("busy", 1, &[("served", "1")]));
    let served = |name: &str| QueuedAction {
        requirements: RequiredProperties::new(&platform(&[("served", "1")])),
        ..action(name)
    };
    queue.execute(at(0), id(9_000), served("runs"), false).unwrap();
    let with_property = |value: usize| QueuedAction {
        requirements: RequiredProperties::new(&platform(&[("invented", &value.to_string())])),
        ..action(&value.to_string())
    };
    for number in 0..MAX_UNSERVED_SETS {
        let id = id(number as u128);
        queue.execute(at(0), id, with_property(number), false).unwrap();
    }
    let refused = queue.execute(at(0), id(5_000), with_property(5_000), false);
    assert!(matches!(refused, Err(ExecutionError::TooManyPropertySets { .. })));
    // Those that wait already, those that a worker serves, and those that one takes at once, are not concerned.
    assert!(queue.execute(at(0), id(9_001), served("waits"), false).is_ok());
    let again = QueuedAction {
        do_not_cache: true,
        ..with_property(0)
    };
    assert!(queue.execute(at(0), id(5_001), again, false).is_ok());
    queue.register_worker(at(0), &hello("w", 1, &[("invented", "5002")]));
    assert!(
        queue
            .execute(at(0), id(5_002), with_property(5_002), false)
            .is_ok()
    );
}

#[test]
fn requesters_are_forgotten_when_they_are_idle() {
    let mut farm = Farm::new(2);
    for number in 0..50 {
        farm.request(requester(&number.to_string(), 1, "i"), 0, Duration::from_secs(1));
    }
    while farm.end_one().is_some() {}
    assert!(farm.queue.waiting.is_forgotten());
}

#[test]
fn a_fresh_invocation_name_does_not_starve_others() {
    let mut farm = Farm::new(1);
    for _ in 0..50 {
        farm.request(requester("a", 1, "old"), 0, Duration::from_secs(1));
    }
    let waiting = |farm: &Farm, old: bool| {
        let operations = farm.queue.operations.values();
        let waiting = operations.filter(|operation| !operation.places.is_empty());
        waiting
            .filter(|operation| (&*operation.action.requester.invocation == "old") == old)
            .count()
    };
    let mut names = 0;
    for _ in 0..40 {
        // Each name requests one Action, before that of the name before has started.
        while waiting(&farm, false) < 2 {
            names += 1;
            farm.request(requester("a", 1, &names.to_string()), 0, Duration::from_secs(1));
        }
        farm.end_one();
    }
    let served = 50 - waiting(&farm, true);
    assert!(served >= 10, "{served} of 40");
}

#[test]
fn debts_of_many_names_are_limited() {
    let mut shares = fair_shares::FairShares::with_free_names();
    let one = NonZeroU32::MIN;
    shares.add_waiting(&"busy".into(), one);
    for number in 0..3_000 {
        let member = shares.add_waiting(&number.to_string().into(), one);
        shares.serve(member, Duration::from_secs(1));
        shares.settle(
            member,
            Duration::from_secs(1),
            Duration::from_secs(1),
            Duration::from_mins(1),
        );
    }
    assert!(shares.members() <= 1_001, "{}", shares.members());
}

#[test]
fn a_priority_is_worth_less_when_the_farm_shrinks() {
    let mut farm = Farm::new(1);
    let (other, effects) = farm
        .queue
        .register_worker(at(0), &hello("other", 1_000, &[("only", "other")]));
    assert!(effects.is_empty());
    for number in 0..1_001 {
        let filler = QueuedAction {
            requester: requester("filler", 1, "i"),
            ..action(&format!("filler {number}"))
        };
        farm.queue
            .execute(at(0), id(10_000 + number), filler, false)
            .unwrap();
    }
    let mut operations = farm.queue.operations.values();
    let lease = operations.find_map(|operation| match operation.stage {
        Stage::Executing { worker, lease } if worker == farm.worker => Some(lease),
        _ => None,
    });
    let mut lease = lease.unwrap();
    farm.request(requester("late", 1, "i"), 10, Duration::from_mins(1));
    for _ in 0..50 {
        farm.request(requester("normal", 1, "i"), 0, Duration::from_mins(1));
    }
    farm.queue.lose_worker(at(0), other);
    // Ten levels are ten minutes of one slot now, for each of the two other users.
    farm.started.clear();
    for minute in 1..40 {
        let (_, effects) = farm.queue.complete(at(minute * 60), farm.worker, lease);
        for effect in effects {
            if let Effect::Assign {
                lease: next, action, ..
            } = effect
            {
                lease = next;
                farm.started.push(action.requester.user.to_string());
            }
        }
    }
    assert!(farm.started.contains(&"late".to_owned()), "{:?}", farm.started);
}
