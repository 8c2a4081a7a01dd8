//! Queue of the operations with one set of required properties.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::{Place, QueuePosition, nanos};
use crate::clock::Time;
use crate::operation_queue::fair_shares::{FairShares, MemberId, VirtualTime};
use crate::operation_queue::ids::OperationId;

/// Virtual starts of the users, and of the invocations of the user at hand.
pub(super) struct Starts<'a> {
    pub(super) users: &'a FairShares,
    pub(super) invocations: Option<&'a FairShares>,
    /// Value of one level of priority, in time of all slots.
    pub(super) priority_step: Duration,
}

/// Maximum distance of a member from the first one of a queue when it begins to wait there, beside its expected use, in
/// time of all slots that serve the queue. The starts advance by the use of all slots: without a limit, a member that
/// uses a large pool would never be served in a small one.
const MAX_DISTANCE: Duration = Duration::from_mins(1);

/// Number of users, of invocations of each, and of operations of each of these, among which an upcoming one is looked for.
/// They bound the cost of a decision.
const MAX_MEMBERS_AHEAD: usize = 4;
const MAX_OPERATIONS_AHEAD: usize = 256;

/// First operation of a queue.
#[derive(Debug, Clone, Copy)]
pub(in crate::operation_queue) struct Head {
    /// Order among the first operations of several queues: by user, then by invocation, then by position. So the position,
    /// which the client can choose, decides only among the Actions of one invocation.
    pub(super) key: (VirtualTime, MemberId, VirtualTime, MemberId, QueuePosition),
    pub(in crate::operation_queue) place: Place,
    pub(in crate::operation_queue) operation: OperationId,
}

impl Head {
    /// Order among the first operations of several queues.
    pub(in crate::operation_queue) fn key(&self) -> impl Ord + use<> {
        self.key
    }
}

/// Operations by user, by invocation and by position. Each level is ordered by key: the virtual start, moved by the priority
/// of the first operation.
#[derive(Debug)]
pub(super) struct Queue {
    /// Slots of the workers that can run these operations.
    slots: u32,
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
    members: HashMap<MemberId, Member<T>>,
    order: BTreeSet<(VirtualTime, MemberId)>,
    /// Members by their starts in this queue.
    starts: BTreeSet<(VirtualTime, MemberId)>,
}

#[derive(Debug, Default)]
struct Member<T> {
    /// Virtual start in this queue: at most `latest`.
    start: VirtualTime,
    /// The start, moved by the priority.
    key: VirtualTime,
    /// Largest start in this queue. It is set when the member begins to wait, and each time it is served: what the member
    /// uses elsewhere meanwhile does not move it further away.
    latest: Option<VirtualTime>,
    value: T,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            order: BTreeSet::new(),
            starts: BTreeSet::new(),
        }
    }
}

impl<T: Default> Level<T> {
    fn member(&mut self, id: MemberId) -> &mut T {
        &mut self.members.entry(id).or_default().value
    }

    fn first(&self) -> Option<(VirtualTime, MemberId, &T)> {
        let (key, id) = *self.order.first()?;
        Some((key, id, &self.members.get(&id)?.value))
    }

    /// Members in their order.
    fn in_order(&self) -> impl Iterator<Item = (VirtualTime, MemberId, &T)> {
        let order = self.order.iter();
        order.filter_map(|(key, id)| Some((*key, *id, &self.members.get(id)?.value)))
    }

    fn first_start(&self) -> Option<VirtualTime> {
        self.starts.first().map(|(start, _)| *start)
    }

    /// Gives a member its new start and key, or removes it if it has no first operation. `head_start` is the worth of the
    /// priority, `max_distance` that of the limit.
    fn set_start(
        &mut self,
        id: MemberId,
        start: VirtualTime,
        head_start: Option<VirtualTime>,
        max_distance: VirtualTime,
    ) {
        // The start of the one that is served next: one with a low priority waits behind it with a smaller start.
        let next = self.order.first().and_then(|(_, next)| self.members.get(next));
        let first = next.map_or(start, |next| next.start);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let (old_start, old_key) = (member.start, member.key);
        let Some(head_start) = head_start else {
            self.order.remove(&(old_key, id));
            self.starts.remove(&(old_start, id));
            self.members.remove(&id);
            return;
        };
        let start = start.min(*member.latest.get_or_insert(first + max_distance));
        let key = start + head_start;
        member.start = start;
        member.key = key;
        if key != old_key || !self.order.contains(&(key, id)) {
            self.order.remove(&(old_key, id));
            self.order.insert((key, id));
        }
        if start != old_start || !self.starts.contains(&(start, id)) {
            self.starts.remove(&(old_start, id));
            self.starts.insert((start, id));
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
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            users: Level::default(),
            unserved_since: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.members.is_empty()
    }

    pub(super) fn has_user(&self, user: MemberId) -> bool {
        self.users.members.contains_key(&user)
    }

    pub(super) fn has_invocation(&self, place: &Place) -> bool {
        let user = self.users.members.get(&place.user);
        user.is_some_and(|user| user.value.invocations.members.contains_key(&place.invocation))
    }

    /// Smallest start of the users.
    pub(super) fn first_start(&self) -> Option<VirtualTime> {
        self.users.first_start()
    }

    /// Smallest start of the invocations of a user.
    pub(super) fn first_start_of_user(&self, user: MemberId) -> Option<VirtualTime> {
        self.users.members.get(&user)?.value.invocations.first_start()
    }

    /// Computes all keys anew if the number of slots has changed.
    pub(super) fn set_slots<'a>(&mut self, slots: usize, starts: impl Fn(MemberId) -> Starts<'a>) {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        if self.slots == slots {
            return;
        }
        self.slots = slots;
        let users = self.users.members.iter_mut();
        let places: Vec<_> = users
            .flat_map(|(id, user)| {
                user.latest = None;
                let invocations = user.value.invocations.members.iter_mut();
                invocations.map(|(invocation, member)| {
                    member.latest = None;
                    (*id, *invocation)
                })
            })
            .collect();
        for (user, invocation) in places {
            self.reorder(user, invocation, &starts(user));
        }
    }

    pub(super) fn insert(&mut self, place: &Place, id: OperationId, starts: &Starts<'_>) {
        let user = self.users.member(place.user);
        let invocation = user.invocations.member(place.invocation);
        invocation.operations.insert(place.position, id);
        self.reorder(place.user, place.invocation, starts);
    }

    /// Removes a place. If it was `served`, the distance of its user and invocation is limited anew.
    pub(super) fn remove(&mut self, place: &Place, served: bool, starts: &Starts<'_>) {
        if let Some(user) = self.users.members.get_mut(&place.user)
            && let Some(invocation) = user.value.invocations.members.get_mut(&place.invocation)
        {
            invocation.value.operations.remove(&place.position);
            if served {
                user.latest = None;
                invocation.latest = None;
            }
            self.reorder(place.user, place.invocation, starts);
        }
    }

    /// First operation.
    pub(super) fn first(&self) -> Option<Head> {
        let (user_key, user, queue) = self.users.first()?;
        let (invocation_key, invocation, queue) = queue.invocations.first()?;
        let (position, id) = queue.operations.first_key_value()?;
        let place = Place {
            user,
            invocation,
            position: *position,
        };
        Some(Head {
            key: (user_key, user, invocation_key, invocation, *position),
            place,
            operation: *id,
        })
    }

    /// First operation for which `is_taken` is false, with the number of those before it in its invocation. Users take turns,
    /// so those come first of whom fewer are taken.
    pub(super) fn first_not_taken(&self, is_taken: impl Fn(OperationId) -> bool) -> Option<(usize, Head)> {
        let users = self.users.in_order().take(MAX_MEMBERS_AHEAD);
        let invocations = users.flat_map(|(user_key, user, queue)| {
            let invocations = queue.invocations.in_order().take(MAX_MEMBERS_AHEAD);
            invocations.map(move |(key, invocation, queue)| ((user_key, user, key, invocation), queue))
        });
        let first = invocations.filter_map(|((user_key, user, invocation_key, invocation), queue)| {
            let operations = queue.operations.iter().take(MAX_OPERATIONS_AHEAD).enumerate();
            let mut free = operations.filter(|(_, (_, id))| !is_taken(**id));
            let (passed, (position, operation)) = free.next()?;
            let place = Place {
                user,
                invocation,
                position: *position,
            };
            let key = (user_key, user, invocation_key, invocation, *position);
            let operation = *operation;
            Some((
                passed,
                Head {
                    key,
                    place,
                    operation,
                },
            ))
        });
        first.min_by_key(|(passed, head)| (*passed, head.key))
    }

    /// Computes the keys of an invocation and its user anew.
    pub(super) fn reorder(&mut self, user_id: MemberId, invocation_id: MemberId, starts: &Starts<'_>) {
        let Some(user) = self.users.members.get_mut(&user_id) else {
            return;
        };
        let slots = self.slots.max(1);
        let step = nanos(starts.priority_step) * i128::from(slots);
        let distance = |shares: &FairShares, id| {
            let limit = MAX_DISTANCE.saturating_add(shares.expected_use(id));
            shares.virtual_time(id, limit.saturating_mul(slots))
        };
        let head_start = |priority: Option<i32>| priority.map(|priority| i128::from(priority) * step);
        let invocations = &mut user.value.invocations;
        if let Some(invocation) = invocations.members.get(&invocation_id)
            && let Some(shares) = starts.invocations
        {
            let head_start = head_start(invocation.value.priority());
            let start = shares.start(invocation_id);
            invocations.set_start(invocation_id, start, head_start, distance(shares, invocation_id));
        }
        let head_start = head_start(user.value.priority());
        let start = starts.users.start(user_id);
        self.users
            .set_start(user_id, start, head_start, distance(starts.users, user_id));
    }

    /// Users with waiting operations, each with the number of these and the next one.
    pub(super) fn users(&self) -> impl Iterator<Item = (MemberId, usize, OperationId)> {
        self.users.members.iter().filter_map(|(user, member)| {
            let invocations = member.value.invocations.members.values();
            let operations = invocations.map(|invocation| invocation.value.operations.len());
            let (_, _, first) = member.value.invocations.first()?;
            let (_, next) = first.operations.first_key_value()?;
            Some((*user, operations.sum(), *next))
        })
    }

    /// All operations. Those that wait for several requesters appear several times.
    pub(super) fn operations(&self) -> impl Iterator<Item = OperationId> {
        let users = self.users.members.values();
        let invocations = users.flat_map(|user| user.value.invocations.members.values());
        invocations.flat_map(|invocation| invocation.value.operations.values().copied())
    }
}
