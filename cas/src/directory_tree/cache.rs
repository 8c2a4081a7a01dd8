//! Decoded Directories of earlier trees.

use std::fmt;
use std::sync::Arc;

use bitzel_proto::{Digest, reapi};
use lru::LruCache;
use parking_lot::Mutex;

/// A Directory in memory takes about three times its encoding: names, hashes in hex and vectors are allocated each.
const MEMORY_FACTOR: u64 = 3;

/// A shared cache of decoded, checked Directories, least recently used out first.
///
/// The trees of a build share most of their Directories; with this, a tree costs what is new in it.
pub struct DirectoryCache {
    limit: u64,
    state: Mutex<State>,
}

struct State {
    directories: LruCache<Digest, Arc<reapi::Directory>>,
    bytes: u64,
}

impl DirectoryCache {
    /// A cache of about `limit` bytes of memory. Zero caches nothing.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                directories: LruCache::unbounded(),
                bytes: 0,
            }),
        }
    }

    /// The Directory of `digest`.
    pub fn get(&self, digest: &Digest) -> Option<Arc<reapi::Directory>> {
        self.state.lock().directories.get(digest).cloned()
    }

    /// Remembers a Directory. The caller answers for it being valid and that of `digest`.
    pub fn insert(&self, digest: Digest, directory: Arc<reapi::Directory>) {
        let mut state = self.state.lock();
        if state.directories.put(digest, directory).is_none() {
            state.bytes += weight(&digest);
        }
        while state.bytes > self.limit {
            let Some((evicted, _)) = state.directories.pop_lru() else {
                break;
            };
            state.bytes -= weight(&evicted);
        }
    }
}

impl fmt::Debug for DirectoryCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        formatter
            .debug_struct("DirectoryCache")
            .field("limit", &self.limit)
            .field("directories", &state.directories.len())
            .field("bytes", &state.bytes)
            .finish()
    }
}

fn weight(digest: &Digest) -> u64 {
    const ENTRY: u64 = 256;
    digest.size_bytes() * MEMORY_FACTOR + ENTRY
}
