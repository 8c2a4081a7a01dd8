//! What there was at one moment, while it goes on changing: a snapshot is written for seconds, and neither waits
//! anybody for it, nor is everything copied.

use std::collections::HashMap;

use super::{Entries, Entry, at};

/// Entries that were there, of nodes that hold something else since.
#[derive(Default)]
pub(super) struct Frozen(HashMap<u32, Entry>);

impl Entries {
    /// Keeps everything that is there now for [`Entries::frozen`], until [`Entries::thaw`]. Gives what to ask for: the
    /// least recently used first and what is leased last.
    pub(in super::super) fn freeze(&mut self) -> Vec<u32> {
        self.frozen = Some(Frozen::default());
        let mut order = Vec::with_capacity(self.len());
        order.extend(self.indices(self.evictable).chain(self.indices(self.leased)));
        order
    }

    /// The entry that was there, and the time of its last use.
    pub(in super::super) fn frozen(&self, index: u32) -> Entry {
        let changed = self.frozen.as_ref().and_then(|frozen| frozen.0.get(&index));
        changed.copied().unwrap_or_else(|| at(&self.nodes, index).entry())
    }

    /// Forgets what was there.
    pub(in super::super) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// `before` leaves a node.
    pub(super) fn keep_frozen(&mut self, index: u32, before: Entry) {
        if let Some(frozen) = &mut self.frozen {
            frozen.0.entry(index).or_insert(before);
        }
    }
}
