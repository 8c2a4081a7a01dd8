//! Cache of the answers of `find_missing`, for a store that is slow to ask.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::Digest;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Bounds of an [`ExistenceCachingBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExistenceCachingOptions {
    /// Digests that are remembered; the least recently used are forgotten first. About 100 bytes of memory each.
    pub max_entries: NonZeroUsize,
    /// Time for which one answer of the inner store is used.
    pub max_age: Duration,
}

/// Answers `find_missing` for blobs that the inner store has lately reported as present, without asking it again.
///
/// An answer can be stale, for `max_age` at most and in one direction: a blob that the inner store lost after it was
/// last asked is still reported as present. Choose `max_age` well below the time for which the inner store keeps a blob
/// that it was asked for. An absent blob is never remembered, and a read that finds a blob absent removes it. The age of
/// an answer counts from the answer of the inner store and not from when it was last repeated; so a blob that clients
/// keep asking for is asked for in the inner store, and its lifetime there extended, at least once in `max_age`.
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

    fn record(&self, digest: Digest, result: Result<(), &Error>) {
        match result {
            Ok(()) => self.known.lock().confirm(digest, Instant::now()),
            Err(Error::NotFound(_)) => self.known.lock().forget(digest),
            Err(_) => {}
        }
    }
}

/// Times at which the inner store last reported a blob as present. No I/O, no clock: [`LruCache`] and an age, because
/// the caches that expire entries by themselves (moka) read a clock of their own, which tests cannot advance.
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
    forward_blob_store!(inner: lease, resolve);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        // The age counts from before the call: the answer may have been true only when the call began.
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
            self.record(digest, Err(error));
        }
        stream
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let written = self.inner.write(digest, blob).await;
        self.record(digest, written.as_ref().copied());
        written
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let blobs = self.inner.read_batch(digests).await;
        for (digest, blob) in digests.iter().zip(&blobs) {
            if let Err(error) = blob {
                self.record(*digest, Err(error));
            }
        }
        blobs
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let results = self.inner.write_batch(blobs).await;
        for (digest, result) in digests.into_iter().zip(&results) {
            self.record(digest, result.as_ref().copied());
        }
        results
    }
}

#[cfg(test)]
mod tests;
