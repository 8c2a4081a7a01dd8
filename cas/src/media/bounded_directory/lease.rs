//! Entries that must stay.

use std::sync::Arc;

use bitzel_proto::Digest;

use super::BoundedDirectory;

/// Entries before other threads get their turn.
const STEP: usize = 1024;
/// Dropped leases that may wait.
const RELEASED: usize = 256;

/// Keeps entries from eviction for as long as it lives.
pub(crate) struct DirectoryLease {
    directory: Arc<BoundedDirectory>,
    digests: Vec<Digest>,
}

impl DirectoryLease {
    /// Also holds for what is not there yet.
    pub(crate) fn new(directory: Arc<BoundedDirectory>, digests: Vec<Digest>) -> Self {
        if directory.released.lock().len() > RELEASED {
            directory.release();
        }
        for digests in digests.chunks(STEP) {
            let mut state = directory.state.lock();
            for digest in digests {
                state.entries.lease(digest);
            }
        }
        Self { directory, digests }
    }
}

/// Cheap, however many digests there are: they are released when somebody needs room.
impl Drop for DirectoryLease {
    fn drop(&mut self) {
        let digests = std::mem::take(&mut self.digests);
        self.directory.released.lock().push(digests);
    }
}

impl BoundedDirectory {
    /// Ends the leases that were dropped.
    pub(super) fn release(&self) {
        let released = std::mem::take(&mut *self.released.lock());
        for digests in released.iter().flat_map(|digests| digests.chunks(STEP)) {
            let mut state = self.state.lock();
            for digest in digests {
                state.entries.release(digest);
            }
        }
    }
}
