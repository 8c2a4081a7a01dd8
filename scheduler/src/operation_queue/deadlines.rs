//! Deadlines of operations and workers.

use std::collections::BTreeSet;

use super::ids::{OperationId, WorkerId};
use crate::clock::Time;

/// Deadline of an operation or a worker. It is never disarmed: when it is due, the queue checks if it still applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// The operation may have had no client for too long.
    Abandoned(OperationId),
    /// The worker of the operation may not have come back after a restart.
    Adoption(OperationId),
    /// The worker, whose stream has ended, may not have come back in time.
    Reconnection(WorkerId),
    /// The operation may have waited too long without a worker that could run it.
    NoWorker(OperationId),
    /// The operation may run for longer than usual.
    Hedge(OperationId),
    /// The worker may have become free for others than before.
    Refill(WorkerId),
    /// The pause of a worker that handed a lease back may be over.
    PauseEnds(WorkerId),
}

/// Deadlines in the order in which they are due.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Time, Deadline)>);

impl Deadlines {
    pub(super) fn arm(&mut self, due: Time, deadline: Deadline) {
        self.0.insert((due, deadline));
    }

    pub(super) fn first(&self) -> Option<Time> {
        self.0.first().map(|(due, _)| *due)
    }

    pub(super) fn pop_due(&mut self, now: Time) -> Option<Deadline> {
        self.0.first().filter(|(due, _)| *due <= now)?;
        self.0.pop_first().map(|(_, deadline)| deadline)
    }
}
