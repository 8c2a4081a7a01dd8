//! Shares in a farm with two pools of different size.

use super::*;

/// Farm with a large and a small pool, in steps of a second: each Action takes one.
struct TwoPools {
    queue: OperationQueue,
    seconds: u64,
    requests: u128,
    running: Vec<(WorkerId, u64, QueuedAction)>,
    started: HashMap<(String, &'static str), usize>,
}

impl TwoPools {
    fn new() -> Self {
        let mut queue = OperationQueue::new(ExecutionConfig {
            max_completed_operations: 0,
            ..ExecutionConfig::default()
        });
        queue.register_worker(at(0), &hello("large", 200, &[("pool", "large")]));
        queue.register_worker(at(0), &hello("small", 2, &[("pool", "small")]));
        Self {
            queue,
            seconds: 0,
            requests: 0,
            running: vec![],
            started: HashMap::new(),
        }
    }

    fn request(&mut self, user: &str, pool: &str, count: usize) {
        for _ in 0..count {
            self.requests += 1;
            let action = QueuedAction {
                requester: requester(user, 1, "i"),
                requirements: RequiredProperties::new(&platform(&[("pool", pool)])),
                ..action(&self.requests.to_string())
            };
            let executed = self
                .queue
                .execute(at(self.seconds), id(self.requests), action, false);
            self.note(executed.unwrap().1);
        }
    }

    fn note(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Assign {
                worker,
                lease,
                action,
                ..
            } = effect
            {
                let large = action.requirements == RequiredProperties::new(&platform(&[("pool", "large")]));
                let pool = if large { "large" } else { "small" };
                let user = action.requester.user.to_string();
                *self.started.entry((user, pool)).or_default() += 1;
                self.running.push((worker, lease.0, (*action).clone()));
            }
        }
    }

    fn started(&self, user: &str, pool: &'static str) -> usize {
        self.started
            .get(&(user.to_owned(), pool))
            .copied()
            .unwrap_or_default()
    }

    /// Lets all running Actions end. Each is requested again, so that its user waits all the time.
    fn next_second(&mut self) {
        self.seconds += 1;
        let now = at(self.seconds);
        for (worker, lease, action) in std::mem::take(&mut self.running) {
            self.requests += 1;
            let again = QueuedAction {
                key: super::tests::action(&self.requests.to_string()).key,
                ..action
            };
            let executed = self.queue.execute(now, id(self.requests), again, false);
            self.note(executed.unwrap().1);
            let (ended, effects) = self.queue.complete(now, worker, LeaseId(lease));
            self.note(effects);
            let effects = self.queue.finish(now, ended.unwrap().operation, success());
            self.note(effects);
        }
    }
}

#[test]
fn a_user_of_a_large_pool_is_served_in_a_small_one() {
    let mut farm = TwoPools::new();
    farm.request("m", "small", 8);
    farm.request("x", "large", 800);
    for _ in 0..300 {
        farm.next_second();
    }
    farm.request("x", "small", 1);
    for _ in 0..70 {
        farm.next_second();
    }
    assert!(farm.started("x", "small") > 0);
    assert!(farm.started("m", "small") > 100);
}

#[test]
fn a_new_user_gets_no_more_than_its_share_of_a_large_pool() {
    let mut farm = TwoPools::new();
    farm.request("m", "small", 8);
    farm.request("x", "large", 800);
    for _ in 0..60 {
        farm.next_second();
    }
    farm.request("new", "large", 800);
    farm.started.clear();
    for _ in 0..30 {
        farm.next_second();
    }
    let share = farm.started("new", "large");
    assert!((2_500..=3_500).contains(&share), "{share} of 6000");
}

#[test]
fn an_unserved_property_set_freezes_nothing() {
    let mut farm = TwoPools::new();
    farm.request("hostile", "nowhere", 1);
    farm.request("x", "large", 800);
    for _ in 0..60 {
        farm.next_second();
    }
    farm.request("hostile", "large", 800);
    farm.request("new", "large", 800);
    farm.started.clear();
    for _ in 0..30 {
        farm.next_second();
    }
    for user in ["hostile", "new", "x"] {
        let share = farm.started(user, "large");
        assert!((1_600..=2_400).contains(&share), "{user}: {share} of 6000");
    }
}
