//! Cache of file digests by the result of `stat`.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use bitzel_proto::{Digest, DigestFunction, timestamp};
use serde::{Deserialize, Serialize};

use super::atomic_file;

/// Minimum time between the last change of a file and its hashing for the entry to be trusted, in nanoseconds.
///
/// Times have the resolution of the kernel's clock tick. A file that changed shortly before it was hashed might have
/// changed again within the same tick (git calls this "racily clean").
const TRUSTED_AGE_NANOSECONDS: i64 = 100_000_000;

/// Buffer for hashing: `io::copy` would read 8 KiB at a time.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Digests of files by path, with the result of `stat` at the time of hashing: an unchanged layer costs one `stat` per
/// file. Saved as a whole; a lost or damaged cache only costs time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct StatCache {
    entries: HashMap<String, FileVersion>,
    #[serde(skip)]
    seen: HashMap<String, FileVersion>,
    #[serde(skip)]
    changed: bool,
}

/// Identity of one version of a file, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileVersion {
    inode: u64,
    size: u64,
    modified: i64,
    changed: i64,
    hashed_at: i64,
    hash: String,
}

impl StatCache {
    pub(crate) fn load(path: &Path) -> Self {
        fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Writes the entries that were used since the cache was loaded. Entries of removed files are dropped.
    pub(crate) fn save(self, path: &Path) -> io::Result<()> {
        if !self.changed && self.seen.len() == self.entries.len() {
            return Ok(());
        }
        let saved = Self {
            entries: self.seen,
            ..Self::default()
        };
        atomic_file::replace(path, &serde_json::to_vec(&saved)?)
    }

    /// Returns the digest of the regular file at `path`, which has this `metadata`.
    pub(crate) fn digest(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        function: DigestFunction,
    ) -> io::Result<Digest> {
        let key = path.to_string_lossy().into_owned();
        let modified = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        let changed = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
        if let Some(entry) = self.entries.get(&key) {
            let same = entry.inode == metadata.ino()
                && entry.size == metadata.len()
                && entry.modified == modified
                && entry.changed == changed
                && changed.max(modified) + TRUSTED_AGE_NANOSECONDS < entry.hashed_at;
            let size = i64::try_from(entry.size).unwrap_or(i64::MAX);
            if same && let Ok(digest) = Digest::from_parts(function, &entry.hash, size) {
                self.seen.insert(key, entry.clone());
                return Ok(digest);
            }
        }
        let hashed_at = timestamp::unix_nanos(SystemTime::now());
        let digest = hash_file(path, function)?;
        self.changed = true;
        let entry = FileVersion {
            inode: metadata.ino(),
            size: digest.size_bytes(),
            modified,
            changed,
            hashed_at,
            hash: digest.hash_hex(),
        };
        self.seen.insert(key, entry);
        Ok(digest)
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Hashes a file.
pub(crate) fn hash_file(path: &Path, function: DigestFunction) -> io::Result<Digest> {
    hash_open_file(fs::File::open(path)?, function)
}

/// Hashes the rest of an open file.
pub(crate) fn hash_open_file(mut file: fs::File, function: DigestFunction) -> io::Result<Digest> {
    let mut hasher = function.hasher();
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests;
