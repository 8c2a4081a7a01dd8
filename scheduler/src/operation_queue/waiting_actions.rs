//! Queues in which operations wait for workers.
//!
//! There is one queue for each set of required properties and each size, so that a free slot costs one comparison for each,
//! however many Actions wait. In a queue, users share the slots by their weights, and the invocations of a user share those of
//! the user equally ([`super::fair_shares`]). Actions of one invocation are ordered by arrival, priority and remaining path.
//!
//! A priority is a head start: each level is worth `priority_step`. In an invocation that is time of waiting, so Actions
//! of low priority age. Between invocations and between users it is time of all slots that serve the queue, once: a more urgent priority
//! moves a user forward, but changes no shares in the long run, and starves nobody.

mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::demand::Demand;
use super::fair_shares::{FairShares, MemberId};
use super::ids::OperationId;
use super::requester::Requester;
use super::worker::Worker;
use super::worker_pool::WorkerPool;
use crate::clock::Time;
use crate::execution_config::PriorityConfig;
use crate::platform::OfferedProperties;

pub(super) use queue::Head;
use queue::{Queue, Starts};

/// Maximum number of sets of required properties that wait at the same time. Each decision compares them all, so a client
/// that invents them must not slow down all others.
pub(super) const MAX_PROPERTY_SETS: usize = 1_000;
/// Maximum number of them that no worker serves. A client that invents sets takes no place of those that have workers.
pub(super) const MAX_UNSERVED_SETS: usize = 500;
/// Maximum correction of a charge, in time of the whole farm.
const MAX_CORRECTION: Duration = Duration::from_mins(5);

/// Longest remaining path that counts. Longer ones, which no build has, would only exceed the range of numbers.
const MAX_PATH: Duration = Duration::from_hours(24 * 365);

/// Position among the Actions of an invocation: by arrival, priority and remaining path, then by the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    /// Nanoseconds on the clock's scale. Each level of priority is worth one step, and the remaining path several times its
    /// length.
    due: i128,
    arrival: u64,
    priority: i32,
}

impl QueuePosition {
    pub(super) fn new(
        arrived: Time,
        arrival: u64,
        priority: i32,
        remaining_path: Duration,
        config: &PriorityConfig,
    ) -> Self {
        let waiting = nanos(arrived.since(Time::default()));
        let head_start = i128::from(priority) * nanos(config.step);
        let path = i128::from(config.path_weight) * nanos(remaining_path.min(MAX_PATH));
        Self {
            due: waiting + head_start - path,
            arrival,
            priority,
        }
    }

    /// Tells by how much this position is behind another one of the same invocation.
    pub(super) fn behind(&self, other: &Self) -> Duration {
        let nanos = u64::try_from((self.due - other.due).max(0)).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos)
    }
}

/// Place of an operation in the queue of one requester.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) user: MemberId,
    pub(super) invocation: MemberId,
    pub(super) position: QueuePosition,
}

/// The way in which a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseEnd {
    /// The worker ran the Action.
    Completed,
    /// The worker handed the lease back. The time is charged, but teaches nothing about the requester's Actions.
    Returned,
    /// The worker was lost. The lease is free.
    WorkerLost,
}

/// Answer to the question if a worker has the resources for an Action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It has them free.
    Now,
    /// It has them, and other Actions use them.
    Later,
    /// It has less.
    Never,
}

/// First waiting operations for one worker.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// The first one that the worker has the resources for.
    pub(super) fitting: Option<Head>,
    /// The first one that it has too few free resources for.
    pub(super) too_large: Option<Head>,
}

/// Charge for an Action that runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Charge {
    user: MemberId,
    invocation: MemberId,
    charged: Duration,
    since: Time,
}

/// Waiting operations of one user with the same required properties.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) user: Arc<str>,
    pub(super) demand: &'a Demand,
    pub(super) actions: usize,
    /// The operation that is served next.
    pub(super) next: OperationId,
    /// True if no worker, busy or not, could run them.
    pub(super) unserved: bool,
}

/// Waiting operations of all requesters.
#[derive(Debug)]
pub(super) struct WaitingActions {
    /// Queues that are not empty.
    queues: HashMap<Demand, Queue>,
    users: FairShares,
    /// Invocations of each user that has waiting or running Actions.
    invocations: HashMap<MemberId, FairShares>,
    priority_step: Duration,
    /// Slots of all workers.
    slots: u32,
}

impl WaitingActions {
    pub(super) fn new(priority_step: Duration) -> Self {
        Self {
            queues: HashMap::new(),
            users: FairShares::default(),
            invocations: HashMap::new(),
            priority_step,
            slots: 0,
        }
    }

    /// All waiting operations, in groups.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.queues.iter().flat_map(move |(demand, queue)| {
            queue.users().map(move |(user, actions, next)| Group {
                user: self.users.name(user),
                demand,
                actions,
                next,
                unserved: queue.unserved_since.is_some(),
            })
        })
    }

    /// Number of places of a user.
    pub(super) fn of_user(&self, name: &str) -> usize {
        self.users.waiting(name)
    }

    /// True if an Action with this demand, which some worker serves or none, may wait.
    pub(super) fn admits(&self, demand: &Demand, is_served: bool) -> bool {
        let unserved = || {
            self.queues
                .values()
                .filter(|queue| queue.unserved_since.is_some())
        };
        self.has_queue(demand)
            || self.queues.len() < MAX_PROPERTY_SETS && (is_served || unserved().count() < MAX_UNSERVED_SETS)
    }

    /// True if operations with this demand wait.
    pub(super) fn has_queue(&self, demand: &Demand) -> bool {
        self.queues.contains_key(demand)
    }

    /// Takes over the number of slots, after a worker has come or gone: priorities and distances are worth time of the
    /// slots that serve a queue.
    pub(super) fn set_slots(&mut self, workers: &WorkerPool) {
        self.slots = u32::try_from(workers.slots()).unwrap_or(u32::MAX);
        for (demand, queue) in &mut self.queues {
            queue.set_slots(workers.slots_for(&demand.properties), |user| Starts {
                users: &self.users,
                invocations: self.invocations.get(&user),
                priority_step: self.priority_step,
            });
        }
    }

    /// Makes a requester a member of the shares, with one more waiting Action. The place must be inserted or charged next.
    pub(super) fn join(&mut self, requester: &Requester, position: QueuePosition) -> Place {
        let user = self.users.add_waiting(&requester.user, requester.weight);
        let invocations = self
            .invocations
            .entry(user)
            .or_insert_with(FairShares::with_free_names);
        let invocation = invocations.add_waiting(&requester.invocation, std::num::NonZeroU32::MIN);
        Place {
            user,
            invocation,
            position,
        }
    }

    pub(super) fn insert(&mut self, workers: &WorkerPool, demand: &Demand, place: Place, id: OperationId) {
        if !self.queues.contains_key(demand) {
            let queue = Queue::new(workers.slots_for(&demand.properties));
            self.queues.insert(demand.clone(), queue);
        }
        let Some(queue) = self.queues.get_mut(demand) else {
            return;
        };
        let enters_user = !queue.has_user(place.user);
        let enters_invocation = !queue.has_invocation(&place);
        if enters_user {
            self.users.enter(place.user, queue.first_start());
        }
        if enters_invocation && let Some(invocations) = self.invocations.get_mut(&place.user) {
            invocations.enter(place.invocation, queue.first_start_of_user(place.user));
        }
        let starts = Starts {
            users: &self.users,
            invocations: self.invocations.get(&place.user),
            priority_step: self.priority_step,
        };
        queue.insert(&place, id, &starts);
        if enters_user || enters_invocation {
            self.reorder(place.user, place.invocation);
        }
    }

    /// Removes a place from its queue, and its requester from the shares.
    pub(super) fn remove(&mut self, demand: &Demand, place: &Place) {
        self.leave(demand, place, false);
        self.users.remove_waiting(place.user);
        if let Some(invocations) = self.invocations.get_mut(&place.user) {
            invocations.remove_waiting(place.invocation);
        }
        self.forget_idle_user(place.user);
    }

    /// First operations of all queues that a worker with these properties can serve. `fit` tells if the worker has the
    /// resources for a demand.
    pub(super) fn first(&self, offered: &OfferedProperties, fit: impl Fn(&Demand) -> Fit) -> Heads {
        let mut heads = Heads::default();
        for (demand, queue) in &self.queues {
            if !offered.satisfy(&demand.properties) {
                continue;
            }
            let Some(head) = queue.first() else {
                continue;
            };
            let first = match fit(demand) {
                Fit::Now => &mut heads.fitting,
                Fit::Later => &mut heads.too_large,
                Fit::Never => continue,
            };
            if first.as_ref().is_none_or(|first| head.key < first.key) {
                *first = Some(head);
            }
        }
        heads
    }

    /// First operation for a worker with these properties for which `is_taken` is false, of those near the front of their
    /// queues. It need not fit beside what the worker runs now.
    pub(super) fn first_not_taken(
        &self,
        offered: &OfferedProperties,
        fit: impl Fn(&Demand) -> Fit,
        is_taken: impl Fn(OperationId) -> bool,
    ) -> Option<OperationId> {
        let queues = self.queues.iter();
        let able =
            queues.filter(|(demand, _)| offered.satisfy(&demand.properties) && fit(demand) != Fit::Never);
        let first = able.filter_map(|(_, queue)| queue.first_not_taken(&is_taken));
        let (_, head) = first.min_by_key(|(passed, head)| (*passed, head.key))?;
        Some(head.operation)
    }

    /// Takes a place out of its queue, for [`Self::charge`]. The distance of its requester is limited anew.
    pub(super) fn take(&mut self, demand: &Demand, place: &Place) {
        self.leave(demand, place, true);
    }

    fn leave(&mut self, demand: &Demand, place: &Place, served: bool) {
        let starts = Starts {
            users: &self.users,
            invocations: self.invocations.get(&place.user),
            priority_step: self.priority_step,
        };
        if let Some(queue) = self.queues.get_mut(demand) {
            queue.remove(place, served, &starts);
            if queue.is_empty() {
                self.queues.remove(demand);
            }
        }
    }

    /// Charges the requester of a place for an Action that runs from `now` on.
    pub(super) fn charge(&mut self, now: Time, place: &Place) -> Charge {
        let (user, invocation) = (place.user, place.invocation);
        let charged = self.users.expected_use(user);
        self.users.serve(user, charged);
        if let Some(invocations) = self.invocations.get_mut(&user) {
            invocations.serve(invocation, charged);
        }
        self.reorder(user, invocation);
        Charge {
            user,
            invocation,
            charged,
            since: now,
        }
    }

    /// Settles the charge of a lease that ended at `now`.
    pub(super) fn settle(&mut self, now: Time, charge: &Charge, end: LeaseEnd) {
        let used = match end {
            LeaseEnd::WorkerLost => Duration::ZERO,
            LeaseEnd::Completed | LeaseEnd::Returned => now.since(charge.since),
        };
        let max_correction = MAX_CORRECTION.saturating_mul(self.slots.max(1));
        let Charge {
            user,
            invocation,
            charged,
            ..
        } = *charge;
        let invocations = self.invocations.get_mut(&user);
        let shares = [(&mut self.users, user)].into_iter();
        for (shares, member) in shares.chain(invocations.map(|shares| (shares, invocation))) {
            if end == LeaseEnd::Completed {
                shares.learn(member, used);
            }
            shares.settle(member, charged, used, max_correction);
        }
        self.reorder(user, invocation);
        self.forget_idle_user(user);
    }

    pub(super) fn unserved_since(&self, demand: &Demand) -> Option<Time> {
        self.queues.get(demand)?.unserved_since
    }

    /// Marks a queue as unserved from `now`, unless it is marked already.
    pub(super) fn set_unserved(&mut self, demand: &Demand, now: Time) {
        if let Some(queue) = self.queues.get_mut(demand) {
            queue.unserved_since.get_or_insert(now);
        }
    }

    /// Marks all queues as served that a new worker can serve.
    pub(super) fn served_by(&mut self, worker: &Worker) {
        let queues = self.queues.iter_mut();
        for (_, queue) in queues.filter(|(demand, _)| worker.could_run(demand)) {
            queue.unserved_since = None;
        }
    }

    /// Marks the queues that are no longer served, and returns their operations.
    pub(super) fn find_unserved(
        &mut self,
        now: Time,
        is_served: impl Fn(&Demand) -> bool,
    ) -> Vec<OperationId> {
        let mut found = vec![];
        for (demand, queue) in &mut self.queues {
            if queue.unserved_since.is_none() && !is_served(demand) {
                queue.unserved_since = Some(now);
                found.extend(queue.operations());
            }
        }
        found
    }

    /// Moves a user and an invocation whose starts have changed in all queues.
    fn reorder(&mut self, user: MemberId, invocation: MemberId) {
        let starts = Starts {
            users: &self.users,
            invocations: self.invocations.get(&user),
            priority_step: self.priority_step,
        };
        for queue in self.queues.values_mut() {
            queue.reorder(user, invocation, &starts);
        }
    }

    fn forget_idle_user(&mut self, user: MemberId) {
        if self.invocations.get(&user).is_some_and(FairShares::is_idle) {
            self.invocations.remove(&user);
        }
    }

    #[cfg(test)]
    pub(super) fn is_forgotten(&self) -> bool {
        self.queues.is_empty() && self.users.is_idle() && self.invocations.is_empty()
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::from(i64::MAX))
}
