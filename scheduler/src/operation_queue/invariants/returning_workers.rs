//! Workers of the model that come back with their leases: after their streams have ended, or after a restart of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::tests::{hello, id};
use super::super::{Effect, LeaseId, OperationId, OperationQueue, Progress, Registration};
use super::{KINDS, Model, ModelDisconnected, ModelWorker, NO_OPERATION, RECONNECT_TIMEOUT, nth, offered};

impl Model {
    /// Ends the stream of a worker. Its operations stay taken.
    pub(super) fn disconnect(&mut self, pick: usize) {
        if let Some(id) = nth(self.workers.keys(), pick) {
            let worker = self.workers.remove(&id).unwrap();
            self.ended.extend(worker.leases.keys().map(|lease| (id, *lease)));
            self.disconnected.push(ModelDisconnected {
                worker,
                until: self.now + RECONNECT_TIMEOUT,
                is_lost: false,
            });
            let effects = self.queue.disconnect_worker(self.time(), id);
            assert!(effects.is_empty(), "its Actions go on");
        }
    }

    /// Gives up the workers that did not come back in time. They may still come back later.
    pub(super) fn lose_disconnected(&mut self) {
        let now = self.now;
        let late = |disconnected: &&mut ModelDisconnected| !disconnected.is_lost && disconnected.until <= now;
        let mut given_up = vec![];
        for disconnected in self.disconnected.iter_mut().filter(late) {
            disconnected.is_lost = true;
            given_up.extend(disconnected.worker.leases.values().copied());
        }
        for operation in given_up {
            self.give_back(operation);
        }
    }

    /// Connects a worker again whose stream ended, with all its leases. It goes on with those that no other worker got.
    pub(super) fn come_back(&mut self, pick: usize) {
        if self.disconnected.is_empty() {
            return;
        }
        let ModelDisconnected { worker, is_lost, .. } =
            self.disconnected.swap_remove(pick % self.disconnected.len());
        let leases: Vec<_> = worker.leases.iter().collect();
        let reported: Vec<_> = leases
            .iter()
            .map(|(lease, operation)| (**operation, **lease))
            .collect();
        let goes_on = |(operation, lease): &&(OperationId, LeaseId)| {
            self.operations.get(operation).is_some_and(|operation| {
                let is_free = !is_lost || !operation.taken;
                !operation.completed && is_free && operation.last_lease == Some(*lease)
            })
        };
        let adopted: BTreeSet<_> = reported.iter().filter(goes_on).copied().collect();
        let slots = worker.slots.try_into().unwrap();
        let mut hello = hello(&worker.name, slots, KINDS[KINDS.len() - 1]);
        hello.draining = worker.draining;
        hello.resources = offered(worker.memory);
        let (new, effects) = self.queue.register_worker(
            self.time(),
            Registration {
                leases: &reported,
                ..Registration::from(&hello)
            },
        );
        for (operation, lease) in &reported {
            let cancelled = is_cancelled(&effects, *lease);
            assert_eq!(cancelled, !adopted.contains(&(*operation, *lease)));
        }
        let mut worker = worker;
        for (lease, operation) in &mut worker.leases {
            if adopted.contains(&(*operation, *lease)) {
                self.operations.get_mut(operation).unwrap().taken = true;
            } else {
                // Its result counts for nothing.
                *operation = id(NO_OPERATION);
                self.forgotten.insert(*operation);
            }
        }
        let worker = ModelWorker {
            paused_until: Duration::ZERO,
            returned: 0,
            ..worker
        };
        self.workers.insert(new, worker);
        self.carry_out(effects);
    }

    /// Restarts the server: the queue is what the journal has, and nothing else.
    pub(super) fn restart(&mut self, coming_back: u64) {
        self.epoch += 1;
        self.ended.clear();
        self.queue = OperationQueue::new(Self::config());
        for operation in self.operations.values_mut() {
            operation.clients = 0;
        }
        let restored = self.journal.restored();
        let effects = self.queue.restore(self.time(), self.epoch, restored);
        let recording = std::mem::take(&mut self.recording);
        let workers = std::mem::take(&mut self.workers);
        self.announce(effects);
        // Workers that were disconnected do not come back.
        for disconnected in std::mem::take(&mut self.disconnected) {
            if !disconnected.is_lost {
                for operation in disconnected.worker.leases.into_values() {
                    self.give_back(operation);
                }
            }
        }
        for (number, (old, worker)) in workers.into_iter().enumerate() {
            let mut leases = worker.leases;
            // Their results are not acknowledged.
            let unacknowledged = recording.iter().filter(|(_, worker, _)| *worker == old);
            leases.extend(unacknowledged.map(|(operation, _, lease)| (*lease, *operation)));
            if coming_back >> (number % 64) & 1 == 0 {
                for operation in leases.into_values() {
                    self.give_back(operation);
                }
                continue;
            }
            let reported: Vec<_> = leases
                .iter()
                .map(|(lease, operation)| (*operation, *lease))
                .collect();
            let mut hello = hello(
                &worker.name,
                worker.slots.try_into().unwrap(),
                KINDS[KINDS.len() - 1],
            );
            hello.resources = offered(worker.memory);
            let (id, effects) = self.queue.register_worker(
                self.time(),
                Registration {
                    leases: &reported,
                    ..Registration::from(&hello)
                },
            );
            for (operation, lease) in &reported {
                let cancelled = is_cancelled(&effects, *lease);
                let unfinished = self.operations.get(operation);
                let unfinished = unfinished.is_some_and(|operation| !operation.completed);
                assert_eq!(cancelled, !unfinished, "a lease that runs is adopted");
            }
            let stated = leases
                .values()
                .filter_map(|operation| self.operations.get(operation));
            let stated = stated.map(|operation| operation.memory).sum();
            let model = ModelWorker {
                name: worker.name,
                slots: worker.slots.max(leases.len()),
                memory: worker.memory.max(stated),
                draining: false,
                // A server that restarts does not know of pauses.
                paused_until: Duration::ZERO,
                returned: 0,
                leases,
            };
            self.workers.insert(id, model);
            self.carry_out(effects);
        }
        let lost = recording
            .iter()
            .filter(|(operation, ..)| !self.is_held(*operation));
        for (operation, ..) in lost.copied().collect::<Vec<_>>() {
            self.give_back(operation);
        }
    }

    /// Checks that the restored operations are those that the model has.
    fn announce(&mut self, effects: Vec<Effect>) {
        let mut announced = BTreeMap::new();
        for effect in effects {
            if let Effect::Publish { operation, update } = effect {
                let completed = matches!(update.progress, Progress::Completed(_));
                announced.insert(operation, completed);
            }
        }
        let known: BTreeMap<_, _> = self
            .operations
            .iter()
            .map(|(id, operation)| (*id, operation.completed))
            .collect();
        assert_eq!(announced, known, "the journal has all operations, and no others");
    }
}

fn is_cancelled(effects: &[Effect], lease: LeaseId) -> bool {
    let mut effects = effects.iter();
    effects.any(|effect| matches!(effect, Effect::Cancel { lease: other, .. } if *other == lease))
}
