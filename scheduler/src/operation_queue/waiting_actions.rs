//! The lines in which operations wait for workers.

use std::collections::{BTreeMap, HashMap};

use super::operation::OperationId;
use crate::clock::Time;
use crate::platform::{Offer, Requirements};

/// A place in a line: by priority, then first come, first served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    pub(super) priority: i32,
    pub(super) arrival: u64,
}

/// One line for each set of requirements, so that a free slot costs one comparison for each kind of Action that
/// waits, however many wait.
#[derive(Debug, Default)]
pub(super) struct WaitingActions {
    /// No line is empty.
    lines: HashMap<Requirements, Line>,
    count: usize,
}

#[derive(Debug, Default)]
struct Line {
    operations: BTreeMap<Ticket, OperationId>,
    /// Since when no worker could run these, busy or not.
    unserved_since: Option<Time>,
}

impl WaitingActions {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, requirements: &Requirements, ticket: Ticket, id: OperationId) {
        let line = self.lines.entry(requirements.clone()).or_default();
        if line.operations.insert(ticket, id).is_none() {
            self.count += 1;
        }
    }

    pub(super) fn remove(&mut self, requirements: &Requirements, ticket: Ticket) -> Option<OperationId> {
        let line = self.lines.get_mut(requirements)?;
        let removed = line.operations.remove(&ticket)?;
        self.count -= 1;
        if line.operations.is_empty() {
            self.lines.remove(requirements);
        }
        Some(removed)
    }

    /// Takes the first operation of all lines that a worker with this offer can serve.
    pub(super) fn pop_first(&mut self, offer: &Offer) -> Option<OperationId> {
        let lines = self
            .lines
            .iter()
            .filter(|(requirements, _)| offer.meets(requirements));
        let first =
            lines.filter_map(|(requirements, line)| Some((*line.operations.keys().next()?, requirements)));
        let (ticket, requirements) = first.min_by_key(|(ticket, _)| *ticket)?;
        let requirements = requirements.clone();
        self.remove(&requirements, ticket)
    }

    pub(super) fn unserved_since(&self, requirements: &Requirements) -> Option<Time> {
        self.lines.get(requirements)?.unserved_since
    }

    /// Notes that nobody serves a line, from `now` on unless that is known already.
    pub(super) fn set_unserved(&mut self, requirements: &Requirements, now: Time) {
        if let Some(line) = self.lines.get_mut(requirements) {
            line.unserved_since.get_or_insert(now);
        }
    }

    /// Notes that a worker with this offer has come.
    pub(super) fn served_by(&mut self, offer: &Offer) {
        let lines = self.lines.iter_mut();
        for (_, line) in lines.filter(|(requirements, _)| offer.meets(requirements)) {
            line.unserved_since = None;
        }
    }

    /// Notes the lines that are no longer served, and gives who waits in them.
    pub(super) fn find_unserved(
        &mut self,
        now: Time,
        is_served: impl Fn(&Requirements) -> bool,
    ) -> Vec<OperationId> {
        let mut found = vec![];
        for (requirements, line) in &mut self.lines {
            if line.unserved_since.is_none() && !is_served(requirements) {
                line.unserved_since = Some(now);
                found.extend(line.operations.values());
            }
        }
        found
    }
}
