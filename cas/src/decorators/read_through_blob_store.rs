//! Local blob store that reads through to a remote one.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;

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
pub struct ReadThroughBlobStore {
    local: Arc<dyn BlobStore>,
    /// Reads of the remote that fill `local` as they pass.
    filling: TieredBlobStore,
    remote: Arc<dyn BlobStore>,
    circuit_breaker: Arc<CircuitBreaker>,
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
        }
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
        let call = self.remote.find_missing(&missing);
        Ok(self.circuit_breaker.call(call).await.unwrap_or(missing))
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        match self.local.read(digest, range).await {
            Err(Error::NotFound(_)) => {}
            answer => return answer,
        }
        let call = self.filling.read(digest, range);
        self.circuit_breaker
            .call(call)
            .await
            .ok_or(Error::NotFound(digest))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let mut blobs = self.local.read_batch(digests).await;
        let absent: Vec<usize> = (0..blobs.len())
            .filter(|&index| matches!(blobs[index], Err(Error::NotFound(_))))
            .collect();
        if absent.is_empty() {
            return blobs;
        }
        let wanted: Vec<Digest> = absent.iter().map(|&index| digests[index]).collect();
        let call = async { Ok(self.filling.read_batch(&wanted).await) };
        if let Some(read) = self.circuit_breaker.call(call).await {
            for (index, blob) in absent.into_iter().zip(read) {
                blobs[index] = match blob {
                    Err(error @ Error::NotFound(_)) => Err(error),
                    Err(error) => {
                        self.circuit_breaker.record_failure(&error);
                        Err(Error::NotFound(digests[index]))
                    }
                    blob => blob,
                };
            }
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
