//! Which files are known not to have changed since they were last hashed.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bitzel_proto::{Digest, DigestFunction};
use serde::{Deserialize, Serialize};

/// Times are only as fine as the kernel's clock tick. A file that changed this shortly before it was hashed might
/// have changed again within the same tick, so its entry is not trusted (git calls this "racily clean").
const TRUSTED_AGE_NANOSECONDS: i64 = 100_000_000;

/// Remembers the digest of files by what `stat` says about them, so that an unchanged layer costs one `stat` a
/// file. Saved as a whole; a lost or damaged cache only costs time.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct StatCache {
    entries: HashMap<String, Entry>,
    #[serde(skip)]
    seen: HashMap<String, Entry>,
    #[serde(skip)]
    changed: bool,
}

/// What identifies a version of a file, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
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

    /// Writes what was seen since it was loaded, which drops files that are gone.
    pub(crate) fn save(self, path: &Path) -> io::Result<()> {
        if !self.changed && self.seen.len() == self.entries.len() {
            return Ok(());
        }
        let saved = Self {
            entries: self.seen,
            ..Self::default()
        };
        let temporary = path.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(&saved)?)?;
        fs::rename(temporary, path)
    }

    /// The digest of the regular file at `path`.
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
        let hashed_at = now();
        let digest = hash_file(path, function)?;
        self.changed = true;
        let entry = Entry {
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

fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// The digest of a file's contents.
pub(crate) fn hash_file(path: &Path, function: DigestFunction) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hasher = function.hasher();
    let mut buffer = vec![0; 64 * 1024];
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
