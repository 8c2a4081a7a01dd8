//! A view of a store through which nothing is written.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::error::Error;

/// What becomes of a write to something read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writes {
    /// It fails with [`Error::ReadOnly`].
    #[default]
    Refuse,
    /// It succeeds and does nothing. For a cache that others fill, below a client that cannot be told not to
    /// write. This breaks the promise of [`BlobStore::write`]: a blob that was "written" is still missing
    /// afterwards, so nothing that relies on its own uploads, like remote execution, may stand above it.
    Ignore,
}

/// Lets reads through to another store, and no write.
pub struct ReadOnlyBlobStore {
    inner: Arc<dyn BlobStore>,
    writes: Writes,
}

impl ReadOnlyBlobStore {
    /// A view of `inner`.
    pub fn new(inner: Arc<dyn BlobStore>, writes: Writes) -> Self {
        Self { inner, writes }
    }
}

impl Writes {
    /// The answer to a write to `what`.
    pub(crate) fn answer(self, what: &'static str) -> Result<(), Error> {
        match self {
            Self::Refuse => Err(Error::ReadOnly(what)),
            Self::Ignore => Ok(()),
        }
    }
}

const WHAT: &str = "this store";

#[async_trait]
impl BlobStore for ReadOnlyBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.inner.find_missing(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.inner.read(digest, range).await
    }

    async fn write(&self, _: Digest, _: BlobStream) -> Result<(), Error> {
        self.writes.answer(WHAT)
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        self.inner.lease(digests).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        self.inner.resolve(function, hash).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.inner.read_batch(digests).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        blobs.iter().map(|_| self.writes.answer(WHAT)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::{one_chunk, read_whole};
    use crate::media::memory_blob_store::MemoryBlobStore;
    use crate::testing::sha256;

    #[tokio::test]
    async fn reads_pass_and_no_write_does() {
        let inner = Arc::new(MemoryBlobStore::default());
        let there = sha256(b"there");
        inner.write(there, one_chunk("there".into())).await.unwrap();
        let new = sha256(b"new");
        for (writes, refused) in [(Writes::Refuse, true), (Writes::Ignore, false)] {
            let store = ReadOnlyBlobStore::new(Arc::clone(&inner) as Arc<dyn BlobStore>, writes);
            assert_eq!(read_whole(&store, there).await.unwrap(), "there");
            assert_eq!(store.read_batch(&[there]).await.remove(0).unwrap(), "there");
            let written = store.write(new, one_chunk("new".into())).await;
            assert_eq!(matches!(written, Err(Error::ReadOnly(_))), refused, "{written:?}");
            let written = store.write_batch(vec![(new, "new".into())]).await.remove(0);
            assert_eq!(written.is_err(), refused, "{written:?}");
            assert_eq!(store.find_missing(&[there, new]).await.unwrap(), [new]);
        }
    }
}
