//! Leases, which protect entries from eviction.

use std::sync::Arc;

use bitzel_proto::Digest;

use super::BoundedDirectory;

/// Entries that are leased or released before other threads can take the lock.
const BATCH_ENTRIES: usize = 1024;
/// Dropped leases that may wait for their release.
const MAX_PENDING_RELEASES: usize = 256;

/// Protection of entries from eviction, until it is dropped.
pub(crate) struct DirectoryLease {
    directory: Arc<BoundedDirectory>,
    digests: Vec<Digest>,
}

impl DirectoryLease {
    /// Leases the entries of `digests`, present or added later.
    pub(crate) fn new(directory: Arc<BoundedDirectory>, digests: Vec<Digest>) -> Self {
        if directory.pending_releases.lock().len() > MAX_PENDING_RELEASES {
            directory.release_pending();
        }
        for digests in digests.chunks(BATCH_ENTRIES) {
            let mut state = directory.state.lock();
            for digest in digests {
                state.entries.lease(digest);
            }
        }
        Self { directory, digests }
    }
}

/// Cheap, however many digests there are: they are released when space is needed.
impl Drop for DirectoryLease {
    fn drop(&mut self) {
        let digests = std::mem::take(&mut self.digests);
        self.directory.pending_releases.lock().push(digests);
    }
}

impl BoundedDirectory {
    /// Releases the entries of all dropped leases.
    pub(super) fn release_pending(&self) {
        let released = std::mem::take(&mut *self.pending_releases.lock());
        for digests in released.iter().flat_map(|digests| digests.chunks(BATCH_ENTRIES)) {
            let mut state = self.state.lock();
            for digest in digests {
                state.entries.release(digest);
            }
        }
    }
}
