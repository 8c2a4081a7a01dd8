//! Entries that must stay.

use std::sync::Arc;

use bitzel_proto::Digest;

use super::BoundedDirectory;

/// Entries before other threads get their turn.
const STEP: usize = 1024;

/// Keeps entries from eviction for as long as it lives.
pub(crate) struct DirectoryLease {
    directory: Arc<BoundedDirectory>,
    digests: Vec<Digest>,
}

impl DirectoryLease {
    /// Also holds for what is not there yet.
    pub(crate) fn new(directory: Arc<BoundedDirectory>, digests: Vec<Digest>) -> Self {
        for digests in digests.chunks(STEP) {
            let mut state = directory.state.lock();
            for digest in digests {
                state.entries.lease(digest);
            }
        }
        Self { directory, digests }
    }
}

impl Drop for DirectoryLease {
    fn drop(&mut self) {
        for digests in self.digests.chunks(STEP) {
            let mut state = self.directory.state.lock();
            for digest in digests {
                state.entries.release(digest);
            }
        }
    }
}
