//! Eviction of the least recently used entries.

use std::path::Path;

use bitzel_proto::Digest;

use super::files::{file_path, remove_file};
use super::record::Change;
use super::segments::FreedSpace;
use super::{BLOCK_BYTES, BoundedDirectory, Entry, Options, Place, State};
use crate::error::Error;
use crate::free_space::free_space;

/// Entries that are evicted before other threads can take the lock.
const EVICTION_BATCH_ENTRIES: usize = 64;

/// Entries removed by one step of eviction. Their blocks are in use until `freed_space` is deallocated.
#[derive(Default)]
struct Evicted {
    blobs: u64,
    bytes: u64,
    freed_space: Vec<FreedSpace>,
}

impl BoundedDirectory {
    /// Evicts until `bytes` more fit, and reserves them. Evicts nothing if that cannot be reached. `digest` is for the
    /// message.
    pub(super) fn make_space(&self, digest: Digest, bytes: u64) -> Result<(), Error> {
        if !self.pending_releases.lock().is_empty() {
            self.release_pending();
        }
        let mut state = self.state.lock();
        loop {
            let free = self.free_space()?;
            let excess = self.excess(&state, free, digest, bytes)?;
            if excess == 0 {
                state.reserved_bytes += bytes;
                return Ok(());
            }
            let evicted = state.evict(&self.root, excess, |_| true)?;
            if evicted.bytes > 0 {
                drop(state);
                self.deallocate(evicted.bytes, evicted.freed_space)?;
                state = self.state.lock();
            } else if state.deallocating_bytes > 0 {
                // Other threads have evicted the remaining entries and are deallocating their blocks.
                self.deallocated.wait(&mut state);
            } else {
                return Err(self.no_space_error(&state, free, digest, bytes));
            }
        }
    }

    /// [`Error::NoSpace`] if `bytes` more could not fit even after all evictions. Evicts and reserves nothing.
    pub(crate) fn check_capacity(&self, digest: Digest, bytes: u64) -> Result<(), Error> {
        let free = self.free_space()?;
        self.excess(&self.state.lock(), free, digest, bytes).map(drop)
    }

    /// Number of bytes to evict so that `bytes` more fit.
    fn excess(&self, state: &State, free: u64, digest: Digest, bytes: u64) -> Result<u64, Error> {
        let Options {
            limit,
            free_space_floor: floor,
            ..
        } = self.options;
        let taken = state.reserved_bytes.saturating_add(bytes);
        let wanted_free = floor.saturating_add(taken);
        let leased = state.entries.leased_blocks() * BLOCK_BYTES;
        let evictable = state.used_bytes.saturating_sub(leased);
        if taken.saturating_add(leased) > limit || free.saturating_add(evictable) < wanted_free {
            return Err(self.no_space_error(state, free, digest, bytes));
        }
        let above_limit = state.used_bytes.saturating_add(taken).saturating_sub(limit);
        Ok(above_limit.max(wanted_free.saturating_sub(free)))
    }

    fn no_space_error(&self, state: &State, free: u64, digest: Digest, bytes: u64) -> Error {
        let Options {
            limit,
            free_space_floor: floor,
            ..
        } = self.options;
        let leased = state.entries.leased_blocks() * BLOCK_BYTES;
        let reason = format!(
            "{bytes} bytes are needed; of the limit of {limit}, {} are in use, {leased} of these by running actions, \
             and {} reserved for writes under way; {free} are free on the file system, of which {floor} must stay free",
            state.used_bytes, state.reserved_bytes,
        );
        Error::NoSpace { digest, reason }
    }

    /// Evicts until no more than `target_bytes` are in use and no entry is left that was last used before `cutoff`, in
    /// seconds since 1970. Returns the number of evicted entries and their bytes.
    pub(crate) fn evict(&self, target_bytes: u64, cutoff: u32) -> Result<(u64, u64), Error> {
        let mut all = (0, 0);
        self.release_pending();
        loop {
            let mut state = self.state.lock();
            let excess = state.used_bytes.saturating_sub(target_bytes);
            let evicted = if excess > 0 {
                state.evict(&self.root, excess, |_| true)?
            } else {
                state.evict(&self.root, u64::MAX, |entry| entry.last_use < cutoff)?
            };
            drop(state);
            if evicted.bytes == 0 {
                return Ok(all);
            }
            all = (all.0 + evicted.blobs, all.1 + evicted.bytes);
            self.deallocate(evicted.bytes, evicted.freed_space)?;
        }
    }

    /// Deallocates blocks in the file system; `bytes` of them no longer count as in use.
    pub(super) fn deallocate(&self, bytes: u64, freed_space: Vec<FreedSpace>) -> Result<(), Error> {
        let result = FreedSpace::deallocate(freed_space);
        let mut state = self.state.lock();
        state.deallocating_bytes -= bytes;
        if result.is_ok() {
            state.used_bytes -= bytes;
        }
        self.deallocated.notify_all();
        result
    }

    fn free_space(&self) -> Result<u64, Error> {
        let root = &self.root;
        free_space(root).map_err(Error::io(format_args!(
            "cannot read the free space at {}",
            root.display()
        )))
    }
}

impl State {
    /// Removes one batch of the least recently used entries, up to `excess` bytes or the first entry that is no victim.
    fn evict(
        &mut self,
        root: &Path,
        excess: u64,
        is_victim: impl Fn(&Entry) -> bool,
    ) -> Result<Evicted, Error> {
        let mut evicted = Evicted::default();
        while evicted.bytes < excess
            && evicted.freed_space.len() < EVICTION_BATCH_ENTRIES
            && let Some((path, bytes)) = self.quarantine.pop_front()
        {
            evicted.bytes += bytes;
            self.deallocating_bytes += bytes;
            evicted.freed_space.push(FreedSpace::File(path));
        }
        if evicted.bytes > 0 {
            return Ok(evicted);
        }
        let mut bytes = 0;
        let wanted = |entry: &Entry| {
            let is_wanted = bytes < excess && is_victim(entry);
            bytes += u64::from(entry.blocks) * BLOCK_BYTES;
            is_wanted
        };
        let candidates = self.entries.evictable().take(EVICTION_BATCH_ENTRIES);
        let victims: Vec<Entry> = candidates.take_while(wanted).collect();
        self.append(root, Change::Remove, &victims)?;
        for entry in victims {
            self.entries.remove(&entry.digest);
            let removed = match entry.place {
                // Under the lock: another writer could put the same file there meanwhile.
                Place::File(_) => remove_file(&file_path(root, &entry)),
                Place::Segment { number, block } => self
                    .segments
                    .free(number, block, entry.blocks)
                    .map(|freed_space| evicted.freed_space.push(freed_space))
                    .map_err(Error::io("cannot open a segment")),
            };
            if let Err(error) = removed {
                // It still counts as in use, which it is; the next start removes it.
                tracing::error!(digest = %entry.digest, %error, "cannot remove an evicted blob");
                continue;
            }
            let bytes = u64::from(entry.blocks) * BLOCK_BYTES;
            self.deallocating_bytes += bytes;
            evicted.blobs += 1;
            evicted.bytes += bytes;
        }
        self.evicted_blobs += evicted.blobs;
        Ok(evicted)
    }
}
