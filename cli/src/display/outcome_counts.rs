//! Number of tasks by outcome.

use std::collections::{BTreeMap, HashMap};

use bitzel_graph::walk::Outcome;

/// Counts tasks by outcome, each task once. A task finishes again after the store lost its result: the later outcome
/// then replaces the earlier one.
#[derive(Debug, Default)]
pub(super) struct OutcomeCounts {
    outcomes: HashMap<String, Outcome>,
    counts: BTreeMap<Outcome, usize>,
}

impl OutcomeCounts {
    /// Counts a task, named `PN:do_TASK` or `mc:CONFIG:PN:do_TASK`.
    pub(super) fn record(&mut self, name: String, outcome: Outcome) {
        if let Some(before) = self.outcomes.insert(name, outcome)
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count -= 1;
        }
        *self.counts.entry(outcome).or_default() += 1;
    }

    /// Counts tasks whose names are not known.
    pub(super) fn add(&mut self, outcome: Outcome, count: usize) {
        *self.counts.entry(outcome).or_default() += count;
    }

    /// Number of tasks with this outcome.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.counts.get(&outcome).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
