//! Look-up by hash in a store that needs the whole digest.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Digests that are remembered; the least recently used are forgotten first. About 100 bytes of memory each.
const MAX_REMEMBERED_DIGESTS: NonZeroUsize = NonZeroUsize::new(1 << 18).unwrap();

/// Remembers the digests of blobs that the inner store was seen to have, for [`BlobStore::resolve`].
///
/// For a store behind gRPC, where a blob cannot be asked for without its size. Clients of the HTTP cache do not send the
/// size, but before they get a blob they get the result that names it, and the check that its blobs are present brings
/// their digests through here. So a blob is found by hash only if its digest came through since this process started;
/// any other one is reported as absent.
pub struct DigestRememberingBlobStore {
    inner: Arc<dyn BlobStore>,
    sizes: Mutex<LruCache<(DigestFunction, [u8; 32]), u64>>,
}

impl DigestRememberingBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self {
            inner,
            sizes: Mutex::new(LruCache::new(MAX_REMEMBERED_DIGESTS)),
        }
    }

    fn remember(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut sizes = self.sizes.lock();
        for digest in digests {
            sizes.put((digest.function(), *digest.hash()), digest.size_bytes());
        }
    }
}

#[async_trait]
impl BlobStore for DigestRememberingBlobStore {
    forward_blob_store!(inner: lease);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let missing = self.inner.find_missing(digests).await?;
        let absent: HashSet<&Digest> = missing.iter().collect();
        self.remember(digests.iter().filter(|digest| !absent.contains(digest)).copied());
        Ok(missing)
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let stream = self.inner.read(digest, range).await?;
        self.remember([digest]);
        Ok(stream)
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.inner.write(digest, blob).await?;
        self.remember([digest]);
        Ok(())
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        if let Some(digest) = self.inner.resolve(function, hash).await? {
            return Ok(Some(digest));
        }
        let size = self.sizes.lock().get(&(function, hash)).copied();
        Ok(size.map(|size| Digest::new(function, hash, size)))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let blobs = self.inner.read_batch(digests).await;
        let read = digests.iter().zip(&blobs).filter(|(_, blob)| blob.is_ok());
        self.remember(read.map(|(digest, _)| *digest));
        blobs
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let results = self.inner.write_batch(blobs).await;
        let written = digests
            .into_iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok());
        self.remember(written.map(|(digest, _)| digest));
        results
    }
}
