//! State of one fetch, for the parts of it that block.

use std::sync::Arc;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::FileCache;
use super::disk::TemporaryFile;
use super::index::CachedFile;
use super::key::FileKey;
use crate::error::Error;
use crate::worker_directories::WorkerDirectories;

/// One fetch. Its blocking parts go on when the future that waits for them is dropped: they end with the next file.
#[derive(Debug, Clone)]
pub(super) struct Fetch {
    cache: Arc<FileCache>,
    is_over: CancellationToken,
}

impl Fetch {
    /// A fetch that is over when the guard is dropped.
    pub(super) fn new(cache: &Arc<FileCache>) -> (Self, DropGuard) {
        let is_over = CancellationToken::new();
        let fetch = Self {
            cache: Arc::clone(cache),
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
