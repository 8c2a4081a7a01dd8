//! A decorator that lets only right bytes through.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction, Hasher};
use bytes::Bytes;
use futures::StreamExt;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::error::Error;

/// Checks hash and size of everything that is written to, and of whole blobs that are read from, another store.
///
/// For stores that do not check by themselves. The check runs while the bytes stream past: a wrong blob ends with an
/// error instead of its last bytes, and never has more bytes than its digest says. So a reader that counts and stops
/// at the announced size never holds a wrong blob, and a cache above never gets to store one.
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
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.inner.find_missing(digests).await
    }

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

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        self.inner.lease(digests).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        self.inner.resolve(function, hash).await
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

/// Whether `range` asks for all of the blob, so that its digest can be checked.
pub(crate) fn is_whole(digest: Digest, range: BlobRange) -> bool {
    range.offset == 0 && range.limit.is_none_or(|limit| limit >= digest.size_bytes())
}

/// Checks a blob in memory.
pub fn verify(digest: Digest, blob: Bytes) -> Result<Bytes, Error> {
    let mut hasher = digest.function().hasher();
    hasher.update(&blob);
    check(digest, hasher)?;
    Ok(blob)
}

/// Passes a stream on and ends it with [`Error::DigestMismatch`] when it was not all of `digest`: the bytes that would
/// make it whole come only after the check.
pub fn verified(digest: Digest, stream: BlobStream) -> BlobStream {
    let hasher = digest.function().hasher();
    futures::stream::try_unfold((stream, hasher), move |(mut stream, mut hasher)| async move {
        let Some(chunk) = stream.next().await.transpose()? else {
            check(digest, hasher)?;
            return Ok(None);
        };
        hasher.update(&chunk);
        if hasher.size_bytes() >= digest.size_bytes() && !chunk.is_empty() {
            check(digest, hasher.clone())?;
        }
        Ok(Some((chunk, (stream, hasher))))
    })
    .boxed()
}

fn check(expected: Digest, hasher: Hasher) -> Result<(), Error> {
    let actual = hasher.finish();
    if actual == expected {
        Ok(())
    } else {
        Err(Error::DigestMismatch { expected, actual })
    }
}

#[cfg(test)]
mod tests;
