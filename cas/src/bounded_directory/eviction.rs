//! Making room.

use std::io;
use std::path::Path;

use bitzel_proto::DigestFunction;

use super::journal::Change;
use super::{BoundedDirectory, Options, State, path, remove_file, weight};
use crate::error::Error;

/// Files evicted before other threads get their turn.
const EVICTION_BATCH: usize = 64;

impl BoundedDirectory {
    /// Evicts until `bytes` more fit, and reserves them. Evicts nothing when that cannot be reached.
    pub(super) fn make_room(&self, bytes: u64, what: impl Fn() -> String) -> Result<(), Error> {
        let Options {
            limit,
            free_space_floor: floor,
            ..
        } = self.options;
        loop {
            let mut state = self.state.lock();
            let mut free = self.free_space()?;
            let taken = state.reserved.saturating_add(bytes);
            let wanted_free = floor.saturating_add(taken);
            if taken > limit || free.saturating_add(state.used) < wanted_free {
                let reason = format!(
                    "{} needs {bytes} bytes; of the limit of {limit}, {} are in use and {} reserved for writes under \
                     way; {free} are free on the file system, of which {floor} must stay free",
                    what(),
                    state.used,
                    state.reserved,
                );
                let digest = DigestFunction::default().digest(&[]);
                return Err(Error::NoSpace { digest, reason });
            }
            for _ in 0..EVICTION_BATCH {
                if state.used.saturating_add(taken) <= limit && free >= wanted_free {
                    state.reserved = taken;
                    return Ok(());
                }
                match state.evict_one(&self.root)? {
                    Some(gained) => free += gained,
                    // Less was gained than counted; the next look at the free space tells.
                    None => break,
                }
            }
        }
    }

    fn free_space(&self) -> Result<u64, Error> {
        let status = rustix::fs::statvfs(&self.root)
            .map_err(io::Error::from)
            .map_err(Error::io(format!(
                "cannot find out the free space at {}",
                self.root.display()
            )))?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }
}

impl State {
    /// The bytes gained; `None` when nothing is left.
    fn evict_one(&mut self, root: &Path) -> Result<Option<u64>, Error> {
        if let Some((path, bytes)) = self.quarantine.pop_front() {
            remove_file(&path)?;
            self.used -= bytes;
            return Ok(Some(bytes));
        }
        let Some((digest, _)) = self.entries.peek_lru() else {
            return Ok(None);
        };
        let digest = *digest;
        self.append(root, &[(Change::Remove, digest)])?;
        remove_file(&path(root, digest))?;
        self.entries.pop(&digest);
        self.used -= weight(digest);
        Ok(Some(weight(digest)))
    }
}
