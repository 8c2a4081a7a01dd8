//! The worker's local cache of input files.
//!
//! A file of an input root is a hardlink to a file of this cache. What can be shared that way is what has the same
//! content *and* the same inode attributes, so the mode is part of a file's key, and where a node gives a
//! modification time, that is part too. Such nodes describe a tree that is restored exactly, so each of them gets an
//! inode of its own (the key holds the path), unless hardlinks were recorded: programs such as `tar` and `cp`
//! would otherwise take two equal files for hardlinks of each other.
//!
//! Nothing writes to a file after its atomic rename into place: commands only see the cache through the lower side
//! of an overlay.

use std::collections::{HashMap, HashSet};
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

pub use key::FileKey;

/// The cache. Cheap to share; all methods can be called at the same time.
#[derive(Debug)]
pub struct FileCache {
    scratch: Arc<Scratch>,
    limit_bytes: u64,
    state: Mutex<State>,
    fetched: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<FileKey, Entry>,
    /// Some key under which a digest's content is there.
    by_digest: HashMap<Digest, FileKey>,
    /// Digests that somebody is fetching now.
    claimed: HashSet<Digest>,
    total_bytes: u64,
    /// Counts uses; stands for time.
    clock: u64,
}

#[derive(Debug, Default)]
struct Entry {
    pins: u32,
    last_used: u64,
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
            if let Some(entry) = state.entries.get_mut(key) {
                entry.pins = entry.pins.saturating_sub(1);
            }
        }
    }
}

/// What one claim under the lock found.
struct Claim {
    /// Keys that are there now and that the lease holds from now on.
    present: Vec<FileKey>,
    /// Keys to fetch, by digest; nobody else fetches these digests before the claim is given back.
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
            state.claimed.remove(digest);
        }
        drop(state);
        self.cache.fetched.notify_waiters();
    }
}

impl FileCache {
    /// Opens the cache in `scratch` and reads what is there. Blocks.
    pub fn open(scratch: Arc<Scratch>, limit_bytes: u64) -> Result<Arc<Self>, Error> {
        let mut state = State::default();
        for key in disk::scan(&scratch)? {
            state.insert(key);
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
            count("fetched", claim.own.values().map(Vec::len).sum());
            lease.keys.extend(claim.present);
            if !claim.own.is_empty() {
                let guard = ClaimGuard {
                    cache: self,
                    digests: claim.own.keys().copied().collect(),
                };
                download::download(self, store, &claim.own, &mut lease).await?;
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
            } else if claim.own.contains_key(&key.digest) || state.claimed.insert(key.digest) {
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
    fn published(&self, key: FileKey, lease: &mut FileLease) {
        let mut state = self.state.lock();
        state.insert(key);
        if state.pin(&key) {
            lease.keys.push(key);
        }
    }

    /// Moves files that an Action left into the cache: the next Action that has them as input, on the way of a recipe
    /// from configure to install, finds them here. They are gone from where they were. Blocks.
    pub fn adopt(&self, files: &[(FileKey, PathBuf)]) {
        files.par_iter().for_each(|(key, path)| {
            if self.state.lock().entries.contains_key(key) {
                return;
            }
            match disk::adopt(&self.scratch, path, key) {
                Ok(true) => self.state.lock().insert(*key),
                Ok(false) => {}
                // Nothing is lost: it is in the store.
                Err(error) => tracing::debug!(%error, "an output is not kept in the file cache"),
            }
        });
        self.evict();
    }

    /// Whether the cache holds more than it may.
    pub fn is_over_limit(&self) -> bool {
        self.state.lock().total_bytes > self.limit_bytes
    }

    /// Removes the files that were not used for longest, until the limit is kept with a tenth to spare or only
    /// files in use are left. Blocks for as long as the unlinking takes.
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    pub fn evict(&self) {
        let victims = {
            let mut state = self.state.lock();
            let victims = state.choose_victims(self.limit_bytes);
            gauge!("bitzel_worker_cache_bytes").set(state.total_bytes as f64);
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

impl State {
    fn insert(&mut self, key: FileKey) {
        self.clock += 1;
        let last_used = self.clock;
        // Two Actions may leave the same file; who holds the first, holds the second.
        self.entries.entry(key).or_insert_with(|| {
            self.total_bytes += key.digest.size_bytes();
            Entry { pins: 0, last_used }
        });
        self.by_digest.insert(key.digest, key);
    }

    fn pin(&mut self, key: &FileKey) -> bool {
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.pins += 1;
        entry.last_used = self.clock;
        true
    }

    /// Takes the victims out of the index, so that nobody can pin them any more.
    fn choose_victims(&mut self, limit_bytes: u64) -> Vec<FileKey> {
        if self.total_bytes <= limit_bytes {
            return vec![];
        }
        let target = limit_bytes - limit_bytes / 10;
        let unpinned = self.entries.iter().filter(|(_, entry)| entry.pins == 0);
        let mut candidates: Vec<_> = unpinned.map(|(key, entry)| (entry.last_used, *key)).collect();
        candidates.sort_unstable();
        let mut victims = vec![];
        for (_, key) in candidates {
            if self.total_bytes <= target {
                break;
            }
            self.entries.remove(&key);
            if self.by_digest.get(&key.digest) == Some(&key) {
                self.by_digest.remove(&key.digest);
            }
            self.total_bytes -= key.digest.size_bytes();
            victims.push(key);
        }
        victims
    }
}

#[cfg(test)]
mod tests;
