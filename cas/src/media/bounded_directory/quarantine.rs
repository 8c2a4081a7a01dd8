//! Removal of entries that turn out to be missing or corrupt on the disk.

use std::fs;
use std::sync::atomic::Ordering;

use super::files::{file_name, file_path};
use super::record::Change;
use super::segments::FreedSpace;
use super::{BLOCK_BYTES, BoundedDirectory, Entry, Place, State};
use crate::file_stream::read_at;

impl BoundedDirectory {
    /// Removes an entry whose file is gone.
    pub(super) fn forget(&self, entry: &Entry) {
        let mut state = self.state.lock();
        let is_there = file_path(&self.root, entry).exists();
        if !is_there && state.remove_if_unchanged(entry) {
            state.used_bytes -= u64::from(entry.blocks) * BLOCK_BYTES;
            // Without the record, the next start removes the entry in the same way.
            let _ = state.append(&self.root, Change::Remove, &[*entry]);
        }
    }

    /// Moves an entry to the quarantine because its content, as it was read, is wrong. `false`, and nothing changes, if it
    /// was evicted or replaced while it was read: the reader then read a hole.
    pub(crate) fn quarantine(&self, entry: &Entry) -> bool {
        let mut state = self.state.lock();
        if !state.remove_if_unchanged(entry) {
            return false;
        }
        let digest = entry.digest;
        self.corrupt_blobs.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%digest, "the bytes of a blob are corrupt; they are in quarantine and the blob is gone");
        // Recorded or not, it must not be served again.
        let _ = state.append(&self.root, Change::Remove, &[*entry]);
        let to = self
            .root
            .join("quarantine")
            .join(file_name(digest, entry.encoding));
        let bytes = u64::from(entry.blocks) * BLOCK_BYTES;
        let (moved, freed_space) = match entry.place {
            Place::File(_) => (fs::rename(file_path(&self.root, entry), &to), None),
            Place::Segment { number, block } => {
                let copied = state.segments.file(number).and_then(|file| {
                    let content = read_at(&file, u64::from(block) * BLOCK_BYTES, bytes)?;
                    fs::write(&to, content)
                });
                (copied, state.segments.free(number, block, entry.blocks).ok())
            }
        };
        match moved {
            Ok(()) => state.quarantine.push_back((to, bytes)),
            Err(error) => {
                tracing::error!(%digest, %error, "cannot move a corrupt blob to the quarantine; it is removed");
                let _ = fs::remove_file(file_path(&self.root, entry));
                state.used_bytes -= bytes;
            }
        }
        drop(state);
        if let Err(error) = FreedSpace::deallocate(freed_space.into_iter().collect()) {
            tracing::error!(%digest, %error, "cannot deallocate the blocks of a corrupt blob");
        }
        true
    }
}

impl State {
    /// Removes an entry. `false` if it was removed or replaced before.
    fn remove_if_unchanged(&mut self, entry: &Entry) -> bool {
        let present = self.entries.get(&entry.digest);
        present.is_some_and(|present| present.place == entry.place)
            && self.entries.remove(&entry.digest).is_some()
    }
}
