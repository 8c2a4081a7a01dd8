//! Queues in which operations wait for workers.
//!
//! There is one queue for each set of required properties, so that a free slot costs one comparison for each set, however
//! many Actions wait. In a queue, users share the slots by their weights, and the invocations of a user share those of
//! the user equally ([`super::fair_shares`]). Actions of one invocation are ordered by arrival and priority.
//!
//! A priority is a head start: each level is worth `priority_step`. In an invocation that is time of waiting, so Actions
//! of low priority age. Between invocations and between users it is time of all slots that serve the queue, once: a more urgent priority
//! moves a user forward, but changes no shares in the long run, and starves nobody.

mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::fair_shares::{FairShares, MemberId};
use super::ids::OperationId;
use super::requester::Requester;
use super::worker_pool::WorkerPool;
use crate::clock::Time;
use crate::platform::{OfferedProperties, RequiredProperties};

use queue::{Queue, Starts};

/// Maximum number of sets of required properties that wait at the same time. Each decision compares them all, so a client
/// that invents them must not slow down all others.
pub(super) const MAX_PROPERTY_SETS: usize = 1_000;
/// Maximum correction of a charge, in time of the whole farm.
const MAX_CORRECTION: Duration = Duration::from_mins(5);

/// Position among the Actions of an invocation: by arrival and priority, then by the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueuePosition {
    /// Nanoseconds on the clock's scale. Each level of priority is worth one step.
    due: i128,
    arrival: u64,
    priority: i32,
}

impl QueuePosition {
    pub(super) fn new(arrived: Time, arrival: u64, priority: i32, step: Duration) -> Self {
        Self {
            due: nanos(arrived.since(Time::default())) + i128::from(priority) * nanos(step),
            arrival,
            priority,
        }
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
    pub(super) requirements: &'a RequiredProperties,
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
    queues: HashMap<RequiredProperties, Queue>,
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
        self.queues.iter().flat_map(move |(requirements, queue)| {
            queue.users().map(move |(user, actions, next)| Group {
                user: self.users.name(user),
                requirements,
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

    /// True if an Action with these requirements may wait.
    pub(super) fn admits(&self, requirements: &RequiredProperties) -> bool {
        self.queues.len() < MAX_PROPERTY_SETS || self.queues.contains_key(requirements)
    }

    /// Takes over the number of slots, after a worker has come or gone: priorities and distances are worth time of the
    /// slots that serve a queue.
    pub(super) fn set_slots(&mut self, workers: &WorkerPool) {
        self.slots = u32::try_from(workers.slots()).unwrap_or(u32::MAX);
        for (requirements, queue) in &mut self.queues {
            queue.set_slots(workers.slots_for(requirements), |user| Starts {
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

    pub(super) fn insert(
        &mut self,
        workers: &WorkerPool,
        requirements: &RequiredProperties,
        place: Place,
        id: OperationId,
    ) {
        if !self.queues.contains_key(requirements) {
            let queue = Queue::new(workers.slots_for(requirements));
            self.queues.insert(requirements.clone(), queue);
        }
        let Some(queue) = self.queues.get_mut(requirements) else {
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
    pub(super) fn remove(&mut self, requirements: &RequiredProperties, place: &Place) {
        self.leave(requirements, place, false);
        self.users.remove_waiting(place.user);
        if let Some(invocations) = self.invocations.get_mut(&place.user) {
            invocations.remove_waiting(place.invocation);
        }
        self.forget_idle_user(place.user);
    }

    /// First operation of all queues that a worker with these properties can serve, with its place.
    pub(super) fn first(&self, offered: &OfferedProperties) -> Option<(OperationId, Place)> {
        let queues = self.queues.iter();
        let served = queues.filter(|(requirements, _)| offered.satisfy(requirements));
        let first = served.filter_map(|(_, queue)| queue.first());
        let (_, place, id) = first.min_by_key(|(key, place, _)| (*key, place.position))?;
        Some((id, place))
    }

    /// Takes a place out of its queue, for [`Self::charge`]. The distance of its requester is limited anew.
    pub(super) fn take(&mut self, requirements: &RequiredProperties, place: &Place) {
        self.leave(requirements, place, true);
    }

    fn leave(&mut self, requirements: &RequiredProperties, place: &Place, served: bool) {
        let starts = Starts {
            users: &self.users,
            invocations: self.invocations.get(&place.user),
            priority_step: self.priority_step,
        };
        if let Some(queue) = self.queues.get_mut(requirements) {
            queue.remove(place, served, &starts);
            if queue.is_empty() {
                self.queues.remove(requirements);
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

    pub(super) fn unserved_since(&self, requirements: &RequiredProperties) -> Option<Time> {
        self.queues.get(requirements)?.unserved_since
    }

    /// Marks a queue as unserved from `now`, unless it is marked already.
    pub(super) fn set_unserved(&mut self, requirements: &RequiredProperties, now: Time) {
        if let Some(queue) = self.queues.get_mut(requirements) {
            queue.unserved_since.get_or_insert(now);
        }
    }

    /// Marks all queues as served that a new worker with these properties can serve.
    pub(super) fn served_by(&mut self, offered: &OfferedProperties) {
        let queues = self.queues.iter_mut();
        for (_, queue) in queues.filter(|(requirements, _)| offered.satisfy(requirements)) {
            queue.unserved_since = None;
        }
    }

    /// Marks the queues that are no longer served, and returns their operations.
    pub(super) fn find_unserved(
        &mut self,
        now: Time,
        is_served: impl Fn(&RequiredProperties) -> bool,
    ) -> Vec<OperationId> {
        let mut found = vec![];
        for (requirements, queue) in &mut self.queues {
            if queue.unserved_since.is_none() && !is_served(requirements) {
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
