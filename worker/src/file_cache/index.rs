//! Index of the cached files.

use std::collections::{HashMap, HashSet};

use bitzel_proto::Digest;

use super::key::FileKey;

/// A file of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CachedFile {
    pub key: FileKey,
    /// Space that it takes: its size, or its blocks on disk if those are more.
    pub bytes: u64,
}

/// Uses, holders and sizes of all cached files.
#[derive(Debug, Default)]
pub(super) struct FileIndex {
    entries: HashMap<FileKey, Entry>,
    /// A key under which the content of a digest is present, in a file that the worker can read.
    by_digest: HashMap<Digest, FileKey>,
    /// Digests that are being fetched or verified.
    claimed: HashSet<Digest>,
    total_bytes: u64,
    /// Counter of uses, in place of a time.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    pins: u32,
    last_used: u64,
    bytes: u64,
    /// True if its content was hashed since this worker started.
    verified: bool,
}

impl FileIndex {
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) fn contains(&self, key: &FileKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Claims a digest. False if it is claimed already.
    pub(super) fn claim(&mut self, digest: Digest) -> bool {
        self.claimed.insert(digest)
    }

    pub(super) fn release_claim(&mut self, digest: Digest) {
        self.claimed.remove(&digest);
    }

    /// Registers a file that is in place and has the content of its key.
    pub(super) fn insert(&mut self, file: CachedFile) {
        self.insert_entry(file, true);
    }

    /// Registers a file that an earlier worker left.
    pub(super) fn insert_unverified(&mut self, file: CachedFile) {
        self.insert_entry(file, false);
    }

    fn insert_entry(&mut self, CachedFile { key, bytes }: CachedFile, verified: bool) {
        self.clock += 1;
        // Two Actions may leave the same file. Holders of the first hold the second, too.
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.total_bytes += bytes;
            Entry {
                pins: 0,
                last_used: self.clock,
                bytes,
                verified,
            }
        });
        entry.verified |= verified;
        if key.is_readable() {
            self.by_digest.insert(key.digest, key);
        }
    }

    /// Pins a verified file. False if there is none.
    pub(super) fn pin(&mut self, key: &FileKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.verified) && self.pin_unverified(key)
    }

    /// Pins a file, verified or not. False if there is none.
    pub(super) fn pin_unverified(&mut self, key: &FileKey) -> bool {
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        entry.pins += 1;
        entry.last_used = self.clock;
        true
    }

    pub(super) fn unpin(&mut self, key: &FileKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Pins a file that should have this content, verified or not.
    pub(super) fn pin_content(&mut self, digest: Digest) -> Option<FileKey> {
        let key = *self.by_digest.get(&digest)?;
        self.pin_unverified(&key).then_some(key)
    }

    /// Marks a file as verified.
    pub(super) fn mark_verified(&mut self, key: &FileKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.verified = true;
        }
    }

    /// Removes a file from the index, even if it is pinned.
    pub(super) fn remove(&mut self, key: &FileKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.total_bytes -= entry.bytes;
        }
        if self.by_digest.get(&key.digest) == Some(key) {
            self.by_digest.remove(&key.digest);
        }
    }

    /// Removes the files to evict from the index, so that they cannot be pinned any more, and returns them: those that
    /// were not used for longest, until a tenth of the limit is free or only pinned files are left.
    pub(super) fn take_victims(&mut self, limit_bytes: u64) -> Vec<FileKey> {
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
            self.remove(&key);
            victims.push(key);
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::DigestFunction;

    use super::*;

    #[test]
    fn f22_an_unreadable_file_is_no_source_of_others() {
        let file = |mode| CachedFile {
            key: FileKey {
                digest: DigestFunction::Sha256.digest(b"tool"),
                mode,
                identity: None,
            },
            bytes: 4,
        };
        let mut index = FileIndex::default();
        index.insert(file(0o044));
        assert!(index.pin(&file(0o044).key));
        assert_eq!(index.pin_content(file(0).key.digest), None);
        index.insert(file(0o444));
        index.insert(file(0o111));
        assert_eq!(index.pin_content(file(0).key.digest), Some(file(0o444).key));
    }
}
