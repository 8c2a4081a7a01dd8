//! Remembers for a while what is in a store that is slow to ask.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::error::Error;

/// Bounds of an [`ExistenceCachingBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExistenceCachingOptions {
    /// Digests to remember; beyond, the least recently used are forgotten. About 100 bytes of memory each.
    pub max_entries: NonZeroUsize,
    /// How long one answer of the store behind is good for.
    pub max_age: Duration,
}

/// Answers `find_missing` for blobs that the store behind has lately said to hold, without asking it again.
///
/// This cache can lie, for `max_age` at most and in one direction: a blob that the store behind lost after it was
/// last asked is still called present. Choose `max_age` well below the time for which the store behind keeps what
/// it was asked for. What the store behind called missing is never remembered, and a read that finds a blob missing
/// ends the lie. An answer's age counts from the store's own word and not from when it was last repeated; so a blob
/// that clients keep asking for is asked for behind, and its lifetime there extended, at least once in `max_age`.
pub struct ExistenceCachingBlobStore {
    inner: Arc<dyn BlobStore>,
    known: Mutex<Known>,
}

impl ExistenceCachingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>, options: ExistenceCachingOptions) -> Self {
        Self {
            inner,
            known: Mutex::new(Known {
                since: LruCache::new(options.max_entries),
                max_age: options.max_age,
            }),
        }
    }

    fn learn(&self, digest: Digest, result: Result<(), &Error>) {
        match result {
            Ok(()) => self.known.lock().confirm(digest, Instant::now()),
            Err(Error::NotFound(_)) => self.known.lock().forget(digest),
            Err(_) => {}
        }
    }
}

/// When the store behind last said that it has a blob. No I/O, no clock.
struct Known {
    since: LruCache<Digest, Instant>,
    max_age: Duration,
}

impl Known {
    fn is_present(&mut self, digest: Digest, now: Instant) -> bool {
        let Some(since) = self.since.get(&digest) else {
            return false;
        };
        let fresh = now.duration_since(*since) < self.max_age;
        if !fresh {
            self.since.pop(&digest);
        }
        fresh
    }

    fn confirm(&mut self, digest: Digest, now: Instant) {
        self.since.put(digest, now);
    }

    fn forget(&mut self, digest: Digest) {
        self.since.pop(&digest);
    }
}

#[async_trait]
impl BlobStore for ExistenceCachingBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        // The age counts from before the question: the answer may have been true at its beginning only.
        let now = Instant::now();
        let unknown: Vec<Digest> = {
            let mut known = self.known.lock();
            let ask = |digest: &&Digest| !digest.is_empty_blob() && !known.is_present(**digest, now);
            digests.iter().filter(ask).copied().collect()
        };
        if unknown.is_empty() {
            return Ok(vec![]);
        }
        let missing = self.inner.find_missing(&unknown).await?;
        let absent: HashSet<&Digest> = missing.iter().collect();
        let mut known = self.known.lock();
        for digest in unknown.iter().filter(|digest| !absent.contains(digest)) {
            known.confirm(*digest, now);
        }
        drop(known);
        Ok(missing)
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let stream = self.inner.read(digest, range).await;
        if let Err(error) = &stream {
            self.learn(digest, Err(error));
        }
        stream
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let written = self.inner.write(digest, blob).await;
        self.learn(digest, written.as_ref().copied());
        written
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        self.inner.lease(digests).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        self.inner.resolve(function, hash).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let blobs = self.inner.read_batch(digests).await;
        for (digest, blob) in digests.iter().zip(&blobs) {
            if let Err(error) = blob {
                self.learn(*digest, Err(error));
            }
        }
        blobs
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let results = self.inner.write_batch(blobs).await;
        for (digest, result) in digests.into_iter().zip(&results) {
            self.learn(digest, result.as_ref().copied());
        }
        results
    }
}

#[cfg(test)]
mod tests;
