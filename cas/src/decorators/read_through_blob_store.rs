//! Local blob store that reads through to a remote one.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;

use crate::blob_store::verification::is_whole;
use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::decorators::circuit_breaker::CircuitBreaker;
use crate::decorators::tiered_blob_store::TieredBlobStore;
use crate::error::Error;
use crate::forward_blob_store;

/// Local store that fetches the blobs that it lacks from a remote one.
///
/// For builds that run on this machine and share results through a cache that others fill too. Unlike in a
/// [`TieredBlobStore`], the local store is authoritative: writes go to it alone, and
/// [`crate::ReadThroughActionCache`] uploads to the remote the blobs that results name. A remote that is down or slow
/// makes blobs missing, but never fails a build.
///
/// So does a remote with wrong bytes, or one that lists blobs which it cannot deliver: a blob that it once failed to
/// deliver is missing until somebody writes it. Otherwise it would be found again by each look-up of its result, and
/// would not be uploaded by the Action that makes it anew.
pub struct ReadThroughBlobStore {
    local: Arc<dyn BlobStore>,
    /// Reads of the remote that fill `local` as they pass.
    filling: TieredBlobStore,
    remote: Arc<dyn BlobStore>,
    circuit_breaker: Arc<CircuitBreaker>,
    /// Blobs that the remote was asked for and did not deliver. As many as were read, since this store was opened.
    undelivered: Arc<Mutex<HashSet<Digest>>>,
}

impl ReadThroughBlobStore {
    /// Puts `local` in front of `remote`, which is not trusted: its blobs are verified before they are stored.
    pub fn new(
        local: Arc<dyn BlobStore>,
        remote: Arc<dyn BlobStore>,
        circuit_breaker: Arc<CircuitBreaker>,
    ) -> Self {
        Self {
            filling: TieredBlobStore::write_through(Arc::clone(&local), Arc::clone(&remote)),
            local,
            remote,
            circuit_breaker,
            undelivered: Arc::default(),
        }
    }

    /// True if the remote did not deliver the blob before.
    fn is_undelivered(&self, digest: &Digest) -> bool {
        self.undelivered.lock().contains(digest)
    }

    /// Reads a whole blob from the remote. Each failure, also one in the middle, makes the blob missing.
    async fn read_remote(&self, digest: Digest) -> Result<BlobStream, Error> {
        if self.is_undelivered(&digest) {
            return Err(Error::NotFound(digest));
        }
        let call = self.filling.read(digest, BlobRange::default());
        let Some(stream) = self.circuit_breaker.call(call).await else {
            self.undelivered.lock().insert(digest);
            return Err(Error::NotFound(digest));
        };
        let (undelivered, circuit_breaker) =
            (Arc::clone(&self.undelivered), Arc::clone(&self.circuit_breaker));
        let stream = stream.map(move |chunk| {
            chunk.map_err(|error| {
                undelivered.lock().insert(digest);
                record_failure(&circuit_breaker, digest, &error);
                Error::NotFound(digest)
            })
        });
        Ok(stream.boxed())
    }
}

/// Tells the circuit breaker about a failure, unless it concerns this blob alone.
fn record_failure(circuit_breaker: &CircuitBreaker, digest: Digest, error: &Error) {
    match error {
        Error::NotFound(_) => {}
        Error::DigestMismatch { .. } => {
            tracing::warn!(%digest, %error, "the remote cache has wrong bytes for a blob; they are not used");
        }
        error => circuit_breaker.record_failure(error),
    }
}

#[async_trait]
impl BlobStore for ReadThroughBlobStore {
    forward_blob_store!(local: write, lease, write_batch);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let missing = self.local.find_missing(digests).await?;
        if missing.is_empty() {
            return Ok(missing);
        }
        let (mut absent, unknown): (Vec<Digest>, Vec<Digest>) =
            missing.iter().partition(|digest| self.is_undelivered(digest));
        if unknown.is_empty() {
            return Ok(missing);
        }
        let call = self.remote.find_missing(&unknown);
        match self.circuit_breaker.call(call).await {
            Some(in_neither) => {
                absent.extend(in_neither);
                Ok(absent)
            }
            None => Ok(missing),
        }
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        match self.local.read(digest, range).await {
            Err(Error::NotFound(_)) => {}
            answer => return answer,
        }
        let mut stream = self.read_remote(digest).await?;
        if is_whole(digest, range) {
            return Ok(stream);
        }
        // A part cannot be verified, so it is read from the local store once the whole blob is there.
        while let Some(chunk) = stream.next().await {
            chunk?;
        }
        self.local.read(digest, range).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let mut blobs = self.local.read_batch(digests).await;
        let absent: Vec<usize> = (0..blobs.len())
            .filter(|&index| matches!(blobs[index], Err(Error::NotFound(_))))
            .filter(|&index| !self.is_undelivered(&digests[index]))
            .collect();
        if absent.is_empty() {
            return blobs;
        }
        let wanted: Vec<Digest> = absent.iter().map(|&index| digests[index]).collect();
        let call = async { Ok(self.filling.read_batch(&wanted).await) };
        let Some(read) = self.circuit_breaker.call(call).await else {
            self.undelivered.lock().extend(wanted);
            return blobs;
        };
        for (index, blob) in absent.into_iter().zip(read) {
            let digest = digests[index];
            blobs[index] = blob.map_err(|error| {
                self.undelivered.lock().insert(digest);
                record_failure(&self.circuit_breaker, digest, &error);
                Error::NotFound(digest)
            });
        }
        blobs
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        if let Some(digest) = self.local.resolve(function, hash).await? {
            return Ok(Some(digest));
        }
        let call = self.remote.resolve(function, hash);
        Ok(self.circuit_breaker.call(call).await.flatten())
    }
}

#[cfg(test)]
mod tests;
