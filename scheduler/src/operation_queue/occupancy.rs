//! Occupancy of the farm.

use super::OperationQueue;

/// Numbers of waiting and running Actions, and of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Actions that wait for a worker.
    pub waiting: usize,
    /// Connected workers, with those that drain.
    pub workers: usize,
    /// Slots of these workers.
    pub slots: usize,
    /// Slots in use.
    pub slots_used: usize,
}

impl OperationQueue {
    /// Counts the waiting Actions, workers and slots.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            waiting: self.waiting_operations,
            workers: self.workers.len(),
            slots: self.workers.slots(),
            slots_used: self.workers.slots_used(),
        }
    }
}
