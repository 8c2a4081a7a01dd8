//! State of one fetch, for the parts of it that block.

use std::sync::Arc;

use metrics::counter;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::FileCache;
use super::disk::TemporaryFile;
use super::index::CachedFile;
use super::key::FileKey;
use crate::error::Error;
use crate::worker_directories::WorkerDirectories;

/// Purpose of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An Action waits for the files.
    Action,
    /// An Action may come that needs them.
    UpcomingAction,
}

impl Purpose {
    /// Number of concurrent transfers, of batches and of streams each.
    pub(super) fn max_concurrent_transfers(self) -> usize {
        match self {
            Self::Action => 8,
            Self::UpcomingAction => 4,
        }
    }

    /// Counts files that were in the cache. Those of an upcoming Action are counted when it runs.
    pub(super) fn count_cached(self, files: usize) {
        if self == Self::Action {
            count_input_files("cached", files);
        }
    }

    /// Counts files that had to be fetched.
    pub(super) fn count_fetched(self, files: usize) {
        match self {
            Self::Action => count_input_files("fetched", files),
            Self::UpcomingAction => count_input_files("prefetched", files),
        }
    }
}

fn count_input_files(outcome: &'static str, files: usize) {
    counter!("bitzel_worker_input_files_total", "outcome" => outcome).increment(files as u64);
}

/// One fetch. Its blocking parts go on when the future that waits for them is dropped: they end with the next file.
#[derive(Debug, Clone)]
pub(super) struct Fetch {
    cache: Arc<FileCache>,
    pub(super) purpose: Purpose,
    is_over: CancellationToken,
}

impl Fetch {
    /// A fetch that is over when the guard is dropped.
    pub(super) fn new(cache: &Arc<FileCache>, purpose: Purpose) -> (Self, DropGuard) {
        let is_over = CancellationToken::new();
        let fetch = Self {
            cache: Arc::clone(cache),
            purpose,
            is_over: is_over.clone(),
        };
        (fetch, is_over.drop_guard())
    }

    pub(super) fn directories(&self) -> &WorkerDirectories {
        &self.cache.directories
    }

    /// Puts a file in place. Fails with [`Error::Cancelled`] if the fetch is over.
    ///
    /// The index has the file from now on, though nobody holds it: if another file fails, this one must not take space
    /// that no eviction finds.
    pub(super) fn publish(&self, file: TemporaryFile, key: &FileKey) -> Result<CachedFile, Error> {
        if self.is_over.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let file = file.publish(&self.cache.directories, key)?;
        self.cache.index.lock().insert(file);
        Ok(file)
    }
}
