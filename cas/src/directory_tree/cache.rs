//! Cache of decoded Directories.

use std::fmt;
use std::sync::Arc;

use bitzel_proto::{Digest, reapi};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::weighted_cache::weighted_cache;

/// Memory of a decoded Directory relative to its encoding: names, hashes in hex and vectors are allocated each.
const MEMORY_FACTOR: u64 = 3;
/// Memory of an entry besides its Directory, in bytes.
const ENTRY_SIZE: u64 = 256;
/// Memory of an entry with a Directory of some twenty files, in bytes.
const TYPICAL_WEIGHT: u64 = 8 << 10;

/// Shared cache of decoded, validated Directories.
///
/// The trees of a build share most of their Directories, so only the new ones of a tree have to be fetched. Directories
/// that are used again stay longer than those that are used once.
///
/// Cheap to clone: clones and the views of tenants share the memory.
#[derive(Clone)]
pub struct DirectoryCache {
    directories: Arc<Cache<Key, Arc<reapi::Directory>, MemorySize>>,
    tenant: Tenant,
}

/// Hash of the name of a tenant; all zeros in a cache without tenants.
type Tenant = [u8; blake3::OUT_LEN];
type Key = (Tenant, Digest);

impl DirectoryCache {
    /// A cache of about `limit` bytes of memory. Zero caches nothing.
    pub fn new(limit: u64) -> Self {
        Self {
            directories: Arc::new(weighted_cache(limit, TYPICAL_WEIGHT, MemorySize)),
            tenant: Tenant::default(),
        }
    }

    /// View of a tenant, which finds its own Directories only. All views share the memory.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Self {
        Self {
            directories: Arc::clone(&self.directories),
            tenant: blake3::hash(tenant.as_bytes()).into(),
        }
    }

    /// Looks up the Directory of `digest`.
    pub fn get(&self, digest: &Digest) -> Option<Arc<reapi::Directory>> {
        self.directories.get(&(self.tenant, *digest))
    }

    /// Stores a Directory. The caller guarantees that it is valid and has this digest.
    pub fn insert(&self, digest: Digest, directory: Arc<reapi::Directory>) {
        self.directories.insert((self.tenant, digest), directory);
    }
}

impl fmt::Debug for DirectoryCache {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DirectoryCache")
            .field("limit", &self.directories.capacity())
            .field("directories", &self.directories.len())
            .field("bytes", &self.directories.weight())
            .finish_non_exhaustive()
    }
}

/// Weighs an entry by its memory in bytes.
#[derive(Clone, Copy)]
struct MemorySize;

impl Weighter<Key, Arc<reapi::Directory>> for MemorySize {
    fn weight(&self, (_, digest): &Key, _: &Arc<reapi::Directory>) -> u64 {
        digest.size_bytes() * MEMORY_FACTOR + ENTRY_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sha256;

    #[test]
    fn keeps_to_its_limit_and_prefers_what_is_used_again() {
        let cache = DirectoryCache::new(100 * ENTRY_SIZE);
        let directory = Arc::new(reapi::Directory::default());
        let used = Digest::new(bitzel_proto::DigestFunction::Sha256, [7; 32], 0);
        cache.insert(used, Arc::clone(&directory));
        for number in 0..1000_u32 {
            let digest = sha256(&number.to_le_bytes());
            let empty = Digest::new(digest.function(), *digest.hash(), 0);
            cache.insert(empty, Arc::clone(&directory));
            assert!(cache.get(&used).is_some(), "{number}");
        }
        assert!(cache.directories.weight() <= 100 * ENTRY_SIZE, "{cache:?}");
        assert!(cache.directories.len() > 50, "{cache:?}");
    }

    #[test]
    fn without_memory_nothing_is_stored() {
        let cache = DirectoryCache::new(0);
        cache.insert(sha256(b""), Arc::default());
        assert!(cache.get(&sha256(b"")).is_none());
    }
}
