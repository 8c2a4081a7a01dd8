//! The worker's local cache of input files.
//!
//! A file of an input root is a hardlink to a file of this cache. What can be shared that way is what has the same
//! content *and* the same inode attributes, so the mode is part of a file's key, and where a node gives a
//! modification time, that is part too. Such nodes describe a tree that is restored exactly, so each of them gets an
//! inode of its own (the key holds the path), unless hardlinks were recorded: programs such as `tar` and `cp`
//! would otherwise take two equal files for hardlinks of each other.
//!
//! Nothing writes to a file after its atomic rename into place: commands only see the cache through the lower side
//! of an overlay, and no file of it was ever open to a command. What a command left becomes a file of the cache as a
//! copy, made while it is hashed (decision 0030). A file that an earlier worker left is used once it is hashed again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_cas::BlobStore;
use bitzel_proto::Digest;
use metrics::{counter, gauge};
use parking_lot::Mutex;
use rayon::prelude::*;
use tokio::sync::Notify;

use crate::error::Error;
use crate::scratch::Scratch;

mod disk;
mod download;
mod key;
mod output_copy;
mod reuse;
mod state;

pub use key::FileKey;
pub(crate) use output_copy::CopyWriter;
pub use output_copy::OutputCopy;
use state::{CachedFile, State};

/// The cache. Cheap to share; all methods can be called at the same time.
#[derive(Debug)]
pub struct FileCache {
    scratch: Arc<Scratch>,
    limit_bytes: u64,
    state: Mutex<State>,
    fetched: Notify,
}

/// Keeps files in the cache for as long as it lives.
#[derive(Debug)]
pub struct FileLease {
    cache: Arc<FileCache>,
    keys: Vec<FileKey>,
}

impl Drop for FileLease {
    fn drop(&mut self) {
        let mut state = self.cache.state.lock();
        for key in &self.keys {
            state.unpin(key);
        }
    }
}

/// What one claim under the lock found.
struct Claim {
    /// Keys that are there now and that the lease holds from now on.
    present: Vec<FileKey>,
    /// Keys to fetch or to verify, by digest; nobody else does either before the claim is given back.
    own: HashMap<Digest, Vec<FileKey>>,
    /// Keys whose digests somebody else is fetching.
    others: Vec<FileKey>,
}

/// Gives claimed digests back, also when the fetching future is dropped.
struct ClaimGuard<'cache> {
    cache: &'cache FileCache,
    digests: Vec<Digest>,
}

impl Drop for ClaimGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state.lock();
        for digest in &self.digests {
            state.give_back(*digest);
        }
        drop(state);
        self.cache.fetched.notify_waiters();
    }
}

impl FileCache {
    /// Opens the cache in `scratch` and reads what is there. Blocks.
    pub fn open(scratch: Arc<Scratch>, limit_bytes: u64) -> Result<Arc<Self>, Error> {
        let mut state = State::default();
        for file in disk::scan(&scratch)? {
            state.insert_found(file);
        }
        let cache = Arc::new(Self {
            scratch,
            limit_bytes,
            state: Mutex::new(state),
            fetched: Notify::new(),
        });
        cache.evict();
        Ok(cache)
    }

    /// Makes sure that all of `keys` are in the cache and stay there while the lease lives. Each blob is downloaded
    /// once, however many Actions ask for it at the same time.
    ///
    /// [`Error::MissingBlobs`] names all blobs that the store does not have.
    pub async fn fetch(
        self: &Arc<Self>,
        store: &dyn BlobStore,
        keys: impl IntoIterator<Item = FileKey>,
    ) -> Result<FileLease, Error> {
        let mut lease = FileLease {
            cache: Arc::clone(self),
            keys: vec![],
        };
        let mut wanted: Vec<FileKey> = keys.into_iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        while !wanted.is_empty() {
            let fetched = self.fetched.notified();
            tokio::pin!(fetched);
            // Before looking: what is announced between the look and the wait must not be missed.
            fetched.as_mut().enable();
            let claim = self.claim(&wanted);
            count("cached", claim.present.len());
            lease.keys.extend(claim.present);
            if !claim.own.is_empty() {
                let guard = ClaimGuard {
                    cache: self,
                    digests: claim.own.keys().copied().collect(),
                };
                let wanted = reuse::reuse(self, claim.own, &mut lease).await?;
                download::download(self, store, wanted, &mut lease).await?;
                drop(guard);
            } else if !claim.others.is_empty() {
                fetched.await;
            }
            wanted = claim.others;
        }
        self.evict();
        Ok(lease)
    }

    fn claim(&self, wanted: &[FileKey]) -> Claim {
        let mut state = self.state.lock();
        let mut claim = Claim {
            present: vec![],
            own: HashMap::new(),
            others: vec![],
        };
        for key in wanted {
            if state.pin(key) {
                claim.present.push(*key);
            } else if claim.own.contains_key(&key.digest) || state.claim(key.digest) {
                claim.own.entry(key.digest).or_default().push(*key);
            } else {
                claim.others.push(*key);
            }
        }
        claim
    }

    /// Where a file is, relative to the worker's directory.
    pub fn relative_path(key: &FileKey) -> String {
        format!("files/{key}")
    }

    fn path(&self, key: &FileKey) -> PathBuf {
        self.scratch.root().join(Self::relative_path(key))
    }

    /// Registers a file that was just renamed into place, held by `lease`.
    fn published(&self, file: CachedFile, lease: &mut FileLease) {
        let mut state = self.state.lock();
        state.insert(file);
        if state.pin(&file.key) {
            lease.keys.push(file.key);
        }
    }

    /// Takes copies of what an Action left into the cache: the next Action that has them as input, on the way of a recipe
    /// from configure to install, finds them here. Blocks.
    pub fn adopt(&self, copies: Vec<(FileKey, OutputCopy)>) {
        copies.into_par_iter().for_each(|(key, copy)| {
            if self.state.lock().contains(&key) {
                return;
            }
            match copy.publish(&self.scratch, &key) {
                Ok(file) => self.state.lock().insert(file),
                // Nothing is lost: it is in the store.
                Err(error) => tracing::debug!(%error, "an output is not kept in the file cache"),
            }
        });
        self.evict();
    }

    /// Whether the cache holds more than it may.
    pub fn is_over_limit(&self) -> bool {
        self.state.lock().total_bytes() > self.limit_bytes
    }

    /// Removes the files that were not used for longest, until the limit is kept with a tenth to spare or only
    /// files in use are left. Blocks for as long as the unlinking takes.
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    pub fn evict(&self) {
        let victims = {
            let mut state = self.state.lock();
            let victims = state.choose_victims(self.limit_bytes);
            gauge!("bitzel_worker_cache_bytes").set(state.total_bytes() as f64);
            victims
        };
        for key in victims {
            let path = self.path(&key);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file from the cache");
            }
        }
    }
}

/// Counts input files by where they came from.
fn count(outcome: &'static str, files: usize) {
    counter!("bitzel_worker_input_files_total", "outcome" => outcome).increment(files as u64);
}

#[cfg(test)]
mod tests;
