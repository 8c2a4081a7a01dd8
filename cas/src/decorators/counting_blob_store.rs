//! Count of the bytes that pass through a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bitzel_proto::Digest;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Counts the bytes that are read from and written to the inner store.
///
/// Put it around a remote store to report the network traffic of a build.
pub struct CountingBlobStore {
    inner: Arc<dyn BlobStore>,
    read: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

impl CountingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            read: Arc::default(),
            written: Arc::default(),
        }
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of blobs written so far.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// Counts chunks as they pass.
fn counted(stream: BlobStream, counter: Arc<AtomicU64>) -> BlobStream {
    Box::pin(stream.inspect_ok(move |chunk| {
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    }))
}

#[async_trait]
impl BlobStore for CountingBlobStore {
    forward_blob_store!(inner: find_missing, lease, resolve);

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        Ok(counted(
            self.inner.read(digest, range).await?,
            Arc::clone(&self.read),
        ))
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.inner
            .write(digest, counted(blob, Arc::clone(&self.written)))
            .await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let blobs = self.inner.read_batch(digests).await;
        let bytes: usize = blobs.iter().flatten().map(Bytes::len).sum();
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        blobs
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let sizes: Vec<u64> = blobs.iter().map(|(_, blob)| blob.len() as u64).collect();
        let results = self.inner.write_batch(blobs).await;
        let bytes: u64 = sizes
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok())
            .map(|(size, _)| size)
            .sum();
        self.written.fetch_add(bytes, Ordering::Relaxed);
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::{one_chunk, read_whole};
    use crate::media::memory_blob_store::MemoryBlobStore;

    #[tokio::test]
    async fn single_and_batched_transfers_count() {
        let store = CountingBlobStore::new(Arc::new(MemoryBlobStore::default()));
        let digest = bitzel_proto::DigestFunction::Sha256.digest(b"hello");
        store
            .write(digest, one_chunk(Bytes::from_static(b"hello")))
            .await
            .unwrap();
        assert!(
            store
                .write_batch(vec![(digest, Bytes::from_static(b"wrong"))])
                .await[0]
                .is_err()
        );
        read_whole(&store, digest).await.unwrap();
        assert!(store.read_batch(&[digest]).await[0].is_ok());
        assert_eq!((store.bytes_written(), store.bytes_read()), (5, 10));
    }
}
