//! Gets what is wanted out of the cache itself: files that an earlier worker left, and copies for other modes or times.
//! Both are hashed first.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bitzel_proto::Digest;
use rayon::prelude::*;

use super::disk;
use super::key::FileKey;
use super::state::CachedFile;
use super::{FileCache, FileLease, count};
use bitzel_cas::blocking::run_blocking;

use crate::error::Error;
use crate::scratch::Scratch;

/// What there is of one digest.
struct Candidate {
    digest: Digest,
    /// Wanted files that are there and were not verified.
    unverified: Vec<FileKey>,
    /// Wanted files that are not there.
    absent: Vec<FileKey>,
    /// Some file that should have the content.
    source: Option<FileKey>,
}

/// What has become of it.
#[derive(Default)]
struct Reused {
    confirmed: Vec<FileKey>,
    copied: Vec<CachedFile>,
    /// Files whose content is another one.
    wrong: Vec<FileKey>,
    /// Wanted files to download.
    left: Vec<FileKey>,
}

/// Brings those of `wanted` that need no download into the cache, held by `lease`, and gives the others.
pub(super) async fn reuse(
    cache: &FileCache,
    mut wanted: HashMap<Digest, Vec<FileKey>>,
    lease: &mut FileLease,
) -> Result<HashMap<Digest, Vec<FileKey>>, Error> {
    let candidates = cache.candidates(&mut wanted, lease);
    if !candidates.is_empty() {
        let scratch = Arc::clone(&cache.scratch);
        let reused = run_blocking(move || {
            let reused = candidates
                .into_par_iter()
                .map(|candidate| candidate.reuse(&scratch));
            reused.collect::<Result<Vec<Reused>, Error>>()
        })
        .await?;
        for reused in reused {
            count("cached", reused.confirmed.len());
            count("fetched", reused.copied.len());
            cache.apply(&reused, lease);
            if let Some(key) = reused.left.first() {
                wanted.insert(key.digest, reused.left);
            }
        }
    }
    Ok(wanted)
}

impl FileCache {
    /// Takes out of `wanted` what there are files of, and holds those files.
    fn candidates(
        &self,
        wanted: &mut HashMap<Digest, Vec<FileKey>>,
        lease: &mut FileLease,
    ) -> Vec<Candidate> {
        let mut state = self.state.lock();
        let mut candidates = vec![];
        wanted.retain(|digest, keys| {
            let Some(source) = state.pin_content(*digest) else {
                return true;
            };
            lease.keys.push(source);
            let (unverified, absent) = keys.iter().copied().partition(|key| state.pin_unverified(key));
            let unverified: Vec<FileKey> = unverified;
            lease.keys.extend(&unverified);
            candidates.push(Candidate {
                digest: *digest,
                unverified,
                absent,
                source: Some(source),
            });
            false
        });
        candidates
    }

    fn apply(&self, reused: &Reused, lease: &mut FileLease) {
        for key in &reused.wrong {
            let path = self.path(key);
            tracing::warn!(path = %path.display(), "a file of the cache has not the content that it should have");
            lease.keys.retain(|held| held != key);
            let mut state = self.state.lock();
            state.forget(key);
            // Under the lock, so that nobody has put a new one there meanwhile. A copy may be there already.
            if !reused.copied.iter().any(|file| file.key == *key)
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file from the cache");
            }
        }
        for file in &reused.copied {
            self.published(*file, lease);
        }
        let mut state = self.state.lock();
        for key in &reused.confirmed {
            state.confirm(key);
        }
    }
}

impl Candidate {
    /// Hashes and copies.
    fn reuse(self, scratch: &Scratch) -> Result<Reused, Error> {
        let path = |key: &FileKey| -> PathBuf { scratch.root().join(FileCache::relative_path(key)) };
        let mut reused = Reused {
            left: self.absent,
            ..Reused::default()
        };
        for key in self.unverified {
            if disk::is_intact(&path(&key), self.digest)? {
                reused.confirmed.push(key);
            } else {
                reused.wrong.push(key);
                reused.left.push(key);
            }
        }
        let source = reused.confirmed.first().copied().or(self.source);
        let Some(source) = source.filter(|source| !reused.left.is_empty() && !reused.wrong.contains(source))
        else {
            return Ok(reused);
        };
        match disk::copy(scratch, &path(&source), self.digest, &reused.left) {
            Ok(copied) => {
                reused.copied = copied;
                reused.left.clear();
            }
            Err(Error::Store(bitzel_cas::Error::DigestMismatch { .. })) => reused.wrong.push(source),
            Err(error) => return Err(error),
        }
        Ok(reused)
    }
}
