//! How busy the farm is.

use super::OperationQueue;

/// A count of what waits and what runs, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Actions that wait for a worker.
    pub waiting: usize,
    /// Connected workers, those that drain included.
    pub workers: usize,
    /// Actions that these workers may run at the same time.
    pub slots: usize,
    /// Slots that are taken.
    pub slots_used: usize,
}

impl OperationQueue {
    /// Counts.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            waiting: self.waiting.len(),
            workers: self.workers.len(),
            slots: self.workers.values().map(|worker| worker.slots).sum(),
            slots_used: self.workers.values().map(|worker| worker.leases.len()).sum(),
        }
    }
}
