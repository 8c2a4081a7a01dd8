//! Verification of blobs on their way to and from another store.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::Digest;
use bytes::Bytes;

use crate::blob_store::verification::{is_whole, verified, verify};
use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Verifies hash and size of every blob that is written to another store, and of every whole blob that is read from it.
///
/// For stores that do not verify by themselves. The check runs while the bytes stream past: a wrong blob ends with an
/// error instead of its last bytes, and never has more bytes than its digest says. So a reader that counts and stops
/// at the announced size never holds a wrong blob, and a cache above never stores one.
pub struct VerifyingBlobStore {
    inner: Arc<dyn BlobStore>,
}

impl VerifyingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl BlobStore for VerifyingBlobStore {
    forward_blob_store!(inner: find_missing, lease, resolve);

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let stream = self.inner.read(digest, range).await?;
        Ok(if is_whole(digest, range) {
            verified(digest, stream)
        } else {
            stream
        })
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.inner.write(digest, verified(digest, blob)).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let blobs = self.inner.read_batch(digests).await;
        let checked = digests.iter().zip(blobs);
        checked
            .map(|(digest, blob)| blob.and_then(|blob| verify(*digest, blob)))
            .collect()
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let mut right = Vec::with_capacity(blobs.len());
        let mut results: Vec<Option<Error>> = Vec::with_capacity(blobs.len());
        for (digest, blob) in blobs {
            results.push(match verify(digest, blob) {
                Ok(blob) => {
                    right.push((digest, blob));
                    None
                }
                Err(error) => Some(error),
            });
        }
        let mut written = self.inner.write_batch(right).await.into_iter();
        let answer = |wrong: Option<Error>| match wrong {
            Some(error) => Err(error),
            None => written.next().unwrap_or(Ok(())),
        };
        results.into_iter().map(answer).collect()
    }
}

#[cfg(test)]
mod tests;
