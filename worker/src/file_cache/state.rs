//! What the cache knows of its files.

use std::collections::{HashMap, HashSet};

use bitzel_proto::Digest;

use super::key::FileKey;

/// A file of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CachedFile {
    pub key: FileKey,
    /// What it takes: its size, or the blocks that it has on disk if those are more.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    entries: HashMap<FileKey, Entry>,
    /// Some key under which a digest's content is there.
    by_digest: HashMap<Digest, FileKey>,
    /// Digests that somebody is fetching or verifying now.
    claimed: HashSet<Digest>,
    total_bytes: u64,
    /// Counts uses; stands for time.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    pins: u32,
    last_used: u64,
    bytes: u64,
    /// Whether its content was hashed since this worker started.
    verified: bool,
}

impl State {
    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(super) fn contains(&self, key: &FileKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Claims a digest; `false` if somebody else has it.
    pub(super) fn claim(&mut self, digest: Digest) -> bool {
        self.claimed.insert(digest)
    }

    pub(super) fn give_back(&mut self, digest: Digest) {
        self.claimed.remove(&digest);
    }

    /// Registers a file that is in its place and has the content that its key says.
    pub(super) fn insert(&mut self, file: CachedFile) {
        self.insert_entry(file, true);
    }

    /// Registers a file that an earlier worker left.
    pub(super) fn insert_found(&mut self, file: CachedFile) {
        self.insert_entry(file, false);
    }

    fn insert_entry(&mut self, CachedFile { key, bytes }: CachedFile, verified: bool) {
        self.clock += 1;
        // Two Actions may leave the same file; who holds the first, holds the second.
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
        self.by_digest.insert(key.digest, key);
    }

    /// Holds a verified file; `false` if there is none.
    pub(super) fn pin(&mut self, key: &FileKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.verified) && self.pin_unverified(key)
    }

    /// Holds a file, verified or not; `false` if there is none.
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

    /// Holds some file that should have this content, verified or not.
    pub(super) fn pin_content(&mut self, digest: Digest) -> Option<FileKey> {
        let key = *self.by_digest.get(&digest)?;
        self.pin_unverified(&key).then_some(key)
    }

    /// Notes that the content of a file was found to be right.
    pub(super) fn confirm(&mut self, key: &FileKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.verified = true;
        }
    }

    /// Forgets a file, whoever holds it.
    pub(super) fn forget(&mut self, key: &FileKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.total_bytes -= entry.bytes;
        }
        if self.by_digest.get(&key.digest) == Some(key) {
            self.by_digest.remove(&key.digest);
        }
    }

    /// Takes the victims out of the index, so that nobody can pin them any more.
    pub(super) fn choose_victims(&mut self, limit_bytes: u64) -> Vec<FileKey> {
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
            self.forget(&key);
            victims.push(key);
        }
        victims
    }
}
