//! What has to be looked at when.

use std::collections::BTreeSet;

use super::operation::OperationId;
use crate::clock::Time;

/// A reason to look at an operation. Nothing is disarmed: whoever handles a deadline checks whether it still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// Its last client may have been gone for too long.
    Abandoned(OperationId),
    /// It may have waited too long without any worker that could run it.
    NoWorker(OperationId),
}

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
