//! Making room.

use std::path::Path;

use bitzel_proto::Digest;

use super::entries::{Entry, Place};
use super::record::Change;
use super::segments::Waste;
use super::{BLOCK, BoundedDirectory, Options, State, file_path, remove_file};
use crate::error::Error;
use crate::free_space::free_space;

/// Entries evicted before other threads get their turn.
const EVICTION_BATCH: usize = 64;

/// What one step of eviction took out. Its blocks are still taken until the waste was given back.
#[derive(Default)]
struct Evicted {
    blobs: u64,
    bytes: u64,
    waste: Vec<Waste>,
}

impl BoundedDirectory {
    /// Evicts until `bytes` more fit, and reserves them. Evicts nothing when that cannot be reached. `digest` is for
    /// the message.
    pub(super) fn make_room(&self, digest: Digest, bytes: u64) -> Result<(), Error> {
        if !self.released.lock().is_empty() {
            self.release();
        }
        let mut state = self.state.lock();
        loop {
            let free = self.free_space()?;
            let excess = self.excess(&state, free, digest, bytes)?;
            if excess == 0 {
                state.reserved += bytes;
                return Ok(());
            }
            let evicted = state.evict(&self.root, excess, |_| true)?;
            if evicted.bytes > 0 {
                drop(state);
                self.give_back(evicted.bytes, evicted.waste)?;
                state = self.state.lock();
            } else if state.leaving > 0 {
                // Others have evicted what is left and will be done soon.
                self.gave_back.wait(&mut state);
            } else {
                return Err(self.no_room(&state, free, digest, bytes));
            }
        }
    }

    /// [`Error::NoSpace`] if `bytes` more could not fit whatever was evicted. Evicts and reserves nothing.
    pub(crate) fn could_hold(&self, digest: Digest, bytes: u64) -> Result<(), Error> {
        let free = self.free_space()?;
        self.excess(&self.state.lock(), free, digest, bytes).map(drop)
    }

    /// The bytes to evict so that `bytes` more fit.
    fn excess(&self, state: &State, free: u64, digest: Digest, bytes: u64) -> Result<u64, Error> {
        let Options {
            limit,
            free_space_floor: floor,
            ..
        } = self.options;
        let taken = state.reserved.saturating_add(bytes);
        let wanted_free = floor.saturating_add(taken);
        let leased = state.entries.leased_blocks() * BLOCK;
        let evictable = state.used.saturating_sub(leased);
        if taken.saturating_add(leased) > limit || free.saturating_add(evictable) < wanted_free {
            return Err(self.no_room(state, free, digest, bytes));
        }
        let above_limit = state.used.saturating_add(taken).saturating_sub(limit);
        Ok(above_limit.max(wanted_free.saturating_sub(free)))
    }

    fn no_room(&self, state: &State, free: u64, digest: Digest, bytes: u64) -> Error {
        let Options {
            limit,
            free_space_floor: floor,
            ..
        } = self.options;
        let leased = state.entries.leased_blocks() * BLOCK;
        let reason = format!(
            "{bytes} bytes are needed; of the limit of {limit}, {} are in use, {leased} of these by running actions, \
             and {} reserved for writes under way; {free} are free on the file system, of which {floor} must stay free",
            state.used, state.reserved,
        );
        Error::NoSpace { digest, reason }
    }

    /// Evicts until no more than `target` bytes are in use and nothing is left that was last used before `cutoff`, in
    /// seconds since 1970. Gives the number of entries evicted, and their bytes.
    pub(crate) fn collect(&self, target: u64, cutoff: u32) -> Result<(u64, u64), Error> {
        let mut all = (0, 0);
        self.release();
        loop {
            let mut state = self.state.lock();
            let excess = state.used.saturating_sub(target);
            let evicted = if excess > 0 {
                state.evict(&self.root, excess, |_| true)?
            } else {
                state.evict(&self.root, u64::MAX, |entry| entry.used < cutoff)?
            };
            drop(state);
            if evicted.bytes == 0 {
                return Ok(all);
            }
            all = (all.0 + evicted.blobs, all.1 + evicted.bytes);
            self.give_back(evicted.bytes, evicted.waste)?;
        }
    }

    /// Gives blocks back; `bytes` of them no longer count as in use.
    pub(super) fn give_back(&self, bytes: u64, waste: Vec<Waste>) -> Result<(), Error> {
        let given_back = Waste::give_back(waste);
        let mut state = self.state.lock();
        state.leaving -= bytes;
        if given_back.is_ok() {
            state.used -= bytes;
        }
        self.gave_back.notify_all();
        given_back
    }

    fn free_space(&self) -> Result<u64, Error> {
        let root = &self.root;
        free_space(root).map_err(Error::io(format!(
            "cannot find out the free space at {}",
            root.display()
        )))
    }
}

impl State {
    /// Takes out the least recently used entries, some at a time, until `excess` bytes or one that is no victim.
    fn evict(
        &mut self,
        root: &Path,
        excess: u64,
        is_victim: impl Fn(&Entry) -> bool,
    ) -> Result<Evicted, Error> {
        let mut evicted = Evicted::default();
        while evicted.bytes < excess
            && evicted.waste.len() < EVICTION_BATCH
            && let Some((path, bytes)) = self.quarantine.pop_front()
        {
            evicted.bytes += bytes;
            self.leaving += bytes;
            evicted.waste.push(Waste::Segment(path));
        }
        if evicted.bytes > 0 {
            return Ok(evicted);
        }
        let mut bytes = 0;
        let wanted = |entry: &Entry| {
            let is_wanted = bytes < excess && is_victim(entry);
            bytes += u64::from(entry.blocks) * BLOCK;
            is_wanted
        };
        let candidates = self.entries.evictable().take(EVICTION_BATCH);
        let victims: Vec<Entry> = candidates.take_while(wanted).collect();
        self.append(root, Change::Remove, &victims)?;
        for entry in victims {
            self.entries.remove(&entry.digest);
            let removed = match entry.place {
                // Under the lock: another writer could put the same file there in between.
                Place::File(_) => remove_file(&file_path(root, &entry)),
                Place::Segment { number, block } => self
                    .segments
                    .free(number, block, entry.blocks)
                    .map(|waste| evicted.waste.push(waste))
                    .map_err(Error::io("cannot open a segment")),
            };
            if let Err(error) = removed {
                // Still counted as in use, which it is; the next start removes it.
                tracing::error!(digest = %entry.digest, %error, "cannot remove an evicted blob");
                continue;
            }
            let bytes = u64::from(entry.blocks) * BLOCK;
            self.leaving += bytes;
            evicted.blobs += 1;
            evicted.bytes += bytes;
        }
        self.evictions += evicted.blobs;
        Ok(evicted)
    }
}
