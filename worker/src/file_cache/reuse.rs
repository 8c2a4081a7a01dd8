//! Reuse of cached content: files that an earlier worker left, and copies for other modes or times. Both are hashed
//! first.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use bitzel_proto::Digest;
use rayon::prelude::*;

use super::disk;
use super::fetch::Fetch;
use super::index::CachedFile;
use super::key::FileKey;
use super::{FileCache, FileLease};
use bitzel_cas::blocking::run_blocking;

use crate::error::Error;

/// The cached files of one digest.
struct Candidate {
    digest: Digest,
    /// Wanted files that are present and not verified.
    unverified: Vec<FileKey>,
    /// Wanted files that are absent.
    absent: Vec<FileKey>,
    /// A present file that should have the content.
    source: FileKey,
}

/// Outcome for one digest.
#[derive(Default)]
struct Reused {
    verified: Vec<FileKey>,
    copied: Vec<CachedFile>,
    /// Files with other content than that of their key, or that are lost.
    corrupt: Vec<FileKey>,
    /// Wanted files that have to be downloaded.
    remaining: Vec<FileKey>,
}

/// Brings those of `wanted` that need no download into the cache, held by `lease`. Returns the others.
pub(super) async fn reuse(
    cache: &FileCache,
    fetch: &Fetch,
    mut wanted: HashMap<Digest, Vec<FileKey>>,
    lease: &mut FileLease,
) -> Result<HashMap<Digest, Vec<FileKey>>, Error> {
    let candidates = cache.candidates(&mut wanted, lease);
    if !candidates.is_empty() {
        let (fetch, purpose) = (fetch.clone(), fetch.purpose);
        let reused = run_blocking(move || {
            let reused = candidates
                .into_par_iter()
                .map(|candidate| candidate.reuse(&fetch));
            reused.collect::<Result<Vec<Reused>, Error>>()
        })
        .await?;
        for reused in reused {
            purpose.count_cached(reused.verified.len());
            purpose.count_fetched(reused.copied.len());
            cache.apply(&reused, lease);
            if let Some(key) = reused.remaining.first() {
                wanted.insert(key.digest, reused.remaining);
            }
        }
    }
    Ok(wanted)
}

impl FileCache {
    /// Removes digests with cached files from `wanted` and pins those files.
    fn candidates(
        &self,
        wanted: &mut HashMap<Digest, Vec<FileKey>>,
        lease: &mut FileLease,
    ) -> Vec<Candidate> {
        let mut index = self.index.lock();
        let mut candidates = vec![];
        wanted.retain(|digest, keys| {
            let Some(source) = index.pin_content(*digest) else {
                return true;
            };
            lease.keys.push(source);
            let (unverified, absent) = keys.iter().copied().partition(|key| index.pin_unverified(key));
            let unverified: Vec<FileKey> = unverified;
            lease.keys.extend(&unverified);
            candidates.push(Candidate {
                digest: *digest,
                unverified,
                absent,
                source,
            });
            false
        });
        candidates
    }

    fn apply(&self, reused: &Reused, lease: &mut FileLease) {
        for key in &reused.corrupt {
            let path = self.path(key);
            tracing::warn!(path = %path.display(), "a cached file is corrupt and is removed");
            lease.keys.retain(|held| held != key);
            let mut index = self.index.lock();
            index.remove(key);
            // Under the lock, so that no new file is put in place meanwhile. A good copy may be there already.
            if !reused.copied.iter().any(|file| file.key == *key)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file from the cache");
            }
        }
        for file in &reused.copied {
            self.register(*file, lease);
        }
        let mut index = self.index.lock();
        for key in &reused.verified {
            index.mark_verified(key);
        }
    }
}

impl Candidate {
    /// Hashes the present files and copies one of them for the absent ones.
    fn reuse(self, fetch: &Fetch) -> Result<Reused, Error> {
        let path =
            |key: &FileKey| -> PathBuf { fetch.directories().cache().join(FileCache::relative_path(key)) };
        let mut reused = Reused {
            remaining: self.absent,
            ..Reused::default()
        };
        for key in self.unverified {
            if disk::is_intact(&path(&key), self.digest)? {
                reused.verified.push(key);
            } else {
                reused.corrupt.push(key);
                reused.remaining.push(key);
            }
        }
        let source = reused.verified.first().copied().unwrap_or(self.source);
        if reused.remaining.is_empty() || reused.corrupt.contains(&source) {
            return Ok(reused);
        }
        match disk::copy(fetch, &path(&source), self.digest, &reused.remaining) {
            Ok(copied) => {
                reused.copied = copied;
                reused.remaining.clear();
            }
            Err(Error::Store(bitzel_cas::Error::DigestMismatch { .. })) => reused.corrupt.push(source),
            Err(Error::Io { source: error, .. })
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
            {
                reused.corrupt.push(source);
            }
            Err(error) => return Err(error),
        }
        Ok(reused)
    }
}
