//! Checkpoints: index snapshots, so that a power loss costs little and a start reads no long journal.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::journal::Journal;
use super::{BoundedDirectory, State, index_snapshot, recovery};
use crate::error::Error;

/// Age of the last snapshot at which the next change starts a new one.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(5);
/// Number of records in the journal that start a snapshot, whatever the age of the last one: a start takes half a second
/// to read so many.
pub(crate) const CHECKPOINT_RECORDS: u64 = 1 << 20;
/// Entries that are copied before other threads can take the lock.
const COPY_BATCH_ENTRIES: usize = 4096;

impl BoundedDirectory {
    /// Writes a snapshot after syncing the file system, so that all entries up to now survive a power loss.
    pub(crate) fn checkpoint(&self) -> Result<(), Error> {
        let _guard = self.checkpointing.lock();
        self.write_snapshot()
    }

    fn write_snapshot(&self) -> Result<(), Error> {
        let index = self.root.join("index");
        let number = {
            let state = self.state.lock();
            if state.closed {
                return Ok(());
            }
            state.journal.number() + 1
        };
        let journal = Journal::create(&index, number)?;
        let order = {
            let mut state = self.state.lock();
            state.journal = journal;
            state.checkpointed = Instant::now();
            state.entries.begin_snapshot()
        };
        let entries = order.chunks(COPY_BATCH_ENTRIES).flat_map(|indices| {
            let state = self.state.lock();
            let copied = indices.iter().map(|index| state.entries.snapshot_entry(*index));
            copied.collect::<Vec<_>>()
        });
        let written = self
            .sync_files(order.is_empty())
            .and_then(|()| index_snapshot::write(&index, number, entries));
        self.state.lock().entries.end_snapshot();
        written?;
        recovery::remove_older(&index, number)
    }

    /// Syncs the file system, so that a snapshot of the entries only names files that survive a power loss.
    fn sync_files(&self, is_empty: bool) -> Result<(), Error> {
        if is_empty {
            return Ok(());
        }
        let path = self.root.display();
        let root = File::open(&self.root).map_err(Error::io(format_args!("cannot open {path}")))?;
        rustix::fs::syncfs(&root)
            .map_err(io::Error::from)
            .map_err(Error::io(format_args!("cannot sync the file system of {path}")))
    }

    /// Ends the use of the directory with a snapshot that needs no journal beside it, so that even a start after a
    /// reboot can rely on it. Changes are refused from then on.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let _guard = self.checkpointing.lock();
        let mut state = self.state.lock();
        if state.closed {
            return Ok(());
        }
        state.closed = true;
        let index = self.root.join("index");
        let number = state.journal.number() + 1;
        self.sync_files(state.entries.len() == 0)?;
        index_snapshot::write(&index, number, state.entries.iter())?;
        recovery::mark_closed(&index)?;
        recovery::remove_older(&index, number)
    }

    /// Writes a snapshot on a thread of its own.
    pub(super) fn checkpoint_in_background(self: &Arc<Self>) {
        let directory = Arc::clone(self);
        std::thread::spawn(move || {
            if let Err(error) = directory.checkpoint() {
                tracing::error!(%error, "cannot write a snapshot of the store's index");
            }
            directory.state.lock().checkpoint_requested = false;
        });
    }
}

impl State {
    /// True if a snapshot is due and not requested yet. It counts as requested then: the caller has to start it.
    pub(super) fn request_checkpoint(&mut self, records: u64) -> bool {
        let is_due = self.journal.records() >= records
            || self.checkpointed.elapsed() >= CHECKPOINT_INTERVAL
            || std::mem::take(&mut self.checkpoint_is_overdue);
        is_due && !std::mem::replace(&mut self.checkpoint_requested, true)
    }
}
