//! Fair shares by start-time fair queueing.
//!
//! Each member has a virtual start: the slot time that it has used, divided by its weight. The member with the smallest
//! start is served next, so members that wait all the time get slot time in proportion to their weights. A member that
//! begins to wait starts no lower than the smallest start of those that wait: time in which it requested nothing gives
//! no credit.
//!
//! The use of an Action is not known when it starts. The member is charged with the average of its past Actions, and the
//! difference is settled at the end. Each operation costs O(log n) for n members.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Virtual time: nanoseconds of slot time, divided by a weight.
pub(super) type VirtualTime = i128;

/// Minimum charge of an Action. Without it, Actions that end at once would cost nothing and would not be shared at all.
const MIN_CHARGE: Duration = Duration::from_millis(10);
/// Assumed use of an Action, as long as none has ended.
const FIRST_EXPECTED_USE: Duration = Duration::from_secs(1);
/// Denominator of the weight of a new use in the average of the past uses.
const AVERAGE_WINDOW: u32 = 8;
/// Maximum number of idle members that are kept because of their debt. A client that invents names must not use up the
/// memory.
const MAX_INDEBTED: usize = 1_000;

/// Identifier of a member. It is valid as long as the member has waiting or running Actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct MemberId(u64);

/// Members that share slots.
#[derive(Debug)]
pub(super) struct FairShares {
    members: HashMap<MemberId, Member>,
    names: HashMap<Arc<str>, MemberId>,
    /// Members with waiting Actions.
    waiting: BTreeSet<(VirtualTime, MemberId)>,
    /// Members without waiting or running Actions whose start lies ahead. They are kept so that a pause does not cancel
    /// their debt.
    indebted: BTreeSet<(VirtualTime, MemberId)>,
    /// Start of the member that was served last.
    last_start: VirtualTime,
    last_id: u64,
    expected_use: Duration,
    names_are_free: bool,
}

#[derive(Debug)]
struct Member {
    name: Arc<str>,
    weight: NonZeroU32,
    start: VirtualTime,
    waiting: usize,
    running: usize,
    /// True if no Action of the member was served yet.
    new: bool,
    expected_use: Duration,
}

impl Default for FairShares {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            names: HashMap::new(),
            waiting: BTreeSet::new(),
            indebted: BTreeSet::new(),
            last_start: 0,
            last_id: 0,
            expected_use: FIRST_EXPECTED_USE,
            names_are_free: false,
        }
    }
}

impl FairShares {
    /// Members whose names are the client's claim. A new name starts half an expected use later, so that a client with a
    /// fresh name for each Action is not always first.
    pub(super) fn with_free_names() -> Self {
        Self {
            names_are_free: true,
            ..Self::default()
        }
    }

    /// Adds a waiting Action of the member with this name.
    pub(super) fn add_waiting(&mut self, name: &Arc<str>, weight: NonZeroU32) -> MemberId {
        let present = self.present();
        let id = self.names.get(name).copied().unwrap_or_else(|| {
            self.last_id += 1;
            let id = MemberId(self.last_id);
            let member = Member {
                name: name.clone(),
                weight,
                start: present,
                waiting: 0,
                running: 0,
                new: self.names_are_free,
                expected_use: self.expected_use,
            };
            self.names.insert(name.clone(), id);
            self.members.insert(id, member);
            id
        });
        if let Some(member) = self.members.get_mut(&id) {
            member.weight = weight;
            member.waiting += 1;
            if member.waiting == 1 {
                self.indebted.remove(&(member.start, id));
                member.start = member.start.max(present);
                self.waiting.insert((member.start, id));
            }
        }
        id
    }

    /// Removes a waiting Action that is not served.
    pub(super) fn remove_waiting(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.waiting = member.waiting.saturating_sub(1);
            if member.waiting == 0 {
                self.waiting.remove(&(member.start, id));
            }
        }
        self.forget_idle(id);
    }

    /// Serves a waiting Action: it runs from now on, and the member is charged.
    pub(super) fn serve(&mut self, id: MemberId, charge: Duration) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        self.waiting.remove(&(member.start, id));
        self.last_start = self.last_start.max(member.start);
        member.waiting = member.waiting.saturating_sub(1);
        member.running += 1;
        member.new = false;
        member.start += member.virtual_time(charge);
        if member.waiting > 0 {
            self.waiting.insert((member.start, id));
        }
        self.forget_paid_debts();
    }

    /// Takes the use of an Action that has ended into the averages.
    pub(super) fn learn(&mut self, id: MemberId, used: Duration) {
        let used = used.max(MIN_CHARGE);
        self.expected_use = average(self.expected_use, used);
        if let Some(member) = self.members.get_mut(&id) {
            member.expected_use = average(member.expected_use, used);
        }
    }

    /// Settles the charge of an Action that has ended after it used `used`. A correction moves the start at most by
    /// `max_correction` of slot time from the present, so a wrong expectation starves nobody for longer.
    pub(super) fn settle(
        &mut self,
        id: MemberId,
        charge: Duration,
        used: Duration,
        max_correction: Duration,
    ) {
        let present = self.present();
        let used = used.max(MIN_CHARGE);
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.running = member.running.saturating_sub(1);
        let limit = member.virtual_time(max_correction);
        let corrected = member.start + member.virtual_time(used) - member.virtual_time(charge);
        let earliest = member.start.min(present - limit);
        let latest = member.start.max(present.max(self.last_start) + limit);
        let corrected = corrected.clamp(earliest, latest);
        if member.waiting > 0 {
            self.waiting.remove(&(member.start, id));
            self.waiting.insert((corrected, id));
        }
        member.start = corrected;
        self.forget_idle(id);
    }

    /// Raises the start of a member that begins to wait for one set of properties, to the smallest start of those that
    /// wait for it: `first`. If nobody does, to the start of the member that was served last.
    pub(super) fn enter(&mut self, id: MemberId, first: Option<VirtualTime>) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let mut floor = first.unwrap_or(self.last_start);
        if member.new {
            floor += member.virtual_time(member.expected_use) / 2;
        }
        if floor > member.start {
            if self.waiting.remove(&(member.start, id)) {
                self.waiting.insert((floor, id));
            }
            member.start = floor;
        }
    }

    /// Virtual time of an amount of slot time of a member.
    pub(super) fn virtual_time(&self, id: MemberId, duration: Duration) -> VirtualTime {
        self.members
            .get(&id)
            .map_or(0, |member| member.virtual_time(duration))
    }

    /// Name of a member.
    pub(super) fn name(&self, id: MemberId) -> Arc<str> {
        let member = self.members.get(&id);
        member.map(|member| member.name.clone()).unwrap_or_default()
    }

    /// Number of waiting Actions of the member with this name.
    pub(super) fn waiting(&self, name: &str) -> usize {
        let member = self.names.get(name).and_then(|id| self.members.get(id));
        member.map_or(0, |member| member.waiting)
    }

    /// Expected use of the member's next Action.
    pub(super) fn expected_use(&self, id: MemberId) -> Duration {
        let member = self.members.get(&id);
        member.map_or(self.expected_use, |member| member.expected_use)
    }

    /// Virtual start of a member.
    pub(super) fn start(&self, id: MemberId) -> VirtualTime {
        self.members.get(&id).map_or(0, |member| member.start)
    }

    /// True if no member has waiting or running Actions.
    pub(super) fn is_idle(&self) -> bool {
        self.members.len() == self.indebted.len()
    }

    /// Smallest start of the members that wait, for whatever properties.
    fn present(&self) -> VirtualTime {
        self.waiting.first().map_or(self.last_start, |(start, _)| *start)
    }

    /// Forgets a member without Actions, or keeps it as indebted. If nobody has Actions, all debts are forgotten: there is
    /// nobody to whom they are owed.
    fn forget_idle(&mut self, id: MemberId) {
        let idle = |member: &&Member| member.waiting == 0 && member.running == 0;
        if let Some(member) = self.members.get(&id).filter(idle) {
            self.indebted.insert((member.start, id));
            if self.is_idle() {
                self.indebted.clear();
                self.members.clear();
                self.names.clear();
            } else {
                self.forget_paid_debts();
                while self.indebted.len() > MAX_INDEBTED {
                    self.forget_least_debt();
                }
            }
        }
    }

    fn forget_paid_debts(&mut self) {
        let present = self.present();
        while self.indebted.first().is_some_and(|(start, _)| *start <= present) {
            self.forget_least_debt();
        }
    }

    #[cfg(test)]
    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    fn forget_least_debt(&mut self) {
        if let Some((_, id)) = self.indebted.pop_first()
            && let Some(member) = self.members.remove(&id)
        {
            self.names.remove(&member.name);
        }
    }
}

impl Member {
    fn virtual_time(&self, duration: Duration) -> VirtualTime {
        i128::try_from(duration.as_nanos()).unwrap_or(i128::from(i64::MAX)) / i128::from(self.weight.get())
    }
}

fn average(past: Duration, new: Duration) -> Duration {
    past.saturating_mul(AVERAGE_WINDOW - 1).saturating_add(new) / AVERAGE_WINDOW
}
