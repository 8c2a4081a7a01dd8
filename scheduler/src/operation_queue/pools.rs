//! Pools of workers that scale together.
//!
//! A pool without workers still has to be asked for: the pool remembers what its workers offered, so that waiting Actions
//! can be counted which only new workers would serve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::OperationQueue;
use super::worker::Worker;
use crate::clock::Time;
use crate::platform::OfferedProperties;
use crate::resources::Resources;

/// Maximum number of pools that are remembered. Names come from workers, so they are not hostile, but they may be wrong. The
/// pool that no worker has registered for longest is forgotten first.
const MAX_POOLS: usize = 256;

/// Number of slots that a pool needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolDemand {
    /// True if a worker of the pool has been connected, so that it is known what the pool offers.
    pub known: bool,
    /// Connected workers that take Actions.
    pub workers: usize,
    /// Actions that run on workers of the pool which take further ones. Those that drain leave by themselves.
    pub running: usize,
    /// Waiting Actions that workers of the pool could run. One that several pools could run counts in each.
    pub waiting: usize,
    /// Time that the first of them has waited.
    pub waited: Duration,
}

/// Properties that the workers of each pool offered last.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: BTreeMap<Arc<str>, Pool>,
    registrations: u64,
}

#[derive(Debug)]
struct Pool {
    offered: OfferedProperties,
    single: Resources,
    /// Number of the last registration of one of its workers.
    last_registration: u64,
}

impl Pools {
    pub(super) fn remember(&mut self, worker: &Worker) {
        if worker.pool.is_empty() {
            return;
        }
        self.registrations += 1;
        let pool = Pool {
            offered: worker.properties.clone(),
            single: worker.single,
            last_registration: self.registrations,
        };
        self.pools.insert(worker.pool.clone(), pool);
        if self.pools.len() > MAX_POOLS {
            let oldest = self.pools.iter().min_by_key(|(_, pool)| pool.last_registration);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.pools.remove(&name);
            }
        }
    }
}

impl OperationQueue {
    /// Computes the demand for a pool. If nothing is known of it yet, all Actions wait for it that no worker serves: one of
    /// its workers has to come to tell what it offers.
    pub fn pool_demand(&self, now: Time, pool: &str) -> PoolDemand {
        let known = self.pools.pools.get(pool);
        let mut demand = PoolDemand {
            known: known.is_some(),
            ..PoolDemand::default()
        };
        let of_pool = self.workers.iter().filter(|worker| &*worker.pool == pool);
        for worker in of_pool.filter(|worker| !worker.draining) {
            demand.workers += 1;
            demand.running += worker.leases.len();
        }
        for group in self.waiting.groups() {
            let serves = known.map_or(group.unserved, |pool| {
                pool.offered.satisfy(&group.demand.properties) && group.demand.stated.fits_in(&pool.single)
            });
            if serves {
                demand.waiting += group.actions;
                if let Some(next) = self.operations.get(&group.next) {
                    demand.waited = demand.waited.max(now.since(next.waiting_since));
                }
            }
        }
        demand
    }
}

#[cfg(test)]
mod tests;
