//! How many tasks ended in which way.

use std::collections::{BTreeMap, HashMap};

use bitzel_graph::walk::Outcome;

/// Counts tasks by their outcome, each task once. A task is told as finished again when the store lost its result
/// and it was found or made anew: the later outcome then takes the place of the earlier one.
#[derive(Debug, Default)]
pub(super) struct Tally {
    outcomes: HashMap<String, Outcome>,
    counts: BTreeMap<Outcome, usize>,
}

impl Tally {
    /// Counts a task, named `PN:do_TASK` or `mc:CONFIG:PN:do_TASK`.
    pub(super) fn record(&mut self, name: String, outcome: Outcome) {
        if let Some(before) = self.outcomes.insert(name, outcome)
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count -= 1;
        }
        *self.counts.entry(outcome).or_default() += 1;
    }

    /// Tasks that ended this way.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.counts.get(&outcome).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
