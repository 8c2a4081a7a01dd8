//! Copy-on-write point-in-time snapshot of the entries.
//!
//! Writing an index snapshot takes seconds. Meanwhile the entries continue to change: an entry that changes is copied
//! first, so that nothing waits for the writer and most entries are never copied.

use std::collections::HashMap;

use super::{Entries, at};
use crate::media::bounded_directory::Entry;

/// Entries at the time of the snapshot, by index of their node, for nodes that have changed since.
#[derive(Default)]
pub(super) struct ChangedSince(HashMap<u32, Entry>);

impl Entries {
    /// Begins a snapshot, which lasts until [`Entries::end_snapshot`]. Returns the indices to pass to
    /// [`Entries::snapshot_entry`]: the least recently used first and the leased ones last.
    pub(in super::super) fn begin_snapshot(&mut self) -> Vec<u32> {
        self.snapshot = Some(ChangedSince::default());
        let mut order = Vec::with_capacity(self.len());
        order.extend(self.indices(self.evictable).chain(self.indices(self.leased)));
        order
    }

    /// Entry at the time of the snapshot. Only its time of last use may be newer.
    pub(in super::super) fn snapshot_entry(&self, index: u32) -> Entry {
        let changed = self.snapshot.as_ref().and_then(|changed| changed.0.get(&index));
        changed.copied().unwrap_or_else(|| at(&self.nodes, index).entry())
    }

    /// Ends the snapshot and forgets its copies.
    pub(in super::super) fn end_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Copies the entry `before` for the snapshot, because its node is about to change.
    pub(super) fn copy_for_snapshot(&mut self, index: u32, before: Entry) {
        if let Some(changed) = &mut self.snapshot {
            changed.0.entry(index).or_insert(before);
        }
    }
}
