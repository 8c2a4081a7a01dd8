//! Queue of the operations with one set of required properties.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Place, QueuePosition};
use crate::clock::Time;
use crate::operation_queue::fair_shares::{FairShares, MemberId, VirtualTime};
use crate::operation_queue::ids::OperationId;

/// Virtual starts of the users, and of the invocations of the user at hand.
pub(super) struct Starts<'a> {
    pub(super) users: &'a FairShares,
    pub(super) invocations: Option<&'a FairShares>,
    /// Value of one level of priority.
    pub(super) step: VirtualTime,
}

/// Operations by user, by invocation and by position. Each level is ordered by key: the virtual start, moved by the priority
/// of the first operation.
#[derive(Debug, Default)]
pub(super) struct Queue {
    users: Level<UserQueue>,
    /// Time since which no worker, busy or not, could run these operations.
    pub(super) unserved_since: Option<Time>,
}

#[derive(Debug, Default)]
struct UserQueue {
    invocations: Level<InvocationQueue>,
}

#[derive(Debug, Default)]
struct InvocationQueue {
    operations: BTreeMap<QueuePosition, OperationId>,
}

/// Members with waiting operations, ordered by key.
#[derive(Debug)]
struct Level<T> {
    members: HashMap<MemberId, (VirtualTime, T)>,
    order: BTreeSet<(VirtualTime, MemberId)>,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<T: Default> Level<T> {
    fn member(&mut self, id: MemberId) -> &mut T {
        &mut self.members.entry(id).or_default().1
    }

    fn first(&self) -> Option<(VirtualTime, MemberId, &T)> {
        let (key, id) = *self.order.first()?;
        Some((key, id, &self.members.get(&id)?.1))
    }

    /// Gives a member its new key, or removes it if it has none.
    fn set_key(&mut self, id: MemberId, key: Option<VirtualTime>) {
        let Some((old, _)) = self.members.get_mut(&id) else {
            return;
        };
        match key {
            Some(key) if *old == key && self.order.contains(&(key, id)) => {}
            Some(key) => {
                self.order.remove(&(*old, id));
                *old = key;
                self.order.insert((key, id));
            }
            None => {
                self.order.remove(&(*old, id));
                self.members.remove(&id);
            }
        }
    }
}

impl InvocationQueue {
    /// Priority of the first operation.
    fn priority(&self) -> Option<i32> {
        self.operations.keys().next().map(|position| position.priority)
    }
}

impl UserQueue {
    fn priority(&self) -> Option<i32> {
        self.invocations.first()?.2.priority()
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.users.members.is_empty()
    }

    pub(super) fn insert(&mut self, place: &Place, id: OperationId, starts: &Starts<'_>) {
        let user = self.users.member(place.user);
        let invocation = user.invocations.member(place.invocation);
        invocation.operations.insert(place.position, id);
        self.reorder(place.user, place.invocation, starts);
    }

    pub(super) fn remove(&mut self, place: &Place, starts: &Starts<'_>) {
        if let Some((_, user)) = self.users.members.get_mut(&place.user)
            && let Some((_, invocation)) = user.invocations.members.get_mut(&place.invocation)
        {
            invocation.operations.remove(&place.position);
            self.reorder(place.user, place.invocation, starts);
        }
    }

    /// First operation, with its place and the key of its user.
    pub(super) fn first(&self) -> Option<(VirtualTime, Place, OperationId)> {
        let (key, user, queue) = self.users.first()?;
        let (_, invocation, queue) = queue.invocations.first()?;
        let (position, id) = queue.operations.first_key_value()?;
        let place = Place {
            user,
            invocation,
            position: *position,
        };
        Some((key, place, *id))
    }

    /// Computes the keys of an invocation and its user anew.
    pub(super) fn reorder(&mut self, user_id: MemberId, invocation_id: MemberId, starts: &Starts<'_>) {
        let Some((_, user)) = self.users.members.get_mut(&user_id) else {
            return;
        };
        if let Some((_, invocation)) = user.invocations.members.get(&invocation_id) {
            let start = starts.invocations.map_or(0, |shares| shares.start(invocation_id));
            let key = invocation.priority();
            let key = key.map(|priority| start + i128::from(priority) * starts.step);
            user.invocations.set_key(invocation_id, key);
        }
        let priority = user.priority();
        let start = starts.users.start(user_id);
        let key = priority.map(|priority| start + i128::from(priority) * starts.step);
        self.users.set_key(user_id, key);
    }

    /// All operations. Those that wait for several requesters appear several times.
    pub(super) fn operations(&self) -> impl Iterator<Item = OperationId> {
        let users = self.users.members.values();
        let invocations = users.flat_map(|(_, user)| user.invocations.members.values());
        invocations.flat_map(|(_, invocation)| invocation.operations.values().copied())
    }
}
