//! The worker's local cache of input files.
//!
//! A file of an input root is a hardlink to a file of this cache. Only files with the same content *and* the same inode
//! attributes can share an inode. So the mode is part of a file's key, and if a node sets a modification time, that is
//! part of the key, too. Such nodes describe a tree that is restored exactly, so each of them gets an inode of its own
//! (the key holds the path), unless hardlinks were recorded: programs such as `tar` and `cp` would otherwise take two
//! equal files for hardlinks of each other.
//!
//! Nothing writes to a file after its atomic rename into place: commands see the cache only through the lower side of
//! an overlay, and no command ever had a file of it open. Outputs of a command enter the cache as copies, made while
//! they are hashed (decision 0030). A file that an earlier worker left is hashed again before it is used.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_proto::Digest;
use metrics::gauge;
use parking_lot::Mutex;
use rayon::prelude::*;
use tokio::sync::Notify;

use crate::error::Error;
use crate::worker_directories::WorkerDirectories;

mod disk;
mod download;
mod fetch;
mod index;
mod key;
mod output_copy;
mod reuse;

use fetch::{Fetch, Purpose};
use index::{CachedFile, FileIndex};
pub use key::FileKey;
pub(crate) use output_copy::CopyWriter;
pub use output_copy::OutputCopy;

/// The cache of input files. All methods can be called concurrently.
#[derive(Debug)]
pub struct FileCache {
    directories: Arc<WorkerDirectories>,
    limit_bytes: u64,
    index: Mutex<FileIndex>,
    claims_released: Notify,
}

/// Keeps files in the cache while it lives.
#[derive(Debug)]
pub struct FileLease {
    cache: Arc<FileCache>,
    keys: Vec<FileKey>,
}

impl Drop for FileLease {
    fn drop(&mut self) {
        let mut index = self.cache.index.lock();
        for key in &self.keys {
            index.unpin(key);
        }
    }
}

/// Result of one claim, made under the lock.
struct Claim {
    /// Keys that are present. The lease holds them from now on.
    present: Vec<FileKey>,
    /// Keys to fetch or to verify, by digest. No other Action does so before the claim is released.
    own: HashMap<Digest, Vec<FileKey>>,
    /// Keys whose digests another Action has claimed.
    others: Vec<FileKey>,
}

/// Releases claimed digests, even if the future that fetches them is dropped.
struct ClaimGuard<'cache> {
    cache: &'cache FileCache,
    digests: Vec<Digest>,
}

impl Drop for ClaimGuard<'_> {
    fn drop(&mut self) {
        let mut index = self.cache.index.lock();
        for digest in &self.digests {
            index.release_claim(*digest);
        }
        drop(index);
        self.cache.claims_released.notify_waiters();
    }
}

impl FileCache {
    /// Opens the cache in `directories` and lists its files. Blocks.
    pub fn open(directories: Arc<WorkerDirectories>, limit_bytes: u64) -> Result<Arc<Self>, Error> {
        let mut index = FileIndex::default();
        for file in disk::scan(&directories)? {
            index.insert_unverified(file);
        }
        let cache = Arc::new(Self {
            directories,
            limit_bytes,
            index: Mutex::new(index),
            claims_released: Notify::new(),
        });
        cache.evict();
        Ok(cache)
    }

    /// Brings all of `keys` into the cache, where they stay while the lease lives. Each blob is downloaded once, even if
    /// many Actions ask for it at the same time.
    ///
    /// [`Error::MissingBlobs`] names all blobs that the store lacks.
    pub async fn fetch(
        self: &Arc<Self>,
        store: &dyn BlobStore,
        keys: impl IntoIterator<Item = FileKey>,
    ) -> Result<FileLease, Error> {
        self.fetch_for(Purpose::Action, store, keys).await
    }

    /// As [`Self::fetch`], for an Action that may come, with fewer transfers at the same time.
    pub async fn fetch_ahead(
        self: &Arc<Self>,
        store: &dyn BlobStore,
        keys: impl IntoIterator<Item = FileKey>,
    ) -> Result<FileLease, Error> {
        self.fetch_for(Purpose::UpcomingAction, store, keys).await
    }

    /// Those of `keys` that are not in the cache, each once.
    pub fn absent(&self, mut keys: Vec<FileKey>) -> Vec<FileKey> {
        keys.sort_unstable();
        keys.dedup();
        let index = self.index.lock();
        keys.retain(|key| !index.contains(key));
        keys
    }

    async fn fetch_for(
        self: &Arc<Self>,
        purpose: Purpose,
        store: &dyn BlobStore,
        keys: impl IntoIterator<Item = FileKey>,
    ) -> Result<FileLease, Error> {
        let mut lease = FileLease {
            cache: Arc::clone(self),
            keys: vec![],
        };
        let (fetch, _end) = Fetch::new(self, purpose);
        let mut wanted: Vec<FileKey> = keys.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        while !wanted.is_empty() {
            let released = self.claims_released.notified();
            tokio::pin!(released);
            // Before the claim: a release between the claim and the wait must not be missed.
            released.as_mut().enable();
            let claim = self.claim(&wanted);
            purpose.count_cached(claim.present.len());
            lease.keys.extend(claim.present);
            if !claim.own.is_empty() {
                let guard = ClaimGuard {
                    cache: self,
                    digests: claim.own.keys().copied().collect(),
                };
                let wanted = reuse::reuse(self, &fetch, claim.own, &mut lease).await?;
                download::download(self, &fetch, store, wanted, &mut lease).await?;
                drop(guard);
            } else if !claim.others.is_empty() {
                released.await;
            }
            wanted = claim.others;
        }
        self.evict();
        Ok(lease)
    }

    fn claim(&self, wanted: &[FileKey]) -> Claim {
        let mut index = self.index.lock();
        let mut claim = Claim {
            present: vec![],
            own: HashMap::new(),
            others: vec![],
        };
        for key in wanted {
            if index.pin(key) {
                claim.present.push(*key);
            } else if claim.own.contains_key(&key.digest) || index.claim(key.digest) {
                claim.own.entry(key.digest).or_default().push(*key);
            } else {
                claim.others.push(*key);
            }
        }
        claim
    }

    /// The path of a file relative to the cache directory.
    pub fn relative_path(key: &FileKey) -> String {
        format!("files/{key}")
    }

    fn path(&self, key: &FileKey) -> PathBuf {
        self.directories.cache().join(Self::relative_path(key))
    }

    /// Registers a file that was renamed into place, held by `lease`.
    fn register(&self, file: CachedFile, lease: &mut FileLease) {
        let mut index = self.index.lock();
        index.insert(file);
        if index.pin(&file.key) {
            lease.keys.push(file.key);
        }
    }

    /// Moves copies of outputs into the cache. The next Action of a recipe, on its way from configure to install, has them
    /// as inputs and finds them here. Blocks.
    pub fn adopt(&self, copies: Vec<(FileKey, OutputCopy)>) {
        copies.into_par_iter().for_each(|(key, copy)| {
            let mut index = self.index.lock();
            if index.contains(&key) || !index.claim(key.digest) {
                return;
            }
            drop(index);
            // No other Action puts the same file in place meanwhile, which an eviction could remove before it is held.
            let _claim = ClaimGuard {
                cache: self,
                digests: vec![key.digest],
            };
            match copy.publish(&self.directories, &key) {
                Ok(file) => self.index.lock().insert(file),
                // Nothing is lost: the output is in the store.
                Err(error) => tracing::debug!(%error, "an output is not kept in the file cache"),
            }
        });
        self.evict();
    }

    /// Bytes up to the limit.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.index.lock().total_bytes())
    }

    /// True if the cache holds more bytes than its limit.
    pub fn is_over_limit(&self) -> bool {
        self.index.lock().total_bytes() > self.limit_bytes
    }

    /// If the limit is exceeded, removes the files that were not used for longest, until a tenth of the limit is free or
    /// only files in use are left. Blocks while it unlinks.
    pub fn evict(&self) {
        self.evict_beyond(self.limit_bytes);
    }

    /// Removes the files that were not used for longest, until more than half of the bytes are free or only files in use are
    /// left. Blocks while it unlinks.
    pub fn evict_half(&self) {
        let total = self.index.lock().total_bytes();
        self.evict_beyond(total / 2);
    }

    #[expect(clippy::cast_precision_loss, reason = "a metric needs no exact value")]
    fn evict_beyond(&self, limit_bytes: u64) {
        let victims = {
            let mut index = self.index.lock();
            let victims = index.take_victims(limit_bytes);
            gauge!("bitzel_worker_cache_bytes").set(index.total_bytes() as f64);
            // Under the lock, so that no file is moved away that was fetched again. The removal takes longer.
            let moved: Vec<PathBuf> = victims.iter().filter_map(|key| self.move_away(key)).collect();
            moved
        };
        for path in victims {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file from the cache");
            }
        }
    }

    /// Moves a file to a path of its own, which is returned. `None` if that fails.
    fn move_away(&self, key: &FileKey) -> Option<PathBuf> {
        let (path, cache) = (self.path(key), self.directories.cache());
        let target = cache.join(self.directories.fresh_path("temporary"));
        match std::fs::rename(&path, &target) {
            Ok(()) => Some(target),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file from the cache");
                None
            }
        }
    }

    /// Forgets a file of the index that is not on disk, so that the next Action fetches it again. Blocks.
    pub fn forget_lost(&self, key: &FileKey) {
        let mut index = self.index.lock();
        // Another Action may have fetched it meanwhile.
        if let Err(error) = std::fs::symlink_metadata(self.path(key))
            && error.kind() == ErrorKind::NotFound
        {
            tracing::warn!(%key, "a cached file is lost");
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
