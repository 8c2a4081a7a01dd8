//! Registered workers, found by what they offer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::demand::Demand;
use super::ids::{LeaseId, OperationId, WorkerId};
use super::registration::Registration;
use super::waiting_actions::Fit;
use super::worker::{Lease, Worker};
use crate::clock::Time;
use crate::platform::{OfferedProperties, RequiredProperties};
use crate::resources::Resources;

/// All workers. Those that offer the same properties form a class, so that a decision costs one comparison for each class
/// and O(log n) in the class, however many workers there are.
#[derive(Debug, Default)]
pub(super) struct WorkerPool {
    /// Ordered, so that the machine is deterministic.
    workers: BTreeMap<WorkerId, Worker>,
    /// Ordered for the same reason.
    classes: BTreeMap<RequiredProperties, WorkerClass>,
    slots: usize,
    slots_used: usize,
    last_worker: u64,
}

#[derive(Debug)]
struct WorkerClass {
    offered: OfferedProperties,
    /// Workers that take any Action which fits, by the number of their leases.
    free: BTreeSet<(usize, WorkerId)>,
    workers: usize,
    slots: usize,
    /// Workers that take Actions: those that do not drain.
    taking: usize,
    /// Largest resources of a single Action on one of these.
    largest: Resources,
}

impl WorkerPool {
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Slots of all workers, with those that drain.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Slots of the workers that can run Actions with these requirements.
    pub(super) fn slots_for(&self, requirements: &RequiredProperties) -> usize {
        let classes = self.classes.values();
        let able = classes.filter(|class| class.offered.satisfy(requirements));
        able.map(|class| class.slots).sum()
    }

    pub(super) fn slots_used(&self) -> usize {
        self.slots_used
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// Workers whose names match.
    pub(super) fn named(&self, matches: impl Fn(&str) -> bool) -> Vec<(WorkerId, Arc<str>)> {
        let named = self.workers.iter().filter(|(_, worker)| matches(worker.name()));
        named.map(|(id, worker)| (*id, worker.name().clone())).collect()
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(super) fn register(&mut self, registration: &Registration<'_>) -> WorkerId {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        let worker = Worker::new(registration);
        self.slots += worker.slots;
        let class = self
            .classes
            .entry(worker.class.clone())
            .or_insert_with(|| WorkerClass {
                offered: worker.properties.clone(),
                free: BTreeSet::new(),
                workers: 0,
                slots: 0,
                taking: 0,
                largest: Resources::default(),
            });
        class.workers += 1;
        class.slots += worker.slots;
        class.taking += usize::from(!worker.draining);
        if !worker.draining {
            class.largest = Ord::max(class.largest, worker.single);
        }
        if worker.is_open() {
            class.free.insert((0, id));
        }
        self.workers.insert(id, worker);
        id
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        let worker = self.workers.remove(&id)?;
        self.slots -= worker.slots;
        self.slots_used -= worker.leases.len();
        if let Some(class) = self.classes.get_mut(&worker.class) {
            class.free.remove(&(worker.leases.len(), id));
            class.workers -= 1;
            class.slots -= worker.slots;
            class.taking -= usize::from(!worker.draining);
            if class.workers == 0 {
                self.classes.remove(&worker.class);
            }
        }
        self.find_largest(&worker.class);
        Some(worker)
    }

    /// Stops giving leases to a worker. Returns true if it is there.
    pub(super) fn drain(&mut self, id: WorkerId) -> bool {
        let class = self.change(id, |worker| {
            worker.draining = true;
            worker.class.clone()
        });
        if let Some(class) = &class {
            self.find_largest(class);
        }
        class.is_some()
    }

    /// Keeps a worker free for an operation, or no longer.
    pub(super) fn reserve(&mut self, id: WorkerId, operation: Option<OperationId>) {
        self.change(id, |worker| worker.reserved_for = operation);
    }

    /// Computes the largest resources of a class anew.
    fn find_largest(&mut self, class: &RequiredProperties) {
        let of_class = self
            .workers
            .values()
            .filter(|worker| !worker.draining && worker.class == *class);
        let largest = largest(of_class);
        if let Some(class) = self.classes.get_mut(class) {
            class.largest = largest;
        }
    }

    /// Resources that an operation takes on a worker.
    pub(super) fn need(&self, worker: &Worker, demand: &Demand) -> Resources {
        let class = self.classes.get(&worker.class);
        demand.need(&class.map_or(Resources::UNLIMITED, |class| class.largest))
    }

    /// Largest resources of a single Action on a worker that takes Actions with these requirements. `None` if there is no
    /// such worker.
    pub(super) fn largest_for(&self, requirements: &RequiredProperties) -> Option<Resources> {
        let able = self.classes.values();
        let able = able.filter(|class| class.taking > 0 && class.offered.satisfy(requirements));
        able.map(|class| class.largest).max()
    }

    /// Workers that take any Action which fits.
    pub(super) fn open(&self) -> impl Iterator<Item = WorkerId> {
        let free = self.classes.values().flat_map(|class| class.free.iter());
        free.map(|(_, id)| *id)
    }

    /// Gives no leases to a worker that handed one back until a time, or longer if it pauses again meanwhile.
    pub(super) fn pause(&mut self, id: WorkerId, until: Time) {
        self.change(id, |worker| {
            worker.paused_until = worker.paused_until.max(Some(until));
            worker.returned_leases += 1;
        });
    }

    /// Notes that a worker completed a lease: it has the resources for it.
    pub(super) fn end_returns(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.returned_leases = 0;
        }
    }

    /// Ends the pause of a worker if it is over. Returns true if it was.
    pub(super) fn end_pause(&mut self, now: Time, id: WorkerId) -> bool {
        let ended = self.change(id, |worker| {
            worker.paused_until.take_if(|until| *until <= now).is_some()
        });
        ended == Some(true)
    }

    pub(super) fn add_lease(&mut self, id: WorkerId, lease: LeaseId, use_of_lease: Lease) {
        let add = |worker: &mut Worker| {
            worker.used = worker.used.plus(&use_of_lease.resources);
            worker.leases.insert(lease, use_of_lease)
        };
        if self.change(id, add).is_some() {
            self.slots_used += 1;
        }
    }

    pub(super) fn remove_lease(&mut self, id: WorkerId, lease: LeaseId) -> Option<Lease> {
        let remove = |worker: &mut Worker| {
            let removed = worker.leases.remove(&lease)?;
            let left = worker.leases.values().map(|lease| lease.resources);
            // Not the difference: a sum that was cut at its maximum has no difference.
            worker.used = left.fold(Resources::default(), |sum, lease| sum.plus(&lease));
            Some(removed)
        };
        let removed = self.change(id, remove).flatten()?;
        self.slots_used -= 1;
        Some(removed)
    }

    /// Marks a lease as cancelled. The slot stays in use until the worker reports the end.
    pub(super) fn cancel_lease(&mut self, id: WorkerId, lease: LeaseId) {
        let worker = self.workers.get_mut(&id);
        if let Some(lease) = worker.and_then(|worker| worker.leases.get_mut(&lease)) {
            lease.operation = None;
        }
    }

    /// Least busy worker that has a slot and the resources free.
    pub(super) fn least_busy(&self, demand: &Demand) -> Option<WorkerId> {
        self.least_busy_of(demand, |_| true)
    }

    /// Least busy worker, but for one, that has a slot and the resources free.
    pub(super) fn least_busy_except(&self, demand: &Demand, except: WorkerId) -> Option<WorkerId> {
        self.least_busy_of(demand, |id| id != except)
    }

    /// True if a worker takes any Action that fits, and has the resources for this one free.
    pub(super) fn may_take(&self, id: WorkerId, demand: &Demand) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            worker.is_open()
                && worker.properties.satisfy(&demand.properties)
                && worker.fit(&self.need(worker, demand)) == Fit::Now
        })
    }

    fn least_busy_of(&self, demand: &Demand, is_wanted: impl Fn(WorkerId) -> bool) -> Option<WorkerId> {
        let classes = self.classes.values();
        let able =
            classes.filter(|class| !class.free.is_empty() && class.offered.satisfy(&demand.properties));
        let first = able.filter_map(|class| {
            let need = demand.need(&class.largest);
            let fits = |id: &WorkerId| {
                self.workers
                    .get(id)
                    .is_some_and(|worker| worker.fit(&need) == Fit::Now)
            };
            class.free.iter().find(|(_, id)| is_wanted(*id) && fits(id))
        });
        Some(first.min()?.1)
    }

    /// True if a worker could run Actions with this demand when nothing else runs on it.
    pub(super) fn serves(&self, demand: &Demand) -> bool {
        if !demand.stated.is_zero() {
            let mut taking = self.workers.values().filter(|worker| !worker.draining);
            return taking.any(|worker| worker.could_run(demand));
        }
        let mut classes = self.classes.values();
        classes.any(|class| class.taking > 0 && class.offered.satisfy(&demand.properties))
    }

    /// Properties that the workers offer which take Actions, each kind of worker once.
    pub(super) fn offers(&self) -> impl Iterator<Item = &OfferedProperties> {
        let taking = self.classes.values().filter(|class| class.taking > 0);
        taking.map(|class| &class.offered)
    }

    /// Changes a worker, and its position in its class.
    fn change<T>(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let worker = self.workers.get_mut(&id)?;
        let class = self.classes.get_mut(&worker.class)?;
        let before = (worker.leases.len(), worker.draining, worker.is_open());
        let (leases, draining, _) = before;
        let value = change(worker);
        if (worker.leases.len(), worker.draining, worker.is_open()) != before {
            class.free.remove(&(leases, id));
            class.taking -= usize::from(worker.draining && !draining);
            if worker.is_open() {
                class.free.insert((worker.leases.len(), id));
            }
        }
        Some(value)
    }
}

/// Largest resources of a single Action on one of these workers: those of one worker, not a combination that none has.
fn largest<'a>(workers: impl Iterator<Item = &'a Worker>) -> Resources {
    workers.map(|worker| worker.single).max().unwrap_or_default()
}
