//! Writing the index down, so that a power loss costs little and a start need not read a long journal.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::journal::Journal;
use super::{BoundedDirectory, State, recovery, snapshot};
use crate::error::Error;

/// Age of the last snapshot at which the next change starts a new one.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(5);
/// Records in the journal that make a snapshot worth while, whatever its age: this many take a start half a second.
pub(crate) const CHECKPOINT_RECORDS: u64 = 1 << 20;
/// Entries that are copied before other threads get their turn.
const COPIED_AT_ONCE: usize = 4096;

impl BoundedDirectory {
    /// Writes a snapshot after syncing the file system, so that everything up to now survives a power loss.
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
            state.entries.freeze()
        };
        let entries = order.chunks(COPIED_AT_ONCE).flat_map(|indices| {
            let state = self.state.lock();
            let frozen = indices.iter().map(|index| state.entries.frozen(*index));
            frozen.collect::<Vec<_>>()
        });
        let written = self
            .sync_files(order.is_empty())
            .and_then(|()| snapshot::write(&index, number, entries));
        self.state.lock().entries.thaw();
        written?;
        recovery::remove_older(&index, number)
    }

    /// Syncs the file system, so that a snapshot of the entries only names files that survive a power loss.
    fn sync_files(&self, is_empty: bool) -> Result<(), Error> {
        if is_empty {
            return Ok(());
        }
        let root =
            File::open(&self.root).map_err(Error::io(format!("cannot open {}", self.root.display())))?;
        rustix::fs::syncfs(&root)
            .map_err(io::Error::from)
            .map_err(Error::io(format!(
                "cannot sync the file system of {}",
                self.root.display()
            )))
    }

    /// Ends the use of the directory: a snapshot that needs no journal beside it, so that even a start after a
    /// reboot relies on it. Changes are refused from here on.
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
        snapshot::write(&index, number, state.entries.iter())?;
        recovery::remove_older(&index, number)
    }

    /// On a thread of its own.
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
    /// Whether it is time for a snapshot that nobody has asked for yet; the caller does.
    pub(super) fn request_checkpoint(&mut self, records: u64) -> bool {
        let is_due = self.journal.records() >= records
            || self.checkpointed.elapsed() >= CHECKPOINT_INTERVAL
            || std::mem::take(&mut self.checkpoint_is_overdue);
        is_due && !std::mem::replace(&mut self.checkpoint_requested, true)
    }
}
